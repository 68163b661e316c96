// SPDX-License-Identifier: GPL-2.0

//! Folios of the device that are not in use by mm, and the driver's data in them.
//!
//! C header: [`include/linux/memremap.h`](srctree/include/linux/memremap.h).

use core::{ffi::c_void, mem::ManuallyDrop, num::NonZero, ops::Range, ptr::null_mut};

use kernel::sync::Arc;

use super::{DevPagemap, DevPagemapOps, DevicePages, Frame, HPAGE_PMD_ORDER};
use crate::bindings;

/// What a driver keeps in each folio of its device while that is in use: `()` for nothing, or an
/// [`Arc`]. A folio that is split has a clone of it in each piece.
///
/// C: `page.zone_device_data`.
pub trait FolioData: Clone + Send + Sync + Sized + 'static + private::Sealed {
    #[doc(hidden)]
    fn into_raw(self) -> *mut c_void;

    /// # Safety
    ///
    /// `raw` came from `into_raw()`, and this is called once for it.
    #[doc(hidden)]
    unsafe fn from_raw(raw: *mut c_void) -> Self;
}

mod private {
    /// Keeps others from implementing a trait.
    pub trait Sealed {}
    impl Sealed for () {}
    impl<T> Sealed for kernel::sync::Arc<T> {}
}

impl FolioData for () {
    fn into_raw(self) -> *mut c_void {
        null_mut()
    }

    unsafe fn from_raw(_: *mut c_void) -> Self {}
}

impl<T: Send + Sync + 'static> FolioData for Arc<T> {
    fn into_raw(self) -> *mut c_void {
        Arc::into_raw(self).cast_mut().cast()
    }

    unsafe fn from_raw(raw: *mut c_void) -> Self {
        // SAFETY: `raw` came from `Arc::into_raw()`, and is used once, by the safety requirement.
        unsafe { Arc::from_raw(raw.cast_const().cast()) }
    }
}

/// Pages of a device that are reserved and not in use yet: reference count 0.
///
/// Nobody else can hold a reference to them. Dropping it gives the pages back by
/// [`DevPagemapOps::folio_free`].
///
/// # Invariants
///
/// The bits of `pages` are set in the pagemap's ownership map, on behalf of this value alone.
pub struct FreeFolio<'p, T: DevPagemapOps> {
    pagemap: &'p DevPagemap<T>,
    pages: DevicePages,
    data: ManuallyDrop<T::FolioData>,
}

impl<'p, T: DevPagemapOps> FreeFolio<'p, T> {
    /// The bits of `pages` were just set in the ownership map, for the result alone.
    pub(super) fn new(pagemap: &'p DevPagemap<T>, pages: DevicePages, data: T::FolioData) -> Self {
        // INVARIANT: The caller has set the bits; this is private to the module.
        Self {
            pagemap,
            pages,
            data: ManuallyDrop::new(data),
        }
    }

    /// Returns the pages.
    pub fn pages(&self) -> DevicePages {
        self.pages
    }

    /// Makes small pages of it, for the driver to take one by one. The driver tells its allocator.
    ///
    /// Does not sleep.
    pub fn into_pages(self) -> FreePages<'p, T> {
        let (pagemap, pages, data) = self.take_apart();
        FreePages::new(pagemap, pages.range(), data)
    }

    /// Returns whether it is one of a pagemap.
    pub(crate) fn is_of(&self, pagemap: &DevPagemap<T>) -> bool {
        core::ptr::eq(self.pagemap, pagemap)
    }

    /// Puts the folio in use: reference count 1, locked, with a reference to the pagemap for each
    /// page. The lock and the reference go to the caller.
    ///
    /// May sleep, if somebody who walks page frames has the folio locked.
    ///
    /// C function: `zone_device_folio_init()`.
    pub(crate) fn init(self) -> Frame {
        let (pagemap, pages, data) = self.take_apart();
        let frame = pagemap.pfns().frame(pages.first());
        let folio: *mut bindings::folio = frame.page().cast();
        // SAFETY: The pages are free and ours, by the type invariant; the pagemap is alive,
        // because we borrow it, and its drop unmaps it only when no page has an owner.
        unsafe { bindings::zone_device_folio_init(folio, pagemap.as_raw(), pages.order()) };
        // SAFETY: We own the lock of the folio and the reference to it.
        unsafe { bindings::folio_set_zone_device_data(folio, data.into_raw()) };
        frame
    }

    fn take_apart(self) -> (&'p DevPagemap<T>, DevicePages, T::FolioData) {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: The data is not used again, because `this` is never dropped.
        let data = unsafe { ManuallyDrop::take(&mut this.data) };
        (this.pagemap, this.pages, data)
    }
}

impl<T: DevPagemapOps> Drop for FreeFolio<'_, T> {
    fn drop(&mut self) {
        // SAFETY: The data is not used again.
        let data = unsafe { ManuallyDrop::take(&mut self.data) };
        self.pagemap.release(self.pages, data);
    }
}

/// Pages of a device that are reserved and not in use yet, one after the other: small folios are
/// taken from it. Dropping it gives back those that are left, by [`DevPagemapOps::folio_free`].
///
/// # Invariants
///
/// The bits of `pages` are set in the pagemap's ownership map, on behalf of this value alone.
pub struct FreePages<'p, T: DevPagemapOps> {
    pagemap: &'p DevPagemap<T>,
    pages: Range<usize>,
    data: T::FolioData,
}

impl<'p, T: DevPagemapOps> FreePages<'p, T> {
    /// The bits of `pages` were just set in the ownership map, for the result alone, or are those
    /// of a folio that is no more.
    pub(super) fn new(pagemap: &'p DevPagemap<T>, pages: Range<usize>, data: T::FolioData) -> Self {
        // INVARIANT: The caller has set the bits; this is private to the module.
        Self {
            pagemap,
            pages,
            data,
        }
    }

    /// Returns the number of pages that are left.
    pub fn npages(&self) -> usize {
        self.pages.len()
    }

    /// Takes the first page, if one is left. Does not sleep.
    pub fn pop(&mut self) -> Option<FreeFolio<'p, T>> {
        let page = self.pages.next()?;
        let pages = DevicePages::new(page, 0).ok()?;
        // The page is no longer one of these.
        Some(FreeFolio::new(self.pagemap, pages, self.data.clone()))
    }
}

impl<T: DevPagemapOps> Drop for FreePages<'_, T> {
    fn drop(&mut self) {
        while let Some(left) = NonZero::new(self.pages.len()) {
            // As large as the pages are aligned, so that there are few calls.
            let order = left.ilog2().min(HPAGE_PMD_ORDER);
            let order = order.min(self.pages.start.trailing_zeros());
            let Ok(pages) = DevicePages::new(self.pages.start, order) else {
                return;
            };
            self.pages.start = pages.range().end;
            self.pagemap.release(pages, self.data.clone());
        }
    }
}
