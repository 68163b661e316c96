// SPDX-License-Identifier: GPL-2.0

//! Folios of system memory: those that a migration reads, and those that it allocates.
//!
//! C headers: [`include/linux/mm.h`](srctree/include/linux/mm.h),
//! [`include/linux/highmem.h`](srctree/include/linux/highmem.h).

use core::{marker::PhantomData, mem::ManuallyDrop, ptr::NonNull};

use kernel::prelude::*;

use crate::{
    bindings,
    memremap::{unlock_and_put, Frame},
    vma::LockedVma,
};

/// Pages of system memory that a migration reads or writes: a folio, or one page of it.
///
/// # Invariants
///
/// `page` is the first of `1 << order` pages of one folio, which a migration has locked and
/// unmapped, or has just allocated, for `'a`.
pub struct SystemPages<'a> {
    page: NonNull<bindings::page>,
    order: u32,
    _migration: PhantomData<&'a ()>,
}

impl SystemPages<'_> {
    /// # Safety
    ///
    /// The caller must uphold the type invariant.
    pub(crate) unsafe fn new(page: NonNull<bindings::page>, order: u32) -> Self {
        // INVARIANT: By the safety requirement.
        Self {
            page,
            order,
            _migration: PhantomData,
        }
    }

    /// Returns the number of pages.
    pub fn npages(&self) -> usize {
        1 << self.order
    }

    /// Returns page `n`, counted from 0, as hardware and C functions want it. It is valid for as
    /// long as `self` is, and only a copy engine may write to it.
    ///
    /// # Panics
    ///
    /// When there is no page `n`.
    pub fn page(&self, n: usize) -> *mut bindings::page {
        // PANIC: The caller counts to `npages()`.
        assert!(n < self.npages());
        // SAFETY: The pages of a folio follow one another in the memory map, and there are more
        // than `n`, by the type invariant.
        unsafe { self.page.as_ptr().add(n) }
    }

    /// Calls `f` with the address of page `n`, counted from 0, where it is mapped for this CPU
    /// meanwhile; `PAGE_SIZE` bytes. `f` must not sleep longer than it has to.
    ///
    /// # Panics
    ///
    /// When there is no page `n`.
    ///
    /// C function: `kmap_local_page()`.
    pub fn with_page<R>(&self, n: usize, f: impl FnOnce(NonNull<u8>) -> R) -> R {
        // SAFETY: The page is valid, by the type invariant.
        let address = unsafe { bindings::kmap_local_page(self.page(n)) };
        // SAFETY: Each page can be mapped, at an address of the kernel.
        let result = f(unsafe { NonNull::new_unchecked(address.cast()) });
        // SAFETY: It is the address of the mapping that was made last.
        unsafe { bindings::kunmap_local(address) };
        result
    }
}

/// How hard an allocation tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reclaim {
    /// As for small pages of user memory.
    Default,
    /// Compacts memory once, and takes a no: `__GFP_NORETRY`.
    NoRetry,
    /// Reclaims and compacts memory, but kills nobody: `__GFP_RETRY_MAYFAIL`.
    RetryMayFail,
}

/// A new folio of system memory that the driver alone holds: reference count 1, locked, mapped
/// nowhere. Dropping it frees it.
///
/// # Invariants
///
/// `folio` is locked by us and has one reference, which is ours, and `1 << order` pages.
pub(crate) struct SystemFolio {
    folio: NonNull<bindings::folio>,
    order: u32,
}

impl SystemFolio {
    /// Allocates a folio of `1 << order` pages for an address (bytes) of a VMA, whose memory
    /// policy says where. Its content is undefined.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when the address does not lie in the VMA; [`ENOMEM`].
    ///
    /// C function: `vma_alloc_folio()`.
    pub(crate) fn for_vma(
        vma: LockedVma<'_>,
        address: usize,
        order: u32,
        reclaim: Reclaim,
    ) -> Result<Self> {
        if !(vma.start()..vma.end()).contains(&address) {
            return Err(EINVAL);
        }
        let mut flags = bindings::GFP_HIGHUSER_MOVABLE | bindings::__GFP_NOWARN;
        match reclaim {
            Reclaim::Default => {}
            Reclaim::NoRetry => flags |= bindings::__GFP_NORETRY,
            Reclaim::RetryMayFail => flags |= bindings::__GFP_RETRY_MAYFAIL,
        }
        // SAFETY: A `LockedVma` is valid and its `mmap_lock` held; the address lies in it.
        let folio =
            unsafe { bindings::vma_alloc_folio_noprof(flags, order as i32, vma.as_ptr(), address) };
        let folio = NonNull::new(folio).ok_or(ENOMEM)?;
        // SAFETY: The folio is valid and ours. The function sleeps for a moment if somebody who
        // walks page frames has it locked.
        unsafe { bindings::folio_lock(folio.as_ptr()) };
        // INVARIANT: The folio is new, and was just locked.
        Ok(Self { folio, order })
    }

    /// Returns the order.
    pub(crate) fn order(&self) -> u32 {
        self.order
    }

    /// Gives up the folio; its lock and reference go to the caller.
    pub(crate) fn into_frame(self) -> Frame {
        ManuallyDrop::new(self).frame()
    }

    fn frame(&self) -> Frame {
        // SAFETY: A folio begins with its first page, which is one of the memory map.
        unsafe { Frame::of_page(self.folio.as_ptr().cast()) }
    }
}

impl Drop for SystemFolio {
    fn drop(&mut self) {
        // SAFETY: The folio is locked and held by us alone, and we use it no more.
        unsafe { unlock_and_put(self.frame()) };
    }
}
