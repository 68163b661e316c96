// SPDX-License-Identifier: GPL-2.0

//! Memory mappings owned by a value.
//!
//! A [`Region`] is a mapping with an inaccessible guard page on either side, so the kernel never
//! merges it with a neighbour, and `smaps` reports it separately. It is read and written in words,
//! with relaxed atomic accesses, because other threads, other processes and the device may access
//! it concurrently; it never returns references to its bytes.

use std::fmt;
use std::fs::File;
use std::hint::black_box;
use std::io;
use std::ops::Range;

pub use crate::mman::Advice;
use crate::mman::Backing;
pub use crate::mman::Protection;
use crate::range::PageRange;
use crate::range::page_size;
use crate::sys::Mapping;

/// The parameters of a new [`Region`]; see [`Region::options`].
#[derive(Debug)]
#[must_use]
pub struct Options {
    pages: usize,
    align: usize,
    huge: Option<bool>,
    backing: Backing,
}

impl Options {
    /// Starts the region at a multiple of `bytes`, a power of two.
    pub fn align(mut self, bytes: usize) -> Self {
        self.align = bytes.max(page_size());
        self
    }

    /// Requests huge pages, or none.
    pub fn huge(mut self, huge: bool) -> Self {
        self.huge = Some(huge);
        self
    }

    /// Makes the memory shared with the children of this process.
    pub fn shared(mut self) -> Self {
        self.backing = Backing::SharedAnonymous;
        self
    }

    /// Maps the start of `file`, privately.
    pub fn private_file(mut self, file: File) -> Self {
        self.backing = Backing::PrivateFile(file);
        self
    }

    /// Maps the start of `file`, shared.
    pub fn shared_file(mut self, file: File) -> Self {
        self.backing = Backing::SharedFile(file);
        self
    }

    /// Allocates the memory from the pool of huge pages (hugetlbfs). Length and alignment must be
    /// multiples of the size of a huge page.
    pub fn hugetlb(mut self) -> Self {
        self.backing = Backing::Hugetlb;
        self
    }

    /// Maps the memory, readable and writable.
    ///
    /// # Errors
    ///
    /// The error of mmap or madvise.
    pub fn map(self) -> io::Result<Region> {
        let mapping = Mapping::new(&self.backing, self.pages * page_size(), self.align)?;
        let region = Region { mapping };
        if let Some(huge) = self.huge {
            let advice = if huge { Advice::Huge } else { Advice::NoHuge };
            // ENOTSUP or EINVAL: a kernel without huge pages does not have this advice.
            match region.advise(0..self.pages, advice) {
                Err(error) if !huge && error.raw_os_error() == Some(nix::libc::EINVAL) => {}
                answer => answer?,
            }
        }
        Ok(region)
    }
}

/// Mapped memory, unmapped on drop.
///
/// An access to an inaccessible page ends the process with SIGSEGV, as it should.
pub struct Region {
    mapping: Mapping,
}

impl Region {
    /// Describes a region of `pages` pages, private and anonymous by default.
    pub fn options(pages: usize) -> Options {
        Options {
            pages,
            align: page_size(),
            huge: None,
            backing: Backing::Anonymous,
        }
    }

    /// Maps `pages` private anonymous pages.
    ///
    /// # Errors
    ///
    /// The error of mmap.
    pub fn anonymous(pages: usize) -> io::Result<Self> {
        Self::options(pages).map()
    }

    /// Returns the first virtual address.
    pub fn addr(&self) -> u64 {
        self.mapping.addr() as u64
    }

