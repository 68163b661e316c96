// SPDX-License-Identifier: GPL-2.0

//! The counts of the commands, and huge pages that are split while they are on the device.

use super::huge::{huge, huge_out, options};
use super::huge_whole::remapped;
use crate::prelude::{hpage_pmd_nr as nr, *};
use crate::steps::{ALL, Verb::*, Who::*, steps};

cases! { "counts":
    huge_pages = "A huge page counts all its pages on its way out and back."
        => steps(|| huge(2), [
            (Cpu, Times(2, vec![
                (A, Out(ALL)), (A, Out(ALL)), (A, Back(ALL, 2 * nr())), (A, Back(ALL, 0)),
            ])),
            (Cpu, Reads(ALL)),
        ]),
    zeroed_pages = "Device pages that were holes count on their way back like others.",
    part_of_a_huge_page = "A part of a huge page on the device comes back alone, and counts as what it is."
        => steps(|| huge(1), [
            (A, Out(ALL)), (A, Back(100..300, 200)), (Cpu, Finds(0..100, Where::Device)),
            (Cpu, Finds(300..usize::MAX, Where::Device)), (A, Reads(ALL)), (A, Back(ALL, nr() - 200)),
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
            (A, Fills(0..100)), (A, Fills(200..usize::MAX)), (Cpu, Finds(ALL, Where::Device)),
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
    let memory = Memory::of(options(1)?.huge(false).map()?);
    memory.fill(0..10);
    there_and_back(&memory)?;
    memory.verify(0..10)?;
    memory.is_zero(10..memory.region.pages())?;
    let memory = Memory::of(options(1)?.map()?);
    there_and_back(&memory)?;
    memory.is_zero(memory.all())
}

/// Creates a huge page, as many untouched pages, a huge page, and as many small pages.
fn of_all_kinds() -> Result<Memory> {
    let memory = Memory::of(options(4)?.map()?);
    memory.region.advise(3 * nr()..4 * nr(), Advice::NoHuge)?;
    memory.fill(0..nr());
    memory.fill(2 * nr()..4 * nr());
    Ok(memory)
}

fn huge_page_then_hole(device: Device) -> Result<()> {
    let memory = of_all_kinds()?;
    memory.region.advise(nr()..2 * nr(), Advice::NoHuge)?;
    let middle = nr() + 188..nr() + 198;
    memory.fill(middle.clone());
    for _ in 0..2 {
        memory.view(&device, memory.all())?;
        memory.device_reads(&device, 0..nr())?;
        memory.device_reads(&device, 2 * nr()..4 * nr())?;
        memory.move_back(&device, memory.all(), 4 * nr())?;
        memory.verify(0..nr())?;
        memory.is_zero(nr()..middle.start)?;
        memory.verify(middle.clone())?;
        memory.is_zero(middle.end..2 * nr())?;
        memory.verify(2 * nr()..4 * nr())?;
    }
    Ok(())
}

fn hole_then_huge_page(device: Device) -> Result<()> {
    let memory = of_all_kinds()?;
    // Move only pages with data, and only a part of those.
    for pages in [0..nr(), 2 * nr()..3 * nr(), 3 * nr() + 64..3 * nr() + 164] {
        memory.move_out(&device, pages)?;
    }
    let back = device.migrate_to_system(memory.region.range())?;
    equal("pages back", back.pages, 2 * nr() as u64 + 100)?;
    memory.only(nr()..2 * nr(), Where::Nowhere, Where::System)?;
    memory.verify(0..nr())?;
    memory.verify(2 * nr()..4 * nr())
}

fn huge_among_files(device: &Device, memory: &Memory) -> Result<()> {
    memory.region.replace_by_shared(nr()..2 * nr())?;
    memory.fill(nr()..2 * nr());
    let answer = memory.try_out(device);
    let counts = fails_counted("MIGRATE_TO_DEV", answer, Errno::ENOENT)?;
    equal("pages counted", counts.pages, 2 * nr() as u64)?;
    memory.move_back(device, memory.all(), 2 * nr())
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
        // A fault may bring back more than one page.
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
    memory.device_reads(&device, 200..nr())?;
    let counts = device.migrate_to_system(memory.region.range())?;
    equal("pages moved back", counts.pages, nr() as u64 - 100)?;
    memory.is_zero(100..200)?;
    memory.verify(0..100)?;
    memory.verify(200..nr())
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
