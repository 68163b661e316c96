// SPDX-License-Identifier: GPL-2.0

//! Huge pages on the device. They stay whole as long as possible, and in parts after a program or a
//! lack of memory has split them. The blocks of the device are whole again in the end.

use std::ops::Range;

use dmirror_client::device::prot;
use dmirror_client::place::Usage;

use super::huge::{huge, huge_out};
use crate::inject::{Failure, Often};
use crate::prelude::*;
use crate::reload::with_capacity;

cases! { "huge":
    stays_whole = "A huge page is one there and one again when it has come back."
        => kept(|_| huge(3), stays_whole),
    whole_by_fault = "One touch brings a huge page back whole.",
    no_block_free = "Without a free block, but with room, a huge page goes in small pages and evicts nobody.",
    small_by_fault = "Without a huge page of system memory a touch cuts a huge page, and brings back the page that was touched."
        => kept(huge_there, small_by_fault),
    windows_out = "A range that is a part of a huge page, at its start, end or middle, goes alone."
        => leaves_nothing(|device| windows(device, false)),
    windows_back = "A range that is a part of a huge page on the device, at its start, end or middle, comes back alone."
        => leaves_nothing(|device| windows(device, true)),
    unmapped_in_part = "Of a huge page on the device that was unmapped in part the rest stays right for device and CPU."
        => leaves_nothing(unmapped_in_part),
    protected_in_part = "A huge page on the device whose part is read-only is read by device and CPU, and written where it may be.",
    remapped_in_part = "A part of a huge page on the device that mremap has moved is right at its new place."
        => leaves_nothing(remapped_in_part),
    dropped_in_part = "A part of a huge page on the device that was dropped is zero for device and CPU, the rest is right."
        => leaves_nothing(dropped_in_part),
    forked = "After fork with a huge page on the device both sides write by CPU, each its own.",
    forked_device_writes = "After fork with a huge page on the device both sides write by device, each its own.",
    accessed_in_part = "A device that reads and writes parts of a huge page leaves it whole.",
    blocks_are_whole_again = "After much use in small and huge pages, cuts, errors and RELEASE every block is whole.",
}

/// The byte that SNAPSHOT returns for a huge page on the device.
const THERE: u8 = prot::WRITE | prot::PRIVATE_LOCAL | prot::PMD;

/// Creates a huge page that is on the device as one.
pub(super) fn huge_there(device: &Device) -> Result<Memory> {
    let memory = huge_out(device, 1)?;
    snapshot_is("there", device, memory.region.range(), THERE)?;
    Ok(memory)
}

/// Checks that all of the memory is in system memory, in huge pages.
fn is_whole(memory: &Memory) -> Result<()> {
    memory.expect("huge pages", memory.all(), Where::System)?;
    memory.is_huge()
}

fn stays_whole(device: &Device, memory: &Memory) -> Result<()> {
    let range = memory.region.range();
    for round in 2..5 {
        memory.out(device)?;
        snapshot_is("there", device, range, THERE)?;
        memory.move_back(device, memory.all(), 3 * hpage_pmd_nr())?;
        is_whole(memory)?;
        snapshot_is("back", device, range, prot::WRITE | prot::PMD)?;
        memory.intact()?;
        memory.refill(round);
    }
    memory.out(device)?;
    equal("pages released", device.release()?.pages, range.pages())?;
    is_whole(memory)
}

fn whole_by_fault(device: Device) -> Result<()> {
    let memory = huge(2)?;
    for page in [0, hpage_pmd_nr() - 1, hpage_pmd_nr() / 2] {
        memory.out(&device)?;
        memory.region.touch(page);
        memory.only(0..hpage_pmd_nr(), Where::System, Where::Device)?;
        memory.region.touch(hpage_pmd_nr() + page);
        is_whole(&memory)?;
    }
    memory.intact()
}

