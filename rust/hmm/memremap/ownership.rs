// SPDX-License-Identifier: GPL-2.0

//! A map of the device pages that have an owner or are resident: two bits per page.
//!
//! The allocator that chooses pages belongs to the driver. This map ensures that a page has only
//! one owner, even if the allocator has a bug. C has no such map: `zone_device_folio_init()`, of
//! [`include/linux/memremap.h`](srctree/include/linux/memremap.h), trusts the driver.
//!
//! A page is resident after it has moved to the device, until it has moved back or is freed. The
//! lower half of each `u64` word has the bits of the pages that have an owner, the upper half those
//! of the resident pages. So one update releases a page and shows whether it was resident.

use core::ops::Range;

use kernel::{
    alloc::{
        flags::{GFP_KERNEL, __GFP_NOWARN},
        KVVec,
    },
    prelude::*,
    sync::atomic::{
        ordering::{Acquire, Full, Relaxed},
        Atomic,
    },
};

/// Pages per word.
const BITS: usize = (u64::BITS / 2) as usize;

/// The owner bits of all pages of a word.
const ALL: u64 = (1 << BITS) - 1;

/// A map of the pages that have an owner, and of those that are resident.
pub(super) struct OwnershipMap {
    words: KVVec<Atomic<u64>>,
}

impl OwnershipMap {
    /// Creates a map of `npages` pages, none of which has an owner.
    pub(super) fn new(npages: usize) -> Result<Self> {
        let len = npages.div_ceil(BITS);
        let mut words = KVVec::with_capacity(len, GFP_KERNEL | __GFP_NOWARN)?;
        for _ in 0..len {
            words.push(Atomic::new(0), GFP_KERNEL)?;
        }
        Ok(Self { words })
    }

    /// Marks all of the pages as owned, or none; returns whether it succeeded. Does not sleep.
    pub(super) fn reserve(&self, pages: Range<usize>) -> bool {
        if pages.end - pages.start == 1 {
            let mask = 1 << (pages.start % BITS);
            let reserve = |old| (old & mask == 0).then_some(old | mask);
            return self.update(pages.start / BITS, reserve).is_some();
        }
        for (n, (word, mask)) in masks(pages.clone()).enumerate() {
            let reserve = |old| (old & mask == 0).then_some(old | mask);
            if self.update(word, reserve).is_none() {
                // Undo the words before this one.
                for (word, mask) in masks(pages).take(n) {
                    self.update(word, |old| Some(old & !mask));
                }
                return false;
            }
        }
        true
    }

    /// Marks pages as free, all of which must have an owner. Returns the number of them that were
    /// resident. Does not sleep.
    pub(super) fn release(&self, pages: Range<usize>) -> usize {
        let mut resident = 0;
        for_each_mask(pages, |word, mask| {
            let Some(word) = self.words.get(word) else {
                return;
            };
            // ORDERING: Relaxed: only the owner changes the bits of these pages, and that is the
            // caller.
            let there = word.load(Relaxed) & mask << BITS;
            // The bits are set, so subtracting them clears them without a borrow from other bits.
            // ORDERING: Full: a page passes from one owner to the next through this word.
            let old = word.fetch_add((mask | there).wrapping_neg(), Full);
            debug_assert!(old & mask == mask);
            if there != 0 {
                resident += there.count_ones() as usize;
            }
        });
        resident
    }

    /// Marks owned pages that are not resident as resident. Does not sleep.
    #[inline]
    pub(super) fn add_resident(&self, pages: Range<usize>) {
        for_each_mask(pages, |word, mask| {
            if let Some(word) = self.words.get(word) {
                // No carry: the bits are clear. Even a carry could not reach the owner bits, which
                // are lower.
                // ORDERING: Relaxed: the caller owns the folios of these pages.
                word.add(mask << BITS, Relaxed);
            }
        });
    }

