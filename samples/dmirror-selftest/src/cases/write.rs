// SPDX-License-Identifier: GPL-2.0

//! WRITE: the CPU sees what the device wrote, and nobody sees what he should
//! not.

use super::{files, huge};
use crate::prelude::*;
use crate::swapping::swap_on;

cases! { "write":
    system_pages = "The device writes pages in system memory, which stay there.",
    resident_pages = "The device writes its own pages, which stay on it; the CPU reads the new data.",
    once_before_a_hole = "What the device has written it does not write again when it meets a hole behind it.",
    part = "The device changes the pages that it is told, and no others.",
    mixed = "The device writes a range of which every third page is on it.",
    second_write = "Writing for the first time takes faults; writing again takes none.",
    write_after_read = "A page that the device may only read is faulted for writing.",
    untouched = "The device writes memory that was never touched.",
    zero_page = "A write to memory that shows the zero page changes that memory alone.",
    huge_zero_page = "A write to memory that shows the huge zero page changes that memory alone.",
    huge = "The device writes huge pages in system memory.",
    resident_huge = "The device writes huge pages on it, which stay there.",
    hugetlb = "The device writes a huge page of the pool (hugetlbfs).",
    larger_than_any_buffer = "64 MiB are written in one call.",
    second_device = "A device writes pages on another one, which brings them back.",
    fork_of_system_pages = "After a fork neither process sees the other's device write to pages in system memory.",
    fork_of_resident_pages = "After a fork neither process sees the other's device write to pages on the device.",
    fork_with_a_writable_entry = "A device that could write to pages before a fork does not write to the child's.",
    shared_memory = "A child sees what the device writes to memory that is shared with it.",
    shared_file = "What the device writes to a shared mapping of a file is in the file, and survives the mapping.",
    private_file = "What the device writes to a private mapping of a file is not in the file.",
    writable_again = "Memory that was read-only for a while takes writes of the device again.",
    survives_madv_free = "What the device wrote to a page given up by MADV_FREE is not dropped when memory is reclaimed.",
    survives_madv_free_there = "What the device wrote to its own page, given up by MADV_FREE before, survives reclaim after it came back.",
    survives_swapping = "What the device wrote to shared memory that had only been read survives swapping.",
    reclaimed_after_the_write = "What the device wrote to private memory survives reclaim.",
}

const PAGES: usize = 40;

fn system_pages(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    for round in 2..6 {
        memory.device_refills(&device, round)?;
        memory.expect("after writing", memory.all(), Where::System)?;
        memory.verify(memory.all())?;
        memory.device_reads(&device, memory.all())?;
    }
    Ok(())
}

fn resident_pages(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    for round in 2..6 {
        memory.move_out(&device, memory.all())?;
        memory.device_refills(&device, round)?;
        memory.expect("after writing", memory.all(), Where::Device)?;
        memory.device_reads(&device, memory.all())?;
        memory.verify(0..PAGES / 2)?;
        memory.move_back(&device, memory.all(), PAGES / 2)?;
        memory.verify(memory.all())?;
    }
    Ok(())
}

fn part(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    let (old, new) = (memory.data(), memory.data().round(2));
    memory.move_out(&device, 10..30)?;
    memory.expect_round(2);
    for pages in [9..12, 20..21, 28..33] {
        memory.device_fills(&device, pages.clone())?;
        new.check(&memory.region, pages)?;
    }
    for pages in [0..9, 12..20, 21..28, 33..PAGES] {
        old.check(&memory.region, pages)?;
    }
    Ok(())
}

fn mixed(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    for page in memory.all().step_by(3) {
        memory.move_out(&device, page..page + 1)?;
    }
    memory.device_refills(&device, 2)?;
    for page in memory.all().step_by(3) {
        memory.expect("after writing", page..page + 1, Where::Device)?;
    }
    memory.device_reads(&device, memory.all())?;
    memory.verify(memory.all())
}

fn second_write(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let faults = memory.device_refills(&device, 2)?;
    ensure!(
        (1..=PAGES as u64).contains(&faults),
        "the first write took {faults} faults"
    );
    equal(
        "faults of the second write",
        memory.device_refills(&device, 3)?,
        0,
    )?;
    equal(
        "faults of a read after it",
        memory.device_reads(&device, memory.all())?,
        0,
    )?;
    memory.verify(memory.all())
}

fn write_after_read(device: Device) -> Result<()> {
    let memory = files::mapped_file()?;
    memory.device_reads(&device, memory.all())?;
    memory.device_refills(&device, 2)?;
    memory.device_reads(&device, memory.all())?;
    memory.verify(memory.all())
}

fn untouched(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = Memory::untouched(PAGES)?;
    memory.device_fills(&device, 3..PAGES - 3)?;
    memory.expect("pages before", 0..3, Where::Nowhere)?;
    memory.expect("pages written", 3..PAGES - 3, Where::System)?;
    memory.verify(3..PAGES - 3)
}

