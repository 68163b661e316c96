// SPDX-License-Identifier: GPL-2.0

//! The summary of a run, in words.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::fmt::Write;
use std::io;
use std::time::Duration;

use dmirror_client::Stats;
use dmirror_client::attach::Exit;
use dmirror_client::page_size;

use crate::device::Settings;

/// The address spaces of the program, counted while it runs.
#[derive(Debug)]
pub struct Summary {
    program: OsString,
    reached: usize,
    missed: Vec<(i32, String)>,
}

impl Summary {
    /// Creates an empty summary.
    pub fn new(program: &OsStr) -> Self {
        Self {
            program: program.to_owned(),
            reached: 0,
            missed: Vec::new(),
        }
    }

    /// Counts one more address space in which the device was opened.
    pub fn reached(&mut self) {
        self.reached += 1;
    }

    /// Records a process in which the device could not be opened.
    pub fn missed(&mut self, pid: i32, error: &io::Error) {
        self.missed.push((pid, error.to_string()));
    }

    /// Returns the text.
    ///
    /// # Errors
    ///
    /// The error of reading the statistics.
    pub fn text(
        &self,
        settings: &Settings,
        exit: Exit,
        took: Duration,
        before: Option<Stats>,
        peak: u64,
    ) -> io::Result<String> {
        let mut text = format!("\ndmirror run: {} ", self.program.to_string_lossy());
        let _ = match exit {
            Exit::Status(0) => writeln!(text, "ran for {took:.1?}"),
            Exit::Status(status) => writeln!(text, "exited with {status} after {took:.1?}"),
            Exit::Signal(signal) => writeln!(text, "was ended by signal {signal} after {took:.1?}"),
        };
        let _ = writeln!(text, "  address spaces     {:>10}", self.reached);
        for (pid, why) in &self.missed {
            let _ = writeln!(text, "  not reached        {pid:>10}  {why}");
        }
        let (Some(before), Some(after)) = (before, settings.stats()?) else {
            let _ = writeln!(text, "  only root can see what moved (debugfs)");
            return Ok(text);
        };
        let name = settings.name();
        lines(&mut text, name, settings.memory(), after - before, peak);
        Ok(text)
    }
}

fn mib(pages: u64) -> f64 {
    (pages * page_size() as u64) as f64 / f64::from(1 << 20)
}

fn lines(text: &mut String, name: &str, memory: u64, done: Stats, peak: u64) {
    let mut moved = |what: &str, pages: u64, causes: &[(&str, u64)]| {
        let causes: Vec<String> = (causes.iter())
            .filter(|(_, pages)| *pages > 0)
            .map(|(cause, pages)| format!("{pages} {cause}"))
            .collect();
        let mib = mib(pages);
        let line = format!(
            "  {what:<18} {pages:>10} pages  {mib:>9.1} MiB  {}",
            causes.join(", ")
        );
        let _ = writeln!(text, "{}", line.trim_end());
    };
    moved(
        "moved out",
        done.out(),
        &[
            ("by request", done.out_request),
            ("by device faults", done.out_device_fault),
        ],
    );
    moved(
        "came back",
        done.back(),
        &[
            ("by CPU faults", done.back_cpu_fault),
            ("evicted", done.back_eviction),
            ("by request", done.back_request),
            ("for a write of the device", done.back_device_fault),
            ("released", done.back_release),
        ],
    );
    moved("freed there", done.freed, &[]);
    moved("most at a time", peak, &[]);
    let size = memory >> 20;
    let _ = writeln!(
        text,
        "  faults             {:>10} of CPUs, {} of the device",
        done.cpu_faults,
        done.fault_posted + done.device_faults
    );
    let _ = writeln!(
        text,
        "  on {name}, which has {size} MiB and counts what others do as well"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_that_did_not_occur_are_left_out() {
        let mut text = String::new();
        let done = Stats {
            out_request: 512,
            back_cpu_fault: 256,
            back_eviction: 128,
            cpu_faults: 3,
            ..Stats::default()
        };
        lines(&mut text, "hmm_dmirror0", 64 << 20, done, 300);
        assert!(
            text.contains("moved out                 512 pages        2.0 MiB  512 by request\n")
        );
        assert!(text.contains("  384 pages        1.5 MiB  256 by CPU faults, 128 evicted\n"));
        assert!(text.contains("freed there                 0 pages        0.0 MiB\n"));
        assert!(text.contains("3 of CPUs"));
    }
}
