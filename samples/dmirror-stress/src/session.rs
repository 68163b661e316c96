// SPDX-License-Identifier: GPL-2.0

//! Runs programs, each in a process of its own, so that a crash or a hang is a failure
//! like any other; and shrinks the programs that fail.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use dmirror_client::Policy;
use dmirror_client::SwapArea;
use dmirror_client::fork_child;
use dmirror_client::process::Exit;

use crate::generate;
use crate::generate::Dice;
use crate::model::Model;
use crate::noise;
use crate::noise::Targets;
use crate::op::NODES;
use crate::op::Step;
use crate::real;
use crate::real::Real;
use crate::runner::Runner;
use crate::shrink::shrink;

/// The time limit for a program: much more than it takes on a busy host, and less than
/// the time limit of a guest.
const LIMIT: Duration = Duration::from_secs(500);

/// The presets of policies.
const PRESETS: [&str; 4] = ["test_hmm", "xe", "kfd", "uvm"];

/// The time limit for shrinking a failing program.
const SHRINK_TIME: Duration = Duration::from_secs(60);

/// The bit of /proc/sys/kernel/tainted for a warning.
const TAINT_WARN: u64 = 1 << 9;

/// The number of times that each operation had each outcome.
type Counts = BTreeMap<String, u64>;

/// Returns the policies of the devices, without those that this program cannot set.
fn policies() -> Result<Vec<Policy>> {
    let named = |node| Policy::of(&format!("hmm_dmirror{node}")).transpose();
    Ok((0..NODES).filter_map(named).collect::<Result<_, _>>()?)
}

/// Returns the presets that go with a seed, one per device.
fn presets_of(seed: u64) -> [&'static str; NODES] {
    std::array::from_fn(|node| PRESETS[(seed >> (2 * node)) as usize % PRESETS.len()])
}

/// Gives each device its preset.
fn choose_policies(seed: u64) -> Result<()> {
    for (policy, preset) in policies()?.iter().zip(presets_of(seed)) {
        policy.choose(preset)?;
    }
    Ok(())
}

/// The environment that programs run in.
pub struct Session {
    frames: Vec<Range<u64>>,
    swap: Option<SwapArea>,
    alone: bool,
}

/// The result of a program.
struct Report {
    failure: Option<String>,
    counts: Counts,
}

fn kernel_warned() -> bool {
    let taint = fs::read_to_string("/proc/sys/kernel/tainted").unwrap_or_default();
    taint.trim().parse().unwrap_or(0) & TAINT_WARN != 0
}

impl Session {
    /// Finds the page frames of the devices, and enables swap space if `swap` is set.
    ///
    /// # Errors
    ///
    /// An error if the devices cannot be used, or if there is no ram disk to swap to.
    pub fn new(swap: bool, alone: bool) -> Result<Self> {
        let area = || SwapArea::on_blank("/dev/ram0").context("cannot swap to /dev/ram0");
        Ok(Self {
            frames: real::frames()?,
            swap: swap.then(area).transpose()?,
            alone,
        })
    }

    /// Runs programs for `time`, or until one fails; returns whether all passed.
    ///
    /// # Errors
    ///
    /// An error if a process cannot be started.
    pub fn run(&self, seed: u64, time: Duration, ops: usize) -> Result<bool> {
        let (start, mut counts, mut programs) = (Instant::now(), Counts::new(), 0);
        let mut dice = Dice::new(seed);
        while start.elapsed() < time {
            let seed = dice.any();
            let program = generate::program(seed, ops);
            let report = self.try_program(&program, None)?;
            programs += 1;
            for (key, count) in report.counts {
                *counts.entry(key).or_default() += count;
            }
            if let Some(failure) = report.failure {
                println!("program {programs}, seed {seed}: {failure}");
                self.shorten(&program, &failure)?;
                return Ok(false);
            }
        }
        print_counts(&counts);
        println!("{programs} programs of {ops} steps passed");
        Ok(true)
    }

