// SPDX-License-Identifier: GPL-2.0

//! Reports for people: one line per theme when the theme is done, and failures in full under it.
//! Colours appear on a terminal only.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;
use std::{env, io};

use owo_colors::{OwoColorize, Style};

use crate::cases;
use crate::cases::{Case, THEMES};
use crate::report::{Finding, Outcome, Report, Totals};

/// The marks of themes and cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// Signs, for terminals that show them.
    Signs,
    /// Words.
    Words,
}

impl Marks {
    /// Returns the marks that fit the terminal, by the environment.
    pub fn of_environment() -> Self {
        let get = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(get);
        Self::choose(get("TERM"), get("NO_COLOR"), locale)
    }

    /// Returns signs, or words if the terminal is a plain one, `NO_COLOR` is set, or the character
    /// set is not UTF-8.
    fn choose(term: Option<String>, no_color: Option<String>, locale: Option<String>) -> Self {
        let locale = locale.unwrap_or_default().to_ascii_lowercase();
        let utf8 = locale.ends_with("utf-8") || locale.ends_with("utf8");
        if utf8 && no_color.is_none() && term.is_some_and(|term| term != "dumb") {
            Self::Signs
        } else {
            Self::Words
        }
    }

    fn mark(self, outcome: Outcome) -> String {
        let (sign, word, style) = match outcome {
            Outcome::Passed => ("✓", "ok  ", Style::new().green()),
            Outcome::Failed => ("✗", "FAIL", Style::new().red().bold()),
            Outcome::Skipped | Outcome::Known => ("–", "skip", Style::new().dimmed()),
        };
        match self {
            Self::Signs => sign.style(style).to_string(),
            Self::Words => word.style(style).to_string(),
        }
    }
}

/// The results of a theme so far.
#[derive(Debug, Default)]
struct Progress {
    left: usize,
    totals: Totals,
    time: Duration,
    /// Lines under the line of the theme.
    details: String,
    /// The reason of the last skip.
    reason: String,
}

/// A report for people.
#[derive(Debug)]
pub struct Summary<W> {
    out: W,
    marks: Marks,
    verbose: bool,
    themes: BTreeMap<&'static str, Progress>,
    totals: Totals,
    time: Duration,
}

impl<W: Write> Summary<W> {
    /// Creates a report that goes to `out`; if `verbose`, with a line for each case, too.
    pub fn new(out: W, marks: Marks, verbose: bool) -> Self {
        Self {
            out,
            marks,
            verbose,
            themes: BTreeMap::new(),
            totals: Totals::default(),
            time: Duration::ZERO,
        }
    }

    /// Returns the lines for one case under the line of its theme.
    fn details(&self, finding: &Finding) -> String {
        let name = finding.case.name;
        let mark = self.marks.mark(finding.outcome);
        let mut text = String::new();
        let heading = match finding.outcome {
            Outcome::Failed => format!("{}: {}", name.bold(), finding.case.about),
            Outcome::Passed if self.verbose => name.to_owned(),
            Outcome::Skipped if self.verbose => format!("{name}: skipped: {}", finding.reason()),
            Outcome::Known if self.verbose => format!("{name}: known: {}", finding.reason()),
            _ => return text,
        };
        text += &format!("    {mark} {heading} ({})\n", seconds(finding.time));
        if matches!(finding.outcome, Outcome::Passed | Outcome::Failed) {
            for line in finding.text.lines() {
                text += &format!("        {line}\n");
            }
        }
        text
    }
}

/// Returns the line of a theme and the lines under it.
fn paragraph(marks: Marks, name: &str, about: &str, progress: &Progress) -> String {
    let Progress {
        totals,
        time,
        details,
        reason,
        ..
    } = progress;
    let outcome = match *totals {
        Totals { failed: 1.., .. } => Outcome::Failed,
        Totals { passed: 1.., .. } => Outcome::Passed,
        _ => Outcome::Skipped,
    };
    // With --verbose the details contain the reason.
    let because = if outcome == Outcome::Skipped && details.is_empty() {
        format!("    {reason}\n")
    } else {
        String::new()
    };
    format!(
        "{} {name:9}  {about:44} {:>7}  {}\n{because}{details}",
        marks.mark(outcome),
        seconds(*time),
        counts(*totals),
    )
}

fn counts(totals: Totals) -> String {
    let Totals {
        passed,
        failed,
        skipped,
        known,
    } = totals;
    let all = [
        (passed, "passed"),
        (failed, "failed"),
        (skipped, "skipped"),
        (known, "known"),
    ];
    let some: Vec<String> = all
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    some.join(", ")
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f32())
}

