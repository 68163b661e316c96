// SPDX-License-Identifier: GPL-2.0

//! Runs any program with its memory on a device.

use std::process::ExitCode;

use clap::Parser;
use dmirror_run::Arguments;

fn main() -> ExitCode {
    dmirror_run::main(&Arguments::parse(), &[])
}
