// SPDX-License-Identifier: GPL-2.0

//! Policies for the memory of a device: which block has to go when it is full, and how much of it
//! may be in use.

use std::sync::atomic::{AtomicBool, Ordering};

use super::evict::{BLOCKS, move_there, pages, with_small_device};
use super::huge;
use crate::prelude::*;
use crate::settings::PRESETS;

cases! { "policy":
    first_out = "With eviction 1, what was moved first comes back first, though the device has just read it.",
    least_used_out = "With eviction 0, what the device has just read stays.",
    any_out = "With eviction 2 and above, any block comes back: of four in turn on a device of three, some stay.",
    evicting_engines = "Whatever is evicted, an engine that goes through more than the device finds all data right.",
    limited = "With a limit, no more is in use at any time, however much a program moves, which finds its data right.",
    limited_huge = "So it is with huge pages, also where the limit is no multiple of them.",
    limit_lowered = "A limit below what is in use has the next that moves bring others back; 0 lifts it.",
    limited_engines = "An engine that goes through more than the limit finds all data right.",
    limit_and_presets = "No preset changes the limit, and the limit changes no preset.",
    limits_that_change = "Limits that change while pages move make no difference to what memory holds.",
}

/// Fills the device, has it read what came first, and moves one block more there: is what came
/// first there still?
fn is_first_kept(context: &Context, eviction: u32) -> Result<bool> {
    let mut kept = false;
    with_small_device(context, || {
        let _policy = Policy::with("test_hmm", &[("eviction", eviction)])?;
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
        kept = first.expect("", first.all(), Where::Device).is_ok();
        third.expect("moved last", third.all(), Where::Device)?;
        let there = |memory: &Memory| anyhow::Ok(Survey::of(memory.region.range())?.on_device());
        let both = there(&first)? + there(&second)?;
        equal("pages of the others there", both, pages(BLOCKS - 1))?;
        for memory in [&first, &second, &third] {
            memory.verify(memory.all())?;
        }
        Ok(())
    })?;
    Ok(kept)
}

fn first_out(context: &Context) -> Result<()> {
    equal("kept", is_first_kept(context, 1)?, false)
}

fn least_used_out(context: &Context) -> Result<()> {
    equal("kept", is_first_kept(context, 0)?, true)
}

/// Moves one block more than there is room for to the device, in turn; returns how often one was
/// there still.
fn in_turn(context: &Context, eviction: u32) -> Result<usize> {
    let mut hits = 0;
    with_small_device(context, || {
        let policy = Policy::with("test_hmm", &[("eviction", eviction)])?;
        let device = context.open()?;
        let memories = (0..=BLOCKS)
            .map(|_| Memory::new(pages(1)))
            .collect::<Result<Vec<_>>>()?;
        let added = policy.added(|| {
            for _ in 0..10 {
                for memory in &memories {
                    let there = Survey::of(memory.region.range())?.on_device();
                    hits += usize::from(there == pages(1));
                    move_there(&device, memory)?;
                }
            }
            Ok(())
        })?;
        ensure!(added.evictions > 0, "{added:?}");
        memories
            .iter()
            .try_for_each(|memory| memory.verify(memory.all()))
    })?;
    Ok(hits)
}

fn any_out(context: &Context) -> Result<()> {
    for eviction in [0, 1] {
        equal("blocks that stayed", in_turn(context, eviction)?, 0)?;
    }
    for eviction in [2, u32::MAX] {
        let hits = in_turn(context, eviction)?;
        ensure!((1..30).contains(&hits), "{hits} of 40 stayed");
    }
    Ok(())
}

fn evicting_engines(context: &Context) -> Result<()> {
    for eviction in 0..3 {
        with_small_device(context, || {
            let policy = Policy::with("kfd", &[("eviction", eviction)])?;
            let worker = Worker::new(context)?;
            let memory = Memory::new(pages(2 * BLOCKS))?;
            let (data, bytes) = (memory.region.addr(), memory.region.len() as u64);
            let result = Memory::new(1)?;
            let added = policy.added(|| {
                for round in 0..2 {
                    worker.does(&[
                        Packet::fill(data, bytes, round),
                        Packet::sum(result.region.addr(), data, bytes),
                    ])?;
                    let sum = round.wrapping_mul(bytes / 8);
                    equal("sum", result.region.load(0), sum)?;
                }
                Ok(())
            })?;
            ensure!(added.back_eviction > 0, "{added:?}");
            for word in (0..memory.region.len() / 8).step_by(64) {
                equal("word", memory.region.load(word), 1)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Pages of a MiB.
const MIB: u64 = 256;

/// Pages of the device that are in use.
fn in_use(policy: &Policy) -> Result<u64> {
    let stats = policy.stats()?;
    Ok(stats.pages - stats.free)
}

/// Runs `body`, and checks that no more than so many pages of the device are in use meanwhile.
fn never_above(policy: &Policy, most: u64, body: impl FnOnce() -> Result<()>) -> Result<()> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            // ORDERING: it may be late.
            while !over.load(Ordering::Relaxed) {
                let seen = in_use(policy)?;
                ensure!(seen <= most, "{seen} pages are in use, above {most}");
                thread::sleep(Duration::from_millis(1));
            }
            anyhow::Ok(())
        });
        let result = body();
        // ORDERING: as above.
        over.store(true, Ordering::Relaxed);
        joined(watch)?;
        result
    })
}