    /// Runs one program; returns whether it passed.
    ///
    /// # Errors
    ///
    /// An error if a process cannot be started.
    pub fn replay(&self, program: &[Step], whole: bool) -> Result<bool> {
        let report = self.try_program(program, None)?;
        print_counts(&report.counts);
        let Some(failure) = report.failure else {
            println!("the program passed");
            return Ok(true);
        };
        println!("the program failed: {failure}");
        if !whole {
            self.shorten(program, &failure)?;
        }
        Ok(false)
    }

    /// Runs programs in several processes at once for `time`; returns whether all passed.
    /// Every second program has a thread beside it. Before each program, its process sets
    /// other policies for both devices, regardless of the other processes.
    ///
    /// # Errors
    ///
    /// An error if a process cannot be started.
    pub fn soak(&self, seed: u64, time: Duration, ops: usize, procs: u32) -> Result<bool> {
        let start = Instant::now();
        let mut dice = Dice::new(seed);
        let mut before = Vec::new();
        for policy in policies()? {
            before.push((policy.values()?, policy));
        }
        let mut children = Vec::new();
        for _ in 0..procs {
            let seed = dice.any();
            let child = fork_child(|| {
                let passed = self.soak_one(seed, start + time, ops);
                passed.map_or(2, |passed| i32::from(!passed))
            });
            children.push(child?);
        }
        let ended = children.into_iter().map(dmirror_client::Child::wait);
        let ended = ended.collect::<Result<Vec<_>, _>>();
        for (values, policy) in &before {
            policy.put(values)?;
        }
        let mut passed = ended?.iter().all(|exit| *exit == Exit::Status(0));
        for node in 0..NODES {
            for sum in real::disagreements(node) {
                println!("statistics of device {node} do not agree: {sum}");
                passed = false;
            }
        }
        if passed {
            println!("{procs} processes passed");
        }
        Ok(passed)
    }

    fn soak_one(&self, seed: u64, end: Instant, ops: usize) -> Result<bool> {
        let (mut counts, mut programs) = (Counts::new(), 0);
        let mut dice = Dice::new(seed);
        while Instant::now() < end {
            let seed = dice.any();
            let program = generate::program(seed, ops);
            choose_policies(seed)?;
            let noise = (programs % 2 == 1).then_some(seed);
            let report = self.try_program(&program, noise)?;
            programs += 1;
            for (key, count) in report.counts {
                *counts.entry(key).or_default() += count;
            }
            if let Some(failure) = report.failure {
                let beside = noise.map_or("", |_| ", with a thread beside it");
                println!("the program of seed {seed}{beside}: {failure}");
                println!("(dmirror-stress show {seed} --ops {ops} prints it)");
                let presets = presets_of(seed).join(", ");
                println!("(when it began, the devices got the policies {presets})");
                return Ok(false);
            }
        }
        println!("{programs} programs of {ops} steps passed");
        Ok(true)
    }

    /// Prints the shortest failing program that it finds.
    fn shorten(&self, program: &[Step], failure: &str) -> Result<()> {
        if kernel_warned() {
            println!("the kernel has warned, so no shorter program is tried; all of it:");
            program.iter().for_each(|step| println!("{step}"));
            return Ok(());
        }
        println!("looking for a shorter program");
        let start = Instant::now();
        let mut last = failure.to_owned();
        let short = shrink(program, |part| {
            if start.elapsed() > SHRINK_TIME {
                return false;
            }
            match self.try_program(part, None) {
                Ok(Report {
                    failure: Some(failure),
                    ..
                }) if kind_of(&failure) == kind_of(&last) => {
                    last = failure;
                    true
                }
                _ => false,
            }
        });
        println!("# {last}");
        short.iter().for_each(|step| println!("{step}"));
        Ok(())
    }

