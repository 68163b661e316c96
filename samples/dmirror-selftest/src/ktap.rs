// SPDX-License-Identifier: GPL-2.0

//! Writes KTAP, version 1 (Documentation/dev-tools/ktap.rst of the kernel).

use std::io;
use std::io::Write;

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

/// A report in progress.
#[derive(Debug)]
pub struct Report<W: Write> {
    out: W,
    totals: Totals,
}

impl<W: Write> Report<W> {
    /// A report that goes to `out`.
    pub fn new(out: W) -> Self {
        Self {
            out,
            totals: Totals::default(),
        }
    }

    /// Writes the version and the plan.
    pub fn start(&mut self, cases: usize) -> io::Result<()> {
        writeln!(self.out, "KTAP version 1\n1..{cases}")?;
        self.out.flush()
    }

    /// Writes diagnostic lines.
    pub fn diagnostic(&mut self, text: &str) -> io::Result<()> {
        for line in text.lines() {
            writeln!(self.out, "# {line}")?;
        }
        self.out.flush()
    }

    /// Writes the result of a case that passed.
    pub fn pass(&mut self, name: &str) -> io::Result<()> {
        self.totals.passed += 1;
        self.result("ok", name, "")
    }

    /// Writes the result of a case that failed.
    pub fn fail(&mut self, name: &str) -> io::Result<()> {
        self.totals.failed += 1;
        self.result("not ok", name, "")
    }

    /// Writes the result of a case that could not run.
    pub fn skip(&mut self, name: &str, reason: &str) -> io::Result<()> {
        self.totals.skipped += 1;
        let reason = reason.replace('\n', " ");
        self.result("ok", name, &format!(" # SKIP {reason}"))
    }

    /// Writes the result of a case that shows a defect of the kernel which is known.
    pub fn known(&mut self, name: &str, reason: &str) -> io::Result<()> {
        self.totals.known += 1;
        let reason = reason.replace('\n', " ");
        self.result("ok", name, &format!(" # XFAIL {reason}"))
    }

    fn result(&mut self, result: &str, name: &str, directive: &str) -> io::Result<()> {
        let Totals {
            passed,
            failed,
            skipped,
            known,
        } = self.totals;
        writeln!(
            self.out,
            "{result} {} {name}{directive}",
            passed + failed + skipped + known
        )?;
        self.out.flush()
    }

    /// Ends the report before its plan is done.
    pub fn bail_out(&mut self, reason: &str) -> io::Result<()> {
        writeln!(self.out, "Bail out! {reason}")?;
        self.out.flush()
    }

    /// Writes the totals, as kselftest does, and returns them.
    pub fn finish(&mut self) -> io::Result<Totals> {
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
        self.out.flush()?;
        Ok(self.totals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_the_specification_shows() -> io::Result<()> {
        let mut out = Vec::new();
        let mut report = Report::new(&mut out);
        report.start(4)?;
        report.pass("a.b")?;
        report.diagnostic("first\nsecond")?;
        report.fail("a.c")?;
        report.skip("a.d", "needs\nroot")?;
        report.known("a.e", "it is so")?;
        let totals = report.finish()?;
        assert_eq!(
            totals,
            Totals {
                passed: 1,
                failed: 1,
                skipped: 1,
                known: 1
            }
        );
        let expected = "KTAP version 1\n1..4\nok 1 a.b\n# first\n# second\nnot ok 2 a.c\n\
            ok 3 a.d # SKIP needs root\nok 4 a.e # XFAIL it is so\n\
            # Totals: pass:1 fail:1 xfail:1 xpass:0 skip:1 error:0\n";
        assert_eq!(String::from_utf8_lossy(&out), expected);
        Ok(())
    }
}