fn zero_page(device: Device) -> Result<()> {
    let memory = Memory::untouched(PAGES)?;
    let other = Region::options(PAGES).huge(false).map()?;
    ensure!(memory.region.is_zero(memory.all()) && other.is_zero(0..PAGES));
    let mut view = vec![0xa5; memory.region.len()];
    device.read(memory.region.range(), &mut view)?;
    memory.device_fills(&device, memory.all())?;
    memory.verify(memory.all())?;
    ensure!(
        other.is_zero(0..PAGES),
        "the zero page is not zero any more"
    );
    Ok(())
}

fn huge_zero_page(device: Device) -> Result<()> {
    let memory = Memory::of(huge::options(1).map()?);
    let other = huge::options(1).map()?;
    memory.region.touch(0);
    other.touch(0);
    memory.device_fills(&device, 100..140)?;
    memory.verify(100..140)?;
    ensure!(memory.region.is_zero(0..100));
    ensure!(memory.region.is_zero(140..memory.region.pages()));
    ensure!(
        other.is_zero(0..other.pages()),
        "the huge zero page is not zero any more"
    );
    Ok(())
}

fn huge(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = huge::huge(2)?;
    memory.device_refills(&device, 2)?;
    memory.is_huge()?;
    memory.verify(memory.all())
}

fn resident_huge(device: Device) -> Result<()> {
    let memory = huge::huge(2)?;
    memory.move_out(&device, memory.all())?;
    memory.device_refills(&device, 2)?;
    memory.expect("after writing", memory.all(), Where::Device)?;
    memory.device_reads(&device, memory.all())?;
    memory.verify(memory.all())
}

fn hugetlb(device: Device) -> Result<()> {
    let memory = Memory::of(files::of_the_pool()?);
    memory.fill(memory.all());
    memory.device_refills(&device, 2)?;
    memory.verify(memory.all())
}

fn larger_than_any_buffer(device: Device) -> Result<()> {
    let region = huge::options((64 << 20) / HUGE).map()?;
    let words = Region::words_per_page();
    let mut data = vec![0; region.len()];
    for (page, bytes) in data.chunks_exact_mut(page_size()).enumerate() {
        let at = page % words * size_of::<u64>();
        bytes[at..at + 8].copy_from_slice(&(page as u64).to_ne_bytes());
    }
    let counts = device.write(region.range(), &data)?;
    equal("pages written", counts.pages, region.range().pages())?;
    for page in 0..region.pages() {
        let seen = region.load(page * words + page % words);
        equal(&format!("page {page}"), seen, page as u64)?;
    }
    Ok(())
}

fn second_device(first: Device, second: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&first, memory.all())?;
    memory.device_reads(&first, memory.all())?;
    memory.device_refills(&second, 2)?;
    memory.expect("after writing", memory.all(), Where::System)?;
    memory.device_reads(&first, memory.all())?;
    memory.device_refills(&first, 3)?;
    memory.device_reads(&second, memory.all())?;
    memory.verify(memory.all())
}

/// Forks, has the opener's device write, then the child's, then both CPUs, and
/// checks at each step that the other side sees none of it.
fn fork(context: &Context, device: &Device, memory: &Memory) -> Result<()> {
    let old = memory.data();
    let (written, go) = (Gate::new()?, Gate::new()?);
    let child = helper(|| {
        go.wait()?;
        old.check(&memory.region, 0..PAGES / 2)?; // the rest is still shared
        let own = context.open()?;
        memory.device_reads(&own, PAGES / 4..PAGES)?;
        memory.device_refills(&own, 7)?;
        written.open()?;
        go.wait()?;
        memory.verify(memory.all())?;
        memory.device_reads(&own, memory.all()).map(drop)
    })?;
    memory.device_refills(device, 2)?;
    go.open()?;
    written.wait()?;
    memory.device_reads(device, memory.all())?;
    memory.verify(memory.all())?;
    memory.refill(3);
    memory.device_reads(device, memory.all())?;
    go.open()?;
    child.join()?;
    memory.device_reads(device, memory.all())?;
    memory.verify(memory.all())
}

fn fork_of_system_pages(context: &Context) -> Result<()> {
    let device = context.open()?;
    fork(context, &device, &Memory::new(PAGES)?)
}

fn fork_of_resident_pages(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    fork(context, &device, &memory)
}

fn fork_with_a_writable_entry(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, 0..PAGES / 2)?;
    memory.device_refills(&device, 2)?;
    fork(context, &device, &memory)
}

fn shared_memory(device: Device) -> Result<()> {
    let memory = Memory::of(Region::options(PAGES).shared().map()?);
    memory.fill(0..PAGES / 2); // the rest is written by the device first
    let written = Gate::new()?;
    let child = helper(|| {
        written.wait()?;
        memory.expect_round(2);
        memory.verify(memory.all())
    })?;
    memory.device_refills(&device, 2)?;
    written.open()?;
    child.join()?;
    memory.verify(memory.all())
}

