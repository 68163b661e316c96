// SPDX-License-Identifier: GPL-2.0

//! SNAPSHOT: the access that the device could have to each page, and the place of the page. A
//! snapshot changes neither.

use dmirror_client::Command;
use dmirror_client::device::Buffer;
use dmirror_client::device::prot::{ERROR, NONE, PMD, PRIVATE_LOCAL as LOCAL, READ, WRITE, ZERO};

use super::{files, huge};
use crate::prelude::*;
use crate::steps::{ALL, PAGES, Verb::*, Who::*, small, steps};

cases! { "snapshot":
    system_pages = "Pages in system memory show as holes, zero pages, readable, writable."
        => steps(|| Memory::untouched(PAGES), [
            (A, Shows(ALL, NONE)), (Cpu, ReadsZeros(0..20)), (A, Shows(0..20, READ | ZERO)),
            (Cpu, Fills(10..30)), (A, Shows(0..10, READ | ZERO)), (A, Shows(10..30, WRITE)),
            (Cpu, Protects(15..35, Protection::Read)), (A, Shows(10..15, WRITE)),
            (A, Shows(15..30, READ)), (A, Shows(30..PAGES, NONE)),
        ]),
    no_mapping = "Memory without access, and what is not mapped, show as errors.",
    resident_pages = "Pages on the device show as such, writable or readable." => steps(small, [
            (A, Out(10..30)), (A, Shows(0..10, WRITE)), (A, Shows(10..30, WRITE | LOCAL)),
            (Cpu, Protects(0..20, Protection::Read)), (A, Shows(0..10, READ)),
            (A, Shows(10..20, READ | LOCAL)), (A, Shows(20..30, WRITE | LOCAL)),
            (Cpu, Protects(0..20, Protection::ReadWrite)), (Cpu, Writes), (A, Shows(ALL, WRITE)),
            (Cpu, Protects(0..20, Protection::Read)), (A, Out(ALL)),
            (A, Shows(0..20, READ | LOCAL)), (A, Shows(20..PAGES, WRITE | LOCAL)),
        ]),
    after_fork = "Resident pages show as readable after a fork, in both processes.",
    second_device = "Pages on another device show as nothing that this one could use."
        => steps(small, [
            (A, Out(0..20)), (A, Shows(0..20, WRITE | LOCAL)), (Second, Shows(0..20, NONE)),
            (Second, Shows(20..PAGES, WRITE)), (Cpu, Finds(0..20, Where::Device)),
        ]),
    shared_and_files = "Shared memory and mappings of files show as what the page tables allow.",
    huge = "A huge page shows as one entry, in system memory and on the device."
        => steps(|| huge::huge(2), [
            (A, Shows(ALL, WRITE | PMD)), (A, Shows(100..101, WRITE | PMD)), (A, Out(ALL)),
            (A, Shows(ALL, WRITE | PMD | LOCAL)), (A, Shows(hpage_pmd_nr() - 1..hpage_pmd_nr() + 1, WRITE | PMD | LOCAL)),
            (A, Back(ALL, 2 * hpage_pmd_nr())), (A, Shows(ALL, WRITE | PMD)), (Cpu, FindsHuge),
        ]),
    huge_with_a_small_part = "A huge page of which a part went to the device shows as small pages."
        => steps(|| huge::huge(1), [
            (A, Out(100..140)), (A, Shows(0..100, WRITE)), (A, Shows(100..140, WRITE | LOCAL)),
            (A, Shows(140..usize::MAX, WRITE)),
        ]),
    hugetlb = "A huge page of the pool (hugetlbfs) shows as writable.",
    several_mappings = "One snapshot spans mappings, holes and unmapped parts, each page on its own.",
    big_range = "A snapshot of 2048 pages has a byte for each, in order.",
    changes_nothing = "A snapshot faults nothing in, moves nothing, and counts its pages.",
    follows_changes = "A snapshot shows what is, not what the device saw before."
        => steps(small, [(Cpu, Times(6, vec![
            (A, Writes), (A, Shows(ALL, WRITE)), (A, Out(ALL)), (A, Shows(ALL, WRITE | LOCAL)),
            (Cpu, Reads(0..20)), (A, Shows(0..20, WRITE)), (A, Shows(20..PAGES, WRITE | LOCAL)),
            (A, Back(ALL, 20)), (A, Shows(ALL, WRITE)),
        ]))]),
    bad_output = "A snapshot to a buffer that cannot be written is EFAULT.",
}

/// Checks the bytes of a snapshot for two ranges of pages of a region.
fn shows(device: &Device, region: &Region, bytes: [(std::ops::Range<usize>, u8); 2]) -> Result<()> {
    bytes.into_iter().try_for_each(|(pages, byte)| {
        let what = format!("pages {pages:?}");
        snapshot_is(&what, device, region.part(pages), byte)
    })
}

fn no_mapping(device: Device) -> Result<()> {
    let mut head = Memory::new(PAGES)?;
    head.move_out(&device, 5..15)?;
    let whole = head.region.range();
    head.region.protect(0..10, Protection::None)?;
    snapshot_is("without access", &device, head.region.part(0..10), ERROR)?;
    head.region.protect(0..10, Protection::Read)?;
    snapshot_is("readable", &device, head.region.part(0..5), READ)?;
    drop(head.region.split_off(PAGES / 2));
    let bytes = device.snapshot(whole)?;
    equal("unmapped pages", &bytes[PAGES / 2..], &[ERROR; PAGES / 2])?;
    drop(head);
    snapshot_is("unmapped pages", &device, whole, ERROR)?;
    snapshot_is("page 0", &device, PageRange::new(0, 1)?, ERROR)
}

