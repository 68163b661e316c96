// SPDX-License-Identifier: GPL-2.0

//! EXCLUSIVE and CHECK_EXCLUSIVE: pages that only the device can reach, until a
//! CPU wants them.

use std::ops::Range;

use dmirror_client::Place;

use super::huge;
use crate::prelude::*;

cases! { "exclusive":
    given = "Pages become exclusive to the device, which sees their data.",
    nothing_else_is = "Pages that nobody asked for are not exclusive.",
    read_by_the_device = "The device's reads keep its pages exclusive.",
    written_by_the_device = "The device's writes keep its pages exclusive, and the CPU sees them afterwards.",
    faults_around_it = "Faults of the device on holes beside its exclusive pages keep these exclusive.",
    read_by_a_cpu = "A read by the CPU ends the exclusive access to the page that it touches alone.",
    written_by_a_cpu = "A write by the CPU ends the exclusive access; the device sees the data.",
    again_and_again = "Device and CPU write one page by turns, and each sees the other's data.",
    untouched = "Memory that was never touched becomes exclusive and zero.",
    zero_page = "Memory that shows the zero page becomes exclusive, and other memory stays zero.",
    resident_pages = "Pages on the device come back to system memory and become exclusive.",
    on_another_device = "Pages on another device come back to system memory and become exclusive.",
    huge = "Pages of a huge page become exclusive one by one; the rest is left alone.",
    resident_huge = "Pages of a huge page on the device become exclusive.",
    migrated = "Exclusive pages go to the device, or stay; the data is right, and they are not exclusive there.",
    second_device = "A device that asks for exclusive access takes it from another.",
    read_by_another_device = "A device that reads a page ends the exclusive access of another.",
    second_open = "An open file of the same device sees what was written to exclusive pages through another.",
    mprotect = "Memory made read-only is not exclusive, and the device does not write it.",
    unmapped = "Memory that is mapped anew where exclusive pages were is not exclusive.",
    moved = "Memory that mremap moved is exclusive neither at its old nor at its new place.",
    dropped = "MADV_DONTNEED of exclusive pages drops them.",
    fork = "A fork ends exclusive access; each process keeps its own data.",
    after_fork = "Pages shared by fork are copied before they become exclusive.",
    closed = "After the file was closed the CPU reads and writes what was exclusive.",
    snapshot_keeps_it = "A snapshot does not end exclusive access.",
}

const PAGES: usize = 24;

/// Makes pages exclusive. Checks the count, each byte, that the device says so,
/// and that the CPU's page table agrees.
pub(super) fn take(device: &Device, memory: &Memory, pages: Range<usize>) -> Result<()> {
    let range = memory.region.part(pages.clone());
    let mut view = vec![0xa5; pages.len() * page_size()];
    let counts = device.exclusive(range, &mut view)?;
    equal("pages made exclusive", counts.pages, range.pages())?;
    memory
        .data()
        .check_bytes(&view, pages.start)
        .context("the device's view of exclusive pages")?;
    held(device, memory, pages)
}

/// Checks that pages are exclusive, each of them.
pub(super) fn held(device: &Device, memory: &Memory, pages: Range<usize>) -> Result<()> {
    for page in pages.clone() {
        let exclusive = device.is_exclusive(memory.region.part(page..page + 1))?;
        ensure!(exclusive, "page {page} is not exclusive");
    }
    let survey = Survey::of(memory.region.part(pages.clone()))?;
    if survey.frames_shown() {
        let held = survey.count(|place| *place == Place::Held);
        equal("pages that no CPU can reach", held, pages.len())?;
    }
    Ok(())
}

/// Checks that no page is exclusive.
pub(super) fn free(device: &Device, memory: &Memory, pages: Range<usize>) -> Result<()> {
    let exclusive = device.is_exclusive(memory.region.part(pages.clone()))?;
    ensure!(!exclusive, "some page of {pages:?} is exclusive");
    Ok(())
}

fn given(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    take(&device, &memory, 0..PAGES)?;
    memory.verify(memory.all())?;
    free(&device, &memory, 0..PAGES)
}

fn nothing_else_is(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    free(&device, &memory, 0..PAGES)?;
    memory.move_out(&device, 0..4)?;
    memory.device_refills(&device, 2)?;
    free(&device, &memory, 0..PAGES)?;
    take(&device, &memory, 10..12)?;
    free(&device, &memory, 0..10)?;
    free(&device, &memory, 12..PAGES)?;
    ensure!(device.is_exclusive(memory.region.range())?);
    memory.verify(memory.all())
}

