// SPDX-License-Identifier: GPL-2.0

//! Policies for the memory of a device: which block has to go when it is full.

use anyhow::Result;
use anyhow::ensure;
use dmirror_client::Packet;
use dmirror_client::Survey;
use dmirror_client::page_size;

use super::cases;
use super::evict::BLOCKS;
use super::evict::move_there;
use super::evict::pages;
use super::evict::with_small_device;
use crate::check::Where;
use crate::check::equal;
use crate::context::Context;
use crate::memory::Memory;
use crate::settings::Policy;
use crate::worker::Worker;

cases! { "policy":
    first_out = "With eviction 1, what was moved first comes back first, though the device has just read it.",
    least_used_out = "With eviction 0, what the device has just read stays.",
    any_out = "With eviction 2 and above, any block comes back: of four in turn on a device of three, some stay.",
    evicting_engines = "Whatever is evicted, an engine that goes through more than the device finds all data right.",
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
