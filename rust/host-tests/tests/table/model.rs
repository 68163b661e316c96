// SPDX-License-Identifier: GPL-2.0

//! A model of a table, made of sets and maps: pages, runs, and nodes.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ops::Range;

use crate::nodes::left;
use crate::nodes::Counted;
use crate::nodes::Nodes;
use crate::table::Entry;
use crate::table::NoSpare;
use crate::table::Table;
use crate::table::END;
use crate::table::FANOUT;
use crate::table::MAX_SPARES;

/// Returns the number of pages below a node of a level.
fn span(level: u32) -> usize {
    FANOUT.pow(level + 1)
}

/// The level of the root, which always exists.
const ROOT: u32 = 4;

#[derive(Debug, Default)]
struct Model {
    pages: BTreeMap<usize, Entry>,
    /// The runs, by their first pages.
    runs: BTreeMap<usize, Entry>,
    /// All nodes except the root: level, and the first page below the node.
    nodes: BTreeSet<(u32, usize)>,
}

impl Model {
    fn run_of(&self, page: usize) -> Option<(usize, Entry)> {
        let first = page / FANOUT * FANOUT;
        let entry = self.runs.get(&first)?;
        Some((first, *entry))
    }

    fn find(&self, range: Range<usize>) -> Option<(usize, Entry)> {
        if range.start >= range.end {
            return None;
        }
        let page = self.pages.range(range.clone()).next();
        let page = page.map(|(page, entry)| (*page, *entry));
        let inside = self.run_of(range.start).map(|(first, entry)| {
            let pfn = entry.pfn + (range.start - first);
            (range.start, Entry { pfn, ..entry })
        });
        let run = self.runs.range(range).next();
        let run = run.map(|(page, entry)| (*page, *entry));
        [page, inside, run]
            .into_iter()
            .flatten()
            .min_by_key(|(page, _)| *page)
    }

    /// Adds the nodes above a mapping at level `at`, as far as the spares suffice; returns the
    /// number of spares left, or `None` if they were too few.
    fn grow(&mut self, page: usize, at: u32, mut spares: usize) -> Option<usize> {
        for level in (at..ROOT).rev() {
            let node = (level, page / span(level) * span(level));
            if !self.nodes.contains(&node) {
                spares = spares.checked_sub(1)?;
                self.nodes.insert(node);
            }
        }
        Some(spares)
    }

    fn set(&mut self, page: usize, entry: Entry, spares: usize) -> Option<usize> {
        let left = self.grow(page, 0, spares)?;
        self.runs.remove(&(page / FANOUT * FANOUT));
        self.pages.insert(page, entry);
        Some(left)
    }

    fn set_run(&mut self, page: usize, entry: Entry, spares: usize) -> Option<usize> {
        let left = self.grow(page, 1, spares)?;
        self.pages
            .retain(|other, _| !(page..page + FANOUT).contains(other));
        self.nodes.remove(&(0, page));
        self.runs.insert(page, entry);
        Some(left)
    }

    fn clear(&mut self, range: Range<usize>) -> usize {
        let meets = |first: usize, pages: usize| first < range.end && range.start < first + pages;
        if range.start >= range.end {
            return 0;
        }
        let before = self.pages.len() + FANOUT * self.runs.len();
        self.pages.retain(|page, _| !meets(*page, 1));
        self.runs.retain(|first, _| !meets(*first, FANOUT));
        // Begin at the lowest level: a node is removed when it has become empty.
        for level in 0..ROOT {
            let (empty, _): (Vec<_>, Vec<_>) = self
                .nodes
                .range((level, 0)..(level + 1, 0))
                .copied()
                .partition(|&(_, first)| meets(first, span(level)) && !self.holds(level, first));
            for node in empty {
                self.nodes.remove(&node);
            }
        }
        before - self.pages.len() - FANOUT * self.runs.len()
    }

    /// Returns whether the node of this level that begins with page `first` is not empty.
    fn holds(&self, level: u32, first: usize) -> bool {
        let below = first..first + span(level);
        match level {
            0 => self.pages.range(below).next().is_some(),
            _ => {
                let run = level == 1 && self.runs.range(below.clone()).next().is_some();
                let nodes = (level - 1, below.start)..(level - 1, below.end);
                run || self.nodes.range(nodes).next().is_some()
            }
        }
    }
}

/// A table and its model, which are compared after each operation.
pub(crate) struct Checked {
    nodes: Nodes,
    real: Table<Counted>,
    model: Model,
}