fn shared_file(context: &Context) -> Result<()> {
    let device = context.open()?;
    let file = files::file_of(&vec![0; PAGES * page_size()])?;
    let memory = Memory::of(
        Region::options(PAGES)
            .shared_file(file.try_clone()?)
            .map()?,
    );
    ensure!(memory.region.is_zero(0..PAGES / 2)); // read-only entries, at first
    memory.device_fills(&device, memory.all())?;
    let data = memory.data();
    let mut bytes = vec![0; PAGES * page_size()];
    file.read_exact_at(&mut bytes, 0)?;
    data.check_bytes(&bytes, 0)?;

    // Reclaimed if there is swap; then nothing is left but the file.
    memory.region.advise(0..PAGES, Advice::PageOut)?;
    drop(memory);
    file.read_exact_at(&mut bytes, 0)?;
    data.check_bytes(&bytes, 0)?;
    Ok(())
}

fn private_file(context: &Context) -> Result<()> {
    let device = context.open()?;
    let file = files::file_of(&vec![0; PAGES * page_size()])?;
    let memory = Memory::of(
        Region::options(PAGES)
            .private_file(file.try_clone()?)
            .map()?,
    );
    ensure!(memory.region.is_zero(0..PAGES / 2));
    memory.device_fills(&device, memory.all())?;
    memory.verify(memory.all())?;
    let mut bytes = vec![0xa5; PAGES * page_size()];
    file.read_exact_at(&mut bytes, 0)?;
    ensure!(bytes.iter().all(|byte| *byte == 0), "the file was written");
    Ok(())
}

fn writable_again(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, 0..PAGES / 2)?;
    memory.device_refills(&device, 2)?;
    memory.region.protect(memory.all(), Protection::Read)?;
    memory.device_reads(&device, memory.all())?;
    memory.region.protect(memory.all(), Protection::ReadWrite)?;
    memory.device_refills(&device, 3)?;
    memory.device_reads(&device, memory.all())?;
    memory.verify(memory.all())
}

fn survives_madv_free(device: Device) -> Result<()> {
    for round in 0..5 {
        let memory = Memory::new(PAGES)?;
        if round % 2 == 0 {
            memory.device_reads(&device, memory.all())?;
        }
        memory.region.advise(memory.all(), Advice::Free)?;
        memory.device_refills(&device, 2)?;
        memory.region.advise(memory.all(), Advice::PageOut)?;
        memory.verify(memory.all())?;
        memory.device_reads(&device, memory.all())?;
    }
    Ok(())
}

fn survives_madv_free_there(device: Device) -> Result<()> {
    for _ in 0..3 {
        let memory = Memory::new(PAGES)?;
        memory.region.advise(memory.all(), Advice::Free)?;
        memory.move_out(&device, memory.all())?;
        memory.device_refills(&device, 2)?;
        memory.move_back(&device, memory.all(), PAGES)?;
        memory.region.advise(memory.all(), Advice::PageOut)?;
        memory.verify(memory.all())?;
    }
    Ok(())
}

fn survives_swapping(device: Device) -> Result<()> {
    let _area = swap_on()?;
    let memory = Memory::of(Region::options(PAGES).shared().map()?);
    ensure!(memory.region.is_zero(memory.all()));
    memory.device_fills(&device, memory.all())?;
    for _ in 0..3 {
        memory.region.advise(memory.all(), Advice::PageOut)?;
        memory.device_reads(&device, memory.all())?;
        memory.verify(memory.all())?;
    }
    Ok(())
}

fn reclaimed_after_the_write(device: Device) -> Result<()> {
    let _area = swap_on()?;
    let memory = Memory::new(PAGES)?;
    for round in 2..6 {
        memory.device_refills(&device, round)?;
        memory.region.advise(memory.all(), Advice::PageOut)?;
        memory.device_reads(&device, memory.all())?;
        memory.verify(memory.all())?;
    }
    Ok(())
}

fn once_before_a_hole(context: &Context) -> Result<()> {
    const PAGES: usize = 6;
    needs_ours("delays on demand")?;
    let device = context.open()?;
    let (memory, range, _behind) = Memory::before_hole(PAGES - 1, 1)?;
    // The device has one page mapped, exclusively, when it writes, and the last one is not there.
    // So its fault is made in parts, of which the first one succeeds.
    device.exclusive(memory.region.part(4..5), &mut vec![0; page_size()])?;
    let (data, new) = (memory.data(), memory.data().round(2));
    let delay = Delay::new("walked", 100_000)?;
    thread::scope(|scope| {
        let writer = scope.spawn(|| anyhow::Ok(device.write(range, &new.to_bytes(0..PAGES))));
        // As soon as the device has written to a page, the CPU does.
        while memory.region.load(0) == data.word(0, 0) {
            thread::yield_now();
        }
        memory.region.store(0, 1);
        let counts = fails_counted("WRITE", joined(writer)?, Errno::EFAULT)?;
        equal("pages written", counts.pages, 5)
    })?;
    drop(delay);
    equal("what the CPU wrote afterwards", memory.region.load(0), 1)?;
    new.check(&memory.region, 1..5)?;
    Ok(())
}
