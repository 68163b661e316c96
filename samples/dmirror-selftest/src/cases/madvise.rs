// SPDX-License-Identifier: GPL-2.0

//! madvise(2) over pages on the device, beyond DONTNEED and FREE, and what
//! khugepaged makes of such pages.

use crate::daemon::Daemon;
use crate::prelude::*;
use crate::swapping::swap_on;

cases! { "madvise":
    dontneed_frees_device_memory = "MADV_DONTNEED of resident pages gives their device memory back.",
    will_need_and_cold = "MADV_WILLNEED and MADV_COLD leave resident pages on the device.",
    populate_read = "MADV_POPULATE_READ over resident pages and holes makes all of it readable, and keeps the data.",
    populate_write = "MADV_POPULATE_WRITE brings resident pages back.",
    dont_fork = "MADV_DONTFORK keeps resident pages from a child, and they stay where they are.",
    wipe_on_fork = "MADV_WIPEONFORK shows a child zeroes, and leaves its parent's resident pages alone.",
    collapse_resident = "MADV_COLLAPSE of resident pages makes a huge page of them or refuses, and keeps the data.",
    collapse_mixed = "MADV_COLLAPSE over pages on the device, in system memory and nowhere keeps each one's data.",
    collapsed_and_out = "A huge page made by MADV_COLLAPSE goes out, comes back, and is made one again.",
    huge_page_daemon = "khugepaged leaves a range on the device alone, and brings no data to harm in a mixed one.",
    huge_advice = "MADV_HUGEPAGE and MADV_NOHUGEPAGE around resident pages leave them where they are.",
    free_and_written_again = "Pages that were written after MADV_FREE are not dropped, wherever they have been.",
    free_and_written_by_device = "Pages that the device wrote after MADV_FREE are not dropped, wherever they have been.",
    free_on_another_cpu = "Pages that another CPU has just given up by MADV_FREE, and keeps a note of, go to the device.",
    dontneed_during_migration = "Pages that are dropped while they move read as zero or as they were, and as zero in the end.",
}

const PAGES: usize = 32;
const HUGE_PAGES: usize = HUGE / 4096;

fn dontneed_frees_device_memory(device: Device) -> Result<()> {
    let before = Before::of(&device)?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    memory.region.advise(memory.all(), Advice::DontNeed)?;
    before.nothing_is_left(&device)
}

fn will_need_and_cold(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    for advice in [Advice::WillNeed, Advice::Cold, Advice::PageOut] {
        match memory.region.advise(memory.all(), advice) {
            // Without swap there is nothing to page out to.
            Err(error) if error.raw_os_error() != Some(Errno::EINVAL as i32) => {
                return Err(error).context(format!("{advice:?}"));
            }
            _ => memory.expect(&format!("{advice:?}"), memory.all(), Where::Device)?,
        }
    }
    memory.verify(memory.all())
}

fn populate_read(device: Device) -> Result<()> {
    let memory = Memory::untouched(PAGES)?;
    memory.fill(0..PAGES / 2);
    memory.move_out(&device, 0..PAGES / 2)?;
    memory.region.advise(memory.all(), Advice::PopulateRead)?;
    memory.expect("after MADV_POPULATE_READ", memory.all(), Where::System)?;
    memory.verify(0..PAGES / 2)?;
    ensure!(
        memory.region.is_zero(PAGES / 2..PAGES),
        "a hole is not zero"
    );
    Ok(())
}

fn populate_write(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    memory.region.advise(8..24, Advice::PopulateWrite)?;
    memory.expect("before the range", 0..8, Where::Device)?;
    memory.expect("the range", 8..24, Where::System)?;
    memory.expect("behind the range", 24..PAGES, Where::Device)?;
    memory.verify(memory.all())
}

