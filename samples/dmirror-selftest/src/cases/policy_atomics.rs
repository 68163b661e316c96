// SPDX-License-Identifier: GPL-2.0

//! Where a device makes atomic operations, and how long it keeps a page for them.

use crate::prelude::*;
use crate::worker::{SOON, refused, soon};

cases! { "policy":
    atomics_migrate = "ATOMIC moves its page to the device, or makes it exclusive where it is, as the setting says.",
    atomics_without_migrate = "It does so whatever is done about other misses.",
    atomic_slice = "A CPU does not get a page that an engine has made exclusive before the slice of that is over.",
    atomic_slice_ends = "A CPU gets it then, however many operations are left and however large the file's number.",
    atomic_slice_and_unmap = "Who unmaps the page, or takes it away otherwise, does not wait for the engine's job.",
}

/// Where the one page of some memory is: on the device, and exclusive to it.
fn is_at(worker: &Worker, memory: &Memory) -> Result<(bool, bool)> {
    let range = memory.region.range();
    // Asked for first, since nothing of that touches the page.
    let is_exclusive = worker.device.is_exclusive(range)?;
    let moved = (Survey::of(range)?.on_device() == 1) && !is_exclusive;
    Ok((moved, is_exclusive))
}

fn add(memory: &Memory, times: u64) -> Packet {
    Packet::add(Width::Eight, memory.region.addr(), 1, times, 0)
}

fn migrates(context: &Context, migrate: u32) -> Result<()> {
    for atomics_migrate in [1, 0] {
        let policy = Policy::with(
            "test_hmm",
            &[("migrate", migrate), ("atomics_migrate", atomics_migrate)],
        )?;
        let worker = Worker::new(context)?;
        let memory = Memory::new(1)?;
        let start = memory.region.load(0);
        let added = policy.added(|| {
            for round in 1..=3 {
                worker.does(&[add(&memory, 10)])?;
                let expected = (atomics_migrate == 1, atomics_migrate == 0);
                let what = format!("on the device, exclusive: round {round} of {expected:?}");
                equal(&what, is_at(&worker, &memory)?, expected)?;
                let sum = start.wrapping_add(10 * round);
                equal("sum", memory.region.load(0), sum)?;
                equal("then", is_at(&worker, &memory)?, (false, false))?;
            }
            Ok(())
        })?;
        ensure!(
            (added.out() >= 3) == (atomics_migrate == 1 || migrate == 1),
            "{added:?}"
        );
    }
    Ok(())
}

fn atomics_migrate(context: &Context) -> Result<()> {
    migrates(context, 1)
}

fn atomics_without_migrate(context: &Context) -> Result<()> {
    migrates(context, 0)
}

fn atomic_slice(context: &Context) -> Result<()> {
    let slice = Duration::from_millis(20);
    let _policy = Policy::with("test_hmm", &[("atomic_timeslice_us", 20_000)])?;
    let (worker, memory) = (Worker::new(context)?, Memory::new(1)?);
    let job = worker.submit(&[add(&memory, u64::MAX)])?;
    let look = |last: u64| -> Result<(Instant, u64)> {
        let start = Instant::now();
        loop {
            let begun = Instant::now();
            let word = memory.region.load(0);
            if word != last {
                return Ok((begun, word));
            }
            ensure!(start.elapsed() < PATIENCE, "the job does not go on");
        }
    };
    let (mut seen, mut word) = look(memory.data().word(0, 0))?;
    for _ in 0..30 {
        // By the look before a CPU has the page. So the engine had to get it anew.
        let before = seen;
        (seen, word) = look(word)?;
        let took = before.elapsed();
        ensure!(took >= slice, "a CPU had the page again after {took:?}");
    }
    let goes_on = worker.queue.wait(job, Some(Duration::ZERO));
    refused("the job, meanwhile", goes_on, Errno::ETIME)?;
    // Which ends it.
    Ok(worker.queue.destroy()?)
}

fn atomic_slice_ends(context: &Context) -> Result<()> {
    let _policy = Policy::with("test_hmm", &[("atomic_timeslice_us", u32::MAX)])?;
    let (worker, memory) = (Worker::new(context)?, Memory::new(1)?);
    let start = memory.region.load(0);
    worker.submit(&[add(&memory, u64::MAX)])?;
    let mut writes = 0;
    for _ in 0..20 {
        let begun = Instant::now();
        memory.region.fetch_add(0, 1 << 40);
        writes += 1;
        ensure!(begun.elapsed() < SOON, "a CPU waited {:?}", begun.elapsed());
        thread::sleep(Duration::from_millis(1));
    }
    worker.queue.destroy()?;
    let made = memory.region.load(0).wrapping_sub(start);
    equal("what CPUs have added", made >> 40, writes)?;
    ensure!(made & ((1 << 40) - 1) > 0, "the engine has added nothing");
    Ok(())
}

fn atomic_slice_and_unmap(context: &Context) -> Result<()> {
    let _policy = Policy::with("test_hmm", &[("atomic_timeslice_us", 20_000)])?;
    let bounded = |what: &str, deed: &dyn Fn(Region) -> Result<()>| -> Result<()> {
        let (worker, memory) = (Worker::new(context)?, Memory::new(1)?);
        let begun = memory.region.load(0);
        let job = worker.submit(&[add(&memory, u64::MAX)])?;
        let start = Instant::now();
        while memory.region.load(0) == begun {
            ensure!(start.elapsed() < PATIENCE, "the job does not begin");
        }
        soon(what, || deed(memory.region))?;
        soon("QUEUE_DESTROY", || Ok(worker.queue.destroy()?))?;
        equal("number of the job", job, 1)
    };
    bounded("munmap", &|region| {
        drop(region);
        Ok(())
    })?;
    bounded("mprotect", &|region| {
        Ok(region.protect(0..1, Protection::Read)?)
    })?;
    bounded("madvise", &|region| {
        Ok(region.advise(0..1, Advice::DontNeed)?)
    })?;
    bounded("mremap", &|region| {
        region.relocate().map(drop).map_err(Into::into)
    })?;
    bounded("MIGRATE_TO_DEV", &|region| {
        let device = context.open()?;
        let mut view = vec![0; region.len()];
        unless_held(device.migrate_to_device(region.range(), &mut view))
    })
}
