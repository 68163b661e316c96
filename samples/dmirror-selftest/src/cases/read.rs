// SPDX-License-Identifier: GPL-2.0

//! READ: the device sees the same data as the CPU, wherever the pages are, and leaves them there.
//! It never sees old data.

use std::io;
use std::ops::Range;

use dmirror_client::device::prot;
use dmirror_client::place::Usage;
use dmirror_client::region::Options;

use super::{files, huge};
use crate::prelude::*;
use crate::steps::{ALL, HALF, NONE, PAGES, Verb::*, Who::*, small, steps};

cases! { "read":
    system_pages = "The device reads pages in system memory, which stay there."
        => |device: Device| reads(&device, &Memory::new(PAGES)?, Where::System),
    unlocked = "READ_UNLOCKED reads pages in system memory and on the device.",
    resident_pages = "The device reads its own pages, which stay on it."
        => resident(PAGES, |device, memory| reads(device, memory, Where::Device)),
    mixed = "The device reads a range of which every third page is on it."
        => |device: Device| every_third(&device, |memory| memory.reads(&device)),
    second_device = "A device reads pages on another one, which brings them back." => steps(small, [
            (A, Out(ALL)), (Second, Reads(ALL)), (Cpu, Finds(ALL, Where::System)), (Cpu, Writes),
            (A, Reads(ALL)), (Second, Reads(ALL)), (Cpu, Reads(ALL)),
        ]),
    second_read = "Reading for the first time takes faults; reading again takes none."
        => steps(small, [(A, ReadsIn(1..=PAGES as u64, ALL)), (A, ReadsIn(NONE, ALL))]),
    neighbours_stay_mapped = "Dropping pages costs the device none of its entries for their neighbours."
        => steps(small, [
            (A, Reads(ALL)), (Cpu, Advises(10..20, Advice::DontNeed)), (A, ReadsIn(NONE, 0..10)),
            (A, ReadsIn(NONE, 20..PAGES)), (A, ReadsZeros(10..20)),
        ]),
    untouched = "Memory that was never touched reads as zero."
        => |device: Device| untouched(&device, Region::options(PAGES).huge(false)),
    untouched_huge = "Memory that may be huge and was never touched reads as zero."
        => |device: Device| untouched(&device, huge::options(1)?),
    written_after_untouched = "The device sees CPU writes to memory that it first read untouched."
        => steps(|| Memory::untouched(PAGES), [
            (A, ReadsZeros(ALL)), (Cpu, Fills(HALF)), (A, Reads(HALF)),
            (A, ReadsZeros(PAGES / 2..PAGES)), (Cpu, Fills(PAGES / 2..PAGES)), (A, Reads(ALL)),
        ]),
    shared_memory = "The device reads memory that is shared with children.",
    shared_file = "The device reads a shared mapping of a file.",
    private_file = "The device reads a private mapping of a file, and sees it when the program writes its copy."
        => steps(files::mapped_file, [
            (A, Reads(ALL)), (Cpu, Writes), (A, Reads(ALL)),
            // The program's own pages may go to the device; it sees them there.
            (A, Out(ALL)), (A, Reads(ALL)),
        ]),
    hugetlb = "The device reads a huge page of the pool (hugetlbfs)."
        => steps(|| Ok(Memory::filled(files::of_the_pool()?)), [
            (A, Reads(ALL)), (A, Reads(100..200)), (Cpu, Writes), (A, Reads(ALL)),
        ]),
    huge = "The device reads huge pages in system memory, which stay huge."
        => |device: Device| reads(&device, &huge::huge(2)?, Where::System),
    resident_huge = "The device reads huge pages on it, which stay there.",
    several_mappings = "One read spans mappings of different protection and kind." => steps(small, [
            (A, Does(|_, memory| Ok(memory.region.replace_by_shared(10..20)?))),
            (Cpu, Fills(10..20)), (A, Out(0..5)), (Cpu, Protects(3..8, Protection::Read)),
            (Cpu, Protects(15..25, Protection::Read)), (A, Reads(ALL)),
            (Cpu, Finds(0..5, Where::Device)), (Cpu, Finds(5..PAGES, Where::System)),
        ]),
    larger_than_any_buffer = "64 MiB are read in one call.",
    read_only_resident = "The device reads its pages after they were made read-only."
        => steps(small, [
            (A, Out(ALL)), (Cpu, Protects(ALL, Protection::Read)), (A, Reads(ALL)),
            (Cpu, Finds(ALL, Where::Device)), (Cpu, Reads(ALL)), (A, Reads(ALL)),
        ]),
    cpu_writes = "The device sees each of many CPU writes."
        => steps(small, [(Cpu, Times(18, vec![(A, Reads(ALL)), (Cpu, Writes)])), (A, Reads(ALL))]),
    migration_in_between = "The device reads the right data before, during and after a stay of the pages on it."
        => steps(small, [
            (Cpu, Times(10, vec![
                (A, Reads(ALL)), (A, Out(ALL)), (A, Reads(ALL)),
                (Cpu, Reads(HALF)), // come back by faults
                (A, Reads(ALL)), (A, Back(ALL, PAGES / 2)), (A, Reads(ALL)), (Cpu, Writes),
            ])),
            (A, Reads(ALL)),
        ]),
    mapped_anew = "Memory that was replaced by a new mapping reads as the new one."
        => |device: Device| dropped(&device, Region::replace_by_shared),
    unmapped_and_mapped = "Memory that was unmapped and mapped again at the same place reads as zero.",
    moved = "Memory that mremap moved is read at its new place, and not at the old one.",
    dontneed = "Memory that MADV_DONTNEED dropped reads as zero, on the device too."
        => |device: Device| dropped(&device, |region, part| region.advise(part, Advice::DontNeed)),
    after_fork = "After a fork the device reads what its opener wrote, not what the child did.",
}

