// SPDX-License-Identifier: GPL-2.0

//! Tests of one behaviour each, which the name of the test states.

use std::ops::Range;

use crate::nodes::left;
use crate::nodes::Counted;
use crate::nodes::Nodes;
use crate::table::Access;
use crate::table::Entry;
use crate::table::NoSpare;
use crate::table::Table;
use crate::table::END;
use crate::table::FANOUT;
use crate::table::MAX_SPARES;

/// The first pages that do not share a node of a level with page 0.
const LEVEL1: usize = FANOUT;
const LEVEL2: usize = FANOUT * FANOUT;
const LEVEL3: usize = FANOUT * LEVEL2;
const LEVEL4: usize = FANOUT * LEVEL3;

/// A table that gets all the spares that a change may need.
struct Bench {
    nodes: Nodes,
    table: Table<Counted>,
}

fn bench() -> Bench {
    let nodes = Nodes::default();
    let table = nodes.table();
    Bench { nodes, table }
}

fn entry(pfn: usize) -> Entry {
    Entry {
        pfn,
        access: Access::Write,
    }
}

impl Bench {
    /// Returns the number of nodes, without those that are kept for reuse.
    fn live(&self) -> usize {
        self.nodes.live() - self.table.emptied()
    }

    /// Maps a page; returns the number of nodes that this took, kept ones and spares.
    #[track_caller]
    fn set(&mut self, page: usize, entry: Entry) -> usize {
        let mut spares = self.nodes.spares(MAX_SPARES);
        let kept = self.table.emptied();
        assert_eq!(self.table.set(page, entry, &mut spares), Ok(()));
        MAX_SPARES - left(&spares) + kept - self.table.emptied()
    }

    /// Maps a run; returns the number of nodes that this took, kept ones and spares.
    #[track_caller]
    fn set_run(&mut self, page: usize, entry: Entry) -> usize {
        let mut spares = self.nodes.spares(MAX_SPARES);
        let kept = self.table.emptied();
        assert_eq!(self.table.set_run(page, entry, &mut spares), Ok(()));
        MAX_SPARES - left(&spares) + kept - self.table.emptied()
    }

    /// Returns the mapped pages of the range.
    fn mapped(&self, pages: Range<usize>) -> Vec<usize> {
        pages
            .filter(|&page| self.table.get(page).is_some())
            .collect()
    }
}

// Mapping pages.

#[test]
fn a_new_table_maps_nothing() {
    let bench = bench();
    for page in [0, 1, LEVEL1, LEVEL4, END - 1, END, usize::MAX] {
        assert_eq!(bench.table.get(page), None);
    }
    assert_eq!(bench.table.find(0..usize::MAX), None);
    assert_eq!(bench.live(), 1);
}

#[test]
fn a_page_is_mapped_alone() {
    for page in [0, 1, 511, LEVEL1, LEVEL2 - 1, LEVEL3, LEVEL4, END - 1] {
        let mut bench = bench();
        bench.set(page, entry(7));
        assert_eq!(bench.table.get(page), Some(entry(7)), "page {page:#x}");
        assert_eq!(bench.table.get(page.wrapping_sub(1)), None);
        assert_eq!(bench.table.get(page + 1), None);
        for far in [LEVEL1, LEVEL2, LEVEL3, LEVEL4] {
            assert_eq!(bench.table.get(page ^ far), None, "{page:#x} and {far:#x}");
        }
    }
}

#[test]
fn an_entry_is_replaced_without_a_node() {
    let mut bench = bench();
    bench.set(3, entry(7));
    let other = Entry {
        pfn: 8,
        access: Access::Read,
    };
    assert_eq!(bench.set(3, other), 0);
    assert_eq!(bench.table.get(3), Some(other));
    bench.table.clear(3..4, || ());
    assert_eq!(bench.table.get(3), None);
    assert_eq!(bench.live(), 1);
}

#[test]
fn each_kind_of_access_is_kept() {
    let mut bench = bench();
    for access in [Access::Read, Access::Write, Access::Exclusive] {
        let entry = Entry { pfn: 1, access };
        bench.set(5, entry);
        bench.set_run(LEVEL1, entry);
        assert_eq!(bench.table.get(5), Some(entry));
        assert_eq!(bench.table.get(LEVEL1), Some(entry));
    }
}

#[test]
fn a_page_past_the_end_is_refused() {
    for page in [END, END + 1, END + FANOUT, 2 * END, usize::MAX] {
        let mut bench = bench();
        let mut spares = bench.nodes.spares(MAX_SPARES);
        let answer = bench.table.set(page, entry(7), &mut spares);
        assert_eq!((answer, left(&spares)), (Err(NoSpare), MAX_SPARES));
        assert_eq!(bench.table.get(page), None);
        assert_eq!(bench.table.find(0..usize::MAX), None);
    }
}

