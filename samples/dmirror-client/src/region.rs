// SPDX-License-Identifier: GPL-2.0

//! Memory mappings owned by a value.
//!
//! A [`Region`] is a mapping with an inaccessible guard page on either side, so
//! that the kernel never merges it with a neighbour: what `smaps` says of it is
//! about it alone. It is read and written in words, by relaxed atomic access,
//! because other threads, other processes and the device may work on it at the
//! same time; it never hands out references to its bytes.

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

/// How a [`Region`] is made; see [`Region::options`].
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

    /// Asks for huge pages, or for none.
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

    /// Takes the memory from the pool of huge pages (hugetlbfs). Length and
    /// alignment are multiples of the huge page's size.
    pub fn hugetlb(mut self) -> Self {
        self.backing = Backing::Hugetlb;
        self
    }

    /// Maps the memory, readable and writable.
    ///
    /// # Errors
    ///
    /// What mmap and madvise fail with.
    pub fn map(self) -> io::Result<Region> {
        let mapping = Mapping::new(&self.backing, self.pages * page_size(), self.align)?;
        let region = Region { mapping };
        if let Some(huge) = self.huge {
            let advice = if huge { Advice::Huge } else { Advice::NoHuge };
            // ENOTSUP and EINVAL: a kernel without huge pages has no hint about them.
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
/// Reading or writing a page that is not accessible ends the process with
/// SIGSEGV, as it should.
pub struct Region {
    mapping: Mapping,
}

impl Region {
    /// Starts to describe a region of `pages` pages: private and anonymous
    /// unless said otherwise.
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
    /// What mmap fails with.
    pub fn anonymous(pages: usize) -> io::Result<Self> {
        Self::options(pages).map()
    }

    /// The first virtual address.
    pub fn addr(&self) -> u64 {
        self.mapping.addr() as u64
    }

    /// The length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub fn len(&self) -> usize {
        self.mapping.len()
    }

    /// The length in pages.
    pub fn pages(&self) -> usize {
        self.len() / page_size()
    }

    /// All of it.
    pub fn range(&self) -> PageRange {
        self.part(0..self.pages())
    }

    /// The pages `pages` of it.
    ///
    /// # Panics
    ///
    /// If these are none, or not all inside.
    pub fn part(&self, pages: Range<usize>) -> PageRange {
        assert!(
            pages.start < pages.end && pages.end <= self.pages(),
            "pages {pages:?} of {}",
            self.pages()
        );
        let addr = self.addr() + (pages.start * page_size()) as u64;
        PageRange::new(addr, pages.len() as u64).expect("a mapping is aligned and does not wrap")
    }

    /// The words (of 8 bytes) in a page.
    pub fn words_per_page() -> usize {
        page_size() / size_of::<u64>()
    }

    /// Reads a word; `index` counts words from the start.
    ///
    /// # Panics
    ///
    /// If the word is not inside.
    pub fn load(&self, index: usize) -> u64 {
        // A read whose result is not used must happen too: it faults.
        black_box(self.mapping.load(index))
    }

    /// Writes a word; `index` counts words from the start.
    ///
    /// # Panics
    ///
    /// If the word is not inside.
    pub fn store(&self, index: usize, word: u64) {
        self.mapping.store(index, word);
    }

    /// Adds to a word, atomically, and returns what it was; `index` counts words from the
    /// start.
    ///
    /// # Panics
    ///
    /// If the word is not inside.
    pub fn fetch_add(&self, index: usize, number: u64) -> u64 {
        self.mapping.fetch_add(index, number)
    }

    /// Reads the first word of a page.
    pub fn touch(&self, page: usize) -> u64 {
        self.load(page * Self::words_per_page())
    }

    /// Whether every byte of the pages is zero.
    pub fn is_zero(&self, pages: Range<usize>) -> bool {
        let words = pages.start * Self::words_per_page()..pages.end * Self::words_per_page();
        words.into_iter().all(|index| self.load(index) == 0)
    }

    /// Copies pages out.
    pub fn to_bytes(&self, pages: Range<usize>) -> Vec<u8> {
        let words = pages.start * Self::words_per_page()..pages.end * Self::words_per_page();
        words
            .flat_map(|index| self.load(index).to_ne_bytes())
            .collect()
    }

    /// Changes what the program may do with the pages.
    ///
    /// # Errors
    ///
    /// What mprotect fails with.
    pub fn protect(&self, pages: Range<usize>, protection: Protection) -> io::Result<()> {
        let part = self.part(pages);
        self.mapping
            .protect(self.offset(part), part.bytes() as usize, protection)
    }

    /// Gives the kernel advice about the pages.
    ///
    /// # Errors
    ///
    /// What madvise fails with.
    pub fn advise(&self, pages: Range<usize>, advice: Advice) -> io::Result<()> {
        let part = self.part(pages);
        self.mapping
            .advise(self.offset(part), part.bytes() as usize, advice)
    }

    /// Replaces the pages by fresh anonymous memory that is shared with children.
    ///
    /// # Errors
    ///
    /// What mmap fails with.
    pub fn replace_by_shared(&self, pages: Range<usize>) -> io::Result<()> {
        let part = self.part(pages);
        self.mapping.commit(
            &Backing::SharedAnonymous,
            self.offset(part),
            part.bytes() as usize,
        )
    }

    /// Replaces the pages by fresh anonymous memory (mmap with `MAP_FIXED`).
    ///
    /// # Errors
    ///
    /// What mmap fails with.
    pub fn replace(&self, pages: Range<usize>) -> io::Result<()> {
        let part = self.part(pages);
        self.mapping.commit(
            &Backing::Anonymous,
            self.offset(part),
            part.bytes() as usize,
        )
    }

    /// Keeps the pages in memory (mlock), which faults in those that are not.
    ///
    /// # Errors
    ///
    /// What mlock fails with.
    pub fn lock(&self, pages: Range<usize>) -> io::Result<()> {
        let part = self.part(pages);
        self.mapping
            .lock(self.offset(part), part.bytes() as usize, true)
    }

    /// Undoes [`lock`](Self::lock).
    ///
    /// # Errors
    ///
    /// What munlock fails with.
    pub fn unlock(&self, pages: Range<usize>) -> io::Result<()> {
        let part = self.part(pages);
        self.mapping
            .lock(self.offset(part), part.bytes() as usize, false)
    }

    /// Has the pages be on NUMA node `node`, and moves them there (mbind with
    /// `MPOL_BIND` and `MPOL_MF_MOVE`).
    ///
    /// # Errors
    ///
    /// What mbind fails with.
    pub fn bind(&self, pages: Range<usize>, node: u32) -> io::Result<()> {
        let part = self.part(pages);
        self.mapping
            .bind(self.offset(part), part.bytes() as usize, node)
    }

    /// Cuts the region in two and returns the part from page `page` on. Nothing
    /// changes in the address space; dropping a part unmaps it alone.
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
    /// What mremap fails with; the mapping is then unmapped.
    pub fn relocate(self) -> io::Result<Self> {
        let pages = self.pages();
        self.resize(pages)
    }

    /// Moves the mapping to another address, where it is `pages` pages long
    /// (mremap): what is new is empty, what is too much is unmapped.
    ///
    /// # Errors
    ///
    /// What mremap fails with; the mapping is then unmapped.
    pub fn resize(self, pages: usize) -> io::Result<Self> {
        let mapping = self.mapping.relocate(pages * page_size())?;
        Ok(Self { mapping })
    }

    /// Moves the pages to a new region, and leaves this one mapped and empty
    /// (mremap with `MREMAP_DONTUNMAP`).
    ///
    /// # Errors
    ///
    /// What mremap fails with.
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
