// SPDX-License-Identifier: GPL-2.0

//! Tests of the time slices of fetched pages, `rust/dmirror/slice.rs`.

use proptest::prelude::*;

#[path = "../../dmirror/slice.rs"]
mod slice;

use slice::{Slices, MAX_DOUBLED};

const SLICE: u64 = 1000;

/// Fetches one granule at the given times; returns the duration of each slice.
fn granted(times: &[u64]) -> Vec<u64> {
    let mut slices = Slices::default();
    let mut grant = |&now: &u64| slices.grant(7, now, SLICE) - now;
    times.iter().map(&mut grant).collect()
}

#[test]
fn a_granule_that_is_missed_again_too_soon_gets_twice_the_time() {
    #[rustfmt::skip]
    let table: [(&[u64], &[u64]); 7] = [
        (&[0], &[1000]),
        // A fetch counts as early up to one slice after the end of the last one.
        (&[0, 1000], &[1000, 2000]),
        (&[0, 2000], &[1000, 2000]),
        (&[0, 2001], &[1000, 1000]),
        // A slice is at most eight times as long.
        (&[0, 1000, 3000, 7000, 15000, 23000], &[1000, 2000, 4000, 8000, 8000, 8000]),
        // The end of the last, longer slice counts.
        (&[0, 1000, 4000, 9001], &[1000, 2000, 4000, 1000]),
        // The granule is fetched while its slice lasts.
        (&[5000, 5000, 5001], &[1000, 2000, 4000]),
    ];
    for (times, expected) in table {
        assert_eq!(granted(times), expected, "{times:?}");
    }
}

#[test]
fn a_slice_ends_no_earlier_than_the_one_before() {
    for step in [0, 1, 10, 999, 1000, 1001, 5000] {
        let mut slices = Slices::default();
        let mut last = 0;
        for nth in 0..40 {
            let now = 1 + nth * step;
            let until = slices.grant(3, now, SLICE);
            assert!(until >= last && until >= now + SLICE);
            assert!(until <= now + (SLICE << MAX_DOUBLED));
            last = until;
        }
    }
}

#[test]
fn granules_are_told_apart_and_the_last_16_are_remembered() {
    for (others, expected) in [(0, 2000), (1, 2000), (15, 2000), (16, 1000), (17, 1000)] {
        let mut slices = Slices::default();
        slices.grant(512, 1, SLICE);
        for other in 0..others {
            assert_eq!(slices.grant(1024 + other, 1, SLICE), 1001);
        }
        assert_eq!(slices.grant(512, 1, SLICE) - 1, expected, "{others} others");
    }
}

#[test]
fn time_does_not_wrap_around() {
    let mut slices = Slices::default();
    for _ in 0..6 {
        assert_eq!(slices.grant(0, u64::MAX - 5, SLICE), u64::MAX);
    }
}

proptest! {
    /// The model has the last 16 new granules, each with the times of all its fetches.
    #[test]
    fn grants_are_those_of_the_model(
        spread in 1_usize..20,
        steps in prop::collection::vec((0_usize..20, 0_u64..3000), 1..300),
    ) {
        let mut slices = Slices::default();
        let mut model: Vec<(usize, Vec<u64>)> = Vec::new();
        let mut now = 1;
        for (granule, pause) in steps {
            let first = granule % spread;
            now += pause;
            if model.iter().all(|(it, _)| *it != first) {
                model.push((first, Vec::new()));
                model.drain(..model.len().saturating_sub(16));
            }
            let known = model.iter_mut().find(|(it, _)| *it == first);
            let Some((_, granted)) = known else {
                panic!("it was just added");
            };
            // A run ends when more than one slice has passed since the last end.
            granted.push(now);
            let mut until = 0;
            let mut doubled = 0;
            for (nth, &at) in granted.iter().enumerate() {
                let goes_on = nth > 0 && at <= until + SLICE;
                doubled = if goes_on { doubled + 1 } else { 0 };
                until = at + SLICE * [1, 2, 4, 8][doubled.min(3)];
            }
            prop_assert_eq!(slices.grant(first, now, SLICE), until);
        }
    }
}
