// SPDX-License-Identifier: GPL-2.0

//! Several open files of one device, each with its own page table: the others must see the changes
//! that are made through one.

use dmirror_client::Command;

use super::huge;
use crate::prelude::{hpage_pmd_nr as nr, *};
use crate::steps::{ALL, HALF, PAGES, Verb::*, Who::*, small, steps};

cases! { "opens":
    other_reads_resident = "One open file reads the pages that another one moved to the device."
        => steps(small, [
            (A, Out(ALL)), (B, Reads(ALL)), (A, Reads(ALL)), (Cpu, Finds(ALL, Where::Device)),
            (Cpu, Reads(ALL)),
        ]),
    other_writes_resident = "One open file writes the pages that another one moved to the device."
        => steps(small, [
            (A, Out(ALL)),
            (Cpu, Times(5, vec![(B, Writes), (A, Reads(ALL)), (A, Writes), (B, Reads(ALL))])),
            (Cpu, Finds(ALL, Where::Device)), (Cpu, Reads(ALL)),
        ]),
    reader_sees_migration = "An open file that has read pages reads them right after another one moved them away.",
    reader_sees_write = "An open file sees what another one writes, in system memory and on the device."
        => steps(small, [
            (B, Out(HALF)), (Cpu, Times(6, vec![(A, Reads(ALL)), (B, Writes)])), (A, Reads(ALL)),
            (Cpu, Finds(HALF, Where::Device)), (Cpu, Reads(ALL)),
        ]),
    after_a_cpu_fault = "After the CPU took pages back and wrote them, every open file sees the new data.",
    after_the_other_brought_back = "After one open file brought pages back, another one that had moved them reads them right."
        => steps(small, [(Cpu, Times(6, vec![
            (A, Out(ALL)), (A, Reads(ALL)), (B, Back(ALL, PAGES)), (Cpu, Writes), (A, Reads(ALL)),
            (B, Reads(ALL)),
        ]))]),
    after_madv_dontneed = "Every open file forgets pages that were dropped." => steps(small, [
            (A, Out(HALF)), (A, Reads(ALL)), (B, Reads(ALL)), (Cpu, Advises(ALL, Advice::DontNeed)),
            (A, ReadsZeros(ALL)), (B, ReadsZeros(ALL)), (B, Writes), (A, Reads(ALL)),
            (Cpu, Reads(ALL)),
        ]),
    huge = "Two open files see each other's work on huge pages." => steps(|| huge::huge(1), [
            (B, Reads(ALL)), (A, Out(ALL)), (B, Reads(ALL)), (B, Writes), (A, Reads(ALL)),
            (Cpu, Finds(ALL, Where::Device)), (Cpu, Writes), (A, Reads(ALL)), (B, Reads(ALL)),
            (Cpu, Reads(ALL)),
        ]),
    part_of_a_huge_page = "An open file reads and writes a part of a huge page that another one moved to the device.",
    many = "32 open files see what the CPU and one of them write.",
    closing_one = "Closing one open file leaves pages on the device, and another one's view of them."
        => steps(small, [
            (A, Out(ALL)), (B, Reads(HALF)), (A, Closes), (Cpu, Finds(ALL, Where::Device)),
            (B, Reads(ALL)), (B, Writes), (Cpu, Finds(ALL, Where::Device)), (B, Back(ALL, PAGES)),
            (Cpu, Reads(ALL)),
        ]),
    closed_before_the_fault = "Pages come back by a fault after the file that moved them was closed, in a child too.",
    two_processes = "Open files of two processes see shared resident pages, each its own side of them.",
    inherited = "A child reads, writes and looks at the opener's memory by an inherited descriptor.",
    opener_is_gone = "A descriptor whose opener is gone answers EFAULT to READ and WRITE, EINVAL to all others with a range.",
}

fn reader_sees_migration(context: &Context) -> Result<()> {
    let (reader, mover, memory) = (context.open()?, context.open()?, small()?);
    for round in 2..8 {
        memory.reads(&reader)?;
        memory.out(&mover)?;
        // This takes the pages that have become free.
        let other = Memory::new(2 * PAGES)?;
        memory.reads_at(&reader, Where::Device)?;
        memory.device_refills(&mover, round)?;
        memory.both_read(&reader)?;
        other.intact()?;
    }
    Ok(())
}

