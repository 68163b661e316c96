// SPDX-License-Identifier: GPL-2.0

//! Access counters: how often a device uses memory that it has mapped where it is.

use kernel::sync::atomic::{ordering::Relaxed, Atomic};

/// Counters; blocks of 2 MiB share them by their number.
const COUNTERS: usize = 64;

/// Pages of a block.
const BLOCK: usize = hmm::memremap::HPAGE_PMD_NR;

/// The access counters of an address space.
pub(crate) struct Hits {
    counters: [Atomic<u32>; COUNTERS],
    /// A page of a block whose counter has got to the limit; 0: none.
    hot: Atomic<usize>,
}

impl Default for Hits {
    fn default() -> Self {
        Self {
            counters: [const { Atomic::new(0) }; COUNTERS],
            hot: Atomic::new(0),
        }
    }
}

impl Hits {
    /// Counts an access to a page, by number; with so many, which is not 0, its block is hot.
    pub(crate) fn count(&self, page: usize, limit: u32) {
        let counter = &self.counters[page / BLOCK % COUNTERS];
        // ORDERING: Relaxed: the number stands for itself.
        if counter.fetch_add(1_u32, Relaxed).wrapping_add(1) >= limit {
            // ORDERING: Relaxed: the number stands for itself.
            counter.store(0, Relaxed);
            // ORDERING: Relaxed: the number stands for itself.
            self.hot.store(page, Relaxed);
        }
    }

    /// Returns a page of a hot block, once.
    pub(crate) fn take_hot(&self) -> Option<usize> {
        // ORDERING: Relaxed: the number stands for itself. Looked at first, since it is hardly ever
        // set.
        if self.hot.load(Relaxed) == 0 {
            return None;
        }
        // ORDERING: Relaxed: the number stands for itself.
        match self.hot.xchg(0, Relaxed) {
            0 => None,
            page => Some(page),
        }
    }
}
