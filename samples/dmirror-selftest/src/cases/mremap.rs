// SPDX-License-Identifier: GPL-2.0

//! Mappings with resident pages that are moved, resized and replaced, and memory that the program
//! did not map itself: its stack and its heap.

use std::hint::black_box;

use crate::prelude::*;

cases! { "mremap":
    grown = "Resident memory that grows keeps its data; what is new is empty, and goes to the device too.",
    shrunk = "Resident memory that shrinks keeps the data of what is left, and gives the rest of the device back.",
    left_mapped = "MREMAP_DONTUNMAP takes resident pages along, and leaves empty memory that can go to the device.",
    far_and_unaligned = "Resident memory moves to an address that lies differently in its 2 MiB, and back.",
    moved_while_migrating = "Memory that is moved while another thread migrates its range keeps its data.",
    replaced = "Mapping something else over resident pages gives their device memory back.",
    stack = "Pages of the stack go to the device and come back when they are used.",
    heap = "Pages of the heap go to the device and come back when they are used.",
}

const PAGES: usize = 48;

fn grown(device: Device) -> Result<()> {
    let memory = Memory::resident(&device, PAGES)?.resized(2 * PAGES)?;
    memory.only(0..PAGES, Where::Device, Where::Nowhere)?;
    let view = moved_out(&device, memory.region.range())?;
    let old = &view[..PAGES * page_size()];
    memory.data().check_bytes(old, 0)?;
    memory.is_zero(PAGES..2 * PAGES).context("new pages")?;
    memory.verify(0..PAGES)
}

fn shrunk(device: Device) -> Result<()> {
    let before = Before::of(&device)?;
    let memory = Memory::resident(&device, PAGES)?.resized(PAGES / 3)?;
    memory.expect("what is left", memory.all(), Where::Device)?;
    memory.move_back(&device, memory.all(), PAGES / 3)?;
    before.nothing_is_left(&device)?;
    memory.intact()
}

fn left_mapped(device: Device) -> Result<()> {
    let memory = Memory::resident(&device, PAGES)?;
    let taken = memory.region.take_pages();
    let taken = skip_on(Errno::EINVAL, "this kernel has no MREMAP_DONTUNMAP", taken)?;
    all_at("pages that were taken along", taken.range(), Where::Device)?;
    memory.expect("what they left", memory.all(), Where::Nowhere)?;
    let data = memory.data();
    memory.is_zero(0..1).context("what they left")?;
    memory.refill(2);
    memory.out(&device)?;
    data.check_bytes(&moved_out(&device, taken.range())?, 0)?;
    memory.intact()?;
    Ok(data.check(&taken, 0..PAGES)?)
}

fn far_and_unaligned(device: Device) -> Result<()> {
    let pages = hpage_pmd_nr() + 100;
    let memory = Memory::new(pages)?;
    memory.move_out(&device, 50..pages)?;
    let memory = memory.relocated()?;
    memory.expect("resident pages", 50..pages, Where::Device)?;
    memory.verify(0..60)?;
    let memory = memory.relocated()?;
    memory.expect("resident pages", 60..pages, Where::Device)?;
    memory.intact()
}

fn moved_while_migrating(device: Device) -> Result<()> {
    for _ in 0..15 {
        let memory = Memory::new(PAGES)?;
        let range = memory.region.range();
        let memory = thread::scope(|scope| {
            let mover = scope.spawn(|| migrate_what_is_there(&device, range));
            let memory = memory.relocated()?;
            joined(mover).map(|()| memory)
        })?;
        memory.intact()?;
    }
    Ok(())
}

/// Moves a range out, back and out again; somebody else may have unmapped it.
fn migrate_what_is_there(device: &Device, range: PageRange) -> Result<()> {
    let mut view = vec![0; range.bytes() as usize];
    let may_fail = [Errno::EINVAL, Errno::ENOENT, Errno::EBUSY];
    unless(device.migrate_to_device(range, &mut view), &may_fail)?;
    unless(device.migrate_to_system(range), &may_fail)?;
    unless(device.migrate_to_device(range, &mut view), &may_fail)
}

fn replaced(device: Device) -> Result<()> {
    let before = Before::of(&device)?;
    let memory = Memory::resident(&device, PAGES)?;
    memory.region.replace(16..32)?;
    memory.only(16..32, Where::Nowhere, Where::Device)?;
    memory.is_zero(16..32).context("new memory")?;
    memory.verify(0..16)?;
    memory.verify(32..PAGES)?;
    memory.region.replace(0..PAGES)?;
    before.nothing_is_left(&device)?;
    memory.refill(2);
    memory.out_and_read(&device)
}

/// Moves pages of `bytes`, which lie in a stack or the heap, to the device; then checks all bytes.
fn out_and_used(device: &Device, bytes: &mut [u8]) -> Result<()> {
    let byte_at = |index: usize| (index / 7 % 251) as u8;
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = byte_at(index);
    }
    let (range, place) = whole_pages(bytes)?;
    for _ in 0..3 {
        let view = moved_out(device, range)?;
        let same = view == bytes[place.clone()];
        ensure!(same, "the device's view is another one");
        for (index, byte) in bytes.iter_mut().enumerate() {
            ensure!(*byte == byte_at(index), "byte {index} is another one");
            *byte = byte_at(index);
        }
    }
    Ok(())
}

fn stack(device: Device) -> Result<()> {
    let used = |whose: &'static str| {
        let mut bytes = black_box([0_u8; 16 * 4096]);
        out_and_used(&device, &mut bytes).context(whose)
    };
    used("the first thread's")?;
    thread::scope(|scope| joined(scope.spawn(|| used("another thread's"))))
}

fn heap(device: Device) -> Result<()> {
    // Less than the size from which on malloc makes a mapping.
    let mut bytes = vec![0_u8; 20 * 4096];
    let addr = bytes.as_ptr() as u64;
    let maps = fs::read_to_string("/proc/self/maps")?;
    let heap = maps.lines().filter(|line| line.ends_with("[heap]"));
    let inside = heap
        .filter_map(|line| line.split_whitespace().next()?.split_once('-'))
        .any(|(start, end)| {
            let number = |text| u64::from_str_radix(text, 16).unwrap_or(0);
            (number(start)..number(end)).contains(&addr)
        });
    if !inside {
        println!("this is not in what the kernel calls the heap");
    }
    out_and_used(&device, &mut bytes)?;
    // Freed pages of the heap may be on the device when it shrinks.
    moved_out(&device, whole_pages(&bytes)?.0)?;
    drop(bytes);
    let region = Region::anonymous(1)?;
    region.store(0, 1);
    equal("word", region.load(0), 1)
}
