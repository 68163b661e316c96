// SPDX-License-Identifier: GPL-2.0

//! Folios that a driver owns: free and locked ones of the device, and new ones of the system.
//!
//! C headers: [`include/linux/memremap.h`](srctree/include/linux/memremap.h),
//! [`include/linux/mm.h`](srctree/include/linux/mm.h).

use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use kernel::page::PAGE_SIZE;
use kernel::prelude::*;

use crate::bindings;
use crate::device::read_frame;
use crate::device::DevicePage;
use crate::ops::DevPagemapOps;
use crate::pagemap::DevPagemap;
use crate::pages::DevicePages;
use crate::slot::SystemPage;

/// Pages of a device that are taken for use and not in use yet: reference count 0.
///
/// Not a reference-counted object: nobody else can hold a reference to it. Dropping it gives the
/// pages back by [`DevPagemapOps::folio_free`].
///
/// # Invariants
///
/// The bits of `pages` are set in the pagemap's map of taken pages, on behalf of this value alone,
/// and there is memory behind each page.
pub struct FreeFolio<'p, T: DevPagemapOps> {
    pagemap: &'p DevPagemap<T>,
    pages: DevicePages,
}

impl<'p, T: DevPagemapOps> FreeFolio<'p, T> {
    /// # Safety
    ///
    /// The caller must uphold the type invariant.
    pub(crate) unsafe fn new(pagemap: &'p DevPagemap<T>, pages: DevicePages) -> Self {
        // INVARIANT: By the safety requirement.
        Self { pagemap, pages }
    }

    /// The pages.
    pub fn pages(&self) -> DevicePages {
        self.pages
    }

    /// Puts the folio in use: reference count 1, locked, with a reference to the pagemap for each
    /// page.
    ///
    /// May sleep, if somebody who walks page frames, such as an eviction of the same block, finds
    /// the page between its first reference and its lock; that one leaves it where it is, and
    /// unlocks it at the end of its pass.
    ///
    /// C function: `zone_device_folio_init()`.
    pub fn init(self) -> LockedFolio<'p, T> {
        // The pages go over to the `LockedFolio`.
        let this = ManuallyDrop::new(self);
        this.pagemap.note_in_use(this.pages);
        let pfn = this.pagemap.region().first_pfn() + this.pages.first();
        // SAFETY: The page frame number is inside the region, whose pages exist while the pagemap
        // does.
        let page = unsafe { bindings::pfn_to_page(pfn) };
        // SAFETY: The pages are free and ours by the type invariant; the pagemap is alive, because
        // we borrow it, and its drop unmaps only afterwards.
        unsafe {
            bindings::zone_device_folio_init(page.cast(), this.pagemap.as_raw(), this.pages.order())
        };
        // INVARIANT: The C function made it so.
        LockedFolio {
            pagemap: this.pagemap,
            pages: this.pages,
            filled: 0,
        }
    }
}

impl<'p, T: DevPagemapOps> FreeFolio<'p, T> {
    /// Makes two of it, each of half the size; the lower one first. Tells the driver by
    /// [`DevPagemapOps::folio_split`].
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] for a single page, which is freed.
    pub fn halve(self) -> Result<(Self, Self)> {
        let (low, high) = self.pages.halves().ok_or(EINVAL)?;
        let this = ManuallyDrop::new(self);
        let pagemap = this.pagemap;
        pagemap.ops().folio_split(low);
        pagemap.ops().folio_split(high);
        // INVARIANT: Each half of the pages has one owner, as the whole had.
        Ok((
            Self {
                pagemap,
                pages: low,
            },
            Self {
                pagemap,
                pages: high,
            },
        ))
    }
}

impl<T: DevPagemapOps> Drop for FreeFolio<'_, T> {
    fn drop(&mut self) {
        self.pagemap.note_in_use(self.pages);
        self.pagemap.release(self.pages);
    }
}

/// A folio of the device that the driver alone holds: reference count 1, locked, mapped nowhere.
///
/// Fill its pages one after the other, then give it to a migration as destination. Dropping it
/// puts it, which gives the pages back by [`DevPagemapOps::folio_free`].
///
/// # Invariants
///
/// The folio covers `pages`, is locked by us and has one reference that is ours; who walks page
/// frames may have another for a moment, but cannot lock it. There is memory behind each page, and
/// the first `filled` pages hold what the driver put there.
pub struct LockedFolio<'p, T: DevPagemapOps> {
    pagemap: &'p DevPagemap<T>,
    pages: DevicePages,
    filled: usize,
}

