// SPDX-License-Identifier: GPL-2.0

//! Measuring a device through its ABI.

mod bench;
mod meeting;
mod one_page;
mod ops;
mod oversubscribed;
mod settle;
mod sizes;
mod threads;
mod window;

use std::fs;
use std::path::PathBuf;
use std::thread;

use anyhow::Context;
use anyhow::Result;
use dmirror_client::Module;

use crate::progress::Progress;
use crate::report::Clock;
use crate::report::Group;
use crate::report::Key;
use crate::report::Memory;
use crate::report::Outcome;
use crate::report::Record;
use crate::report::Run;

/// What is measured, and how.
#[derive(Debug)]
pub struct Settings {
    /// The device file.
    pub device: PathBuf,
    /// Bytes of memory of the group `ops`.
    pub size: u64,
    /// Samples of each operation, at least.
    pub rounds: usize,
    /// What a nanosecond is.
    pub clock: Clock,
    /// The groups.
    pub groups: Vec<Group>,
}

/// Measures the groups.
///
/// # Errors
///
/// If no module of this ABI is loaded, the machine is busy with something else, or
/// the device cannot be opened. What the
/// module refuses is no error, but stands in the run with its reason.
pub fn run(settings: &Settings) -> Result<Run> {
    let module = Module::loaded().context("no module with /dev/hmm_dmirror* is loaded")?;
    let mut session = Session {
        settings,
        progress: Progress::new(settings.groups.len())?,
        records: Vec::new(),
    };
    settle::settle()?;
    for group in &settings.groups {
        match group {
            Group::Ops => ops::measure(&mut session),
            Group::OnePage => one_page::measure(&mut session),
            Group::Sizes => sizes::measure(&mut session),
            Group::Threads => threads::measure(&mut session),
            Group::Oversubscribed => oversubscribed::measure(&mut session),
            Group::Window => window::measure(&mut session),
        }?;
        session.progress.step();
    }
    session.progress.finish();
    Ok(Run {
        module: module.name().to_owned(),
        parameters: module.parameters(),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
            .trim_end()
            .to_owned(),
        cpus: thread::available_parallelism()?.get(),
        clock: settings.clock,
        records: session.records,
    })
}

/// A run in progress.
#[derive(Debug)]
struct Session<'a> {
    settings: &'a Settings,
    progress: Progress,
    records: Vec<Record>,
}

/// The place of measurements: all that names them but the operation.
#[derive(Clone, Copy, Debug)]
struct Place {
    group: Group,
    memory: Memory,
    at: u64,
}

impl Session<'_> {
    /// Has `work` measure `operations` at `place`, and records what it found. An
    /// error is the reason why an operation has no sample.
    fn measure<const N: usize>(
        &mut self,
        place: Place,
        operations: [&str; N],
        work: impl FnOnce(&mut [Samples; N]) -> Result<()>,
    ) {
        let Place { group, memory, at } = place;
        let what = format!("{group}: {memory}, {}", group.place(at));
        self.progress.say(&match &operations[..] {
            [operation] => format!("{what}, {operation}"),
            _ => what,
        });
        let mut samples = operations.map(|_| Samples::default());
        let answer = work(&mut samples);
        let reason = match &answer {
            Ok(()) => "no sample was what it should be".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        for (operation, Samples { pages, ns }) in operations.into_iter().zip(samples) {
            let key = Key {
                group,
                operation: operation.to_owned(),
                memory,
                at,
            };
            let outcome = if ns.is_empty() {
                self.progress.say(&format!("  skipped: {key}: {reason}"));
                Outcome::Skipped(reason.clone())
            } else {
                Outcome::Measured { pages, ns }
            };
            self.records.push(Record { key, outcome });
        }
    }
}

/// The samples of one operation.
#[derive(Debug, Default)]
struct Samples {
    pages: u64,
    ns: Vec<u64>,
}

impl Samples {
    /// Adds a sample of `ns` nanoseconds for `pages` pages, of which all samples
    /// of an operation have as many.
    fn add(&mut self, pages: u64, ns: u64) {
        self.pages = pages;
        self.ns.push(ns);
    }
}
