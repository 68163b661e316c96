// SPDX-License-Identifier: GPL-2.0

//! The results of a run. [`crate::ktap`] reports them to machines, [`crate::summary`] to people.

use std::io;
use std::time::Duration;

use crate::cases::Case;

/// The outcome of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The case passed.
    Passed,
    /// The case failed.
    Failed,
    /// The case cannot run here.
    Skipped,
    /// The case shows a known defect of the kernel.
    Known,
}

/// The result of a case.
#[derive(Debug)]
pub struct Finding {
    /// The case.
    pub case: &'static Case,
    /// The outcome of the case.
    pub outcome: Outcome,
    /// The output of the case.
    pub text: String,
    /// The time that the case took.
    pub time: Duration,
}

impl Finding {
    /// Returns the reason for the skip, or the known defect: the last line of the output. The lines
    /// before it hold the rest of the output.
    pub fn reason(&self) -> &str {
        self.text.lines().last().unwrap_or("")
    }
}

/// The number of cases for each outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Cases that passed.
    pub passed: usize,
    /// Cases that failed.
    pub failed: usize,
    /// Cases that could not run here.
    pub skipped: usize,
    /// Cases that show a known defect of the kernel.
    pub known: usize,
}

impl Totals {
    /// Counts one more case.
    pub fn add(&mut self, outcome: Outcome) {
        *match outcome {
            Outcome::Passed => &mut self.passed,
            Outcome::Failed => &mut self.failed,
            Outcome::Skipped => &mut self.skipped,
            Outcome::Known => &mut self.known,
        } += 1;
    }

    /// Returns the number of all cases.
    pub fn sum(&self) -> usize {
        self.passed + self.failed + self.skipped + self.known
    }
}

/// A report in progress: [`Report::start`], [`Report::finding`] for each case in their order,
/// [`Report::finish`].
pub trait Report {
    /// Begins the report. `notes` tell a reader about this run.
    fn start(&mut self, cases: &[&'static Case], notes: &[String]) -> io::Result<()>;

    /// Reports the next finding.
    fn finding(&mut self, finding: &Finding) -> io::Result<()>;

    /// Ends the report before all cases ran.
    fn bail_out(&mut self, reason: &str) -> io::Result<()>;

    /// Ends the report.
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
