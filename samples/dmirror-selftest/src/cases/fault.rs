// SPDX-License-Identifier: GPL-2.0

//! CPU access to pages on the device: it faults, and the page comes back.

use std::io::{Read, Write};

use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use crate::prelude::*;
use crate::steps::{ALL, Verb::*, Who::*, steps};

cases! { "fault":
    read_brings_back_the_touched_page = "A read by the CPU brings back the page that it touches, and no other."
        => kept(on_device(PAGES), by_reading),
    write_brings_back_the_touched_page = "A write by the CPU brings back the page that it touches, and changes that word alone."
        => resident(PAGES, by_writing),
    every_page_by_reading = "Reading a range from its end to its start brings all of it back."
        => resident(PAGES, from_the_end),
    another_thread = "A thread that knows nothing of the device reads the right data."
        => resident(PAGES, by_a_thread),
    system_calls = "System calls read from and write to buffers that are on the device.",
    out_again_after_a_fault = "A page that came back by a fault goes out again with its new content."
        => steps(|| Memory::new(8), [
            (Cpu, Times(18, vec![(A, Out(ALL)), (Cpu, Writes)])), // faults on writing
            (A, Out(ALL)), (Cpu, Reads(ALL)),
        ]),
}

const PAGES: usize = 64;

fn by_reading(device: &Device, memory: &Memory) -> Result<()> {
    let word = memory.region.touch(17);
    equal("word read", word, memory.data().word(17, 0))?;
    memory.only(17..18, Where::System, Where::Device)?;
    memory.verify(17..18)?;
    memory.move_back(device, memory.all(), PAGES - 1)
}

fn by_writing(_: &Device, memory: &Memory) -> Result<()> {
    let word = 17 * Region::words_per_page() + 99;
    memory.region.store(word, 0xdead);
    memory.only(17..18, Where::System, Where::Device)?;
    equal("word written", memory.region.load(word), 0xdead)?;
    memory.region.store(word, memory.data().word(17, 99));
    memory.intact()
}

fn from_the_end(device: &Device, memory: &Memory) -> Result<()> {
    memory.verify_each(memory.all().rev())?;
    memory.expect("after reading", memory.all(), Where::System)?;
    memory.move_back(device, memory.all(), 0)
}

fn by_a_thread(_: &Device, memory: &Memory) -> Result<()> {
    let (region, data) = (&memory.region, memory.data());
    thread::scope(|scope| joined(scope.spawn(|| data.check(region, 0..PAGES))))?;
    memory.expect("after reading", memory.all(), Where::System)
}

fn system_calls(device: Device) -> Result<()> {
    let page = page_size();
    let mut heap: Vec<u8> = (0..8 * page).map(|index| (index / 5 % 241) as u8).collect();
    let copy = heap.clone();
    let start = heap.as_ptr().align_offset(page);
    let end = start + 2 * page;
    let range = PageRange::new(heap[start..].as_ptr() as u64, 2)?;
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    let (mut read, mut write) = (File::from(read), File::from(write));

    moved_out(&device, range)?;
    write.write_all(&heap[start..end])?;
    let mut received = vec![0; 2 * page];
    read.read_exact(&mut received)?;
    let sent = received == copy[start..end];
    ensure!(sent, "write(2) sent other data than the buffer had");

    moved_out(&device, range)?;
    let fresh: Vec<u8> = received.iter().map(|byte| !byte).collect();
    write.write_all(&fresh)?;
    read.read_exact(&mut heap[start..end])?;
    let filled = heap[start..end] == fresh;
    ensure!(filled, "read(2) did not fill the buffer");
    let (before, behind) = (heap[..start] == copy[..start], heap[end..] == copy[end..]);
    ensure!(before, "the memory before the buffer changed");
    ensure!(behind, "the memory behind the buffer changed");
    Ok(())
}