    /// Marks resident pages as not resident. Does not sleep.
    #[inline]
    pub(super) fn remove_resident(&self, pages: Range<usize>) {
        for_each_mask(pages, |word, mask| {
            if let Some(word) = self.words.get(word) {
                // No borrow: the bits are set. Even a borrow could not reach the owner bits, which
                // are lower.
                // ORDERING: Relaxed: the caller owns the folios of these pages.
                word.add((mask << BITS).wrapping_neg(), Relaxed);
            }
        });
    }

    /// Returns the first owned page of the range. Does not sleep.
    pub(super) fn first(&self, pages: Range<usize>) -> Option<usize> {
        masks(pages).find_map(|(word, mask)| {
            // ORDERING: Relaxed: the answer may be stale in any case.
            let owned = self.words.get(word)?.load(Relaxed) & mask;
            (owned != 0).then(|| word * BITS + owned.trailing_zeros() as usize)
        })
    }

    /// Returns the number of owned pages in the range. Does not sleep.
    pub(super) fn count(&self, pages: Range<usize>) -> usize {
        masks(pages)
            .filter_map(|(word, mask)| Some((self.words.get(word)?, mask)))
            // ORDERING: Acquire pairs with the update that cleared a bit: whoever sees a page as
            // free also sees what its owner did before.
            .map(|(word, mask)| (word.load(Acquire) & mask).count_ones() as usize)
            .sum()
    }

    /// Returns the number of resident pages. Does not sleep.
    pub(super) fn resident(&self) -> usize {
        let words = self.words.iter();
        words
            // ORDERING: Relaxed: the answer may be stale in any case.
            .map(|word| (word.load(Relaxed) >> BITS).count_ones() as usize)
            .sum()
    }

    /// Changes a word as `change` requests, unless that returns `None`; returns the old value.
    #[inline(always)]
    fn update(&self, word: usize, change: impl Fn(u64) -> Option<u64>) -> Option<u64> {
        let word = self.words.get(word)?;
        // ORDERING: Relaxed: the compare-and-exchange below checks the value.
        let mut old = word.load(Relaxed);
        while let Some(new) = change(old) {
            // ORDERING: Full: a page passes from one owner to the next through this word.
            match word.cmpxchg(old, new, Full) {
                Ok(_) => return Some(old),
                Err(seen) => old = seen,
            }
        }
        None
    }
}

/// Calls `with` for each of [`masks`], with a shortcut for a single page, the most frequent case.
#[inline(always)]
fn for_each_mask(pages: Range<usize>, mut with: impl FnMut(usize, u64)) {
    if pages.end - pages.start == 1 {
        return with(pages.start / BITS, 1 << (pages.start % BITS));
    }
    for (word, mask) in masks(pages) {
        with(word, mask);
    }
}

/// Returns the words that hold a range of bits, each with the mask of the bits in it.
fn masks(pages: Range<usize>) -> impl Iterator<Item = (usize, u64)> {
    let Range { start, end } = pages;
    let words = if start < end {
        start / BITS..end.div_ceil(BITS)
    } else {
        0..0
    };
    words.map(move |word| {
        let first = start.saturating_sub(word * BITS).min(BITS - 1);
        let last = (end - 1 - word * BITS).min(BITS - 1);
        (word, (ALL << first) & (ALL >> (BITS - 1 - last)))
    })
}

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(hmm_ownership)]
mod tests {
    use super::*;
    use crate::memremap::{DevicePages, HPAGE_PMD_NR, HPAGE_PMD_ORDER};

    #[test]
    fn owned_pages_cannot_be_reserved_again() -> Result {
        let map = OwnershipMap::new(2 * HPAGE_PMD_NR)?;
        let page = DevicePages::new(HPAGE_PMD_NR + 65, 0)?;
        assert!(map.reserve(page.range()));
        assert!(!map.reserve(page.range()));
        assert_eq!(map.count(0..2 * HPAGE_PMD_NR), 1);
        assert_eq!(map.count(HPAGE_PMD_NR + 66..2 * HPAGE_PMD_NR), 0);
        map.release(page.range());
        assert!(map.reserve(page.range()));
        Ok(())
    }