impl<T: DevPagemapOps> LockedFolio<'_, T> {
    /// The pages.
    pub fn pages(&self) -> DevicePages {
        self.pages
    }

    /// Fills the next page of the folio with a copy of a system page.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when all pages are filled.
    pub fn fill_from(&mut self, from: &SystemPage<'_>) -> Result {
        let frame = self.frame(self.filled)?;
        // SAFETY: The frame has PAGE_SIZE bytes and is ours alone, by the type invariant; the
        // page is valid by that of `SystemPage`.
        unsafe { bindings::memcpy_from_page(frame.as_ptr().cast(), from.as_raw(), 0, PAGE_SIZE) };
        self.filled += 1;
        Ok(())
    }

    /// Fills the next page of the folio with zeroes.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when all pages are filled.
    pub fn fill_zero(&mut self) -> Result {
        let frame = self.frame(self.filled)?;
        // SAFETY: The frame has PAGE_SIZE bytes and is ours alone, by the type invariant.
        unsafe { frame.as_ptr().write_bytes(0, PAGE_SIZE) };
        self.filled += 1;
        Ok(())
    }

    /// Whether every page was filled.
    pub fn is_filled(&self) -> bool {
        self.filled == self.pages.npages()
    }

    /// Copies page `nth` (counted from 0) of the folio to `out`.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when that page was not filled, or `out` is not `PAGE_SIZE` bytes long.
    pub fn read(&self, nth: usize, out: &mut [u8]) -> Result {
        if nth >= self.filled {
            return Err(EINVAL);
        }
        read_frame(self.frame(nth)?, out)
    }

    fn frame(&self, nth: usize) -> Result<NonNull<u8>> {
        if nth >= self.pages.npages() {
            return Err(EINVAL);
        }
        let vram = self.pagemap.region().vram();
        vram.frame(self.pages.first() + nth).ok_or(EINVAL)
    }

    pub(crate) fn is_of(&self, pagemap: &DevPagemap<T>) -> bool {
        core::ptr::eq(self.pagemap, pagemap)
    }

    /// Gives up the folio; its lock and reference go to the caller.
    pub(crate) fn into_pfn(self) -> usize {
        let this = ManuallyDrop::new(self);
        this.pagemap.region().first_pfn() + this.pages.first()
    }
}

impl<T: DevPagemapOps> Drop for LockedFolio<'_, T> {
    fn drop(&mut self) {
        let pfn = self.pagemap.region().first_pfn() + self.pages.first();
        // SAFETY: The folio is locked and held by us alone, and we use it no more.
        unsafe { unlock_and_put(pfn) };
    }
}

/// A new folio of system memory that the driver alone holds: reference count 1, locked, mapped
/// nowhere. Fill its pages one after the other, then give it to a migration as destination.
/// Dropping it frees it.
///
/// # Invariants
///
/// `folio` is locked by us and has one reference, which is ours, and `1 << order` pages, of which
/// the first `filled` hold what the driver put there.
pub struct SystemFolio {
    folio: NonNull<bindings::folio>,
    order: u32,
    filled: usize,
}

/// What an allocation does to succeed.
#[derive(Clone, Copy)]
pub(crate) enum Effort {
    /// As for small pages of user memory.
    Usual,
    /// Compacts memory once, and takes a no (`__GFP_NORETRY`).
    Little,
    /// It reclaims and compacts memory, but kills nobody (`__GFP_RETRY_MAYFAIL`).
    Much,
}

