// SPDX-License-Identifier: GPL-2.0

//! Behaviour tests of the dmirror module: one case per behaviour. The report for people has one
//! line per theme on standard output; the one for machines is KTAP (version 1). The program runs on
//! any machine where the module is loaded. Cases that need more, such as root, skip and give the
//! reason.

mod buffer;
mod cases;
mod cgroup;
mod check;
mod context;
mod daemon;
mod disk;
mod exclusive;
mod inject;
mod ktap;
mod memory;
mod prelude;
mod reload;
mod report;
mod runner;
mod settings;
mod steps;
mod summary;
mod swapping;
mod tracing;
mod worker;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use dmirror_client::module::Loader;
use dmirror_client::{Module, page_size};

use crate::cases::Case;
use crate::context::Context;
use crate::daemon::StillKhugepaged;
use crate::ktap::Ktap;
use crate::report::Report;
use crate::summary::{Marks, Summary};

/// Behaviour tests of the dmirror module.
///
/// Exits with 0 if no case failed, with 1 otherwise.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Run only cases whose names contain one of these; `=NAME` is the case of
    /// exactly this name
    filter: Vec<String>,

    /// Run only a few cases of each theme, which take some ten seconds in all
    #[arg(long)]
    quick: bool,

    /// Report in KTAP, one line per case, for machines
    #[arg(long)]
    ktap: bool,

    /// Report in KTAP to a file, too
    #[arg(long, value_name = "FILE")]
    ktap_file: Option<PathBuf>,

    /// List the cases and run none; with --verbose, say what they look at
    #[arg(long)]
    list: bool,

    /// The device under test
    #[arg(long, value_name = "PATH", default_value = "/dev/hmm_dmirror0")]
    device: PathBuf,

    /// A second device of the same module
    #[arg(long, value_name = "PATH", default_value = "/dev/hmm_dmirror1")]
    second: PathBuf,

    /// The module's .ko file, for the cases that unload it; by default the
    /// program load-module, where it is on PATH
    #[arg(long, value_name = "PATH")]
    module: Option<PathBuf>,

    /// A parameter of the module for when it is loaded again with --module; by
    /// default those that /sys/module shows, where dmirror has none: name all that
    /// it was loaded with
    #[arg(long, value_name = "NAME=VALUE", requires = "module")]
    parameter: Vec<String>,

    /// Run each case so many times in a row
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,

    /// The most bytes that a CPU's fault brings back, a page to a huge page. Cases count
    /// single pages: with more than one some of them find others there.
    #[arg(long, value_name = "BYTES", default_value_t = page_size() as u32)]
    window: u32,

    /// Stop a case that takes longer, and call it failed
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..86400))]
    timeout: u64,

    /// Show what passing cases print, too, and how long they take
    #[arg(long, short)]
    verbose: bool,
}

impl Arguments {
    fn wants(&self, case: &Case) -> bool {
        let named = |filter: &String| match filter.strip_prefix('=') {
            Some(name) => name == case.name,
            None => case.name.contains(filter.as_str()),
        };
        (self.filter.is_empty() || self.filter.iter().any(named))
            && (!self.quick || case.is_quick())
    }

    fn reports(&self) -> Result<Vec<Box<dyn Report>>> {
        let mut reports: Vec<Box<dyn Report>> = vec![if self.ktap {
            Box::new(Ktap::new(io::stdout(), self.verbose))
        } else {
            let marks = Marks::of_environment();
            Box::new(Summary::new(anstream::stdout(), marks, self.verbose))
        }];
        if let Some(path) = &self.ktap_file {
            let file = File::create(path).with_context(|| path.display().to_string())?;
            reports.push(Box::new(Ktap::new(file, self.verbose)));
        }
        Ok(reports)
    }

    fn loader(&self) -> Option<Loader> {
        match &self.module {
            Some(path) => {
                let mut parameters = self.parameter.clone();
                if parameters.is_empty() {
                    parameters = Module::loaded().map_or(Vec::new(), |module| module.parameters());
                }
                Some(Loader::File {
                    path: path.clone(),
                    parameters,
                })
            }
            None => Loader::of_guest(),
        }
    }
}

/// Runs the cases that `arguments` select.
///
/// `subcommand` stands before the arguments on the command line of this program, if it is given:
/// some cases execute the program again.
pub fn run(arguments: &Arguments, subcommand: Option<&'static str>) -> ExitCode {
    context::set_subcommand(subcommand);
    let selected: Vec<&'static Case> = cases::all().filter(|case| arguments.wants(case)).collect();

    if arguments.list {
        let width = selected.iter().map(|case| case.name.len()).max();
        for case in selected {
            if arguments.verbose {
                println!(
                    "{:width$}  {}",
                    case.name,
                    case.about,
                    width = width.unwrap_or(0)
                );
            } else {
                println!("{}", case.name);
            }
        }
        return ExitCode::SUCCESS;
    }
    if selected.is_empty() {
        eprintln!("dmirror-selftest: no case matches; --list shows them all");
        return ExitCode::FAILURE;
    }

    let context = Context::new(
        arguments.device.clone(),
        arguments.second.clone(),
        arguments.loader(),
    );
    inject::use_window(arguments.window);
    let limits = runner::Limits {
        time: Duration::from_secs(arguments.timeout),
        repeat: arguments.repeat,
    };
    let _kept = match settings::Kept::now() {
        Ok(kept) => Some(kept),
        Err(error) => {
            eprintln!(
                "dmirror-selftest: the settings of the devices will not be put back: {error}"
            );
            None
        }
    };
    // If this fails, as it does without root, khugepaged may disturb cases.
    let _still = StillKhugepaged::start();
    let outcome = arguments
        .reports()
        .and_then(|mut reports| runner::run(&selected, &context, &limits, &mut reports));
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("dmirror-selftest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::*;

    #[test]
    fn arguments_make_sense() {
        Arguments::augment_args(clap::Command::new("selftest")).debug_assert();
    }

    #[test]
    fn filters_select_by_part_or_by_name() {
        let all = |filter: &[&str]| {
            let command = Arguments::augment_args(clap::Command::new("selftest"));
            let matches = command.get_matches_from([&["selftest"], filter].concat());
            let arguments = Arguments::from_arg_matches(&matches).unwrap();
            cases::all().filter(|case| arguments.wants(case)).count()
        };
        assert_eq!(all(&[]), cases::all().count());
        assert!(all(&["fork."]) > 1);
        assert_eq!(all(&["=migrate.one_page"]), 1);
        assert_eq!(all(&["=migrate."]), 0);
        assert!(all(&["--quick"]) >= cases::THEMES.len());
        assert!(all(&["--quick", "fork."]) < all(&["fork."]));
    }

    #[test]
    fn names_are_unique_and_plain() {
        let names: Vec<&str> = cases::all().map(|case| case.name).collect();
        for (index, name) in names.iter().enumerate() {
            assert!(
                name.bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._".contains(&byte)),
                "{name}"
            );
            assert!(!names[index + 1..].contains(name), "{name} twice");
        }
    }
}