/// Makes the device read memory, all of which is at `place`, whole and in parts, and checks that
/// this does not change the memory.
fn reads(device: &Device, memory: &Memory, place: Where) -> Result<()> {
    let (pages, range) = (memory.region.pages(), memory.region.range());
    let huge = Usage::of(range)?.huge;
    let parts = [0..pages, 0..pages, 7..8, 3..pages - 5, 300..301, 77..600];
    for part in parts.into_iter().filter(|part| part.end <= pages) {
        memory.device_reads(device, part)?;
        memory.expect("after reading", memory.all(), place)?;
    }
    let local = u8::from(place == Where::Device) * prot::PRIVATE_LOCAL;
    for byte in device.snapshot(range)? {
        equal("but for the size", byte & !prot::PMD, prot::WRITE | local)?;
    }
    equal("bytes in huge pages", Usage::of(range)?.huge, huge)?;
    memory.intact()?;
    memory.device_sees(device, 2)
}

fn unlocked(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, 5..20)?;
    for _ in 0..2 {
        let mut view = vec![0xa5; memory.region.len()];
        let counts = device.read_unlocked(memory.region.range(), &mut view)?;
        equal("pages read", counts.pages, PAGES as u64)?;
        memory.data().check_bytes(&view, 0)?;
        memory.only(5..20, Where::Device, Where::System)?;
    }
    Ok(())
}

/// Makes the device access memory of which every third page is on it, and checks that no page
/// changes its place.
pub(super) fn every_third(
    device: &Device,
    access: impl FnOnce(&Memory) -> Result<()>,
) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    for page in memory.all().step_by(3) {
        memory.move_out(device, page..page + 1)?;
    }
    access(&memory)?;
    for page in memory.all() {
        let place = [Where::Device, Where::System, Where::System][page % 3];
        memory.expect("afterwards", page..page + 1, place)?;
    }
    memory.both_read(device)
}

fn untouched(device: &Device, options: Options) -> Result<()> {
    let memory = Memory::of(options.map()?);
    reads_zero(device, memory.region.range())?;
    memory.is_zero(memory.all())
}

fn shared_memory(device: Device) -> Result<()> {
    let memory = Memory::of(Region::options(PAGES).shared().map()?);
    reads_zero(&device, memory.region.range())?;
    memory.device_sees(&device, 1)?;
    in_child(|| memory.rewrite(2))?;
    memory.expect_round(2);
    memory.reads(&device)
}

