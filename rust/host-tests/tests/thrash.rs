// SPDX-License-Identifier: GPL-2.0

//! Tests of the detection of thrashing, `rust/dmirror/thrash.rs`.

use std::collections::VecDeque;

use proptest::prelude::*;

#[path = "../../dmirror/thrash.rs"]
mod thrash;

use thrash::{
    Limits, Thrashing,
    Verdict::{self, Move, Nap, Pin},
};

const LIMITS: Limits = Limits {
    events: 3,
    window_ns: 100,
    naps: 2,
    pin_ns: 1000,
};

/// Misses one granule at the given times; returns the verdicts.
fn verdicts(limits: Limits, times: &[u64]) -> Vec<Verdict> {
    let mut thrashing = Thrashing::default();
    let missed = |&now: &u64| thrashing.missed(512, now, &limits);
    times.iter().map(missed).collect()
}

#[test]
fn many_events_in_a_short_time_are_too_many() {
    #[rustfmt::skip]
    let table: [(&[u64], &[Verdict]); 8] = [
        (&[5], &[Move]),
        (&[5, 5, 5], &[Move, Move, Nap]),
        // The window includes its end.
        (&[5, 50, 105], &[Move, Move, Nap]),
        (&[5, 50, 106], &[Move, Move, Move]),
        // The event at 106 is the first one of another run.
        (&[5, 50, 106, 107, 108], &[Move, Move, Move, Move, Nap]),
        // Rare events are never too many.
        (&[0, 101, 202, 303, 404, 505, 606], &[Move; 7]),
        // After all naps, a pin follows, until its end.
        (&[0, 0, 0, 0, 0, 999, 1000], &[Move, Move, Nap, Nap, Pin, Pin, Move]),
        (&[0, 0, 0, 0, 0, 1000, 1000, 1000], &[Move, Move, Nap, Nap, Pin, Move, Move, Nap]),
    ];
    for (times, expected) in table {
        assert_eq!(verdicts(LIMITS, times), expected, "{times:?}");
    }
}

#[test]
fn naps_are_counted_over_runs_until_one_was_not_too_long() {
    // Each nap lasts longer than a run: the next miss begins another run.
    let times = [0, 1, 2, 200, 201, 202, 400, 401, 402];
    let expected = [Move, Move, Nap, Move, Move, Nap, Move, Move, Pin];
    assert_eq!(verdicts(LIMITS, &times), expected);
    // A run of two events comes in between.
    let times = [
        0, 1, 2, 200, 201, 400, 401, 402, 600, 601, 602, 800, 801, 802,
    ];
    let expected = [
        Move, Move, Nap, Move, Move, Move, Move, Nap, Move, Move, Nap, Move, Move, Pin,
    ];
    assert_eq!(verdicts(LIMITS, &times), expected);
}

#[test]
fn limits_at_their_ends() {
    let never = Limits {
        events: 0,
        ..LIMITS
    };
    assert_eq!(verdicts(never, &[0; 20]), [Move; 20]);
    let each = Limits {
        events: 1,
        ..LIMITS
    };
    assert_eq!(verdicts(each, &[0, 0, 0]), [Nap, Nap, Pin]);
    assert_eq!(verdicts(each, &[0, 101, 202, 203]), [Nap, Nap, Pin, Pin]);
    let second = Limits {
        events: 2,
        ..LIMITS
    };
    assert_eq!(verdicts(second, &[0, 0, 0, 0]), [Move, Nap, Nap, Pin]);
    let no_naps = Limits { naps: 0, ..LIMITS };
    assert_eq!(verdicts(no_naps, &[0; 4]), [Move, Move, Pin, Pin]);
    let no_pin = Limits {
        naps: 0,
        pin_ns: 0,
        ..LIMITS
    };
    assert_eq!(verdicts(no_pin, &[0, 0, 0, 0]), [Move, Move, Pin, Move]);
    let for_ever = Limits {
        naps: 0,
        pin_ns: u64::MAX,
        ..LIMITS
    };
    assert_eq!(
        verdicts(for_ever, &[9, 9, 9, u64::MAX - 1]),
        [Move, Move, Pin, Pin]
    );
    let no_time = Limits {
        window_ns: 0,
        ..LIMITS
    };
    assert_eq!(
        verdicts(no_time, &[0, 0, 1, 1, 1]),
        [Move, Move, Move, Move, Nap]
    );
}

#[test]
fn the_last_16_granules_are_watched() {
    for (others, expected) in [(0, Nap), (15, Nap), (16, Move), (17, Move)] {
        let mut thrashing = Thrashing::default();
        let mut miss = |first| thrashing.missed(first, 1, &LIMITS);
        assert_eq!([miss(0), miss(0)], [Move; 2]);
        for other in 1..=others {
            assert_eq!(miss(other), Move);
        }
        assert_eq!(miss(0), expected, "{others} others");
    }
}

