// SPDX-License-Identifier: GPL-2.0

//! Measurement of a device through its ABI.

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

/// The parameters of a run.
#[derive(Debug)]
pub struct Settings {
    /// The device file.
    pub device: PathBuf,
    /// Size of the memory of the group `ops`, in bytes.
    pub size: u64,
    /// Number of samples of each operation; some groups take more or fewer.
    pub rounds: usize,
    /// The meaning of a nanosecond.
    pub clock: Clock,
    /// The groups to measure.
    pub groups: Vec<Group>,
}

/// Measures the groups.
///
/// # Errors
///
/// If no module of this ABI is loaded, the machine stays busy, or the device cannot be opened. A
/// command that the module refuses is not an error: the run contains it as skipped, with the
/// reason.
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

/// The key of measurements, except for the operation.
#[derive(Clone, Copy, Debug)]
struct Place {
    group: Group,
    memory: Memory,
    at: u64,
}

impl Session<'_> {
    /// Calls `work` to measure `operations` at `place`, and records the samples. An operation
    /// without samples is recorded as skipped; the error of `work`, if any, is the reason.
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
    /// Adds a sample of `ns` nanoseconds for `pages` pages. All samples of an operation have the
    /// same number of pages.
    fn add(&mut self, pages: u64, ns: u64) {
        self.pages = pages;
        self.ns.push(ns);
    }
}
