// SPDX-License-Identifier: GPL-2.0

//! Requests with any numbers in them, kept away from the memory of Rust.

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
use crate::range::page_size;

/// Inaccessible bytes behind the usable ones: where a buffer goes that is longer.
const TAIL: usize = 1 << 36;

/// No program has memory from here on, unless it asks for it (5 levels of page
/// tables), nor below [`LOW_END`] (mmap_min_addr).
const USER_END: u64 = 1 << 47;
const LOW_END: u64 = 1 << 16;

/// How far a request may reach from an address outside of the playground.
const FEW_BYTES: u64 = 1 << 15;

/// Memory whose content means nothing, with nothing behind it for 64 GiB, and
/// requests that reach nothing else of this process.
pub struct Playground {
    mapping: Mapping,
    len: usize,
}

impl Playground {
    /// Maps `len` bytes, readable and writable.
    ///
    /// # Errors
    ///
    /// What mmap fails with.
    pub fn new(len: usize) -> io::Result<Self> {
        let mapping = Mapping::reserve(len + TAIL, 2 << 20)?;
        mapping.commit(&Backing::Anonymous, 0, len)?;
        Ok(Self { mapping, len })
    }

    /// The first address.
    pub fn addr(&self) -> u64 {
        self.mapping.addr() as u64
    }

    /// The length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Changes what the program may do with `pages` pages from page `page` on.
    ///
    /// # Errors
    ///
    /// What mprotect fails with.
    ///
    /// # Panics
    ///
    /// If they are not all inside.
    pub fn protect(&self, page: usize, pages: usize, protection: Protection) -> io::Result<()> {
        assert!((page + pages) * page_size() <= self.len, "page {page}");
        let (offset, len) = (page * page_size(), pages * page_size());
        self.mapping.protect(offset, len, protection)
    }

    /// Reads a word; `index` counts words from the start.
    ///
    /// # Panics
    ///
    /// If it is not inside.
    pub fn load(&self, index: usize) -> u64 {
        assert!(index < self.len / 8, "word {index}");
        self.mapping.load(index)
    }

    /// Writes a word; `index` counts words from the start.
    ///
    /// # Panics
    ///
    /// If it is not inside.
    pub fn store(&self, index: usize, word: u64) {
        assert!(index < self.len / 8, "word {index}");
        self.mapping.store(index, word);
    }

    /// Sends any request with any argument to any file that takes no other
    /// pointers than those of this ABI.
    ///
    /// The struct is made of `words` if `argument` lies inside with room for it.
    ///
    /// # Errors
    ///
    /// What the kernel answers; `EADDRNOTAVAIL` for what could reach memory of
    /// this process outside, which is not sent.
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
        // Wherever the struct is, it holds these words or what was there before.
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
        // SAFETY: the kernel accesses the struct, the range and the buffer that it
        // names. All of them lie in the playground, whose content means nothing and
        // which is accessed by atomics only, or where this process has no memory,
        // as has just been checked; a range that runs out of the playground meets
        // its inaccessible tail first, which the kernel does not pass.
        let answer = unsafe { libc::ioctl(file.as_raw_fd(), request as c_ulong, argument) };
        Errno::result(answer)
    }

    /// Sends a command about queues with any struct to a device. The packets that it may name
    /// are followed by the device.
    ///
    /// The struct is made of `words` if `argument` lies inside with room for it.
    ///
    /// # Errors
    ///
    /// What the kernel answers; `EADDRNOTAVAIL` for a command that is none about queues, and for
    /// what could reach memory of this process outside, which is not sent.
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
        // SAFETY: the kernel accesses the struct, and no memory that this names. It is at most as
        // long as a page, and lies in the playground, whose content means nothing and which is
        // accessed by atomics only, with nothing accessible behind it; or where this process has
        // no memory, as has just been checked.
        let answer = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), request, argument) };
        Errno::result(answer).map(drop)
    }

    /// Where `len` bytes from `addr` on are in the usable part.
    fn offset(&self, addr: u64, len: usize) -> Option<usize> {
        let offset = usize::try_from(addr.checked_sub(self.addr())?).ok()?;
        let end = offset.checked_add(len)?;
        (end <= self.len).then_some(offset)
    }

    /// Refuses addresses from which `bytes` bytes reach memory outside.
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
