// SPDX-License-Identifier: GPL-2.0

//! An eviction that is held while the VMA of its pages goes away, and with it
//! all that the kernel knows of who maps them. `migrate_device_range()` walks
//! freed memory then, which only a debug kernel sees: see
//! Documentation/known-mm-issues.md.

use super::huge;
use crate::prelude::*;

cases! { "held":
    vma_unmapped = "Memory that is unmapped as a whole while it is evicted: the kernel touches nothing that is gone.",
    vma_exited = "A process that exits while its memory is evicted: the kernel touches nothing that is gone.",
    vma_moved = "Memory that moves to another address and is unmapped while it is evicted: the same.",
    vma_shared = "Memory that a child maps, too, and both unmap while it is evicted: the same.",
    vma_unmapped_by_a_parent = "Memory whose child mm finds first, and which its parent unmaps while it is evicted: the same.",
    vma_left_to_a_child = "Memory of a parent that exits while it is evicted, with a child that keeps it: the child has its data.",
}

/// How long the eviction is held.
const HELD: Duration = Duration::from_millis(300);

/// How long anything may take.
const BOUND: Duration = Duration::from_secs(20);

/// What the owner of the memory does. It calls the function that it is given to wait until the
/// eviction has begun.
type Owner = fn(Memory, &dyn Fn(&Memory) -> Result<()>) -> Result<()>;

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

/// Waits until the kernel says that pages are not where they were: they are collected. Whoever asks
/// may have to wait until they have come back, which will do.
fn is_begun(memory: &Memory, before: &Survey) -> Result<()> {
    let start = Instant::now();
    while Survey::of(memory.region.range())?.places() == before.places() {
        ensure!(start.elapsed() < BOUND, "the eviction has not begun");
    }
    Ok(())
}

/// Has `owner` do something with memory of its own on the device, in a process of its own, while
/// that is being evicted, and checks that nothing of it is left.
fn during_eviction(context: &Context, kind: Kind, owner: Owner) -> Result<()> {
    needs_ours("delays on demand")?;
    let device = kind.open(context)?;
    let before = Before::of(&device)?;
    let (there, begin) = (Gate::new()?, Gate::new()?);
    let process = helper(|| {
        // Nobody else has ever mapped it, and nothing lies beside it.
        let memory = kind.memory()?;
        memory.move_out(&kind.open(context)?, memory.all())?;
        let when_begun = |memory: &Memory| {
            let places = Survey::of(memory.region.range())?;
            there.open()?;
            begin.wait()?;
            is_begun(memory, &places)
        };
        owner(memory, &when_begun)
    })?;
    there.wait()?;
    let delay = Delay::new("back_collected", HELD.as_micros() as u32)?;
    begin.open()?;
    let start = Instant::now();
    unless_held(device.release())?;
    ensure!(
        start.elapsed() < BOUND,
        "RELEASE took {:?}",
        start.elapsed()
    );
    drop(delay);
    process.join().context("the owner")?;
    // The last of its processes may be gone for a moment only.
    thread::sleep(HELD);
    before.nothing_is_left(&device)
}

fn of_each_kind(context: &Context, owner: Owner) -> Result<()> {
    for kind in [Kind::Small, Kind::Huge] {
        during_eviction(context, kind, owner).with_context(|| format!("{kind:?}"))?;
    }
    match context.open_coherent(0) {
        Ok(_) => during_eviction(context, Kind::Coherent, owner).context("Coherent"),
        Err(_) => Ok(()),
    }
}

fn vma_unmapped(context: &Context) -> Result<()> {
    of_each_kind(context, |memory, when_begun| {
        when_begun(&memory)?;
        drop(memory);
        // Time to touch it.
        thread::sleep(HELD);
        Ok(())
    })
}

fn vma_exited(context: &Context) -> Result<()> {
    of_each_kind(context, |memory, when_begun| {
        when_begun(&memory)?;
        std::mem::forget(memory); // it is there until the process ends
        Ok(())
    })
}

fn vma_moved(context: &Context) -> Result<()> {
    of_each_kind(context, |memory, when_begun| {
        when_begun(&memory)?;
        drop(memory.region.relocate()?);
        thread::sleep(HELD);
        Ok(())
    })
}

/// A child that maps the memory, and does `with` with it when it is told to.
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

fn vma_shared(context: &Context) -> Result<()> {
    of_each_kind(context, |memory, when_begun| {
        let go = Gate::new()?;
        // The child unmaps it by its end.
        let child = child(&memory, &go, || Ok(()))?;
        when_begun(&memory)?;
        go.open()?;
        drop(memory);
        thread::sleep(HELD);
        child.join()
    })
}

fn vma_unmapped_by_a_parent(context: &Context) -> Result<()> {
    of_each_kind(context, |mut memory, when_begun| {
        let go = Gate::new()?;
        let child = child(&memory, &go, || Ok(()))?;
        // The reverse map is sorted by where a VMA begins.
        let rest = memory.region.split_off(memory.region.pages() / 2);
        drop(memory);
        let rest = Memory::of(rest);
        when_begun(&rest)?;
        drop(rest);
        thread::sleep(HELD);
        go.open()?;
        child.join()
    })
}

fn vma_left_to_a_child(context: &Context) -> Result<()> {
    of_each_kind(context, |memory, when_begun| {
        let (go, verdict) = (Gate::new()?, Gate::new()?);
        // The owner ends first: this process is a parent of both.
        let owner = helper(|| {
            let orphan = child(&memory, &go, || {
                let is_right = memory.verify(memory.all());
                verdict.send(is_right.is_ok().into())?;
                is_right
            })?;
            std::mem::forget(orphan); // it outlives this process
            when_begun(&memory)?;
            go.open()
        })?;
        owner.join()?;
        ensure!(verdict.receive()? == 1, "the child has other data");
        Ok(())
    })
}
