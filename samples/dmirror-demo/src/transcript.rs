// SPDX-License-Identifier: GPL-2.0

//! The transcript: steps, aligned lines of facts, checks, a summary. Colours
//! appear on a terminal only.

use std::fmt::Display;
use std::time::Instant;

use anstream::println;
use owo_colors::OwoColorize;

/// The result of one step.
#[derive(Debug)]
struct Step {
    title: String,
    checks: usize,
    failures: usize,
}

/// A transcript in progress, on standard output.
#[derive(Debug)]
pub struct Transcript {
    start: Instant,
    steps: Vec<Step>,
}

impl Transcript {
    /// Creates an empty transcript.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            steps: Vec::new(),
        }
    }

    /// Writes the headline and the lines that belong to it.
    pub fn headline(&self, title: &str, lines: &[(&str, String)]) {
        println!("{}", title.bold());
        for (label, text) in lines {
            self.fact(label, text);
        }
    }

    /// Begins a step.
    pub fn step(&mut self, title: impl Into<String>) {
        let title = title.into();
        println!();
        println!(
            "{} {}",
            format!("{}.", self.steps.len() + 1).cyan().bold(),
            title.bold()
        );
        self.steps.push(Step {
            title,
            checks: 0,
            failures: 0,
        });
    }

    /// Writes a labelled line.
    pub fn fact(&self, label: &str, text: impl Display) {
        println!("   {:9}{text}", label.dimmed());
    }

    /// Writes the result of a check: the finding if it passed, the expected and the
    /// seen value if it failed.
    pub fn check(&mut self, label: &str, result: Result<String, String>) {
        if let Some(step) = self.steps.last_mut() {
            step.checks += 1;
            step.failures += usize::from(result.is_err());
        }
        match result {
            Ok(found) => self.fact(label, format_args!("{found}  {}", "ok".green())),
            Err(wrong) => self.fact(label, format_args!("{} {wrong}", "FAILED".red().bold())),
        }
    }

    /// Ends the transcript before its last step, because of `error`.
    pub fn abort(&mut self, error: &str) {
        if self.steps.is_empty() {
            self.step("Begin");
        }
        self.check("error", Err(error.to_owned()));
    }

    /// Writes the summary; returns whether all checks passed.
    pub fn summary(&self) -> bool {
        println!();
        println!("{}", "Summary".bold());
        let width = self
            .steps
            .iter()
            .map(|step| step.title.len())
            .max()
            .unwrap_or(0);
        for (number, step) in self.steps.iter().enumerate() {
            let passed = step.checks - step.failures;
            let score = format!("{passed} of {} checks", step.checks);
            let verdict = if step.failures == 0 {
                "ok".green().to_string()
            } else {
                "FAILED".red().bold().to_string()
            };
            println!(
                "   {:>2}. {:width$}  {score:>14}  {verdict}",
                number + 1,
                step.title
            );
        }
        let checks: usize = self.steps.iter().map(|step| step.checks).sum();
        let failures: usize = self.steps.iter().map(|step| step.failures).sum();
        let time = self.start.elapsed().as_secs_f32();
        println!();
        if failures == 0 {
            println!(
                "   {}",
                format!("All {checks} checks passed in {time:.1} s.")
                    .green()
                    .bold()
            );
        } else {
            println!(
                "   {}",
                format!("{failures} of {checks} checks failed.")
                    .red()
                    .bold()
            );
        }
        failures == 0
    }
}
