// SPDX-License-Identifier: GPL-2.0

//! Runs any program with its memory on a device.
//!
//! The program does not notice. This crate makes each of its processes open the device as it begins
//! (see [`dmirror_client::attach`]), so that the device works on its memory. Beside the program, a
//! thread moves its pages to the device again and again, or makes engines access them, which moves
//! them by the policy of the device. CPUs that touch the pages bring them back.
//!
//! | module | for |
//! | --- | --- |
//! | `spaces` | the processes, and the work on their memory |
//! | `scan` | the memory of a process that can move |
//! | `signals` | signals for `dmirror run`, which are passed on to the program |
//! | `touch` | engines that access the memory |
//! | `device` | settings of the device, which are restored afterwards |
//! | `summary` | the summary of a run, in words |
//! | `help` | advice for errors |

mod device;
pub mod help;
pub mod scan;
mod signals;
mod spaces;
mod summary;
mod touch;

use std::ffi::OsString;
use std::io;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use clap::Parser;
use clap::ValueEnum;
use dmirror_client::attach;
use dmirror_client::attach::Event;
use dmirror_client::attach::Exit;
use dmirror_client::attach::Tracer;

use crate::device::Settings;
use crate::signals::Signals;
use crate::spaces::Spaces;
use crate::spaces::Work;
use crate::summary::Summary;

/// How engines access the memory of the program. None of it changes a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Touch {
    /// Not at all
    None,
    /// They read all of it, in the order of addresses
    Stream,
    /// They read pages here and there
    Random,
    /// They add 0 to words here and there, by atomic operations
    Atomic,
}

/// Runs any program with its memory on a device, and says at the end what happened.
///
/// The pages of the program move to the device again and again, and come back when a CPU touches
/// them. With --touch, engines access the memory of the program beside it. With --policy, only the
/// policy decides what moves when engines access memory.
///
/// The program may be static or dynamic, have threads, fork and exec. Not reached: programs that
/// trace others, such as gdb and strace; set-user-ID programs, unless root runs them; 32-bit
/// programs; processes that cannot see the device file; and those whose sandbox (seccomp) refuses
/// openat(), or mmap() when engines access the memory.
///
/// Exits as the program does; with 128 + N if signal N has ended it, with 126 or 127 if it cannot
/// be started, and with 125 if dmirror run itself fails.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Arguments {
    /// The device, by its number in /dev/hmm_dmirrorN
    #[arg(long, value_name = "N", default_value_t = 0)]
    device: u32,

    /// Set this policy for as long as the program runs: test_hmm, xe, kfd or uvm; needs root
    #[arg(long, value_name = "PRESET")]
    policy: Option<String>,

    /// Have engines access the memory of the program [default: none, or stream with --policy]
    #[arg(long, value_enum, value_name = "PATTERN")]
    touch: Option<Touch>,

    /// Limit the device to the program's memory divided by FACTOR; needs root
    #[arg(long, value_name = "FACTOR")]
    oversubscribe: Option<f64>,

    /// Wait so long after each round over the memory of the program, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 10)]
    pause: u64,

    /// Say nothing at the end
    #[arg(long, short)]
    quiet: bool,

    /// Used by this program itself: stop, and go on as the program
    #[arg(long, hide = true)]
    stopped: bool,

    /// The program and its arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
}

/// Runs the program, as `arguments` say. `again` are the arguments with which this program calls
/// itself for this command (such as `run`).
pub fn main(arguments: &Arguments, again: &[&str]) -> ExitCode {
    if arguments.stopped {
        let error = match signals::unblock() {
            Ok(()) => attach::stop_and_exec(&arguments.program),
            Err(error) => error,
        };
        anstream::eprintln!(
            "dmirror run: cannot run {}: {error}",
            arguments.program[0].to_string_lossy()
        );
        return ExitCode::from(match error.kind() {
            io::ErrorKind::NotFound => 127,
            _ => 126,
        });
    }
    match run(arguments, again) {
        Ok(Exit::Status(status)) => ExitCode::from(status as u8),
        Ok(Exit::Signal(signal)) => ExitCode::from(128 + signal as u8),
        Err(error) => {
            anstream::eprintln!("dmirror run: {error:#}");
            for line in help::for_error(&error) {
                anstream::eprintln!("    {line}");
            }
            ExitCode::from(125)
        }
    }
}

fn run(arguments: &Arguments, again: &[&str]) -> Result<Exit> {
    let touch = arguments.touch.unwrap_or(match arguments.policy {
        Some(_) => Touch::Stream,
        None => Touch::None,
    });
    if let Some(factor) = arguments.oversubscribe {
        ensure!(
            factor.is_finite() && factor > 0.0,
            "--oversubscribe needs a number above 0, such as 2"
        );
    }
    let name = format!("hmm_dmirror{}", arguments.device);
    let path = Path::new("/dev").join(&name);
    let signals = Signals::block().context("cannot block signals")?;
    let settings = Settings::take(
        &path,
        &name,
        arguments.policy.as_deref(),
        arguments.oversubscribe.is_some(),
    )?;
    let settings = Arc::new(settings);
    let before = settings.stats()?;

    let mut program = Command::new("/proc/self/exe");
    program.args(again).arg("--stopped").arg("--");
    let mut child = program
        .args(&arguments.program)
        .spawn()
        .context("cannot start a process")?;
    // CAST: Process numbers are small.
    let pid = child.id() as i32;
    let start = Instant::now();
    let tracer = Tracer::seize(pid, &path)
        .context("cannot trace the program")
        .inspect_err(|_| {
            // The child waits for the order to go on.
            let _ = child.kill();
            let _ = child.wait();
        })?;
    signals.pass_on(pid);
    let tracer = match touch {
        Touch::None => tracer,
        _ => tracer.with_code(),
    };
    let spaces = Arc::new(Spaces::default());
    let work = Work {
        moves: arguments.policy.is_none() || touch == Touch::None,
        touch,
        pause: Duration::from_millis(arguments.pause),
        oversubscribe: arguments.oversubscribe,
    };
    let worker = {
        let (spaces, settings) = (Arc::clone(&spaces), Arc::clone(&settings));
        thread::spawn(move || spaces.work(&work, &settings))
    };
    let mut summary = Summary::new(&arguments.program[0]);
    let exit = tracer.run(|event| match event {
        Event::Began { space } => {
            summary.reached();
            spaces.add(space);
        }
        Event::Missed { pid, error } => summary.missed(pid, &error),
        Event::Ended { pid } => spaces.remove(pid),
    });
    spaces.stop();
    let peak = worker.join().unwrap_or_default();
    let exit = exit.context("cannot wait for the program")?;
    if !arguments.quiet {
        let text = summary.text(&settings, exit, start.elapsed(), before, peak)?;
        // Ignore an error: without a reader, only the summary is lost.
        let _ = anstream::stderr().write_all(text.as_bytes());
    }
    Ok(exit)
}
