// SPDX-License-Identifier: GPL-2.0

//! Tests of the set of pages of a window, `rust/dmirror/pageset.rs`, compared with one of `std`.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

#[path = "../src/pages.rs"]
#[allow(dead_code, reason = "some tests use a part")]
mod pages;

#[path = "../../dmirror/pageset.rs"]
mod pageset;

use pages::BLOCK_PAGES as PAGES;
use pageset::PageSet;

fn set_of(pages: impl IntoIterator<Item = usize>) -> PageSet {
    let mut set = PageSet::EMPTY;
    for nth in pages {
        set.insert(nth);
    }
    set
}

/// Returns all runs, in order.
fn runs(set: &PageSet, end: usize) -> Vec<(usize, usize)> {
    let mut runs = Vec::new();
    let mut from = 0;
    while let Some(run) = set.run(from, end) {
        from = run.end;
        runs.push((run.start, run.end));
    }
    runs
}

#[test]
fn a_new_set_has_no_page() {
    let set = PageSet::EMPTY;
    assert_eq!(set.len(), 0);
    assert_eq!(set.run(0, PAGES), None);
    assert!(!set.contains(0) && !set.contains(PAGES - 1) && !set.contains(usize::MAX));
}

#[test]
fn pages_beyond_the_window_are_left_out() {
    let set = set_of([PAGES, PAGES + 1, usize::MAX]);
    assert_eq!(set, PageSet::EMPTY);
}

#[test]
fn a_full_set_is_one_run() {
    let set = set_of(0..PAGES);
    assert_eq!(set.len(), PAGES);
    assert_eq!(set.run(0, PAGES), Some(0..PAGES));
    assert_eq!(set.run(100, 200), Some(100..200));
    assert_eq!(set.run(PAGES - 1, PAGES), Some(PAGES - 1..PAGES));
    assert_eq!(set.run(PAGES, PAGES), None);
    // A run ends at the end of the window.
    assert_eq!(set.run(0, usize::MAX), Some(0..PAGES));
}

#[test]
fn runs_cross_words_and_end_before_gaps() {
    let set = set_of((62..67).chain([69]).chain(127..129).chain([PAGES - 1]));
    let expected = [(62, 67), (69, 70), (127, 129), (PAGES - 1, PAGES)];
    assert_eq!(runs(&set, PAGES), expected);
    assert_eq!(set.run(64, PAGES), Some(64..67));
    assert_eq!(runs(&set, 128), [(62, 67), (69, 70), (127, 128)]);
}

proptest! {
    #[test]
    fn a_set_is_what_was_put_into_it(pages in vec(0..PAGES + 8, 0..700), end in 0..=PAGES) {
        let model: BTreeSet<_> = pages.iter().copied().filter(|&nth| nth < PAGES).collect();
        let set = set_of(pages);
        prop_assert_eq!(set.len(), model.len());
        for nth in 0..PAGES + 8 {
            prop_assert_eq!(set.contains(nth), model.contains(&nth));
        }
        let in_runs: Vec<_> = runs(&set, end).into_iter().flat_map(|(from, end)| from..end).collect();
        let expected: Vec<_> = model.range(..end).copied().collect();
        prop_assert_eq!(in_runs, expected);
        for pair in runs(&set, end).windows(2) {
            prop_assert!(pair[0].1 < pair[1].0, "runs {:?} are one", pair);
        }
    }
}

#[test]
fn the_first_pages_are_those_and_no_others() {
    for npages in [0, 1, 63, 64, 65, 511, PAGES, PAGES + 1] {
        assert_eq!(PageSet::first(npages), set_of(0..npages.min(PAGES)));
    }
}
