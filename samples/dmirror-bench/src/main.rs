// SPDX-License-Identifier: GPL-2.0

//! `dmirror bench` as a program by itself.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// Measures a device with the ABI of lib/test_hmm.
#[derive(Debug, Parser)]
#[command(version)]
struct Program {
    #[command(subcommand)]
    command: dmirror_bench::Command,
}

fn main() -> Result<ExitCode> {
    Ok(if dmirror_bench::run(Program::parse().command)? {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
