// SPDX-License-Identifier: GPL-2.0

//! Measures devices with the ABI of the kernel's lib/test_hmm, and compares the results of one
//! module with those of another, or with earlier ones.
//!
//! `run` is for a guest. The other subcommands read its results, except `policy`, which simulates a
//! device and needs none.

mod compare;
mod limits;
mod measure;
mod pages;
#[cfg(feature = "plot")]
mod plot;
mod policy;
mod progress;
mod report;
mod table;
mod units;

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;

use crate::measure::Settings;
use crate::report::Clock;
use crate::report::Group;
use crate::report::Report;

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure the device, and write a JSON file
    Run {
        /// What to measure
        #[arg(long, value_enum, value_delimiter = ',', default_values = ["ops", "one-page"])]
        groups: Vec<Group>,

        /// The file to write; - is standard output
        #[arg(long, value_name = "FILE")]
        json: PathBuf,

        /// The device
        #[arg(long, value_name = "PATH", default_value = "/dev/hmm_dmirror0")]
        device: PathBuf,

        /// Memory of the group ops, in MiB, a multiple of 2
        #[arg(long, value_name = "MIB", default_value = "64", value_parser = even_mib)]
        size: u64,

        /// Samples of each operation; those of one page are 20 times as many
        #[arg(
            long,
            value_name = "N",
            default_value = "3",
            value_parser = clap::value_parser!(u16).range(1..100)
        )]
        rounds: u16,

        /// What a nanosecond of this machine is
        #[arg(long, value_enum, default_value_t = Clock::Host)]
        clock: Clock,
    },

    /// Put the runs of several files of one module into one
    Join {
        /// The file to write; - is standard output
        #[arg(long, value_name = "FILE")]
        json: PathBuf,

        /// The files to read
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },

    /// Show what two modules took, and the ratios
    Table {
        /// The results of one module
        ours: PathBuf,

        /// The results of the other
        theirs: PathBuf,

        /// Show these groups only
        #[arg(long, value_enum, value_delimiter = ',')]
        groups: Vec<Group>,

        /// Write tables for a Markdown document
        #[arg(long)]
        markdown: bool,
    },

    /// Say what got slower; exits with 1 if something did
    Compare {
        /// The results from before
        old: PathBuf,

        /// The results of today
        new: PathBuf,

        /// By how many percent more instructions are too many
        #[arg(long, value_name = "PERCENT", default_value_t = 5.0)]
        threshold: f64,

        /// By how many percent more time is too much; not judged unless given
        #[arg(long, value_name = "PERCENT")]
        clock_threshold: Option<f64>,
    },

    /// Compare ratios of instructions with fixed limits; exits with 1 if one is exceeded
    Check {
        /// The results of our module
        ours: PathBuf,

        /// The results of the other
        theirs: PathBuf,

        /// The limits, a TOML file
        #[arg(long, value_name = "FILE")]
        limits: PathBuf,
    },

    /// Simulate what a device does with patterns of accesses, under each preset of its policy
    ///
    /// A program uses more memory than the device has. The simulation replays its accesses on one
    /// device, made of the same heuristics as the kernel module, and counts faults and what moves.
    /// It needs no device and no module. Times are computed from costs that are printed with them,
    /// and measure nothing: they are for comparing presets, not for predicting how long a device
    /// takes.
    Policy(policy::Options),

    /// Draw what two modules took, as SVG and PNG
    #[cfg(feature = "plot")]
    Plot {
        /// The results of our module
        ours: PathBuf,

        /// The results of the other
        theirs: PathBuf,

        /// The folder for the pictures
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

/// Parses an even number of MiB from 2 to 1024, a whole number of huge pages; returns it in bytes.
fn even_mib(text: &str) -> Result<u64, String> {
    match text.parse::<u64>() {
        Ok(mib) if mib % 2 == 0 && (2..=1024).contains(&mib) => Ok(mib << 20),
        _ => Err("not an even number from 2 to 1024".to_owned()),
    }
}

/// Runs a subcommand. Returns false if `compare` finds an operation that got slower, or a case of
/// `check` fails.
///
/// # Errors
///
/// If there is no device, the machine stays busy, reports do not match, or a file cannot be read or
/// written.
pub fn run(command: Command) -> Result<bool> {
    Ok(match command {
        Command::Run {
            groups,
            json,
            device,
            size,
            rounds,
            clock,
        } => {
            let settings = Settings {
                device,
                size,
                rounds: rounds.into(),
                clock,
                groups,
            };
            let run = measure::run(&settings)?;
            Report::new(vec![run]).store(&json)?;
            true
        }
        Command::Join { json, files } => {
            report::join(&files)?.store(&json)?;
            true
        }
        Command::Table {
            ours,
            theirs,
            groups,
            markdown,
        } => {
            let (ours, theirs) = (Report::load(&ours)?, Report::load(&theirs)?);
            print!("{}", table::table(&ours, &theirs, &groups, markdown));
            true
        }
        Command::Compare {
            old,
            new,
            threshold,
            clock_threshold,
        } => {
            let (old, new) = (Report::load(&old)?, Report::load(&new)?);
            let slower = compare::compare(&old, &new, threshold, clock_threshold)?;
            for line in &slower {
                println!("{line}");
            }
            println!("{} got slower", slower.len());
            slower.is_empty()
        }
        Command::Check {
            ours,
            theirs,
            limits,
        } => {
            let (ours, theirs) = (Report::load(&ours)?, Report::load(&theirs)?);
            limits::load(&limits)?.check(&ours, &theirs).print()
        }
        Command::Policy(options) => {
            policy::run(&options)?;
            true
        }
        #[cfg(feature = "plot")]
        Command::Plot { ours, theirs, out } => {
            let (ours, theirs) = (Report::load(&ours)?, Report::load(&theirs)?);
            for file in plot::plot(&ours, &theirs, &out)? {
                println!("{}", file.display());
            }
            true
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_whole_huge_pages() {
        assert_eq!(even_mib("8"), Ok(8 << 20));
        assert!(even_mib("7").is_err());
        assert!(even_mib("0").is_err());
    }
}
