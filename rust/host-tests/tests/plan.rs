// SPDX-License-Identifier: GPL-2.0

//! Tests of the plan of a step to the device, `rust/dmirror/plan.rs`.

#[path = "../src/pages.rs"]
#[allow(dead_code, reason = "some tests use a part")]
mod pages;

#[path = "../../dmirror/plan.rs"]
mod plan;

use pages::BLOCK_PAGES as WINDOW;
use plan::{Next, Outcome, Plan, ReserveRequest, WhenFull};
use plan::{DRAIN_EVERY, FAULT_IDLE_PASSES, IDLE_PASSES, MAX_PASSES};
use proptest::prelude::*;

/// The model: the same decisions, written as a loop over variables.
struct Model {
    huge: bool,
    block: bool,
    small_holes: bool,
    wanted: (bool, usize, bool),
}

impl Model {
    fn new(npages: usize, takes_large: bool) -> Self {
        let block = takes_large && npages == WINDOW;
        Self {
            huge: takes_large,
            block,
            small_holes: false,
            wanted: (block, if block { 0 } else { npages }, false),
        }
    }

    /// Returns whether the next pass comes after a pause, or `None` if no pass follows.
    fn after(&mut self, outcome: &Outcome, missing: usize) -> Option<bool> {
        if missing == 0 {
            return None;
        }
        if outcome.is_shared {
            self.huge = false;
            self.block = false;
            self.wanted = (false, missing, true);
            return Some(false);
        }
        if outcome.lacks_block || outcome.lacking > 0 {
            self.wanted = (outcome.lacks_block, outcome.lacking, true);
            return Some(false);
        }
        if outcome.hole_stays {
            self.small_holes = true;
        }
        let block = self.block && missing == WINDOW;
        self.wanted = (block, if block { 0 } else { missing }, false);
        Some(true)
    }

    fn agrees(&self, plan: &Plan) -> bool {
        let ReserveRequest {
            block,
            pages,
            when_full,
        } = plan.request;
        self.wanted == (block, pages, when_full == WhenFull::Evict)
            && (self.huge, self.small_holes) == (plan.keeps_large, plan.small_holes)
    }
}

fn outcome() -> impl Strategy<Value = Outcome> {
    (
        any::<[bool; 4]>(),
        prop_oneof![3 => Just(0), 1 => 1..=WINDOW],
    )
        .prop_map(
            |([lacks_block, is_shared, hole_stays, batches], lacking)| Outcome {
                moved: 1,
                lacks_block,
                is_shared,
                lacking,
                hole_stays,
                may_be_in_batches: batches,
            },
        )
}

fn plan_of(next: Next) -> Option<(Plan, bool)> {
    match next {
        Next::Done => None,
        Next::Again(plan) => Some((plan, false)),
        Next::AfterPause { plan, .. } => Some((plan, true)),
    }
}

proptest! {
    #[test]
    fn it_decides_as_the_model_does(
        npages in prop_oneof![Just(WINDOW), 1..=WINDOW],
        takes_large: bool,
        passes in prop::collection::vec((outcome(), 0..=WINDOW), 0..16),
    ) {
        let mut plan = Plan::first(npages, takes_large);
        let mut model = Model::new(npages, takes_large);
        prop_assert!(model.agrees(&plan));
        for (outcome, missing) in passes {
            let next = plan_of(plan.next(&outcome, missing));
            let expected = model.after(&outcome, missing);
            prop_assert_eq!(next.map(|(_, pause)| pause), expected);
            let Some((after, _)) = next else { break };
            prop_assert!(model.agrees(&after));
            plan = after;
        }
    }

    #[test]
    fn huge_pages_that_were_given_up_stay_given_up(
        passes in prop::collection::vec((outcome(), 1..=WINDOW), 1..16),
    ) {
        let mut plan = Plan::first(WINDOW, true);
        let mut given_up = false;
        for (outcome, missing) in passes {
            let Some((after, pause)) = plan_of(plan.next(&outcome, missing)) else { break };
            given_up |= outcome.is_shared;
            prop_assert_eq!(after.keeps_large, !given_up);
            // A pass after a pause takes only free pages; a pass without one evicts others.
            prop_assert_eq!(after.request.when_full == WhenFull::TakeWhatIsFree, pause);
            // A pass that requests no pages would move none.
            prop_assert!(after.request.block || after.request.pages > 0 || outcome.lacking == 0);
            plan = after;
        }
    }

    #[test]
    fn what_cannot_move_evicts_nobody(missing in 1..=WINDOW, hole_stays: bool, batches: bool) {
        let outcome = Outcome { hole_stays, may_be_in_batches: batches, ..Outcome::default() };
        let (after, pause) = plan_of(Plan::first(WINDOW, true).next(&outcome, missing)).unwrap();
        prop_assert!(pause);
        prop_assert_eq!(after.request.when_full, WhenFull::TakeWhatIsFree);
        prop_assert_eq!(after.small_holes, hole_stays);
    }
}

