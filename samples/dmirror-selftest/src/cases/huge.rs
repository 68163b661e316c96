// SPDX-License-Identifier: GPL-2.0

//! Transparent huge pages as the source of a migration.

use dmirror_client::place::Usage;
use dmirror_client::region::Options;

use crate::prelude::{hpage_pmd_nr as nr, *};
use crate::steps::{ALL, Verb::*, Who::*, steps};

cases! { "huge":
    whole = "Memory in huge pages goes out and comes back with its data."
        => |device: Device| huge(3)?.out_and_back(&device),
    part = "A range inside a huge page moves its pages and leaves the rest of it alone."
        => steps(|| huge(1), [
            (A, Out(100..300)), (Cpu, Finds(0..100, Where::System)),
            (Cpu, Finds(300..usize::MAX, Where::System)), (A, Back(ALL, 200)), (Cpu, Reads(ALL)),
        ]),
    across = "A range that ends inside huge pages at both ends moves what it names."
        => steps(|| huge(3), [
            (A, Out(nr() - 7..2 * nr() + 9)), (Cpu, Finds(0..nr() - 7, Where::System)),
            (Cpu, Finds(2 * nr() + 9..usize::MAX, Where::System)), (Cpu, Reads(ALL)),
        ]),
    by_fault = "CPU reads and writes bring back memory that went out in huge pages."
        => steps(|| huge(2), [
            (A, Out(ALL)), (Cpu, Reads(ALL)), (A, Out(ALL)), (Cpu, Writes), (Cpu, Reads(ALL)),
        ]),
    empty = "Memory that may be huge and was never touched becomes zeroed device pages.",
    zero = "The huge zero page becomes zeroed device pages.",
}

/// Creates `count` huge pages, and fills them; skips if the kernel gives none.
pub(super) fn huge(count: usize) -> Result<Memory> {
    let memory = Memory::filled(options(count)?.map().context("MADV_HUGEPAGE")?);
    if Usage::of(memory.region.range())?.huge < memory.region.len() as u64 {
        return skip("the kernel gave no transparent huge pages");
    }
    Ok(memory)
}

/// Creates `count` huge pages, fills them, and moves them to the device.
pub(super) fn huge_out(device: &Device, count: usize) -> Result<Memory> {
    let memory = huge(count)?;
    memory.out(device)?;
    Ok(memory)
}

/// Returns options for the memory of `count` huge pages; skips if that is too much.
pub(super) fn options(count: usize) -> Result<Options> {
    needs_room(count * hpage_pmd_size())?;
    let pages = count * hpage_pmd_nr();
    Ok(Region::options(pages).align(hpage_pmd_size()).huge(true))
}

fn empty(device: Device) -> Result<()> {
    let memory = Memory::of(options(2)?.map()?);
    zeros("the device's view", &memory.view(&device, memory.all())?)?;
    memory.is_zero(memory.all())
}

fn zero(device: Device) -> Result<()> {
    let memory = Memory::of(options(1)?.map()?);
    memory.region.touch(0);
    memory
        .expect("after one read", memory.all(), Where::System)
        .or_else(|_| skip("the kernel mapped no huge zero page"))?;
    zeros("the device's view", &memory.view(&device, memory.all())?)?;
    memory.rewrite(2)
}
