// SPDX-License-Identifier: GPL-2.0

//! Shows a program's pages going to device memory and coming back: by ioctl, by
//! a CPU fault, across fork, and when the module is unloaded; and a device that
//! works by itself, and faults in the pages that it needs.
//!
//! To learn how pages are moved, read `demo`; to learn how a computation is offloaded,
//! `engines`.
//!
//! The kernel reports the places of pages, in `/proc/self/pagemap`, `/proc/iomem`
//! and `/proc/self/smaps`; the module is not asked. Every byte is compared after
//! each step. Exits with 0 if all checks passed.

mod demo;
mod engines;
mod picture;
mod transcript;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use dmirror_client::page_size;

use crate::transcript::Transcript;

/// Shows a program's pages going to device memory and coming back.
///
/// Exits with 0 if every page and every byte was where it should be, with 1
/// otherwise.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The device
    #[arg(long, value_name = "PATH", default_value = "/dev/hmm_dmirror0")]
    device: PathBuf,

    /// How much memory to show it on, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..1024))]
    size: u16,

    /// Leave the module loaded, and leave out the step that unloads it
    #[arg(long)]
    no_unload: bool,
}

impl Arguments {
    /// Returns the number of pages to show it on.
    fn pages(&self) -> usize {
        usize::from(self.size) * (1 << 20) / page_size()
    }
}

/// Runs the demo, on standard output.
pub fn run(arguments: &Arguments) -> ExitCode {
    let mut transcript = Transcript::new();
    let outcome = demo::run(arguments, &mut transcript);
    if let Err(error) = outcome {
        transcript.abort(&format!("{error:#}"));
    }
    if transcript.summary() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
