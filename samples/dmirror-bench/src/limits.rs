// SPDX-License-Identifier: GPL-2.0

//! Fixed limits on the ratios of instructions, ours to those of another module.

use std::fs;
use std::path::Path;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use serde::Deserialize;

use crate::report::Clock;
use crate::report::Group;
use crate::report::Key;
use crate::report::Memory;
use crate::report::Report;

/// The content of a file of limits.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    limit: Vec<Limit>,
}

/// The maximum ratio of an operation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limit {
    group: Group,
    operation: String,
    memory: Memory,
    ratio: f64,
}

impl Limit {
    fn is_for(&self, key: &Key) -> bool {
        self.group == key.group && self.operation == key.operation && self.memory == key.memory
    }
}

/// Reads a file of limits.
///
/// # Errors
///
/// If the file cannot be read, is not a file of limits, or contains no limit.
pub fn load(path: &Path) -> Result<Limits> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    parse(&text).with_context(|| path.display().to_string())
}

fn parse(text: &str) -> Result<Limits> {
    let limits: Limits = toml::from_str(text)?;
    ensure!(!limits.limit.is_empty(), "there is no limit in it");
    Ok(limits)
}

/// The result of each case of a check.
#[derive(Debug, Default)]
pub struct Verdict {
    cases: Vec<(bool, String)>,
}

impl Limits {
    /// Compares the ratios of two reports with the limits. A limit fails if its operation was not
    /// measured on both modules; an operation in `ours` without a limit fails, too.
    pub fn check(&self, ours: &Report, theirs: &Report) -> Verdict {
        let clock = Clock::Instructions;
        let mut verdict = Verdict::default();
        for limit in &self.limit {
            let key = ours.keys(clock).find(|key| limit.is_for(key));
            let ratio = key.and_then(|key| {
                let ours = ours.total(clock, key)?;
                ours.ratio(theirs.total(clock, key)?)
            });
            let name = format!("{}: {}, {}", limit.group, limit.operation, limit.memory);
            verdict.cases.push(match ratio {
                Some(ratio) => (
                    ratio <= limit.ratio,
                    format!("{name}: {ratio:.3} of at most {}", limit.ratio),
                ),
                None => (false, format!("{name}: was not measured on both modules")),
            });
        }
        for key in ours.keys(clock) {
            if !self.limit.iter().any(|limit| limit.is_for(key)) {
                verdict.cases.push((false, format!("{key}: has no limit")));
            }
        }
        verdict
    }
}

impl Verdict {
    /// Prints the cases and the totals, as all parts of `make test` do; returns whether all cases
    /// passed.
    pub fn print(&self) -> bool {
        for (passed, case) in &self.cases {
            println!("{}  {case}", if *passed { "passed" } else { "failed" });
        }
        let failed = self.cases.iter().filter(|(passed, _)| !passed).count();
        println!(
            "{} passed, {failed} failed, 0 skipped",
            self.cases.len() - failed
        );
        failed == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    const LIMITS: &str = r#"
        [[limit]]
        group = "ops"
        operation = "READ"
        memory = "small"
        ratio = 1.5
    "#;

    fn check(ours: &[(&str, &[u64])], theirs: &[(&str, &[u64])]) -> Vec<(bool, String)> {
        let by = |operations| report(Clock::Instructions, operations);
        parse(LIMITS).unwrap().check(&by(ours), &by(theirs)).cases
    }

    #[test]
    fn a_ratio_up_to_the_limit_passes() {
        let cases = check(&[("READ", &[150])], &[("READ", &[100])]);
        let line = "ops: READ, 4 KiB: 1.500 of at most 1.5".to_owned();
        assert_eq!(cases, [(true, line)]);
    }

    #[test]
    fn a_ratio_above_the_limit_fails() {
        assert!(!check(&[("READ", &[151])], &[("READ", &[100])])[0].0);
    }

    #[test]
    fn what_was_not_measured_fails() {
        assert!(!check(&[("READ", &[])], &[("READ", &[100])])[0].0);
        assert!(!check(&[("READ", &[1])], &[])[0].0);
    }

    #[test]
    fn what_has_no_limit_fails() {
        let both: &[(&str, &[u64])] = &[("READ", &[1]), ("WRITE", &[1])];
        let cases = check(both, both);
        assert_eq!(cases.len(), 2);
        assert!(cases[0].0);
        assert_eq!(
            cases[1],
            (false, "ops: WRITE, 4 KiB, 4 MiB: has no limit".to_owned())
        );
    }

    #[test]
    fn a_file_without_limits_is_refused() {
        assert!(parse("limit = []").is_err());
        assert!(parse(&LIMITS.replace("ratio", "ration")).is_err());
    }

    #[test]
    fn the_committed_limits_are_some() {
        assert!(parse(include_str!("../limits.toml")).is_ok());
    }
}
