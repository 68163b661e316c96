// SPDX-License-Identifier: GPL-2.0

//! The places of a migration: what stands there, and where its destination goes.
//!
//! C header: [`include/linux/migrate.h`](srctree/include/linux/migrate.h),
//! `struct migrate_vma`, members `src` and `dst`.

use core::marker::PhantomData;
use core::ptr::NonNull;
use core::slice;

use kernel::page::PAGE_SIZE;
use kernel::prelude::*;

use crate::bindings;
use crate::device::DevicePage;
use crate::folio::LockedFolio;
use crate::folio::SystemFolio;
use crate::migrate::Direction;
use crate::migrate::ToDevice;
use crate::migrate::ToSystem;
use crate::ops::DevPagemapOps;

/// What stands at a place of the range that is being migrated.
pub enum Source<'s, T: DevPagemapOps> {
    /// Nothing, or the zero page: the destination is to be zeroed.
    Hole,
    /// A page of system memory.
    System(SystemPage<'s>),
    /// A page that is on this device.
    Device(DevicePage<'s, T>),
}

/// A page of system memory that a migration has collected: locked, unmapped, with stable content.
///
/// # Invariants
///
/// `page` is valid, locked and unmapped for `'s`.
pub struct SystemPage<'s> {
    page: NonNull<bindings::page>,
    _migration: PhantomData<&'s ()>,
}

impl SystemPage<'_> {
    pub(crate) fn as_raw(&self) -> *mut bindings::page {
        self.page.as_ptr()
    }
}

/// The VMA of a range that is migrated, and the first address of the range.
type Target = Option<(*mut bindings::vm_area_struct, usize)>;

/// The places of a migration that wait for a destination: see
/// [`Migration::slots`](crate::Migration::slots).
///
/// # Invariants
///
/// As for [`Slot`]: the entries are those of a migration that keeps its pages collected for `'s`.
pub struct Slots<'s, D: Direction> {
    nth: usize,
    src: slice::Iter<'s, usize>,
    dst: slice::IterMut<'s, usize>,
    direction: &'s D,
    target: Target,
}

impl<'s, D: Direction> Slots<'s, D> {
    /// # Safety
    ///
    /// The slices are the entries of a migration in direction `direction` that has collected its
    /// pages and keeps them so for `'s`; `target` belongs to the same migration.
    pub(crate) unsafe fn new(
        src: &'s [usize],
        dst: &'s mut [usize],
        direction: &'s D,
        target: Target,
    ) -> Self {
        // INVARIANT: By the safety requirement.
        Self {
            nth: 0,
            src: src.iter(),
            dst: dst.iter_mut(),
            direction,
            target,
        }
    }
}

// Not put together from the adapters of `core`: objtool warns of symbols with names that long.
impl<'s, D: Direction> Iterator for Slots<'s, D> {
    type Item = Slot<'s, D>;

    fn next(&mut self) -> Option<Slot<'s, D>> {
        loop {
            // INVARIANT: By the type invariant.
            let slot = Slot {
                nth: self.nth,
                src: *self.src.next()?,
                dst: self.dst.next()?,
                direction: self.direction,
                target: self.target,
            };
            self.nth += 1;
            if slot.src & bindings::MIGRATE_PFN_MIGRATE != 0 && *slot.dst == 0 && slot.is_usable() {
                return Some(slot);
            }
        }
    }
}

/// A folio of the range that can be migrated, or a hole, and the place for its destination.
///
/// # Invariants
///
/// The migration that this is a part of has collected its pages, and keeps them so for `'s`.
pub struct Slot<'s, D: Direction> {
    nth: usize,
    src: usize,
    dst: &'s mut usize,
    direction: &'s D,
    target: Target,
}

impl<'s, D: Direction> Slot<'s, D> {
    /// Where in the range this is, in pages, counted from 0.
    pub fn nth(&self) -> usize {
        self.nth
    }

    /// The order that the destination must have.
    pub fn order(&self) -> u32 {
        order_of(self.src)
    }