impl<W: Write> Report for Summary<W> {
    fn start(&mut self, cases: &[&'static Case], notes: &[String]) -> io::Result<()> {
        for case in cases {
            self.themes.entry(case.theme()).or_default().left += 1;
        }
        writeln!(
            self.out,
            "{}",
            format!(
                "dmirror selftest: {} of {} cases, {} of {} themes",
                cases.len(),
                cases::all().count(),
                self.themes.len(),
                THEMES.len()
            )
            .bold()
        )?;
        for note in notes {
            writeln!(self.out, "   {note}")?;
        }
        writeln!(self.out)?;
        self.out.flush()
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        self.totals.add(finding.outcome);
        self.time += finding.time;
        let name = finding.case.theme();
        let details = self.details(finding);
        let progress = self.themes.entry(name).or_default();
        progress.left = progress.left.saturating_sub(1);
        progress.totals.add(finding.outcome);
        progress.time += finding.time;
        progress.details += &details;
        if matches!(finding.outcome, Outcome::Skipped | Outcome::Known) {
            progress.reason = finding.reason().to_owned();
        }
        if progress.left == 0 {
            let theme = THEMES.iter().find(|theme| theme.name == name);
            let about = theme.map_or("", |theme| theme.about);
            let text = paragraph(self.marks, name, about, progress);
            self.out.write_all(text.as_bytes())?;
            self.out.flush()?;
        }
        Ok(())
    }

    fn bail_out(&mut self, reason: &str) -> io::Result<()> {
        let mark = self.marks.mark(Outcome::Failed);
        writeln!(self.out, "{mark} no case ran: {reason}")?;
        self.out.flush()
    }

    fn finish(&mut self) -> io::Result<()> {
        let line = format!("{} in {}", counts(self.totals), seconds(self.time));
        let style = match self.totals.failed {
            0 => Style::new().green().bold(),
            _ => Style::new().red().bold(),
        };
        writeln!(self.out, "\n{}", line.style(style))?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use anstream::StripStream;

    use super::*;

    fn find(name: &str) -> &'static Case {
        cases::all().find(|case| case.name == name).unwrap()
    }

    fn finding(name: &str, outcome: Outcome, text: &str) -> Finding {
        Finding {
            case: find(name),
            outcome,
            text: text.to_owned(),
            time: Duration::from_millis(240),
        }
    }

    /// Returns the lines of a report after its headline.
    fn lines_of(findings: &[Finding], marks: Marks, verbose: bool) -> Vec<String> {
        let cases: Vec<&'static Case> = findings.iter().map(|finding| finding.case).collect();
        let mut out = StripStream::new(Vec::new());
        let mut report = Summary::new(&mut out, marks, verbose);
        report.start(&cases, &["a note".to_owned()]).unwrap();
        for finding in findings {
            report.finding(finding).unwrap();
        }
        report.finish().unwrap();
        let text = String::from_utf8(out.into_inner()).unwrap();
        text.lines().skip(3).map(str::to_owned).collect()
    }

    fn some() -> [Finding; 5] {
        [
            finding("migrate.one_page", Outcome::Passed, "unheard"),
            finding("migrate.zero_page", Outcome::Skipped, "needs root"),
            finding("fork.child_exit", Outcome::Failed, "first\nsecond"),
            finding("fork.parent_exit", Outcome::Passed, ""),
            finding("nth.open", Outcome::Skipped, "noise\nno fail-nth"),
        ]
    }

    #[test]
    fn a_theme_has_a_line_and_failures_are_told_under_it() {
        let lines = lines_of(&some(), Marks::Signs, false);
        assert_eq!(
            lines,
            [
                "✓ migrate    pages go to the device and come back           0.5 s  1 passed, 1 skipped",
                "✗ fork       processes share pages on the device            0.5 s  1 passed, 1 failed",
                &format!(
                    "    ✗ fork.child_exit: {} (0.2 s)",
                    find("fork.child_exit").about
                ),
                "        first",
                "        second",
                "– nth        each allocation fails once                     0.2 s  1 skipped",
                "    no fail-nth",
                "",
                "2 passed, 1 failed, 2 skipped in 1.2 s",
            ]
        );
    }

    #[test]
    fn words_do_where_signs_do_not() {
        let lines = lines_of(&some(), Marks::Words, false);
        let marks = ["ok   ", "FAIL ", "    FAIL ", "     ", "     ", "skip "];
        for (line, mark) in lines.iter().zip(marks) {
            assert!(line.starts_with(mark) && line.is_ascii(), "{line}");
        }
    }

    #[test]
    fn verbose_shows_each_case() {
        let lines = lines_of(&some()[..2], Marks::Signs, true);
        assert_eq!(
            lines[1..4],
            [
                "    ✓ migrate.one_page (0.2 s)",
                "        unheard",
                "    – migrate.zero_page: skipped: needs root (0.2 s)",
            ]
        );
    }

    #[test]
    fn what_is_known_is_no_failure() {
        let known = [finding("nth.open", Outcome::Known, "it is so")];
        let lines = lines_of(&known, Marks::Signs, false);
        assert!(lines[0].starts_with('–') && lines[0].ends_with("1 known"));
    }

    #[test]
    fn all_lines_fit_into_their_columns() {
        for theme in THEMES {
            assert!(theme.name.len() <= 9 && theme.about.len() <= 44);
        }
    }

    #[test]
    fn the_terminal_decides_on_signs() {
        let choose = |term: &str, no_color: &str, locale: &str| {
            let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            Marks::choose(some(term), some(no_color), some(locale))
        };
        assert_eq!(choose("xterm", "", "C.UTF-8"), Marks::Signs);
        assert_eq!(choose("xterm", "", "de_DE.utf8"), Marks::Signs);
        assert_eq!(choose("dumb", "", "C.UTF-8"), Marks::Words);
        assert_eq!(choose("", "", "C.UTF-8"), Marks::Words);
        assert_eq!(choose("xterm", "1", "C.UTF-8"), Marks::Words);
        assert_eq!(choose("xterm", "", "C"), Marks::Words);
        assert_eq!(choose("xterm", "", ""), Marks::Words);
    }
}
