// SPDX-License-Identifier: GPL-2.0

//! `dmirror trace`: the module's trace events as they happen, in words, as JSON, or as a file for
//! chrome://tracing and Perfetto.

mod child;
mod chrome;
mod names;
mod passes;
mod sum;
mod tell;
mod whose;

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use clap::Args;
use dmirror_client::trace::Event;
use dmirror_client::trace::Trace;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::poll;
use nix::sys::signal::SigSet;
use nix::sys::signal::SigmaskHow;
use nix::sys::signal::Signal;
use nix::sys::signalfd::SfdFlags;
use nix::sys::signalfd::SignalFd;

use self::child::Program;
use self::chrome::Chrome;
use self::names::Names;
use self::passes::Passes;
use self::passes::Seen;
use self::sum::Sum;
use self::whose::Whose;
use crate::needs;
use crate::words;

/// The trace system of the module.
const SYSTEM: &str = "dmirror";

/// Milliseconds between two reads of the buffer.
const INTERVAL: u16 = 50;

/// Maximum number of times that the buffer is emptied at the end: others may fill it all the time.
const LAST_LOOKS: u32 = 16;

/// The arguments of `dmirror trace`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Print a JSON object a line: time, event, task and fields
    #[arg(long)]
    json: bool,

    /// Write a file for chrome://tracing or ui.perfetto.dev instead
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    chrome: Option<PathBuf>,

    /// Show this device only: N of /dev/hmm_dmirrorN
    #[arg(long, value_name = "N")]
    device: Option<u32>,

    /// Show these events only, by their kernel names
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    event: Vec<String>,

    /// Show what is left out otherwise, since other lines say it: beginnings, reservations, faults
    /// of CPUs that brought pages back, and changes to page tables that the device made itself
    #[arg(long)]
    all: bool,

    /// Write the lines to a file. Otherwise they go to standard output, or to standard error if
    /// there is a PROGRAM
    #[arg(long, short, value_name = "FILE", conflicts_with = "chrome")]
    output: Option<PathBuf>,

    /// Stop after so many seconds
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,

    /// Run a program, show what it and its children do, and end with it
    ///
    /// What the engines of the devices do is shown, too: they work for whoever has queues.
    #[arg(last = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
}

impl Arguments {
    /// Traces until the program ends, the time is over, or a signal arrives. Returns the exit
    /// status of the program if it has ended, and success otherwise.
    pub fn run(&self) -> Result<ExitCode> {
        needs::ours("trace events")?;
        if let Some(number) = self.device {
            needs::device(number)?;
        }
        // Block signals before there is a buffer that must be removed.
        let (signals, mask) = signals()?;
        let mut trace = Trace::new("dmirror-trace").context(
            "cannot make a trace buffer; it takes root, and tracefs at /sys/kernel/tracing",
        )?;
        // Events come in bursts: one for each page.
        trace
            .make_room(4096)
            .context("cannot make room for events")?;
        self.switch_on(&mut trace)?;
        let mut show = Show::new(self)?;
        let mut names = Names::default();
        let mut whose = Whose::default();
        let mut child = None;
        if !self.program.is_empty() {
            let program = Program::start(&self.program, &mask)?;
            whose = Whose::tree_of(program.pid());
            child = Some(program);
        }
        let begun = Instant::now();
        let mut status = None;
        let mut left = LAST_LOOKS;
        loop {
            // Check for the end first, so that the events include all that the program has done.
            let ended = status.is_some()
                || left < LAST_LOOKS
                || self.is_over(child.as_ref(), &mut status, &signals, begun)?;
            let events = trace.take().context("cannot read the trace buffer")?;
            let is_empty = events.is_empty();
            for mut event in events {
                names.mend(&mut event);
                if whose.wants(&event) && self.wants(&event) {
                    show.event(event)?;
                }
            }
            if ended {
                left -= 1;
                if is_empty || left == 0 {
                    break;
                }
                continue;
            }
            let mut wait = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut wait, INTERVAL);
        }
        show.end(trace.lost())?;
        Ok(status.map_or(ExitCode::SUCCESS, ExitCode::from))
    }

    fn switch_on(&self, trace: &mut Trace) -> Result<()> {
        for event in [names::EXEC, whose::FORK] {
            let switched = trace.switch_on("sched", Some(event));
            switched.context("cannot follow programs and their children")?;
        }
        if self.event.is_empty() {
            trace
                .switch_on(SYSTEM, None)
                .context("cannot switch on the events of dmirror")?;
        }
        for name in &self.event {
            trace.switch_on(SYSTEM, Some(name)).with_context(|| {
                format!("cannot switch on {name}; see /sys/kernel/tracing/events/dmirror")
            })?;
        }
        Ok(())
    }

    fn wants(&self, event: &Event) -> bool {
        match self.device {
            Some(number) => event.number("device") == Some(number.into()),
            None => true,
        }
    }

    fn is_over(
        &self,
        child: Option<&Program>,
        status: &mut Option<u8>,
        signals: &SignalFd,
        begun: Instant,
    ) -> Result<bool> {
        if let Some(child) = child {
            *status = child.status()?;
        }
        let signal = signals.read_signal().context("cannot read a signal")?;
        let signal = signal.and_then(|signal| Signal::try_from(signal.ssi_signo as i32).ok());
        // A terminal sends SIGINT to the program as well, which decides whether it ends.
        let stop = match signal {
            Some(Signal::SIGINT) => child.is_none(),
            other => other.is_some(),
        };
        let limit = self.seconds.map(Duration::from_secs);
        Ok(stop || status.is_some() || limit.is_some_and(|limit| begun.elapsed() >= limit))
    }
}

