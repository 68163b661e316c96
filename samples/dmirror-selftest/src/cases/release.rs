// SPDX-License-Identifier: GPL-2.0

//! RELEASE: everything on the device comes back, whoever owns it.

use dmirror_client::Command;
use dmirror_client::device::Buffer;

use super::huge;
use crate::prelude::*;

cases! { "release":
    all_back = "Everything on the device comes back and is counted; the device is used again.",
    nothing_there = "RELEASE of a device with nothing on it succeeds with no page.",
    needs_no_range = "RELEASE looks at neither address nor length.",
    other_processes = "Pages of other processes come back, too, and keep their data.",
    shared_by_fork = "Pages that processes share come back once, to all of them.",
    shared_in_parts = "Pages that were shared, and of which each of many processes has kept others, all come back.",
    huge_pages = "Huge pages come back, 512 pages each.",
    split_huge_pages = "Huge pages that were cut on the device come back page by page.",
    of_any_protection = "Pages of memory that is read-only, or without access by now, come back.",
    other_device_keeps_its_pages = "RELEASE of one device leaves the pages of another where they are.",
    device_reads_afterwards = "After RELEASE the device sees the pages where they are now.",
    frees_the_memory = "After RELEASE all memory of the device is free.",
    unmapped_before = "Pages that were unmapped are not counted.",
}

const PAGES: usize = 40;

fn all_back(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    for round in 2..6 {
        memory.move_out(&device, 3..PAGES)?;
        equal("pages released", device.release()?.pages, PAGES as u64 - 3)?;
        memory.expect("after RELEASE", memory.all(), Where::System)?;
        memory.verify(memory.all())?;
        memory.refill(round);
    }
    Ok(())
}

fn nothing_there(device: Device) -> Result<()> {
    equal("pages released", device.release()?.pages, 0)?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    memory.verify(memory.all())?;
    equal("pages released", device.release()?.pages, 0)?;
    equal("pages released", device.release()?.pages, 0)
}

fn needs_no_range(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    for (addr, pages) in [(0, 0), (123, 0), (u64::MAX, u64::MAX)] {
        memory.move_out(&device, memory.all())?;
        let answer = device.call(Command::Release, addr, pages, Buffer::Null)?;
        equal("pages released", answer.pages, PAGES as u64)?;
        memory.expect("after RELEASE", memory.all(), Where::System)?;
    }
    memory.verify(memory.all())
}

fn other_processes(context: &Context) -> Result<()> {
    let device = context.open()?;
    let (moved, released) = (Gate::new()?, Gate::new()?);
    let memory = Memory::new(PAGES)?;
    let child = helper(|| {
        let own = context.open()?;
        let other = Memory::new(PAGES)?;
        other.move_out(&own, other.all())?;
        moved.open()?;
        released.wait()?;
        other.expect("in another process", other.all(), Where::System)?;
        other.verify(other.all())?;
        other.move_out(&own, other.all())?;
        other.verify(other.all())
    })?;
    moved.wait()?;
    memory.move_out(&device, 0..10)?;
    equal("pages released", device.release()?.pages, PAGES as u64 + 10)?;
    released.open()?;
    child.join()?;
    memory.verify(memory.all())
}

fn shared_by_fork(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    let released = Gate::new()?;
    let child = helper(|| {
        released.wait()?;
        memory.expect("in the child", memory.all(), Where::System)?;
        memory.verify(memory.all())?;
        memory.refill(2);
        memory.verify(memory.all())
    })?;
    equal("pages released", device.release()?.pages, PAGES as u64)?;
    memory.expect("after RELEASE", memory.all(), Where::System)?;
    released.open()?;
    child.join()?;
    memory.verify(memory.all())
}

