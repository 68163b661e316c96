// SPDX-License-Identifier: GPL-2.0

//! Tests of the window of a CPU fault, `rust/dmirror/window.rs`.

use std::collections::BTreeSet;

use proptest::prelude::*;

#[path = "../../dmirror/window.rs"]
mod window;

use window::Windows;

const MOST: u32 = 9;

/// A program that touches pages of one address space, all of which are on the device at first.
struct Program {
    windows: Windows,
    most: u32,
    /// The pages that have come back.
    back: BTreeSet<usize>,
    touched: BTreeSet<usize>,
    faults: usize,
}

impl Program {
    fn new(most: u32) -> Self {
        Self {
            windows: Windows::default(),
            most,
            back: BTreeSet::new(),
            touched: BTreeSet::new(),
            faults: 0,
        }
    }

    fn touch(&mut self, page: usize) {
        self.touched.insert(page);
        if self.back.contains(&page) {
            return;
        }
        self.faults += 1;
        let order = self.windows.order_for(1, page, self.most);
        assert!(order <= self.most);
        let start = page >> order << order;
        self.back.extend(start..start + (1 << order));
    }

    /// Returns the number of pages that came back, but that the program has not touched.
    fn in_vain(&self) -> usize {
        self.back.difference(&self.touched).count()
    }
}

#[test]
fn the_first_fault_brings_one_page() {
    for page in [0, 1, 511, 512, usize::MAX >> 12] {
        assert_eq!(Windows::default().order_for(1, page, MOST), 0);
    }
}

#[test]
fn a_program_that_reads_on_has_few_faults() {
    let mut up = Program::new(MOST);
    let mut down = Program::new(MOST);
    for page in 0..16384 {
        up.touch(page);
        down.touch((1 << 20) | (16383 - page));
    }
    for program in [up, down] {
        assert!(program.faults <= 16384 / 512 + 10, "{}", program.faults);
        assert!(program.in_vain() < 512);
    }
}

#[test]
fn a_limit_of_one_page_is_one_page() {
    let mut program = Program::new(0);
    (0..100).for_each(|page| program.touch(page));
    assert_eq!((program.faults, program.in_vain()), (100, 0));
}

#[test]
fn programs_that_read_at_the_same_time_are_told_apart() {
    let mut windows = Windows::default();
    let mut orders = Vec::new();
    for nth in 0..4 {
        for space in 0..8 {
            for array in [0, 1 << 20] {
                let page = array + [0, 1, 2, 4][nth];
                orders.push((nth as u32, windows.order_for(space, page, MOST)));
            }
        }
    }
    assert!(orders.iter().all(|(nth, order)| nth == order), "{orders:?}");
}

#[test]
fn a_page_that_was_left_behind_does_not_widen_the_window() {
    let mut windows = Windows::default();
    assert_eq!(windows.order_for(1, 8, MOST), 0);
    assert_eq!(windows.order_for(1, 9, MOST), 1);
    for _ in 0..5 {
        assert_eq!(windows.order_for(1, 9, MOST), 1);
    }
}

#[test]
fn runs_begin_anew_with_another_limit() {
    let mut windows = Windows::default();
    let orders =
        |windows: &mut Windows, most| [0, 1, 2].map(|page| windows.order_for(1, page, most));
    for (most, expected) in [(9, [0, 1, 2]), (1, [0, 1, 1]), (9, [0, 1, 2]), (0, [0; 3])] {
        assert_eq!(orders(&mut windows, most), expected);
    }
}

proptest! {
    /// Checks that a program that jumps gets few pages that it does not touch.
    #[test]
    fn jumps_bring_little_in_vain(pages in prop::collection::vec(0_usize..1 << 22, 1..300)) {
        let mut program = Program::new(MOST);
        pages.iter().for_each(|&page| program.touch(page));
        prop_assert!(program.in_vain() <= program.touched.len() / 4 + 8);
    }

    /// Checks that the number of untouched pages that came back is bounded for any program.
    #[test]
    fn what_comes_in_vain_is_bounded(
        steps in prop::collection::vec((0_usize..1 << 14, 1_usize..200, 1_usize..4), 1..20)
    ) {
        let mut program = Program::new(MOST);
        for (start, count, stride) in &steps {
            for n in 0..*count {
                program.touch(start + n * stride);
            }
        }
        // A run skips at most two of three pages, and ends in a window of twice its earlier pages.
        let bound = 3 * 3 * program.touched.len() + steps.len();
        prop_assert!(program.in_vain() <= bound, "{} > {bound}", program.in_vain());
    }

    /// The model has the last 16 new runs, each with the pages of its last window.
    #[test]
    fn orders_are_those_of_the_model(
        most in 0_u32..6,
        steps in prop::collection::vec((0_usize..3, 0_usize..40, 0_usize..8), 1..300),
    ) {
        let mut windows = Windows::default();
        let mut runs: Vec<(usize, BTreeSet<usize>)> = vec![(usize::MAX, BTreeSet::new()); 16];
        let mut oldest = 0;
        for (space, far, near) in steps {
            let page = 1000 + far * 32 + near;
            let is_near = |(of, pages): &(usize, BTreeSet<usize>)| {
                let distance = pages.iter().map(|it| it.abs_diff(page)).min();
                *of == space && distance.is_some_and(|distance| distance <= pages.len())
            };
            let (place, order) = match runs.iter().position(is_near) {
                Some(place) => {
                    let order = runs[place].1.len().ilog2();
                    let is_new = !runs[place].1.contains(&page);
                    (place, (order + u32::from(is_new)).min(most))
                }
                None => {
                    oldest += 1;
                    ((oldest - 1) % 16, 0)
                }
            };
            let start = page >> order << order;
            runs[place] = (space, (start..start + (1 << order)).collect());
            prop_assert_eq!(windows.order_for(space, page, most), order);
        }
    }
}
