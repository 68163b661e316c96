// SPDX-License-Identifier: GPL-2.0

//! Several open files of one device, each with a page table of its own: what
//! happens through one, the others must see.

use dmirror_client::Command;
use dmirror_client::device::Buffer;

use super::huge;
use crate::prelude::*;

cases! { "opens":
    other_reads_resident = "One open file reads the pages that another one moved to the device.",
    other_writes_resident = "One open file writes the pages that another one moved to the device.",
    reader_sees_migration = "An open file that has read pages reads them right after another one moved them away.",
    reader_sees_write = "An open file sees what another one writes, in system memory and on the device.",
    after_a_cpu_fault = "After the CPU took pages back and wrote them, every open file sees the new data.",
    after_the_other_brought_back = "After one open file brought pages back, another one that had moved them reads them right.",
    after_madv_dontneed = "Every open file forgets pages that were dropped.",
    huge = "Two open files see each other's work on huge pages.",
    part_of_a_huge_page = "An open file reads and writes a part of a huge page that another one moved to the device.",
    many = "32 open files see what the CPU and one of them write.",
    closing_one = "Closing one open file leaves pages on the device, and another one's view of them.",
    closed_before_the_fault = "Pages come back by a fault after the file that moved them was closed, in a child too.",
    two_processes = "Open files of two processes see shared resident pages, each its own side of them.",
    inherited = "A child reads, writes and looks at the opener's memory by an inherited descriptor.",
    opener_is_gone = "A descriptor whose opener is gone answers EFAULT to READ and WRITE, EINVAL to all others with a range.",
}

const PAGES: usize = 40;

fn other_reads_resident(context: &Context) -> Result<()> {
    let (first, second) = (context.open()?, context.open()?);
    let memory = Memory::new(PAGES)?;
    memory.move_out(&first, memory.all())?;
    memory.device_reads(&second, memory.all())?;
    memory.device_reads(&first, memory.all())?;
    memory.expect("after reading", memory.all(), Where::Device)?;
    memory.verify(memory.all())
}

fn other_writes_resident(context: &Context) -> Result<()> {
    let (first, second) = (context.open()?, context.open()?);
    let memory = Memory::new(PAGES)?;
    memory.move_out(&first, memory.all())?;
    for round in 1..6 {
        memory.device_refills(&second, 2 * round)?;
        memory.device_reads(&first, memory.all())?;
        memory.device_refills(&first, 2 * round + 1)?;
        memory.device_reads(&second, memory.all())?;
    }
    memory.expect("after writing", memory.all(), Where::Device)?;
    memory.verify(memory.all())
}

fn reader_sees_migration(context: &Context) -> Result<()> {
    let (reader, mover) = (context.open()?, context.open()?);
    let memory = Memory::new(PAGES)?;
    for round in 2..8 {
        memory.device_reads(&reader, memory.all())?;
        memory.move_out(&mover, memory.all())?;
        // This takes the pages that have become free.
        let other = Memory::new(2 * PAGES)?;
        memory.device_reads(&reader, memory.all())?;
        memory.expect("after reading", memory.all(), Where::Device)?;
        memory.device_refills(&mover, round)?;
        memory.device_reads(&reader, memory.all())?;
        memory.verify(memory.all())?;
        other.verify(other.all())?;
    }
    Ok(())
}

fn reader_sees_write(context: &Context) -> Result<()> {
    let (reader, writer) = (context.open()?, context.open()?);
    let memory = Memory::new(PAGES)?;
    memory.move_out(&writer, 0..PAGES / 2)?;
    for round in 2..8 {
        memory.device_reads(&reader, memory.all())?;
        memory.device_refills(&writer, round)?;
    }
    memory.device_reads(&reader, memory.all())?;
    memory.expect("after reading", 0..PAGES / 2, Where::Device)?;
    memory.verify(memory.all())
}