#[test]
fn a_window_asks_for_a_block_and_less_for_its_pages() {
    for (npages, takes_large, block, pages) in [
        (WINDOW, true, true, 0),
        (WINDOW, false, false, WINDOW),
        (WINDOW - 1, true, false, WINDOW - 1),
        (1, true, false, 1),
    ] {
        let plan = Plan::first(npages, takes_large);
        let request = ReserveRequest {
            block,
            pages,
            when_full: WhenFull::TakeWhatIsFree,
        };
        assert_eq!((plan.request, plan.keeps_large), (request, takes_large));
        assert_eq!(plan.next(&Outcome::default(), 0), Next::Done);
    }
}

/// Returns the number of passes if all have the same outcome, and the indices of those after which
/// mm is made to drop its references.
fn passes(outcome: &Outcome) -> (usize, Vec<usize>) {
    let mut plan = Plan::first(WINDOW, true);
    let mut drained = Vec::new();
    for pass in 0.. {
        match plan.next(outcome, 1) {
            Next::Done => return (pass + 1, drained),
            Next::Again(after) => plan = after,
            Next::AfterPause { plan: after, drain } => {
                if drain {
                    drained.push(pass);
                }
                plan = after;
            }
        }
    }
    unreachable!()
}

#[test]
fn it_is_patient_while_pages_move() {
    let idle = Outcome::default();
    assert_eq!(passes(&idle), (IDLE_PASSES, vec![]));
    for evicts in [false, true] {
        let busy = Outcome {
            moved: 1,
            lacking: usize::from(evicts),
            ..idle
        };
        assert_eq!(passes(&busy), (MAX_PASSES, vec![]));
    }
    let batches = Outcome {
        may_be_in_batches: true,
        ..idle
    };
    assert_eq!(passes(&batches), (IDLE_PASSES, vec![0, DRAIN_EVERY]));
}

#[test]
fn a_page_that_moved_makes_it_patient_again() {
    let idle = Outcome::default();
    let busy = Outcome { moved: 1, ..idle };
    let mut plan = Plan::first(WINDOW, true);
    for pass in 0..3 * IDLE_PASSES {
        let outcome = if pass % (IDLE_PASSES - 1) == 0 {
            &busy
        } else {
            &idle
        };
        plan = plan_of(plan.next(outcome, 1)).unwrap().0;
    }
}

#[test]
fn a_device_fault_gives_up_sooner_and_decides_the_same_until_then() {
    let idle = Outcome::default();
    for npages in [1, WINDOW] {
        let (mut plan, mut fault) = (
            Plan::first(npages, true),
            Plan::first(npages, true).for_fault(),
        );
        for _ in 1..FAULT_IDLE_PASSES {
            let (next, drain) = plan_of(plan.next(&idle, 1)).unwrap();
            let (next_of_fault, drain_of_fault) = plan_of(fault.next(&idle, 1)).unwrap();
            assert_eq!(
                (drain, next.request),
                (drain_of_fault, next_of_fault.request)
            );
            (plan, fault) = (next, next_of_fault);
        }
        assert_eq!(fault.next(&idle, 1), Next::Done);
        assert_ne!(plan.next(&idle, 1), Next::Done);
    }
}
