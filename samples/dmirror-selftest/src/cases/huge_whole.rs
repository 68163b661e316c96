// SPDX-License-Identifier: GPL-2.0

//! Huge pages on the device: whole as long as they can be, in parts where a
//! program or a lack of memory cuts them, and the blocks of the device whole
//! again in the end.

use std::ops::Range;

use dmirror_client::device::prot;
use dmirror_client::place::Usage;

use super::huge::huge;
use crate::inject::{Failure, Often};
use crate::prelude::*;
use crate::reload::with_capacity;

cases! { "huge":
    stays_whole = "A huge page is one there and one again when it has come back.",
    whole_by_fault = "One touch brings a huge page back whole.",
    no_block_free = "Without a free block, but with room, a huge page goes in small pages and evicts nobody.",
    small_by_fault = "Without a huge page of system memory a touch cuts a huge page, and brings back the page that was touched.",
    windows_out = "A range that is a part of a huge page, at its start, end or middle, goes alone.",
    windows_back = "A range that is a part of a huge page on the device, at its start, end or middle, comes back alone.",
    unmapped_in_part = "Of a huge page on the device that was unmapped in part the rest stays right for device and CPU.",
    protected_in_part = "A huge page on the device whose part is read-only is read by device and CPU, and written where it may be.",
    remapped_in_part = "A part of a huge page on the device that mremap has moved is right at its new place.",
    dropped_in_part = "A part of a huge page on the device that was dropped is zero for device and CPU, the rest is right.",
    forked = "After fork with a huge page on the device both sides write by CPU, each its own.",
    forked_device_writes = "After fork with a huge page on the device both sides write by device, each its own.",
    accessed_in_part = "A device that reads and writes parts of a huge page leaves it whole.",
    blocks_are_whole_again = "After much use in small and huge pages, cuts, errors and RELEASE every block is whole.",
}

/// Pages of a huge page.
pub(super) const WHOLE: usize = HUGE / 4096;

/// What SNAPSHOT says of a huge page on the device.
const THERE: u8 = prot::WRITE | prot::PRIVATE_LOCAL | prot::PMD;

/// A huge page that is on the device, as one.
pub(super) fn huge_there(device: &Device) -> Result<Memory> {
    let memory = huge(1)?;
    memory.move_out(device, memory.all())?;
    snapshot_is("there", device, memory.region.range(), THERE)?;
    Ok(memory)
}

/// Checks that the kernel has the memory in system memory in huge pages.
fn is_whole(memory: &Memory) -> Result<()> {
    memory.expect("huge pages", memory.all(), Where::System)?;
    memory.is_huge()
}

fn stays_whole(device: Device) -> Result<()> {
    let memory = huge(3)?;
    for round in 2..5 {
        memory.move_out(&device, memory.all())?;
        snapshot_is("there", &device, memory.region.range(), THERE)?;
        memory.move_back(&device, memory.all(), 3 * WHOLE)?;
        is_whole(&memory)?;
        let back = prot::WRITE | prot::PMD;
        snapshot_is("back", &device, memory.region.range(), back)?;
        memory.verify(memory.all())?;
        memory.refill(round);
    }
    memory.move_out(&device, memory.all())?;
    equal("pages released", device.release()?.pages, 3 * WHOLE as u64)?;
    is_whole(&memory)?;
    memory.verify(memory.all())
}

fn whole_by_fault(device: Device) -> Result<()> {
    let memory = huge(2)?;
    for page in [0, WHOLE - 1, WHOLE / 2] {
        memory.move_out(&device, memory.all())?;
        memory.region.touch(page);
        memory.expect("touched", 0..WHOLE, Where::System)?;
        memory.expect("not touched", WHOLE..2 * WHOLE, Where::Device)?;
        memory.region.touch(WHOLE + page);
        is_whole(&memory)?;
    }
    memory.verify(memory.all())
}

fn no_block_free(context: &Context) -> Result<()> {
    with_capacity(context, 2 * HUGE as u64, || {
        let device = context.open()?;
        let small = Memory::new(WHOLE + 1)?;
        small.move_out(&device, small.all())?;
        // Leaves one page in each block.
        small.region.advise(1..WHOLE, Advice::DontNeed)?;
        if let Some(room) = device.room()? {
            equal("free blocks", room.free_blocks, 0)?;
            equal("free pages", room.free_pages, 2 * WHOLE as u64 - 2)?;
        }
        let memory = huge(1)?;
        memory.move_out(&device, memory.all())?;
        let in_small = prot::WRITE | prot::PRIVATE_LOCAL;
        snapshot_is("there", &device, memory.region.range(), in_small)?;
        small.expect("the others", 0..1, Where::Device)?;
        small.expect("the others", WHOLE..WHOLE + 1, Where::Device)?;
        memory.device_refills(&device, 2)?;
        memory.verify(memory.all())?;
        small.verify(0..1)?;
        small.verify(WHOLE..WHOLE + 1)?;
        // Nobody is there any more: one block for it.
        memory.refill(3);
        memory.region.advise(memory.all(), Advice::Collapse)?;
        memory.move_out(&device, memory.all())?;
        snapshot_is("there", &device, memory.region.range(), THERE)?;
        memory.verify(memory.all())
    })
}

