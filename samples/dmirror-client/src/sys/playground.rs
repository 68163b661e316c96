// SPDX-License-Identifier: GPL-2.0

//! Requests with arbitrary numbers, kept away from memory that Rust uses.

use std::io;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::libc;
use nix::libc::c_ulong;

use super::Mapping;
use crate::abi;
use crate::device::Device;
use crate::mman::Backing;
use crate::mman::Protection;
use crate::range::{hpage_pmd_size, page_size};

/// Number of inaccessible bytes behind the usable ones, for buffers that are too long.
const TAIL: usize = 1 << 36;

/// No program has memory above this address, unless it asks for it (5-level page tables), or below
/// [`LOW_END`] (mmap_min_addr).
const USER_END: u64 = 1 << 47;
const LOW_END: u64 = 1 << 16;

/// Maximum reach of a request from an address outside the playground, in bytes.
const FEW_BYTES: u64 = 1 << 15;

/// Memory whose content has no meaning, with no accessible memory behind it for 64 GiB, and
/// requests that access no other memory of this process.
pub struct Playground {
    mapping: Mapping,
    len: usize,
}

impl Playground {
    /// Maps `len` bytes, readable and writable.
    ///
    /// # Errors
    ///
    /// The error of mmap.
    pub fn new(len: usize) -> io::Result<Self> {
        let mapping = Mapping::reserve(len + TAIL, hpage_pmd_size())?;
        mapping.commit(&Backing::Anonymous, 0, len)?;
        Ok(Self { mapping, len })
    }

    /// Returns the first address.
    pub fn addr(&self) -> u64 {
        self.mapping.addr() as u64
    }

    /// Returns the length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Changes the protection of `pages` pages from page `page` on.
    ///
    /// # Errors
    ///
    /// The error of mprotect.
    ///
    /// # Panics
    ///
    /// If not all of the pages are inside.
    pub fn protect(&self, page: usize, pages: usize, protection: Protection) -> io::Result<()> {
        assert!((page + pages) * page_size() <= self.len, "page {page}");
        let (offset, len) = (page * page_size(), pages * page_size());
        self.mapping.protect(offset, len, protection)
    }

    /// Reads a word; `index` counts words from the start.
    ///
    /// # Panics
    ///
    /// If the word is not inside.
    pub fn load(&self, index: usize) -> u64 {
        assert!(index < self.len / 8, "word {index}");
        self.mapping.load(index)
    }

    /// Writes a word; `index` counts words from the start.
    ///
    /// # Panics
    ///
    /// If the word is not inside.
    pub fn store(&self, index: usize, word: u64) {
        assert!(index < self.len / 8, "word {index}");
        self.mapping.store(index, word);
    }

    /// Sends any request with any argument to any file whose requests use no other pointers than
    /// those of this ABI.
    ///
    /// The struct is made from `words` if `argument` lies inside with room for it.
    ///
    /// # Errors
    ///
    /// The error of the kernel; `EADDRNOTAVAIL` for a request that could access memory of this
    /// process outside the playground, which is not sent.
    pub fn request(
        &self,
        file: BorrowedFd<'_>,
        request: u64,
        argument: u64,
        words: [u64; 5],
    ) -> Result<i32, Errno> {
        let [addr, ptr, npages, ..] = words;
        let size = page_size() as u64;
        let bytes = npages.saturating_mul(size).min(self.len as u64);
        // Wherever the struct is, it contains these words or its earlier content.
        self.confine(argument, 1 << 14)?;
        self.confine(addr, bytes)?;
        self.confine(ptr, bytes)?;
        if let Some(offset) = self.offset(argument, size_of_val(&words)) {
            if offset % 8 != 0 {
                return Err(Errno::EADDRNOTAVAIL);
            }
            for (nth, word) in words.into_iter().enumerate() {
                self.mapping.store(offset / 8 + nth, word);
            }
        } else if (LOW_END..USER_END).contains(&argument) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        // SAFETY: The kernel accesses the struct, and the range and the buffer in it. As checked
        // above, each of them lies in the playground, whose content has no meaning and which is
        // accessed only atomically, or where this process has no memory. A range that exceeds the
        // playground reaches its inaccessible tail first, beyond which the kernel does not
        // continue.
        let answer = unsafe { libc::ioctl(file.as_raw_fd(), request as c_ulong, argument) };
        Errno::result(answer)
    }

