// SPDX-License-Identifier: GPL-2.0

//! Random programs and random requests against the dmirror module.
//!
//! `run` compares what programs see, in their memory and through the devices, with
//! an oracle; `fuzz` sends requests that make no sense, and checks that nothing
//! breaks. Both print the seed that they start from.

mod command;
mod content;
mod engines;
#[cfg(test)]
mod fake;
mod flight;
mod fuzz;
mod fuzz_engines;
mod generate;
mod job;
mod leavers;
mod model;
mod noise;
mod op;
mod real;
mod runner;
mod session;
mod shrink;
mod world;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use anyhow::Context as _;
use anyhow::Result;
use clap::Args;
use clap::Subcommand;

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run random programs, and compare the results with an oracle
    ///
    /// One process is alone with the devices, so its programs replay exactly, and
    /// one that fails is made short. Several take each other's room, and every
    /// second program has a thread that moves its pages.
    Run {
        /// Seed and time
        #[command(flatten)]
        common: Common,

        /// Processes; with more than one they run programs at the same time
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
        procs: u32,

        /// Steps of a program
        #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        ops: u32,

        /// Have the kernel swap meanwhile, to a ram disk
        #[arg(long)]
        swap: bool,
    },
    /// Run a program from a file, and make it short if it fails
    Replay {
        /// The program, a step a line
        file: PathBuf,

        /// Have the kernel swap meanwhile, to a ram disk
        #[arg(long)]
        swap: bool,

        /// Run it as it is, without trying shorter ones
        #[arg(long)]
        whole: bool,
    },
    /// Print the program of a program's seed
    Show {
        /// The seed that a failing program is reported with
        seed: u64,

        /// Steps of a program
        #[arg(long, default_value_t = 200)]
        ops: u32,
    },
    /// Send random requests
    Fuzz(FuzzArguments),
}

/// What random requests are sent.
#[derive(Args, Debug)]
pub struct FuzzArguments {
    #[command(flatten)]
    common: Common,

    /// Threads that send them
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
}

/// What both kinds of runs know.
#[derive(Args, Debug)]
pub struct Common {
    /// How long to go on
    #[arg(long, default_value_t = 60)]
    seconds: u64,

    /// Where the random numbers begin; by default the clock says
    #[arg(long)]
    seed: Option<u64>,
}

impl Common {
    /// Prints and returns the seed.
    fn begin(&self, what: &str) -> u64 {
        let clock = || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            now.map_or(1, |now| u64::from(now.subsec_nanos()) ^ now.as_secs())
        };
        let seed = self.seed.unwrap_or_else(clock);
        println!("{what}: seed {seed}");
        seed
    }

    fn time(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// Runs random programs, or sends random requests; returns whether all checks passed.
///
/// # Errors
///
/// An error if there is no device, or if another requirement is missing.
pub fn run(command: &Command) -> Result<bool> {
    match command {
        Command::Run {
            common,
            procs,
            ops,
            swap,
        } => {
            let seed = common.begin("run");
            let session = session::Session::new(*swap, *procs == 1)?;
            if *procs == 1 {
                session.run(seed, common.time(), *ops as usize)
            } else {
                session.soak(seed, common.time(), *ops as usize, *procs)
            }
        }
        Command::Replay { file, swap, whole } => {
            let text = fs::read_to_string(file);
            let text = text.with_context(|| format!("cannot read {}", file.display()))?;
            let program = op::parse_program(&text)?;
            session::Session::new(*swap, true)?.replay(&program, *whole)
        }
        Command::Show { seed, ops } => {
            for step in generate::program(*seed, *ops as usize) {
                println!("{step}");
            }
            Ok(true)
        }
        Command::Fuzz(arguments) => fuzz(arguments),
    }
}

/// Sends random requests; returns whether all checks passed.
///
/// # Errors
///
/// An error if there is no device, or if another requirement is missing.
pub fn fuzz(arguments: &FuzzArguments) -> Result<bool> {
    let seed = arguments.common.begin("fuzz");
    fuzz::run(seed, arguments.common.time(), arguments.threads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_make_sense() {
        Command::augment_subcommands(clap::Command::new("stress")).debug_assert();
    }
}
