// SPDX-License-Identifier: GPL-2.0

//! Folios of system memory: those that a migration reads, and those that it allocates as
//! destinations.
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

/// Pages of system memory that a migration reads or writes: a whole folio, or one page of it.
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

    /// Returns the `struct page` of page `n`, counted from 0, for hardware and C functions. The
    /// pointer is valid as long as `self`, and only a copy engine may write to the page.
    ///
    /// # Panics
    ///
    /// Panics if `n` is not less than [`npages`](Self::npages).
    pub fn page(&self, n: usize) -> *mut bindings::page {
        // PANIC: Callers keep `n` below `npages()`.
        assert!(n < self.npages());
        // SAFETY: The pages of a folio are consecutive in the memory map, and the folio has more
        // than `n` of them, by the type invariant.
        unsafe { self.page.as_ptr().add(n) }
    }

    /// Maps page `n`, counted from 0, for this CPU, and calls `f` with the address of its
    /// `PAGE_SIZE` bytes. The mapping ends when `f` returns. `f` should sleep no longer than
    /// necessary.
    ///
    /// # Panics
    ///
    /// Panics if `n` is not less than [`npages`](Self::npages).
    ///
    /// C function: `kmap_local_page()`.
    pub fn with_page<R>(&self, n: usize, f: impl FnOnce(NonNull<u8>) -> R) -> R {
        // SAFETY: The page is valid, by the type invariant.
        let address = unsafe { bindings::kmap_local_page(self.page(n)) };
        // SAFETY: Every page can be mapped, at a kernel address, which is not null.
        let result = f(unsafe { NonNull::new_unchecked(address.cast()) });
        // SAFETY: This is the address of the most recent mapping.
        unsafe { bindings::kunmap_local(address) };
        result
    }
}

/// The effort of an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reclaim {
    /// The same effort as for small pages of user memory.
    Default,
    /// Compacts memory once, and may fail: `__GFP_NORETRY`.
    NoRetry,
    /// Reclaims and compacts memory, but does not invoke the OOM killer: `__GFP_RETRY_MAYFAIL`.
    RetryMayFail,
}

/// A new folio of system memory that only the driver holds: reference count 1, locked, not mapped.
/// Dropping it frees it.
///
/// # Invariants
///
/// We have locked `folio` and own its only reference; it has `1 << order` pages.
pub(crate) struct SystemFolio {
    folio: NonNull<bindings::folio>,
    order: u32,
}

impl SystemFolio {
    /// Allocates a folio of `1 << order` pages for `address` (bytes) of a VMA, on the node that the
    /// VMA's memory policy chooses. Its content is undefined.
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
        // SAFETY: A `LockedVma` is valid and its `mmap_lock` is held; the address lies in it.
        let folio =
            unsafe { bindings::vma_alloc_folio_noprof(flags, order as i32, vma.as_ptr(), address) };
        let folio = NonNull::new(folio).ok_or(ENOMEM)?;
        // SAFETY: The folio is valid and ours. The function sleeps briefly if a page frame walker
        // has it locked.
        unsafe { bindings::folio_lock(folio.as_ptr()) };
        // INVARIANT: The folio is new, and was just locked.
        Ok(Self { folio, order })
    }

    /// Returns the order.
    pub(crate) fn order(&self) -> u32 {
        self.order
    }

    /// Consumes the value; the folio's lock and reference pass to the caller.
    pub(crate) fn into_frame(self) -> Frame {
        ManuallyDrop::new(self).frame()
    }

    fn frame(&self) -> Frame {
        // SAFETY: A folio begins with its first page, which belongs to the memory map.
        unsafe { Frame::of_page(self.folio.as_ptr().cast()) }
    }
}

impl Drop for SystemFolio {
    fn drop(&mut self) {
        // SAFETY: We alone hold the folio and its lock, and do not use it again.
        unsafe { unlock_and_put(self.frame()) };
    }
}
