// SPDX-License-Identifier: GPL-2.0

//! A full device that has huge pages, or that cannot evict.

use super::evict::{
    BLOCKS, all_free, at_once, four_times, move_there, pages, small, with_small_device,
};
use super::huge::huge;
use crate::inject::{Failure, Often};
use crate::prelude::*;

cases! { "evict":
    huge_four_times_the_capacity = "A program that moves four times the device's memory there in huge pages finds all its data right."
        => small(|device| four_times(&device, &huge(4 * BLOCKS)?, true)),
    huge_several_at_once = "Processes that together want more huge pages than there is room for all finish with their data right.",
    blocks_are_whole_again = "After evictions of small and huge pages, and errors, every block is whole."
        => small(blocks_are_whole_again),
    no_system_memory = "When nothing can be evicted: ENOMEM, true counts, right data; and later it works again."
        => small(|device| cannot_evict(&device, Memory::new(pages(BLOCKS))?)),
    no_system_memory_huge = "When no huge page can be evicted: ENOMEM, true counts, right data; and later it works again."
        => small(|device| cannot_evict(&device, huge(BLOCKS)?)),
}

fn huge_several_at_once(context: &Context) -> Result<()> {
    with_small_device(context, || {
        at_once(context, || huge(BLOCKS - 1))?;
        all_free(&context.open()?)
    })
}

fn blocks_are_whole_again(device: Device) -> Result<()> {
    for round in rounds(4) {
        let (small, whole) = (Memory::new(pages(BLOCKS) - 100)?, huge(2)?);
        let more = Memory::new(300)?;
        move_there(&device, &small)?;
        move_there(&device, &whole)?;
        let failure = Failure::new("system_alloc", Often::EveryThird)?;
        move_there(&device, &more)?;
        drop(failure);
        if round % 2 == 0 {
            device.release()?;
        }
        for memory in [small, whole, more] {
            memory.intact()?;
        }
        all_free(&device)?;
    }
    Ok(())
}

/// Fills the device with `first`, and moves more there while all allocations of system memory fail.
fn cannot_evict(device: &Device, first: Memory) -> Result<()> {
    let second = Memory::new(300)?;
    move_there(device, &first)?;
    let failure = Failure::new("system_alloc", Often::Always)?;
    let answer = second.try_out(device);
    let counts = fails_counted("MIGRATE_TO_DEV", answer, Errno::ENOMEM)?;
    equal("pages counted", counts.pages, second.on_device()? as u64)?;
    first.expect("of the first", first.all(), Where::Device)?;
    first.reads(device)?;
    second.reads(device)?;
    drop(failure);
    move_there(device, &second)?;
    second.expect("when there is memory", second.all(), Where::Device)?;
    first.intact()?;
    second.intact()?;
    all_free(device)
}
