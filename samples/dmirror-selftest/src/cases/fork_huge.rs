// SPDX-License-Identifier: GPL-2.0

//! Huge pages that fork has shared. mm splits a huge page that was collected in one
//! of its page tables only, so all that need small pages of it must do it before.

use std::path::Path;

use dmirror_client::device::prot;
use dmirror_client::place::Usage;

use super::huge::huge;
use super::huge_whole::{WHOLE, huge_there};
use crate::inject::{Failure, Often};
use crate::prelude::*;

cases! { "fork_huge":
    before_migration = "A huge page that was shared by fork goes to the device for both, and each side's writes stay its own.",
    small_before_migration = "Where the device has no block for one, it goes in small pages, for both.",
    part_before_migration = "A part of one goes for both, and the rest stays.",
    by_both = "Parent and child move a huge page that they share, one after the other and back.",
    resident = "A huge page on the device is shared by fork: both write by CPU, and see their own.",
    written_by_device = "The device writes a huge page there that fork has shared: the child does not see it.",
    back_in_small_pages = "One comes back in small pages where there is no huge page for it, and both have their data.",
    part_back = "A part of one comes back by command, and both have their data.",
    touched_without_huge_page = "A CPU touches one when there is no huge page for it at first: it gets the data.",
    touched_without_any = "Where there is none at all, a CPU that touches one gets a small page. DMIRROR_KNOWN=1 has kernels with checks run it, too.",
    read_only = "A huge page on the device that is read-only comes back in small pages.",
    child_unmaps = "A child that unmaps a part of one takes nothing from its parent.",
}

/// A child that looks at its data when it is told to, writes all, and looks again.
struct Other {
    child: Helper,
    go: Gate,
}

impl Other {
    fn fork(memory: &Memory) -> Result<Self> {
        let go = Gate::new()?;
        let child = helper(|| {
            go.wait()?;
            memory.verify(memory.all())?;
            memory.refill(7);
            memory.verify(memory.all())
        })?;
        Ok(Self { child, go })
    }

    /// Both sides have their data, and keep their own writes.
    fn check_apart(self, device: &Device, memory: &Memory) -> Result<()> {
        memory.verify(memory.all())?;
        memory.device_reads(device, memory.all())?;
        memory.refill(5);
        self.go.open()?;
        self.child.join()?;
        memory.verify(memory.all())?;
        memory.move_out(device, memory.all())?;
        memory.verify(memory.all())
    }
}

fn before_migration(device: Device) -> Result<()> {
    let before = Before::of(&device)?;
    let memory = huge(1)?;
    let other = Other::fork(&memory)?;
    memory.move_out(&device, memory.all())?;
    other.check_apart(&device, &memory)?;
    drop(memory);
    before.nothing_is_left(&device)
}

fn small_before_migration(device: Device) -> Result<()> {
    let before = Before::of(&device)?;
    let memory = huge(1)?;
    let other = Other::fork(&memory)?;
    let failure = Failure::new("device_alloc", Often::Once)?;
    memory.move_out(&device, memory.all())?;
    drop(failure);
    let in_small = prot::READ | prot::PRIVATE_LOCAL;
    snapshot_is("there", &device, memory.region.range(), in_small)?;
    other.check_apart(&device, &memory)?;
    drop(memory);
    before.nothing_is_left(&device)
}

fn part_before_migration(device: Device) -> Result<()> {
    let memory = huge(1)?;
    let other = Other::fork(&memory)?;
    memory.move_out(&device, 100..300)?;
    memory.expect("the rest", 0..100, Where::System)?;
    memory.expect("the rest", 300..WHOLE, Where::System)?;
    other.check_apart(&device, &memory)
}

fn by_both(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = huge(1)?;
    let moved = Gate::new()?;
    let back = Gate::new()?;
    let child = helper(|| {
        let own = context.open()?;
        memory.move_out(&own, memory.all())?;
        moved.open()?;
        back.wait()?;
        memory.verify(memory.all())?;
        memory.move_out(&own, memory.all())?;
        memory.refill(3);
        memory.move_out(&own, memory.all())?;
        memory.verify(memory.all())
    })?;
    moved.wait()?;
    memory.expect("where the child put it", memory.all(), Where::Device)?;
    memory.device_reads(&device, memory.all())?;
    memory.move_back(&device, memory.all(), WHOLE)?;
    memory.verify(memory.all())?;
    back.open()?;
    child.join()?;
    memory.verify(memory.all())
}

