// SPDX-License-Identifier: GPL-2.0

//! Working sets smaller and larger than the memory of the device.
//!
//! A program makes the device work on its memory in steps of 2 MiB, one MIGRATE_TO_DEV each, in
//! order or at random. Memory that is not on the device then moves there; if the device is full,
//! other memory moves out for it. The result is the time of these steps for each page that moved to
//! the device.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;
use dmirror_client::Device;
use dmirror_client::page_size;
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::Place;
use super::Samples;
use super::Session;
use super::bench::BLOCK;
use super::bench::Bench;
use super::bench::ns;
use crate::report::Group;
use crate::report::Memory;

/// Sizes of the working set, in percent of the device.
const PERCENT: [u64; 8] = [50, 75, 100, 125, 150, 200, 300, 400];

/// Number of passes over the memory; the random order has as many steps.
const PASSES: usize = 2;

/// Maximum memory of a device, in bytes, for which this group does not exceed the time and the
/// memory of a guest.
const LARGEST_DEVICE: u64 = 256 << 20;

/// Measures the group.
pub fn measure(session: &mut Session<'_>) -> Result<()> {
    let device = Arc::new(Device::open(&session.settings.device)?);
    for memory in [Memory::Small, Memory::Huge] {
        for percent in PERCENT {
            let place = Place {
                group: Group::Oversubscribed,
                memory,
                at: percent,
            };
            session.measure(place, ["in order", "at random"], |[in_order, at_random]| {
                let bytes = capacity(&device)? * percent / 100 / BLOCK * BLOCK;
                let mut bench = Bench::new(Arc::clone(&device), memory, bytes)?;
                let steps = (bytes / BLOCK) as usize;
                let order = (0..PASSES).flat_map(|_| 0..steps);
                sample(&device, &mut bench, order, in_order)?;
                // Always the same seed, so that all runs do the same work.
                let mut rng = ChaCha8Rng::seed_from_u64(percent);
                let random = (0..PASSES * steps).map(|_| rng.random_range(0..steps));
                sample(&device, &mut bench, random, at_random)
            });
        }
    }
    Ok(())
}

/// Returns the memory of the device in bytes.
fn capacity(device: &Device) -> Result<u64> {
    let Some(room) = device.room()? else {
        bail!("n/a: the memory of this device grows without a bound");
    };
    let bytes = room.pages * page_size() as u64;
    ensure!(
        bytes <= LARGEST_DEVICE,
        "the device has more than {} MiB: load the module with less (capacity=)",
        LARGEST_DEVICE >> 20
    );
    Ok(bytes)
}

/// Executes the steps, beginning with an empty device, and adds one sample: the sum of the steps
/// that moved pages.
fn sample(
    device: &Device,
    bench: &mut Bench,
    steps: impl Iterator<Item = usize>,
    samples: &mut Samples,
) -> Result<()> {
    device.release()?;
    bench.refresh()?;
    let (mut moved, mut time) = (0, 0);
    for step in steps {
        let part = pages_of(step);
        let there = bench.on_device(part.clone())?;
        let missing = part.len() as u64 - there;
        let step = ns(bench.move_part_out(part)?);
        if missing > 0 {
            moved += missing;
            time += step;
        }
    }
    samples.add(moved, time);
    Ok(())
}

/// Returns the pages of a step.
fn pages_of(step: usize) -> Range<usize> {
    let pages = BLOCK as usize / page_size();
    step * pages..(step + 1) * pages
}
