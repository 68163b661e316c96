// SPDX-License-Identifier: GPL-2.0

//! Bits that show writes and reads of a page. Other programs use them to save the memory of a
//! process piece by piece.

use super::huge::huge;
use crate::prelude::*;

cases! { "dirty":
    clear_refs = "Clearing the referenced bits leaves resident pages there, and the program their data."
        => resident(PAGES, clear_refs),
    out = "Pages written since soft-dirty bits were cleared are soft-dirty after they went to the device."
        => kept(in_system(PAGES), out),
    back = "Pages written since soft-dirty bits were cleared are soft-dirty after they came back.",
    cleared_on_the_device = "Soft-dirty bits cleared on the device stay clear until the program writes.",
    huge_page = "A huge page written since soft-dirty bits were cleared is soft-dirty on the device and back."
        => kept(|_| huge(1), huge_page),
}

const PAGES: usize = 32;

fn clear_refs(_: &Device, memory: &Memory) -> Result<()> {
    for kind in ["1", "2", "3"] {
        fs::write("/proc/self/clear_refs", kind)?;
        memory.expect(kind, memory.all(), Where::Device)?;
    }
    memory.intact()
}

/// Returns for each page of `range` whether it is soft-dirty.
fn soft_dirty(range: PageRange) -> Result<Vec<bool>> {
    let mut entries = vec![0; range.pages() as usize * 8];
    File::open("/proc/self/pagemap")?
        .read_exact_at(&mut entries, range.page_numbers().start * 8)?;
    let bits = entries.chunks_exact(8).map(|entry| entry[6] & 0x80 != 0); // bit 55
    Ok(bits.collect())
}

/// Clears all soft-dirty bits of this process; skips if the kernel has none.
fn clear_soft_dirty(memory: &Memory) -> Result<()> {
    fs::write("/proc/self/clear_refs", "4")?;
    memory.region.store(0, memory.region.load(0));
    if !soft_dirty(memory.region.range())?[0] {
        return skip("the kernel keeps no soft-dirty bits");
    }
    Ok(fs::write("/proc/self/clear_refs", "4")?)
}

/// Checks that every second page of `memory`, and no other, is soft-dirty.
fn every_second(what: &str, memory: &Memory) -> Result<()> {
    let expected: Vec<bool> = memory.all().map(|page| page % 2 == 1).collect();
    equal(what, soft_dirty(memory.region.range())?, expected)
}

/// Writes every second page, without changing its data.
fn write_every_second(memory: &Memory) {
    for page in memory.all().skip(1).step_by(2) {
        memory.fill(page..page + 1);
    }
}

fn out(device: &Device, memory: &Memory) -> Result<()> {
    clear_soft_dirty(memory)?;
    write_every_second(memory);
    every_second("before", memory)?;
    memory.out(device)?;
    every_second("on the device", memory)
}

fn back(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    clear_soft_dirty(&memory)?;
    write_every_second(&memory);
    memory.out(&device)?;
    memory.move_back(&device, 0..PAGES / 2, PAGES / 2)?;
    every_second("with half of it back by command", &memory)?;
    memory.intact()?;
    every_second("with the rest back by CPU reads", &memory)
}

/// Returns the types of the entries of `memory`'s pages on the device.
fn entry_types(memory: &Memory) -> Result<Vec<u8>> {
    Ok(Survey::of(memory.region.range())?.entry_types())
}

fn cleared_on_the_device(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    clear_soft_dirty(&memory)?;
    memory.out(&device)?;
    memory.region.protect(memory.all(), Protection::Read)?;
    let read_only = entry_types(&memory)?;
    memory.region.protect(memory.all(), Protection::ReadWrite)?;

    memory.fill(memory.all());
    memory.out(&device)?;
    let writable = entry_types(&memory)?;
    fs::write("/proc/self/clear_refs", "4")?;
    let cleared = entry_types(&memory)?;
    memory.expect("after clearing", memory.all(), Where::Device)?;
    let range = memory.region.range();
    equal("after clearing", soft_dirty(range)?, vec![false; PAGES])?;
    write_every_second(&memory);
    memory.intact()?;
    if read_only != writable && cleared == writable && !soft_dirty(range)?.contains(&true) {
        // As shown above, the device's entries stay writable when bits are cleared
        // (clear_soft_dirty in fs/proc/task_mmu.c). So the pages come back writable, and no fault
        // reports the write.
        return known("writes after bits were cleared there are lost");
    }
    every_second("after writes", &memory)
}

fn huge_page(device: &Device, memory: &Memory) -> Result<()> {
    clear_soft_dirty(memory)?;
    // The kernel may keep one bit for all of the huge page, so more than the written page may show.
    let written = 7;
    let shows = |what: &str| -> Result<()> {
        equal(what, soft_dirty(memory.region.range())?[written], true)
    };
    memory.fill(written..written + 1);
    shows("before")?;
    memory.out(device)?;
    shows("on the device")?;
    memory.region.touch(0);
    shows("back")?;
    Ok(())
}