    /// Sends a command for queues with any struct to a device. The device accesses the packets that
    /// the struct may refer to.
    ///
    /// The struct is made from `words` if `argument` lies inside with room for it.
    ///
    /// # Errors
    ///
    /// The error of the kernel; `EADDRNOTAVAIL` for a command that is not for queues, or that could
    /// access memory of this process outside the playground, which is not sent.
    pub fn request_queues(
        &self,
        device: &Device,
        number: u32,
        argument: u64,
        words: &[u64],
    ) -> Result<(), Errno> {
        let refused = Err(Errno::EADDRNOTAVAIL);
        if !abi::takes_no_pointer(number) {
            return refused;
        }
        self.confine(argument, 1 << 14)?;
        if let Some(offset) = self.offset(argument, size_of_val(words)) {
            if offset % 8 != 0 {
                return refused;
            }
            for (nth, word) in words.iter().enumerate() {
                self.mapping.store(offset / 8 + nth, *word);
            }
        } else if (LOW_END..USER_END).contains(&argument) {
            return refused;
        }
        let request = abi::request::<[u8; 40]>(number);
        // SAFETY: The kernel accesses only the struct, and no memory that it refers to. The struct
        // is no longer than a page. As checked above, it lies in the playground, whose content has
        // no meaning, which is accessed only atomically, and which has nothing accessible behind
        // it; or where this process has no memory.
        let answer = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), request, argument) };
        Errno::result(answer).map(drop)
    }

    /// Returns the offset of `len` bytes from `addr` on in the usable part.
    fn offset(&self, addr: u64, len: usize) -> Option<usize> {
        let offset = usize::try_from(addr.checked_sub(self.addr())?).ok()?;
        let end = offset.checked_add(len)?;
        (end <= self.len).then_some(offset)
    }

    /// Refuses addresses from which `bytes` bytes could reach memory outside.
    fn confine(&self, addr: u64, bytes: u64) -> Result<(), Errno> {
        let inside = (self.addr()..self.addr() + self.len as u64).contains(&addr);
        let nowhere = !(LOW_END..USER_END).contains(&addr);
        let wraps = addr.checked_add(bytes.max(FEW_BYTES)).is_none();
        let few = bytes <= FEW_BYTES;
        if inside || (nowhere && (few || (!wraps && addr >= USER_END))) {
            return Ok(());
        }
        Err(Errno::EADDRNOTAVAIL)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn requests_stay_inside() {
        let ground = Playground::new(16 * page_size()).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let here = ground.addr();
        let send = |argument, words| ground.request(file.as_fd(), 0xc028_4800, argument, words);
        let word = Box::new(0_u64);
        let outside = std::ptr::from_ref(&*word) as u64;
        let sent = Err(Errno::ENOTTY);
        let refused = Err(Errno::EADDRNOTAVAIL);
        assert_eq!(send(here, [here, here, 1, 0, 0]), sent);
        assert_eq!(send(here, [u64::MAX, 0, 1, 0, 0]), sent);
        assert_eq!(send(0, [here, here, 1, 0, 0]), sent);
        assert_eq!(send(outside, [here, here, 1, 0, 0]), refused);
        assert_eq!(send(here, [outside, here, 1, 0, 0]), refused);
        assert_eq!(send(here, [here, outside, 1, 0, 0]), refused);
        assert_eq!(send(here, [here, 0, 1 << 20, 0, 0]), refused);
    }
}
