// SPDX-License-Identifier: GPL-2.0

//! `dmirror demo` as a standalone program.

use std::process::ExitCode;

use clap::Parser;

/// Shows a program's pages going to device memory and coming back.
///
/// Exits with 0 if every page and every byte was where it should be, with 1
/// otherwise.
#[derive(Debug, Parser)]
#[command(version)]
struct Program {
    #[command(flatten)]
    arguments: dmirror_demo::Arguments,
}

fn main() -> ExitCode {
    dmirror_demo::run(&Program::parse().arguments)
}
