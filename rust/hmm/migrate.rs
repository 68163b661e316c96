// SPDX-License-Identifier: GPL-2.0

//! Migration of pages between a process's system memory and a device.
//!
//! C header: [`include/linux/migrate.h`](srctree/include/linux/migrate.h),
//! source: [`mm/migrate_device.c`](srctree/mm/migrate_device.c).
//!
//! Locks: a VMA migration wants the `mmap_lock` (held for reading at least, shown as
//! [`LockedVma`]); a [`Migration`] holds the locks of the folios that it has collected.

use core::marker::PhantomData;
use core::ops::Range;
use core::ptr::NonNull;

use kernel::page::PAGE_SHIFT;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;

use crate::bindings;
use crate::direction::Direction;
use crate::direction::ToDevice;
use crate::direction::ToSystem;
use crate::folio::unlock_and_put;
use crate::folio::SystemFolio;
use crate::ops::DevPagemapOps;
use crate::pagemap::DevPagemap;
use crate::region::Kind;
use crate::slot::order_of;
use crate::slot::Slots;
use crate::vma::LockedVma;
use crate::window::PfnSlots;
use crate::window::Window;

/// State of a migration whose pages are collected: locked, unmapped, waiting for destinations.
pub struct Collected(());

/// State of a migration that has done its work; what moved can be told.
pub struct Migrated(());

/// What to do with a huge page that lies in the range as a whole, and with a hole of that size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Huge {
    /// Split it, and migrate small pages.
    Split,
    /// Migrate it whole: its slot has order [`PMD_ORDER`](crate::PMD_ORDER).
    Keep,
}

impl Huge {
    fn select(self) -> u32 {
        match self {
            Self::Split => 0,
            Self::Keep => bindings::migrate_vma_direction_MIGRATE_VMA_SELECT_COMPOUND,
        }
    }
}

/// Pages on their way between system and device memory.
///
/// ```text
/// to_device(), to_system(), evict()         commit()
/// -----------> Migration<Collected> -----------------> Migration<Migrated>
///               slots(): look, give      moved()             | drop
///                    | drop                                  v
///                    +-----------------------> pages are mapped again, unlocked, put
/// ```
///
/// While one lives, its owner must not touch user memory: a fault on a page of the migration would
/// wait for the migration, for ever.
///
/// Whatever state it is dropped in, the C protocol is completed: pages that moved are mapped at
/// their new place, all others at their old one, and unused destinations are freed.
///
/// # Examples
///
/// ```ignore
/// let vma = LockedVma::lookup(&mmap, addr).ok_or(EINVAL)?;
/// let mut migration =
///     Migration::to_device(vma, addr..end, Huge::Split, &pagemap, &mut window)?;
/// for slot in migration.slots() {
///     let folio = my_alloc(&pagemap)?;
///     slot.fill(folio)?;
/// }
/// let moved = migration.commit().moved();
/// ```
pub struct Migration<'a, S, D> {
    inner: Inner<'a>,
    direction: D,
    _state: PhantomData<S>,
}

impl<'a, T: DevPagemapOps> Migration<'a, Collected, ToDevice<'a, T>> {
    /// Collects those pages of `range` (bytes, page aligned, the end exclusive) that are in system
    /// memory, and holes, for a migration to the device. The range must lie in the VMA and must not
    /// have more pages than the window.
    ///
    /// May sleep. Locks the folios that it collects; those that are locked by others are left out.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when the range is not as above, or the VMA is of a kind that never migrates:
    /// hugetlb, DAX, or mapped by a device.
    ///
    /// C function: `migrate_vma_setup()`.
    pub fn to_device(
        vma: LockedVma<'a>,
        range: Range<usize>,
        huge: Huge,
        pagemap: &'a DevPagemap<T>,
        window: &'a mut Window,
    ) -> Result<Self> {
        let flags = bindings::migrate_vma_direction_MIGRATE_VMA_SELECT_SYSTEM | huge.select();
        let slots = window.slots(range.len() >> PAGE_SHIFT)?;
        let inner = Inner::of_vma(vma, range, flags, pagemap, slots, None)?;
        Ok(Self::collected(inner, ToDevice(pagemap)))
    }
}