/// Blocks the signals that end tracing; returns a descriptor to read them, and the old mask.
fn signals() -> Result<(SignalFd, SigSet)> {
    let set: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
        .into_iter()
        .collect();
    let mask = set.thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let mask = mask.context("cannot block signals")?;
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    let signals = SignalFd::with_flags(&set, flags).context("cannot receive signals")?;
    Ok((signals, mask))
}

/// The output for events.
enum Show {
    Json(Box<dyn Write>),
    Chrome(Chrome, Passes),
    Words {
        out: Box<dyn Write>,
        passes: Passes,
        sum: Sum,
        all: bool,
        begin: Option<u64>,
    },
}

impl Show {
    fn new(arguments: &Arguments) -> Result<Self> {
        if let Some(path) = &arguments.chrome {
            let file = File::create(path).with_context(|| path.display().to_string())?;
            return Ok(Self::Chrome(Chrome::new(file)?, Passes::default()));
        }
        let out: Box<dyn Write> = match &arguments.output {
            Some(path) => Box::new(File::create(path).with_context(|| path.display().to_string())?),
            None if arguments.program.is_empty() => Box::new(io::stdout()),
            None => Box::new(io::stderr()),
        };
        Ok(if arguments.json {
            Self::Json(out)
        } else {
            Self::Words {
                out,
                passes: Passes::default(),
                sum: Sum::default(),
                all: arguments.all,
                begin: None,
            }
        })
    }

    fn event(&mut self, event: Event) -> Result<()> {
        match self {
            Self::Json(out) => {
                writeln!(out, "{}", serde_json::to_string(&tell::Json::of(&event))?)?
            }
            Self::Chrome(file, passes) => {
                if let Some(seen) = passes.join(event) {
                    file.add(&seen)?;
                }
            }
            Self::Words {
                out,
                passes,
                sum,
                all,
                begin,
            } => {
                let begin = *begin.get_or_insert(event.micros);
                if *all && event.name.ends_with(passes::BEGIN) {
                    let seen = Seen::now(event.clone());
                    writeln!(out, "{}", tell::line(&seen, begin))?;
                }
                let Some(seen) = passes.join(event) else {
                    return Ok(());
                };
                sum.add(&seen);
                if *all || tell::is_news(&seen.event) {
                    writeln!(out, "{}", tell::line(&seen, begin))?;
                }
            }
        }
        Ok(())
    }

    fn end(self, lost: u64) -> Result<()> {
        let lost = (lost > 0).then(|| {
            let events = words::count(lost, "event");
            format!("{events} came too fast to be read, and are missing here")
        });
        match self {
            Self::Json(mut out) => out.flush()?,
            Self::Chrome(file, _) => file.end()?,
            Self::Words { mut out, sum, .. } => {
                write!(out, "{}", sum.table())?;
                out.flush()?;
            }
        }
        if let Some(lost) = lost {
            eprintln!("dmirror: {lost}");
        }
        Ok(())
    }
}