fn read_by_the_device(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    take(&device, &memory, 4..20)?;
    equal(
        "faults of reading exclusive pages",
        memory.device_reads(&device, 4..20)?,
        0,
    )?;
    held(&device, &memory, 4..20)?;
    memory.device_reads(&device, memory.all())?;
    held(&device, &memory, 4..20)?;
    memory.verify(memory.all())
}

fn written_by_the_device(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    take(&device, &memory, 0..PAGES)?;
    for round in 2..6 {
        equal(
            "faults of writing exclusive pages",
            memory.device_refills(&device, round)?,
            0,
        )?;
        held(&device, &memory, 0..PAGES)?;
        memory.device_reads(&device, memory.all())?;
    }
    memory.verify(memory.all())?;
    free(&device, &memory, 0..PAGES)
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
            memory
                .data()
                .check_bytes(&view[4 * page_size()..20 * page_size()], 4)?;
        }
        held(&device, &memory, 4..20)?;
        memory.verify(4..20)?;
    }
    Ok(())
}

fn read_by_a_cpu(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    take(&device, &memory, 0..PAGES)?;
    memory.verify(7..8)?;
    free(&device, &memory, 7..8)?;
    held(&device, &memory, 0..7)?;
    held(&device, &memory, 8..PAGES)?;
    memory.device_reads(&device, memory.all()).map(drop)
}

fn written_by_a_cpu(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    take(&device, &memory, 0..PAGES)?;
    memory.refill(2);
    free(&device, &memory, 0..PAGES)?;
    memory.device_reads(&device, memory.all())?;
    take(&device, &memory, 0..PAGES)?;
    memory.verify(memory.all())
}

fn again_and_again(device: Device) -> Result<()> {
    let memory = Memory::new(2)?;
    for round in 1..40 {
        take(&device, &memory, 0..2)?;
        memory.device_refills(&device, 2 * round)?;
        memory.verify(0..1)?;
        memory.refill(2 * round + 1);
        memory.device_reads(&device, memory.all())?;
    }
    Ok(())
}

fn untouched(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = Memory::untouched(PAGES)?;
    let mut view = vec![0xa5; memory.region.len()];
    let counts = device.exclusive(memory.region.range(), &mut view)?;
    equal("pages made exclusive", counts.pages, PAGES as u64)?;
    ensure!(view.iter().all(|byte| *byte == 0));
    held(&device, &memory, 0..PAGES)?;
    memory.device_fills(&device, 0..PAGES)?;
    memory.verify(memory.all())
}

fn zero_page(device: Device) -> Result<()> {
    let memory = Memory::untouched(PAGES)?;
    let other = Region::options(PAGES).huge(false).map()?;
    ensure!(memory.region.is_zero(0..PAGES) && other.is_zero(0..PAGES));
    let mut view = vec![0xa5; memory.region.len()];
    device.exclusive(memory.region.range(), &mut view)?;
    ensure!(view.iter().all(|byte| *byte == 0));
    memory.device_fills(&device, 0..PAGES)?;
    held(&device, &memory, 0..PAGES)?;
    ensure!(other.is_zero(0..PAGES), "other memory was written");
    memory.verify(memory.all())
}

fn resident_pages(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, 4..20)?;
    memory.device_refills(&device, 2)?;
    take(&device, &memory, 0..PAGES)?;
    memory.device_refills(&device, 3)?;
    held(&device, &memory, 0..PAGES)?;
    memory.verify(memory.all())?;
    memory.expect("after the CPU read them", 0..PAGES, Where::System)
}

fn on_another_device(first: Device, second: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&second, memory.all())?;
    take(&first, &memory, 0..PAGES)?;
    memory.verify(memory.all())
}

fn huge(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = huge::huge(1)?;
    take(&device, &memory, 100..110)?;
    free(&device, &memory, 0..100)?;
    free(&device, &memory, 110..memory.region.pages())?;
    memory.verify(memory.all())?;
    take(&device, &memory, memory.all())?;
    memory.device_refills(&device, 2)?;
    memory.verify(memory.all())
}

fn resident_huge(device: Device) -> Result<()> {
    let memory = huge::huge(1)?;
    memory.move_out(&device, memory.all())?;
    take(&device, &memory, 100..110)?;
    memory.device_reads(&device, memory.all())?;
    memory.verify(memory.all())
}

fn migrated(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
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
    memory.device_reads(&device, memory.all())?;
    memory.verify(memory.all())?;
    memory.move_out(&device, memory.all())
}

fn second_device(first: Device, second: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    for round in 1..6 {
        take(&first, &memory, 0..PAGES)?;
        memory.device_refills(&first, 2 * round)?;
        take(&second, &memory, 4..20)?;
        free(&first, &memory, 4..20)?;
        held(&first, &memory, 0..4)?;
        memory.device_refills(&second, 2 * round + 1)?;
        free(&first, &memory, 0..PAGES)?;
        held(&second, &memory, 4..20)?;
    }
    memory.verify(memory.all())
}

