// SPDX-License-Identifier: GPL-2.0

//! Tests of the access counters, `rust/dmirror/hits.rs`.

use std::cell::Cell;

use proptest::prelude::*;

#[path = "../src/pages.rs"]
#[allow(dead_code, reason = "some tests use a part")]
mod pages;

#[path = "../../dmirror/hits.rs"]
mod hits;

use hits::{Hits, Number};
use pages::BLOCK_PAGES as BLOCK;

impl Number for Cell<usize> {
    fn zero() -> Self {
        Self::new(0)
    }

    fn count(&self) -> usize {
        self.set(self.get().wrapping_add(1));
        self.get()
    }

    fn get(&self) -> usize {
        self.get()
    }

    fn replace(&self, value: usize) -> usize {
        self.replace(value)
    }
}

fn hits() -> Hits<Cell<usize>> {
    Hits::default()
}

#[test]
fn a_block_is_hot_with_so_many_accesses_and_not_before() {
    for limit in [1, 2, 3, 256] {
        let hits = hits();
        for round in 0..3 {
            for nth in 1..limit {
                hits.count(BLOCK + nth as usize, limit);
                assert_eq!(
                    hits.take_hot(),
                    None,
                    "{limit}, round {round}, access {nth}"
                );
            }
            hits.count(2 * BLOCK - 1, limit);
            assert_eq!(
                hits.take_hot(),
                Some(2 * BLOCK - 1),
                "{limit}, round {round}"
            );
            assert_eq!(hits.take_hot(), None, "{limit}, round {round}");
        }
    }
}

#[test]
fn a_lower_limit_holds_from_the_next_access_on() {
    let hits = hits();
    for _ in 0..10 {
        hits.count(BLOCK, 100);
    }
    hits.count(BLOCK, 5);
    assert_eq!(hits.take_hot(), Some(BLOCK));
}

#[test]
fn blocks_64_apart_share_a_counter() {
    for (distance, expected) in [(1, None), (63, None), (64, Some(65 * BLOCK))] {
        let hits = hits();
        hits.count(BLOCK, 2);
        hits.count((1 + distance) * BLOCK, 2);
        assert_eq!(hits.take_hot(), expected, "{distance}");
    }
}

proptest! {
    /// The model has all accesses since the counter began, and the last block that got hot.
    #[test]
    fn hot_is_what_the_model_says(
        limit in 1_u32..6,
        steps in prop::collection::vec((1_usize..100 * BLOCK, prop::bool::weighted(0.2)), 1..400),
    ) {
        let hits = hits();
        let mut since: Vec<usize> = Vec::new();
        let mut hot = None;
        for (page, takes) in steps {
            let counter = |page: usize| page / BLOCK % 64;
            since.push(page);
            let same = since.iter().filter(|&&other| counter(other) == counter(page)).count();
            if same >= limit as usize {
                since.retain(|&other| counter(other) != counter(page));
                hot = Some(page);
            }
            hits.count(page, limit);
            if takes {
                prop_assert_eq!(hits.take_hot(), hot.take());
            }
        }
        prop_assert_eq!(hits.take_hot(), hot);
    }
}
