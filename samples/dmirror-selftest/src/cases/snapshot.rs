// SPDX-License-Identifier: GPL-2.0

//! SNAPSHOT: what the device could do with each page, and where it is; looking
//! changes neither.

use dmirror_client::Command;
use dmirror_client::device::{Buffer, prot};

use super::{files, huge};
use crate::prelude::*;

cases! { "snapshot":
    system_pages = "Pages in system memory show as holes, zero pages, readable, writable.",
    no_mapping = "Memory without access, and what is not mapped, show as errors.",
    resident_pages = "Pages on the device show as such, writable or readable.",
    after_fork = "Resident pages show as readable after a fork, in both processes.",
    second_device = "Pages on another device show as nothing that this one could use.",
    shared_and_files = "Shared memory and mappings of files show as what the page tables allow.",
    huge = "A huge page shows as one entry, in system memory and on the device.",
    huge_with_a_small_part = "A huge page of which a part went to the device shows as small pages.",
    hugetlb = "A huge page of the pool (hugetlbfs) shows as writable.",
    several_mappings = "One snapshot spans mappings, holes and unmapped parts, each page on its own.",
    big_range = "A snapshot of 2048 pages has a byte for each, in order.",
    changes_nothing = "A snapshot faults nothing in, moves nothing, and counts its pages.",
    follows_changes = "A snapshot shows what is, not what the device saw before.",
    bad_output = "A snapshot to a buffer that cannot be written is EFAULT.",
}

const PAGES: usize = 40;

/// Checks what a snapshot says of pages of a region.
macro_rules! shows {
    ($device:expr, $region:expr, $pages:expr, $expected:expr) => {
        snapshot_is(
            concat!(stringify!($pages), " of ", stringify!($region)),
            $device,
            $region.part($pages),
            $expected,
        )
    };
}

fn system_pages(device: Device) -> Result<()> {
    let memory = Memory::untouched(PAGES)?;
    shows!(&device, memory.region, 0..PAGES, prot::NONE)?;
    ensure!(memory.region.is_zero(0..20));
    shows!(&device, memory.region, 0..20, prot::READ | prot::ZERO)?;
    memory.fill(10..30);
    shows!(&device, memory.region, 0..10, prot::READ | prot::ZERO)?;
    shows!(&device, memory.region, 10..30, prot::WRITE)?;
    memory.region.protect(15..35, Protection::Read)?;
    shows!(&device, memory.region, 10..15, prot::WRITE)?;
    shows!(&device, memory.region, 15..30, prot::READ)?;
    shows!(&device, memory.region, 30..PAGES, prot::NONE)
}

fn no_mapping(device: Device) -> Result<()> {
    let mut head = Memory::new(PAGES)?;
    head.move_out(&device, 5..15)?;
    let whole = head.region.range();
    head.region.protect(0..10, Protection::None)?;
    shows!(&device, head.region, 0..10, prot::ERROR)?;
    head.region.protect(0..10, Protection::Read)?;
    shows!(&device, head.region, 0..5, prot::READ)?;
    drop(head.region.split_off(PAGES / 2));
    let bytes = device.snapshot(whole)?;
    ensure!(
        bytes[PAGES / 2..].iter().all(|byte| *byte == prot::ERROR),
        "unmapped pages show as {:x?}",
        &bytes[PAGES / 2..]
    );
    drop(head);
    snapshot_is("unmapped pages", &device, whole, prot::ERROR)?;
    snapshot_is("page 0", &device, PageRange::new(0, 1)?, prot::ERROR)
}

