// SPDX-License-Identifier: GPL-2.0

//! Access counters: how often a device uses memory that it has mapped where it is. Pure logic, no
//! kernel calls: the caller supplies the numbers that engines count with.

/// Counters; blocks of 2 MiB share them by their number.
const COUNTERS: usize = 64;

/// Pages of a block.
pub(crate) const BLOCK: usize = 512;

/// A number that engines change at the same time.
pub(crate) trait Number {
    /// Makes one that is 0.
    fn zero() -> Self;

    /// Adds 1, and returns what it is then.
    fn count(&self) -> usize;

    /// Returns what it is.
    fn get(&self) -> usize;

    /// Sets it, and returns what it was.
    fn replace(&self, value: usize) -> usize;
}

/// The access counters of an address space.
#[derive(Debug)]
pub(crate) struct Hits<N> {
    counters: [N; COUNTERS],
    /// A page of a block whose counter has got to the limit; 0: none.
    hot: N,
}

impl<N: Number> Default for Hits<N> {
    fn default() -> Self {
        Self {
            counters: core::array::from_fn(|_| N::zero()),
            hot: N::zero(),
        }
    }
}

impl<N: Number> Hits<N> {
    /// Counts an access to a page, by number; with so many, which is not 0, its block is hot.
    pub(crate) fn count(&self, page: usize, limit: u32) {
        let counter = &self.counters[page / BLOCK % COUNTERS];
        if counter.count() >= limit as usize {
            counter.replace(0);
            self.hot.replace(page);
        }
    }

    /// Returns a page of a hot block, once.
    pub(crate) fn take_hot(&self) -> Option<usize> {
        // Looked at first, since it is hardly ever set.
        if self.hot.get() == 0 {
            return None;
        }
        match self.hot.replace(0) {
            0 => None,
            page => Some(page),
        }
    }
}