fn dont_fork(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    memory.region.advise(memory.all(), Advice::DontFork)?;
    helper(|| {
        let own = context.open()?;
        let mut view = vec![0; memory.region.len()];
        fails(
            "MIGRATE_TO_DEV of what was not inherited",
            own.migrate_to_device(memory.region.range(), &mut view),
            Errno::EINVAL,
        )
    })?
    .join()?;
    let exit = helper(|| {
        memory.region.touch(0);
        Ok(())
    })?
    .exit()?;
    equal(
        "end of a child that reads",
        exit,
        Exit::Signal(Signal::SIGSEGV),
    )?;
    memory.expect("after two children", memory.all(), Where::Device)?;
    memory.region.advise(memory.all(), Advice::DoFork)?;
    helper(|| memory.verify(memory.all()))?.join()?;
    memory.verify(memory.all())
}

fn wipe_on_fork(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    memory.region.advise(memory.all(), Advice::WipeOnFork)?;
    helper(|| {
        ensure!(
            memory.region.is_zero(0..PAGES / 2),
            "the child reads no zeroes"
        );
        memory.refill(2);
        memory.move_out(&context.open()?, memory.all())?;
        memory.verify(memory.all())
    })?
    .join()?;
    memory.expect("after a child", memory.all(), Where::Device)?;
    memory.verify(memory.all())
}

/// 2 MiB that may become a huge page, in small pages.
fn collapsible() -> Result<Memory> {
    let memory = Memory::new(HUGE_PAGES)?;
    memory.region.advise(memory.all(), Advice::Huge)?;
    Ok(memory)
}

/// Asks for a huge page; says whether there is one.
fn collapse(memory: &Memory) -> Result<bool> {
    match memory.region.advise(memory.all(), Advice::Collapse) {
        Ok(()) => {
            memory.is_huge()?;
            Ok(true)
        }
        Err(error) => {
            println!("MADV_COLLAPSE: {error}");
            let refused = [Errno::EAGAIN, Errno::EBUSY, Errno::EINVAL, Errno::ENOMEM];
            ensure!(
                refused
                    .iter()
                    .any(|errno| error.raw_os_error() == Some(*errno as i32)),
                "MADV_COLLAPSE: {error}"
            );
            Ok(false)
        }
    }
}

fn collapse_resident(device: Device) -> Result<()> {
    let before = Before::of(&device)?;
    let memory = collapsible()?;
    memory.move_out(&device, memory.all())?;
    let collapsed = collapse(&memory)?;
    println!("collapsed: {collapsed}");
    memory.verify(memory.all())?;
    drop(memory);
    before.nothing_is_left(&device)
}

fn collapse_mixed(device: Device) -> Result<()> {
    let memory = Memory::of(Region::options(HUGE_PAGES).align(HUGE).huge(false).map()?);
    let (full, half) = (0..HUGE_PAGES / 2, HUGE_PAGES / 4);
    memory.fill(full.clone());
    memory.move_out(&device, half..half + 40)?;
    memory.region.advise(memory.all(), Advice::Huge)?;
    println!("collapsed: {}", collapse(&memory)?);
    memory.verify(full.clone())?;
    ensure!(
        memory.region.is_zero(full.end..HUGE_PAGES),
        "what was never written is not zero"
    );
    Ok(())
}

fn collapsed_and_out(device: Device) -> Result<()> {
    let memory = collapsible()?;
    if !collapse(&memory)? {
        return skip("the kernel makes no huge page here");
    }
    memory.move_out(&device, memory.all())?;
    // The page is mapped by one entry, so one touch brings all of it back.
    memory.verify(0..16)?;
    memory.expect("after a touch", memory.all(), Where::System)?;
    memory.move_out(&device, memory.all())?;
    memory.move_back(&device, 16..HUGE_PAGES, HUGE_PAGES - 16)?;
    memory.verify(memory.all())?;
    ensure!(
        collapse(&memory)?,
        "what came back was not made one huge page"
    );
    memory.move_out(&device, memory.all())?;
    memory.verify(memory.all())
}

fn huge_page_daemon(device: Device) -> Result<()> {
    let resident = collapsible()?;
    let mixed = collapsible()?;
    resident.move_out(&device, resident.all())?;
    mixed.move_out(&device, 100..120)?;
    let daemon = Daemon::khugepaged(&[("scan_sleep_millisecs", "1"), ("pages_to_scan", "40960")])?;
    daemon.wait(3)?;
    resident.expect("after khugepaged's scans", resident.all(), Where::Device)?;
    println!(
        "of the mixed range {} pages are on the device",
        Survey::of(mixed.region.range())?.on_device()
    );
    mixed.verify(mixed.all())?;
    resident.verify(resident.all())
}