fn shared_in_parts(context: &Context) -> Result<()> {
    const PROCESSES: usize = 40;
    const PART: usize = 12;
    let device = context.open()?;
    let memory = Memory::new(PROCESSES * PART)?;
    memory.move_out(&device, memory.all())?;
    let (dropped, released) = (Gate::new()?, Gate::new()?);
    let children = (0..PROCESSES)
        .map(|nth| {
            helper(|| {
                let (first, end) = (nth * PART, (nth + 1) * PART);
                for others in [0..first, end..PROCESSES * PART] {
                    if !others.is_empty() {
                        memory.region.advise(others, Advice::DontNeed)?;
                    }
                }
                dropped.open()?;
                released.wait()?;
                memory.expect("of a part", first..end, Where::System)?;
                memory.verify(first..end)
            })
        })
        .collect::<Result<Vec<_>>>()?;
    memory.region.advise(memory.all(), Advice::DontNeed)?;
    for _ in 0..PROCESSES {
        dropped.wait()?;
    }
    let all = (PROCESSES * PART) as u64;
    equal("pages released", device.release()?.pages, all)?;
    for _ in 0..PROCESSES {
        released.open()?;
    }
    children.into_iter().try_for_each(|child| child.join())
}

fn huge_pages(device: Device) -> Result<()> {
    let memory = huge::huge(2)?;
    let small = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    small.move_out(&device, small.all())?;
    let expected = memory.region.pages() + PAGES;
    equal("pages released", device.release()?.pages, expected as u64)?;
    memory.expect("after RELEASE", memory.all(), Where::System)?;
    memory.verify(memory.all())?;
    small.verify(small.all())?;
    memory.move_out(&device, memory.all())?;
    memory.verify(memory.all())
}

fn split_huge_pages(device: Device) -> Result<()> {
    let mut memory = huge::huge(2)?;
    memory.move_out(&device, memory.all())?;
    memory.verify(7..8)?; // back by a fault: part of it, or all
    memory.region.protect(600..700, Protection::Read)?;
    let left = dmirror_client::Survey::of(memory.region.range())?.on_device();
    drop(memory.region.split_off(1000));
    // What is left of a huge page that was cut may come back whole.
    let back = device.release()?.pages as usize;
    let gone = 1024 - 1000;
    anyhow::ensure!(
        (left - gone..=left).contains(&back),
        "{back} pages released of {left}"
    );
    memory.expect("after RELEASE", memory.all(), Where::System)?;
    memory.verify(memory.all())
}

fn of_any_protection(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    memory.region.protect(0..10, Protection::Read)?;
    memory.region.protect(10..20, Protection::None)?;
    equal("pages released", device.release()?.pages, PAGES as u64)?;
    memory.expect("after RELEASE", 0..10, Where::System)?;
    memory.region.protect(0..20, Protection::ReadWrite)?;
    memory.verify(memory.all())?;
    memory.refill(2);
    memory.device_reads(&device, memory.all()).map(drop)
}

fn other_device_keeps_its_pages(first: Device, second: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&first, 0..10)?;
    memory.move_out(&second, 10..PAGES)?;
    equal("pages released", first.release()?.pages, 10)?;
    memory.expect("of the first", 0..10, Where::System)?;
    memory.expect("of the second", 10..PAGES, Where::Device)?;
    memory.verify(memory.all())
}

fn device_reads_afterwards(context: &Context) -> Result<()> {
    let (device, other) = (context.open()?, context.open()?);
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    memory.device_reads(&other, memory.all())?;
    memory.device_refills(&device, 2)?;
    equal("pages released", other.release()?.pages, PAGES as u64)?;
    memory.device_reads(&device, memory.all())?;
    memory.refill(3);
    memory.device_reads(&device, memory.all())?;
    memory.device_reads(&other, memory.all())?;
    memory.expect("after reading", memory.all(), Where::System)
}

fn frees_the_memory(device: Device) -> Result<()> {
    let Some(empty) = device.room()? else {
        return crate::check::skip("this module does not say what is free");
    };
    let memory = huge::huge(1)?;
    let small = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    small.move_out(&device, small.all())?;
    device.release()?;
    let room = device.room()?.unwrap_or(empty);
    equal("free pages", room.free_pages, room.pages)?;
    equal("free blocks", room.free_blocks, room.blocks)
}

fn unmapped_before(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let gone = Memory::untouched(PAGES)?;
    memory.move_out(&device, memory.all())?;
    gone.view(&device, gone.all())?;
    drop(gone);
    equal("pages released", device.release()?.pages, PAGES as u64)?;
    memory.verify(memory.all())
}