fn after_a_cpu_fault(context: &Context) -> Result<()> {
    let (first, second) = (context.open()?, context.open()?);
    let memory = Memory::new(PAGES)?;
    for round in 2..8 {
        memory.move_out(&first, memory.all())?;
        memory.device_reads(&second, memory.all())?;
        memory.refill(round);
        // This takes the device pages that have become free.
        let other = Memory::new(PAGES)?;
        other.move_out(&first, other.all())?;
        memory.device_reads(&first, memory.all())?;
        memory.device_reads(&second, memory.all())?;
        memory.expect("after reading", memory.all(), Where::System)?;
        other.verify(other.all())?;
    }
    Ok(())
}

fn after_the_other_brought_back(context: &Context) -> Result<()> {
    let (mover, other) = (context.open()?, context.open()?);
    let memory = Memory::new(PAGES)?;
    for round in 2..8 {
        memory.move_out(&mover, memory.all())?;
        memory.device_reads(&mover, memory.all())?;
        memory.move_back(&other, memory.all(), PAGES)?;
        memory.refill(round);
        memory.device_reads(&mover, memory.all())?;
        memory.device_reads(&other, memory.all())?;
    }
    Ok(())
}

fn after_madv_dontneed(context: &Context) -> Result<()> {
    let (first, second) = (context.open()?, context.open()?);
    let memory = Memory::new(PAGES)?;
    memory.move_out(&first, 0..PAGES / 2)?;
    memory.device_reads(&first, memory.all())?;
    memory.device_reads(&second, memory.all())?;
    memory.region.advise(memory.all(), Advice::DontNeed)?;
    reads_zero(&first, memory.region.range())?;
    reads_zero(&second, memory.region.range())?;
    memory.device_refills(&second, 2)?;
    memory.device_reads(&first, memory.all())?;
    memory.verify(memory.all())
}

fn huge(context: &Context) -> Result<()> {
    let (first, second) = (context.open()?, context.open()?);
    let memory = huge::huge(1)?;
    memory.device_reads(&second, memory.all())?;
    memory.move_out(&first, memory.all())?;
    memory.device_reads(&second, memory.all())?;
    memory.device_refills(&second, 2)?;
    memory.device_reads(&first, memory.all())?;
    memory.expect("after reading", memory.all(), Where::Device)?;
    memory.refill(3);
    memory.device_reads(&first, memory.all())?;
    memory.device_reads(&second, memory.all())?;
    memory.verify(memory.all())
}

fn part_of_a_huge_page(context: &Context) -> Result<()> {
    let mover = context.open()?;
    let memory = huge::huge(1)?;
    memory.move_out(&mover, memory.all())?;
    // Each with a page table that does not have the huge page yet.
    for pages in [300..304, 511..512, 1..2, 100..400] {
        memory.device_reads(&context.open()?, pages)?;
    }
    let (old, new) = (memory.data(), memory.data().round(2));
    memory.expect_round(2);
    memory.device_fills(&context.open()?, 300..304)?;
    memory.expect("after writing", memory.all(), Where::Device)?;
    old.check(&memory.region, 0..300)?;
    new.check(&memory.region, 300..304)?;
    old.check(&memory.region, 304..512)?;
    Ok(())
}

fn many(context: &Context) -> Result<()> {
    let devices: Vec<Device> = (0..32).map(|_| context.open()).collect::<Result<_>>()?;
    let memory = Memory::new(8)?;
    for (round, mover) in (2..).zip(devices.iter().step_by(8)) {
        memory.move_out(mover, 0..4)?;
        for device in &devices {
            memory.device_reads(device, memory.all())?;
        }
        memory.refill(10 * round);
        for device in &devices {
            memory.device_reads(device, memory.all())?;
        }
        memory.device_refills(mover, 10 * round + 1)?;
        for (number, device) in devices.iter().enumerate() {
            memory
                .device_reads(device, memory.all())
                .with_context(|| format!("open file {number}"))?;
        }
    }
    memory.verify(memory.all())
}