fn after_a_cpu_fault(context: &Context) -> Result<()> {
    let (first, second, memory) = (context.open()?, context.open()?, small()?);
    for round in 2..8 {
        memory.out(&first)?;
        memory.reads(&second)?;
        memory.refill(round);
        // This takes the device pages that have become free.
        let other = Memory::resident(&first, PAGES)?;
        memory.reads(&first)?;
        memory.reads_at(&second, Where::System)?;
        other.intact()?;
    }
    Ok(())
}

fn part_of_a_huge_page(context: &Context) -> Result<()> {
    let memory = huge::huge(1)?;
    let mover = context.open()?;
    memory.out(&mover)?;
    // Each open file has a page table that does not have the huge page yet.
    for pages in [300..304, nr() - 1..nr(), 1..2, 100..400] {
        memory.device_reads(&context.open()?, pages)?;
    }
    let (old, new) = (memory.data(), memory.data().round(2));
    memory.expect_round(2);
    memory.device_fills(&context.open()?, 300..304)?;
    memory.expect("after writing", memory.all(), Where::Device)?;
    old.check(&memory.region, 0..300)?;
    new.check(&memory.region, 300..304)?;
    Ok(old.check(&memory.region, 304..nr())?)
}

fn many(context: &Context) -> Result<()> {
    let devices: Vec<Device> = (0..32).map(|_| context.open()).collect::<Result<_>>()?;
    let memory = Memory::new(8)?;
    let all_read = || {
        let read = |(number, device)| {
            let what = || format!("open file {number}");
            memory.reads(device).with_context(what)
        };
        devices.iter().enumerate().try_for_each(read)
    };
    for (round, mover) in (2..).zip(devices.iter().step_by(8)) {
        memory.move_out(mover, 0..4)?;
        all_read()?;
        memory.refill(10 * round);
        all_read()?;
        memory.device_refills(mover, 10 * round + 1)?;
        all_read()?;
    }
    memory.intact()
}

fn closed_before_the_fault(context: &Context) -> Result<()> {
    for round in 2..8 {
        let (device, memory) = (context.open()?, small()?);
        memory.refill(round);
        memory.out(&device)?;
        let closed = Gate::new()?;
        let child = memory.writing_child(&closed, round + 100)?;
        // The child has the file open, too: only this open file is closed.
        drop(device);
        memory.verify(HALF)?;
        closed.open()?;
        memory.survives(child)?;
    }
    Ok(())
}

fn two_processes(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = Memory::resident(&device, PAGES)?;
    let (written, go) = (Gate::new()?, Gate::new()?);
    let child = helper(|| {
        let own = context.open()?;
        memory.reads(&own)?;
        memory.device_refills(&own, 2)?;
        written.open()?;
        go.wait()?;
        memory.reads(&own)?;
        memory.out_and_read(&own)
    })?;
    written.wait()?;
    memory.reads(&device)?;
    memory.device_refills(&device, 3)?;
    memory.verify(HALF)?;
    go.open()?;
    child.join()?;
    memory.both_read(&device)
}

fn inherited(device: Device) -> Result<()> {
    let memory = small()?;
    memory.move_out(&device, HALF)?;
    let (written, go) = (Gate::new()?, Gate::new()?);
    let child = helper(|| {
        memory.refill(2); // its own copy, which the descriptor is not about
        go.wait()?;
        let range = memory.region.range();
        memory.expect_round(3);
        memory.reads(&device)?;
        memory.device_refills(&device, 4)?;
        equal("pages looked at", device.snapshot(range)?.len(), PAGES)?;
        let mut view = vec![0xa5; memory.region.len()];
        device.exclusive(range, &mut view)?;
        memory.data().check_bytes(&view, 0)?;
        written.open()?;
        memory.expect_round(2);
        memory.intact()
    })?;
    memory.refill(3);
    go.open()?;
    written.wait()?;
    memory.expect_round(4);
    memory.intact()?;
    child.join()
}

fn opener_is_gone(context: &Context) -> Result<()> {
    outlived(
        || {
            let device = context.open()?;
            let memory = Memory::resident(&device, PAGES)?;
            memory.reads(&device)?;
            Ok((device, memory))
        },
        |(device, memory)| all_refused(device, memory),
    )
}

fn all_refused(device: &Device, memory: &Memory) -> Result<()> {
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
        fails(&command.to_string(), memory.send(device, command), errno)?;
    }
    Ok(())
}
