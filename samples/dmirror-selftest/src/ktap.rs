// SPDX-License-Identifier: GPL-2.0

//! Reports in KTAP, version 1 (Documentation/dev-tools/ktap.rst of the kernel).

use std::io;
use std::io::Write;

use crate::cases::Case;
use crate::report::{Finding, Outcome, Report, Totals};

/// A report in KTAP.
#[derive(Debug)]
pub struct Ktap<W> {
    out: W,
    verbose: bool,
    totals: Totals,
}

impl<W: Write> Ktap<W> {
    /// Creates a report that goes to `out`; if `verbose`, with the output of passing cases.
    pub fn new(out: W, verbose: bool) -> Self {
        Self {
            out,
            verbose,
            totals: Totals::default(),
        }
    }

    /// Writes diagnostic lines.
    fn diagnostic(&mut self, text: &str) -> io::Result<()> {
        text.lines()
            .try_for_each(|line| writeln!(self.out, "# {line}"))
    }
}

impl<W: Write> Report for Ktap<W> {
    fn start(&mut self, cases: &[&'static Case], notes: &[String]) -> io::Result<()> {
        writeln!(self.out, "KTAP version 1\n1..{}", cases.len())?;
        notes.iter().try_for_each(|note| self.diagnostic(note))?;
        self.out.flush()
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        let case = finding.case;
        let (result, directive) = match finding.outcome {
            Outcome::Passed => ("ok", String::new()),
            Outcome::Failed => ("not ok", String::new()),
            Outcome::Skipped => ("ok", format!(" # SKIP {}", finding.reason())),
            Outcome::Known => ("ok", format!(" # XFAIL {}", finding.reason())),
        };
        match finding.outcome {
            Outcome::Passed if self.verbose => {
                self.diagnostic(&finding.text)?;
                self.diagnostic(&format!("took {:.1?}", finding.time))?;
            }
            Outcome::Failed => {
                self.diagnostic(&finding.text)?;
                self.diagnostic(case.about)?;
            }
            _ => {}
        }
        self.totals.add(finding.outcome);
        let number = self.totals.sum();
        writeln!(self.out, "{result} {number} {}{directive}", case.name)?;
        self.out.flush()
    }

    fn bail_out(&mut self, reason: &str) -> io::Result<()> {
        writeln!(self.out, "Bail out! {reason}")?;
        self.out.flush()
    }

    /// Writes the totals, as kselftest does.
    fn finish(&mut self) -> io::Result<()> {
        let Totals {
            passed,
            failed,
            skipped,
            known,
        } = self.totals;
        writeln!(
            self.out,
            "# Totals: pass:{passed} fail:{failed} xfail:{known} xpass:0 skip:{skipped} error:0"
        )?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn a_case(name: &'static str) -> &'static Case {
        Box::leak(Box::new(Case {
            name,
            about: "What it is about.",
            run: |_| Ok(()),
        }))
    }

    #[test]
    fn writes_what_the_specification_shows() -> io::Result<()> {
        let mut out = Vec::new();
        let findings = [
            ("a.b", Outcome::Passed, "unheard"),
            ("a.c", Outcome::Failed, "first\nsecond"),
            ("a.d", Outcome::Skipped, "more\nneeds root"),
            ("a.e", Outcome::Known, "it is so"),
        ]
        .map(|(name, outcome, text)| Finding {
            case: a_case(name),
            outcome,
            text: text.to_owned(),
            time: Duration::from_millis(1234),
        });
        let mut report = Ktap::new(&mut out, false);
        report.start(
            &findings.each_ref().map(|finding| finding.case),
            &["a note".to_owned()],
        )?;
        findings
            .iter()
            .try_for_each(|finding| report.finding(finding))?;
        report.finish()?;
        let expected = "KTAP version 1\n1..4\n# a note\nok 1 a.b\n\
            # first\n# second\n# What it is about.\nnot ok 2 a.c\n\
            ok 3 a.d # SKIP needs root\nok 4 a.e # XFAIL it is so\n\
            # Totals: pass:1 fail:1 xfail:1 xpass:0 skip:1 error:0\n";
        assert_eq!(String::from_utf8_lossy(&out), expected);
        Ok(())
    }
}
