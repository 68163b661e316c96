// SPDX-License-Identifier: GPL-2.0

//! A full device that has huge pages, or that cannot evict.

use super::evict::{BLOCKS, at_once, move_there, pages, with_small_device};
use super::huge::huge;
use crate::inject::{Failure, Often};
use crate::prelude::*;

cases! { "evict":
    huge_four_times_the_capacity = "A program that moves four times the device's memory there in huge pages finds all its data right.",
    huge_several_at_once = "Processes that together want more huge pages than there is room for all finish with their data right.",
    blocks_are_whole_again = "After evictions of small and huge pages, and errors, every block is whole.",
    no_system_memory = "When nothing can be evicted: ENOMEM, true counts, right data; and later it works again.",
    no_system_memory_huge = "When no huge page can be evicted: ENOMEM, true counts, right data; and later it works again.",
}

/// Checks that all the device's blocks are free and whole.
fn all_free(device: &Device) -> Result<()> {
    match device.room()? {
        Some(room) => equal("free blocks", room.free_blocks, BLOCKS as u64),
        None => Ok(()),
    }
}

fn huge_four_times_the_capacity(context: &Context) -> Result<()> {
    with_small_device(context, || {
        let device = context.open()?;
        let memory = huge(4 * BLOCKS)?;
        move_there(&device, &memory)?;
        let there = Survey::of(memory.region.range())?.on_device();
        equal("pages on a full device", there, pages(BLOCKS))?;
        let last = memory.region.pages() - pages(BLOCKS);
        memory.expect("moved last", last..memory.region.pages(), Where::Device)?;
        memory.verify(memory.all())?;
        memory.refill(2);
        move_there(&device, &memory)?;
        memory.verify(memory.all())?;
        all_free(&device)
    })
}

fn huge_several_at_once(context: &Context) -> Result<()> {
    with_small_device(context, || {
        at_once(context, || huge(BLOCKS - 1))?;
        all_free(&context.open()?)
    })
}

fn blocks_are_whole_again(context: &Context) -> Result<()> {
    with_small_device(context, || {
        let device = context.open()?;
        for round in rounds(4) {
            let small = Memory::new(pages(BLOCKS) - 100)?;
            let whole = huge(2)?;
            let more = Memory::new(300)?;
            move_there(&device, &small)?;
            move_there(&device, &whole)?;
            {
                let _failure = Failure::new("system_alloc", Often::EveryThird)?;
                move_there(&device, &more)?;
            }
            if round % 2 == 0 {
                device.release()?;
            }
            small.verify(small.all())?;
            whole.verify(whole.all())?;
            more.verify(more.all())?;
            drop((small, whole, more));
            all_free(&device)?;
        }
        Ok(())
    })
}

/// Fills the device with `first`, and moves more there while no system memory is
/// to be had.
fn cannot_evict(context: &Context, first: fn() -> Result<Memory>) -> Result<()> {
    with_small_device(context, || {
        let device = context.open()?;
        let (first, second) = (first()?, Memory::new(300)?);
        move_there(&device, &first)?;
        let failure = Failure::new("system_alloc", Often::Always)?;
        let mut view = vec![0; second.region.len()];
        let answer = device.migrate_to_device(second.region.range(), &mut view);
        let counts = fails_counted("MIGRATE_TO_DEV", answer, Errno::ENOMEM)?;
        let there = Survey::of(second.region.range())?.on_device();
        equal("pages counted", counts.pages, there as u64)?;
        first.expect("of the first", first.all(), Where::Device)?;
        first.device_reads(&device, first.all())?;
        second.device_reads(&device, second.all())?;
        drop(failure);
        move_there(&device, &second)?;
        second.expect("when there is memory", second.all(), Where::Device)?;
        first.verify(first.all())?;
        second.verify(second.all())?;
        all_free(&device)
    })
}

fn no_system_memory(context: &Context) -> Result<()> {
    cannot_evict(context, || Memory::new(pages(BLOCKS)))
}

fn no_system_memory_huge(context: &Context) -> Result<()> {
    cannot_evict(context, || huge(BLOCKS))
}