fn shared_file(device: Device) -> Result<()> {
    let file = files::file_of(&vec![0; PAGES * page_size()])?;
    let again = file.try_clone()?;
    let writer = Region::options(PAGES).shared_file(again).map()?;
    let memory = Memory::of(Region::options(PAGES).shared_file(file).map()?);
    memory.data().fill(&writer, 0..PAGES);
    memory.reads(&device)?;
    // Write through the other mapping: no page of this one changes, only the data.
    memory.expect_round(2);
    memory.data().fill(&writer, 0..PAGES);
    memory.reads_at(&device, Where::System)
}

fn resident_huge(device: Device) -> Result<()> {
    let memory = huge::huge(2)?;
    memory.out(&device)?;
    reads(&device, &memory, Where::Device)
}

/// Returns the index, in the whole region, of a word of a page. Its place differs from page to
/// page.
pub(super) fn word_of(page: usize) -> usize {
    page * Region::words_per_page() + page % Region::words_per_page()
}

fn larger_than_any_buffer(device: Device) -> Result<()> {
    let region = huge::options((64_usize << 20).div_ceil(hpage_pmd_size()))?.map()?;
    // Do not fill it, which is slow under emulation. One word per page is enough.
    for page in 0..region.pages() {
        region.store(word_of(page), page as u64);
    }
    let mut view = vec![0xa5; region.len()];
    let counts = device.read(region.range(), &mut view)?;
    equal("pages read", counts.pages, region.range().pages())?;
    for page in 0..region.pages() {
        let word = &view[8 * word_of(page)..][..8];
        let seen = u64::from_ne_bytes(word.try_into()?);
        equal(&format!("page {page}"), seen, page as u64)?;
    }
    Ok(())
}

/// Drops pages with `drop`, half of them on the device, and keeps some on each side.
fn dropped(device: &Device, drop: fn(&Region, Range<usize>) -> io::Result<()>) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(device, 0..PAGES / 2)?;
    memory.reads(device)?;
    drop(&memory.region, 5..PAGES - 5)?;
    reads_zero(device, memory.region.part(5..PAGES - 5))?;
    memory.device_reads(device, 0..5)?;
    memory.device_reads(device, PAGES - 5..PAGES)?;
    memory.expect("pages that were not dropped", 0..5, Where::Device)?;
    memory.device_sees(device, 1)
}

fn unmapped_and_mapped(device: Device) -> Result<()> {
    let mut reused = 0;
    for round in 0..20 {
        let memory = Memory::placed(&device, PAGES, round % 2 == 0)?;
        memory.reads(&device)?;
        let before = memory.region.addr();
        drop(memory);
        // The kernel gives the addresses that were freed last.
        let fresh = Region::options(PAGES)
            .align(hpage_pmd_size())
            .huge(false)
            .map()?;
        reused += usize::from(fresh.addr() == before);
        reads_zero(&device, fresh.range())?;
    }
    ensure!(reused > 0, "no address was used again");
    Ok(())
}

fn moved(device: Device) -> Result<()> {
    for resident in [false, true] {
        let memory = Memory::placed(&device, PAGES, resident)?;
        let before = memory.region.range();
        memory.reads(&device)?;
        let memory = memory.relocated()?;
        let answer = device.read(before, &mut vec![0xa5; memory.region.len()]);
        fails("READ at the old place", answer, Errno::EFAULT)?;
        memory.reads(&device)?;
        let expected = if resident { PAGES } else { 0 };
        equal("pages on the device", memory.on_device()?, expected)?;
        memory.intact()?;
    }
    Ok(())
}

fn after_fork(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, 0..PAGES / 2)?;
    memory.reads(&device)?;
    let (written, seen) = (Gate::new()?, Gate::new()?);
    let child = helper(|| {
        memory.refill(2);
        written.open()?;
        seen.wait()?;
        memory.intact()?;
        // The descriptor refers to the memory of the opener, no matter who uses it.
        memory.expect_round(3);
        memory.reads(&device)
    })?;
    written.wait()?;
    memory.reads(&device)?;
    memory.device_sees(&device, 3)?;
    seen.open()?;
    child.join()?;
    memory.reads(&device)
}
