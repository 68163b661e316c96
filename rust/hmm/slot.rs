// SPDX-License-Identifier: GPL-2.0

//! The places of a migration: what stands there, and where its destination goes.
//!
//! C header: [`include/linux/migrate.h`](srctree/include/linux/migrate.h),
//! `struct migrate_vma`, members `src` and `dst`.

use core::marker::PhantomData;
use core::ptr::NonNull;

use kernel::page::PAGE_SIZE;
use kernel::prelude::*;

use crate::bindings;
use crate::device::DevicePage;
use crate::direction::Direction;
use crate::direction::ToDevice;
use crate::direction::ToSystem;
use crate::folio::Effort;
use crate::folio::FreeFolio;
use crate::folio::LockedFolio;
use crate::folio::SystemFolio;
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
    src: &'s [usize],
    dst: &'s mut [usize],
    direction: &'s D,
    target: Target,
}

impl<'s, D: Direction> Slots<'s, D> {
    /// # Safety
    ///
    /// The slices are the entries of a migration in direction `direction` that has collected its
    /// pages and keeps them so for `'s`, of one length; `target` belongs to the same migration.
    pub(crate) unsafe fn new(
        src: &'s [usize],
        dst: &'s mut [usize],
        direction: &'s D,
        target: Target,
    ) -> Self {
        // INVARIANT: By the safety requirement.
        Self {
            nth: 0,
            src,
            dst,
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
            let src = *self.src.first()?;
            let len = (1 << order_of(src)).min(self.src.len());
            let (dst, rest) = core::mem::take(&mut self.dst).split_at_mut(len);
            self.src = &self.src[len..];
            self.dst = rest;
            // INVARIANT: By the type invariant.
            let slot = Slot {
                nth: self.nth,
                src,
                dst,
                direction: self.direction,
                target: self.target,
            };
            self.nth += len;
            if src & bindings::MIGRATE_PFN_MIGRATE != 0 && slot.dst[0] == 0 && slot.is_usable() {
                return Some(slot);
            }
        }
    }
}

/// A folio of the range that can be migrated, or a hole, and the place for its destination.
///
/// # Invariants
///
/// The migration that this is a part of has collected its pages, and keeps them so for `'s`. `dst`
/// has an entry for each page.
pub struct Slot<'s, D: Direction> {
    nth: usize,
    src: usize,
    dst: &'s mut [usize],
    direction: &'s D,
    target: Target,
}

impl<'s, D: Direction> Slot<'s, D> {
    /// Where in the range this is, in pages, counted from 0.
    pub fn nth(&self) -> usize {
        self.nth
    }

    /// The order of the folio, or of the hole: 0, or [`PMD_ORDER`](crate::PMD_ORDER). A destination
    /// has the same one; where there is none of that order, see [`split`](Self::split).
    pub fn order(&self) -> u32 {
        order_of(self.src)
    }

    /// Whether the process can write to it without a fault; what it may share with another process,
    /// it cannot. Does not sleep.
    pub fn is_writable(&self) -> bool {
        self.src & bindings::MIGRATE_PFN_WRITE != 0
    }

    /// Whether [`split`](Self::split) can do it: there is a VMA, and this is a hole, or a folio that
    /// no other process can share, or that of a CPU's fault. Does not sleep.
    ///
    /// mm splits a folio that is collected in the page table of the VMA alone
    /// (`migrate_vma_split_unmapped_folio()`). That of another process would keep the entry of a
    /// huge page for what is none any more; mm puts such entries back for small pages, and ends in
    /// a `VM_BUG_ON_FOLIO()`, or in wrong memory. To split folios that are shared, collect with
    /// [`Huge::Split`](crate::Huge::Split).
    pub fn can_split(&self) -> bool {
        let is_alone = pfn_of(self.src).is_none() || self.is_writable();
        self.target.is_some() && (is_alone || self.direction.keeps_shared_whole())
    }

