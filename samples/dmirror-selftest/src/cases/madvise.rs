// SPDX-License-Identifier: GPL-2.0

//! madvise(2) over pages on the device, beyond DONTNEED and FREE, and the work of khugepaged on
//! such pages.

use std::io;

use super::swap::swapping;
use crate::daemon::Daemon;
use crate::prelude::*;
use crate::steps::{ALL, Verb::*, Who::*, steps};

cases! { "madvise":
    dontneed_frees_device_memory = "MADV_DONTNEED of resident pages gives their device memory back."
        => steps(|| Memory::new(PAGES), [
            (A, Out(ALL)), (Cpu, Advises(ALL, Advice::DontNeed)), (A, HasRoom),
        ]),
    will_need_and_cold = "MADV_WILLNEED and MADV_COLD leave resident pages on the device."
        => resident(PAGES, will_need_and_cold),
    populate_read = "MADV_POPULATE_READ over resident pages and holes makes all of it readable, and keeps the data.",
    populate_write = "MADV_POPULATE_WRITE brings resident pages back."
        => steps(|| Memory::new(PAGES), [
            (A, Out(ALL)), (Cpu, Advises(8..24, Advice::PopulateWrite)),
            (Cpu, Finds(0..8, Where::Device)), (Cpu, Finds(8..24, Where::System)),
            (Cpu, Finds(24..PAGES, Where::Device)), (Cpu, Reads(ALL)),
        ]),
    dont_fork = "MADV_DONTFORK keeps resident pages from a child, and they stay where they are.",
    wipe_on_fork = "MADV_WIPEONFORK shows a child zeroes, and leaves its parent's resident pages alone.",
    collapse_resident = "MADV_COLLAPSE of resident pages makes a huge page of them or refuses, and keeps the data."
        => leaves_nothing(collapse_resident),
    collapse_mixed = "MADV_COLLAPSE over pages on the device, in system memory and nowhere keeps each one's data.",
    collapsed_and_out = "A huge page made by MADV_COLLAPSE goes out, comes back, and is made one again.",
    huge_page_daemon = "khugepaged leaves a range on the device alone, and brings no data to harm in a mixed one.",
    huge_advice = "MADV_HUGEPAGE and MADV_NOHUGEPAGE around resident pages leave them where they are."
        => steps(|| Memory::new(hpage_pmd_nr()), [
            (A, Out(ALL)), (Cpu, Advises(100..200, Advice::Huge)),
            (Cpu, Advises(ALL, Advice::Huge)), (Cpu, Advises(150..160, Advice::NoHuge)),
            (Cpu, Finds(ALL, Where::Device)), (Cpu, Reads(ALL)), (A, Out(ALL)), (Cpu, Reads(ALL)),
        ]),
    free_and_written_again = "Pages that were written after MADV_FREE are not dropped, wherever they have been."
        => swapping(PAGES, free_and_written_again),
    free_and_written_by_device = "Pages that the device wrote after MADV_FREE are not dropped, wherever they have been."
        => swapping(PAGES, free_and_written_by_device),
    free_on_another_cpu = "Pages that another CPU has just given up by MADV_FREE, and keeps a note of, go to the device.",
    dontneed_during_migration = "Pages that are dropped while they move read as zero or as they were, and as zero in the end.",
}

const PAGES: usize = 32;

fn will_need_and_cold(_: &Device, memory: &Memory) -> Result<()> {
    for advice in [Advice::WillNeed, Advice::Cold, Advice::PageOut] {
        match memory.region.advise(memory.all(), advice) {
            // Without swap there is nothing to page out to.
            Err(error) if error.raw_os_error() != Some(Errno::EINVAL as i32) => {
                return Err(error).context(format!("{advice:?}"));
            }
            _ => memory.expect(&format!("{advice:?}"), memory.all(), Where::Device)?,
        }
    }
    memory.intact()
}

fn populate_read(device: Device) -> Result<()> {
    let memory = Memory::untouched(PAGES)?;
    memory.fill(0..PAGES / 2);
    memory.move_out(&device, 0..PAGES / 2)?;
    memory.region.advise(memory.all(), Advice::PopulateRead)?;
    memory.expect("after MADV_POPULATE_READ", memory.all(), Where::System)?;
    memory.verify(0..PAGES / 2)?;
    memory.is_zero(PAGES / 2..PAGES).context("a hole")
}

fn dont_fork(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = Memory::resident(&device, PAGES)?;
    memory.region.advise(memory.all(), Advice::DontFork)?;
    in_child(|| {
        let answer = memory.try_out(&context.open()?);
        fails("MIGRATE_TO_DEV of nothing", answer, Errno::EINVAL)
    })?;
    segfaults(|| _ = memory.region.touch(0))?;
    memory.expect("after two children", memory.all(), Where::Device)?;
    memory.region.advise(memory.all(), Advice::DoFork)?;
    memory.survives(helper(|| memory.intact())?)
}

fn wipe_on_fork(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = Memory::resident(&device, PAGES)?;
    memory.region.advise(memory.all(), Advice::WipeOnFork)?;
    in_child(|| {
        memory.is_zero(0..PAGES / 2).context("in the child")?;
        memory.refill(2);
        memory.out_and_read(&context.open()?)
    })?;
    memory.expect("after a child", memory.all(), Where::Device)?;
    memory.intact()
}

/// Creates small pages that may become one huge page.
fn collapsible() -> Result<Memory> {
    let memory = Memory::new(hpage_pmd_nr())?;
    memory.region.advise(memory.all(), Advice::Huge)?;
    Ok(memory)
}

