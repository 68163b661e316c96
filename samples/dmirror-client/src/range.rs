// SPDX-License-Identifier: GPL-2.0

//! Page-aligned ranges of an address space.

use std::fs;
use std::ops::Range;
use std::sync::OnceLock;

use nix::unistd::SysconfVar;
use nix::unistd::sysconf;
use thiserror::Error;

/// Returns the page size of this system, in bytes.
pub fn page_size() -> usize {
    static SIZE: OnceLock<usize> = OnceLock::new();
    *SIZE.get_or_init(|| {
        let size = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
        size.and_then(|size| usize::try_from(size).ok())
            .unwrap_or(4096)
    })
}

/// Returns the size of a huge page of this system, which one entry of a page middle directory
/// maps, in bytes.
pub fn hpage_pmd_size() -> usize {
    static SIZE: OnceLock<usize> = OnceLock::new();
    *SIZE.get_or_init(|| {
        let size = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size");
        // Without that file: a page table is one page, with an entry of 8 bytes for each page.
        size.ok()
            .and_then(|size| size.trim().parse().ok())
            .unwrap_or(page_size() / 8 * page_size())
    })
}

/// Returns the number of pages of a huge page of this system.
pub fn hpage_pmd_nr() -> usize {
    hpage_pmd_size() / page_size()
}

/// The reason why an address and a length are not a valid [`PageRange`].
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum RangeError {
    /// The address is not a multiple of the page size.
    #[error("address {0:#x} is not page aligned")]
    Unaligned(u64),
    /// The range is empty.
    #[error("the range is empty")]
    Empty,
    /// The range ends beyond the last address.
    #[error("{1} pages from {0:#x} wrap around")]
    Wraps(u64, u64),
}

/// A range of whole pages in an address space: aligned, not empty, not wrapping around.
///
/// It need not be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRange {
    addr: u64,
    pages: u64,
}

impl PageRange {
    /// Creates the range of `pages` pages from the virtual address `addr` on.
    ///
    /// # Errors
    ///
    /// [`RangeError`] if `addr` is not page aligned, `pages` is 0, or the range
    /// ends beyond the last address.
    pub fn new(addr: u64, pages: u64) -> Result<Self, RangeError> {
        let size = page_size() as u64;
        if addr % size != 0 {
            return Err(RangeError::Unaligned(addr));
        }
        if pages == 0 {
            return Err(RangeError::Empty);
        }
        pages
            .checked_mul(size)
            .and_then(|bytes| addr.checked_add(bytes))
            .map(|_| Self { addr, pages })
            .ok_or(RangeError::Wraps(addr, pages))
    }

    /// Returns the first virtual address.
    pub fn addr(self) -> u64 {
        self.addr
    }

    /// Returns the length in pages.
    pub fn pages(self) -> u64 {
        self.pages
    }

    /// Returns the length in bytes.
    pub fn bytes(self) -> u64 {
        self.pages * page_size() as u64
    }

    /// Returns the end address, exclusive.
    pub fn end(self) -> u64 {
        self.addr + self.bytes()
    }

    /// Returns the numbers (address divided by page size) of the pages.
    pub fn page_numbers(self) -> Range<u64> {
        let size = page_size() as u64;
        self.addr / size..self.end() / size
    }

    /// Returns the pages `part` of this range, counted from its start; `None` if `part` is empty or
    /// not inside.
    pub fn part(self, part: Range<u64>) -> Option<Self> {
        let inside = part.start < part.end && part.end <= self.pages;
        inside.then(|| Self {
            addr: self.addr + part.start * page_size() as u64,
            pages: part.end - part.start,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> u64 {
        page_size() as u64
    }

    #[test]
    fn knows_its_ends() {
        let range = PageRange::new(16 * page(), 4).unwrap();
        assert_eq!(range.bytes(), 4 * page());
        assert_eq!(range.end(), 20 * page());
        assert_eq!(range.page_numbers(), 16..20);
    }

    #[test]
    fn refuses_what_is_no_range() {
        assert_eq!(PageRange::new(1, 1), Err(RangeError::Unaligned(1)));
        assert_eq!(PageRange::new(page(), 0), Err(RangeError::Empty));
        let last = u64::MAX - page() + 1;
        assert_eq!(PageRange::new(last, 1), Err(RangeError::Wraps(last, 1)));
        // Multiplied by the page size, this number of pages overflows to one page.
        let many = (1 << 52) + 1;
        assert_eq!(PageRange::new(0, many), Err(RangeError::Wraps(0, many)));
    }

    #[test]
    fn parts_stay_inside() {
        let range = PageRange::new(page(), 4).unwrap();
        assert_eq!(range.part(1..3), PageRange::new(2 * page(), 2).ok());
        assert_eq!(range.part(0..4), Some(range));
        assert_eq!(range.part(2..2), None);
        assert_eq!(range.part(3..5), None);
    }
}
