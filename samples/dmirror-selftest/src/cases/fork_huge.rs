// SPDX-License-Identifier: GPL-2.0

//! Huge pages that fork has shared. mm splits a collected huge page in only one of its page tables,
//! so all code that needs small pages of it must split it before.

use std::path::Path;

use dmirror_client::device::prot;

use super::huge::huge;
use super::huge_whole::{huge_there, is_small};
use crate::inject::{Failure, Often};
use crate::prelude::*;

cases! { "fork_huge":
    before_migration = "A huge page that was shared by fork goes to the device for both, and each side's writes stay its own."
        => shared(false, |device, memory| memory.out(device)),
    small_before_migration = "A huge page goes in small pages, for both, if the device has no block for it."
        => shared(false, small_before_migration),
    part_before_migration = "A part of one goes for both, and the rest stays."
        => shared(false, |device, memory| {
            memory.move_out(device, 100..300)?;
            memory.only(100..300, Where::Device, Where::System)
        }),
    by_both = "Parent and child move a huge page that they share, one after the other and back.",
    resident = "A huge page on the device is shared by fork: both write by CPU, and see their own.",
    written_by_device = "The device writes a huge page there that fork has shared: the child does not see it."
        => shared(true, |device, memory| memory.device_refills(device, 2).map(drop)),
    back_in_small_pages = "One comes back in small pages where there is no huge page for it, and both have their data."
        => shared(true, back_in_small_pages),
    part_back = "A part of one comes back by command, and both have their data.",
    touched_without_huge_page = "A CPU touches one when there is no huge page for it at first: it gets the data.",
    touched_without_any = "If there is none at all, a CPU that touches one gets a small page. DMIRROR_KNOWN=1 has kernels with checks run it, too.",
    read_only = "A huge page on the device that is read-only comes back in small pages.",
    child_unmaps = "A child that unmaps a part of one takes nothing from its parent."
        => leaves_nothing(child_unmaps),
}

/// Runs `body` on a huge page that a child shares. Checks that both sides then have their data, and
/// keep their own writes.
fn apart(device: &Device, memory: &Memory, body: impl FnOnce() -> Result<()>) -> Result<()> {
    memory.beside_child(7, || {
        body()?;
        memory.intact()?;
        memory.reads(device)?;
        memory.refill(5);
        Ok(())
    })?;
    memory.out_and_read(device)
}

/// Returns a case of [`apart`] with a huge page on the device if `there` is true, or in system
/// memory. The case leaves nothing on the device.
fn shared(
    there: bool,
    body: impl Fn(&Device, &Memory) -> Result<()>,
) -> impl Fn(Device) -> Result<()> {
    leaves_nothing(move |device| {
        let memory = if there { huge_there(device)? } else { huge(1)? };
        apart(device, &memory, || body(device, &memory))
    })
}

fn small_before_migration(device: &Device, memory: &Memory) -> Result<()> {
    let failure = Failure::new("device_alloc", Often::Once)?;
    memory.out(device)?;
    drop(failure);
    let in_small = prot::READ | prot::PRIVATE_LOCAL;
    snapshot_is("there", device, memory.region.range(), in_small)
}

fn by_both(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = huge(1)?;
    let (moved, back) = (Gate::new()?, Gate::new()?);
    let child = helper(|| {
        let own = context.open()?;
        memory.out(&own)?;
        moved.open()?;
        back.wait()?;
        memory.intact()?;
        memory.out(&own)?;
        memory.refill(3);
        memory.out_and_read(&own)
    })?;
    moved.wait()?;
    memory.expect("where the child put it", memory.all(), Where::Device)?;
    memory.reads(&device)?;
    memory.move_back(&device, memory.all(), hpage_pmd_nr())?;
    memory.intact()?;
    back.open()?;
    memory.survives(child)
}

fn resident(device: Device) -> Result<()> {
    apart(&device, &huge_there(&device)?, || Ok(()))?;
    // The child writes first.
    huge_there(&device)?.beside_child(7, || Ok(()))
}

/// Brings the page back when there is no huge page for it in system memory.
fn back_in_small_pages(device: &Device, memory: &Memory) -> Result<()> {
    let failure = Failure::new("system_alloc", Often::Once)?;
    memory.move_back(device, memory.all(), hpage_pmd_nr())?;
    equal("the failure is over", failure.is_over()?, true)?;
    is_small(memory)
}

fn part_back(device: Device) -> Result<()> {
    for part in [0..1, 100..300, 300..hpage_pmd_nr()] {
        let memory = huge_there(&device)?;
        apart(&device, &memory, || {
            memory.move_back(&device, part.clone(), part.len())?;
            let last = part.end - 1..part.end;
            memory.expect("the page before the end", last, Where::System)
        })?;
    }
    Ok(())
}

fn touched_without_huge_page(device: Device) -> Result<()> {
    for by_child in [false, true] {
        let memory = huge_there(&device)?;
        let touch = || memory.verify(77..78);
        apart(&device, &memory, || {
            let failure = Failure::new("system_alloc", Often::Once)?;
            if by_child {
                in_child(touch)?;
            } else {
                touch()?;
            }
            equal("the failure is over", failure.is_over()?, true)
        })?;
    }
    Ok(())
}

fn touched_without_any(context: &Context) -> Result<()> {
    // mm warns when it puts back the entry of the other process.
    if Path::new("/sys/kernel/debug/kmemleak").exists() && !looks_for_known() {
        return known("it warns of a shared huge page that cannot come back");
    }
    let device = context.open()?;
    let memory = huge_there(&device)?;
    apart(&device, &memory, || {
        let failure = Failure::next("system_alloc", 2)?;
        memory.verify(77..78)?;
        equal("the failure is over", failure.is_over()?, true)?;
        is_small(&memory)
    })
}

fn read_only(device: Device) -> Result<()> {
    let memory = huge_there(&device)?;
    memory.region.protect(memory.all(), Protection::Read)?;
    back_in_small_pages(&device, &memory)?;
    memory.intact()?;
    memory.out_and_read(&device)
}

fn child_unmaps(device: &Device) -> Result<()> {
    let memory = huge_there(device)?;
    in_child(|| {
        memory.region.replace(100..400)?;
        memory.verify(0..100)?;
        memory.verify(400..hpage_pmd_nr())
    })?;
    // The pages that the child read came back for both.
    memory.move_back(device, 50..150, 50)?;
    memory.intact()
}