impl SystemFolio {
    /// Allocates a folio of `1 << order` pages for an address (bytes) of a VMA, whose memory policy
    /// says where. Its content is undefined.
    ///
    /// May sleep.
    ///
    /// # Safety
    ///
    /// The VMA is valid, its `mmap_lock` is held, and the address lies in it.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    ///
    /// C function: `vma_alloc_folio()`.
    pub(crate) unsafe fn for_vma(
        vma: *mut bindings::vm_area_struct,
        address: usize,
        order: u32,
        effort: Effort,
    ) -> Result<Self> {
        let mut flags = bindings::GFP_HIGHUSER_MOVABLE | bindings::__GFP_NOWARN;
        match effort {
            Effort::Usual => {}
            Effort::Little => flags |= bindings::__GFP_NORETRY,
            Effort::Much => flags |= bindings::__GFP_RETRY_MAYFAIL,
        }
        // SAFETY: By the safety requirement.
        let folio = unsafe { bindings::vma_alloc_folio_noprof(flags, order as i32, vma, address) };
        // SAFETY: It was just allocated.
        unsafe { Self::from_new(folio, order) }
    }

    /// Takes over a folio that C has just allocated, and locks it.
    ///
    /// # Safety
    ///
    /// `folio` is null, or a new folio of that order with one reference, which goes to the result.
    pub(crate) unsafe fn from_new(folio: *mut bindings::folio, order: u32) -> Result<Self> {
        let folio = NonNull::new(folio).ok_or(ENOMEM)?;
        // SAFETY: The folio is valid and ours. It sleeps for a moment if somebody who walks page
        // frames has it locked.
        unsafe { bindings::folio_lock(folio.as_ptr()) };
        // INVARIANT: By the safety requirement, and as it was just locked.
        Ok(Self {
            folio,
            order,
            filled: 0,
        })
    }

    /// Allocates a folio of `1 << order` pages for user memory, with no particular VMA in mind.
    /// Its content is undefined.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    ///
    /// C function: `folio_alloc()`.
    pub(crate) fn new(order: u32) -> Result<Self> {
        // SAFETY: May be called in any context that may sleep.
        let folio = unsafe {
            bindings::folio_alloc_noprof(
                bindings::GFP_HIGHUSER_MOVABLE
                    | bindings::__GFP_NOWARN
                    | bindings::__GFP_RETRY_MAYFAIL,
                order,
            )
        };
        // SAFETY: It was just allocated.
        unsafe { Self::from_new(folio, order) }
    }

    /// The order of the folio.
    pub fn order(&self) -> u32 {
        self.order
    }

    /// Fills the next page of the folio with a copy of a page of the device.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when all pages are filled; [`EIO`] when the device page has no memory.
    pub fn fill_from<T: DevPagemapOps>(&mut self, from: &DevicePage<'_, T>) -> Result {
        if self.is_filled() {
            return Err(EINVAL);
        }
        let frame = from.frame()?;
        let first: *mut bindings::page = self.folio.as_ptr().cast();
        // SAFETY: The folio has more than `filled` pages.
        let page = unsafe { first.add(self.filled) };
        // SAFETY: The page is ours alone; the frame has PAGE_SIZE bytes, and nobody writes to it
        // while `from` lives.
        unsafe { bindings::memcpy_to_page(page, 0, frame.as_ptr().cast(), PAGE_SIZE) };
        self.filled += 1;
        Ok(())
    }

    /// Whether every page was filled.
    pub fn is_filled(&self) -> bool {
        self.filled == 1 << self.order
    }

    /// Gives up the folio; its lock and reference go to the caller.
    pub(crate) fn into_pfn(self) -> usize {
        let this = ManuallyDrop::new(self);
        // SAFETY: The folio is valid by the type invariant.
        unsafe { bindings::folio_pfn(this.folio.as_ptr()) }
    }
}

impl Drop for SystemFolio {
    fn drop(&mut self) {
        // SAFETY: The folio is valid by the type invariant.
        let pfn = unsafe { bindings::folio_pfn(self.folio.as_ptr()) };
        // SAFETY: The folio is locked and held by us alone, and we use it no more.
        unsafe { unlock_and_put(pfn) };
    }
}

/// Unlocks and puts the folio of a page frame.
///
/// # Safety
///
/// The caller owns the lock of the folio and a reference to it, and uses neither again.
pub(crate) unsafe fn unlock_and_put(pfn: usize) {
    // SAFETY: The page exists, because the caller has a reference to it.
    let page = unsafe { bindings::pfn_to_page(pfn) };
    // SAFETY: As above.
    let folio = unsafe { bindings::page_folio(page) };
    // SAFETY: The caller owns the lock.
    unsafe { bindings::folio_unlock(folio) };
    // SAFETY: The caller owns the reference.
    unsafe { bindings::folio_put(folio) };
}
