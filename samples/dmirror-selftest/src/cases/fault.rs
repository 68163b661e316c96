// SPDX-License-Identifier: GPL-2.0

//! CPU access to pages on the device: it faults, and the page comes back.

use std::io::{Read, Write};

use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use crate::prelude::*;

cases! { "fault":
    read_brings_back_the_touched_page = "A read by the CPU brings back the page that it touches, and no other.",
    write_brings_back_the_touched_page = "A write by the CPU brings back the page that it touches, and changes that word alone.",
    every_page_by_reading = "Reading a range from its end to its start brings all of it back.",
    another_thread = "A thread that knows nothing of the device reads the right data.",
    system_calls = "System calls read from and write to buffers that are on the device.",
    out_again_after_a_fault = "A page that came back by a fault goes out again with its new content.",
}

const PAGES: usize = 64;

fn read_brings_back_the_touched_page(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    equal(
        "word read",
        memory.region.touch(17),
        memory.data().word(17, 0),
    )?;
    only_page_is_back(&memory, 17)?;
    memory.verify(17..18)?;
    memory.move_back(&device, memory.all(), PAGES - 1)?;
    memory.verify(memory.all())
}

fn write_brings_back_the_touched_page(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    let word = 17 * Region::words_per_page() + 99;
    memory.region.store(word, 0xdead);
    only_page_is_back(&memory, 17)?;
    equal("word written", memory.region.load(word), 0xdead)?;
    memory.region.store(word, memory.data().word(17, 99));
    memory.verify(memory.all())
}

fn only_page_is_back(memory: &Memory, page: usize) -> Result<()> {
    memory.expect("the touched page", page..page + 1, Where::System)?;
    memory.expect("pages before it", 0..page, Where::Device)?;
    memory.expect(
        "pages behind it",
        page + 1..memory.region.pages(),
        Where::Device,
    )
}

fn every_page_by_reading(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    for page in memory.all().rev() {
        memory.verify(page..page + 1)?;
    }
    memory.expect("after reading", memory.all(), Where::System)?;
    memory.move_back(&device, memory.all(), 0)
}

fn another_thread(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    let (region, data) = (&memory.region, memory.data());
    thread::scope(|scope| {
        let reader = scope.spawn(|| data.check(region, 0..PAGES));
        reader
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    memory.expect("after reading", memory.all(), Where::System)
}

fn system_calls(device: Device) -> Result<()> {
    let page = page_size();
    let mut heap: Vec<u8> = (0..8 * page).map(|index| (index / 5 % 241) as u8).collect();
    let copy = heap.clone();
    let start = heap.as_ptr().align_offset(page);
    let range = PageRange::new(heap[start..].as_ptr() as u64, 2)?;
    let mut view = vec![0; 2 * page];
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    let (mut read, mut write) = (File::from(read), File::from(write));

    equal(
        "pages moved out",
        device.migrate_to_device(range, &mut view)?.pages,
        2,
    )?;
    write.write_all(&heap[start..start + 2 * page])?;
    let mut received = vec![0; 2 * page];
    read.read_exact(&mut received)?;
    ensure!(
        received == copy[start..start + 2 * page],
        "write(2) sent other data than the buffer had"
    );

    equal(
        "pages moved out",
        device.migrate_to_device(range, &mut view)?.pages,
        2,
    )?;
    let fresh: Vec<u8> = received.iter().map(|byte| !byte).collect();
    write.write_all(&fresh)?;
    read.read_exact(&mut heap[start..start + 2 * page])?;
    ensure!(
        heap[start..start + 2 * page] == fresh,
        "read(2) did not fill the buffer"
    );
    ensure!(
        heap[..start] == copy[..start],
        "the memory before the buffer changed"
    );
    ensure!(
        heap[start + 2 * page..] == copy[start + 2 * page..],
        "the memory behind the buffer changed"
    );
    Ok(())
}

fn out_again_after_a_fault(device: Device) -> Result<()> {
    let memory = Memory::new(8)?;
    for round in 2..20 {
        memory.move_out(&device, memory.all())?;
        memory.refill(round); // faults on writing
    }
    memory.move_out(&device, memory.all())?;
    memory.verify(memory.all())
}
