// SPDX-License-Identifier: GPL-2.0

//! Policies for the memory of a device: the block that has to go when it is full, and the limit on
//! memory in use.

use super::engine::words_are;
use super::evict::{BLOCKS, move_there, pages, with_small_device};
use super::huge;
use super::policy::for_each;
use crate::prelude::*;
use crate::settings::PRESETS;

cases! { "policy":
    first_out = "With eviction 1, what was moved first comes back first, though the device has just read it."
        => |context: &Context| is_first_kept(context, 1, false),
    least_used_out = "With eviction 0, what the device has just read stays."
        => |context: &Context| is_first_kept(context, 0, true),
    any_out = "With eviction 2 and above, any block comes back: of four in turn on a device of three, some stay.",
    evicting_engines = "An engine that goes through more memory than the device has finds all data right.",
    limited = "With a limit, no more is in use at any time, however much a program moves, which finds its data right."
        => within_each(&[1, 2, 4, 6], || Memory::new(pages(4))),
    limited_huge = "So it is with huge pages, also where the limit is no multiple of them."
        => within_each(&[1, 3, 4, 5], || huge::huge(4)),
    limit_lowered = "A limit below what is in use has the next that moves bring others back; 0 lifts it.",
    limited_engines = "An engine that goes through more than the limit finds all data right."
        => for_each(&PRESETS, limited_engines),
    limit_and_presets = "No preset changes the limit, and the limit changes no preset.",
    limits_that_change = "Limits that change while pages move make no difference to what memory holds.",
}

/// Fills the device, makes it read the first block, and moves one block more there. Checks that the
/// first block is still there if `expected` is true, and else is not.
fn is_first_kept(context: &Context, eviction: u32, expected: bool) -> Result<()> {
    with_small_device(context, || {
        let _policy = Policy::with("test_hmm", &[("eviction", eviction)])?;
        let device = context.open()?;
        let memories = [1, BLOCKS - 1, 1].map(|blocks| Memory::new(pages(blocks)));
        let [first, second, third] = memories;
        let (first, second, third) = (first?, second?, third?);
        move_there(&device, &first)?;
        move_there(&device, &second)?;
        let mut view = vec![0; page_size()];
        device.read(first.region.part(0..1), &mut view)?;
        move_there(&device, &third)?;
        let kept = first.expect("", first.all(), Where::Device).is_ok();
        third.expect("moved last", third.all(), Where::Device)?;
        let both = first.on_device()? + second.on_device()?;
        equal("pages of the others there", both, pages(BLOCKS - 1))?;
        for memory in [&first, &second, &third] {
            memory.intact()?;
        }
        equal("kept", kept, expected)
    })
}

