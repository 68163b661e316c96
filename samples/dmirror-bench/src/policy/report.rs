// SPDX-License-Identifier: GPL-2.0

//! The results of a simulation, as stored in a JSON file.

use crate::pages::PAGE_SIZE;
use std::fs;
use std::io;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context;
use anyhow::Result;
use serde::Serialize;

use super::Eviction;
use super::cost::COSTS;
use super::device::Device;
use super::trace::Pattern;

/// The version of the file's layout.
const FORMAT: u32 = 1;

/// All results of one run of the simulation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Simulation {
    format: u32,
    /// Memory of the device, in bytes.
    pub device_bytes: u64,
    seed: u64,
    costs: Vec<CostRecord>,
    /// The results: those of a pattern and size follow one another.
    pub rows: Vec<Row>,
}

/// A cost that times were computed from.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct CostRecord {
    what: &'static str,
    ns: u64,
    basis: &'static str,
}

/// The result of a pattern of one size under one policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The pattern.
    pub pattern: Pattern,
    /// The memory that it accesses, in percent of the device's.
    pub percent: u16,
    /// The preset of the device's settings.
    pub preset: &'static str,
    /// The choice of the blocks to evict; `None` if no block moves.
    pub eviction: Option<Eviction>,
    /// Pages that the engine has posted.
    pub device_faults: u64,
    /// Number of times that it has stalled for them.
    pub stalls: u64,
    /// Faults of the CPU.
    pub cpu_faults: u64,
    /// Number of bytes that moved to the device.
    pub out_bytes: u64,
    /// Number of bytes that CPUs have brought back.
    pub back_bytes: u64,
    /// Number of bytes that were evicted for others.
    pub evicted_bytes: u64,
    /// Pages that were to move together with missed granules.
    pub prefetched_pages: u64,
    /// Number of times that the engine left a granule alone for a while.
    pub naps: u64,
    /// Number of times that it used a granule where it was, because of thrashing.
    pub pins: u64,
    /// Blocks that moved because they were used often.
    pub hot_blocks: u64,
    /// Number of times that the CPU waited for a time slice.
    pub slices: u64,
    /// Accesses of the engine to its own memory.
    pub local_accesses: u64,
    /// Accesses of the engine over the bus.
    pub remote_accesses: u64,
    /// The time, in nanoseconds.
    pub time_ns: u64,
}

impl Row {
    /// Creates the row for a device after its simulation.
    pub fn new(
        pattern: Pattern,
        percent: u16,
        preset: &'static str,
        eviction: Option<Eviction>,
        device: &Device,
    ) -> Self {
        let (moved, counts) = (device.memory.moved, device.counts);
        let bytes = |pages| pages * PAGE_SIZE as u64;
        Self {
            pattern,
            percent,
            preset,
            eviction,
            device_faults: counts.device_faults,
            stalls: counts.stalls,
            cpu_faults: counts.cpu_faults,
            out_bytes: bytes(moved.out),
            back_bytes: bytes(moved.back),
            evicted_bytes: bytes(moved.evicted),
            prefetched_pages: counts.prefetched,
            naps: counts.naps,
            pins: counts.pins,
            hot_blocks: counts.hot_blocks,
            slices: counts.slices,
            local_accesses: counts.local,
            remote_accesses: counts.remote,
            time_ns: device.memory.now,
        }
    }

    /// Returns the label of the policy.
    #[cfg(any(feature = "plot", test))]
    pub fn policy(&self) -> String {
        match self.eviction {
            Some(eviction) => format!("{}, {}", self.preset, eviction.name()),
            None => self.preset.to_owned(),
        }
    }
}

impl Simulation {
    /// Creates a simulation from its results.
    pub fn new(device_bytes: u64, seed: u64, rows: Vec<Row>) -> Self {
        let cost = |(_, ns, what, basis)| CostRecord { what, ns, basis };
        Self {
            format: FORMAT,
            device_bytes,
            seed,
            costs: COSTS.into_iter().map(cost).collect(),
            rows,
        }
    }

    /// The least time that a pattern of a size has taken under any policy.
    pub fn best(&self, pattern: Pattern, percent: u16) -> Option<u64> {
        let rows = self.rows.iter();
        rows.filter(|row| row.pattern == pattern && row.percent == percent)
            .map(|row| row.time_ns)
            .min()
    }

    /// Returns the time of a result as a multiple of the best.
    pub fn ratio(&self, row: &Row) -> f64 {
        let best = self.best(row.pattern, row.percent).unwrap_or(0);
        row.time_ns as f64 / best.max(1) as f64
    }

    /// Writes a file, or standard output if `path` is `-`.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn store(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        if path == Path::new("-") {
            io::stdout().write_all(text.as_bytes())?;
            return Ok(());
        }
        fs::write(path, text).with_context(|| path.display().to_string())
    }
}
