// SPDX-License-Identifier: GPL-2.0

//! Behaviour tests of the driver `samples/ivshmem`, seen from both sides.
//!
//! In a guest, `ivshmem-test` moves pages of its processes to the device and back, takes the device
//! away, and writes KTAP. The host checks the claims about the memory of the device: there,
//! `ivshmem-test host` reads the file that is that memory. `scripts/guest/guest.sh` connects the
//! two.

#[path = "../../ivshmem/abi.rs"]
mod abi;
mod ask;
mod cases;
mod device;
mod host;
mod monitor;
mod pattern;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// Behaviour tests of the driver samples/ivshmem, in KTAP.
///
/// Exits with 0 if no case failed, with 1 otherwise.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// List the cases and run none
    #[arg(long)]
    list: bool,

    /// `host`: answer a guest instead, by what is in the file IVSHMEM_FILE and over the monitor
    /// MONITOR
    side: Option<Side>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Side {
    Host,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.list {
        for case in cases::all() {
            println!("{}", case.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(Side::Host) = arguments.side {
        host::answer()?;
        return Ok(ExitCode::SUCCESS);
    }
    Ok(if run() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs all cases; returns whether none failed.
fn run() -> bool {
    println!("KTAP version 1\n1..{}", cases::all().count());
    let mut failed = 0;
    for (number, case) in (1..).zip(cases::all()) {
        let name = case.name;
        match (case.run)() {
            Ok(()) => println!("ok {number} {name}"),
            Err(error) => {
                println!("# {error:#}\nnot ok {number} {name}");
                failed += 1;
            }
        }
    }
    failed == 0
}