    /// What stands here; for a folio of several pages, its first page.
    pub fn source(&self) -> Source<'s, D::Ops> {
        self.source_at(0)
    }

    /// What stands `nth` pages after the start of the folio or hole.
    ///
    /// Beyond its end, that is a hole.
    pub fn source_at(&self, nth: usize) -> Source<'s, D::Ops> {
        let pagemap = self.direction.pagemap();
        let Some(pfn) = pfn_of(self.src).filter(|_| nth < 1 << self.order()) else {
            return Source::Hole;
        };
        let pfn = pfn + nth;
        match pagemap.index_of(pfn) {
            // SAFETY: The migration has collected the folio of the page, which is one of this
            // pagemap.
            Some(index) => Source::Device(unsafe { DevicePage::new(pagemap, index) }),
            None => {
                // SAFETY: The migration has a reference to the folio that the page belongs to.
                let page = unsafe { bindings::pfn_to_page(pfn) };
                match NonNull::new(page) {
                    // INVARIANT: The migration has collected the page.
                    Some(page) => Source::System(SystemPage {
                        page,
                        _migration: PhantomData,
                    }),
                    None => Source::Hole,
                }
            }
        }
    }

    /// Gives up on one destination for all pages: each gets one of its own. The folio is split when
    /// the migration is committed.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] when it cannot be split in this migration; see [`can_split`](Self::can_split). The
    /// folio stays where it is.
    pub fn split(self) -> Result<SplitSlot<'s, D>> {
        if !self.can_split() {
            return Err(EBUSY);
        }
        Ok(SplitSlot {
            slot: self,
            next: 0,
        })
    }

    /// Whether there can be a destination.
    ///
    /// Not for pages of files: they cannot go to a device, and those of `memfd_secret()` cannot
    /// even be read. Not for pages of another device, nor for system pages on the way to system
    /// memory, which C collects in some cases. Not for folios of the device that are not in use by
    /// mm yet, or no more, which an eviction can find while their migration is about to lock or to
    /// put them: those are not anonymous yet, and nobody is charged for these any more.
    fn is_usable(&self) -> bool {
        let Some(pfn) = pfn_of(self.src) else {
            return D::FROM_SYSTEM;
        };
        // SAFETY: The migration has the folio locked and a reference to it, by the type invariant.
        let page = unsafe { bindings::pfn_to_page(pfn) };
        // SAFETY: As above.
        let folio = unsafe { bindings::page_folio(page) };
        // SAFETY: As above.
        if !unsafe { bindings::folio_test_anon(folio) } {
            return false;
        }
        if D::FROM_SYSTEM {
            // SAFETY: As above.
            return !unsafe { bindings::is_zone_device_page(page) };
        }
        // SAFETY: As above. The charge changes under the lock of the folio alone.
        let charged = unsafe { bindings::folio_memcg_charged(folio) };
        // SAFETY: A static key may be read at any time.
        let is_in_use = charged || unsafe { bindings::mem_cgroup_disabled() };
        is_in_use && self.direction.pagemap().index_of(pfn).is_some()
    }

    fn put(self, pfn: usize, order: u32) {
        let compound = if order > 0 {
            bindings::MIGRATE_PFN_COMPOUND
        } else {
            0
        };
        self.dst[0] = pfn << bindings::MIGRATE_PFN_SHIFT | bindings::MIGRATE_PFN_VALID | compound;
    }
}

/// A folio, or a hole, of several pages that each get a destination of their own: all of them, or
/// none, which [`Migration::commit`](crate::Migration::commit) sees to.
pub struct SplitSlot<'s, D: Direction> {
    slot: Slot<'s, D>,
    next: usize,
}

