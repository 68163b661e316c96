// SPDX-License-Identifier: GPL-2.0

//! What a run says of its cases. [`crate::ktap`] says it to machines,
//! [`crate::summary`] to people.

use std::io;
use std::time::Duration;

use crate::cases::Case;

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It passed.
    Passed,
    /// It failed.
    Failed,
    /// It cannot run here.
    Skipped,
    /// It shows a defect of the kernel which is known.
    Known,
}

/// What became of a case.
#[derive(Debug)]
pub struct Finding {
    /// The case.
    pub case: &'static Case,
    /// How it ended.
    pub outcome: Outcome,
    /// What it printed.
    pub text: String,
    /// How long it took.
    pub time: Duration,
}

impl Finding {
    /// Why the case was skipped, or what is known. What else it printed is in the
    /// lines before.
    pub fn reason(&self) -> &str {
        self.text.lines().last().unwrap_or("")
    }
}

/// How many cases came to which end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Cases that passed.
    pub passed: usize,
    /// Cases that failed.
    pub failed: usize,
    /// Cases that could not run here.
    pub skipped: usize,
    /// Cases that show a defect of the kernel which is known.
    pub known: usize,
}

impl Totals {
    /// Counts one more.
    pub fn add(&mut self, outcome: Outcome) {
        *match outcome {
            Outcome::Passed => &mut self.passed,
            Outcome::Failed => &mut self.failed,
            Outcome::Skipped => &mut self.skipped,
            Outcome::Known => &mut self.known,
        } += 1;
    }

    /// All of them.
    pub fn sum(&self) -> usize {
        self.passed + self.failed + self.skipped + self.known
    }
}

/// A report in progress: [`Report::start`], a finding for each case in their order,
/// [`Report::finish`].
pub trait Report {
    /// Begins. `notes` say what a reader should know about this run.
    fn start(&mut self, cases: &[&'static Case], notes: &[String]) -> io::Result<()>;

    /// Takes the next finding.
    fn finding(&mut self, finding: &Finding) -> io::Result<()>;

    /// Ends before all cases ran.
    fn bail_out(&mut self, reason: &str) -> io::Result<()>;

    /// Ends.
    fn finish(&mut self) -> io::Result<()>;
}

/// Several reports of one run.
impl Report for Vec<Box<dyn Report>> {
    fn start(&mut self, cases: &[&'static Case], notes: &[String]) -> io::Result<()> {
        self.iter_mut()
            .try_for_each(|report| report.start(cases, notes))
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        self.iter_mut()
            .try_for_each(|report| report.finding(finding))
    }

    fn bail_out(&mut self, reason: &str) -> io::Result<()> {
        self.iter_mut()
            .try_for_each(|report| report.bail_out(reason))
    }

    fn finish(&mut self) -> io::Result<()> {
        self.iter_mut().try_for_each(|report| report.finish())
    }
}