    /// Runs a program in a process of its own.
    fn try_program(&self, program: &[Step], noise: Option<u64>) -> Result<Report> {
        let warned = kernel_warned();
        let (mut here, there) = UnixStream::pair()?;
        let child = fork_child(|| {
            let report = self.run_program(program, noise);
            let mut out = there;
            let text = match report {
                Ok(report) => report.to_text(),
                Err(error) => format!("fail {error:#}\n"),
            };
            i32::from(out.write_all(text.as_bytes()).is_err())
        })?;
        // The child's end is closed here with the closure that held it.
        here.set_read_timeout(Some(LIMIT))?;
        let mut text = String::new();
        let read = here.read_to_string(&mut text);
        let mut report = Report::from_text(&text)?;
        match read {
            Ok(_) => {
                let exit = child.wait()?;
                if report.failure.is_none() && (exit != Exit::Status(0) || text.is_empty()) {
                    report.failure = Some(format!("the process ended with {exit:?}"));
                }
            }
            Err(_) => {
                report.failure = Some(format!("it took more than {} s", LIMIT.as_secs()));
            }
        }
        if report.failure.is_none() && !warned && kernel_warned() {
            report.failure = Some("the kernel has warned".into());
        }
        Ok(report)
    }

    /// Runs a program in this process.
    fn run_program(&self, program: &[Step], noise: Option<u64>) -> Result<Report> {
        let targets = noise.map(|_| Arc::new(Targets::default()));
        let thread = match (&targets, noise) {
            (Some(targets), Some(seed)) => {
                let devices = (0..NODES).map(real::open).collect::<Result<_, _>>()?;
                Some(noise::start(targets.clone(), devices, seed))
            }
            _ => None,
        };
        let mut model = Model::new(self.alone, self.swap.is_some());
        model.asynchronous = program.iter().any(|step| step.op.is_beside());
        let world = Real::new(self.frames.clone(), targets.clone())?;
        let mut runner = Runner::new(model, world);
        let mut report = Report {
            failure: None,
            counts: Counts::new(),
        };
        for (nth, step) in program.iter().enumerate() {
            match runner.step(step) {
                Ok(outcome) => {
                    let key = format!("{} {outcome}", step.op.name());
                    *report.counts.entry(key).or_default() += 1;
                }
                Err(failure) => {
                    report.failure = Some(format!("step {}, {step}: {failure}", nth + 1));
                    return Ok(report);
                }
            }
        }
        if let Err(failure) = runner.finish() {
            report.failure = Some(format!("after the last step: {failure}"));
        }
        if let Some(targets) = targets {
            targets.end();
        }
        if let Some(thread) = thread {
            if thread.join().is_err() {
                bail!("the thread beside it has panicked");
            }
        }
        Ok(report)
    }
}

impl Report {
    fn to_text(&self) -> String {
        let mut text = String::new();
        for (key, count) in &self.counts {
            text += &format!("count {count} {key}\n");
        }
        match &self.failure {
            None => text += "pass\n",
            Some(failure) => text += &format!("fail {failure}\n"),
        }
        text
    }

    fn from_text(text: &str) -> Result<Self> {
        let mut report = Self {
            failure: None,
            counts: Counts::new(),
        };
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("count", rest)) => {
                    let (count, key) = rest.split_once(' ').context("a count without a name")?;
                    report.counts.insert(key.into(), count.parse()?);
                }
                Some(("fail", failure)) => report.failure = Some(failure.into()),
                _ => {}
            }
        }
        Ok(report)
    }
}

/// Returns the text of a failure without its place and its numbers, so that a program
/// is not shrunk to another failure.
fn kind_of(failure: &str) -> String {
    let what = failure.rsplit(": ").next().unwrap_or(failure);
    what.chars().filter(|c| c.is_ascii_alphabetic()).collect()
}

fn print_counts(counts: &Counts) {
    let mut by_op: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (key, count) in counts {
        let (op, outcome) = key.split_once(' ').unwrap_or((key, ""));
        let outcomes = by_op.entry(op).or_default();
        outcomes.push(format!("{count} {outcome}"));
    }
    for (op, outcomes) in by_op {
        println!("{op:16} {}", outcomes.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read_as_they_are_written() {
        let mut counts = Counts::new();
        counts.insert("READ ok".into(), 3);
        let failure = Some("step 1, parent verify: page 3".into());
        let report = Report { failure, counts };
        let read = Report::from_text(&report.to_text()).unwrap();
        assert_eq!(read.failure, report.failure);
        assert_eq!(read.counts, report.counts);
    }
}