#[test]
fn what_is_pinned_does_not_touch_others() {
    let mut thrashing = Thrashing::default();
    let seen: Vec<_> = (0..5).map(|_| thrashing.missed(0, 1, &LIMITS)).collect();
    assert_eq!(seen, [Move, Move, Nap, Nap, Pin]);
    assert_eq!(thrashing.missed(512, 1, &LIMITS), Move);
    assert_eq!(thrashing.missed(0, 2, &LIMITS), Pin);
}

#[test]
fn what_is_pinned_is_so_for_a_while_and_by_its_first_page() {
    let mut thrashing = Thrashing::default();
    let is_pinned = |thrashing: &Thrashing, now| {
        [0..4, 4..8, 5..512, 0..512, 0..0].map(|pages| thrashing.is_pinned(&pages, now))
    };
    assert_eq!(is_pinned(&thrashing, 0), [false; 5]);
    while thrashing.missed(4, 1, &LIMITS) != Pin {
        assert_eq!(is_pinned(&thrashing, 1), [false; 5]);
    }
    let end = 1 + LIMITS.pin_ns;
    for now in [1, end - 1] {
        assert_eq!(
            is_pinned(&thrashing, now),
            [false, true, false, true, false]
        );
    }
    assert_eq!(is_pinned(&thrashing, end), [false; 5]);
}

/// Checks that the device moves, naps and pins in turn: no verdict lasts for ever.
#[test]
fn each_verdict_comes_again() {
    for step in [0, 1, 30, 50, 99, 100] {
        let times: Vec<u64> = (0..4000).map(|nth| nth * step).collect();
        let seen = verdicts(LIMITS, &times);
        let limit = if step == 0 { &seen[..5] } else { &seen[..] };
        for verdict in [Move, Nap, Pin] {
            let is_there = limit.contains(&verdict);
            assert!(is_there || step > 50, "{verdict:?} with a step of {step}");
        }
    }
}

/// The watched granules, each with its whole history.
#[derive(Default)]
struct Model(VecDeque<Watched>);

struct Watched {
    first: usize,
    /// The times at which it was missed, except while it was pinned: runs of events, oldest first.
    runs: Vec<Vec<u64>>,
    /// Number of naps since the last pin, or since a run that was not too long.
    naps: u32,
    pin: Option<u64>,
}

impl Model {
    /// Decides according to the rules in the comments.
    fn missed(&mut self, first: usize, now: u64, limits: &Limits) -> Verdict {
        if limits.events == 0 {
            return Move;
        }
        if self.0.iter().all(|it| it.first != first) {
            if self.0.len() == 16 {
                // Pinned granules stay, and count as missed now.
                let is_pinned = |it: &Watched| it.pin.is_some_and(|pin| now < pin + limits.pin_ns);
                let free = self.0.iter().position(|it| !is_pinned(it)).unwrap_or(0);
                self.0.rotate_left(free);
                self.0.pop_front();
            }
            self.0.push_back(Watched {
                first,
                runs: vec![vec![]],
                naps: 0,
                pin: None,
            });
        }
        let known = self.0.iter_mut().find(|it| it.first == first);
        let Some(granule) = known else {
            panic!("it was just added");
        };
        if granule.pin.is_some_and(|pin| now < pin + limits.pin_ns) {
            return Pin;
        }
        let last = &granule.runs[granule.runs.len() - 1];
        if last
            .first()
            .is_some_and(|&since| now > since + limits.window_ns)
        {
            if last.len() < limits.events as usize {
                granule.naps = 0;
            }
            granule.runs.push(vec![]);
        }
        let last = granule.runs.len() - 1;
        granule.runs[last].push(now);
        if granule.runs[last].len() < limits.events as usize {
            return Move;
        }
        if granule.naps < limits.naps {
            granule.naps += 1;
            return Nap;
        }
        granule.naps = 0;
        granule.pin = Some(now);
        // The miss that caused the pin begins the next run, at the start of the old one.
        let since = granule.runs[last][0];
        granule.runs.push(vec![since]);
        Pin
    }
}

proptest! {
    #[test]
    fn verdicts_are_those_of_the_model(
        events in 0_u32..5, window_ns in 0_u64..60, naps in 0_u32..4,
        pin_ns in 0_u64..100, spread in prop_oneof![1_usize..4, 1_usize..20],
        steps in prop::collection::vec((0_usize..20, 0_u64..16), 1..300),
    ) {
        let limits = Limits { events, window_ns, naps, pin_ns };
        let mut thrashing = Thrashing::default();
        let mut model = Model::default();
        let mut now = 1;
        for (granule, pause) in steps {
            // Often the same few granules, so that they are missed again and again.
            let first = granule % spread * 512;
            now += pause / 2;
            let seen = thrashing.missed(first, now, &limits);
            prop_assert_eq!(seen, model.missed(first, now, &limits), "{} at {}", first, now);
        }
    }
}
