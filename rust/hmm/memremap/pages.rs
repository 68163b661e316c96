// SPDX-License-Identifier: GPL-2.0

//! Runs of device pages, numbered from the start of their pagemap.
//!
//! C header: [`include/linux/huge_mm.h`](srctree/include/linux/huge_mm.h), for the orders.

use core::ops::Range;

use kernel::prelude::*;

use crate::bindings;

/// Order of a folio that one PMD entry maps: `1 << HPAGE_PMD_ORDER` pages.
pub const HPAGE_PMD_ORDER: u32 = bindings::HPAGE_PMD_ORDER;

/// Order of a folio that one PUD entry maps.
pub const HPAGE_PUD_ORDER: u32 = bindings::HPAGE_PUD_ORDER;

/// Number of pages of a folio that one PMD entry maps.
pub const HPAGE_PMD_NR: usize = 1 << HPAGE_PMD_ORDER;

/// A run of device pages that one folio can cover: `1 << order` pages, the first of which is a
/// multiple of that number, counted from the start of the pagemap.
///
/// This is plain data; it says nothing about the owner of the pages.
///
/// # Invariants
///
/// `order <= HPAGE_PMD_ORDER`, `first` is a multiple of `1 << order`, and `first + (1 << order)`
/// does not overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DevicePages {
    first: usize,
    order: u32,
}

impl DevicePages {
    /// Creates the run of `1 << order` pages that begins with page `first`.
    ///
    /// Does not sleep and takes no lock.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when `order` is above [`HPAGE_PMD_ORDER`], `first` is not a multiple of `1 <<
    /// order`, or the end of the run is above `usize::MAX`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use hmm::memremap::{DevicePages, HPAGE_PMD_NR, HPAGE_PMD_ORDER};
    /// # use kernel::prelude::*;
    /// # fn example() -> Result {
    /// let huge = DevicePages::new(HPAGE_PMD_NR, HPAGE_PMD_ORDER)?;
    /// assert_eq!(huge.range(), HPAGE_PMD_NR..2 * HPAGE_PMD_NR);
    /// assert!(DevicePages::new(5, 1).is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn new(first: usize, order: u32) -> Result<Self> {
        if order > HPAGE_PMD_ORDER || first & ((1 << order) - 1) != 0 {
            return Err(EINVAL);
        }
        first.checked_add(1 << order).ok_or(EINVAL)?;
        // INVARIANT: The order, the alignment and the end were checked above.
        Ok(Self { first, order })
    }

    /// Returns the first page, counted from the start of the pagemap.
    pub fn first(self) -> usize {
        self.first
    }

    /// Returns the order of the folio that covers the run.
    pub fn order(self) -> u32 {
        self.order
    }

    /// Returns the number of pages, always a power of two.
    pub fn npages(self) -> usize {
        1 << self.order
    }

    /// Returns the pages, the end exclusive.
    pub fn range(self) -> Range<usize> {
        self.first..self.first + self.npages()
    }
}