    #[test]
    fn a_block_with_an_owned_page_is_refused_and_left_as_it_was() -> Result {
        let map = OwnershipMap::new(HPAGE_PMD_NR)?;
        let block = DevicePages::new(0, HPAGE_PMD_ORDER)?;
        // In the last word, so that the words before it must be undone.
        let page = DevicePages::new(HPAGE_PMD_NR - 1, 0)?;
        assert!(map.reserve(page.range()));
        assert!(!map.reserve(block.range()));
        assert_eq!(map.count(0..HPAGE_PMD_NR), 1);
        map.release(page.range());
        assert!(map.reserve(block.range()));
        assert_eq!(map.count(0..HPAGE_PMD_NR), HPAGE_PMD_NR);
        assert_eq!(map.count(10..74), 64);
        Ok(())
    }

    #[test]
    fn pieces_of_a_block_can_be_reserved_and_released() -> Result {
        let map = OwnershipMap::new(HPAGE_PMD_NR)?;
        for order in 0..=HPAGE_PMD_ORDER {
            let upper = DevicePages::new((1 << order) % HPAGE_PMD_NR, order)?;
            assert!(map.reserve(upper.range()));
            assert_eq!(map.count(upper.range()), 1 << order);
            assert_eq!(map.count(0..HPAGE_PMD_NR), 1 << order);
            map.release(upper.range());
            assert_eq!(map.count(0..HPAGE_PMD_NR), 0);
        }
        Ok(())
    }

    #[test]
    fn pages_that_are_released_tell_whether_they_were_resident() -> Result {
        let map = OwnershipMap::new(2 * HPAGE_PMD_NR)?;
        let pages = 30..HPAGE_PMD_NR + 40;
        assert!(map.reserve(pages.clone()));
        assert_eq!(map.resident(), 0);
        map.add_resident(31..HPAGE_PMD_NR + 33);
        assert_eq!(map.resident(), HPAGE_PMD_NR + 2);
        map.remove_resident(40..50);
        assert_eq!(map.resident(), HPAGE_PMD_NR - 8);
        assert_eq!(map.count(pages.clone()), pages.len());
        assert!(!map.reserve(45..46));
        for (page, resident) in [(30, 0), (31, 1), (45, 0)] {
            assert_eq!(map.release(page..page + 1), resident);
        }
        assert_eq!(map.release(32..45), 8);
        assert_eq!(map.release(46..HPAGE_PMD_NR), HPAGE_PMD_NR - 50);
        assert_eq!(map.resident(), 33);
        assert_eq!(map.release(HPAGE_PMD_NR..HPAGE_PMD_NR + 40), 33);
        assert_eq!(map.resident(), 0);
        assert_eq!(map.count(0..2 * HPAGE_PMD_NR), 0);
        Ok(())
    }

    #[test]
    fn the_first_owned_page_of_a_range_is_found() -> Result {
        let map = OwnershipMap::new(2 * HPAGE_PMD_NR)?;
        assert_eq!(map.first(0..2 * HPAGE_PMD_NR), None);
        for page in [3, 64, HPAGE_PMD_NR + 1] {
            assert!(map.reserve(page..page + 1));
        }
        assert_eq!(map.first(0..2 * HPAGE_PMD_NR), Some(3));
        assert_eq!(map.first(4..2 * HPAGE_PMD_NR), Some(64));
        assert_eq!(map.first(65..HPAGE_PMD_NR + 1), None);
        assert_eq!(map.first(65..HPAGE_PMD_NR + 2), Some(HPAGE_PMD_NR + 1));
        assert_eq!(map.first(5..5), None);
        Ok(())
    }
}
