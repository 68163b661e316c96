// SPDX-License-Identifier: GPL-2.0

//! RELEASE: everything on the device comes back, whoever owns it.

use dmirror_client::Command;
use dmirror_client::device::Buffer;

use super::huge::huge_out;
use crate::prelude::*;

cases! { "release":
    all_back = "Everything on the device comes back and is counted; the device is used again.",
    nothing_there = "RELEASE of a device with nothing on it succeeds with no page.",
    needs_no_range = "RELEASE looks at neither address nor length.",
    other_processes = "Pages of other processes come back, too, and keep their data.",
    shared_by_fork = "Pages that processes share come back once, to all of them."
        => resident(PAGES, shared_by_fork),
    shared_in_parts = "Pages that were shared, and of which each of many processes has kept others, all come back.",
    huge_pages = "Huge pages come back, all their pages.",
    split_huge_pages = "Huge pages that were cut on the device come back page by page.",
    of_any_protection = "Pages of memory that is read-only, or without access by now, come back."
        => resident(PAGES, of_any_protection),
    other_device_keeps_its_pages = "RELEASE of one device leaves the pages of another where they are.",
    device_reads_afterwards = "After RELEASE the device sees the pages where they are now.",
    frees_the_memory = "After RELEASE all memory of the device is free.",
    unmapped_before = "Pages that were unmapped are not counted."
        => kept(on_device(PAGES), unmapped_before),
}

const PAGES: usize = 40;

/// Checks that RELEASE brings back `pages` pages.
fn releases(device: &Device, pages: usize) -> Result<()> {
    equal("pages released", device.release()?.pages, pages as u64)
}

/// Checks that RELEASE brings back `pages` pages, and that all of `memory` is in system memory
/// then.
fn brings_back(device: &Device, pages: usize, memory: &Memory) -> Result<()> {
    releases(device, pages)?;
    memory.expect("after RELEASE", memory.all(), Where::System)
}

fn all_back(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    for round in 2..6 {
        memory.move_out(&device, 3..PAGES)?;
        brings_back(&device, PAGES - 3, &memory)?;
        memory.intact()?;
        memory.refill(round);
    }
    Ok(())
}

fn nothing_there(device: Device) -> Result<()> {
    releases(&device, 0)?;
    Memory::new(PAGES)?.out_and_read(&device)?;
    releases(&device, 0)?;
    releases(&device, 0)
}

fn needs_no_range(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    for (addr, pages) in [(0, 0), (123, 0), (u64::MAX, u64::MAX)] {
        memory.out(&device)?;
        let answer = device.call(Command::Release, addr, pages, Buffer::Null)?;
        equal("pages released", answer.pages, PAGES as u64)?;
        memory.expect("after RELEASE", memory.all(), Where::System)?;
    }
    memory.intact()
}

fn other_processes(context: &Context) -> Result<()> {
    let device = context.open()?;
    let (moved, released) = (Gate::new()?, Gate::new()?);
    let memory = Memory::new(PAGES)?;
    let child = helper(|| {
        let own = context.open()?;
        let other = Memory::resident(&own, PAGES)?;
        moved.open()?;
        released.wait()?;
        other.expect("in another process", other.all(), Where::System)?;
        other.intact()?;
        other.out_and_read(&own)
    })?;
    moved.wait()?;
    memory.move_out(&device, 0..10)?;
    releases(&device, PAGES + 10)?;
    released.open()?;
    memory.survives(child)
}

fn shared_by_fork(device: &Device, memory: &Memory) -> Result<()> {
    let released = Gate::new()?;
    let child = helper(|| {
        released.wait()?;
        memory.expect("in the child", memory.all(), Where::System)?;
        memory.intact()?;
        memory.rewrite(2)
    })?;
    brings_back(device, PAGES, memory)?;
    released.open()?;
    memory.survives(child)
}

fn shared_in_parts(context: &Context) -> Result<()> {
    const PROCESSES: usize = 40;
    const PART: usize = 12;
    let device = context.open()?;
    let memory = Memory::resident(&device, PROCESSES * PART)?;
    let (dropped, released) = (Gate::new()?, Gate::new()?);
    let child = |nth| {
        helper(|| {
            let part = nth * PART..(nth + 1) * PART;
            for others in memory.around(&part) {
                memory.region.advise(others, Advice::DontNeed)?;
            }
            dropped.open()?;
            released.wait()?;
            memory.expect("of a part", part.clone(), Where::System)?;
            memory.verify(part)
        })
    };
    let children: Vec<Helper> = (0..PROCESSES).map(child).collect::<Result<_>>()?;
    memory.region.advise(memory.all(), Advice::DontNeed)?;
    children.iter().try_for_each(|_| dropped.wait())?;
    releases(&device, PROCESSES * PART)?;
    children.iter().try_for_each(|_| released.open())?;
    children.into_iter().try_for_each(Helper::join)
}

fn huge_pages(device: Device) -> Result<()> {
    let memory = huge_out(&device, 2)?;
    let small = Memory::resident(&device, PAGES)?;
    brings_back(&device, memory.region.pages() + PAGES, &memory)?;
    memory.intact()?;
    small.intact()?;
    memory.out_and_read(&device)
}

fn split_huge_pages(device: Device) -> Result<()> {
    let mut memory = huge_out(&device, 2)?;
    memory.verify(7..8)?; // back by a fault: part of it, or all
    let second = hpage_pmd_nr();
    memory
        .region
        .protect(second + 88..second + 188, Protection::Read)?;
    let left = memory.on_device()?;
    let gone = 24;
    drop(memory.split_off(2 * second - gone));
    // The rest of a huge page that was split may come back whole.
    let back = device.release()?.pages as usize;
    let expected = left - gone..=left;
    ensure!(expected.contains(&back), "{back} pages released of {left}");
    memory.expect("after RELEASE", memory.all(), Where::System)?;
    memory.intact()
}

fn of_any_protection(device: &Device, memory: &Memory) -> Result<()> {
    memory.region.protect(0..10, Protection::Read)?;
    memory.region.protect(10..20, Protection::None)?;
    releases(device, PAGES)?;
    memory.expect("after RELEASE", 0..10, Where::System)?;
    memory.region.protect(0..20, Protection::ReadWrite)?;
    memory.intact()?;
    memory.device_sees(device, 2)
}

fn other_device_keeps_its_pages(first: Device, second: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&first, 0..10)?;
    memory.move_out(&second, 10..PAGES)?;
    releases(&first, 10)?;
    memory.only(0..10, Where::System, Where::Device)?;
    memory.intact()
}

fn device_reads_afterwards(context: &Context) -> Result<()> {
    let (device, other) = (context.open()?, context.open()?);
    let memory = Memory::resident(&device, PAGES)?;
    memory.reads(&other)?;
    memory.device_refills(&device, 2)?;
    releases(&other, PAGES)?;
    memory.reads(&device)?;
    memory.device_sees(&device, 3)?;
    memory.reads_at(&other, Where::System)
}

fn frees_the_memory(device: Device) -> Result<()> {
    let Some(empty) = device.room()? else {
        return skip("this module does not say what is free");
    };
    let _huge = huge_out(&device, 1)?;
    let _small = Memory::resident(&device, PAGES)?;
    device.release()?;
    let room = device.room()?.unwrap_or(empty);
    equal("free pages", room.free_pages, room.pages)?;
    equal("free blocks", room.free_blocks, room.blocks)
}

fn unmapped_before(device: &Device, _: &Memory) -> Result<()> {
    let gone = Memory::untouched(PAGES)?;
    gone.view(device, gone.all())?;
    drop(gone);
    releases(device, PAGES)
}
