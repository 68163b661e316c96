// SPDX-License-Identifier: GPL-2.0

//! Page frame numbers: only this file knows that device pages have them.
//!
//! C headers: [`include/linux/ioport.h`](srctree/include/linux/ioport.h),
//! [`include/linux/migrate.h`](srctree/include/linux/migrate.h).
//!
//! mm numbers device-private pages by physical addresses that address no memory. That is about to
//! change, so the rest of the crate uses the types of this file: [`PfnRange`] numbers the pages of
//! a device, [`Mpfn`] is an entry in the arrays of a migration, and [`Frame`] is the page frame
//! that a page table entry maps.

use core::ptr::NonNull;

use kernel::{
    error::from_err_ptr,
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
    str::CString,
};

use super::{DevicePages, HPAGE_PMD_NR, HPAGE_PMD_ORDER};
use crate::bindings;

/// The kind of a device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// CPUs cannot access it: `MEMORY_DEVICE_PRIVATE`.
    Private,
    /// CPUs access it like any other memory: `MEMORY_DEVICE_COHERENT`.
    Coherent,
}

/// The page frame numbers of a device's pages.
///
/// # Invariants
///
/// The range starts at a multiple of the section size (private) or of [`HPAGE_PMD_NR`] (coherent),
/// and nothing else uses these numbers until drop.
pub struct PfnRange {
    kind: Kind,
    first: usize,
    npages: usize,
    /// The claim on the addresses of private pages.
    _claim: Option<Claim>,
}

impl PfnRange {
    /// Finds free physical addresses for `npages` device-private pages, and claims them in
    /// `/proc/iomem` under a copy of `name`.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`ERANGE`] or [`EBUSY`] when no such range is free; [`EINVAL`] when `npages` is 0 or so
    /// large that its bytes overflow; [`ENOMEM`].
    ///
    /// C function: `request_free_mem_region()`.
    pub fn private(npages: usize, name: &CStr) -> Result<Self> {
        let size = npages.checked_mul(PAGE_SIZE).ok_or(EINVAL)?;
        if npages == 0 {
            return Err(EINVAL);
        }
        let name = CString::try_from_fmt(fmt!("{name}"))?;
        // SAFETY: `iomem_resource` lives for ever; the claim keeps the copy of the name until the
        // resource is released.
        let res = from_err_ptr(unsafe {
            bindings::request_free_mem_region(
                &raw mut bindings::iomem_resource,
                size,
                name.as_char_ptr(),
            )
        })?;
        // SAFETY: The resource was just created and is not freed before the claim is dropped.
        let start = unsafe { (*res).start };
        // SAFETY: The resource was just created and is not freed before the claim is dropped.
        let end = unsafe { (*res).end };
        // INVARIANT: The C function claims a range that starts at a section boundary.
        Ok(Self {
            kind: Kind::Private,
            first: (start >> PAGE_SHIFT) as usize,
            npages,
            _claim: Some(Claim {
                start,
                size: end - start + 1,
                _name: name,
            }),
        })
    }

    /// Returns the numbers of `npages` pages of coherent memory that start at physical address
    /// `start` (bytes).
    ///
    /// # Safety
    ///
    /// The range is memory that CPUs can access. It belongs to the caller alone until the
    /// [`DevPagemap`](super::DevPagemap) created from it is dropped.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when `npages` is 0 or not a multiple of [`HPAGE_PMD_NR`], when `start` is not a
    /// multiple of that many pages, or when the end of the range is above `u64::MAX`.
    pub unsafe fn coherent(start: u64, npages: usize) -> Result<Self> {
        let size = npages.checked_mul(PAGE_SIZE).ok_or(EINVAL)? as u64;
        start.checked_add(size).ok_or(EINVAL)?;
        if npages == 0 || npages % HPAGE_PMD_NR != 0 {
            return Err(EINVAL);
        }
        if start % (HPAGE_PMD_NR * PAGE_SIZE) as u64 != 0 {
            return Err(EINVAL);
        }
        // INVARIANT: The start was checked; the safety requirement guarantees the rest.
        Ok(Self {
            kind: Kind::Coherent,
            first: (start >> PAGE_SHIFT) as usize,
            npages,
            _claim: None,
        })
    }