/// Moves one block more to the device than there is room for, in turn; returns the number of times
/// that a block was still there.
fn in_turn(context: &Context, eviction: u32) -> Result<usize> {
    let mut hits = 0;
    with_small_device(context, || {
        let policy = Policy::with("test_hmm", &[("eviction", eviction)])?;
        let device = context.open()?;
        let memories = (0..=BLOCKS).map(|_| Memory::new(pages(1)));
        let memories = memories.collect::<Result<Vec<_>>>()?;
        let added = policy.added(|| {
            for memory in (0..10).flat_map(|_| &memories) {
                hits += usize::from(memory.on_device()? == pages(1));
                move_there(&device, memory)?;
            }
            Ok(())
        })?;
        ensure!(added.evictions > 0, "{added:?}");
        memories.iter().try_for_each(Memory::intact)
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
    for_all(0..3, |eviction| {
        with_small_device(context, || {
            let policy = Policy::with("kfd", &[("eviction", eviction)])?;
            let (worker, memory) = (Worker::new(context)?, Memory::new(pages(2 * BLOCKS))?);
            let added = policy.added(|| {
                (0..2).try_for_each(|round| fills_and_sums(&worker, &memory, round, false))
            })?;
            ensure!(added.back_eviction > 0, "{added:?}");
            every_word(&memory, 64, 1)
        })
    })
}

/// Makes an engine fill memory, fetch it if `fetches` is true, and add it up.
fn fills_and_sums(worker: &Worker, memory: &Memory, value: u64, fetches: bool) -> Result<()> {
    let (data, bytes) = (memory.region.addr(), memory.region.len() as u64);
    let result = Memory::new(1)?;
    let mut packets = vec![Packet::fill(data, bytes, value)];
    packets.extend(fetches.then(|| Packet::prefetch(data, bytes)));
    packets.push(Packet::sum(result.region.addr(), data, bytes));
    worker.does(&packets)?;
    equal("sum", result.region.load(0), value * (bytes / 8))
}

/// Checks that one word of each `step` words has a value.
fn every_word(memory: &Memory, step: usize, value: u64) -> Result<()> {
    let words = (0..memory.region.len() / 8).step_by(step);
    words_are("a word", &memory.region, words, value)
}

/// Returns the factor for the limits in these cases, which are for huge pages of 2 MiB: the size of
/// a huge page divided by that.
fn scale() -> u32 {
    (hpage_pmd_size() >> 21) as u32
}

/// Returns the number of pages in a scaled MiB: half a huge page.
fn mib_pages() -> u64 {
    hpage_pmd_nr() as u64 / 2
}

/// Returns the number of pages of the device that are in use.
fn in_use(policy: &Policy) -> Result<u64> {
    let stats = policy.stats()?;
    Ok(stats.pages - stats.free)
}

/// Runs `body`, and checks that at most `most` pages of the device are in use meanwhile.
fn never_above(policy: &Policy, most: u64, body: impl FnOnce() -> Result<()>) -> Result<()> {
    let watch = || -> Result<()> {
        let seen = in_use(policy)?;
        ensure!(seen <= most, "{seen} pages are in use, above {most}");
        thread::sleep(Duration::from_millis(1));
        Ok(())
    };
    beside(&[&watch], body)
}

/// Moves memory to the device, and checks that the pages in use afterwards are within a limit.
fn comes_within(policy: &Policy, device: &Device, memory: &Memory, limit: u32) -> Result<()> {
    move_there(device, memory)?;
    memory.expect("moved last", memory.all(), Where::Device)?;
    let used = in_use(policy)?;
    ensure!(
        used <= u64::from(limit) * mib_pages(),
        "{used} pages are in use"
    );
    memory.intact()
}

/// Returns a case that moves memory for which each of some limits has no room.
fn within_each(
    limits: &[u32],
    memory: impl Fn() -> Result<Memory>,
) -> impl Fn(&Context) -> Result<()> {
    move |context| {
        limits
            .iter()
            .try_for_each(|&mib| within(context, mib, &memory()?))
    }
}

/// Moves memory for which a limit has no room to the device, twice.
fn within(context: &Context, mib: u32, memory: &Memory) -> Result<()> {
    let policy = Policy::with("test_hmm", &[("limit_mib", mib * scale())])?;
    let device = context.open()?;
    device.release()?;
    // There is always room for one block.
    let most = u64::from(mib).max(2) * mib_pages();
    let all = memory.region.pages() as u64;
    let move_twice = || -> Result<()> {
        for round in 2..4 {
            move_there(&device, memory)?;
            let there = memory.on_device()? as u64;
            ensure!((pages(1) as u64..=most).contains(&there), "{there} pages");
            equal("all of the limit", there == most, mib % 2 == 0 || mib == 1)?;
            let query = device.query()?;
            let used = (query.memory - query.free_memory) / page_size() as u64;
            ensure!((there..=most).contains(&used), "{used} pages by QUERY");
            memory.intact()?;
            memory.refill(round);
        }
        Ok(())
    };
    let added = policy.added(|| never_above(&policy, most, move_twice))?;
    ensure!(added.back_eviction >= 2 * (all - most), "{added:?}");
    ensure!(added.evictions > 0, "{added:?}");
    memory.intact()
}

fn limit_lowered(context: &Context) -> Result<()> {
    let policy = Policy::of("test_hmm")?;
    let device = context.open()?;
    device.release()?;
    let memory = Memory::new(pages(4))?;
    for limit in [6, 5, 2] {
        move_there(&device, &memory)?;
        let added = policy.added(|| {
            policy.set("limit_mib", limit * scale())?;
            equal("before the next", memory.on_device()?, pages(4))?;
            comes_within(&policy, &device, &Memory::new(3)?, limit)
        })?;
        let gone = (4 * 2 - u64::from(limit)) * mib_pages();
        ensure!(added.back_eviction >= gone, "{added:?}");
        memory.intact()?;
        // Set a limit above the size of the device, or none.
        policy.set("limit_mib", if limit == 5 { u32::MAX } else { 0 })?;
        move_there(&device, &memory)?;
        equal("without a limit", memory.on_device()?, pages(4))?;
    }
    memory.intact()
}

fn limited_engines(context: &Context, policy: &Policy, _: &str) -> Result<()> {
    policy.set("limit_mib", 4 * scale())?;
    let worker = Worker::new(context)?;
    worker.device.release()?;
    let memory = Memory::new(pages(3))?;
    let fills = || fills_and_sums(&worker, &memory, 3, true);
    let added = policy.added(|| never_above(policy, 4 * mib_pages(), fills))?;
    ensure!(added.back_eviction >= 2 * mib_pages(), "{added:?}");
    every_word(&memory, 64, 3)
}

fn limit_and_presets(context: &Context) -> Result<()> {
    Worker::new(context)?; // or skips
    let policy = Policy::with("test_hmm", &[("limit_mib", 16)])?;
    let is = |preset: &str| {
        let shown = policy.show("policy")?;
        ensure!(shown.contains(&format!("[{preset}]")), "{shown}");
        Ok(())
    };
    for preset in PRESETS {
        policy.store("policy", preset)?;
        equal(preset, policy.get("limit_mib")?, 16)?;
        is(preset)?;
    }
    policy.set("limit_mib", 0)?;
    is("uvm")?;
    let other = fs::read_to_string("/sys/kernel/debug/hmm_dmirror1/limit_mib")?;
    equal("of the other device", other.trim(), "0")
}

fn limits_that_change(context: &Context) -> Result<()> {
    let policy = Policy::of("kfd")?;
    let (worker, device) = (Worker::new(context)?, context.open()?);
    let (memory, data) = (Memory::new(pages(3))?, Memory::new(pages(3))?);
    let change = || -> Result<()> {
        [4, 1, 0, 3, 16, 2, 5].into_iter().try_for_each(|limit| {
            policy.set("limit_mib", limit * scale())?;
            thread::sleep(Duration::from_millis(5));
            Ok(())
        })
    };
    beside(&[&change], || {
        rounds(4).try_for_each(|round| {
            let range = data.region.range();
            let job = worker.submit(&[Packet::fill(range.addr(), range.bytes(), round as u64)])?;
            // Pages that have to go for others meanwhile are not there at the end.
            let _ = memory.try_out(&device);
            equal("failure", worker.outcome(job)?.error, None)?;
            every_word(&data, 512, round as u64)?;
            memory.intact()
        })
    })?;
    policy.set("limit_mib", 2 * scale())?;
    comes_within(&policy, &device, &Memory::new(1)?, 2)
}
