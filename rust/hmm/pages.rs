// SPDX-License-Identifier: GPL-2.0

//! Runs of device pages, counted from the start of their region.

use kernel::prelude::*;

use crate::bindings;

/// Order of a folio that one PMD entry maps: `1 << PMD_ORDER` pages.
pub const PMD_ORDER: u32 = bindings::HPAGE_PMD_ORDER;

/// Order of what one PUD entry maps.
pub const PUD_ORDER: u32 = bindings::HPAGE_PUD_ORDER;

/// Pages in a block: as many as a PMD-sized folio has (2 MiB on x86-64).
pub const BLOCK_PAGES: usize = 1 << PMD_ORDER;

/// A run of device pages that one folio can cover: `1 << order` pages, the first of them at a
/// multiple of that number, counted from the start of the region.
///
/// This is plain data; it does not say who owns the pages.
///
/// # Invariants
///
/// `order <= PMD_ORDER`, `first` is a multiple of `1 << order`, and `first + (1 << order)` does not
/// overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DevicePages {
    first: usize,
    order: u32,
}

impl DevicePages {
    /// The `1 << order` pages from page `first` on.
    ///
    /// Does not sleep and takes no lock.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when `order` is above [`PMD_ORDER`], `first` is no multiple of `1 << order`, or the
    /// end of the run is above `usize::MAX`.
    ///
    /// # Examples
    ///
    /// ```ignore
    /// let huge = DevicePages::new(512, PMD_ORDER)?;
    /// assert_eq!(huge.range(), 512..1024);
    /// assert!(DevicePages::new(5, 1).is_err());
    /// ```
    pub fn new(first: usize, order: u32) -> Result<Self> {
        if order > PMD_ORDER || first & ((1 << order) - 1) != 0 {
            return Err(EINVAL);
        }
        first.checked_add(1 << order).ok_or(EINVAL)?;
        // INVARIANT: All was just checked.
        Ok(Self { first, order })
    }

    /// The lower and the upper half, or `None` for a single page.
    pub fn halves(self) -> Option<(Self, Self)> {
        let order = self.order.checked_sub(1)?;
        let middle = self.first + (1 << order);
        // INVARIANT: What is a multiple of a power of two is one of its half, and so is the middle.
        Some((
            Self {
                first: self.first,
                order,
            },
            Self {
                first: middle,
                order,
            },
        ))
    }

    /// The first page, counted from the start of the region.
    pub fn first(self) -> usize {
        self.first
    }

    /// The order of the folio that covers the run.
    pub fn order(self) -> u32 {
        self.order
    }

    /// The number of pages, always a power of two.
    pub fn npages(self) -> usize {
        1 << self.order
    }

    /// The pages, the end exclusive.
    pub fn range(self) -> core::ops::Range<usize> {
        self.first..self.first + self.npages()
    }
}
