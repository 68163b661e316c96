// SPDX-License-Identifier: GPL-2.0

//! `dmirror stress` and `dmirror fuzz` as a standalone program.

use std::process::ExitCode;

use clap::Parser;

/// Random programs and random requests against the dmirror module.
#[derive(Debug, Parser)]
#[command(version)]
struct Program {
    #[command(subcommand)]
    command: dmirror_stress::Command,
}

fn main() -> ExitCode {
    match dmirror_stress::run(&Program::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("dmirror-stress: {error:#}");
            ExitCode::FAILURE
        }
    }
}
