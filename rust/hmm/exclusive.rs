// SPDX-License-Identifier: GPL-2.0

//! Exclusive access: a device performs atomic operations on a page, and no CPU interferes.
//!
//! C header: [`include/linux/rmap.h`](srctree/include/linux/rmap.h),
//! source: [`mm/rmap.c`](srctree/mm/rmap.c).

use core::{ffi::c_void, ptr::null_mut};

use kernel::{
    error::from_err_ptr,
    mm::{MmWithUser, MmapReadGuard},
    page::PAGE_SIZE,
    prelude::*,
};

use crate::{
    bindings,
    memremap::{unlock_and_put, Frame, Owner},
};

/// A page to which a device has exclusive access, as long as no CPU touches it. While this value
/// lives, its folio is locked: a CPU that needs the page back waits.
///
/// # Invariants
///
/// We own the lock of the frame's folio and a reference to that folio.
pub struct ExclusivePage {
    frame: Frame,
}

impl ExclusivePage {
    /// Makes the page at `address` (bytes, page aligned) exclusive to the devices of `owner`.
    ///
    /// May sleep. Faults the page in for writing, and locks its folio. Sends an
    /// [`Exclusive`](crate::interval::Event::Exclusive) event that carries the owner, in this task;
    /// a CPU that touches the page afterwards causes another such event and ends the exclusive
    /// access.
    ///
    /// # Errors
    ///
    /// [`EFAULT`] when no writable page is mapped at the address; `EOPNOTSUPP` when the page
    /// belongs to a file or to hugetlb; [`EINVAL`] when the address is not aligned, or when `mmap`
    /// locks another address space; [`EBUSY`] when someone else has the folio locked; [`EINTR`];
    /// [`ENOMEM`].
    ///
    /// C function: `make_device_exclusive()`.
    pub fn new(
        mm: &MmWithUser,
        mmap: &MmapReadGuard<'_>,
        address: usize,
        owner: &Owner,
    ) -> Result<Self> {
        // The guard proves that an `mmap_lock` is held, but not which one, so check that.
        let vma = mmap.vma_lookup(address).ok_or(EFAULT)?;
        if vma.mm().as_raw() != mm.as_raw() || address % PAGE_SIZE != 0 {
            return Err(EINVAL);
        }
        let owner: *mut c_void = owner.as_ptr();
        let mut folio = null_mut();
        // SAFETY: The address space has users, and its `mmap_lock` is held for reading.
        let page = from_err_ptr(unsafe {
            bindings::make_device_exclusive(mm.as_raw(), address, owner, &mut folio)
        })?;
        // INVARIANT: The C function has locked the folio, and has given us a reference to it.
        Ok(Self {
            // SAFETY: The page that the C function returned belongs to the memory map.
            frame: unsafe { Frame::of_page(page) },
        })
    }

    /// Returns the page frame.
    pub fn frame(&self) -> Frame {
        self.frame
    }
}

impl Drop for ExclusivePage {
    fn drop(&mut self) {
        // SAFETY: We own the lock and the reference, by the type invariant, and do not use them
        // again.
        unsafe { unlock_and_put(self.frame) };
    }
}
