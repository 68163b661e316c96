// SPDX-License-Identifier: GPL-2.0

//! Runs each case in a process of its own, so that a crash, a bus error or a
//! hang is one failed case and leaves nothing behind for the next one.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use dmirror_client::{Child, Exit, fork_child};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, dup2_stderr, dup2_stdout, pipe2, setpgid};

use crate::cases::Case;
use crate::check::{Known, Skip};
use crate::context::Context;
use crate::report::{Finding, Outcome, Report};
use crate::{inject, settings};

/// The exit codes of a case's process if the case failed, cannot run, or shows a known defect.
const FAILED: i32 = 1;
const SKIPPED: i32 = 4;
const KNOWN: i32 = 2;

/// The time limit for the end of a killed process. A process that takes longer is stuck in the
/// kernel.
const DEATH: Duration = Duration::from_secs(20);

/// The time limit of a case, and the number of its runs.
#[derive(Debug)]
pub struct Limits {
    /// The time limit of one run of a case.
    pub time: Duration,
    /// The number of runs of each case.
    pub repeat: u32,
}

/// The outcome of one run of a case, and its output.
type Ending = (Outcome, String);

/// Runs `cases` and reports them; returns true if none failed.
pub fn run(
    cases: &[&'static Case],
    context: &Context,
    limits: &Limits,
    report: &mut impl Report,
) -> Result<bool> {
    report.start(cases, &context.describe())?;
    if let Err(error) = context.ensure_loaded() {
        report.bail_out(&format!("{error:#}"))?;
        return Ok(false);
    }
    let mut all_well = true;
    for &case in cases {
        let start = Instant::now();
        let (outcome, text) = run_repeatedly(case, context, limits)?;
        all_well &= outcome != Outcome::Failed;
        report.finding(&Finding {
            case,
            outcome,
            text,
            time: start.elapsed(),
        })?;
    }
    report.finish()?;
    Ok(all_well)
}

fn run_repeatedly(case: &Case, context: &Context, limits: &Limits) -> Result<Ending> {
    let mut last = (Outcome::Passed, String::new());
    for round in 1..=limits.repeat {
        // An earlier case may have left the module unloaded.
        if let Err(error) = context.ensure_loaded() {
            return Ok((Outcome::Failed, format!("{error:#}")));
        }
        settings::restore();
        last = run_once(case, context, limits.time)?;
        let (outcome, text) = &mut last;
        if *outcome == Outcome::Failed {
            inject::all_off();
            if limits.repeat > 1 {
                write!(text, "\nin round {round} of {}", limits.repeat)?;
            }
        }
        if *outcome != Outcome::Passed {
            break;
        }
    }
    Ok(last)
}

fn run_once(case: &Case, context: &Context, time: Duration) -> Result<Ending> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let mut output = File::from(read);
    let child = fork_child(|| be_a_case(case, context, &write)).context("cannot fork")?;
    drop(write);
    let group = Pid::from_raw(child.pid());

    let mut text = Vec::new();
    let ended = listen(&child, &mut output, &mut text, time)?;
    if !ended {
        let _ = child.signal(Signal::SIGKILL);
    }
    // Kill the processes that the case forked and did not wait for.
    let _ = killpg(group, Signal::SIGKILL);
    let exit = child.wait_for(DEATH)?;
    drain(&mut output, &mut text);

    let mut text = String::from_utf8_lossy(&text).into_owned();
    let exit = match exit {
        Ok(exit) if ended => exit,
        Ok(_) => {
            writeln!(
                text,
                "stopped: it took longer than {} s (--timeout)",
                time.as_secs()
            )?;
            return Ok((Outcome::Failed, text));
        }
        Err(child) => {
            writeln!(
                text,
                "hung, and does not die of SIGKILL: process {}",
                child.pid()
            )?;
            mem::forget(child); // dropping it would wait for ever
            return Ok((Outcome::Failed, text));
        }
    };
    let outcome = match exit {
        Exit::Status(0) => Outcome::Passed,
        Exit::Status(SKIPPED) => Outcome::Skipped,
        Exit::Status(KNOWN) => Outcome::Known,
        Exit::Status(FAILED) => Outcome::Failed,
        Exit::Status(status) => {
            writeln!(text, "exited with status {status}")?;
            Outcome::Failed
        }
        Exit::Signal(signal) => {
            writeln!(text, "killed by {signal}")?;
            Outcome::Failed
        }
    };
    Ok((outcome, text))
}

/// Runs the case in the child, with its output in the pipe, and returns the exit code.
fn be_a_case(case: &Case, context: &Context, output: &OwnedFd) -> i32 {
    let set_up = || -> nix::Result<()> {
        // Create a process group, so that all children of the case can be killed.
        setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
        dup2_stdout(output)?;
        dup2_stderr(output)
    };
    if let Err(errno) = set_up() {
        eprintln!("cannot set up the case's process: {errno}");
        return FAILED;
    }
    match (case.run)(context) {
        Ok(()) => 0,
        Err(error) => {
            println!("{error:#}");
            if error.is::<Skip>() {
                SKIPPED
            } else if error.is::<Known>() {
                KNOWN
            } else {
                FAILED
            }
        }
    }
}

/// Collects the output of the child until it ends or `time` is over; returns true if it ended.
fn listen(child: &Child, output: &mut File, text: &mut Vec<u8>, time: Duration) -> Result<bool> {
    let deadline = Instant::now() + time;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        // Each child of the case writes to the pipe, so the end of the pipe is not the end of the
        // case.
        let mut fds = [
            PollFd::new(child.as_fd(), PollFlags::POLLIN),
            PollFd::new(output.as_fd(), PollFlags::POLLIN),
        ];
        match poll(
            &mut fds,
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX),
        ) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if fds[0].any().unwrap_or(false) {
            return Ok(true);
        }
        drain(output, text);
    }
}

/// Reads the rest of the output from the pipe.
fn drain(output: &mut File, text: &mut Vec<u8>) {
    let mut chunk = [0; 4096];
    loop {
        match output.read(&mut chunk) {
            Ok(0) => return,
            Ok(len) => text.extend_from_slice(&chunk[..len]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