/// Asks for a huge page; returns whether there is one.
fn collapse(memory: &Memory) -> Result<bool> {
    // Pages that have just moved may be locked, or in a list of some CPU.
    let again = |error: &io::Error| error.raw_os_error() == Some(Errno::EAGAIN as i32);
    let mut answer = memory.region.advise(memory.all(), Advice::Collapse);
    for _ in 0..50 {
        if !answer.as_ref().is_err_and(again) {
            break;
        }
        thread::sleep(Duration::from_millis(10));
        answer = memory.region.advise(memory.all(), Advice::Collapse);
    }
    let Err(error) = answer else {
        return memory.is_huge().map(|()| true);
    };
    println!("MADV_COLLAPSE: {error}");
    let refused = [Errno::EAGAIN, Errno::EBUSY, Errno::EINVAL, Errno::ENOMEM];
    let refused = refused.map(|errno| Some(errno as i32));
    let allowed = refused.contains(&error.raw_os_error());
    ensure!(allowed, "MADV_COLLAPSE: {error}");
    Ok(false)
}

fn collapse_resident(device: &Device) -> Result<()> {
    let memory = collapsible()?;
    memory.out(device)?;
    println!("collapsed: {}", collapse(&memory)?);
    memory.intact()
}

fn collapse_mixed(device: Device) -> Result<()> {
    let memory = Memory::of(
        Region::options(hpage_pmd_nr())
            .align(hpage_pmd_size())
            .huge(false)
            .map()?,
    );
    let (full, half) = (0..hpage_pmd_nr() / 2, hpage_pmd_nr() / 4);
    memory.fill(full.clone());
    memory.move_out(&device, half..half + 40)?;
    memory.region.advise(memory.all(), Advice::Huge)?;
    println!("collapsed: {}", collapse(&memory)?);
    memory.verify(full.clone())?;
    let never_written = memory.is_zero(full.end..hpage_pmd_nr());
    never_written.context("what was never written")
}

fn collapsed_and_out(device: Device) -> Result<()> {
    let memory = collapsible()?;
    if !collapse(&memory)? {
        return skip("the kernel makes no huge page here");
    }
    memory.out(&device)?;
    // One entry maps the page, so one touch brings all of it back.
    memory.verify(0..16)?;
    memory.expect("after a touch", memory.all(), Where::System)?;
    memory.out(&device)?;
    memory.move_back(&device, 16..hpage_pmd_nr(), hpage_pmd_nr() - 16)?;
    memory.intact()?;
    let again = collapse(&memory)?;
    ensure!(again, "what came back was not made one huge page");
    memory.out_and_read(&device)
}

fn huge_page_daemon(device: Device) -> Result<()> {
    let (resident, mixed) = (collapsible()?, collapsible()?);
    resident.out(&device)?;
    mixed.move_out(&device, 100..120)?;
    let daemon = Daemon::khugepaged(&[("scan_sleep_millisecs", "1"), ("pages_to_scan", "40960")])?;
    daemon.wait(3)?;
    resident.expect("after khugepaged's scans", resident.all(), Where::Device)?;
    println!("of the mixed range {} are there", mixed.on_device()?);
    mixed.intact()?;
    resident.intact()
}

/// Asks the kernel to page the memory out, and reads it.
fn paged_out(memory: &Memory, what: &'static str) -> Result<()> {
    memory.region.advise(memory.all(), Advice::PageOut)?;
    memory.intact().context(what)
}

fn free_and_written_again(device: &Device, memory: &Memory) -> Result<()> {
    memory.region.advise(memory.all(), Advice::Free)?;
    memory.refill(2);
    memory.out(device)?;
    memory.move_back(device, memory.all(), PAGES)?;
    paged_out(memory, "written before they moved")?;

    memory.region.advise(memory.all(), Advice::Free)?;
    let moved = memory.out(device);
    if moved.is_err() && memory.region.is_zero(0..1) {
        return skip("the kernel dropped the pages at once");
    }
    moved?;
    memory.refill(3);
    paged_out(memory, "written after they moved")
}

fn free_and_written_by_device(device: &Device, memory: &Memory) -> Result<()> {
    memory.region.advise(memory.all(), Advice::Free)?;
    memory.device_refills(device, 2)?;
    paged_out(memory, "written in system memory")?;

    memory.refill(3);
    memory.region.advise(memory.all(), Advice::Free)?;
    memory.out(device)?;
    memory.device_refills(device, 4)?;
    memory.move_back(device, memory.all(), PAGES)?;
    paged_out(memory, "written on the device")
}

fn dontneed_during_migration(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let region = &memory.region;
    for round in 2..20 {
        memory.refill(round);
        thread::scope(|scope| {
            let dropper = scope.spawn(|| region.advise(0..PAGES, Advice::DontNeed));
            unless_held(memory.try_out(&device))?;
            // The pages are dropped at any moment, also between two words.
            let words = Region::words_per_page();
            for index in 0..PAGES * words {
                let (seen, page, word) = (region.load(index), index / words, index % words);
                let right = seen == 0 || seen == memory.data().word(page, word);
                ensure!(right, "page {page}, word {word}: seen {seen:#x}");
            }
            unless_held(device.migrate_to_system(region.range()))?;
            joined(dropper)
        })?;
        region.advise(0..PAGES, Advice::DontNeed)?;
        memory.is_zero(0..PAGES).context("dropped pages")?;
    }
    Ok(())
}

fn free_on_another_cpu(context: &Context) -> Result<()> {
    let [own, other] = two_cpus()?;
    let device = context.open()?;
    stay_on(own)?;
    let memory = Memory::new(8)?;
    let region = &memory.region;
    // This moves the pages from a batch of this CPU to the lists of mm.
    region.advise(memory.all(), Advice::Cold)?;
    let free = || Ok(region.advise(0..region.pages(), Advice::Free)?);
    on_cpu(other, free)?;
    memory.out(&device)
}
