// SPDX-License-Identifier: GPL-2.0

//! Simulation of patterns of accesses under the presets of a device. It consists of the heuristics
//! of the kernel module, and needs no kernel.

mod cost;
mod device;
mod logic;
mod memory;
mod report;
mod table;
mod trace;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use anyhow::Result;
use anyhow::ensure;
use clap::Args;
use clap::ValueEnum;
use clap::builder::PossibleValuesParser;
use serde::Serialize;

use crate::even_mib;
use crate::progress::Progress;

use self::device::Device;
use self::logic::policy::PRESETS;
use self::logic::policy::Preset;
use self::logic::policy::Setting;
pub use self::report::Row;
pub use self::report::Simulation;
use self::trace::Pattern;
use self::trace::trace;
use crate::pages::{BLOCK_PAGES, PAGE_SIZE};

/// The parameters of a simulation.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Patterns of accesses
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PATTERN",
        default_values_t = Pattern::value_variants().to_vec())]
    patterns: Vec<Pattern>,

    /// Memory that the pattern accesses, in percent of the device's
    #[arg(long, value_delimiter = ',', value_name = "PERCENT", default_values_t = [100, 125, 150, 200],
        value_parser = clap::value_parser!(u16).range(10..=1000))]
    percents: Vec<u16>,

    /// Presets of the device's policy
    #[arg(long, value_delimiter = ',', value_name = "PRESET",
        default_values_t = PRESETS.iter().map(|preset| preset.name.to_owned()),
        value_parser = PossibleValuesParser::new(PRESETS.iter().map(|preset| preset.name)))]
    presets: Vec<String>,

    /// What has to go when the device is full
    #[arg(long, value_enum, value_delimiter = ',', value_name = "EVICTION",
        default_values_t = [Eviction::Lru])]
    evictions: Vec<Eviction>,

    /// Memory of the device, in MiB, a multiple of 2
    #[arg(long, value_name = "MIB", default_value = "64", value_parser = even_mib)]
    size: u64,

    /// What random patterns are drawn from; the same makes the same
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,

    /// A device of 8 MiB, for a second or two
    #[arg(long, conflicts_with = "size")]
    quick: bool,

    /// Write the results to this file as well; - is standard output, without the table
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Write the table for a Markdown document
    #[arg(long)]
    markdown: bool,

    /// Draw the times into this folder, as SVG and PNG
    #[cfg(feature = "plot")]
    #[arg(long, value_name = "DIR")]
    plot: Option<PathBuf>,
}

/// The choice of the block to evict when the device is full: the values of the setting `eviction`,
/// in their order.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Eviction {
    /// The one that was used longest ago
    Lru,
    /// The one that was taken first
    Fifo,
    /// Any of them
    Random,
}

impl Eviction {
    /// Returns the name, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lru => "lru",
            Self::Fifo => "fifo",
            Self::Random => "random",
        }
    }
}

/// Runs the simulations that the options describe, and shows the results.
///
/// # Errors
///
/// If the simulation contradicts itself, or a file cannot be written.
pub fn run(options: &Options) -> Result<()> {
    let simulation = simulate(options)?;
    if let Some(path) = &options.json {
        simulation.store(path)?;
    }
    if options.json.as_deref() != Some("-".as_ref()) {
        print!("{}", table::table(&simulation, options.markdown));
        println!("\nTimes are computed, not measured, from these costs:\n");
        print!("{}", table::costs(options.markdown));
    }
    #[cfg(feature = "plot")]
    if let Some(out) = &options.plot {
        for file in crate::plot::plot_policy(&simulation, out)? {
            println!("{}", file.display());
        }
    }
    Ok(())
}

/// Simulates each pattern with each size under each policy.
fn simulate(options: &Options) -> Result<Simulation> {
    let bytes = if options.quick { 8 << 20 } else { options.size };
    let blocks = bytes as usize / PAGE_SIZE / BLOCK_PAGES;
    let policies = policies(options);
    let steps = options.patterns.len() * options.percents.len() * policies.len();
    let progress = Progress::new(steps)?;
    let mut rows = Vec::with_capacity(steps);
    for &pattern in &options.patterns {
        for &percent in &options.percents {
            progress.say(&format!("{}, {percent} %", pattern.name()));
            let npages = blocks * BLOCK_PAGES * usize::from(percent) / 100;
            let packets = trace(pattern, npages, options.seed);
            let mut sum = None;
            for &(preset, eviction) in &policies {
                let mut device = Device::new(
                    blocks,
                    npages,
                    preset,
                    eviction.unwrap_or(Eviction::Lru),
                    options.seed,
                );
                for packet in &packets {
                    device.replay(packet);
                }
                let read = device.counts.sum;
                ensure!(
                    *sum.get_or_insert(read) == read,
                    "{} has read other data under {}",
                    pattern.name(),
                    preset.name
                );
                let (moved, resident) = (device.memory.moved, device.memory.resident());
                ensure!(
                    moved.out == moved.back + moved.evicted + resident as u64,
                    "{} under {}: {resident} pages are on the device, {moved:?}",
                    pattern.name(),
                    preset.name
                );
                rows.push(Row::new(pattern, percent, preset.name, eviction, &device));
                progress.step();
            }
        }
    }
    progress.finish();
    Ok(Simulation::new(bytes, options.seed, rows))
}

/// Returns each requested preset with each eviction; with `None` if the preset moves nothing.
fn policies(options: &Options) -> Vec<(&'static Preset, Option<Eviction>)> {
    let mut policies = Vec::new();
    for preset in &PRESETS {
        if !options.presets.iter().any(|name| name == preset.name) {
            continue;
        }
        let moves = |setting| preset.values()[setting as usize] != 0;
        if moves(Setting::Migrate) || moves(Setting::AccessCounter) {
            policies.extend(options.evictions.iter().map(|it| (preset, Some(*it))));
        } else {
            policies.push((preset, None));
        }
    }
    policies
}