impl<'a, T: DevPagemapOps> Migration<'a, Collected, ToSystem<'a, T>> {
    /// Collects those pages of `range` (bytes, page aligned, the end exclusive) that are on the
    /// device for a migration to system memory. The range must lie in the VMA and must not have more
    /// pages than the window. [`DevPagemap::bring_back`] is for all that want no say in it.
    ///
    /// May sleep. Locks the folios that it collects; those that are locked by others are left out.
    ///
    /// # Errors
    ///
    /// [`EINVAL`], as for [`to_device`](Migration::to_device).
    ///
    /// C function: `migrate_vma_setup()`.
    pub fn to_system(
        vma: LockedVma<'a>,
        range: Range<usize>,
        huge: Huge,
        pagemap: &'a DevPagemap<T>,
        window: &'a mut Window,
    ) -> Result<Self> {
        let slots = window.slots(range.len() >> PAGE_SHIFT)?;
        Self::from_vma(vma, range, huge, pagemap, slots, None, None)
    }

    /// As [`to_system`](Self::to_system), for a CPU fault on `fault_page`, which the core has
    /// locked and will unlock. `spare` is for the first huge page.
    pub(crate) fn from_vma(
        vma: LockedVma<'a>,
        range: Range<usize>,
        huge: Huge,
        pagemap: &'a DevPagemap<T>,
        slots: PfnSlots<'a>,
        fault_page: Option<NonNull<bindings::page>>,
        spare: Option<SystemFolio>,
    ) -> Result<Self> {
        let select = match pagemap.region().kind() {
            Kind::Private => bindings::migrate_vma_direction_MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
            Kind::Coherent => bindings::migrate_vma_direction_MIGRATE_VMA_SELECT_DEVICE_COHERENT,
        };
        let flags = select | huge.select();
        let inner = Inner::of_vma(vma, range, flags, pagemap, slots, fault_page)?;
        let direction = ToSystem::new(pagemap, spare, fault_page.is_some());
        Ok(Self::collected(inner, direction))
    }

    /// Frees the destination that was allocated before, if it was not taken.
    pub(crate) fn drop_spare(&self) {
        drop(self.direction.take_spare());
    }

    /// Collects the device pages `pages` (counted from the start of the region, the end exclusive)
    /// for a migration to system memory, whoever maps them. No more than the window has.
    ///
    /// May sleep. Locks the folios that it collects; free pages, and those that are locked by
    /// others, are left out.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when the region or the window has no such pages.
    ///
    /// C function: `migrate_device_range()`.
    pub fn evict(
        pagemap: &'a DevPagemap<T>,
        pages: Range<usize>,
        window: &'a mut Window,
    ) -> Result<Self> {
        if pages.end > pagemap.region().npages() {
            return Err(EINVAL);
        }
        let slots = window.slots(pages.len())?;
        // SAFETY: There are as many source slots as pages, and each of the pages exists.
        let ret = unsafe {
            bindings::migrate_device_range(
                slots.src.as_mut_ptr(),
                pagemap.region().first_pfn() + pages.start,
                pages.len(),
            )
        };
        kernel::error::to_result(ret)?;
        slots.dst.fill(0);
        let inner = Inner {
            slots,
            vma: None,
            phase: Phase::Collected,
        };
        Ok(Self::collected(inner, ToSystem::new(pagemap, None, false)))
    }
}

impl<'a, D: Direction> Migration<'a, Collected, D> {
    fn collected(inner: Inner<'a>, direction: D) -> Self {
        direction.pagemap().ops().between(D::STEPS[0]);
        Self {
            inner,
            direction,
            _state: PhantomData,
        }
    }