    /// Returns the kind of memory.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the number of pages.
    pub fn npages(&self) -> usize {
        self.npages
    }

    /// Returns the physical addresses, in bytes, the end inclusive.
    ///
    /// mm registers whole subsections, of [`HPAGE_PMD_NR`] pages, and warns about any other range.
    /// So there may be pages after the last one that nobody ever uses; the claim of a private
    /// device reaches to the end of a section.
    pub(super) fn addresses(&self) -> bindings::range {
        let start = (self.first as u64) << PAGE_SHIFT;
        let npages = self.npages.next_multiple_of(HPAGE_PMD_NR);
        bindings::range {
            start,
            end: start + ((npages as u64) << PAGE_SHIFT) - 1,
        }
    }

    /// Returns the frame of page `index`.
    pub(super) fn frame(&self, index: usize) -> Frame {
        Frame(self.first + index)
    }

    /// Returns the first page frame number.
    pub(super) fn first(&self) -> usize {
        self.first
    }

    /// Returns the number of the page in `frame`, or `None` if the frame is outside the range.
    pub(crate) fn index_of(&self, frame: Frame) -> Option<usize> {
        let index = frame.0.checked_sub(self.first)?;
        (index < self.npages).then_some(index)
    }

    /// Returns the device pages in the `1 << order` page frames from `frame` on.
    pub(crate) fn pages_of(&self, frame: Frame, order: u32) -> Option<DevicePages> {
        DevicePages::new(self.index_of(frame)?, order).ok()
    }
}

/// Addresses claimed in `/proc/iomem`.
struct Claim {
    start: u64,
    size: u64,
    // The resource refers to the name, so the name is freed last.
    _name: CString,
}

impl Drop for Claim {
    fn drop(&mut self) {
        // SAFETY: `request_free_mem_region()` has claimed exactly this range for us, and we release
        // it once.
        unsafe {
            bindings::__release_region(&raw mut bindings::iomem_resource, self.start, self.size)
        };
    }
}

/// A page frame, of a system page or of a device page. This is plain data: the page may no longer
/// exist, or may belong to someone else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame(usize);

impl Frame {
    pub(crate) const fn new(pfn: usize) -> Self {
        Self(pfn)
    }

    /// Returns the page frame number, for a page table of the driver. A folio that one entry maps
    /// has consecutive numbers.
    pub const fn into_bits(self) -> usize {
        self.0
    }

    /// Returns the frame with a number from [`into_bits`](Self::into_bits).
    pub const fn from_bits(bits: usize) -> Self {
        Self(bits)
    }

    /// Returns the `struct page`. This is only an address: the page is valid as long as the caller
    /// knows that the frame is in use.
    pub fn page(self) -> *mut bindings::page {
        // SAFETY: With SPARSEMEM_VMEMMAP, which ZONE_DEVICE requires, the macro only computes an
        // address.
        unsafe { bindings::pfn_to_page(self.0) }
    }

    /// Returns the frame of a page.
    ///
    /// # Safety
    ///
    /// `page` points to a `struct page` of the memory map.
    pub(crate) unsafe fn of_page(page: *const bindings::page) -> Self {
        // SAFETY: The page belongs to the memory map, by the safety requirement.
        Self(unsafe { bindings::page_to_pfn(page) })
    }
}

/// An entry in the arrays of a migration: a page frame and flags, `MIGRATE_PFN_*`.
///
/// C header: [`include/linux/migrate.h`](srctree/include/linux/migrate.h).
#[derive(Clone, Copy)]
pub(crate) struct Mpfn(usize);

impl Mpfn {
    pub(crate) fn new(bits: usize) -> Self {
        Self(bits)
    }

    /// Creates the entry for a destination.
    pub(crate) fn of_destination(frame: Frame, order: u32) -> Self {
        let compound = if order > 0 {
            bindings::MIGRATE_PFN_COMPOUND
        } else {
            0
        };
        Self(frame.0 << bindings::MIGRATE_PFN_SHIFT | bindings::MIGRATE_PFN_VALID | compound)
    }

