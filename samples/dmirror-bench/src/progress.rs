// SPDX-License-Identifier: GPL-2.0

//! The current measurement, on standard error: a bar on a terminal, lines elsewhere.

use std::env;

use anyhow::Result;
use indicatif::ProgressBar;
use indicatif::ProgressStyle;

/// The progress of a run. Nothing is drawn while something is being measured.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Creates the progress of a run of `steps` steps.
    ///
    /// # Errors
    ///
    /// The error of an invalid template of the bar; the template is fixed and valid.
    pub fn new(steps: usize) -> Result<Self> {
        let bar = ProgressBar::new(steps as u64);
        // A guest's serial port is a terminal that cannot draw.
        let draws = !bar.is_hidden() && env::var_os("TERM").is_some_and(|term| term != "dumb");
        let style = ProgressStyle::with_template("{elapsed_precise} {bar:20} {pos}/{len} {msg}")?;
        bar.set_style(style);
        Ok(Self {
            bar: draws.then_some(bar),
        })
    }

    /// Shows the next operation, or a note about it.
    pub fn say(&self, what: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(what.to_owned());
                bar.tick();
            }
            None => eprintln!("{what}"),
        }
    }

    /// Records that a step has ended.
    pub fn step(&self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    /// Removes the bar after the last step.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