fn read_by_another_device(first: Device, second: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    take(&first, &memory, 0..PAGES)?;
    memory.device_refills(&first, 2)?;
    memory.device_reads(&second, 4..20)?;
    free(&first, &memory, 4..20)?;
    held(&first, &memory, 20..PAGES)?;
    memory.device_refills(&first, 3)?;
    memory.device_reads(&second, memory.all())?;
    memory.verify(memory.all())
}

fn second_open(context: &Context) -> Result<()> {
    let (first, second) = (context.open()?, context.open()?);
    let memory = Memory::new(PAGES)?;
    memory.device_reads(&second, memory.all())?;
    for round in 1..6 {
        take(&first, &memory, 0..PAGES)?;
        memory.device_refills(&first, 2 * round)?;
        memory.device_reads(&second, memory.all())?;
        memory.device_refills(&second, 2 * round + 1)?;
        memory.device_reads(&first, memory.all())?;
    }
    memory.verify(memory.all())
}

fn mprotect(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    take(&device, &memory, 0..PAGES)?;
    memory.device_refills(&device, 2)?;
    memory.region.protect(memory.all(), Protection::Read)?;
    let bytes = memory.data().round(9).to_bytes(memory.all());
    let answer = device.write(memory.region.range(), &bytes);
    fails_at_once("WRITE", answer, Errno::EPERM)?;
    free(&device, &memory, 0..PAGES)?;
    memory.device_reads(&device, memory.all())?;
    memory.verify(memory.all())
}

fn unmapped(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    take(&device, &memory, 0..PAGES)?;
    memory.region.replace_by_shared(4..20)?;
    free(&device, &memory, 4..20)?;
    held(&device, &memory, 0..4)?;
    reads_zero(&device, memory.region.part(4..20))?;
    ensure!(memory.region.is_zero(4..20));
    memory.verify(0..4)
}

fn moved(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    take(&device, &memory, 0..PAGES)?;
    memory.device_refills(&device, 2)?;
    let (data, before) = (memory.data(), memory.region.range());
    let region = memory.region.relocate()?;
    ensure!(!device.is_exclusive(before)?, "exclusive at the old place");
    ensure!(
        !device.is_exclusive(region.range())?,
        "exclusive at the new place"
    );
    let mut view = vec![0xa5; region.len()];
    device.read(region.range(), &mut view)?;
    data.check_bytes(&view, 0)?;
    data.check(&region, 0..PAGES)?;
    Ok(())
}

fn dropped(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    take(&device, &memory, 0..PAGES)?;
    memory.region.advise(4..20, Advice::DontNeed)?;
    free(&device, &memory, 4..20)?;
    ensure!(memory.region.is_zero(4..20));
    memory.verify(0..4)?;
    memory.verify(20..PAGES)
}

fn fork(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    take(&device, &memory, 0..PAGES)?;
    memory.device_refills(&device, 2)?;
    let written = Gate::new()?;
    let child = helper(|| {
        written.wait()?;
        memory.expect_round(2);
        memory.verify(memory.all())?;
        memory.refill(4);
        memory.verify(memory.all())
    })?;
    free(&device, &memory, 0..PAGES)?;
    memory.device_refills(&device, 3)?;
    written.open()?;
    memory.device_reads(&device, memory.all())?;
    child.join()?;
    memory.verify(memory.all())
}

fn after_fork(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let written = Gate::new()?;
    let child = helper(|| {
        written.wait()?;
        memory.verify(memory.all())
    })?;
    take(&device, &memory, 0..PAGES)?;
    memory.device_refills(&device, 2)?;
    held(&device, &memory, 0..PAGES)?;
    written.open()?;
    child.join()?;
    held(&device, &memory, 0..PAGES)?;
    memory.verify(memory.all())
}

fn closed(context: &Context) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let device = context.open()?;
    take(&device, &memory, 0..PAGES)?;
    memory.device_refills(&device, 2)?;
    drop(device);
    memory.verify(memory.all())?;
    memory.refill(3);
    let device = context.open()?;
    free(&device, &memory, 0..PAGES)?;
    memory.device_reads(&device, memory.all()).map(drop)
}

fn snapshot_keeps_it(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    take(&device, &memory, 0..PAGES)?;
    device.snapshot(memory.region.range())?;
    held(&device, &memory, 0..PAGES)?;
    memory.verify(memory.all())?;
    let write = dmirror_client::device::prot::WRITE;
    snapshot_is("after the CPU read", &device, memory.region.range(), write)
}
