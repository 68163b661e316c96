// SPDX-License-Identifier: GPL-2.0

//! One tool for dmirror's devices: it shows their state and activity, makes them do something, and
//! tests them.
//!
//! Each subcommand is a module with its arguments and a function `run`. A subcommand that is also a
//! separate program is a separate library.

mod advise;
mod generate;
mod info;
mod map;
mod moving;
mod needs;
mod ranges;
mod release;
mod state;
mod top;
mod trace;
mod words;

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Error;
use anyhow::Result;
use clap::Parser;
use clap::Subcommand;
use dmirror_run::help;

/// Shows what dmirror's devices do, and has them do it.
///
/// dmirror is a kernel module that emulates devices with memory of their own. Pages of programs
/// move to that memory, and come back when a CPU touches them.
#[derive(Debug, Parser)]
#[command(name = "dmirror", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show devices, their memory, policy and engines, and who uses them
    Info(info::Arguments),
    /// Show what devices do, again and again
    ///
    /// Keys pause, sort, and set the policy; h shows them. Without a terminal it prints lines.
    Top(top::Arguments),
    /// Show where the memory of a process is, mapping by mapping
    ///
    /// The process need not have opened a device, and notices nothing.
    Map(map::Arguments),
    /// Show trace events as they happen: what moves, for whom, and why
    Trace(trace::Arguments),
    /// Run any program with its memory on a device, and say what happened
    Run(dmirror_run::Arguments),
    /// Move memory of a process to a device, or back
    ///
    /// The process need not have a device open, and goes on at once.
    Move(moving::Arguments),
    /// Say where memory of a process should be, to the devices that it has open
    ///
    /// Advice is for the jobs that engines do for those open files, and has priority over the policy
    /// of the device. It moves nothing by itself.
    Advise(advise::Arguments),
    /// Bring back all that is on a device, whoever owns it
    Release(release::Arguments),
    /// Show a program's pages going to device memory and coming back
    ///
    /// Exits with 0 if every page and every byte was where it should be, with 1 otherwise.
    Demo(dmirror_demo::Arguments),
    /// Test the behaviour of the module, one case per behaviour
    ///
    /// Exits with 0 if no case failed, with 1 otherwise.
    Selftest(dmirror_selftest::Arguments),
    /// Run random programs, and compare the results with an oracle
    Stress {
        #[command(subcommand)]
        command: dmirror_stress::Command,
    },
    /// Send random requests, and check that nothing breaks
    Fuzz(dmirror_stress::FuzzArguments),
    /// Measure what operations take, and compare
    Bench {
        #[command(subcommand)]
        command: dmirror_bench::Command,
    },
    /// Print shell completions
    Completions(generate::Completions),
    /// Write the manual pages of this program
    Man(generate::Man),
}

/// Runs a subcommand; returns the exit status of this program.
fn run(command: Command) -> Result<ExitCode> {
    let exit = |good| {
        if good {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    };
    let done = |()| ExitCode::SUCCESS;
    match command {
        Command::Info(arguments) => arguments.run().map(done),
        Command::Top(arguments) => arguments.run().map(done),
        Command::Map(arguments) => arguments.run().map(done),
        Command::Trace(arguments) => arguments.run(),
        Command::Advise(arguments) => arguments.run().map(done),
        Command::Run(arguments) => Ok(dmirror_run::main(&arguments, &["run"])),
        Command::Move(arguments) => arguments.run().map(done),
        Command::Release(arguments) => arguments.run().map(done),
        Command::Demo(arguments) => Ok(dmirror_demo::run(&arguments)),
        Command::Selftest(arguments) => Ok(dmirror_selftest::run(&arguments, Some("selftest"))),
        Command::Stress { command } => dmirror_stress::run(&command).map(exit),
        Command::Fuzz(arguments) => dmirror_stress::fuzz(&arguments).map(exit),
        Command::Bench { command } => dmirror_bench::run(command).map(exit),
        Command::Completions(arguments) => arguments.run().map(done),
        Command::Man(arguments) => arguments.run().map(done),
    }
}

/// Returns the arguments of this program. A link to it with the name `dmirror-SUBCOMMAND` runs that
/// subcommand: so a guest has one program, and all names that scripts know.
fn arguments(given: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut all: Vec<OsString> = given.into_iter().collect();
    let name = all
        .first()
        .and_then(|path| Path::new(path).file_name()?.to_str());
    let subcommand = name.and_then(|name| name.strip_prefix("dmirror-"));
    if let Some(subcommand) = subcommand.map(OsString::from) {
        all.insert(1, subcommand);
    }
    all
}

fn main() -> ExitCode {
    match run(Arguments::parse_from(arguments(env::args_os())).command) {
        Ok(exit) => exit,
        // The reader has closed the pipe, as `head` does.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dmirror: {error:#}");
            for line in help::for_error(&error) {
                eprintln!("    {line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &Error) -> bool {
    let kind = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    error.downcast_ref::<io::Error>().is_some_and(kind)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_make_sense() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_link_is_a_subcommand() {
        let arguments = |given: &[&str]| arguments(given.iter().map(OsString::from));
        assert_eq!(
            arguments(&["/bin/dmirror", "demo"]),
            ["/bin/dmirror", "demo"]
        );
        assert_eq!(
            arguments(&["/bin/dmirror-stress", "fuzz"]),
            ["/bin/dmirror-stress", "stress", "fuzz"]
        );
        assert_eq!(
            arguments(&["/proc/self/exe", "--list"]),
            ["/proc/self/exe", "--list"]
        );
        assert!(arguments(&[]).is_empty());
    }

    #[test]
    fn each_subcommand_says_what_it_does() {
        for command in Arguments::command().get_subcommands() {
            let about = command.get_about();
            assert!(about.is_some(), "{} says nothing", command.get_name());
        }
    }
}