fn after_fork(context: &Context) -> Result<()> {
    let (device, memory) = (context.open()?, small()?);
    memory.move_out(&device, 0..20)?;
    let expected = [(0..20, READ | LOCAL), (20..PAGES, READ)];
    let (looked, go) = (Gate::new()?, Gate::new()?);
    let child = helper(|| {
        shows(&context.open()?, &memory.region, expected.clone())?;
        looked.open()?;
        go.wait()
    })?;
    looked.wait()?;
    shows(&device, &memory.region, expected.clone())?;
    go.open()?;
    child.join()?;
    memory.refill(2);
    snapshot_is("afterwards", &device, memory.region.range(), WRITE)
}

fn shared_and_files(device: Device) -> Result<()> {
    let shared = Memory::of(Region::options(PAGES).shared().map()?);
    snapshot_is("untouched", &device, shared.region.range(), NONE)?;
    shared.fill(0..20);
    snapshot_is("written", &device, shared.region.part(0..20), WRITE)?;

    let private = files::mapped_file()?; // read by the CPU
    snapshot_is("a file", &device, private.region.part(0..20), READ)?;
    private.fill(0..10);
    let expected = [(0..10, WRITE), (10..20, READ)];
    shows(&device, &private.region, expected)?;
    private.move_out(&device, 0..10)?;
    let local = private.region.part(0..10);
    snapshot_is("on the device", &device, local, WRITE | LOCAL)
}

fn hugetlb(device: Device) -> Result<()> {
    let memory = Memory::of(files::of_the_pool()?);
    memory.fill(0..1);
    let bytes = device.snapshot(memory.region.range())?;
    let size = |byte: &u8| equal("but for the size of the entry", byte & !PMD, WRITE);
    bytes.iter().try_for_each(size)
}

fn several_mappings(device: Device) -> Result<()> {
    let memory = small()?;
    let mut expected = vec![WRITE; PAGES];
    memory.region.replace_by_shared(4..8)?;
    expected[4..8].fill(NONE);
    memory.region.protect(8..12, Protection::None)?;
    expected[8..12].fill(ERROR);
    memory.region.protect(16..20, Protection::Read)?;
    expected[16..20].fill(READ);
    memory.move_out(&device, 18..24)?;
    expected[18..20].fill(READ | LOCAL);
    expected[20..24].fill(WRITE | LOCAL);
    // The guard page behind, which is mapped without access.
    expected.push(ERROR);
    let range = PageRange::new(memory.region.addr(), PAGES as u64 + 1)?;
    equal("snapshot", device.snapshot(range)?, expected)
}

fn big_range(device: Device) -> Result<()> {
    const PAGES: usize = 2048;
    let region = Region::options(PAGES)
        .align(hpage_pmd_size())
        .huge(false)
        .map()?;
    let words = Region::words_per_page();
    let kind = |page: usize| page * page % 7 % 3;
    for page in 0..PAGES {
        match kind(page) {
            0 => {}
            1 => drop(region.touch(page)),
            _ => region.store(page * words, 1),
        }
    }
    for (page, byte) in device.snapshot(region.range())?.iter().enumerate() {
        let expected = [NONE, READ | ZERO, WRITE][kind(page)];
        equal(&format!("page {page}"), *byte, expected)?;
    }
    Ok(())
}

fn changes_nothing(device: Device) -> Result<()> {
    let memory = Memory::untouched(PAGES)?;
    memory.fill(0..20);
    memory.move_out(&device, 0..10)?;
    // A few pages need no buffers in the module.
    for pages in [1, 8, 9, PAGES] {
        let mut bytes = vec![0x77; pages + 8];
        let (addr, count) = (memory.region.addr(), pages as u64);
        let answer = device.call(Command::Snapshot, addr, count, Buffer::Bytes(&mut bytes))?;
        let seen = (answer.pages, answer.faults);
        equal("pages and faults", seen, (count, 0))?;
        equal("bytes behind the last page", &bytes[pages..], &[0x77; 8])?;
    }
    memory.expect("resident pages", 0..10, Where::Device)?;
    memory.expect("pages elsewhere", 10..20, Where::System)?;
    memory.expect("holes", 20..PAGES, Where::Nowhere)?;
    memory.verify(0..20)
}

fn bad_output(device: Device) -> Result<()> {
    let (memory, output) = (small()?, Region::anonymous(PAGES)?);
    output.protect(0..PAGES, Protection::Read)?;
    let range = memory.region.range();
    for pages in [1, 8, 9, range.pages()] {
        for buffer in [Buffer::Null, Buffer::Region(&output)] {
            let answer = device.call(Command::Snapshot, range.addr(), pages, buffer);
            fails("SNAPSHOT", answer, Errno::EFAULT)?;
        }
    }
    ensure!(page_size() > PAGES && output.is_zero(0..1));
    snapshot_is("afterwards", &device, range, WRITE)
}
