// SPDX-License-Identifier: GPL-2.0

//! EXCLUSIVE and CHECK_EXCLUSIVE: pages that only the device can reach, until a CPU touches them.

use dmirror_client::device::prot;
use dmirror_client::{Command, Place};

use super::huge;
use super::write::beside_zeros;
use crate::exclusive::{free, held, take};
use crate::prelude::*;
use crate::steps::{ALL, NONE, Verb::*, Who::*, steps};

cases! { "exclusive":
    given = "Pages become exclusive to the device, which sees their data."
        => steps(small, [(A, Takes(ALL)), (Cpu, Reads(ALL)), (A, HoldsNone(ALL))]),
    nothing_else_is = "Pages that nobody asked for are not exclusive." => steps(small, [
            (A, HoldsNone(ALL)), (A, Out(0..4)), (A, Writes), (A, HoldsNone(ALL)),
            (A, Takes(10..12)), (A, HoldsNone(0..10)), (A, HoldsNone(12..PAGES)),
            (A, HoldsSome(ALL)), (Cpu, Reads(ALL)),
        ]),
    read_by_the_device = "The device's reads keep its pages exclusive." => steps(small, [
            (A, Takes(4..20)), (A, ReadsIn(NONE, 4..20)), (A, Holds(4..20)), (A, Reads(ALL)),
            (A, Holds(4..20)), (Cpu, Reads(ALL)),
        ]),
    written_by_the_device = "The device's writes keep its pages exclusive, and the CPU sees them afterwards."
        => steps(small, [
            (A, Takes(ALL)),
            (Cpu, Times(4, vec![(A, WritesIn(NONE)), (A, Holds(ALL)), (A, Reads(ALL))])),
            (Cpu, Reads(ALL)), (A, HoldsNone(ALL)),
        ]),
    faults_around_it = "Faults of the device on holes beside its exclusive pages keep these exclusive.",
    read_by_a_cpu = "A read by the CPU ends the exclusive access to the page that it touches alone."
        => steps(small, [
            (A, Takes(ALL)), (Cpu, Reads(7..8)), (A, HoldsNone(7..8)), (A, Holds(0..7)),
            (A, Holds(8..PAGES)), (A, Reads(ALL)),
        ]),
    written_by_a_cpu = "A write by the CPU ends the exclusive access; the device sees the data."
        => steps(small, [
            (A, Takes(ALL)), (Cpu, Writes), (A, HoldsNone(ALL)), (A, Reads(ALL)), (A, Takes(ALL)),
            (Cpu, Reads(ALL)),
        ]),
    again_and_again = "Device and CPU write one page by turns, and each sees the other's data."
        => steps(|| Memory::new(2), [(Cpu, Times(39, vec![
            (A, Takes(ALL)), (A, Writes), (Cpu, Reads(0..1)), (Cpu, Writes), (A, Reads(ALL)),
        ]))]),
    untouched = "Memory that was never touched becomes exclusive and zero."
        => steps(|| Memory::untouched(PAGES), [
            (A, Does(take_zeros)), (A, Holds(ALL)), (A, Fills(ALL)), (Cpu, Reads(ALL)),
        ]),
    zero_page = "Memory that shows the zero page becomes exclusive, and other memory stays zero.",
    resident_pages = "Pages on the device come back to system memory and become exclusive."
        => steps(small, [
            (A, Out(4..20)), (A, Writes), (A, Takes(ALL)), (A, Writes), (A, Holds(ALL)),
            (Cpu, Reads(ALL)), (Cpu, Finds(ALL, Where::System)),
        ]),
    on_another_device = "Pages on another device come back to system memory and become exclusive."
        => steps(small, [(Second, Out(ALL)), (A, Takes(ALL)), (Cpu, Reads(ALL))]),
    huge = "Pages of a huge page become exclusive one by one; the rest is left alone."
        => steps(|| huge::huge(1), [
            (A, Takes(100..110)), (A, HoldsNone(0..100)), (A, HoldsNone(110..usize::MAX)),
            (Cpu, Reads(ALL)), (A, Takes(ALL)), (A, Writes), (Cpu, Reads(ALL)),
        ]),
    resident_huge = "Pages of a huge page on the device become exclusive."
        => steps(|| huge::huge(1), [
            (A, Out(ALL)), (A, Takes(100..110)), (A, Reads(ALL)), (Cpu, Reads(ALL)),
        ]),
    migrated = "Exclusive pages go to the device, or stay; the data is right, and they are not exclusive there.",
    second_device = "A device that asks for exclusive access takes it from another."
        => steps(small, [
            (Cpu, Times(5, vec![
                (A, Takes(ALL)), (A, Writes), (Second, Takes(4..20)), (A, HoldsNone(4..20)),
                (A, Holds(0..4)), (Second, Writes), (A, HoldsNone(ALL)), (Second, Holds(4..20)),
            ])),
            (Cpu, Reads(ALL)),
        ]),
    read_by_another_device = "A device that reads a page ends the exclusive access of another."
        => steps(small, [
            (A, Takes(ALL)), (A, Writes), (Second, Reads(4..20)), (A, HoldsNone(4..20)),
            (A, Holds(20..PAGES)), (A, Writes), (Second, Reads(ALL)), (Cpu, Reads(ALL)),
        ]),
    second_open = "An open file of the same device sees what was written to exclusive pages through another."
        => steps(small, [
            (B, Reads(ALL)),
            (Cpu, Times(5, vec![
                (A, Takes(ALL)), (A, Writes), (B, Reads(ALL)), (B, Writes), (A, Reads(ALL)),
            ])),
            (Cpu, Reads(ALL)),
        ]),
    mprotect = "Memory made read-only is not exclusive, and the device does not write it."
        => steps(small, [
            (A, Takes(ALL)), (A, Writes), (Cpu, Protects(ALL, Protection::Read)),
            (A, Fails(Command::Write, Errno::EPERM)), (A, HoldsNone(ALL)), (A, Reads(ALL)),
            (Cpu, Reads(ALL)),
        ]),
    unmapped = "Memory that is mapped anew where exclusive pages were is not exclusive."
        => steps(small, [
            (A, Takes(ALL)), (A, Does(|_, memory| Ok(memory.region.replace_by_shared(4..20)?))),
            (A, HoldsNone(4..20)), (A, Holds(0..4)), (A, ReadsZeros(4..20)),
            (Cpu, ReadsZeros(4..20)), (Cpu, Reads(0..4)),
        ]),
    moved = "Memory that mremap moved is exclusive neither at its old nor at its new place.",
    dropped = "MADV_DONTNEED of exclusive pages drops them." => steps(small, [
            (A, Takes(ALL)), (Cpu, Advises(4..20, Advice::DontNeed)), (A, HoldsNone(4..20)),
            (Cpu, ReadsZeros(4..20)), (Cpu, Reads(0..4)), (Cpu, Reads(20..PAGES)),
        ]),
    fork = "A fork ends exclusive access; each process keeps its own data.",
    after_fork = "Pages shared by fork are copied before they become exclusive.",
    closed = "After the file was closed the CPU reads and writes what was exclusive."
        => steps(small, [
            (A, Takes(ALL)), (A, Writes), (A, Closes), (Cpu, Reads(ALL)), (Cpu, Writes),
            (A, HoldsNone(ALL)), (A, Reads(ALL)),
        ]),
    snapshot_keeps_it = "A snapshot does not end exclusive access." => steps(small, [
            (A, Takes(ALL)),
            (A, Does(|device, memory| Ok(device.snapshot(memory.region.range()).map(drop)?))),
            (A, Holds(ALL)), (Cpu, Reads(ALL)), (A, Shows(ALL, prot::WRITE)),
        ]),
}

