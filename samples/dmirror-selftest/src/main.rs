// SPDX-License-Identifier: GPL-2.0

//! `dmirror selftest` as a program by itself.

use std::process::ExitCode;

use clap::Parser;

/// Behaviour tests of the dmirror module.
///
/// Exits with 0 if no case failed, with 1 otherwise.
#[derive(Debug, Parser)]
#[command(version)]
struct Program {
    #[command(flatten)]
    arguments: dmirror_selftest::Arguments,
}

fn main() -> ExitCode {
    dmirror_selftest::run(&Program::parse().arguments, None)
}
