// SPDX-License-Identifier: GPL-2.0

//! `dmirror move`: moves memory of a process to a device, or back. The process need not have a
//! device open: this program makes the process open it, for a moment.

use std::io::Write;

use anyhow::Context as _;
use anyhow::Result;
use clap::Args;
use clap::ValueEnum;
use dmirror_client::PageRange;
use dmirror_client::attach;
use dmirror_client::map::ProcessMap;
use dmirror_client::page_size;
use dmirror_run::scan::Scan;

use crate::needs;
use crate::ranges;
use crate::ranges::Part;
use crate::words;

/// The arguments of `dmirror move`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The process; it stops for a moment
    pid: i32,

    /// Its memory
    #[arg(help = ranges::HELP)]
    range: Part,

    /// Where to
    #[arg(value_enum)]
    to: Side,

    /// The device: N of /dev/hmm_dmirrorN
    #[arg(long, value_name = "N", default_value_t = 0)]
    device: u32,
}

/// The destination of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Side {
    /// The memory of the device
    Device,
    /// System memory
    System,
}

impl Arguments {
    /// Moves the memory, and prints the number of pages that moved.
    pub fn run(&self) -> Result<()> {
        needs::module()?;
        let path = needs::device(self.device)?.path();
        let map = ProcessMap::look(self.pid).context("cannot look at the process")?;
        let ranges = self.range.ranges(&map)?;
        let space = attach::open_in(self.pid, &path).with_context(|| {
            let shown = path.display();
            format!("cannot open {shown} in process {}", self.pid)
        })?;
        let ranges = match self.to {
            // Absent pages stay absent.
            Side::Device => clipped(&Scan::of(self.pid)?.here, &ranges),
            Side::System => ranges,
        };
        let (mut moved, mut failures) = (0, Vec::new());
        let mut view = vec![0; dmirror_run::scan::block() as usize * page_size()];
        for range in ranges {
            let answer = match self.to {
                Side::Device => space.device.migrate_to_device(range, &mut view),
                Side::System => space.device.migrate_to_system(range),
            };
            match answer {
                Ok(counts) => moved += counts.pages,
                Err(error) => {
                    // Some pages stay; the output says how many have moved.
                    moved += error.counts.unwrap_or_default().pages;
                    failures.push(error);
                }
            }
        }
        let (pages, shown) = (words::count(moved, "page"), path.display());
        let mut out = std::io::stdout();
        match self.to {
            Side::Device => writeln!(out, "{shown}: {pages} are there now")?,
            Side::System => writeln!(out, "{shown}: {pages} came back")?,
        }
        match failures.first() {
            None => Ok(()),
            Some(error) => {
                let count = words::count(failures.len() as u64, "part");
                Err(*error).with_context(|| format!("of {count} some pages stayed"))
            }
        }
    }
}

/// Returns the parts of `runs` that lie in one of `ranges`.
fn clipped(runs: &[PageRange], ranges: &[PageRange]) -> Vec<PageRange> {
    let parts = runs.iter().flat_map(|run| {
        ranges.iter().filter_map(|range| {
            let start = run.addr().max(range.addr());
            let end = run.end().min(range.end());
            let pages = end.checked_sub(start)? / page_size() as u64;
            PageRange::new(start, pages).ok()
        })
    });
    parts.filter(|part| part.pages() > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_clipped_to_ranges() {
        let page = page_size() as u64;
        let range = |start: u64, pages| PageRange::new(start * page, pages).unwrap();
        let runs = [range(2, 4), range(8, 1), range(16, 8)];
        let wanted = [range(0, 3), range(4, 5), range(30, 2)];
        let expected = [range(2, 1), range(4, 2), range(8, 1)];
        assert_eq!(clipped(&runs, &wanted), expected);
        assert_eq!(clipped(&runs, &[range(0, 64)]), runs);
        assert_eq!(clipped(&[], &wanted), []);
    }
}
