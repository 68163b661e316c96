// SPDX-License-Identifier: GPL-2.0

//! Folios of the device that mm does not use, and the driver's data in them.
//!
//! C header: [`include/linux/memremap.h`](srctree/include/linux/memremap.h).

use core::{ffi::c_void, mem::ManuallyDrop, num::NonZero, ops::Range, ptr::null_mut};

use kernel::sync::Arc;

use super::{DevPagemap, DevPagemapOps, DevicePages, Frame, HPAGE_PMD_ORDER};
use crate::bindings;

/// The driver's data in each folio of its device while the folio is in use: `()` for nothing, or an
/// [`Arc`]. When a folio is split, each piece gets a clone.
///
/// C: `page.zone_device_data`.
pub trait FolioData: Clone + Send + Sync + Sized + 'static + private::Sealed {
    #[doc(hidden)]
    fn into_raw(self) -> *mut c_void;

    /// # Safety
    ///
    /// `raw` came from `into_raw()`, and this is called only once for it.
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
        // SAFETY: `raw` came from `Arc::into_raw()`, and is consumed once, by the safety
        // requirement.
        unsafe { Arc::from_raw(raw.cast_const().cast()) }
    }
}

/// Device pages that are reserved and not in use yet: reference count 0.
///
/// Nobody else can hold a reference to them. Dropping the value gives the pages back through
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
    /// The caller has just set the bits of `pages` in the ownership map, for the returned value
    /// alone.
    pub(super) fn new(pagemap: &'p DevPagemap<T>, pages: DevicePages, data: T::FolioData) -> Self {
        // INVARIANT: The caller has set the bits; only this module can call this function.
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

    /// Converts the folio into small pages, which the driver takes one by one and reports to its
    /// allocator.
    ///
    /// Does not sleep.
    pub fn into_pages(self) -> FreePages<'p, T> {
        let (pagemap, pages, data) = self.take_apart();
        FreePages::new(pagemap, pages.range(), data)
    }

    /// Returns whether the folio belongs to `pagemap`.
    pub(crate) fn is_of(&self, pagemap: &DevPagemap<T>) -> bool {
        core::ptr::eq(self.pagemap, pagemap)
    }

    /// Puts the folio in use: reference count 1, locked, with a reference to the pagemap for each
    /// page. The lock and the reference pass to the caller.
    ///
    /// May sleep if a page frame walker has the folio locked.
    ///
    /// C function: `zone_device_folio_init()`.
    pub(crate) fn init(self) -> Frame {
        let (pagemap, pages, data) = self.take_apart();
        let frame = pagemap.pfns().frame(pages.first());
        let folio: *mut bindings::folio = frame.page().cast();
        // SAFETY: The pages are free and ours, by the type invariant. The pagemap is alive, because
        // we borrow it, and its drop unmaps it only when no page has an owner.
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
        // SAFETY: This is the drop, after which nobody uses the data.
        let data = unsafe { ManuallyDrop::take(&mut self.data) };
        self.pagemap.release(self.pages, data);
    }
}

/// A run of device pages that are reserved and not in use yet, from which small folios are taken.
/// Dropping the value gives the remaining pages back through [`DevPagemapOps::folio_free`].
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
    /// The bits of `pages` are set in the ownership map, for the returned value alone: the caller
    /// has just set them, or has taken over those of a folio that no longer exists.
    pub(super) fn new(pagemap: &'p DevPagemap<T>, pages: Range<usize>, data: T::FolioData) -> Self {
        // INVARIANT: The caller has set the bits; only this module can call this function.
        Self {
            pagemap,
            pages,
            data,
        }
    }

    /// Returns the number of remaining pages.
    pub fn npages(&self) -> usize {
        self.pages.len()
    }

    /// Takes the first page, if one remains. Does not sleep.
    pub fn pop(&mut self) -> Option<FreeFolio<'p, T>> {
        let page = self.pages.next()?;
        let pages = DevicePages::new(page, 0).ok()?;
        // `self` no longer covers the page.
        Some(FreeFolio::new(self.pagemap, pages, self.data.clone()))
    }
}

impl<T: DevPagemapOps> Drop for FreePages<'_, T> {
    fn drop(&mut self) {
        while let Some(left) = NonZero::new(self.pages.len()) {
            // Make the runs as large as the alignment allows, so that there are few calls.
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