fn no_block_free(context: &Context) -> Result<()> {
    with_capacity(context, 2 * hpage_pmd_size() as u64, || {
        let device = context.open()?;
        let small = Memory::resident(&device, hpage_pmd_nr() + 1)?;
        // Leaves one page in each block.
        small.region.advise(1..hpage_pmd_nr(), Advice::DontNeed)?;
        if let Some(room) = device.room()? {
            let free = (room.free_blocks, room.free_pages);
            equal(
                "free blocks and pages",
                free,
                (0, 2 * hpage_pmd_nr() as u64 - 2),
            )?;
        }
        let memory = huge_out(&device, 1)?;
        let in_small = prot::WRITE | prot::PRIVATE_LOCAL;
        snapshot_is("there", &device, memory.region.range(), in_small)?;
        small.expect("the others", 0..1, Where::Device)?;
        small.expect(
            "the others",
            hpage_pmd_nr()..hpage_pmd_nr() + 1,
            Where::Device,
        )?;
        memory.cpu_sees(&device, 2)?;
        small.verify_each([0, hpage_pmd_nr()])?;
        // The small pages are not there any more, so there is one block for the huge page.
        memory.refill(3);
        memory.region.advise(memory.all(), Advice::Collapse)?;
        memory.out(&device)?;
        snapshot_is("there", &device, memory.region.range(), THERE)?;
        memory.intact()
    })
}

fn small_by_fault(device: &Device, memory: &Memory) -> Result<()> {
    let failure = Failure::new("system_alloc", Often::Once)?;
    memory.verify(300..301)?;
    ensure!(failure.is_over()?, "nothing failed");
    // The kernel may only split the page. Then the CPU faults again, for one small page.
    memory.expect("the page that was touched", 300..301, Where::System)?;
    memory.reads(device)?;
    is_small(memory)
}

/// Checks that no page of the memory is in a huge page.
pub(super) fn is_small(memory: &Memory) -> Result<()> {
    let bytes = Usage::of(memory.region.range())?.huge;
    equal("bytes in huge pages", bytes, 0)
}

/// Returns parts of a huge page, of all kinds.
fn parts_of_all_kinds() -> [Range<usize>; 6] {
    [
        0..1,
        0..200,
        hpage_pmd_nr() - 1..hpage_pmd_nr(),
        300..hpage_pmd_nr(),
        1..hpage_pmd_nr() - 1,
        200..300,
    ]
}

/// Moves parts of a huge page out, or back, and checks each part and the rest.
fn windows(device: &Device, back: bool) -> Result<()> {
    for window in parts_of_all_kinds() {
        let memory = if back { huge_there(device)? } else { huge(1)? };
        let (inside, outside) = if back {
            memory.move_back(device, window.clone(), window.len())?;
            (Where::System, Where::Device)
        } else {
            memory.move_out(device, window.clone())?;
            (Where::Device, Where::System)
        };
        memory.only(window.clone(), inside, outside)?;
        memory.reads(device)?;
        memory.device_refills(device, 2)?;
        memory.only(window, inside, outside)?;
        memory.intact()?;
    }
    Ok(())
}

fn unmapped_in_part(device: &Device) -> Result<()> {
    for (from, to) in [(0, 100), (100, 400), (400, hpage_pmd_nr())] {
        let mut memory = huge_there(device)?;
        memory.reads(device)?;
        // There are three parts, of which the middle one may be at an end.
        let behind = (to < hpage_pmd_nr()).then(|| memory.split_off(to));
        if from > 0 {
            drop(memory.split_off(from));
            memory.expect("before it", memory.all(), Where::Device)?;
            memory.reads(device)?;
            memory.cpu_sees(device, 2)?;
        } else {
            drop(memory);
        }
        if let Some(behind) = behind {
            behind.expect("behind it", behind.all(), Where::Device)?;
            behind.both_read(device)?;
        }
    }
    Ok(())
}

/// Returns parts of a huge page: at its start, in its middle, at its end.
fn parts() -> [Range<usize>; 3] {
    [0..100, 100..400, 400..hpage_pmd_nr()]
}

fn protected_in_part(device: Device) -> Result<()> {
    for pages in parts() {
        let memory = huge_there(&device)?;
        memory.reads(&device)?;
        memory.region.protect(pages.clone(), Protection::Read)?;
        memory.reads(&device)?;
        let bytes = memory.data().round(9).to_bytes(pages.clone());
        let answer = device.write(memory.region.part(pages.clone()), &bytes);
        fails("WRITE to it", answer, Errno::EPERM)?;
        for rest in memory.around(&pages) {
            memory.device_fills(&device, rest)?;
        }
        memory.intact()?;
        memory.region.protect(pages, Protection::ReadWrite)?;
        memory.cpu_sees(&device, 2)?;
    }
    Ok(())
}

