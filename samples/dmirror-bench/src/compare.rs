// SPDX-License-Identifier: GPL-2.0

//! Comparison of two reports: the operations that got slower.

use anyhow::Result;
use anyhow::ensure;

use crate::report::Clock;
use crate::report::Report;

/// Returns a line for each operation and clock for which `new` takes more than `old`: more than
/// `threshold` percent more instructions, or, if `clock_threshold` is given, more than that many
/// percent more time.
///
/// # Errors
///
/// If no operation was measured in both reports by a clock that is compared.
pub fn compare(
    old: &Report,
    new: &Report,
    threshold: f64,
    clock_threshold: Option<f64>,
) -> Result<Vec<String>> {
    let thresholds = [
        (Clock::Instructions, Some(threshold)),
        (Clock::Host, clock_threshold),
    ];
    let mut compared = 0;
    let mut slower = Vec::new();
    for (clock, threshold) in thresholds {
        let Some(threshold) = threshold else { continue };
        for key in old.keys(clock) {
            let totals = old.total(clock, key).zip(new.total(clock, key));
            let Some((before, after)) = totals else {
                continue;
            };
            compared += 1;
            let percent = after
                .ratio(before)
                .map_or(0.0, |ratio| (ratio - 1.0) * 100.0);
            if percent > threshold {
                slower.push(format!(
                    "{clock}: {key}: {} per page, was {}: {percent:+.1} %",
                    clock.write(after.per_page()),
                    clock.write(before.per_page()),
                ));
            }
        }
    }
    ensure!(compared > 0, "nothing was measured in both files");
    Ok(slower)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    fn by(clock: Clock, read: u64, write: u64) -> Report {
        report(clock, &[("READ", &[read]), ("WRITE", &[write])])
    }

    #[test]
    fn says_what_got_slower_by_more_than_the_threshold() {
        let old = by(Clock::Instructions, 1000, 1000);
        let new = by(Clock::Instructions, 1040, 1060);
        assert_eq!(
            compare(&old, &new, 5.0, None).unwrap(),
            ["instructions: ops: WRITE, 4 KiB, 4 MiB: 265 per page, was 250: +6.0 %"]
        );
        assert!(compare(&old, &new, 7.0, None).unwrap().is_empty());
        assert!(compare(&new, &old, 0.0, None).unwrap().is_empty());
    }

    #[test]
    fn time_is_judged_on_request_only() {
        let old = by(Clock::Host, 1000, 1000);
        let new = by(Clock::Host, 1000, 2000);
        assert!(compare(&old, &new, 5.0, None).is_err());
        assert_eq!(compare(&old, &new, 5.0, Some(50.0)).unwrap().len(), 1);
    }

    #[test]
    fn files_with_nothing_in_common_are_an_error() {
        let old = report(Clock::Instructions, &[("READ", &[1])]);
        let new = report(Clock::Instructions, &[("WRITE", &[1])]);
        assert!(compare(&old, &new, 5.0, None).is_err());
    }
}