impl<'s, D: Direction> SplitSlot<'s, D> {
    /// The next page, in order. Does not sleep.
    #[expect(
        clippy::should_implement_trait,
        reason = "what it lends depends on the borrow"
    )]
    pub fn next(&mut self) -> Option<Slot<'_, D>> {
        let nth = self.next;
        let dst = self.slot.dst.get_mut(nth..nth + 1)?;
        self.next += 1;
        let pfn = pfn_of(self.slot.src).map_or(0, |_| nth << bindings::MIGRATE_PFN_SHIFT);
        // INVARIANT: By that of the folio; the entry is that of its page.
        Some(Slot {
            nth: self.slot.nth + nth,
            src: (self.slot.src & !bindings::MIGRATE_PFN_COMPOUND) + pfn,
            dst,
            direction: self.slot.direction,
            target: self.slot.target,
        })
    }
}

impl<T: DevPagemapOps> Slot<'_, ToDevice<'_, T>> {
    /// Copies the pages to a folio, or zeroes it for a hole, and gives it as destination.
    ///
    /// Sleeps for no longer than [`FreeFolio::init`].
    ///
    /// # Errors
    ///
    /// As [`give`](Self::give).
    pub fn fill(self, folio: FreeFolio<'_, T>) -> Result {
        let mut folio = folio.init();
        for nth in 0..folio.pages().npages() {
            match self.source_at(nth) {
                Source::System(page) => folio.fill_from(&page)?,
                Source::Hole => folio.fill_zero()?,
                Source::Device(_) => return Err(EINVAL),
            }
        }
        self.give(folio)
    }

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
    /// Allocates a destination as the VMA's memory policy wants it, if there is a VMA, or takes one
    /// that was allocated before. Its content is undefined until it is filled.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], and what [`DevPagemapOps::before_system_alloc`] returns.
    ///
    /// C functions: `vma_alloc_folio()`, `folio_alloc()`.
    pub fn alloc(&self) -> Result<SystemFolio> {
        let order = self.order();
        if order > 0 {
            if let Some(folio) = self.direction.take_spare() {
                return Ok(folio);
            }
        }
        let ops = self.direction.pagemap().ops();
        ops.before_system_alloc(order)?;
        let Some((vma, start)) = self.target else {
            return SystemFolio::new(order);
        };
        let effort = match order {
            0 => Effort::Usual,
            // Small pages do as well.
            _ if self.can_split() => Effort::Little,
            _ => Effort::Much,
        };
        // SAFETY: The VMA is valid and locked while the migration lives, and the address lies in it.
        unsafe { SystemFolio::for_vma(vma, start + self.nth * PAGE_SIZE, order, effort) }
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

    /// Allocates a destination, has the driver copy the device pages to it, and gives it. When
    /// there is no memory for a large folio, its pages get one each, if it can be split.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// As [`alloc`](Self::alloc), and what [`DevPagemapOps::copy_to_system`] returns.
    pub fn fill_system(self) -> Result {
        match self.alloc() {
            Ok(folio) => self.copy_and_give(folio),
            Err(_) if self.order() > 0 && self.can_split() => {
                let mut small = self.split()?;
                while let Some(slot) = small.next() {
                    let folio = slot.alloc()?;
                    slot.copy_and_give(folio)?;
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn copy_and_give(self, mut folio: SystemFolio) -> Result {
        let pagemap = self.direction.pagemap();
        for nth in 0..1 << self.order() {
            let Source::Device(page) = self.source_at(nth) else {
                return Err(EINVAL);
            };
            pagemap.ops().copy_to_system(&page, &mut folio)?;
        }
        self.give(folio)
    }
}

/// The page frame number of a slot, if it has a page.
fn pfn_of(slot: usize) -> Option<usize> {
    (slot & bindings::MIGRATE_PFN_VALID != 0).then_some(slot >> bindings::MIGRATE_PFN_SHIFT)
}

/// The order of the folio of a slot.
pub(crate) fn order_of(slot: usize) -> u32 {
    if slot & bindings::MIGRATE_PFN_COMPOUND == 0 {
        0
    } else {
        crate::PMD_ORDER
    }
}