impl Checked {
    pub(crate) fn new() -> Self {
        let nodes = Nodes::default();
        Self {
            real: nodes.table(),
            nodes,
            model: Model::default(),
        }
    }

    /// Maps a page, or a run, with this many spares.
    pub(crate) fn set(&mut self, page: usize, run: bool, entry: Entry, count: usize) {
        let mut spares = self.nodes.spares(count);
        // The table can also use the nodes that it has kept.
        let kept = self.real.emptied();
        let real = if run {
            self.real.set_run(page, entry, &mut spares)
        } else {
            self.real.set(page, entry, &mut spares)
        };
        let model = if page >= END || run && page % FANOUT != 0 {
            assert_eq!(left(&spares), count, "a page that cannot be took spares");
            None
        } else if run {
            self.model.set_run(page, entry, count + kept)
        } else {
            self.model.set(page, entry, count + kept)
        };
        match model {
            None => assert_eq!(real, Err(NoSpare)),
            Some(rest) => {
                let left = left(&spares) + self.real.emptied();
                assert_eq!((real, left), (Ok(()), rest));
            }
        }
        drop(spares);
        self.check_around(page);
    }

    pub(crate) fn clear(&mut self, range: Range<usize>) {
        let cleared = self.real.clear(range.clone(), || ());
        assert_eq!(cleared, self.model.clear(range.clone()), "in {range:x?}");
        self.check_around(range.start);
        self.check_around(range.end);
    }

    pub(crate) fn find(&self, range: Range<usize>) {
        assert_eq!(
            self.real.find(range.clone()),
            self.model.find(range.clone()),
            "in {range:x?}"
        );
    }

    /// Compares the nodes, and the mappings at and near a page.
    fn check_around(&self, page: usize) {
        let emptied = self.real.emptied();
        assert!(emptied <= MAX_SPARES);
        assert_eq!(
            self.nodes.live() - emptied,
            1 + self.model.nodes.len(),
            "nodes"
        );
        let run = page / FANOUT * FANOUT;
        let near = [
            page.wrapping_sub(1),
            page,
            page.saturating_add(1),
            run,
            run | (FANOUT - 1),
            run.wrapping_sub(1),
            run.saturating_add(FANOUT),
        ];
        for page in near {
            let model = page.checked_add(1).and_then(|end| {
                let (_, entry) = self.model.find(page..end)?;
                Some(entry)
            });
            assert_eq!(self.real.get(page), model, "page {page:#x}");
            self.check_row(page, model);
        }
        self.find(page..END);
    }

    /// Compares the number of pages that follow a page, up to the end of the node.
    fn check_row(&self, page: usize, entry: Option<Entry>) {
        let follows = |&n: &usize| {
            let next = self.model.find(page + n..page + n + 1);
            next.map(|(_, next)| next)
                == entry.map(|it| Entry {
                    pfn: it.pfn + n,
                    ..it
                })
        };
        for most in [1, 2, FANOUT] {
            let row = entry.map(|entry| {
                let end = (FANOUT - page % FANOUT).min(most);
                (entry, 1 + (1..end).take_while(follows).count())
            });
            assert_eq!(self.real.row(page, most), row, "from page {page:#x} on");
            self.check_rows(page, most);
        }
    }

    /// Checks the rows that follow a page without a gap: each is as long as possible.
    fn check_rows(&self, page: usize, most: usize) {
        let (mut at, end) = (page, page.saturating_add(most));
        for (entry, npages) in self.real.rows(page, most) {
            assert_eq!(
                self.real.row(at, end - at),
                Some((entry, npages)),
                "at page {at:#x}, from {page:#x} on"
            );
            at += npages;
        }
        assert!(at <= end);
        let is_over = at == end || at % FANOUT == 0;
        assert!(is_over || self.real.get(at).is_none(), "page {at:#x}");
    }

    /// Compares all mappings.
    pub(crate) fn check(&self) {
        let mut start = 0;
        while let Some((page, _)) = self.model.find(start..END) {
            self.find(start..END);
            start = match self.model.run_of(page) {
                None => page + 1,
                Some((first, _)) => {
                    self.check_around(first + FANOUT - 1);
                    first + FANOUT
                }
            };
        }
        self.find(start..END);
    }

    /// Clears everything if `clear` is true, and drops the table: no node may be left.
    pub(crate) fn finish(mut self, clear: bool) {
        self.check();
        if clear {
            self.clear(0..usize::MAX);
            let live = self.nodes.live() - self.real.emptied();
            assert_eq!(live, 1, "nodes of an empty table");
        }
        drop(self.real);
        assert_eq!(self.nodes.live(), 0, "nodes of no table");
    }
}