    /// The pages that can be migrated and have no destination yet, in the order of the range. Does
    /// not sleep.
    pub fn slots(&mut self) -> Slots<'_, D> {
        let target = self.inner.vma.as_ref();
        let target = target.map(|args| (args.raw.vma, args.raw.start));
        let PfnSlots { src, dst } = &mut self.inner.slots;
        // SAFETY: These are the entries of this migration, which cannot be committed or dropped
        // while they are borrowed.
        unsafe { Slots::new(src, dst, &self.direction, target) }
    }

    /// Moves the pages that have a destination. Their content must have been copied.
    ///
    /// May sleep. The folios stay locked, and unmapped, until the result is dropped.
    ///
    /// C functions: `migrate_vma_pages()`, `migrate_device_pages()`.
    pub fn commit(mut self) -> Migration<'a, Migrated, D> {
        let ops = self.direction.pagemap().ops();
        ops.between(D::STEPS[1]);
        self.inner.move_pages();
        ops.between(D::STEPS[2]);
        Migration {
            inner: self.inner,
            direction: self.direction,
            _state: PhantomData,
        }
    }
}

impl<D: Direction> Migration<'_, Migrated, D> {
    /// The number of pages that moved. Does not sleep.
    pub fn moved(&self) -> usize {
        let mut moved = 0;
        let PfnSlots { dst, .. } = &self.inner.slots;
        for (nth, &dst) in dst.iter().enumerate() {
            if self.has_moved(nth) {
                moved += 1 << order_of(dst);
            }
        }
        moved
    }

    /// Whether page `nth` of the range (counted from 0) moved. Of a folio of several pages that
    /// moved whole, only the first says so. Does not sleep.
    pub fn has_moved(&self, nth: usize) -> bool {
        let src = self.inner.slots.src.get(nth).copied().unwrap_or(0);
        let dst = self.inner.slots.dst.get(nth).copied().unwrap_or(0);
        src & bindings::MIGRATE_PFN_MIGRATE != 0 && dst & bindings::MIGRATE_PFN_VALID != 0
    }

    /// The addresses of the range, if there was a VMA.
    pub(crate) fn range(&self) -> Option<Range<usize>> {
        let args = self.inner.vma.as_ref()?;
        Some(args.raw.start..args.raw.end)
    }

    /// The address space, if there was a VMA.
    pub(crate) fn mm(&self) -> Option<*mut bindings::mm_struct> {
        let args = self.inner.vma.as_ref()?;
        // SAFETY: The VMA is valid while the migration lives.
        Some(unsafe { (*args.raw.vma).vm_mm })
    }

    pub(crate) fn pagemap(&self) -> &DevPagemap<D::Ops> {
        self.direction.pagemap()
    }

    /// What moved `nth` pages from the start of the range: the page frame number of its new place,
    /// its order, and whether the process may write to it without a fault.
    pub(crate) fn destination(&self, nth: usize) -> Option<(usize, u32, bool)> {
        if !self.has_moved(nth) {
            return None;
        }
        let dst = self.inner.slots.dst[nth];
        let writable = self.inner.slots.src[nth] & bindings::MIGRATE_PFN_WRITE != 0;
        Some((dst >> bindings::MIGRATE_PFN_SHIFT, order_of(dst), writable))
    }
}

enum Phase {
    Collected,
    Migrated,
}

/// The argument of the VMA functions; its pointers to the slots are set before each call.
struct VmaArgs<'a> {
    raw: bindings::migrate_vma,
    _vma: PhantomData<LockedVma<'a>>,
}

/// A migration in either state: what its drop needs to know.
///
/// # Invariants
///
/// The slots were filled by `migrate_vma_setup()`, if there is a VMA, or `migrate_device_range()`,
/// and not yet finalized. In phase `Collected`, each destination is a folio that we have locked and
/// hold; in phase `Migrated`, the C functions that move pages were called.
struct Inner<'a> {
    slots: PfnSlots<'a>,
    vma: Option<VmaArgs<'a>>,
    phase: Phase,
}

