// SPDX-License-Identifier: GPL-2.0

//! A device that is full: it evicts what was left alone for longest.

use crate::prelude::*;
use crate::reload::with_capacity;

cases! { "evict":
    four_times_the_capacity = "A program that moves four times the device's memory there finds all its data right.",
    oldest_first = "When the device is full, the pages that were moved first come back first.",
    used_by_the_device = "When the device is full, the pages that it has just read stay, and older ones come back.",
    other_processes = "A process gets room on a full device, and the one that had it loses no data.",
    several_at_once = "Processes that together want more than there is all finish with their data right.",
}

/// Blocks of the device in these cases, of `HUGE` bytes each.
pub(super) const BLOCKS: usize = 3;

pub(super) fn pages(blocks: usize) -> usize {
    blocks * HUGE / page_size()
}

pub(super) fn with_small_device(
    context: &Context,
    body: impl FnOnce() -> Result<()>,
) -> Result<()> {
    with_capacity(context, (BLOCKS * HUGE) as u64, body)
}

/// Moves memory to the device, and checks that the device has seen each page.
pub(super) fn move_there(device: &Device, memory: &Memory) -> Result<()> {
    let mut view = vec![0xa5; memory.region.len()];
    let range = memory.region.part(memory.all());
    let counts = device.migrate_to_device(range, &mut view)?;
    equal("pages moved out", counts.pages, range.pages())?;
    memory
        .data()
        .check_bytes(&view, 0)
        .context("the device's view")
}

fn four_times_the_capacity(context: &Context) -> Result<()> {
    with_small_device(context, || {
        let device = context.open()?;
        let memory = Memory::new(pages(4 * BLOCKS))?;
        for round in 2..4 {
            move_there(&device, &memory)?;
            let survey = Survey::of(memory.region.part(memory.all()))?;
            equal("pages on a full device", survey.on_device(), pages(BLOCKS))?;
            memory.verify(memory.all())?;
            memory.refill(round);
        }
        memory.verify(memory.all())
    })
}

fn oldest_first(context: &Context) -> Result<()> {
    with_small_device(context, || {
        let device = context.open()?;
        let first = Memory::new(pages(1))?;
        let second = Memory::new(pages(BLOCKS - 1))?;
        let third = Memory::new(pages(1))?;
        for memory in [&first, &second, &third] {
            move_there(&device, memory)?;
        }
        first.expect("after all others", first.all(), Where::System)?;
        second.expect("moved after it", second.all(), Where::Device)?;
        third.expect("moved last", third.all(), Where::Device)?;
        for memory in [&first, &second, &third] {
            memory.verify(memory.all())?;
        }
        Ok(())
    })
}

fn used_by_the_device(context: &Context) -> Result<()> {
    with_small_device(context, || {
        let device = context.open()?;
        let first = Memory::new(pages(1))?;
        let second = Memory::new(pages(BLOCKS - 1))?;
        let third = Memory::new(pages(1))?;
        for memory in [&first, &second] {
            move_there(&device, memory)?;
        }
        let mut view = vec![0; page_size()];
        device.read(first.region.part(0..1), &mut view)?;
        move_there(&device, &third)?;
        first.expect("used by the device", first.all(), Where::Device)?;
        third.expect("moved last", third.all(), Where::Device)?;
        for memory in [&first, &second, &third] {
            memory.verify(memory.all())?;
        }
        Ok(())
    })
}

fn other_processes(context: &Context) -> Result<()> {
    with_small_device(context, || {
        let device = context.open()?;
        let memory = Memory::new(pages(BLOCKS))?;
        move_there(&device, &memory)?;
        helper(|| {
            let device = context.open()?;
            let own = Memory::new(pages(BLOCKS))?;
            move_there(&device, &own)?;
            own.expect("of the second process", own.all(), Where::Device)?;
            own.verify(own.all())
        })?
        .join()?;
        memory.expect("of the first process", memory.all(), Where::System)?;
        memory.verify(memory.all())
    })
}

/// Has processes use the device at once, each with memory that `new` makes.
pub(super) fn at_once(context: &Context, new: fn() -> Result<Memory>) -> Result<()> {
    let start = Gate::new()?;
    let helpers = (0..3_u16)
        .map(|nth| {
            helper(|| {
                let device = context.open()?;
                let memory = new()?;
                start.wait()?;
                for round in 0..3 {
                    memory.refill(10 * (nth + 1) + round);
                    move_there(&device, &memory)?;
                    memory.verify(memory.all())?;
                }
                Ok(())
            })
        })
        .collect::<Result<Vec<_>>>()?;
    for _ in &helpers {
        start.open()?;
    }
    helpers.into_iter().try_for_each(|helper| helper.join())
}

fn several_at_once(context: &Context) -> Result<()> {
    with_small_device(context, || {
        at_once(context, || Memory::new(pages(BLOCKS - 1)))
    })
}
