// SPDX-License-Identifier: GPL-2.0

//! Tests that bugs of fakes are found, and that the programs that show them are shrunk.

use super::Bug;
use super::Fake;
use crate::model::Model;
use crate::op::Step;
use crate::runner::Runner;
use crate::world::Failure;

/// Runs a program on a fake.
fn run(program: &[Step], bug: Bug) -> Result<(), Failure> {
    let mut model = Model::new(true, false);
    model.asynchronous = program.iter().any(|step| step.op.is_beside());
    let mut runner = Runner::new(model, Fake::new(bug));
    for step in program {
        runner.step(step)?;
    }
    runner.finish()
}

/// Returns the shortest program found that shows a bug.
fn shortest(bug: Bug) -> Vec<String> {
    let programs = (0..100).map(|seed| crate::generate::program(seed, 300));
    let found = programs
        .filter(|program| run(program, bug).is_err())
        .take(4)
        .map(|program| crate::shrink::shrink(&program, |part| run(part, bug).is_err()))
        .min_by_key(Vec::len)
        .unwrap_or_else(|| panic!("{bug:?} is found"));
    found.iter().map(ToString::to_string).collect()
}

#[test]
fn a_world_without_bugs_passes() {
    for seed in 0..20 {
        let program = crate::generate::program(seed, 400);
        assert_eq!(run(&program, Bug::None), Ok(()), "seed {seed}");
    }
}

#[test]
fn pages_of_an_atomic_job_in_flight_can_be_exclusive() {
    for seed in 0..200 {
        let program = format!(
            "parent map 0 small 8\nparent submit 0 0 0+8 1 {seed}\nparent CHECK_EXCLUSIVE 0 0 0+8"
        );
        let program = crate::op::parse_program(&program).expect("three steps");
        assert_eq!(run(&program, Bug::None), Ok(()), "seed {seed}");
    }
}

#[test]
fn each_bug_is_found_and_shrunk() {
    for (bug, most) in [
        (Bug::StaleAfterMove, 4),
        (Bug::WritesReadOnly, 3),
        (Bug::LeavesOne, 3),
        (Bug::Leaks, 3),
        (Bug::EngineWritesReadOnly, 4),
        (Bug::EngineGoesOn, 4),
        (Bug::LosesAddition, 2),
    ] {
        let program = shortest(bug);
        assert!(program.len() <= most, "{bug:?}: {program:#?}");
    }
}
