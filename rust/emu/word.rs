// SPDX-License-Identifier: GPL-2.0

//! Words in pages that a device maps: read and written in a single access, and changed by the
//! device's atomic operations.

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
    /// Reads the word of 8 bytes at byte `offset` of the first page, a multiple of 8, in a single
    /// access: concurrent writers cannot tear it.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when the page has no such word; [`EIO`] when a page of the device has no memory.
    pub fn read_word(&self, offset: usize) -> Result<u64> {
        check(offset, Word::Eight)?;
        // SAFETY: The address is that of an aligned word, as was checked.
        self.at(offset, |word| unsafe { bindings::read_sized(word, WORD) })
    }

    /// Writes the word of 8 bytes at byte `offset` of the first page, a multiple of 8, in a single
    /// access: concurrent readers do not see a part of it.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EPERM`] when the device may only read the page; otherwise as for
    /// [`read_word`](Self::read_word).
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

    /// Performs an atomic operation on the word at byte `offset` of the first page, a multiple of
    /// the word's size: `change` returns the value to write, if any. Returns the old value.
    ///
    /// The operation is atomic with respect to this device's other atomic operations, but not to
    /// CPUs: it reads the word and then writes it, like a device on a bus without atomic
    /// operations. To keep CPUs out, use exclusive access, or memory that CPUs cannot access.
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

    /// Performs an operation on a word, as [`read_modify_write`](Self::read_modify_write) does, but
    /// atomic with respect to CPUs too, like a device on a bus with atomic operations. Needs no
    /// exclusive access.
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
        // SAFETY: This is the address of the most recent mapping.
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
