// SPDX-License-Identifier: GPL-2.0

//! WRITE: the CPU sees the data that the device wrote, and no process sees data that it must not
//! see.

use std::ops::Range;

use dmirror_client::Command;
use dmirror_client::place::Usage;

use super::read::{every_third, word_of};
use super::{files, huge};
use crate::prelude::*;
use crate::steps::{ALL, HALF, NONE, PAGES, Verb::*, Who::*, again, small, steps};
use crate::swapping::swap_on;

cases! { "write":
    system_pages = "The device writes pages in system memory, which stay there."
        => |device: Device| writes(&device, &Memory::new(PAGES)?, 2..6),
    resident_pages = "The device writes its own pages, which stay on it; the CPU reads the new data."
        => steps(small, [(Cpu, Times(4, vec![
            (A, Out(ALL)), (A, Writes), (Cpu, Finds(ALL, Where::Device)), (A, Reads(ALL)),
            (Cpu, Reads(HALF)), (A, Back(ALL, PAGES / 2)), (Cpu, Reads(ALL)),
        ]))]),
    once_before_a_hole = "The device does not write data twice when it meets a hole behind it.",
    part = "The device changes the pages that it is told, and no others.",
    mixed = "The device writes a range of which every third page is on it."
        => |device: Device| every_third(&device, |all| all.device_refills(&device, 2).map(drop)),
    second_write = "Writing for the first time takes faults; writing again takes none."
        => steps(small, [
            (A, WritesIn(1..=PAGES as u64)), (A, WritesIn(NONE)), (A, ReadsIn(NONE, ALL)),
            (Cpu, Reads(ALL)),
        ]),
    write_after_read = "A page that the device may only read is faulted for writing."
        => steps(files::mapped_file, [
            (A, Reads(ALL)), (A, Writes), (A, Reads(ALL)), (Cpu, Reads(ALL)),
        ]),
    untouched = "The device writes memory that was never touched."
        => steps(|| Memory::untouched(PAGES), [
            (A, Fills(3..PAGES - 3)), (Cpu, Finds(0..3, Where::Nowhere)),
            (Cpu, Finds(3..PAGES - 3, Where::System)), (Cpu, Reads(3..PAGES - 3)),
        ]),
    zero_page = "A write to memory that shows the zero page changes that memory alone.",
    huge_zero_page = "A write to memory that shows the huge zero page changes that memory alone.",
    huge = "The device writes huge pages in system memory."
        => |device: Device| writes(&device, &huge::huge(2)?, 2..3),
    resident_huge = "The device writes huge pages on it, which stay there."
        => steps(|| huge::huge(2), [
            (A, Out(ALL)), (A, Writes), (Cpu, Finds(ALL, Where::Device)), (A, Reads(ALL)),
            (Cpu, Reads(ALL)),
        ]),
    hugetlb = "The device writes a huge page of the pool (hugetlbfs)."
        => |device: Device| Memory::filled(files::of_the_pool()?).cpu_sees(&device, 2),
    larger_than_any_buffer = "64 MiB are written in one call.",
    second_device = "A device writes pages on another one, which brings them back."
        => steps(small, [
            (A, Out(ALL)), (A, Reads(ALL)), (Second, Writes), (Cpu, Finds(ALL, Where::System)),
            (A, Reads(ALL)), (A, Writes), (Second, Reads(ALL)), (Cpu, Reads(ALL)),
        ]),
    fork_of_system_pages = "After a fork neither process sees the other's device write to pages in system memory."
        => |context: &Context| fork(context, 0..0, false),
    fork_of_resident_pages = "After a fork neither process sees the other's device write to pages on the device."
        => |context: &Context| fork(context, 0..PAGES, false),
    fork_with_a_writable_entry = "A device that could write to pages before a fork does not write to the child's."
        => |context: &Context| fork(context, 0..PAGES / 2, true),
    shared_memory = "A child sees what the device writes to memory that is shared with it.",
    shared_file = "Device writes to a shared mapping of a file are in the file, and survive the mapping.",
    private_file = "Device writes to a private mapping of a file are not in the file.",
    writable_again = "Memory that was read-only for a while takes writes of the device again."
        => steps(small, [
            (A, Out(HALF)), (A, Writes), (Cpu, Protects(ALL, Protection::Read)), (A, Reads(ALL)),
            (Cpu, Protects(ALL, Protection::ReadWrite)), (A, Writes), (A, Reads(ALL)),
            (Cpu, Reads(ALL)),
        ]),
    survives_madv_free = "Reclaim does not drop device writes to a page that MADV_FREE gave up before.",
    survives_madv_free_there = "Device writes to a page on the device that MADV_FREE gave up before survive reclaim after it came back."
        => again(3, steps(small, [
            (Cpu, Advises(ALL, Advice::Free)), (A, Out(ALL)), (A, Writes), (A, Back(ALL, PAGES)),
            (Cpu, Advises(ALL, Advice::PageOut)), (Cpu, Reads(ALL)),
        ])),
    survives_swapping = "Device writes to shared memory that had only been read survive swapping."
        => swapping(steps(shared, [
            (Cpu, ReadsZeros(ALL)), (A, Fills(ALL)),
            (Cpu, Times(3, vec![
                (Cpu, Advises(ALL, Advice::PageOut)), (A, Reads(ALL)), (Cpu, Reads(ALL)),
            ])),
        ])),
    reclaimed_after_the_write = "Device writes to private memory survive reclaim."
        => swapping(steps(small, [(Cpu, Times(4, vec![
            (A, Writes), (Cpu, Advises(ALL, Advice::PageOut)), (A, Reads(ALL)), (Cpu, Reads(ALL)),
        ]))])),
}

