// SPDX-License-Identifier: GPL-2.0

//! What the commands count, and huge pages that are cut while they are on the
//! device.

use super::huge;
use super::huge::options;
use crate::prelude::*;

cases! { "counts":
    huge_pages = "A huge page counts 512 pages on its way out and back.",
    zeroed_pages = "Device pages that were holes count on their way back like others.",
    part_of_a_huge_page = "A part of a huge page on the device comes back alone, and counts as what it is.",
    huge_page_then_hole = "A range of a huge page, untouched memory and small pages moves as what each of them is.",
    hole_then_huge_page = "A range of small pages, untouched memory and a huge page comes back as what each of them is.",
    huge_among_files = "Huge pages and pages that cannot move in one range: the count is that of the pages that moved.",
    after_partial_faults = "Pages that a CPU took back are not counted again.",
    cut_by_mprotect = "A huge page on the device of which a part is made read-only keeps its data.",
    cut_by_munmap = "A huge page on the device of which a part is unmapped keeps the data of the rest.",
    cut_by_mremap = "A huge page on the device of which a part is moved keeps its data, at both places.",
    cut_by_dontneed = "A huge page on the device of which a part is dropped keeps the data of the rest.",
    cut_after_fork = "A huge page on the device that processes share is cut by one of them, and both keep their data.",
}

fn huge_pages(device: Device) -> Result<()> {
    let memory = huge::huge(2)?;
    let mut view = vec![0xa5; memory.region.len()];
    let range = memory.region.range();
    for _ in 0..2 {
        equal(
            "out",
            device.migrate_to_device(range, &mut view)?.pages,
            1024,
        )?;
        equal(
            "out again",
            device.migrate_to_device(range, &mut view)?.pages,
            1024,
        )?;
        equal("back", device.migrate_to_system(range)?.pages, 1024)?;
        equal("back again", device.migrate_to_system(range)?.pages, 0)?;
    }
    memory.verify(memory.all())
}

fn zeroed_pages(device: Device) -> Result<()> {
    let memory = Memory::of(options(1).huge(false).map()?);
    memory.fill(0..10);
    let pages = memory.region.pages();
    memory.view(&device, memory.all())?;
    memory.move_back(&device, memory.all(), pages)?;
    memory.verify(0..10)?;
    ensure!(memory.region.is_zero(10..pages));
    let memory = Memory::of(options(1).map()?);
    memory.view(&device, memory.all())?;
    memory.move_back(&device, memory.all(), pages)?;
    ensure!(memory.region.is_zero(memory.all()));
    Ok(())
}

fn part_of_a_huge_page(device: Device) -> Result<()> {
    let memory = huge::huge(1)?;
    let end = memory.region.pages();
    memory.move_out(&device, memory.all())?;
    memory.move_back(&device, 100..300, 200)?;
    memory.expect("before the range", 0..100, Where::Device)?;
    memory.expect("behind the range", 300..end, Where::Device)?;
    memory.device_reads(&device, memory.all())?;
    memory.move_back(&device, memory.all(), end - 200)?;
    memory.verify(memory.all())
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
        ensure!(memory.region.is_zero(512..700) && memory.region.is_zero(710..1024));
        memory.verify(700..710)?;
        memory.verify(1024..2048)?;
    }
    Ok(())
}

fn hole_then_huge_page(device: Device) -> Result<()> {
    let memory = of_all_kinds()?;
    let range = memory.region.range();
    // Only what has data goes, and only a part of that.
    memory.move_out(&device, 0..512)?;
    memory.move_out(&device, 1024..1536)?;
    memory.move_out(&device, 1600..1700)?;
    equal("pages back", device.migrate_to_system(range)?.pages, 1124)?;
    memory.expect("untouched memory", 512..1024, Where::Nowhere)?;
    memory.expect("the first", 0..512, Where::System)?;
    memory.expect("the others", 1024..2048, Where::System)?;
    memory.verify(0..512)?;
    memory.verify(1024..2048)
}

