// SPDX-License-Identifier: GPL-2.0

//! Waiting until the machine is idle.
//!
//! For some seconds after boot, kernel threads are busy, and operations take two or three times as
//! long.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;

const STEP: Duration = Duration::from_millis(500);

/// Minimum idle time of the processors in an idle step, in percent of the step.
const IDLE_PERCENT: u64 = 95;

/// Number of consecutive idle steps after which the machine counts as idle.
const IDLE_STEPS: usize = 2;

/// Maximum number of steps to wait.
const MOST_STEPS: usize = 120;

/// Waits until the processors are idle.
///
/// # Errors
///
/// If they are not idle after a minute, or `/proc/stat` cannot be read.
pub fn settle() -> Result<()> {
    let mut before = Ticks::now()?;
    let mut idle_steps = 0;
    for _ in 0..MOST_STEPS {
        thread::sleep(STEP);
        let now = Ticks::now()?;
        idle_steps = if now.is_idle_since(before) {
            idle_steps + 1
        } else {
            0
        };
        if idle_steps == IDLE_STEPS {
            return Ok(());
        }
        before = now;
    }
    bail!("the machine is busy with something else");
}

/// The time of all processors since boot.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Ticks {
    all: u64,
    idle: u64,
}

impl Ticks {
    fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat")?;
        Self::parse(&text).context("/proc/stat has no line of all processors")
    }

    /// Parses the line `cpu`: user, nice, system, idle, iowait, and more kinds of busy time.
    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Vec<u64> = line
            .split_whitespace()
            .map_while(|word| word.parse().ok())
            .collect();
        Some(Self {
            // Leave out the times of guests, which `user` and `nice` include.
            all: ticks.iter().take(8).sum(),
            idle: ticks.get(3)? + ticks.get(4)?,
        })
    }

    fn is_idle_since(self, before: Self) -> bool {
        let all = self.all.saturating_sub(before.all);
        let idle = self.idle.saturating_sub(before.idle);
        all > 0 && idle * 100 >= all * IDLE_PERCENT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_says() {
        let text = "cpu  3 1 426 8 2 0 5 0 7 7\ncpu0 3 1 426 8 2 0 5 0 7 7\n";
        assert_eq!(Ticks::parse(text), Some(Ticks { all: 445, idle: 10 }));
        assert_eq!(Ticks::parse("intr 1\n"), None);
    }

    #[test]
    fn idle_is_most_of_the_time() {
        let before = Ticks { all: 100, idle: 50 };
        let after = |all, idle| Ticks { all, idle }.is_idle_since(before);
        assert!(after(200, 145));
        assert!(!after(200, 144));
        assert!(!after(100, 50));
    }
}