fn closing_one(context: &Context) -> Result<()> {
    let (first, second) = (context.open()?, context.open()?);
    let memory = Memory::new(PAGES)?;
    memory.move_out(&first, memory.all())?;
    memory.device_reads(&second, 0..PAGES / 2)?;
    drop(first);
    memory.expect("after close", memory.all(), Where::Device)?;
    memory.device_reads(&second, memory.all())?;
    memory.device_refills(&second, 2)?;
    memory.expect("after writing", memory.all(), Where::Device)?;
    memory.move_back(&second, memory.all(), PAGES)?;
    memory.verify(memory.all())
}

fn closed_before_the_fault(context: &Context) -> Result<()> {
    for round in 2..8 {
        let device = context.open()?;
        let memory = Memory::new(PAGES)?;
        memory.refill(round);
        memory.move_out(&device, memory.all())?;
        let closed = Gate::new()?;
        let child = memory.writing_child(&closed, round + 100)?;
        // The child has the file open, too: only this open file is closed.
        drop(device);
        memory.verify(0..PAGES / 2)?;
        closed.open()?;
        child.join()?;
        memory.verify(memory.all())?;
    }
    Ok(())
}

fn two_processes(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    let (written, go) = (Gate::new()?, Gate::new()?);
    let child = helper(|| {
        let own = context.open()?;
        memory.device_reads(&own, memory.all())?;
        memory.device_refills(&own, 2)?;
        written.open()?;
        go.wait()?;
        memory.device_reads(&own, memory.all())?;
        memory.move_out(&own, memory.all())?;
        memory.verify(memory.all())
    })?;
    written.wait()?;
    memory.device_reads(&device, memory.all())?;
    memory.device_refills(&device, 3)?;
    memory.verify(0..PAGES / 2)?;
    go.open()?;
    child.join()?;
    memory.device_reads(&device, memory.all())?;
    memory.verify(memory.all())
}

fn inherited(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, 0..PAGES / 2)?;
    let (written, go) = (Gate::new()?, Gate::new()?);
    let child = helper(|| {
        memory.refill(2); // its own copy, which the descriptor is not about
        go.wait()?;
        let opener = memory.data().round(3);
        let mut view = vec![0xa5; memory.region.len()];
        let range = memory.region.range();
        equal(
            "pages read",
            device.read(range, &mut view)?.pages,
            PAGES as u64,
        )?;
        opener.check_bytes(&view, 0)?;
        device.write(range, &opener.round(4).to_bytes(0..PAGES))?;
        equal("pages looked at", device.snapshot(range)?.len(), PAGES)?;
        device.exclusive(range, &mut view)?;
        opener.round(4).check_bytes(&view, 0)?;
        written.open()?;
        memory.verify(memory.all())
    })?;
    memory.refill(3);
    go.open()?;
    written.wait()?;
    memory.expect_round(4);
    memory.verify(memory.all())?;
    child.join()
}

fn opener_is_gone(context: &Context) -> Result<()> {
    outlived(
        || {
            let device = context.open()?;
            let memory = Memory::new(PAGES)?;
            memory.move_out(&device, memory.all())?;
            memory.device_reads(&device, memory.all())?;
            Ok((device, memory))
        },
        |(device, memory)| all_refused(device, memory.region.range()),
    )
}

fn all_refused(device: &Device, range: PageRange) -> Result<()> {
    let mut bytes = vec![0xa5; PAGES * page_size()];
    for (command, errno) in [
        (Command::Read, Errno::EFAULT),
        (Command::ReadUnlocked, Errno::EFAULT),
        (Command::Write, Errno::EFAULT),
        (Command::MigrateToDevice, Errno::EINVAL),
        (Command::MigrateToSystem, Errno::EINVAL),
        (Command::Snapshot, Errno::EINVAL),
        (Command::Exclusive, Errno::EINVAL),
        (Command::CheckExclusive, Errno::EINVAL),
    ] {
        let buffer = Buffer::Output(&mut bytes);
        let answer = device.call(command, range.addr(), range.pages(), buffer);
        fails(&command.to_string(), answer, errno)?;
    }
    Ok(())
}
