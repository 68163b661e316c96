// SPDX-License-Identifier: GPL-2.0

//! What the commands count, and huge pages that are cut while they are on the
//! device.

use super::huge::{huge, huge_out, options};
use super::huge_whole::remapped;
use crate::prelude::*;
use crate::steps::{ALL, Verb::*, Who::*, steps};

cases! { "counts":
    huge_pages = "A huge page counts 512 pages on its way out and back."
        => steps(|| huge(2), [
            (Cpu, Times(2, vec![
                (A, Out(ALL)), (A, Out(ALL)), (A, Back(ALL, 1024)), (A, Back(ALL, 0)),
            ])),
            (Cpu, Reads(ALL)),
        ]),
    zeroed_pages = "Device pages that were holes count on their way back like others.",
    part_of_a_huge_page = "A part of a huge page on the device comes back alone, and counts as what it is."
        => steps(|| huge(1), [
            (A, Out(ALL)), (A, Back(100..300, 200)), (Cpu, Finds(0..100, Where::Device)),
            (Cpu, Finds(300..512, Where::Device)), (A, Reads(ALL)), (A, Back(ALL, 312)),
            (Cpu, Reads(ALL)),
        ]),
    huge_page_then_hole = "A range of a huge page, untouched memory and small pages moves as what each of them is.",
    hole_then_huge_page = "A range of small pages, untouched memory and a huge page comes back as what each of them is.",
    huge_among_files = "Huge pages and pages that cannot move in one range: the count is that of the pages that moved."
        => kept(|_| huge(3), huge_among_files),
    after_partial_faults = "Pages that a CPU took back are not counted again."
        => kept(|device| huge_out(device, 1), after_partial_faults),
    cut_by_mprotect = "A huge page on the device of which a part is made read-only keeps its data."
        => steps(|| huge(1), [
            (A, Out(ALL)), (Cpu, Protects(100..200, Protection::Read)), (A, Reads(ALL)),
            (A, Fills(0..100)), (A, Fills(200..512)), (Cpu, Finds(ALL, Where::Device)),
            (Cpu, Reads(150..151)), (Cpu, Reads(ALL)),
        ]),
    cut_by_munmap = "A huge page on the device of which a part is unmapped keeps the data of the rest.",
    cut_by_mremap = "A huge page on the device of which a part is moved keeps its data, at both places."
        => |device: Device| remapped(&device, huge_out(&device, 1)?, 200),
    cut_by_dontneed = "A huge page on the device of which a part is dropped keeps the data of the rest.",
    cut_after_fork = "A huge page on the device that processes share is cut by one of them, and both keep their data.",
}

fn zeroed_pages(device: Device) -> Result<()> {
    let there_and_back = |memory: &Memory| {
        memory.view(&device, memory.all())?;
        memory.move_back(&device, memory.all(), memory.region.pages())
    };
    let memory = Memory::of(options(1).huge(false).map()?);
    memory.fill(0..10);
    there_and_back(&memory)?;
    memory.verify(0..10)?;
    memory.is_zero(10..memory.region.pages())?;
    let memory = Memory::of(options(1).map()?);
    there_and_back(&memory)?;
    memory.is_zero(memory.all())
}

/// A huge page, 512 untouched pages, a huge page, 512 small pages.
fn of_all_kinds() -> Result<Memory> {
    let memory = Memory::of(options(4).map()?);
    memory.region.advise(1536..2048, Advice::NoHuge)?;
    memory.fill(0..512);
    memory.fill(1024..2048);
    Ok(memory)
}

fn huge_page_then_hole(device: Device) -> Result<()> {
    let memory = of_all_kinds()?;
    memory.region.advise(512..1024, Advice::NoHuge)?;
    memory.fill(700..710); // in the middle of the hole
    for _ in 0..2 {
        memory.view(&device, memory.all())?;
        memory.device_reads(&device, 0..512)?;
        memory.device_reads(&device, 1024..2048)?;
        memory.move_back(&device, memory.all(), 2048)?;
        memory.verify(0..512)?;
        memory.is_zero(512..700)?;
        memory.verify(700..710)?;
        memory.is_zero(710..1024)?;
        memory.verify(1024..2048)?;
    }
    Ok(())
}

fn hole_then_huge_page(device: Device) -> Result<()> {
    let memory = of_all_kinds()?;
    // Only what has data goes, and only a part of that.
    for pages in [0..512, 1024..1536, 1600..1700] {
        memory.move_out(&device, pages)?;
    }
    let back = device.migrate_to_system(memory.region.range())?;
    equal("pages back", back.pages, 1124)?;
    memory.only(512..1024, Where::Nowhere, Where::System)?;
    memory.verify(0..512)?;
    memory.verify(1024..2048)
}

fn huge_among_files(device: &Device, memory: &Memory) -> Result<()> {
    memory.region.replace_by_shared(512..1024)?;
    memory.fill(512..1024);
    let answer = memory.try_out(device);
    let counts = fails_counted("MIGRATE_TO_DEV", answer, Errno::ENOENT)?;
    equal("pages counted", counts.pages, 1024)?;
    memory.move_back(device, memory.all(), 1024)
}

fn after_partial_faults(device: &Device, memory: &Memory) -> Result<()> {
    memory.verify_each([9, 400])?;
    let left = memory.on_device()?;
    memory.move_back(device, memory.all(), left)
}

fn cut_by_munmap(device: Device) -> Result<()> {
    let mut memory = huge_out(&device, 1)?;
    let mut middle = memory.split_off(100);
    let tail = middle.split_off(100);
    drop(middle);
    tail.expect("the tail", tail.all(), Where::Device)?;
    memory.reads(&device)?;
    memory.verify(50..51)?;
    memory.move_back(&device, 0..100, 99).or_else(|_| {
        // A fault may bring more than a page back.
        memory.expect("after moving back", 0..100, Where::System)
    })?;
    memory.intact()?;
    tail.intact()
}

fn cut_by_dontneed(device: Device) -> Result<()> {
    let memory = huge_out(&device, 1)?;
    memory.reads(&device)?;
    memory.region.advise(100..200, Advice::DontNeed)?;
    memory.expect("what was dropped", 100..200, Where::Nowhere)?;
    memory.device_reads(&device, 0..100)?;
    memory.device_reads(&device, 200..512)?;
    let counts = device.migrate_to_system(memory.region.range())?;
    equal("pages moved back", counts.pages, 412)?;
    memory.is_zero(100..200)?;
    memory.verify(0..100)?;
    memory.verify(200..512)
}

fn cut_after_fork(device: Device) -> Result<()> {
    let memory = huge_out(&device, 1)?;
    let (cut, go) = (Gate::new()?, Gate::new()?);
    let child = helper(|| {
        memory.region.protect(100..200, Protection::Read)?;
        memory.verify(150..300)?;
        cut.open()?;
        go.wait()?;
        memory.intact()
    })?;
    cut.wait()?;
    memory.reads(&device)?;
    memory.region.advise(300..400, Advice::DontNeed)?;
    memory.fill(300..400);
    memory.device_refills(&device, 2)?;
    go.open()?;
    memory.survives(child)
}