// Nodes.

#[test]
fn the_first_page_takes_all_spares_and_its_neighbours_none() {
    let mut bench = bench();
    assert_eq!(bench.set(0, entry(7)), MAX_SPARES);
    assert_eq!(bench.set(FANOUT - 1, entry(8)), 0);
    assert_eq!(bench.live(), 1 + MAX_SPARES);
}

#[test]
fn a_page_takes_a_node_for_each_level_that_it_does_not_share() {
    let mut bench = bench();
    bench.set(0, entry(7));
    assert_eq!(bench.set(LEVEL1, entry(8)), 1);
    assert_eq!(bench.set(LEVEL2, entry(8)), 2);
    assert_eq!(bench.set(LEVEL3, entry(8)), 3);
    assert_eq!(bench.set(LEVEL4, entry(8)), 4);
    assert_eq!(bench.live(), 1 + MAX_SPARES + 1 + 2 + 3 + 4);
}

#[test]
fn a_run_takes_a_node_less_than_a_page() {
    let mut bench = bench();
    assert_eq!(bench.set_run(0, entry(7)), MAX_SPARES - 1);
    assert_eq!(bench.set_run(LEVEL1, entry(7)), 0);
    assert_eq!(bench.set_run(LEVEL2, entry(7)), 1);
}

#[test]
fn too_few_spares_change_no_mapping() {
    for page in [0, LEVEL2 + 3, END - 1] {
        for count in 0..MAX_SPARES {
            let mut bench = bench();
            let mut spares = bench.nodes.spares(count);
            let answer = bench.table.set(page, entry(7), &mut spares);
            assert_eq!(answer, Err(NoSpare), "{count} spares");
            assert_eq!(bench.table.find(0..END), None);
            // Spares that are now in the table are freed with the pages.
            drop(spares);
            bench.table.clear(page..page + 1, || ());
            assert_eq!(bench.live(), 1, "{count} spares");
        }
    }
}

#[test]
fn a_run_stays_when_there_is_no_node_to_break_it() {
    let mut bench = bench();
    bench.set_run(0, entry(1000));
    let mut none = bench.nodes.spares(0);
    assert_eq!(bench.table.set(5, entry(7), &mut none), Err(NoSpare));
    assert_eq!(bench.table.get(5), Some(entry(1005)));
    assert_eq!(bench.mapped(0..FANOUT).len(), FANOUT);
}

#[test]
fn clearing_frees_each_node_that_it_empties() {
    let mut bench = bench();
    bench.set(0, entry(7));
    bench.set(1, entry(7));
    bench.set(LEVEL1, entry(7));
    bench.set(LEVEL4, entry(7));
    let steps = [(0, 10), (1, 9), (LEVEL4, 5), (LEVEL1, 1)];
    for (page, nodes) in steps {
        bench.table.clear(page..page + 1, || ());
        assert_eq!(bench.live(), nodes, "after page {page:#x}");
    }
}

#[test]
fn dropping_a_table_frees_all_nodes() {
    let mut bench = bench();
    for page in [0, LEVEL1, LEVEL2, LEVEL3, LEVEL4, END - 1] {
        bench.set(page, entry(7));
    }
    bench.set_run(5 * LEVEL1, entry(7));
    drop(bench.table);
    assert_eq!(bench.nodes.live(), 0);
}

// Runs.

#[test]
fn a_run_maps_its_pages_to_frames_in_a_row() {
    for first in [0, LEVEL1, LEVEL2 - LEVEL1, LEVEL4, END - FANOUT] {
        let mut bench = bench();
        bench.set_run(first, entry(1000));
        for page in [0, 1, 255, 256, FANOUT - 1] {
            let seen = bench.table.get(first + page);
            assert_eq!(seen, Some(entry(1000 + page)), "page {page} of {first:#x}");
        }
        assert_eq!(bench.table.get(first.wrapping_sub(1)), None);
        assert_eq!(bench.table.get(first + FANOUT), None);
    }
}

#[test]
fn a_run_that_is_not_aligned_is_refused() {
    for page in [1, 8, 256, FANOUT - 1, FANOUT + 1, END - 1, END, usize::MAX] {
        let mut bench = bench();
        let mut spares = bench.nodes.spares(MAX_SPARES);
        let answer = bench.table.set_run(page, entry(7), &mut spares);
        assert_eq!((answer, left(&spares)), (Err(NoSpare), MAX_SPARES));
        assert_eq!(bench.table.find(0..END), None);
    }
}

