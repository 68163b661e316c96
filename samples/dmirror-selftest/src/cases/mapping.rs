// SPDX-License-Identifier: GPL-2.0

//! What a program does to mappings whose pages are on the device: mprotect,
//! munmap, mremap, madvise.

use dmirror_client::device::{Buffer, Command};

use crate::prelude::*;

cases! { "mapping":
    read_only_before = "Memory that is read-only goes out and comes back, and stays read-only.",
    read_only_after = "Memory made read-only while it is on the device still comes back, by command and by fault.",
    writable_again = "Memory made writable again while it is on the device takes writes.",
    inaccessible = "Memory without access is refused with EINVAL, wherever its pages are, and keeps its data.",
    unmapped_part = "Unmapping a part of resident memory leaves the rest of it right.",
    unmapped_all = "Unmapping resident memory gives the addresses back as new, zeroed memory.",
    moved = "Resident memory that mremap moves keeps its data, on the device and back.",
    dontneed = "MADV_DONTNEED of resident pages drops them: they read as zero.",
    free = "MADV_FREE of resident pages leaves each page whole, or zero, and takes new data.",
    split_by_mprotect = "A range that mprotect has cut into many mappings comes back whole.",
}

const PAGES: usize = 48;

/// Checks that a write by a child process ends with SIGSEGV.
fn write_is_refused(memory: &Memory, page: usize) -> Result<()> {
    let child = helper(|| {
        memory.region.store(page * Region::words_per_page(), 0);
        bail!("the write was not refused")
    })?;
    equal(
        "a write to read-only memory",
        child.exit()?,
        Exit::Signal(Signal::SIGSEGV),
    )
}

fn read_only_before(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.region.protect(memory.all(), Protection::Read)?;
    memory.move_out(&device, memory.all())?;
    write_is_refused(&memory, 3)?;
    memory.verify(0..10)?;
    memory.move_out(&device, memory.all())?;
    memory.move_back(&device, memory.all(), PAGES)?;
    write_is_refused(&memory, 3)?;
    memory.verify(memory.all())
}

fn read_only_after(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    memory.region.protect(memory.all(), Protection::Read)?;
    memory.move_out(&device, 0..PAGES)?; // they are there: they stay, and are seen
    memory.verify(0..10)?;
    memory.expect("after reading", 0..10, Where::System)?;
    write_is_refused(&memory, 5)?;
    memory.move_back(&device, memory.all(), PAGES - 10)?;
    write_is_refused(&memory, 20)?;
    memory.verify(memory.all())
}

fn writable_again(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.region.protect(memory.all(), Protection::Read)?;
    memory.move_out(&device, memory.all())?;
    memory.region.protect(memory.all(), Protection::ReadWrite)?;
    memory.refill(2);
    memory.verify(memory.all())?;

    memory.move_out(&device, memory.all())?;
    memory.region.protect(memory.all(), Protection::Read)?;
    memory.region.protect(memory.all(), Protection::ReadWrite)?;
    memory.refill(3);
    memory.verify(memory.all())
}

fn inaccessible(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, 0..24)?;
    memory.region.protect(memory.all(), Protection::None)?;
    let mut view = vec![0; memory.region.len()];
    let range = memory.region.range();
    fails(
        "MIGRATE_TO_DEV",
        device.migrate_to_device(range, &mut view),
        Errno::EINVAL,
    )?;
    fails(
        "MIGRATE_TO_SYS",
        device.migrate_to_system(range),
        Errno::EINVAL,
    )?;
    memory.expect("pages that were on the device", 0..24, Where::Device)?;
    memory.region.protect(memory.all(), Protection::ReadWrite)?;
    memory.verify(memory.all())
}

fn unmapped_part(device: Device) -> Result<()> {
    let mut head = Memory::new(PAGES)?;
    head.move_out(&device, head.all())?;
    let data = head.data();
    let mut middle = head.region.split_off(16);
    let tail = middle.split_off(16);
    drop(middle);

    all_at("the head", head.region.range(), Where::Device)?;
    all_at("the tail", tail.range(), Where::Device)?;
    let whole = PageRange::new(head.region.addr(), PAGES as u64)?;
    fails(
        "MIGRATE_TO_SYS over the hole",
        device.migrate_to_system(whole),
        Errno::EINVAL,
    )?;
    data.check(&head.region, 0..16)?;
    data.from_page(32).check(&tail, 0..16)?;
    Ok(())
}

fn unmapped_all(device: Device) -> Result<()> {
    for _ in 0..20 {
        let memory = Memory::new(PAGES)?;
        memory.move_out(&device, memory.all())?;
        drop(memory);
        let fresh = Region::options(PAGES).huge(false).map()?;
        ensure!(fresh.is_zero(0..PAGES), "fresh memory is not zero");
    }
    Ok(())
}

fn moved(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    let old = memory.region.range();
    let data = memory.data();
    let region = memory.region.relocate()?;
    all_at("after mremap", region.range(), Where::Device)?;
    fails(
        "MIGRATE_TO_SYS at the old place",
        device.migrate_to_system(old),
        Errno::EINVAL,
    )?;

    data.check(&region, 0..8)?;
    let mut view = vec![0; region.len()];
    let counts = device.migrate_to_device(region.range(), &mut view)?;
    equal("pages seen by the device", counts.pages, PAGES as u64)?;
    data.check_bytes(&view, 0)?;

    let region = region.relocate()?;
    let counts = device.migrate_to_system(region.range())?;
    equal("pages moved back", counts.pages, PAGES as u64)?;
    data.check(&region, 0..PAGES)?;
    Ok(())
}

fn dontneed(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    memory.region.advise(8..40, Advice::DontNeed)?;
    memory.expect("dropped pages", 8..40, Where::Nowhere)?;
    memory.expect("the others", 0..8, Where::Device)?;
    ensure!(
        memory.region.is_zero(8..40),
        "dropped pages do not read as zero"
    );
    memory.verify(0..8)?;
    memory.verify(40..PAGES)?;
    memory.refill(2);
    memory.move_out(&device, memory.all())?;
    memory.verify(memory.all())
}

fn free(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    memory.region.advise(8..40, Advice::Free)?;
    for page in 8..40 {
        ensure!(
            memory.region.is_zero(page..page + 1) || memory.verify(page..page + 1).is_ok(),
            "page {page} is neither whole nor zero after MADV_FREE"
        );
    }
    memory.verify(0..8)?;
    memory.verify(40..PAGES)?;
    memory.refill(2);
    memory.move_out(&device, memory.all())?;
    memory.verify(memory.all())
}

fn split_by_mprotect(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    for page in (0..PAGES).step_by(2) {
        memory.region.protect(page..page + 1, Protection::Read)?;
    }
    let range = memory.region.range();
    let counts = device.call(
        Command::MigrateToSystem,
        range.addr(),
        range.pages(),
        Buffer::Null,
    )?;
    equal("pages moved back", counts.pages, PAGES as u64)?;
    equal(
        "pages in system memory",
        Survey::of(range)?.in_system(),
        PAGES,
    )?;
    memory.verify(memory.all())
}