fn resident(device: Device) -> Result<()> {
    for child_first in [false, true] {
        let memory = huge_there(&device)?;
        let other = Other::fork(&memory)?;
        if child_first {
            other.go.open()?;
            other.child.join()?;
            memory.verify(memory.all())?;
        } else {
            other.check_apart(&device, &memory)?;
        }
    }
    Ok(())
}

fn written_by_device(device: Device) -> Result<()> {
    let memory = huge_there(&device)?;
    let other = Other::fork(&memory)?;
    memory.device_refills(&device, 2)?;
    other.check_apart(&device, &memory)
}

fn is_small(memory: &Memory) -> Result<()> {
    let bytes = Usage::of(memory.region.range())?.huge;
    equal("bytes in huge pages", bytes, 0)
}

fn back_in_small_pages(device: Device) -> Result<()> {
    let before = Before::of(&device)?;
    let memory = huge_there(&device)?;
    let other = Other::fork(&memory)?;
    let failure = Failure::new("system_alloc", Often::Once)?;
    memory.move_back(&device, memory.all(), WHOLE)?;
    equal("the failure is over", failure.is_over()?, true)?;
    is_small(&memory)?;
    other.check_apart(&device, &memory)?;
    drop(memory);
    before.nothing_is_left(&device)
}

fn part_back(device: Device) -> Result<()> {
    for part in [0..1, 100..300, 300..WHOLE] {
        let memory = huge_there(&device)?;
        let other = Other::fork(&memory)?;
        memory.move_back(&device, part.clone(), part.len())?;
        memory.expect(
            "the page before the end",
            part.end - 1..part.end,
            Where::System,
        )?;
        other.check_apart(&device, &memory)?;
    }
    Ok(())
}

fn touched_without_huge_page(device: Device) -> Result<()> {
    for by_child in [false, true] {
        let memory = huge_there(&device)?;
        let other = Other::fork(&memory)?;
        let failure = Failure::new("system_alloc", Often::Once)?;
        if by_child {
            let touch = helper(|| memory.verify(77..78))?;
            equal("a child's touch", touch.exit()?, Exit::Status(0))?;
        } else {
            memory.verify(77..78)?;
        }
        equal("the failure is over", failure.is_over()?, true)?;
        other.check_apart(&device, &memory)?;
    }
    Ok(())
}

fn touched_without_any(context: &Context) -> Result<()> {
    // mm warns when it puts back the other one's entry.
    if Path::new("/sys/kernel/debug/kmemleak").exists() && !looks_for_known() {
        return known("it warns of a shared huge page that cannot come back");
    }
    let device = context.open()?;
    let memory = huge_there(&device)?;
    let other = Other::fork(&memory)?;
    let failure = Failure::next("system_alloc", 2)?;
    memory.verify(77..78)?;
    equal("the failure is over", failure.is_over()?, true)?;
    is_small(&memory)?;
    other.check_apart(&device, &memory)
}

fn read_only(device: Device) -> Result<()> {
    let memory = huge_there(&device)?;
    memory.region.protect(memory.all(), Protection::Read)?;
    let failure = Failure::new("system_alloc", Often::Once)?;
    memory.move_back(&device, memory.all(), WHOLE)?;
    equal("the failure is over", failure.is_over()?, true)?;
    is_small(&memory)?;
    memory.verify(memory.all())?;
    memory.move_out(&device, memory.all())?;
    memory.verify(memory.all())
}

fn child_unmaps(device: Device) -> Result<()> {
    let before = Before::of(&device)?;
    let memory = huge_there(&device)?;
    let child = helper(|| {
        memory.region.replace(100..400)?;
        memory.verify(0..100)?;
        memory.verify(400..WHOLE)
    })?;
    child.join()?;
    // What the child looked at came back for both.
    memory.move_back(&device, 50..150, 50)?;
    memory.verify(memory.all())?;
    drop(memory);
    before.nothing_is_left(&device)
}