#[test]
fn a_run_of_which_any_part_is_cleared_is_dropped_whole() {
    let (first, end) = (LEVEL1, LEVEL1 + FANOUT);
    let parts = [
        first..first + 1,
        first + 100..first + 101,
        end - 1..end,
        first + 1..end - 1,
        first..end,
        first - 1..first + 1,
        end - 1..end + 1,
        0..END,
    ];
    for part in parts {
        let mut bench = bench();
        bench.set_run(first, entry(1000));
        bench.table.clear(part.clone(), || ());
        assert_eq!(bench.mapped(first..end), [0; 0], "{part:x?}");
        assert_eq!(bench.live(), 1, "{part:x?}");
    }
}

#[test]
fn a_run_stays_when_its_neighbours_are_cleared() {
    let (first, end) = (LEVEL1, LEVEL1 + FANOUT);
    let mut bench = bench();
    bench.set_run(first - FANOUT, entry(0));
    bench.set_run(first, entry(1000));
    bench.set_run(end, entry(2000));
    bench.table.clear(0..first, || ());
    bench.table.clear(end..END, || ());
    assert_eq!(bench.mapped(0..4 * FANOUT).len(), FANOUT);
    assert_eq!(bench.table.get(first), Some(entry(1000)));
    assert_eq!(bench.table.get(end - 1), Some(entry(1000 + FANOUT - 1)));
}

#[test]
fn a_page_set_in_a_run_drops_the_rest_of_it() {
    let mut bench = bench();
    bench.set_run(0, entry(1000));
    assert_eq!(bench.set(9, entry(7)), 1);
    assert_eq!(bench.mapped(0..2 * FANOUT), [9]);
    assert_eq!(bench.table.get(9), Some(entry(7)));
    bench.table.clear(9..10, || ());
    assert_eq!(bench.live(), 1);
}

#[test]
fn a_run_set_over_pages_drops_them_and_their_node() {
    let mut bench = bench();
    bench.set(0, entry(7));
    bench.set(FANOUT - 1, entry(7));
    bench.set(FANOUT, entry(7));
    assert_eq!(bench.set_run(0, entry(1000)), 0);
    assert_eq!(bench.table.get(0), Some(entry(1000)));
    assert_eq!(bench.table.get(1), Some(entry(1001)));
    assert_eq!(bench.table.get(FANOUT), Some(entry(7)));
    assert_eq!(bench.live(), 1 + 3 + 1);
    bench.table.clear(0..2 * FANOUT, || ());
    assert_eq!(bench.live(), 1);
}

// Clearing.

#[test]
fn clearing_takes_exactly_the_pages_named() {
    // Within a node, across nodes of each level, and all of a node.
    let borders = [
        100,
        LEVEL1,
        LEVEL2,
        LEVEL3,
        LEVEL4,
        5 * LEVEL1,
        END - FANOUT,
    ];
    for border in borders {
        for (before, behind) in [(1, 1), (3, 2), (0, 4), (4, 0)] {
            let mut bench = bench();
            let pages: Vec<_> = (border - 5..border + 5).collect();
            for &page in &pages {
                bench.set(page, entry(page));
            }
            bench.table.clear(border - before..border + behind, || ());
            let left: Vec<_> = pages
                .into_iter()
                .filter(|page| !(border - before..border + behind).contains(page))
                .collect();
            assert_eq!(bench.mapped(border - 5..border + 5), left, "at {border:#x}");
        }
    }
}

#[test]
fn clearing_all_but_one_page_of_a_node_leaves_that_page() {
    for left in [0, 1, FANOUT / 2, FANOUT - 1] {
        let mut bench = bench();
        for page in 0..FANOUT {
            bench.set(LEVEL1 + page, entry(page));
        }
        bench.table.clear(0..LEVEL1 + left, || ());
        bench.table.clear(LEVEL1 + left + 1..END, || ());
        assert_eq!(bench.mapped(LEVEL1..2 * LEVEL1), [LEVEL1 + left]);
        assert_eq!(bench.live(), 1 + MAX_SPARES);
    }
}

#[test]
#[expect(clippy::reversed_empty_ranges, reason = "ranges of no page")]
fn clearing_no_page_changes_nothing() {
    let mut bench = bench();
    bench.set(5, entry(7));
    bench.set_run(LEVEL1, entry(1000));
    bench.set(END - 1, entry(7));
    let nodes = bench.live();
    let empty = [
        5..5,
        6..5,
        9..0,
        LEVEL1 + 1..LEVEL1 + 1,
        END..END,
        END..usize::MAX,
        usize::MAX..usize::MAX,
        usize::MAX..0,
    ];
    for range in empty {
        bench.table.clear(range.clone(), || ());
        assert_eq!(bench.live(), nodes, "{range:x?}");
        assert_eq!(bench.table.find(range), None);
    }
    assert!(bench.table.get(5).is_some());
    assert!(bench.table.get(LEVEL1).is_some());
    assert!(bench.table.get(END - 1).is_some());
}