fn resident_pages(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, 10..30)?;
    shows!(&device, memory.region, 0..10, prot::WRITE)?;
    let local = prot::PRIVATE_LOCAL;
    shows!(&device, memory.region, 10..30, prot::WRITE | local)?;
    memory.region.protect(0..20, Protection::Read)?;
    shows!(&device, memory.region, 0..10, prot::READ)?;
    shows!(&device, memory.region, 10..20, prot::READ | local)?;
    shows!(&device, memory.region, 20..30, prot::WRITE | local)?;
    memory.region.protect(0..20, Protection::ReadWrite)?;
    memory.refill(2);
    shows!(&device, memory.region, 0..PAGES, prot::WRITE)?;

    memory.region.protect(0..20, Protection::Read)?;
    memory.move_out(&device, memory.all())?;
    shows!(&device, memory.region, 0..20, prot::READ | local)?;
    shows!(&device, memory.region, 20..PAGES, prot::WRITE | local)
}

fn after_fork(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, 0..20)?;
    let local = prot::READ | prot::PRIVATE_LOCAL;
    let (looked, go) = (Gate::new()?, Gate::new()?);
    let child = helper(|| {
        let own = context.open()?;
        shows!(&own, memory.region, 0..20, local)?;
        shows!(&own, memory.region, 20..PAGES, prot::READ)?;
        looked.open()?;
        go.wait()
    })?;
    looked.wait()?;
    shows!(&device, memory.region, 0..20, local)?;
    shows!(&device, memory.region, 20..PAGES, prot::READ)?;
    go.open()?;
    child.join()?;
    memory.refill(2);
    shows!(&device, memory.region, 0..PAGES, prot::WRITE)
}

fn second_device(first: Device, second: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&first, 0..20)?;
    let local = prot::WRITE | prot::PRIVATE_LOCAL;
    shows!(&first, memory.region, 0..20, local)?;
    shows!(&second, memory.region, 0..20, prot::NONE)?;
    shows!(&second, memory.region, 20..PAGES, prot::WRITE)?;
    memory.expect("after looking", 0..20, Where::Device)
}

fn shared_and_files(device: Device) -> Result<()> {
    let shared = Memory::of(Region::options(PAGES).shared().map()?);
    shows!(&device, shared.region, 0..PAGES, prot::NONE)?;
    shared.fill(0..20);
    shows!(&device, shared.region, 0..20, prot::WRITE)?;

    let private = files::mapped_file()?; // read by the CPU
    shows!(&device, private.region, 0..20, prot::READ)?;
    private.fill(0..10);
    shows!(&device, private.region, 0..10, prot::WRITE)?;
    shows!(&device, private.region, 10..20, prot::READ)?;
    private.move_out(&device, 0..10)?;
    let local = prot::WRITE | prot::PRIVATE_LOCAL;
    shows!(&device, private.region, 0..10, local)
}

fn huge(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = huge::huge(2)?;
    let whole = prot::WRITE | prot::PMD;
    snapshot_is("system", &device, memory.region.range(), whole)?;
    shows!(&device, memory.region, 100..101, whole)?;
    memory.move_out(&device, memory.all())?;
    let whole = whole | prot::PRIVATE_LOCAL;
    snapshot_is("device", &device, memory.region.range(), whole)?;
    shows!(&device, memory.region, 511..513, whole)?;
    memory.move_back(&device, memory.all(), memory.region.pages())?;
    let whole = prot::WRITE | prot::PMD;
    snapshot_is("back in huge pages", &device, memory.region.range(), whole)?;
    memory.is_huge()
}

fn huge_with_a_small_part(device: Device) -> Result<()> {
    let memory = huge::huge(1)?;
    memory.move_out(&device, 100..140)?;
    let local = prot::WRITE | prot::PRIVATE_LOCAL;
    shows!(&device, memory.region, 0..100, prot::WRITE)?;
    shows!(&device, memory.region, 100..140, local)?;
    shows!(
        &device,
        memory.region,
        140..memory.region.pages(),
        prot::WRITE
    )
}

fn hugetlb(device: Device) -> Result<()> {
    let memory = Memory::of(files::of_the_pool()?);
    memory.fill(0..1);
    for byte in device.snapshot(memory.region.range())? {
        equal(
            "but for the size of the entry",
            byte & !prot::PMD,
            prot::WRITE,
        )?;
    }
    Ok(())
}

