// SPDX-License-Identifier: GPL-2.0

//! Transparent huge pages as the source of a migration.

use dmirror_client::place::Usage;
use dmirror_client::region::Options;

use crate::prelude::*;

cases! { "huge":
    whole = "Memory in huge pages goes out and comes back with its data.",
    part = "A range inside a huge page moves its pages and leaves the rest of it alone.",
    across = "A range that ends inside huge pages at both ends moves what it names.",
    by_fault = "CPU reads and writes bring back memory that went out in huge pages.",
    empty = "Memory that may be huge and was never touched becomes zeroed device pages.",
    zero = "The huge zero page becomes zeroed device pages.",
}

/// `count` huge pages, filled; skips where the kernel gives none.
pub(super) fn huge(count: usize) -> Result<Memory> {
    let memory = Memory::of(options(count).map().context("MADV_HUGEPAGE")?);
    memory.fill(memory.all());
    if Usage::of(memory.region.range())?.huge < memory.region.len() as u64 {
        return skip("the kernel gave no transparent huge pages");
    }
    Ok(memory)
}

pub(super) fn options(count: usize) -> Options {
    Region::options(count * HUGE / page_size())
        .align(HUGE)
        .huge(true)
}

fn whole(device: Device) -> Result<()> {
    let memory = huge(3)?;
    let pages = memory.region.pages();
    memory.move_out(&device, memory.all())?;
    memory.move_back(&device, memory.all(), pages)?;
    memory.verify(memory.all())
}

fn part(device: Device) -> Result<()> {
    let memory = huge(1)?;
    let end = memory.region.pages();
    memory.move_out(&device, 100..300)?;
    memory.expect("before the range", 0..100, Where::System)?;
    memory.expect("behind the range", 300..end, Where::System)?;
    memory.move_back(&device, memory.all(), 200)?;
    memory.verify(memory.all())
}

fn across(device: Device) -> Result<()> {
    let memory = huge(3)?;
    let per_huge = memory.region.pages() / 3;
    let (start, end) = (per_huge - 7, 2 * per_huge + 9);
    memory.move_out(&device, start..end)?;
    memory.expect("before the range", 0..start, Where::System)?;
    memory.expect("behind the range", end..3 * per_huge, Where::System)?;
    memory.verify(memory.all())
}

fn by_fault(device: Device) -> Result<()> {
    let memory = huge(2)?;
    memory.move_out(&device, memory.all())?;
    memory.verify(memory.all())?;
    memory.move_out(&device, memory.all())?;
    memory.refill(2);
    memory.verify(memory.all())
}

fn empty(device: Device) -> Result<()> {
    let memory = Memory::of(options(2).map()?);
    let view = memory.view(&device, memory.all())?;
    ensure!(
        view.iter().all(|byte| *byte == 0),
        "the device's view is not zero"
    );
    ensure!(
        memory.region.is_zero(memory.all()),
        "untouched memory does not read as zero"
    );
    Ok(())
}

fn zero(device: Device) -> Result<()> {
    let memory = Memory::of(options(1).map()?);
    memory.region.touch(0);
    memory
        .expect("after one read", memory.all(), Where::System)
        .or_else(|_| skip("the kernel mapped no huge zero page"))?;
    let view = memory.view(&device, memory.all())?;
    ensure!(
        view.iter().all(|byte| *byte == 0),
        "the device's view is not zero"
    );
    memory.refill(2);
    memory.verify(memory.all())
}