#[test]
fn clearing_everything_leaves_a_table_that_works() {
    for end in [END, END + 1, usize::MAX] {
        let mut bench = bench();
        for page in [0, LEVEL1, LEVEL2, LEVEL3, LEVEL4, END - 1] {
            bench.set(page, entry(7));
        }
        bench.set_run(5 * LEVEL1, entry(7));
        bench.table.clear(0..end, || ());
        assert_eq!(bench.table.find(0..END), None);
        assert_eq!(bench.live(), 1);
        assert_eq!(bench.set(END - 1, entry(7)), MAX_SPARES);
    }
}

#[test]
fn the_last_page_is_cleared_with_any_end_beyond_it() {
    for end in [END, END + 1, END + FANOUT, usize::MAX] {
        let mut bench = bench();
        bench.set(END - 1, entry(7));
        bench.table.clear(END - 1..end, || ());
        assert_eq!(bench.table.get(END - 1), None);
        assert_eq!(bench.live(), 1);
    }
}

// Finding.

#[test]
fn the_first_page_of_a_range_is_found() {
    let mut bench = bench();
    let pages = [3, 511, LEVEL1 + 4, LEVEL2, LEVEL3 + 7, LEVEL4, END - 1];
    for page in pages {
        bench.set(page, entry(page));
    }
    let mut start = 0;
    for page in pages {
        assert_eq!(bench.table.find(start..END), Some((page, entry(page))));
        assert_eq!(bench.table.find(start..page), None, "before {page:#x}");
        assert_eq!(bench.table.find(page..page + 1), Some((page, entry(page))));
        start = page + 1;
    }
    assert_eq!(bench.table.find(start..usize::MAX), None);
}

#[test]
fn a_run_is_found_from_any_page_of_it_on() {
    let mut bench = bench();
    bench.set_run(LEVEL1, entry(1000));
    for page in [0, 1, 300, FANOUT - 1] {
        let found = bench.table.find(LEVEL1 + page..END);
        assert_eq!(found, Some((LEVEL1 + page, entry(1000 + page))));
    }
    assert_eq!(bench.table.find(0..END), Some((LEVEL1, entry(1000))));
    assert_eq!(bench.table.find(0..LEVEL1), None);
    assert_eq!(bench.table.find(2 * LEVEL1..END), None);
}

#[test]
fn a_large_table_is_cleared_in_parts() {
    let mut bench = bench();
    for part in [0, 1, 7, 2 * FANOUT] {
        bench.set(part * LEVEL2 + 3, entry(part));
    }
    let mut parts = 0;
    bench.table.clear(0..END, || parts += 1);
    assert_eq!(parts, 4);
    assert!(bench.table.find(0..END).is_none());
    assert_eq!(bench.live(), 1);
}

#[test]
fn nodes_that_were_emptied_are_used_again_before_others() {
    let mut bench = bench();
    bench.set(7, entry(7));
    for _ in 0..3 {
        bench.table.clear(7..8, || ());
        assert_eq!(bench.table.emptied(), MAX_SPARES);
        let mut spares = bench.nodes.spares(MAX_SPARES);
        assert_eq!(bench.table.set(7, entry(8), &mut spares), Ok(()));
        assert_eq!((left(&spares), bench.table.emptied()), (MAX_SPARES, 0));
        assert_eq!(bench.table.get(7), Some(entry(8)));
    }
    // The table keeps at most as many nodes as one change needs.
    for page in 1..10 {
        bench.set(page * LEVEL1, entry(7));
    }
    for page in 1..10 {
        bench.table.clear(page * LEVEL1..page * LEVEL1 + 1, || ());
    }
    assert_eq!(bench.table.emptied(), MAX_SPARES);
}

#[test]
fn pages_of_a_run_are_mapped_through_its_node() {
    let mut bench = bench();
    let first = 3 * LEVEL1;
    bench.set_run(first, entry(1000));
    let mut spares = bench.nodes.spares(MAX_SPARES);
    let mut leaf = bench.table.leaf(first + 9, &mut spares).unwrap();
    leaf.set(first + 9, entry(7));
    leaf.set(first + FANOUT - 1, entry(8));
    leaf.set(first + 9, entry(9));
    // The run is gone as a whole.
    assert_eq!(
        bench.mapped(first..first + FANOUT),
        [first + 9, first + FANOUT - 1]
    );
    assert_eq!(bench.table.get(first + 9), Some(entry(9)));
    assert!(bench.table.leaf(END, &mut spares).is_err());
    drop(spares);
    bench.table.clear(first + 9..first + FANOUT, || ());
    assert_eq!(bench.live(), 1);
}
