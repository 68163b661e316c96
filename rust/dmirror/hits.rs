// SPDX-License-Identifier: GPL-2.0

//! Access counters: they count the accesses of a device to memory that it maps where it is. Pure
//! logic, no kernel calls: the caller supplies the atomic numbers.

use crate::pages::BLOCK_PAGES;

/// Number of counters; block n uses counter n modulo this.
const COUNTERS: usize = 64;

/// A number that engines change concurrently.
pub(crate) trait Number {
    /// Creates a number that is 0.
    fn zero() -> Self;

    /// Adds 1, and returns the new value.
    fn count(&self) -> usize;

    /// Returns the value.
    fn get(&self) -> usize;

    /// Sets the value, and returns the old one.
    fn replace(&self, value: usize) -> usize;
}

/// The access counters of an address space.
#[derive(Debug)]
pub(crate) struct Hits<N> {
    counters: [N; COUNTERS],
    /// A page of a block whose counter has reached the limit; 0 for none.
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
    /// Counts an access to a page number. When the count reaches `limit`, which is not 0, the block
    /// of the page is hot.
    pub(crate) fn count(&self, page: usize, limit: u32) {
        let counter = &self.counters[page / BLOCK_PAGES % COUNTERS];
        if counter.count() >= limit as usize {
            counter.replace(0);
            self.hot.replace(page);
        }
    }

    /// Returns a page of a hot block, if there is one, and resets it.
    pub(crate) fn take_hot(&self) -> Option<usize> {
        // Checked first, since it is rarely set.
        if self.hot.get() == 0 {
            return None;
        }
        match self.hot.replace(0) {
            0 => None,
            page => Some(page),
        }
    }
}