    /// What stands here; for a folio of several pages, its first page.
    pub fn source(&self) -> Source<'s, D::Ops> {
        let pagemap = self.direction.pagemap();
        match page_of(self.src) {
            None => Source::Hole,
            Some(page) if is_private(page) => match self.device_index() {
                // SAFETY: The migration has collected the page, which is one of this pagemap.
                Some(index) => Source::Device(unsafe { DevicePage::new(pagemap, index) }),
                // Not reached, because `is_usable` is checked first.
                None => Source::Hole,
            },
            // INVARIANT: The migration has collected the page.
            Some(page) => Source::System(SystemPage {
                page,
                _migration: PhantomData,
            }),
        }
    }

    /// Whether there can be a destination.
    ///
    /// Not for pages of files: they cannot go to a device, and those of `memfd_secret()` cannot
    /// even be read. Not for pages of another device, whose content nobody here can read; the owner
    /// that C was given keeps those out already.
    fn is_usable(&self) -> bool {
        match page_of(self.src) {
            None => true,
            Some(page) if is_private(page) => self.device_index().is_some(),
            Some(page) => is_anonymous(page),
        }
    }

    /// The number of the page on this device that stands here.
    fn device_index(&self) -> Option<usize> {
        let pfn = self.src >> bindings::MIGRATE_PFN_SHIFT;
        self.direction.pagemap().index_of(pfn)
    }

    fn put(self, pfn: usize, order: u32) {
        let compound = if order > 0 {
            bindings::MIGRATE_PFN_COMPOUND
        } else {
            0
        };
        *self.dst = pfn << bindings::MIGRATE_PFN_SHIFT | bindings::MIGRATE_PFN_VALID | compound;
    }
}

impl<T: DevPagemapOps> Slot<'_, ToDevice<'_, T>> {
    /// Gives the destination.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when the folio is one of another device or of another order, or has pages that
    /// were not filled. The folio is put, and the page stays where it is.
    pub fn give(self, folio: LockedFolio<'_, T>) -> Result {
        let order = folio.pages().order();
        let pagemap = self.direction.pagemap();
        if !folio.is_of(pagemap) || order != self.order() || !folio.is_filled() {
            return Err(EINVAL);
        }
        self.put(folio.into_pfn(), order);
        Ok(())
    }
}

impl<T: DevPagemapOps> Slot<'_, ToSystem<'_, T>> {
    /// Allocates a destination as the VMA's memory policy wants it, if there is a VMA. Its content
    /// is undefined until it is filled.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    ///
    /// C functions: `vma_alloc_folio()`, `folio_alloc()`.
    pub fn alloc(&self) -> Result<SystemFolio> {
        let Some((vma, start)) = self.target else {
            return SystemFolio::new(self.order());
        };
        // SAFETY: The VMA is valid while the migration lives, and the address lies in it.
        let folio = unsafe {
            bindings::vma_alloc_folio_noprof(
                bindings::GFP_HIGHUSER_MOVABLE | bindings::__GFP_NOWARN,
                self.order() as i32,
                vma,
                start + self.nth * PAGE_SIZE,
            )
        };
        // SAFETY: It was just allocated.
        unsafe { SystemFolio::from_new(folio, self.order()) }
    }

    /// Gives the destination.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when the folio is of another order, or has pages that were not filled. The folio
    /// is freed, and the page stays where it is.
    pub fn give(self, folio: SystemFolio) -> Result {
        let order = folio.order();
        if order != self.order() || !folio.is_filled() {
            return Err(EINVAL);
        }
        self.put(folio.into_pfn(), order);
        Ok(())
    }

    /// Allocates a destination, has the driver copy the device pages to it, and gives it. Does
    /// nothing for a hole.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// As [`alloc`](Self::alloc), and what [`DevPagemapOps::copy_to_system`] returns.
    pub fn fill_system(self) -> Result {
        let Source::Device(first) = self.source() else {
            return Ok(());
        };
        let pagemap = self.direction.pagemap();
        let mut folio = self.alloc()?;
        for nth in 0..1 << self.order() {
            // SAFETY: The migration has collected the folio that all these pages belong to.
            let page = unsafe { DevicePage::new(pagemap, first.index() + nth) };
            pagemap.ops().copy_to_system(&page, &mut folio)?;
        }
        self.give(folio)
    }
}

/// The page of a slot, if it has one.
fn page_of(slot: usize) -> Option<NonNull<bindings::page>> {
    if slot & bindings::MIGRATE_PFN_VALID == 0 {
        return None;
    }
    // SAFETY: The slot was filled by C with the number of a page that exists.
    NonNull::new(unsafe { bindings::pfn_to_page(slot >> bindings::MIGRATE_PFN_SHIFT) })
}

/// Whether a page of a slot is device private memory.
fn is_private(page: NonNull<bindings::page>) -> bool {
    // SAFETY: The page is valid, because the migration has a reference to it.
    unsafe { bindings::is_device_private_page(page.as_ptr()) }
}

/// Whether a page of a slot is anonymous memory.
fn is_anonymous(page: NonNull<bindings::page>) -> bool {
    // SAFETY: The page is valid, because the migration has a reference to it.
    let folio = unsafe { bindings::page_folio(page.as_ptr()) };
    // SAFETY: As above.
    unsafe { bindings::folio_test_anon(folio) }
}

/// The order of the folio of a slot.
pub(crate) fn order_of(slot: usize) -> u32 {
    if slot & bindings::MIGRATE_PFN_COMPOUND == 0 {
        0
    } else {
        crate::PMD_ORDER
    }
}