fn remapped_in_part(device: &Device) -> Result<()> {
    for cut in [1, 200, hpage_pmd_nr() - 1] {
        let memory = huge_there(device)?;
        memory.reads(device)?;
        remapped(device, memory, cut)?;
    }
    Ok(())
}

/// Moves the part of a huge page on the device from page `cut` on to another address.
pub(super) fn remapped(device: &Device, mut memory: Memory, cut: usize) -> Result<()> {
    let moved = memory.split_off(cut).relocated()?;
    memory.reads(device)?;
    moved.expect("at the new place", moved.all(), Where::Device)?;
    moved.both_read(device).context("at the new place")?;
    memory.intact()
}

fn dropped_in_part(device: &Device) -> Result<()> {
    for pages in parts() {
        let memory = huge_there(device)?;
        memory.reads(device)?;
        memory.region.advise(pages.clone(), Advice::DontNeed)?;
        for rest in memory.around(&pages) {
            memory.device_reads(device, rest.clone())?;
            memory.verify(rest)?;
        }
        reads_zero(device, memory.region.part(pages.clone()))?;
        memory.is_zero(pages)?;
    }
    Ok(())
}

fn forked(device: Device) -> Result<()> {
    let memory = huge_there(&device)?;
    memory.beside_child(3, || memory.rewrite(2))?;
    memory.out_and_read(&device)
}

fn forked_device_writes(context: &Context) -> Result<()> {
    let device = context.open()?;
    let before = Before::of(&device)?;
    let memory = huge_there(&device)?;
    let (written, read) = (Gate::new()?, Gate::new()?);
    let child = helper(|| {
        let own = context.open()?;
        written.wait()?;
        memory.reads(&own)?;
        memory.device_refills(&own, 3)?;
        read.open()?;
        memory.intact()
    })?;
    memory.device_refills(&device, 2)?;
    written.open()?;
    read.wait()?;
    memory.both_read(&device)?;
    child.join()?;
    drop(memory);
    before.nothing_is_left(&device)
}

fn accessed_in_part(device: Device) -> Result<()> {
    let memory = huge_there(&device)?;
    for (round, window) in (2..).zip(parts_of_all_kinds()) {
        let old = memory.data();
        memory.device_reads(&device, window.clone())?;
        memory.expect_round(round);
        memory.device_fills(&device, window.clone())?;
        memory.device_reads(&device, window.clone())?;
        memory.expect_round(1);
        // Write the old data again, as in the rest of the page.
        memory.device_fills(&device, window)?;
        equal("round", memory.data(), old)?;
    }
    snapshot_is("afterwards", &device, memory.region.range(), THERE)?;
    memory.both_read(&device)
}

fn blocks_are_whole_again(device: Device) -> Result<()> {
    let before = Before::of(&device)?;
    for round in rounds(12) {
        let (whole, mut cut) = (huge(1)?, huge(1)?);
        let small = Memory::new(37 * (round % 4 + 1))?;
        for memory in [&whole, &small, &cut] {
            memory.out(&device)?;
        }
        drop(cut.split_off(100 + 30 * (round % 12)));
        match round % 4 {
            0 => cut.intact()?,
            1 => drop(device.release()?),
            2 => {
                let _failure = Failure::new("copy_in", Often::Once)?;
                let more = huge(1)?;
                fails("MIGRATE_TO_DEV", more.try_out(&device), Errno::EIO)?;
                more.intact()?;
            }
            _ => {
                let _failure = Failure::new("copy_out", Often::Once)?;
                let answer = device.migrate_to_system(small.region.range());
                fails("MIGRATE_TO_SYS", answer, Errno::EIO)?;
            }
        }
        for memory in [&small, &whole, &cut] {
            memory.intact()?;
        }
    }
    before.nothing_is_left(&device)?;
    match device.room()? {
        Some(room) => equal("free blocks", room.free_blocks, room.blocks),
        None => Ok(()),
    }
}