/// Makes the device write memory in system memory, and checks that it stays there, in pages as huge
/// as before.
fn writes(device: &Device, memory: &Memory, rounds: Range<u16>) -> Result<()> {
    let huge = Usage::of(memory.region.range())?.huge;
    for round in rounds {
        memory.device_refills(device, round)?;
        memory.expect("after writing", memory.all(), Where::System)?;
        let seen = Usage::of(memory.region.range())?.huge;
        equal("bytes in huge pages", seen, huge)?;
        memory.intact()?;
        memory.reads(device)?;
    }
    Ok(())
}

fn part(device: Device) -> Result<()> {
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

/// Maps the zero page in two regions, has one written, and checks both.
pub(super) fn beside_zeros(write: impl FnOnce(&Memory) -> Result<()>) -> Result<()> {
    let (memory, other) = (Memory::untouched(PAGES)?, Memory::untouched(PAGES)?);
    memory.is_zero(memory.all())?;
    other.is_zero(other.all())?;
    write(&memory)?;
    other.is_zero(other.all()).context("the zero page")?;
    memory.intact()
}

fn zero_page(device: Device) -> Result<()> {
    beside_zeros(|memory| {
        memory.send(&device, Command::Read)?;
        memory.device_fills(&device, memory.all()).map(drop)
    })
}

fn huge_zero_page(device: Device) -> Result<()> {
    let memory = Memory::of(huge::options(1)?.map()?);
    let other = Memory::of(huge::options(1)?.map()?);
    memory.region.touch(0);
    other.region.touch(0);
    memory.device_fills(&device, 100..140)?;
    memory.verify(100..140)?;
    memory.is_zero(0..100)?;
    memory.is_zero(140..memory.region.pages())?;
    other.is_zero(other.all()).context("the huge zero page")
}

fn larger_than_any_buffer(device: Device) -> Result<()> {
    let region = huge::options((64_usize << 20).div_ceil(hpage_pmd_size()))?.map()?;
    let mut data = vec![0; region.len()];
    for page in 0..region.pages() {
        let word = &mut data[8 * word_of(page)..][..8];
        word.copy_from_slice(&(page as u64).to_ne_bytes());
    }
    let counts = device.write(region.range(), &data)?;
    equal("pages written", counts.pages, region.range().pages())?;
    for page in 0..region.pages() {
        let seen = region.load(word_of(page));
        equal(&format!("page {page}"), seen, page as u64)?;
    }
    Ok(())
}

/// Forks, writes with the opener's device, then with the child's, then with both CPUs, and checks
/// at each step that the other side sees none of it.
fn fork(context: &Context, there: Range<usize>, writable: bool) -> Result<()> {
    let (device, memory) = (&context.open()?, Memory::new(PAGES)?);
    if !there.is_empty() {
        memory.move_out(device, there)?;
    }
    if writable {
        memory.device_refills(device, 4)?;
    }
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
        memory.intact()?;
        memory.reads(&own)
    })?;
    memory.device_refills(device, 2)?;
    go.open()?;
    written.wait()?;
    memory.both_read(device)?;
    memory.device_sees(device, 3)?;
    go.open()?;
    child.join()?;
    memory.both_read(device)
}

