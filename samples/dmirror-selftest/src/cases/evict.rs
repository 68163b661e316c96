// SPDX-License-Identifier: GPL-2.0

//! A full device: it evicts the pages that were unused for longest.

use crate::prelude::*;
use crate::reload::with_capacity;

cases! { "evict":
    four_times_the_capacity = "A program that moves four times the device's memory there finds all its data right."
        => small(|device| four_times(&device, &Memory::new(pages(4 * BLOCKS))?, false)),
    oldest_first = "When the device is full, the pages that were moved first come back first."
        => small(|device| in_turn(&device, false)),
    used_by_the_device = "When the device is full, the pages that it has just read stay, and older ones come back."
        => small(|device| in_turn(&device, true)),
    other_processes = "A process gets room on a full device, and the one that had it loses no data.",
    several_at_once = "Processes that together want more than there is all finish with their data right."
        => |context: &Context| {
            with_small_device(context, || at_once(context, || Memory::new(pages(BLOCKS - 1))))
        },
}

/// The number of blocks of the device in these cases. A block has the size of a huge page.
pub(super) const BLOCKS: usize = 3;

pub(super) fn pages(blocks: usize) -> usize {
    blocks * hpage_pmd_nr()
}

pub(super) fn with_small_device(
    context: &Context,
    body: impl FnOnce() -> Result<()>,
) -> Result<()> {
    with_capacity(context, (BLOCKS * hpage_pmd_size()) as u64, body)
}

/// Returns a case with a device of [`BLOCKS`] blocks.
pub(super) fn small(body: impl Fn(Device) -> Result<()>) -> impl Fn(&Context) -> Result<()> {
    move |context| with_small_device(context, || body(context.open()?))
}

/// Moves memory to the device, and checks the device's view of each page.
pub(super) fn move_there(device: &Device, memory: &Memory) -> Result<()> {
    let view = moved_out(device, memory.region.range())?;
    let seen = memory.data().check_bytes(&view, 0);
    seen.context("the device's view")
}

/// Checks that all the device's blocks are free and whole.
pub(super) fn all_free(device: &Device) -> Result<()> {
    match device.room()? {
        Some(room) => equal("free blocks", room.free_blocks, BLOCKS as u64),
        None => Ok(()),
    }
}

/// Moves more memory to the device than it has room for, twice, and checks the data. If `in_order`,
/// the pages that were moved last must stay the first time. The second time some huge pages may
/// come back as small pages.
pub(super) fn four_times(device: &Device, memory: &Memory, in_order: bool) -> Result<()> {
    let end = memory.region.pages();
    for round in 2..4 {
        move_there(device, memory)?;
        if !in_order || round == 2 {
            equal("pages on a full device", memory.on_device()?, pages(BLOCKS))?;
        }
        if in_order && round == 2 {
            memory.expect("moved last", end - pages(BLOCKS)..end, Where::Device)?;
        }
        memory.intact()?;
        memory.refill(round);
    }
    memory.intact()?;
    all_free(device)
}

/// Moves three memories to the device, which has no room for the third one. If `used`, the device
/// reads from the first one before that.
fn in_turn(device: &Device, used: bool) -> Result<()> {
    let (first, third) = (Memory::new(pages(1))?, Memory::new(pages(1))?);
    let second = Memory::new(pages(BLOCKS - 1))?;
    move_there(device, &first)?;
    move_there(device, &second)?;
    if used {
        device.read(first.region.part(0..1), &mut vec![0; page_size()])?;
    }
    move_there(device, &third)?;
    if used {
        first.expect("used by the device", first.all(), Where::Device)?;
    } else {
        first.expect("after all others", first.all(), Where::System)?;
        second.expect("moved after it", second.all(), Where::Device)?;
    }
    third.expect("moved last", third.all(), Where::Device)?;
    first.intact()?;
    second.intact()?;
    third.intact()
}

fn other_processes(context: &Context) -> Result<()> {
    with_small_device(context, || {
        let device = context.open()?;
        let memory = Memory::new(pages(BLOCKS))?;
        move_there(&device, &memory)?;
        in_child(|| {
            let own = Memory::new(pages(BLOCKS))?;
            move_there(&context.open()?, &own)?;
            own.expect("of the second process", own.all(), Where::Device)?;
            own.intact()
        })?;
        memory.expect("of the first process", memory.all(), Where::System)?;
        memory.intact()
    })
}

/// Runs processes that use the device at once, each with memory that `new` creates.
pub(super) fn at_once(context: &Context, new: fn() -> Result<Memory>) -> Result<()> {
    let start = Gate::new()?;
    let child = |nth| {
        helper(|| {
            let device = context.open()?;
            let memory = new()?;
            start.wait()?;
            for round in 0..3 {
                memory.refill(10 * (nth + 1) + round);
                move_there(&device, &memory)?;
                memory.intact()?;
            }
            Ok(())
        })
    };
    let children = started(&start, (0..3_u16).map(child))?;
    children.into_iter().try_for_each(Helper::join)
}