fn huge_among_files(device: Device) -> Result<()> {
    let memory = huge::huge(3)?;
    memory.region.replace_by_shared(512..1024)?;
    memory.fill(512..1024);
    let mut view = vec![0xa5; memory.region.len()];
    let answer = device.migrate_to_device(memory.region.range(), &mut view);
    let counts = fails_counted("MIGRATE_TO_DEV", answer, Errno::ENOENT)?;
    equal("pages counted", counts.pages, 1024)?;
    memory.move_back(&device, memory.all(), 1024)?;
    memory.verify(memory.all())
}

fn after_partial_faults(device: Device) -> Result<()> {
    let memory = huge::huge(1)?;
    memory.move_out(&device, memory.all())?;
    memory.verify(9..10)?;
    memory.verify(400..401)?;
    let left = Survey::of(memory.region.range())?.on_device();
    memory.move_back(&device, memory.all(), left)?;
    memory.verify(memory.all())
}

fn cut_by_mprotect(device: Device) -> Result<()> {
    let memory = huge::huge(1)?;
    memory.move_out(&device, memory.all())?;
    memory.region.protect(100..200, Protection::Read)?;
    memory.device_reads(&device, memory.all())?;
    memory.device_fills(&device, 0..100)?;
    memory.device_fills(&device, 200..512)?;
    memory.expect("after writing", memory.all(), Where::Device)?;
    memory.verify(150..151)?;
    memory.verify(memory.all())
}

fn cut_by_munmap(device: Device) -> Result<()> {
    let mut memory = huge::huge(1)?;
    memory.move_out(&device, memory.all())?;
    let data = memory.data();
    let mut middle = memory.region.split_off(100);
    let tail = middle.split_off(100);
    drop(middle);
    all_at("the tail", tail.range(), Where::Device)?;
    memory.device_reads(&device, 0..100)?;
    memory.verify(50..51)?;
    memory.move_back(&device, 0..100, 99).or_else(|_| {
        // A fault may bring more than a page back.
        memory.expect("after moving back", 0..100, Where::System)
    })?;
    memory.verify(memory.all())?;
    data.from_page(200).check(&tail, 0..tail.pages())?;
    Ok(())
}

fn cut_by_mremap(device: Device) -> Result<()> {
    let mut memory = huge::huge(1)?;
    memory.move_out(&device, memory.all())?;
    let data = memory.data();
    let tail = memory.region.split_off(200).relocate()?;
    all_at("the part that moved", tail.range(), Where::Device)?;
    let mut view = vec![0xa5; tail.len()];
    device.read(tail.range(), &mut view)?;
    data.from_page(200).check_bytes(&view, 0)?;
    memory.device_reads(&device, memory.all())?;
    data.from_page(200).check(&tail, 0..tail.pages())?;
    memory.verify(memory.all())
}

fn cut_by_dontneed(device: Device) -> Result<()> {
    let memory = huge::huge(1)?;
    memory.move_out(&device, memory.all())?;
    memory.device_reads(&device, memory.all())?;
    memory.region.advise(100..200, Advice::DontNeed)?;
    memory.expect("the part that was dropped", 100..200, Where::Nowhere)?;
    memory.device_reads(&device, 0..100)?;
    memory.device_reads(&device, 200..512)?;
    let counts = device.migrate_to_system(memory.region.range())?;
    equal("pages moved back", counts.pages, 412)?;
    ensure!(memory.region.is_zero(100..200));
    memory.verify(0..100)?;
    memory.verify(200..512)
}

fn cut_after_fork(device: Device) -> Result<()> {
    let memory = huge::huge(1)?;
    memory.move_out(&device, memory.all())?;
    let (cut, go) = (Gate::new()?, Gate::new()?);
    let child = helper(|| {
        memory.region.protect(100..200, Protection::Read)?;
        memory.verify(150..300)?;
        cut.open()?;
        go.wait()?;
        memory.verify(memory.all())
    })?;
    cut.wait()?;
    memory.device_reads(&device, memory.all())?;
    memory.region.advise(300..400, Advice::DontNeed)?;
    memory.fill(300..400);
    memory.device_refills(&device, 2)?;
    go.open()?;
    child.join()?;
    memory.verify(memory.all())
}