fn shared_memory(device: Device) -> Result<()> {
    let memory = shared()?;
    memory.fill(0..PAGES / 2); // the rest is written by the device first
    let written = Gate::new()?;
    let child = helper(|| {
        written.wait()?;
        memory.expect_round(2);
        memory.intact()
    })?;
    memory.device_refills(&device, 2)?;
    written.open()?;
    memory.survives(child)
}

fn shared_file(device: Device) -> Result<()> {
    let file = files::file_of(&vec![0; PAGES * page_size()])?;
    let again = file.try_clone()?;
    let memory = Memory::of(Region::options(PAGES).shared_file(again).map()?);
    memory.is_zero(0..PAGES / 2)?; // read-only entries, at first
    memory.device_fills(&device, memory.all())?;
    let data = memory.data();
    let mut bytes = vec![0; PAGES * page_size()];
    file.read_exact_at(&mut bytes, 0)?;
    data.check_bytes(&bytes, 0)?;

    // The pages are reclaimed if there is swap; then nothing is left but the file.
    memory.region.advise(0..PAGES, Advice::PageOut)?;
    drop(memory);
    file.read_exact_at(&mut bytes, 0)?;
    Ok(data.check_bytes(&bytes, 0)?)
}

fn private_file(device: Device) -> Result<()> {
    let file = files::file_of(&vec![0; PAGES * page_size()])?;
    let again = file.try_clone()?;
    let memory = Memory::of(Region::options(PAGES).private_file(again).map()?);
    memory.is_zero(0..PAGES / 2)?;
    memory.device_fills(&device, memory.all())?;
    memory.intact()?;
    let mut bytes = vec![0xa5; PAGES * page_size()];
    file.read_exact_at(&mut bytes, 0)?;
    zeros("the file", &bytes)
}

fn survives_madv_free(device: Device) -> Result<()> {
    for round in 0..5 {
        let memory = Memory::new(PAGES)?;
        if round % 2 == 0 {
            memory.reads(&device)?;
        }
        memory.region.advise(memory.all(), Advice::Free)?;
        memory.device_refills(&device, 2)?;
        memory.region.advise(memory.all(), Advice::PageOut)?;
        memory.intact()?;
        memory.reads(&device)?;
    }
    Ok(())
}

/// Returns a case with swap space.
fn swapping(case: impl Fn(&Context) -> Result<()>) -> impl Fn(&Context) -> Result<()> {
    move |context| {
        let _area = swap_on()?;
        case(context)
    }
}

fn shared() -> Result<Memory> {
    Ok(Memory::of(Region::options(PAGES).shared().map()?))
}

fn once_before_a_hole(device: Device) -> Result<()> {
    const PAGES: usize = 6;
    needs_ours("delays on demand")?;
    let (memory, range, _behind) = Memory::before_hole(PAGES - 1, 1)?;
    // When the device writes, it has one page mapped, exclusively, and the last page is missing. So
    // its fault is made in parts, of which the first one succeeds.
    device.exclusive(memory.region.part(4..5), &mut vec![0; page_size()])?;
    let (data, new) = (memory.data(), memory.data().round(2));
    let delay = Delay::new("walked", 100_000)?;
    thread::scope(|scope| {
        let writer = scope.spawn(|| anyhow::Ok(device.write(range, &new.to_bytes(0..PAGES))));
        // The CPU writes as soon as the device has written to a page.
        while memory.region.load(0) == data.word(0, 0) {
            thread::yield_now();
        }
        memory.region.store(0, 1);
        let counts = fails_counted("WRITE", joined(writer)?, Errno::EFAULT)?;
        equal("pages written", counts.pages, 5)
    })?;
    drop(delay);
    equal("what the CPU wrote afterwards", memory.region.load(0), 1)?;
    Ok(new.check(&memory.region, 1..5)?)
}
