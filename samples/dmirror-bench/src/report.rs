// SPDX-License-Identifier: GPL-2.0

//! The results of measurements, as stored in a JSON file.

use std::fmt;
use std::fs;
use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;
use clap::ValueEnum;
use serde::Deserialize;
use serde::Serialize;

use crate::units;

/// The version of the file's layout; a reader accepts no other.
const FORMAT: u32 = 1;

/// A set of operations that are measured together.
#[derive(
    Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// The commands and CPU faults, on as much memory as `--size` says
    Ops,
    /// The commands and CPU faults on one page; opening and closing the device
    OnePage,
    /// Migration of one page up to 1 GiB
    Sizes,
    /// 1, 2 and 4 threads and processes at the same time
    Threads,
    /// Working sets of a half to four times the memory of the device
    Oversubscribed,
    /// CPU faults that bring 4 KiB to 2 MiB
    Window,
}

impl Group {
    /// Returns the name, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ops => "ops",
            Self::OnePage => "one-page",
            Self::Sizes => "sizes",
            Self::Threads => "threads",
            Self::Oversubscribed => "oversubscribed",
            Self::Window => "window",
        }
    }

    /// Formats a place on the axis of the group, with its unit.
    pub fn place(self, at: u64) -> String {
        match self {
            Self::Threads => at.to_string(),
            Self::Oversubscribed => format!("{at} %"),
            Self::Ops | Self::OnePage | Self::Sizes | Self::Window => units::bytes(at),
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The kind of pages of the memory.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Memory {
    /// Pages of 4 KiB.
    Small,
    /// Transparent huge pages.
    Huge,
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Small => "4 KiB",
            Self::Huge => "THP",
        })
    }
}

/// The meaning of the nanoseconds of a run.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Clock {
    /// Instructions of a guest that counts them, one a nanosecond
    Instructions,
    /// Time that passes
    Host,
}

impl Clock {
    /// Formats a number of its nanoseconds, in the unit that they stand for.
    pub fn write(self, ns: f64) -> String {
        match self {
            Self::Instructions => units::count(ns),
            Self::Host => units::time(ns),
        }
    }
}

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Instructions => "instructions",
            Self::Host => "clock",
        })
    }
}

/// The identity of a record: two runs measured the same thing if their keys are equal.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Key {
    /// The set it belongs to.
    pub group: Group,
    /// The operation.
    pub operation: String,
    /// The pages of the memory.
    pub memory: Memory,
    /// The place on the axis of the group: bytes, workers, or percent of the device.
    pub at: u64,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            group,
            operation,
            memory,
            at,
        } = self;
        write!(f, "{group}: {operation}, {memory}, {}", group.place(*at))
    }
}

/// The result of a measurement.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The nanoseconds of each sample, at least one, and the number of pages.
    Measured {
        /// Pages that one sample handled.
        pages: u64,
        /// One number per sample.
        ns: Vec<u64>,
    },
    /// No sample, for this reason.
    Skipped(String),
}

/// One operation on one size of memory.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Record {
    /// The key of the measurement.
    #[serde(flatten)]
    pub key: Key,
    /// The result of the measurement.
    pub outcome: Outcome,
}

/// All measurements of one process on one module.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Run {
    /// The module's name.
    pub module: String,
    /// Its parameters, `name=value` each.
    pub parameters: Vec<String>,
    /// The release of the kernel.
    pub kernel: String,
    /// The number of processors.
    pub cpus: usize,
    /// The meaning of a nanosecond.
    pub clock: Clock,
    /// The measurements.
    pub records: Vec<Record>,
}

impl Run {
    /// Returns the number that stands for a measurement: the median of its samples.
    pub fn total(&self, key: &Key) -> Option<Total> {
        let record = self.records.iter().find(|record| record.key == *key)?;
        match &record.outcome {
            Outcome::Measured { pages, ns } => Some(Total {
                ns: median(ns)?,
                pages: *pages,
            }),
            Outcome::Skipped(_) => None,
        }
    }
}

/// The time of an operation, and its number of pages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Total {
    /// Nanoseconds.
    pub ns: u64,
    /// Pages.
    pub pages: u64,
}

impl Total {
    /// Returns the nanoseconds per page.
    pub fn per_page(self) -> f64 {
        self.ns as f64 / self.pages.max(1) as f64
    }

    /// Returns the time per page as a multiple of that of `other`; `None` if `other` took no time
    /// at all.
    pub fn ratio(self, other: Self) -> Option<f64> {
        (other.ns > 0).then(|| self.per_page() / other.per_page())
    }
}

/// Returns the middle sample, or the lower one of two; `None` if there is no sample.
fn median(samples: &[u64]) -> Option<u64> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len().checked_sub(1)? / 2).copied()
}

/// The content of a file: runs on one module.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Report {
    format: u32,
    /// The runs.
    pub runs: Vec<Run>,
}