fn huge_advice(device: Device) -> Result<()> {
    let memory = Memory::new(HUGE_PAGES)?;
    memory.move_out(&device, memory.all())?;
    memory.region.advise(100..200, Advice::Huge)?;
    memory.region.advise(memory.all(), Advice::Huge)?;
    memory.region.advise(150..160, Advice::NoHuge)?;
    memory.expect("after all advice", memory.all(), Where::Device)?;
    memory.verify(memory.all())?;
    memory.move_out(&device, memory.all())?;
    memory.verify(memory.all())
}

fn free_and_written_again(context: &Context) -> Result<()> {
    let _swap = swap_on()?;
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    memory.region.advise(memory.all(), Advice::Free)?;
    memory.refill(2);
    memory.move_out(&device, memory.all())?;
    memory.move_back(&device, memory.all(), PAGES)?;
    memory.region.advise(memory.all(), Advice::PageOut)?;
    memory
        .verify(memory.all())
        .context("written before they moved")?;

    memory.region.advise(memory.all(), Advice::Free)?;
    memory
        .move_out(&device, memory.all())
        .or_else(|error| match memory.region.is_zero(0..1) {
            true => skip("the kernel dropped the pages at once"),
            false => Err(error),
        })?;
    memory.refill(3);
    memory.region.advise(memory.all(), Advice::PageOut)?;
    memory
        .verify(memory.all())
        .context("written after they moved")
}

fn free_and_written_by_device(context: &Context) -> Result<()> {
    let _swap = swap_on()?;
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    memory.region.advise(memory.all(), Advice::Free)?;
    memory.device_refills(&device, 2)?;
    memory.region.advise(memory.all(), Advice::PageOut)?;
    memory
        .verify(memory.all())
        .context("written in system memory")?;

    memory.refill(3);
    memory.region.advise(memory.all(), Advice::Free)?;
    memory.move_out(&device, memory.all())?;
    memory.device_refills(&device, 4)?;
    memory.move_back(&device, memory.all(), PAGES)?;
    memory.region.advise(memory.all(), Advice::PageOut)?;
    memory.verify(memory.all()).context("written on the device")
}

fn dontneed_during_migration(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let region = &memory.region;
    for round in 2..20 {
        memory.refill(round);
        thread::scope(|scope| {
            let dropper = scope.spawn(|| region.advise(0..PAGES, Advice::DontNeed));
            let mut view = vec![0; PAGES * page_size()];
            unless_held(device.migrate_to_device(region.range(), &mut view))?;
            // Dropped at any moment, also between two words.
            let words = Region::words_per_page();
            for index in 0..PAGES * words {
                let (seen, data) = (region.load(index), memory.data());
                let (page, word) = (index / words, index % words);
                ensure!(
                    seen == 0 || seen == data.word(page, word),
                    "page {page}, word {word} is neither right nor zero: {seen:#x}"
                );
            }
            unless_held(device.migrate_to_system(region.range()))?;
            joined(dropper)
        })?;
        region.advise(0..PAGES, Advice::DontNeed)?;
        ensure!(
            region.is_zero(0..PAGES),
            "dropped pages do not read as zero"
        );
    }
    Ok(())
}

fn free_on_another_cpu(context: &Context) -> Result<()> {
    let [own, other] = two_cpus()?;
    let device = context.open()?;
    stay_on(own)?;
    let memory = Memory::new(8)?;
    let region = &memory.region;
    // From now on mm has them in its lists, and not in a batch of this CPU.
    region.advise(memory.all(), Advice::Cold)?;
    thread::scope(|scope| {
        joined(scope.spawn(|| {
            stay_on(other)?;
            anyhow::Ok(region.advise(0..region.pages(), Advice::Free)?)
        }))
    })?;
    memory.move_out(&device, memory.all())
}