    /// Returns the length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub fn len(&self) -> usize {
        self.mapping.len()
    }

    /// Returns the length in pages.
    pub fn pages(&self) -> usize {
        self.len() / page_size()
    }

    /// Returns the range of the whole region.
    pub fn range(&self) -> PageRange {
        self.part(0..self.pages())
    }

    /// Returns the range of the pages `pages`.
    ///
    /// # Panics
    ///
    /// If `pages` is empty or not inside the region.
    pub fn part(&self, pages: Range<usize>) -> PageRange {
        assert!(
            pages.start < pages.end && pages.end <= self.pages(),
            "pages {pages:?} of {}",
            self.pages()
        );
        let addr = self.addr() + (pages.start * page_size()) as u64;
        PageRange::new(addr, pages.len() as u64).expect("a mapping is aligned and does not wrap")
    }

    /// Returns the number of words (of 8 bytes) in a page.
    pub fn words_per_page() -> usize {
        page_size() / size_of::<u64>()
    }

    /// Reads a word; `index` counts words from the start.
    ///
    /// # Panics
    ///
    /// If the word is not inside the region.
    pub fn load(&self, index: usize) -> u64 {
        // A read whose result is unused must not be optimised away, because it faults.
        black_box(self.mapping.load(index))
    }

    /// Writes a word; `index` counts words from the start.
    ///
    /// # Panics
    ///
    /// If the word is not inside the region.
    pub fn store(&self, index: usize, word: u64) {
        self.mapping.store(index, word);
    }

    /// Adds to a word atomically, and returns the old value; `index` counts words from the start.
    ///
    /// # Panics
    ///
    /// If the word is not inside the region.
    pub fn fetch_add(&self, index: usize, number: u64) -> u64 {
        self.mapping.fetch_add(index, number)
    }

    /// Reads the first word of a page.
    pub fn touch(&self, page: usize) -> u64 {
        self.load(page * Self::words_per_page())
    }

    /// Returns whether every byte of the pages is zero.
    pub fn is_zero(&self, pages: Range<usize>) -> bool {
        let words = pages.start * Self::words_per_page()..pages.end * Self::words_per_page();
        words.into_iter().all(|index| self.load(index) == 0)
    }

    /// Returns a copy of the pages.
    pub fn to_bytes(&self, pages: Range<usize>) -> Vec<u8> {
        let words = pages.start * Self::words_per_page()..pages.end * Self::words_per_page();
        words
            .flat_map(|index| self.load(index).to_ne_bytes())
            .collect()
    }

    /// Changes the protection of the pages.
    ///
    /// # Errors
    ///
    /// The error of mprotect.
    pub fn protect(&self, pages: Range<usize>, protection: Protection) -> io::Result<()> {
        let part = self.part(pages);
        self.mapping
            .protect(self.offset(part), part.bytes() as usize, protection)
    }

    /// Gives the kernel advice about the pages.
    ///
    /// # Errors
    ///
    /// The error of madvise.
    pub fn advise(&self, pages: Range<usize>, advice: Advice) -> io::Result<()> {
        let part = self.part(pages);
        self.mapping
            .advise(self.offset(part), part.bytes() as usize, advice)
    }

    /// Replaces the pages with new anonymous memory that is shared with children.
    ///
    /// # Errors
    ///
    /// The error of mmap.
    pub fn replace_by_shared(&self, pages: Range<usize>) -> io::Result<()> {
        let part = self.part(pages);
        self.mapping.commit(
            &Backing::SharedAnonymous,
            self.offset(part),
            part.bytes() as usize,
        )
    }

    /// Replaces the pages with new anonymous memory (mmap with `MAP_FIXED`).
    ///
    /// # Errors
    ///
    /// The error of mmap.
    pub fn replace(&self, pages: Range<usize>) -> io::Result<()> {
        let part = self.part(pages);
        self.mapping.commit(
            &Backing::Anonymous,
            self.offset(part),
            part.bytes() as usize,
        )
    }

    /// Locks the pages in memory (mlock), which faults in missing ones.
    ///
    /// # Errors
    ///
    /// The error of mlock.
    pub fn lock(&self, pages: Range<usize>) -> io::Result<()> {
        let part = self.part(pages);
        self.mapping
            .lock(self.offset(part), part.bytes() as usize, true)
    }

    /// Undoes [`lock`](Self::lock).
    ///
    /// # Errors
    ///
    /// The error of munlock.
    pub fn unlock(&self, pages: Range<usize>) -> io::Result<()> {
        let part = self.part(pages);
        self.mapping
            .lock(self.offset(part), part.bytes() as usize, false)
    }

    /// Binds the pages to NUMA node `node`, and moves them there (mbind with `MPOL_BIND` and
    /// `MPOL_MF_MOVE`).
    ///
    /// # Errors
    ///
    /// The error of mbind.
    pub fn bind(&self, pages: Range<usize>, node: u32) -> io::Result<()> {
        let part = self.part(pages);
        self.mapping
            .bind(self.offset(part), part.bytes() as usize, node)
    }

    /// Splits the region, and returns the part from page `page` on. The address space does not
    /// change; dropping a part unmaps only that part.
    ///
    /// # Panics
    ///
    /// If a part would be empty.
    pub fn split_off(&mut self, page: usize) -> Self {
        assert!(
            page > 0 && page < self.pages(),
            "cut at page {page} of {}",
            self.pages()
        );
        Self {
            mapping: self.mapping.split_off(page * page_size()),
        }
    }

    /// Moves the whole mapping to another address (mremap).
    ///
    /// # Errors
    ///
    /// The error of mremap; the mapping is unmapped then.
    pub fn relocate(self) -> io::Result<Self> {
        let pages = self.pages();
        self.resize(pages)
    }

    /// Moves the mapping to another address, where it has `pages` pages (mremap): additional pages
    /// are empty, and surplus pages are unmapped.
    ///
    /// # Errors
    ///
    /// The error of mremap; the mapping is unmapped then.
    pub fn resize(self, pages: usize) -> io::Result<Self> {
        let mapping = self.mapping.relocate(pages * page_size())?;
        Ok(Self { mapping })
    }

    /// Moves the pages to a new region, and leaves this one mapped and empty
    /// (mremap with `MREMAP_DONTUNMAP`).
    ///
    /// # Errors
    ///
    /// The error of mremap.
    pub fn take_pages(&self) -> io::Result<Self> {
        let mapping = self.mapping.take_pages()?;
        Ok(Self { mapping })
    }

    pub(crate) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    fn offset(&self, part: PageRange) -> usize {
        (part.addr() - self.addr()) as usize
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Region({:#x}, {} pages)", self.addr(), self.pages())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_is_stored() {
        let region = Region::anonymous(3).unwrap();
        assert!(region.is_zero(0..3));
        let last = 3 * Region::words_per_page() - 1;
        region.store(last, 42);
        assert_eq!(region.load(last), 42);
        assert_eq!(
            region.to_bytes(2..3)[page_size() - 8..],
            42_u64.to_ne_bytes()
        );
    }

    #[test]
    fn is_aligned_as_asked() {
        let region = Region::options(1).align(2 << 20).map().unwrap();
        assert_eq!(region.addr() % (2 << 20), 0);
    }

    #[test]
    fn parts_live_on_their_own() {
        let mut head = Region::anonymous(4).unwrap();
        head.store(0, 1);
        let mut middle = head.split_off(1);
        let tail = middle.split_off(2);
        tail.store(0, 3);
        drop(middle);
        assert_eq!((head.pages(), tail.pages()), (1, 1));
        assert_eq!((head.load(0), tail.load(0)), (1, 3));
        assert_eq!(tail.addr() - head.addr(), 3 * page_size() as u64);
    }

    #[test]
    fn data_moves_along() {
        let region = Region::anonymous(2).unwrap();
        region.store(7, 9);
        let before = region.addr();
        let region = region.relocate().unwrap();
        assert_ne!(region.addr(), before);
        assert_eq!((region.load(7), region.pages()), (9, 2));
    }

    #[test]
    #[should_panic(expected = "outside")]
    fn access_is_checked() {
        let region = Region::anonymous(1).unwrap();
        region.load(Region::words_per_page());
    }
}
