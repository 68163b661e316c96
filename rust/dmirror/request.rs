// SPDX-License-Identifier: GPL-2.0

//! Requests: the ranges that callers name, and their validation. Pure logic, no kernel calls.

use core::ops::Range;

/// A page-aligned range of a user address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UserRange {
    start: usize,
    end: usize,
}

/// Error: the range is empty, not page aligned, or wraps around.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadRange;

impl UserRange {
    /// Returns the range of `npages` pages of `1 << page_shift` bytes at address `addr` (bytes).
    pub(crate) fn new(addr: u64, npages: u64, page_shift: u32) -> Result<Self, BadRange> {
        let page_mask = (1_u64 << page_shift) - 1;
        let bytes = npages.checked_mul(1 << page_shift).ok_or(BadRange)?;
        let end = addr.checked_add(bytes).ok_or(BadRange)?;
        if npages == 0 || addr & page_mask != 0 {
            return Err(BadRange);
        }
        Ok(Self {
            start: usize::try_from(addr).map_err(|_| BadRange)?,
            end: usize::try_from(end).map_err(|_| BadRange)?,
        })
    }

    /// Returns the first address, in bytes.
    pub(crate) fn start(self) -> usize {
        self.start
    }

    /// Returns the end address, in bytes, exclusive.
    pub(crate) fn end(self) -> usize {
        self.end
    }
}

/// Returns the part of a range from address `at` (below `end`) to the next multiple of `bytes`, a
/// power of two, or to `end` if that comes first.
pub(crate) fn window_at(at: usize, end: usize, bytes: usize) -> Range<usize> {
    let rest = bytes - at % bytes;
    at..at + rest.min(end - at)
}
