// SPDX-License-Identifier: GPL-2.0

//! Words in pages that a device has mapped: read and written whole, and changed by its atomic
//! operations.

use kernel::{ffi::c_void, page::PAGE_SIZE, prelude::*};

use crate::{bindings, device::DeviceOps, view::ViewPages};

/// The size of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// 4 bytes.
    Four,
    /// 8 bytes.
    Eight,
}

impl Word {
    /// Returns the number of bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Four => 4,
            Self::Eight => 8,
        }
    }
}

const WORD: usize = Word::Eight.bytes();

impl<T: DeviceOps> ViewPages<'_, T> {
    /// Reads the word of 8 bytes at byte `offset` of the first page, a multiple of 8: all of it at
    /// once, whoever writes to it.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when the page has no such word; [`EIO`] when there is no memory behind a page of
    /// the device.
    pub fn read_word(&self, offset: usize) -> Result<u64> {
        check(offset, Word::Eight)?;
        // SAFETY: The address is that of an aligned word, as was checked.
        self.at(offset, |word| unsafe { bindings::read_sized(word, WORD) })
    }

    /// Writes the word of 8 bytes at byte `offset` of the first page, a multiple of 8: all of it at
    /// once, whoever reads it.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EPERM`] when the device may only read the page; as for [`read_word`](Self::read_word).
    pub fn write_word(&self, offset: usize, value: u64) -> Result {
        check(offset, Word::Eight)?;
        self.check_write()?;
        // SAFETY: The address is that of an aligned word, as was checked.
        self.at(offset, |word| unsafe {
            bindings::write_sized(word, value, WORD)
        })?;
        self.mark_dirty(1);
        Ok(())
    }

    /// Makes an atomic operation on the word at byte `offset` of the first page, a multiple of its
    /// size: `change` returns what is to be written in its place, if anything. Returns what was
    /// there.
    ///
    /// It is atomic to all that the device does in this way, not to what CPUs do: the word is read,
    /// and then written, as by a device on a bus that knows nothing else. To keep CPUs out is what
    /// exclusive access is for, or memory that they do not reach.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// As for [`write_word`](Self::write_word).
    pub fn read_modify_write(
        &self,
        offset: usize,
        size: Word,
        change: impl FnOnce(u64) -> Option<u64>,
    ) -> Result<u64> {
        check(offset, size)?;
        self.check_write()?;
        let unit = self.pagemap().ops().atomic_unit().lock();
        let found = self.at(offset, |word| {
            // SAFETY: The address is that of an aligned word, as was checked.
            let found = unsafe { bindings::read_sized(word, size.bytes()) };
            if let Some(value) = change(found) {
                // SAFETY: The address is that of an aligned word, as was checked.
                unsafe { bindings::write_sized(word, value, size.bytes()) };
            }
            found
        })?;
        drop(unit);
        self.mark_dirty(1);
        Ok(found)
    }

    /// Makes an operation on a word, as [`read_modify_write`](Self::read_modify_write) does, that
    /// is atomic to CPUs as well: as a device on a bus that can lock, which needs no exclusive
    /// access.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// As for [`write_word`](Self::write_word).
    pub fn bus_atomic(
        &self,
        offset: usize,
        size: Word,
        mut change: impl FnMut(u64) -> Option<u64>,
    ) -> Result<u64> {
        check(offset, size)?;
        self.check_write()?;
        let unit = self.pagemap().ops().atomic_unit().lock();
        let found = self.at(offset, |word| {
            // SAFETY: The address is that of an aligned word, as was checked.
            let mut found = unsafe { bindings::read_sized(word, size.bytes()) };
            while let Some(value) = change(found) {
                // SAFETY: The address is that of an aligned word, as was checked.
                let seen = unsafe { bindings::cmpxchg_sized(word, found, value, size.bytes()) };
                if seen == found {
                    break;
                }
                found = seen;
            }
            found
        })?;
        drop(unit);
        self.mark_dirty(1);
        Ok(found)
    }

    /// Calls `with` on the address of byte `offset` of the first page.
    fn at<R>(&self, offset: usize, with: impl FnOnce(*mut c_void) -> R) -> Result<R> {
        if let Some(bytes) = self.device_bytes()? {
            // SAFETY: The page has PAGE_SIZE bytes, and the offset is below that.
            let at = unsafe { bytes.add(offset) };
            return Ok(with(at.as_ptr().cast()));
        }
        // SAFETY: The page is valid, by the type invariant.
        let start = unsafe { bindings::kmap_local_page(self.frame().page()) };
        let result = with(start.cast::<u8>().wrapping_add(offset).cast());
        // SAFETY: It is the address of the mapping that was made last.
        unsafe { bindings::kunmap_local(start) };
        Ok(result)
    }
}

fn check(offset: usize, size: Word) -> Result {
    if offset % size.bytes() != 0 || offset >= PAGE_SIZE {
        return Err(EINVAL);
    }
    Ok(())
}
