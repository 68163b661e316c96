// SPDX-License-Identifier: GPL-2.0

//! An eviction that is held while the VMA of its pages goes away, and with it the kernel's record
//! of the mappings of these pages. `migrate_device_range()` then walks freed memory, which only a
//! debug kernel detects: see Documentation/known-mm-issues.md.

use super::held::has_begun;
use super::huge;
use crate::prelude::*;

cases! { "held":
    vma_unmapped = "Memory that is unmapped as a whole while it is evicted: the kernel touches nothing that is gone."
        => of_each_kind(vma_unmapped),
    vma_exited = "A process that exits while its memory is evicted: the kernel touches nothing that is gone."
        => of_each_kind(vma_exited),
    vma_moved = "Memory that moves to another address and is unmapped while it is evicted: the same."
        => of_each_kind(vma_moved),
    vma_shared = "Memory that a child maps, too, and both unmap while it is evicted: the same."
        => of_each_kind(vma_shared),
    vma_unmapped_by_a_parent = "Memory whose child mm finds first, and which its parent unmaps while it is evicted: the same."
        => of_each_kind(vma_unmapped_by_a_parent),
    vma_left_to_a_child = "Memory of a parent that exits while it is evicted, with a child that keeps it: the child has its data."
        => of_each_kind(vma_left_to_a_child),
}

/// The time for which the eviction is held.
const HELD: Duration = Duration::from_millis(300);

/// The time limit of an operation.
const BOUND: Duration = Duration::from_secs(20);

/// A function that waits until the eviction of memory has begun.
type WhenBegun<'a> = &'a dyn Fn(&Memory) -> Result<()>;

/// The function that the owner of the memory runs.
type Owner = fn(Memory, WhenBegun<'_>) -> Result<()>;

/// The memory that is evicted.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Small,
    Huge,
    Coherent,
}

impl Kind {
    fn open(self, context: &Context) -> Result<Device> {
        match self {
            Self::Small | Self::Huge => context.open(),
            Self::Coherent => context.open_coherent(0),
        }
    }

    fn memory(self) -> Result<Memory> {
        match self {
            Self::Small | Self::Coherent => Memory::new(16),
            Self::Huge => huge::huge(2),
        }
    }
}

/// Runs `owner` in a new process, with its own memory on the device, while that memory is evicted.
/// Checks that nothing of it is left on the device.
fn during_eviction(context: &Context, kind: Kind, owner: Owner) -> Result<()> {
    needs_ours("delays on demand")?;
    let device = kind.open(context)?;
    let before = Before::of(&device)?;
    let (there, begin) = (Gate::new()?, Gate::new()?);
    let process = helper(|| {
        // No other process has ever mapped this memory, and no memory lies beside it.
        let memory = kind.memory()?;
        memory.out(&kind.open(context)?)?;
        let when_begun = |memory: &Memory| {
            let places = Survey::of(memory.region.range())?;
            there.open()?;
            begin.wait()?;
            has_begun("the eviction", memory, &places, BOUND)
        };
        owner(memory, &when_begun)
    })?;
    there.wait()?;
    let delay = Delay::new("back_collected", HELD.as_micros() as u32)?;
    begin.open()?;
    in_time("RELEASE", BOUND, || unless_held(device.release()))?;
    drop(delay);
    process.join().context("the owner")?;
    // The last process with this memory may have ended only a moment ago.
    thread::sleep(HELD);
    before.nothing_is_left(&device)
}

/// Returns a case of [`during_eviction`] for each kind of memory that there is.
fn of_each_kind(owner: Owner) -> impl Fn(&Context) -> Result<()> {
    move |context| {
        let coherent = context.open_coherent(0).map(|_| Kind::Coherent);
        for kind in [Kind::Small, Kind::Huge].into_iter().chain(coherent) {
            during_eviction(context, kind, owner).with_context(|| format!("{kind:?}"))?;
        }
        Ok(())
    }
}

/// Unmaps memory, and gives the eviction time to touch it.
fn unmap<T>(memory: T) -> Result<()> {
    drop(memory);
    thread::sleep(HELD);
    Ok(())
}

fn vma_unmapped(memory: Memory, when_begun: WhenBegun<'_>) -> Result<()> {
    when_begun(&memory)?;
    unmap(memory)
}

fn vma_exited(memory: Memory, when_begun: WhenBegun<'_>) -> Result<()> {
    when_begun(&memory)?;
    std::mem::forget(memory); // it is there until the process ends
    Ok(())
}

fn vma_moved(memory: Memory, when_begun: WhenBegun<'_>) -> Result<()> {
    when_begun(&memory)?;
    unmap(memory.region.relocate()?)
}

/// Forks a child that maps the memory, and runs `with` when `go` opens.
fn child(memory: &Memory, go: &Gate, with: impl FnOnce() -> Result<()>) -> Result<Helper> {
    let ready = Gate::new()?;
    let child = helper(|| {
        ready.open()?;
        go.wait()?;
        let _ = memory;
        with()
    })?;
    ready.wait()?;
    Ok(child)
}

fn vma_shared(memory: Memory, when_begun: WhenBegun<'_>) -> Result<()> {
    let go = Gate::new()?;
    // The child unmaps the memory when it ends.
    let child = child(&memory, &go, || Ok(()))?;
    when_begun(&memory)?;
    go.open()?;
    unmap(memory)?;
    child.join()
}

fn vma_unmapped_by_a_parent(mut memory: Memory, when_begun: WhenBegun<'_>) -> Result<()> {
    let go = Gate::new()?;
    let child = child(&memory, &go, || Ok(()))?;
    // The reverse map is sorted by the start of the VMAs.
    let rest = memory.region.split_off(memory.region.pages() / 2);
    drop(memory);
    let rest = Memory::of(rest);
    when_begun(&rest)?;
    unmap(rest)?;
    go.open()?;
    child.join()
}

fn vma_left_to_a_child(memory: Memory, when_begun: WhenBegun<'_>) -> Result<()> {
    let (go, verdict) = (Gate::new()?, Gate::new()?);
    // The owner ends first: this process is a parent of both.
    in_child(|| {
        let orphan = child(&memory, &go, || {
            let is_right = memory.intact();
            verdict.send(is_right.is_ok().into())?;
            is_right
        })?;
        std::mem::forget(orphan); // it outlives this process
        when_begun(&memory)?;
        go.open()
    })?;
    ensure!(verdict.receive()? == 1, "the child has other data");
    Ok(())
}