fn several_mappings(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let mut expected = vec![prot::WRITE; PAGES];
    memory.region.replace_by_shared(4..8)?;
    expected[4..8].fill(prot::NONE);
    memory.region.protect(8..12, Protection::None)?;
    expected[8..12].fill(prot::ERROR);
    memory.region.protect(16..20, Protection::Read)?;
    expected[16..20].fill(prot::READ);
    memory.move_out(&device, 18..24)?;
    expected[18..20].fill(prot::READ | prot::PRIVATE_LOCAL);
    expected[20..24].fill(prot::WRITE | prot::PRIVATE_LOCAL);
    // The guard page behind, which is mapped without access.
    expected.push(prot::ERROR);
    let range = PageRange::new(memory.region.addr(), PAGES as u64 + 1)?;
    equal("snapshot", device.snapshot(range)?, expected)
}

fn big_range(context: &Context) -> Result<()> {
    const PAGES: usize = 2048;
    let device = context.open()?;
    let region = Region::options(PAGES).align(HUGE).huge(false).map()?;
    let words = Region::words_per_page();
    let kind = |page: usize| page * page % 7 % 3;
    for page in 0..PAGES {
        match kind(page) {
            0 => {}
            1 => drop(region.touch(page)),
            _ => region.store(page * words, 1),
        }
    }
    let bytes = device.snapshot(region.range())?;
    for (page, byte) in bytes.iter().enumerate() {
        let expected = [prot::NONE, prot::READ | prot::ZERO, prot::WRITE][kind(page)];
        equal(&format!("page {page}"), *byte, expected)?;
    }
    Ok(())
}

fn changes_nothing(device: Device) -> Result<()> {
    let memory = Memory::untouched(PAGES)?;
    memory.fill(0..20);
    memory.move_out(&device, 0..10)?;
    let range = memory.region.range();
    let mut bytes = vec![0x77; PAGES + 8];
    let answer = device.call(
        Command::Snapshot,
        range.addr(),
        range.pages(),
        Buffer::Bytes(&mut bytes),
    )?;
    equal("pages counted", answer.pages, PAGES as u64)?;
    equal("faults", answer.faults, 0)?;
    equal("bytes behind the last page", &bytes[PAGES..], &[0x77; 8])?;
    memory.expect("resident pages", 0..10, Where::Device)?;
    memory.expect("pages elsewhere", 10..20, Where::System)?;
    memory.expect("holes", 20..PAGES, Where::Nowhere)?;
    memory.verify(0..20)
}

fn follows_changes(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    for round in 2..8 {
        memory.device_refills(&device, round)?;
        shows!(&device, memory.region, 0..PAGES, prot::WRITE)?;
        memory.move_out(&device, memory.all())?;
        let local = prot::WRITE | prot::PRIVATE_LOCAL;
        shows!(&device, memory.region, 0..PAGES, local)?;
        memory.verify(0..20)?;
        shows!(&device, memory.region, 0..20, prot::WRITE)?;
        shows!(&device, memory.region, 20..PAGES, local)?;
        memory.move_back(&device, memory.all(), 20)?;
        shows!(&device, memory.region, 0..PAGES, prot::WRITE)?;
    }
    Ok(())
}

fn bad_output(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let output = Region::anonymous(PAGES)?;
    output.protect(0..PAGES, Protection::Read)?;
    let range = memory.region.range();
    for buffer in [Buffer::Null, Buffer::Region(&output)] {
        let answer = device.call(Command::Snapshot, range.addr(), range.pages(), buffer);
        fails("SNAPSHOT", answer, Errno::EFAULT)?;
    }
    ensure!(page_size() > PAGES && output.is_zero(0..1));
    shows!(&device, memory.region, 0..PAGES, prot::WRITE)
}