const PAGES: usize = 24;

fn small() -> Result<Memory> {
    Memory::new(PAGES)
}

fn faults_around_it(device: Device) -> Result<()> {
    for write in [false, true] {
        let memory = Memory::untouched(PAGES)?;
        memory.fill(4..20);
        take(&device, &memory, 4..20)?;
        if write {
            memory.device_refills(&device, 2)?;
        } else {
            let mut view = vec![0xa5; memory.region.len()];
            device.read(memory.region.range(), &mut view)?;
            let filled = &view[4 * page_size()..20 * page_size()];
            memory.data().check_bytes(filled, 4)?;
        }
        held(&device, &memory, 4..20)?;
        memory.verify(4..20)?;
    }
    Ok(())
}

/// Makes all pages exclusive, and checks that the device reads zeros.
fn take_zeros(device: &Device, memory: &Memory) -> Result<()> {
    let mut view = vec![0xa5; memory.region.len()];
    let counts = device.exclusive(memory.region.range(), &mut view)?;
    let pages = memory.region.range().pages();
    equal("pages made exclusive", counts.pages, pages)?;
    zeros("the device's view", &view)
}

fn zero_page(device: Device) -> Result<()> {
    beside_zeros(|memory| {
        take_zeros(&device, memory)?;
        memory.device_fills(&device, memory.all())?;
        held(&device, memory, memory.all())
    })
}

fn migrated(device: Device) -> Result<()> {
    let memory = small()?;
    take(&device, &memory, 0..PAGES)?;
    memory.device_refills(&device, 2)?;
    let mut view = vec![0xa5; memory.region.len()];
    let range = memory.region.range();
    match device.migrate_to_device(range, &mut view) {
        Ok(counts) => {
            equal("pages counted", counts.pages, PAGES as u64)?;
            memory.data().check_bytes(&view, 0)?;
        }
        Err(error) => equal("the errno", error.errno, Errno::ENOENT)?,
    }
    for (page, place) in Survey::of(range)?.places().iter().enumerate() {
        if matches!(place, Place::Device { .. }) {
            free(&device, &memory, page..page + 1)?;
        }
    }
    memory.both_read(&device)?;
    memory.out(&device)
}

fn moved(device: Device) -> Result<()> {
    let memory = small()?;
    take(&device, &memory, 0..PAGES)?;
    memory.device_refills(&device, 2)?;
    let before = memory.region.range();
    let memory = memory.relocated()?;
    for (place, range) in [("old", before), ("new", memory.region.range())] {
        let exclusive = device.is_exclusive(range)?;
        ensure!(!exclusive, "exclusive at the {place} place");
    }
    memory.both_read(&device)
}

fn fork(device: Device) -> Result<()> {
    let memory = small()?;
    take(&device, &memory, 0..PAGES)?;
    memory.device_refills(&device, 2)?;
    let written = Gate::new()?;
    let child = memory.writing_child(&written, 4)?;
    free(&device, &memory, 0..PAGES)?;
    memory.device_refills(&device, 3)?;
    written.open()?;
    memory.reads(&device)?;
    memory.survives(child)
}

fn after_fork(device: Device) -> Result<()> {
    let memory = small()?;
    let written = Gate::new()?;
    let child = helper(|| {
        written.wait()?;
        memory.intact()
    })?;
    take(&device, &memory, 0..PAGES)?;
    memory.device_refills(&device, 2)?;
    held(&device, &memory, 0..PAGES)?;
    written.open()?;
    child.join()?;
    held(&device, &memory, 0..PAGES)?;
    memory.intact()
}