/// Moves memory that a limit has no room for to the device, twice.
fn within(context: &Context, mib: u32, memory: &Memory) -> Result<()> {
    let policy = Policy::with("test_hmm", &[("limit_mib", mib)])?;
    let device = context.open()?;
    device.release()?;
    // One block is there always.
    let most = u64::from(mib).max(2) * MIB;
    let all = memory.region.pages() as u64;
    let added = policy.added(|| {
        never_above(&policy, most, || {
            for round in 2..4 {
                move_there(&device, memory)?;
                let there = Survey::of(memory.region.range())?.on_device() as u64;
                ensure!((pages(1) as u64..=most).contains(&there), "{there} pages");
                equal("all of the limit", there == most, mib % 2 == 0 || mib == 1)?;
                let query = device.query()?;
                let used = (query.memory - query.free_memory) / page_size() as u64;
                ensure!((there..=most).contains(&used), "{used} pages by QUERY");
                memory.verify(memory.all())?;
                memory.refill(round);
            }
            Ok(())
        })
    })?;
    ensure!(added.back_eviction >= 2 * (all - most), "{added:?}");
    ensure!(added.evictions > 0, "{added:?}");
    memory.verify(memory.all())
}

fn limited(context: &Context) -> Result<()> {
    for mib in [1, 2, 4, 6] {
        within(context, mib, &Memory::new(pages(4))?)?;
    }
    Ok(())
}

fn limited_huge(context: &Context) -> Result<()> {
    for mib in [1, 3, 4, 5] {
        within(context, mib, &huge::huge(4)?)?;
    }
    Ok(())
}

fn limit_lowered(context: &Context) -> Result<()> {
    let policy = Policy::of("test_hmm")?;
    let device = context.open()?;
    device.release()?;
    let memory = Memory::new(pages(4))?;
    let there = || anyhow::Ok(Survey::of(memory.region.range())?.on_device());
    for limit in [6, 5, 2] {
        move_there(&device, &memory)?;
        let added = policy.added(|| {
            policy.set("limit_mib", limit)?;
            equal("before the next", there()?, pages(4))?;
            let more = Memory::new(3)?;
            move_there(&device, &more)?;
            more.expect("the next", more.all(), Where::Device)?;
            let used = in_use(&policy)?;
            ensure!(used <= u64::from(limit) * MIB, "{used} pages are in use");
            more.verify(more.all())
        })?;
        let gone = (4 * 2 - u64::from(limit)) * MIB;
        ensure!(added.back_eviction >= gone, "{added:?}");
        memory.verify(memory.all())?;
        // A limit of more than there is, and none.
        policy.set("limit_mib", if limit == 5 { u32::MAX } else { 0 })?;
        move_there(&device, &memory)?;
        equal("without a limit", there()?, pages(4))?;
    }
    memory.verify(memory.all())
}

fn limited_engines(context: &Context) -> Result<()> {
    for preset in PRESETS {
        let policy = Policy::with(preset, &[("limit_mib", 4)])?;
        let worker = Worker::new(context)?;
        worker.device.release()?;
        let memory = Memory::new(pages(3))?;
        let (data, bytes) = (memory.region.addr(), memory.region.len() as u64);
        let result = Memory::new(1)?;
        let added = policy.added(|| {
            never_above(&policy, 4 * MIB, || {
                worker.does(&[
                    Packet::fill(data, bytes, 3),
                    Packet::prefetch(data, bytes),
                    Packet::sum(result.region.addr(), data, bytes),
                ])
            })
        })?;
        equal("sum", result.region.load(0), 3 * (bytes / 8))?;
        ensure!(added.back_eviction >= 2 * MIB, "{preset}: {added:?}");
        for word in (0..memory.region.len() / 8).step_by(64) {
            equal("word", memory.region.load(word), 3)?;
        }
    }
    Ok(())
}

fn limit_and_presets(context: &Context) -> Result<()> {
    Worker::new(context)?; // or skips
    let policy = Policy::with("test_hmm", &[("limit_mib", 16)])?;
    for preset in PRESETS {
        policy.store("policy", preset)?;
        equal(preset, policy.get("limit_mib")?, 16)?;
        let shown = policy.show("policy")?;
        ensure!(shown.contains(&format!("[{preset}]")), "{shown}");
    }
    policy.set("limit_mib", 0)?;
    let shown = policy.show("policy")?;
    ensure!(shown.contains("[uvm]"), "{shown}");
    let other = std::fs::read_to_string("/sys/kernel/debug/hmm_dmirror1/limit_mib")?;
    equal("of the other device", other.trim(), "0")
}

fn limits_that_change(context: &Context) -> Result<()> {
    let policy = Policy::of("kfd")?;
    let worker = Worker::new(context)?;
    let device = context.open()?;
    let (memory, data) = (Memory::new(pages(3))?, Memory::new(pages(3))?);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let changes = scope.spawn(|| {
            // ORDERING: it may be late.
            while !over.load(Ordering::Relaxed) {
                for limit in [4, 1, 0, 3, 16, 2, 5] {
                    policy.set("limit_mib", limit)?;
                    thread::sleep(Duration::from_millis(5));
                }
            }
            anyhow::Ok(())
        });
        let result = rounds(4).try_for_each(|round| {
            let range = data.region.range();
            let job = worker.submit(&[Packet::fill(range.addr(), range.bytes(), round as u64)])?;
            let mut view = vec![0; memory.region.len()];
            // What has to go for others meanwhile is not there at the end.
            let _ = device.migrate_to_device(memory.region.range(), &mut view);
            equal("failure", worker.outcome(job)?.error, None)?;
            for word in (0..data.region.len() / 8).step_by(512) {
                equal("word", data.region.load(word), round as u64)?;
            }
            memory.verify(memory.all())
        });
        // ORDERING: as above.
        over.store(true, Ordering::Relaxed);
        joined(changes)?;
        result
    })?;
    policy.set("limit_mib", 2)?;
    let more = Memory::new(1)?;
    move_there(&device, &more)?;
    let used = in_use(&policy)?;
    ensure!(used <= 2 * MIB, "{used} pages are in use");
    more.verify(more.all())
}