fn small_by_fault(device: Device) -> Result<()> {
    let memory = huge_there(&device)?;
    let failure = Failure::new("system_alloc", Often::Once)?;
    memory.verify(300..301)?;
    ensure!(failure.is_over()?, "nothing failed");
    // The kernel may cut the page and leave it at that: then the CPU faults again,
    // for one small page.
    memory.expect("the page that was touched", 300..301, Where::System)?;
    memory.device_reads(&device, memory.all())?;
    let bytes = Usage::of(memory.region.range())?.huge;
    equal("bytes in huge pages", bytes, 0)?;
    memory.verify(memory.all())
}

/// Parts of a huge page.
const WINDOWS: [Range<usize>; 6] = [
    0..1,
    0..200,
    WHOLE - 1..WHOLE,
    300..WHOLE,
    1..WHOLE - 1,
    200..300,
];

/// Checks that `window` is at `inside`, and all else of the huge page elsewhere.
fn only(memory: &Memory, window: &Range<usize>, inside: Where, outside: Where) -> Result<()> {
    memory.expect("the window", window.clone(), inside)?;
    for rest in [0..window.start, window.end..WHOLE] {
        if !rest.is_empty() {
            memory.expect("the rest", rest, outside)?;
        }
    }
    Ok(())
}

fn windows_out(device: Device) -> Result<()> {
    let before = Before::of(&device)?;
    for window in WINDOWS {
        let memory = huge(1)?;
        memory.move_out(&device, window.clone())?;
        only(&memory, &window, Where::Device, Where::System)?;
        memory.device_reads(&device, memory.all())?;
        memory.device_refills(&device, 2)?;
        only(&memory, &window, Where::Device, Where::System)?;
        memory.verify(memory.all())?;
    }
    before.nothing_is_left(&device)
}

fn windows_back(device: Device) -> Result<()> {
    let before = Before::of(&device)?;
    for window in WINDOWS {
        let memory = huge_there(&device)?;
        memory.move_back(&device, window.clone(), window.len())?;
        only(&memory, &window, Where::System, Where::Device)?;
        memory.device_reads(&device, memory.all())?;
        memory.device_refills(&device, 2)?;
        only(&memory, &window, Where::System, Where::Device)?;
        memory.verify(memory.all())?;
    }
    before.nothing_is_left(&device)
}

fn unmapped_in_part(device: Device) -> Result<()> {
    let before = Before::of(&device)?;
    for (from, to) in [(0, 100), (100, 400), (400, WHOLE)] {
        let mut memory = huge_there(&device)?;
        let data = memory.data();
        memory.device_reads(&device, memory.all())?;
        // Three parts, of which the middle one may be at an end.
        let behind = (to < WHOLE).then(|| memory.region.split_off(to));
        if from > 0 {
            drop(memory.region.split_off(from));
            memory.expect("before it", memory.all(), Where::Device)?;
            memory.device_reads(&device, memory.all())?;
            memory.device_refills(&device, 2)?;
            memory.verify(memory.all())?;
        } else {
            drop(memory);
        }
        if let Some(behind) = behind {
            all_at("behind it", behind.range(), Where::Device)?;
            let mut view = vec![0xa5; behind.len()];
            device.read(behind.range(), &mut view)?;
            data.check_bytes(&view, to)?;
            equal(
                "bytes by the CPU",
                behind.to_bytes(0..behind.pages()) == view,
                true,
            )?;
        }
    }
    before.nothing_is_left(&device)
}

fn protected_in_part(device: Device) -> Result<()> {
    for pages in [0..100, 100..400, 400..WHOLE] {
        let memory = huge_there(&device)?;
        memory.device_reads(&device, memory.all())?;
        memory.region.protect(pages.clone(), Protection::Read)?;
        memory.device_reads(&device, memory.all())?;
        let bytes = memory.data().round(9).to_bytes(pages.clone());
        let range = memory.region.part(pages.clone());
        fails("WRITE to it", device.write(range, &bytes), Errno::EPERM)?;
        for rest in [0..pages.start, pages.end..WHOLE] {
            if !rest.is_empty() {
                memory.device_fills(&device, rest)?;
            }
        }
        memory.verify(memory.all())?;
        memory.region.protect(pages, Protection::ReadWrite)?;
        memory.device_refills(&device, 2)?;
        memory.verify(memory.all())?;
    }
    Ok(())
}