    pub(crate) fn into_bits(self) -> usize {
        self.0
    }

    /// Returns whether the page, or the hole, was collected, or has moved.
    pub(crate) fn is_migrating(self) -> bool {
        self.0 & bindings::MIGRATE_PFN_MIGRATE != 0
    }

    /// Returns whether the process can write to the page without a fault.
    pub(crate) fn is_writable(self) -> bool {
        self.0 & bindings::MIGRATE_PFN_WRITE != 0
    }

    /// Returns whether the entry belongs to a folio, or to a hole, of several pages.
    pub(crate) fn is_compound(self) -> bool {
        self.0 & bindings::MIGRATE_PFN_COMPOUND != 0
    }

    /// Returns the page frame, or `None` for a hole.
    pub(crate) fn frame(self) -> Option<Frame> {
        let frame = Frame(self.0 >> bindings::MIGRATE_PFN_SHIFT);
        (self.0 & bindings::MIGRATE_PFN_VALID != 0).then_some(frame)
    }

    /// Returns the entry that page `n` of the folio, or hole, would have after a split.
    pub(crate) fn piece(self, n: usize) -> Self {
        let step = self.frame().map_or(0, |_| n << bindings::MIGRATE_PFN_SHIFT);
        Self((self.0 & !bindings::MIGRATE_PFN_COMPOUND) + step)
    }

    /// Returns the order of the folio, or of the hole.
    ///
    /// # Safety
    ///
    /// If the entry has a page, the page is valid, and its folio is not split during the call.
    pub(crate) unsafe fn order(self) -> u32 {
        match (self.is_compound(), self.frame()) {
            (false, _) => 0,
            (true, None) => HPAGE_PMD_ORDER,
            (true, Some(frame)) => {
                // SAFETY: The page is valid, by the safety requirement.
                let folio = unsafe { bindings::page_folio(frame.page()) };
                // SAFETY: The page is valid, by the safety requirement.
                unsafe { bindings::folio_order(folio) }
            }
        }
    }
}

/// A page of the memory map.
pub(crate) type PagePtr = NonNull<bindings::page>;

/// Unlocks and puts the folio of a page frame.
///
/// # Safety
///
/// The caller owns the lock of the folio and a reference to it, and gives up both.
pub(crate) unsafe fn unlock_and_put(frame: Frame) {
    // SAFETY: The page is valid, because the caller has a reference to it.
    let folio = unsafe { bindings::page_folio(frame.page()) };
    // SAFETY: The caller owns the lock, by the safety requirement.
    unsafe { bindings::folio_unlock(folio) };
    // SAFETY: The caller owns the reference, by the safety requirement.
    unsafe { bindings::folio_put(folio) };
}

/// A reference to the folio of a page.
///
/// # Invariants
///
/// We own a reference to `folio`.
pub(crate) struct FolioRef(*mut bindings::folio);

/// Takes a reference to the folio of a page, unless the folio is free. Does not sleep.
pub(crate) fn try_get_page(page: PagePtr) -> Option<FolioRef> {
    // SAFETY: The page belongs to the memory map. The result may be stale.
    let folio = unsafe { bindings::page_folio(page.as_ptr()) };
    // SAFETY: The folio is a page of the memory map; the function takes no reference to a folio
    // that has none.
    if !unsafe { bindings::folio_try_get(folio) } {
        return None;
    }
    // INVARIANT: The reference was just taken.
    let folio = FolioRef(folio);
    // SAFETY: The page belongs to the memory map.
    let now = unsafe { bindings::page_folio(page.as_ptr()) };
    // Before we took the reference, the page may have become part of another folio.
    (now == folio.0).then_some(folio)
}

impl FolioRef {
    pub(crate) fn as_ptr(&self) -> *mut bindings::folio {
        self.0
    }
}

impl Drop for FolioRef {
    fn drop(&mut self) {
        // SAFETY: We own the reference, by the type invariant.
        unsafe { bindings::folio_put(self.0) };
    }
}