impl Report {
    /// Creates a report of these runs.
    pub fn new(runs: Vec<Run>) -> Self {
        Self {
            format: FORMAT,
            runs,
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is not a report of this format, or contains no run.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let report: Self = serde_json::from_str(text)?;
        ensure!(
            report.format == FORMAT,
            "the format is {}, not {FORMAT}",
            report.format
        );
        ensure!(!report.runs.is_empty(), "there is no run in it");
        Ok(report)
    }

    /// Writes a file, or standard output if `path` is `-`.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn store(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        if path == Path::new("-") {
            io::stdout().write_all(text.as_bytes())?;
            return Ok(());
        }
        fs::write(path, text).with_context(|| path.display().to_string())
    }

    /// Returns the name of the module.
    pub fn module(&self) -> &str {
        self.runs.first().map_or("none", |run| &run.module)
    }

    /// Returns the total of an operation by a clock; `None` if it was not measured.
    pub fn total(&self, clock: Clock, key: &Key) -> Option<Total> {
        self.runs_by(clock).find_map(|run| run.total(key))
    }

    /// Returns the reason why an operation was not measured by a clock, if a run has recorded one.
    pub fn reason(&self, clock: Clock, key: &Key) -> Option<&str> {
        let mut records = self.runs_by(clock).flat_map(|run| &run.records);
        records.find_map(|record| match &record.outcome {
            Outcome::Skipped(reason) if record.key == *key => Some(reason.as_str()),
            _ => None,
        })
    }

    /// Returns the keys of all records by a clock, in the order of measurement.
    pub fn keys(&self, clock: Clock) -> impl Iterator<Item = &Key> {
        let records = self.runs_by(clock).flat_map(|run| &run.records);
        records.map(|record| &record.key)
    }

    fn runs_by(&self, clock: Clock) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(move |run| run.clock == clock)
    }
}

/// Reads files, and puts their runs into one report.
///
/// # Errors
///
/// If a file cannot be read, or they are of different modules.
pub fn join(files: &[PathBuf]) -> Result<Report> {
    let mut runs = Vec::new();
    for file in files {
        runs.extend(Report::load(file)?.runs);
    }
    join_runs(runs)
}

fn join_runs(runs: Vec<Run>) -> Result<Report> {
    let report = Report::new(runs);
    let other = report.runs.iter().find(|run| run.module != report.module());
    if let Some(other) = other {
        bail!("one run is on {}, one on {}", report.module(), other.module);
    }
    Ok(report)
}

/// Reports for tests.
#[cfg(test)]
pub mod tests {
    use super::*;

    /// Returns the key of an operation on 4 MiB of small pages.
    pub fn key(operation: &str) -> Key {
        Key {
            group: Group::Ops,
            operation: operation.to_owned(),
            memory: Memory::Small,
            at: 4 << 20,
        }
    }

    /// Returns a report of one run in which each operation took these samples for 4 pages.
    pub fn report(clock: Clock, operations: &[(&str, &[u64])]) -> Report {
        let records = operations.iter().map(|(operation, ns)| Record {
            key: key(operation),
            outcome: if ns.is_empty() {
                Outcome::Skipped("it did not work".to_owned())
            } else {
                Outcome::Measured {
                    pages: 4,
                    ns: ns.to_vec(),
                }
            },
        });
        Report::new(vec![Run {
            module: "dmirror".to_owned(),
            parameters: vec!["capacity=4".to_owned()],
            kernel: "7.3".to_owned(),
            cpus: 1,
            clock,
            records: records.collect(),
        }])
    }

    #[test]
    fn a_report_comes_back_from_json() {
        let before = report(Clock::Host, &[("READ", &[3, 1]), ("WRITE", &[])]);
        let text = serde_json::to_string(&before).unwrap();
        assert_eq!(Report::parse(&text).unwrap(), before);
    }

    #[test]
    fn another_format_is_refused() {
        let before = report(Clock::Host, &[("READ", &[3])]);
        let text = serde_json::to_string(&before).unwrap();
        let text = text.replace("\"format\":1", "\"format\":2");
        let error = Report::parse(&text).unwrap_err();
        assert_eq!(error.to_string(), "the format is 2, not 1");
    }

    #[test]
    fn a_report_without_a_run_is_refused() {
        let text = serde_json::to_string(&Report::new(Vec::new())).unwrap();
        assert!(Report::parse(&text).is_err());
    }

    #[test]
    fn the_median_stands_for_the_samples() {
        let total = |samples| {
            let report = report(Clock::Host, &[("READ", samples)]);
            report.total(Clock::Host, &key("READ"))
        };
        assert_eq!(total(&[9, 4, 7]), Some(Total { ns: 7, pages: 4 }));
        assert_eq!(total(&[9, 4, 5, 8]), Some(Total { ns: 5, pages: 4 }));
    }

    #[test]
    fn what_was_skipped_has_a_reason_and_no_total() {
        let report = report(Clock::Host, &[("READ", &[])]);
        assert_eq!(report.total(Clock::Host, &key("READ")), None);
        assert_eq!(
            report.reason(Clock::Host, &key("READ")),
            Some("it did not work")
        );
    }

    #[test]
    fn runs_on_two_modules_are_not_joined() {
        let runs = || report(Clock::Host, &[("READ", &[1])]).runs;
        let mut two: Vec<Run> = runs().into_iter().chain(runs()).collect();
        assert_eq!(join_runs(two.clone()).unwrap().runs.len(), 2);
        two[1].module = "test_hmm".to_owned();
        assert!(join_runs(two).is_err());
    }

    #[test]
    fn a_ratio_is_one_of_pages() {
        let ours = Total { ns: 300, pages: 2 };
        let theirs = Total { ns: 100, pages: 1 };
        assert_eq!(ours.ratio(theirs), Some(1.5));
        assert_eq!(ours.ratio(Total { ns: 0, pages: 1 }), None);
    }
}
