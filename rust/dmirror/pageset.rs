// SPDX-License-Identifier: GPL-2.0

//! A set of pages of a window. Pure logic, no kernel calls.

use core::ops::Range;

use crate::pages::BLOCK_PAGES;

const BITS: usize = u64::BITS as usize;

/// A set of pages, one bit each, numbered from 0 and below [`BLOCK_PAGES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageSet([u64; BLOCK_PAGES / BITS]);

impl PageSet {
    /// The set without any page.
    pub(crate) const EMPTY: Self = Self([0; BLOCK_PAGES / BITS]);

    /// Returns the set of the first `npages` pages.
    pub(crate) fn first(npages: usize) -> Self {
        let mut this = Self::EMPTY;
        for (n, word) in this.0.iter_mut().enumerate() {
            let left = npages.saturating_sub(n * BITS).min(BITS) as u32;
            *word = u64::MAX.checked_shr(u64::BITS - left).unwrap_or(0);
        }
        this
    }

    /// Adds a page; ignores a page for which there is no room.
    pub(crate) fn insert(&mut self, nth: usize) {
        if let Some(word) = self.0.get_mut(nth / BITS) {
            *word |= 1 << (nth % BITS);
        }
    }

    /// Returns whether a page is in the set.
    pub(crate) fn contains(&self, nth: usize) -> bool {
        self.0
            .get(nth / BITS)
            .is_some_and(|word| (word >> (nth % BITS)) & 1 != 0)
    }

    /// Returns the number of pages in the set.
    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Returns the first run of pages in the set that begins at or after `from` and below `end`.
    pub(crate) fn run(&self, from: usize, end: usize) -> Option<Range<usize>> {
        let start = (from..end).find(|&nth| self.contains(nth))?;
        let end = (start..end).find(|&nth| !self.contains(nth)).unwrap_or(end);
        Some(start..end)
    }
}