fn remapped_in_part(device: Device) -> Result<()> {
    let before = Before::of(&device)?;
    for cut in [1, 200, WHOLE - 1] {
        let mut memory = huge_there(&device)?;
        let data = memory.data();
        memory.device_reads(&device, memory.all())?;
        let moved = memory.region.split_off(cut).relocate()?;
        memory.device_reads(&device, memory.all())?;
        let mut view = vec![0xa5; moved.len()];
        device.read(moved.range(), &mut view)?;
        data.check_bytes(&view, cut)
            .context("at the new place, for the device")?;
        all_at("at the new place", moved.range(), Where::Device)?;
        let bytes = moved.to_bytes(0..moved.pages());
        data.check_bytes(&bytes, cut)
            .context("at the new place, for the CPU")?;
        memory.verify(memory.all())?;
    }
    before.nothing_is_left(&device)
}

fn dropped_in_part(device: Device) -> Result<()> {
    let before = Before::of(&device)?;
    for pages in [0..100, 100..400, 400..WHOLE] {
        let memory = huge_there(&device)?;
        memory.device_reads(&device, memory.all())?;
        memory.region.advise(pages.clone(), Advice::DontNeed)?;
        for rest in [0..pages.start, pages.end..WHOLE] {
            if !rest.is_empty() {
                memory.device_reads(&device, rest.clone())?;
                memory.verify(rest)?;
            }
        }
        reads_zero(&device, memory.region.part(pages.clone()))?;
        ensure!(memory.region.is_zero(pages), "not zero for the CPU");
    }
    before.nothing_is_left(&device)
}

fn forked(device: Device) -> Result<()> {
    let memory = huge_there(&device)?;
    let written = Gate::new()?;
    let child = memory.writing_child(&written, 3)?;
    memory.refill(2);
    written.open()?;
    memory.verify(memory.all())?;
    child.join()?;
    memory.verify(memory.all())?;
    memory.move_out(&device, memory.all())?;
    memory.verify(memory.all())
}

fn forked_device_writes(context: &Context) -> Result<()> {
    let device = context.open()?;
    let before = Before::of(&device)?;
    let memory = huge_there(&device)?;
    let (written, read) = (Gate::new()?, Gate::new()?);
    let child = helper(|| {
        let own = context.open()?;
        written.wait()?;
        memory.device_reads(&own, memory.all())?;
        memory.device_refills(&own, 3)?;
        read.open()?;
        memory.verify(memory.all())
    })?;
    memory.device_refills(&device, 2)?;
    written.open()?;
    read.wait()?;
    memory.device_reads(&device, memory.all())?;
    memory.verify(memory.all())?;
    child.join()?;
    drop(memory);
    before.nothing_is_left(&device)
}

fn accessed_in_part(device: Device) -> Result<()> {
    let memory = huge_there(&device)?;
    for (round, window) in (2..).zip(WINDOWS) {
        let old = memory.data();
        memory.device_reads(&device, window.clone())?;
        memory.expect_round(round);
        memory.device_fills(&device, window.clone())?;
        memory.device_reads(&device, window.clone())?;
        memory.expect_round(1);
        // Back to what all of it holds.
        memory.device_fills(&device, window)?;
        equal("round", memory.data(), old)?;
    }
    snapshot_is("afterwards", &device, memory.region.range(), THERE)?;
    memory.device_reads(&device, memory.all())?;
    memory.verify(memory.all())
}

fn blocks_are_whole_again(device: Device) -> Result<()> {
    let before = Before::of(&device)?;
    for round in rounds(12) {
        let whole = huge(1)?;
        let mut cut = huge(1)?;
        let small = Memory::new(37 * (round % 4 + 1))?;
        whole.move_out(&device, whole.all())?;
        small.move_out(&device, small.all())?;
        cut.move_out(&device, cut.all())?;
        drop(cut.region.split_off(100 + 30 * (round % 12)));
        match round % 4 {
            0 => cut.verify(cut.all())?,
            1 => drop(device.release()?),
            2 => {
                let _failure = Failure::new("copy_in", Often::Once)?;
                let more = huge(1)?;
                let mut view = vec![0; more.region.len()];
                let answer = device.migrate_to_device(more.region.range(), &mut view);
                fails("MIGRATE_TO_DEV", answer, Errno::EIO)?;
                more.verify(more.all())?;
            }
            _ => {
                let _failure = Failure::new("copy_out", Often::Once)?;
                let answer = device.migrate_to_system(small.region.range());
                fails("MIGRATE_TO_SYS", answer, Errno::EIO)?;
            }
        }
        small.verify(small.all())?;
        whole.verify(whole.all())?;
        cut.verify(cut.all())?;
    }
    before.nothing_is_left(&device)?;
    if let Some(room) = device.room()? {
        equal("free blocks", room.free_blocks, room.blocks)?;
    }
    Ok(())
}