impl<'a> Inner<'a> {
    fn of_vma<T: DevPagemapOps>(
        vma: LockedVma<'a>,
        range: Range<usize>,
        flags: u32,
        pagemap: &DevPagemap<T>,
        slots: PfnSlots<'a>,
        fault_page: Option<NonNull<bindings::page>>,
    ) -> Result<Self> {
        if (range.start | range.end) % PAGE_SIZE != 0
            || range.start >= range.end
            || (range.end - range.start) >> PAGE_SHIFT != slots.src.len()
        {
            return Err(EINVAL);
        }
        let mut args = VmaArgs {
            raw: bindings::migrate_vma {
                vma: vma.as_ptr(),
                start: range.start,
                end: range.end,
                pgmap_owner: pagemap.owner(),
                flags: flags as usize,
                fault_page: fault_page.map_or(core::ptr::null_mut(), NonNull::as_ptr),
                ..Default::default()
            },
            _vma: PhantomData,
        };
        // The arrays may come from another migration, and drop trusts the destinations.
        slots.dst.fill(0);
        args.raw.src = slots.src.as_mut_ptr();
        args.raw.dst = slots.dst.as_mut_ptr();
        // SAFETY: The VMA is valid and its `mmap_lock` held for 'a; there are as many slots as the
        // range has pages; the C function checks the rest.
        kernel::error::to_result(unsafe { bindings::migrate_vma_setup(&mut args.raw) })?;
        // INVARIANT: The slots were just filled, and there are no destinations.
        Ok(Self {
            slots,
            vma: Some(args),
            phase: Phase::Collected,
        })
    }

    fn move_pages(&mut self) {
        self.drop_incomplete_splits();
        // SAFETY: The slots are as the set-up left them, and each destination is a locked folio, by
        // the type invariant.
        unsafe { self.call(bindings::migrate_vma_pages, bindings::migrate_device_pages) };
        // INVARIANT: One of the functions was just called.
        self.phase = Phase::Migrated;
    }

    /// Takes back the destinations of folios and holes of several pages that were split, and did not
    /// get one for each page: C would read those that are missing.
    fn drop_incomplete_splits(&mut self) {
        let mut nth = 0;
        while let Some(&src) = self.slots.src.get(nth) {
            let len = (1 << order_of(src)).min(self.slots.dst.len() - nth);
            let dst = &mut self.slots.dst[nth..nth + len];
            nth += len;
            if dst[0] & bindings::MIGRATE_PFN_COMPOUND == 0 && dst.contains(&0) {
                // SAFETY: The folios are locked and held by us, by the type invariant.
                unsafe { put_destinations(dst) };
            }
        }
    }

    /// Calls the one of two C functions that is for this kind of migration.
    ///
    /// # Safety
    ///
    /// It must be the turn of these functions in the protocol of `migrate_vma_setup()` or
    /// `migrate_device_range()`.
    unsafe fn call(
        &mut self,
        of_vma: unsafe extern "C" fn(*mut bindings::migrate_vma),
        of_device: unsafe extern "C" fn(*mut usize, *mut usize, usize),
    ) {
        let src = self.slots.src.as_mut_ptr();
        let dst = self.slots.dst.as_mut_ptr();
        match &mut self.vma {
            Some(args) => {
                args.raw.src = src;
                args.raw.dst = dst;
                // SAFETY: By the safety requirement; the arguments are those of the set-up.
                unsafe { of_vma(&mut args.raw) };
            }
            None => {
                let npages = self.slots.src.len();
                // SAFETY: By the safety requirement; both arrays have `npages` entries.
                unsafe { of_device(src, dst, npages) };
            }
        }
    }
}

impl Drop for Inner<'_> {
    fn drop(&mut self) {
        if let Phase::Collected = self.phase {
            // C would take a destination that did not go through the step before for one that
            // has moved.
            // SAFETY: The folios are locked and held by us, by the type invariant.
            unsafe { put_destinations(self.slots.dst) };
        }
        // SAFETY: The migration was set up and is finalized once, by the type invariant.
        unsafe {
            self.call(
                bindings::migrate_vma_finalize,
                bindings::migrate_device_finalize,
            )
        };
    }
}

/// Frees destinations.
///
/// # Safety
///
/// The caller owns the lock of each folio and a reference to it, and uses neither again.
unsafe fn put_destinations(dst: &mut [usize]) {
    for slot in dst.iter_mut().filter(|slot| **slot != 0) {
        // SAFETY: By the safety requirement.
        unsafe { unlock_and_put(*slot >> bindings::MIGRATE_PFN_SHIFT) };
        *slot = 0;
    }
}
