// SPDX-License-Identifier: GPL-2.0

//! The place where a device makes atomic operations, and the time for which it keeps a page for
//! them.

use crate::prelude::*;
use crate::worker::{refused, soon};

cases! { "policy":
    atomics_migrate = "ATOMIC moves its page to the device, or makes it exclusive where it is, as the setting says."
        => |context: &Context| migrates(context, 1),
    atomics_without_migrate = "It does so whatever is done about other misses."
        => |context: &Context| migrates(context, 0),
    atomic_slice = "A CPU does not get a page that an engine has made exclusive before the slice of that is over.",
    atomic_slice_ends = "A CPU gets it then, however many operations are left and however large the file's number.",
    atomic_slice_and_unmap = "Unmapping the page, or taking it away otherwise, does not wait for the engine's job.",
}

/// Returns whether the single page of some memory is on the device, and whether it is exclusive to
/// it.
fn is_at(worker: &Worker, memory: &Memory) -> Result<(bool, bool)> {
    let range = memory.region.range();
    // Check this first, since it does not touch the page.
    let is_exclusive = worker.device.is_exclusive(range)?;
    let moved = (Survey::of(range)?.on_device() == 1) && !is_exclusive;
    Ok((moved, is_exclusive))
}

fn add(memory: &Memory, times: u64) -> Packet {
    Packet::add(Width::Eight, memory.region.addr(), 1, times, 0)
}

fn migrates(context: &Context, migrate: u32) -> Result<()> {
    for atomics_migrate in [1, 0] {
        let settings = [("migrate", migrate), ("atomics_migrate", atomics_migrate)];
        let policy = Policy::with("test_hmm", &settings)?;
        let (worker, memory) = (Worker::new(context)?, Memory::new(1)?);
        let start = memory.region.load(0);
        let moves = atomics_migrate == 1;
        let added = policy.added(|| {
            for round in 1..=3 {
                worker.does(&[add(&memory, 10)])?;
                let what = format!("on the device, exclusive: round {round} of {settings:?}");
                equal(&what, is_at(&worker, &memory)?, (moves, !moves))?;
                let sum = start.wrapping_add(10 * round);
                equal("sum", memory.region.load(0), sum)?;
                equal("then", is_at(&worker, &memory)?, (false, false))?;
            }
            Ok(())
        })?;
        ensure!((added.out() >= 3) == (moves || migrate == 1), "{added:?}");
    }
    Ok(())
}

/// Reads a word with a CPU until its value is not `last`; returns the time at which the last read
/// began, and the value.
fn next(memory: &Memory, last: u64) -> Result<(Instant, u64)> {
    let start = Instant::now();
    loop {
        let begun = Instant::now();
        let word = memory.region.load(0);
        if word != last {
            return Ok((begun, word));
        }
        ensure!(start.elapsed() < PATIENCE, "the job does not go on");
    }
}

fn atomic_slice(context: &Context) -> Result<()> {
    let slice = Duration::from_millis(20);
    let _policy = Policy::with("test_hmm", &[("atomic_timeslice_us", 20_000)])?;
    let (worker, memory) = (Worker::new(context)?, Memory::new(1)?);
    let job = worker.submit(&[add(&memory, u64::MAX)])?;
    let (mut seen, mut word) = next(&memory, memory.data().word(0, 0))?;
    for _ in 0..30 {
        // The previous read gave the page to a CPU, so the engine had to get it anew.
        let before = seen;
        (seen, word) = next(&memory, word)?;
        let took = before.elapsed();
        ensure!(took >= slice, "a CPU had the page again after {took:?}");
    }
    let goes_on = worker.queue.wait(job, Some(Duration::ZERO));
    refused("the job, meanwhile", goes_on, Errno::ETIME)?;
    // This ends the job.
    Ok(worker.queue.destroy()?)
}

fn atomic_slice_ends(context: &Context) -> Result<()> {
    let _policy = Policy::with("test_hmm", &[("atomic_timeslice_us", u32::MAX)])?;
    let (worker, memory) = (Worker::new(context)?, Memory::new(1)?);
    let start = memory.region.load(0);
    worker.submit(&[add(&memory, u64::MAX)])?;
    for _ in 0..20 {
        soon("a CPU's addition", || {
            Ok(memory.region.fetch_add(0, 1 << 40))
        })?;
        thread::sleep(Duration::from_millis(1));
    }
    worker.queue.destroy()?;
    let made = memory.region.load(0).wrapping_sub(start);
    equal("what CPUs have added", made >> 40, 20)?;
    ensure!(made & ((1 << 40) - 1) > 0, "the engine has added nothing");
    Ok(())
}

/// A change of memory while a job uses it.
type Deed<'a> = &'a dyn Fn(Memory) -> Result<()>;

fn atomic_slice_and_unmap(context: &Context) -> Result<()> {
    let _policy = Policy::with("test_hmm", &[("atomic_timeslice_us", 20_000)])?;
    let device = context.open()?;
    let deeds: [(&str, Deed<'_>); 5] = [
        ("munmap", &|memory| {
            drop(memory);
            Ok(())
        }),
        ("mprotect", &|memory| {
            Ok(memory.region.protect(0..1, Protection::Read)?)
        }),
        ("madvise", &|memory| {
            Ok(memory.region.advise(0..1, Advice::DontNeed)?)
        }),
        ("mremap", &|memory| memory.relocated().map(drop)),
        ("MIGRATE_TO_DEV", &|memory| {
            unless_held(memory.try_out(&device))
        }),
    ];
    for_all(deeds, |(what, deed)| {
        let (worker, memory) = (Worker::new(context)?, Memory::new(1)?);
        let begun = memory.region.load(0);
        let job = worker.submit(&[add(&memory, u64::MAX)])?;
        next(&memory, begun)?;
        soon(what, || deed(memory))?;
        worker.ends()?;
        equal("number of the job", job, 1)
    })
}
