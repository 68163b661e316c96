// SPDX-License-Identifier: GPL-2.0

//! Changes of mappings whose pages are on the device: mprotect, munmap, mremap, madvise.

use dmirror_client::device::{Buffer, Command};

use crate::prelude::*;
use crate::steps::{ALL, Verb::*, Who::*, steps};

cases! { "mapping":
    read_only_before = "Memory that is read-only goes out and comes back, and stays read-only."
        => kept(in_system(PAGES), read_only_before),
    read_only_after = "Memory made read-only while it is on the device still comes back, by command and by fault."
        => kept(on_device(PAGES), read_only_after),
    writable_again = "Memory made writable again while it is on the device takes writes."
        => steps(|| Memory::new(PAGES), [
            (Cpu, Protects(ALL, Protection::Read)), (A, Out(ALL)),
            (Cpu, Protects(ALL, Protection::ReadWrite)), (Cpu, Writes), (Cpu, Reads(ALL)),
            (A, Out(ALL)), (Cpu, Protects(ALL, Protection::Read)),
            (Cpu, Protects(ALL, Protection::ReadWrite)), (Cpu, Writes), (Cpu, Reads(ALL)),
        ]),
    inaccessible = "Memory without access is refused with EINVAL, wherever its pages are, and keeps its data."
        => kept(in_system(PAGES), inaccessible),
    unmapped_part = "Unmapping a part of resident memory leaves the rest of it right.",
    unmapped_all = "Unmapping resident memory gives the addresses back as new, zeroed memory.",
    moved = "Resident memory that mremap moves keeps its data, on the device and back.",
    dontneed = "MADV_DONTNEED of resident pages drops them: they read as zero."
        => resident(PAGES, dontneed),
    free = "MADV_FREE of resident pages leaves each page whole, or zero, and takes new data."
        => resident(PAGES, free),
    split_by_mprotect = "A range that mprotect has cut into many mappings comes back whole."
        => kept(on_device(PAGES), split_by_mprotect),
}

const PAGES: usize = 48;

fn write_is_refused(memory: &Memory, page: usize) -> Result<()> {
    segfaults(|| memory.region.store(page * Region::words_per_page(), 0))
}

fn read_only_before(device: &Device, memory: &Memory) -> Result<()> {
    memory.region.protect(memory.all(), Protection::Read)?;
    memory.out(device)?;
    write_is_refused(memory, 3)?;
    memory.verify(0..10)?;
    memory.out(device)?;
    memory.move_back(device, memory.all(), PAGES)?;
    write_is_refused(memory, 3)
}

fn read_only_after(device: &Device, memory: &Memory) -> Result<()> {
    memory.region.protect(memory.all(), Protection::Read)?;
    memory.out(device)?; // they are there: they stay, and are seen
    memory.verify(0..10)?;
    memory.expect("after reading", 0..10, Where::System)?;
    write_is_refused(memory, 5)?;
    memory.move_back(device, memory.all(), PAGES - 10)?;
    write_is_refused(memory, 20)
}

fn inaccessible(device: &Device, memory: &Memory) -> Result<()> {
    memory.move_out(device, 0..24)?;
    memory.region.protect(memory.all(), Protection::None)?;
    fails("MIGRATE_TO_DEV", memory.try_out(device), Errno::EINVAL)?;
    let back = device.migrate_to_system(memory.region.range());
    fails("MIGRATE_TO_SYS", back, Errno::EINVAL)?;
    memory.expect("resident pages", 0..24, Where::Device)?;
    Ok(memory.region.protect(memory.all(), Protection::ReadWrite)?)
}

fn unmapped_part(device: Device) -> Result<()> {
    let mut head = Memory::resident(&device, PAGES)?;
    let whole = head.region.range();
    let mut middle = head.split_off(16);
    let tail = middle.split_off(16);
    drop(middle);

    head.expect("the head", head.all(), Where::Device)?;
    tail.expect("the tail", tail.all(), Where::Device)?;
    let answer = device.migrate_to_system(whole);
    fails("MIGRATE_TO_SYS over the hole", answer, Errno::EINVAL)?;
    head.intact()?;
    tail.intact()
}

fn unmapped_all(device: Device) -> Result<()> {
    for _ in 0..20 {
        drop(Memory::resident(&device, PAGES)?);
        let fresh = Memory::untouched(PAGES)?;
        fresh.is_zero(0..PAGES).context("fresh memory")?;
    }
    Ok(())
}

fn moved(device: Device) -> Result<()> {
    let memory = Memory::resident(&device, PAGES)?;
    let old = memory.region.range();
    let memory = memory.relocated()?;
    memory.expect("after mremap", memory.all(), Where::Device)?;
    let answer = device.migrate_to_system(old);
    fails("MIGRATE_TO_SYS at the old place", answer, Errno::EINVAL)?;

    memory.verify(0..8)?;
    memory.out(&device)?;
    let memory = memory.relocated()?;
    memory.move_back(&device, memory.all(), PAGES)?;
    memory.intact()
}

/// Checks that all pages except 8 to 39 are whole, and that all of the memory takes new data.
fn others_are_whole(device: &Device, memory: &Memory) -> Result<()> {
    memory.verify(0..8)?;
    memory.verify(40..PAGES)?;
    memory.refill(2);
    memory.out_and_read(device)
}

fn dontneed(device: &Device, memory: &Memory) -> Result<()> {
    memory.region.advise(8..40, Advice::DontNeed)?;
    memory.only(8..40, Where::Nowhere, Where::Device)?;
    memory.is_zero(8..40).context("dropped pages")?;
    others_are_whole(device, memory)
}

fn free(device: &Device, memory: &Memory) -> Result<()> {
    memory.region.advise(8..40, Advice::Free)?;
    for page in 8..40 {
        let pages = page..page + 1;
        let right = memory.region.is_zero(pages.clone()) || memory.verify(pages).is_ok();
        ensure!(right, "page {page} is neither whole nor zero");
    }
    others_are_whole(device, memory)
}

fn split_by_mprotect(device: &Device, memory: &Memory) -> Result<()> {
    for page in (0..PAGES).step_by(2) {
        memory.region.protect(page..page + 1, Protection::Read)?;
    }
    let range = memory.region.range();
    let (addr, pages) = (range.addr(), range.pages());
    let counts = device.call(Command::MigrateToSystem, addr, pages, Buffer::Null)?;
    equal("pages moved back", counts.pages, pages)?;
    let back = Survey::of(range)?.in_system();
    equal("pages in system memory", back, PAGES)
}
