// SPDX-License-Identifier: GPL-2.0

//! A migration, from collecting to finalizing.
//!
//! C source: [`mm/migrate_device.c`](srctree/mm/migrate_device.c).

use core::{
    ffi::c_void,
    mem::ManuallyDrop,
    ops::Range,
    ptr::{null_mut, NonNull},
};

use kernel::{
    error::to_result,
    mm::virt::flags,
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
};

use super::{
    entry::Target, CopyBatch, CopyEngine, Direction, Entries, MigrateBuffer, Pending, PfnArrays,
    ToDevice,
};
use crate::{
    bindings,
    compat::EOPNOTSUPP,
    memremap::{unlock_and_put, DevPagemap, DevPagemapOps, Frame, Hooks, Kind, Mpfn, Stopwatch},
    vma::LockedVma,
};

/// State of a migration whose pages are collected: locked, unmapped, and without destinations yet.
pub struct Collected(());

/// State of a migration whose pages an engine is copying. Dropping it waits for the engine.
pub struct Copying<P: Pending> {
    /// `None` once it has been waited for.
    pending: Option<P>,
    error: Option<Error>,
}

impl<P: Pending> Copying<P> {
    fn wait(&mut self) -> Result {
        self.pending
            .take()
            .map_or(Ok(()), |mut pending| pending.wait())
    }
}

impl<P: Pending> Drop for Copying<P> {
    fn drop(&mut self) {
        // Nothing moves. But the destinations are put next, and nothing may write to them after
        // that.
        let _ = self.wait();
    }
}

/// State of a complete migration; it knows the pages that have moved.
pub struct Migrated {
    moved: usize,
}

/// The treatment of a huge page that lies completely in the range, or of a hole of that size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LargeFolios {
    /// Split it, and migrate small pages.
    Split,
    /// Migrate it as a whole: its entry has order
    /// [`HPAGE_PMD_ORDER`](crate::memremap::HPAGE_PMD_ORDER).
    Keep,
}

/// Pages on their way between system and device memory: see the [module](crate::migrate).
///
/// # Examples
///
/// ```
/// # use hmm::memremap::{DevPagemap, DevPagemapOps, FreeFolio};
/// # use hmm::migrate::{LargeFolios, MigrateBuffer, Migration};
/// # use hmm::vma::LockedVma;
/// # use kernel::prelude::*;
/// fn to_device<'p, T: DevPagemapOps>(
///     vma: LockedVma<'_>,
///     range: core::ops::Range<usize>,
///     pagemap: &'p DevPagemap<T>,
///     buffer: &mut MigrateBuffer,
///     mut alloc: impl FnMut() -> Result<FreeFolio<'p, T>>,
/// ) -> Result<usize> {
///     let mut migration =
///         Migration::to_device(vma, range, LargeFolios::Split, pagemap, buffer)?;
///     for entry in migration.entries() {
///         entry.set_dst(alloc()?)?;
///     }
///     Ok(migration.copy()?.commit()?.moved())
/// }
/// ```
pub struct Migration<'a, S, D: Direction> {
    // Declared before `inner`, so that drop waits for the engine before it puts any destination.
    state: S,
    inner: Inner<'a>,
    direction: D,
    // Declared after `inner`, whose drop maps the pages again: the watch measures that too.
    watch: Stopwatch<'a>,
}

/// The driver of a direction's device, and the pending copies of its engine.
type OpsOf<D> = <D as Direction>::Ops;
type PendingOf<D> = <<OpsOf<D> as DevPagemapOps>::Engine as CopyEngine<OpsOf<D>>>::Pending;

impl<'a, T: DevPagemapOps> Migration<'a, Collected, ToDevice<'a, T>> {
    /// Collects the pages of `range` (bytes, page aligned, the end exclusive) that are in system
    /// memory, and holes, for a migration to the device. The range must lie in the VMA and must not
    /// have more pages than the buffer. For coherent memory, large folios are always split, since
    /// mm does not support them there.
    ///
    /// May sleep. Locks the folios that it collects, and leaves out those that others have locked.
    /// The caller must not hold the update lock of an [`interval::Notifier`](crate::interval).
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when the range is not as above, or the VMA is of a kind that never migrates:
    /// hugetlb, DAX, or mapped by a device. [`EOPNOTSUPP`] when the VMA is mergeable: mm removes
    /// the page table entries by itself, but restores them through the rmap, which misses merged
    /// pages that KSM has meanwhile looked for in vain; their process would wait for them for ever.
    ///
    /// C function: `migrate_vma_setup()`.
    pub fn to_device(
        vma: LockedVma<'a>,
        range: Range<usize>,
        large: LargeFolios,
        pagemap: &'a DevPagemap<T>,
        buffer: &'a mut MigrateBuffer,
    ) -> Result<Self> {
        if vma.flags() & flags::MERGEABLE != 0 {
            return Err(EOPNOTSUPP);
        }
        let large = match pagemap.kind() {
            Kind::Private => large,
            Kind::Coherent => LargeFolios::Split,
        };
        let select = bindings::migrate_vma_direction_MIGRATE_VMA_SELECT_SYSTEM;
        let arrays = buffer.arrays(range.len() >> PAGE_SHIFT)?;
        let watch = Stopwatch::start(pagemap.way(true), arrays.src.len());
        let inner = Inner::new(vma, range, select, large, pagemap, arrays, None)?;
        Ok(Self::collected(inner, ToDevice(pagemap), watch))
    }
}

impl<'a, D: Direction> Migration<'a, Collected, D> {
    pub(super) fn collected(inner: Inner<'a>, direction: D, watch: Stopwatch<'a>) -> Self {
        Self {
            state: Collected(()),
            inner,
            direction,
            watch,
        }
    }

    /// Returns the pages that can be migrated and have no destination yet, in the order of the
    /// range. Does not sleep.
    pub fn entries(&mut self) -> Entries<'_, D> {
        let target = self.inner.target();
        let PfnArrays { src, dst } = &mut self.inner.arrays;
        // SAFETY: These are the arrays of this migration, which can neither advance nor be dropped
        // while they are borrowed.
        unsafe { Entries::new(src, dst, &self.direction, target) }
    }

    /// Returns the number of pages of the range.
    pub(super) fn npages(&self) -> usize {
        self.inner.arrays.src.len()
    }

    pub(super) fn direction(&self) -> &D {
        &self.direction
    }

    /// Has the device's engine copy the pages that have a destination.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// Any error of [`CopyEngine::copy`]. Nothing has moved then.
    pub fn copy(mut self) -> Result<Migration<'a, Copying<PendingOf<D>>, D>> {
        self.watch.collected();
        let pagemap = self.direction.pagemap();
        pagemap.hooks().sync_point(D::POINTS[0]);
        self.inner.drop_incomplete_splits();
        let PfnArrays { src, dst } = &mut self.inner.arrays;
        let arrays = PfnArrays { src, dst };
        // SAFETY: The pages are collected, and stay so while the arrays are borrowed. Each
        // destination was set by an `Entry`, which has checked its order. Folios to be split that
        // lacked a destination for some page have just lost all their destinations.
        let mut batch = unsafe { CopyBatch::new(arrays, pagemap.pfns()) };
        if pagemap.hooks().may_fail_copies(D::TO_DEVICE) {
            batch.for_each(|_| pagemap.hooks().should_fail_copy(D::TO_DEVICE));
        }
        let pending = pagemap.ops().engine().copy(&mut batch)?;
        let error = batch.error();
        Ok(Migration {
            state: Copying {
                pending: Some(pending),
                error,
            },
            inner: self.inner,
            direction: self.direction,
            watch: self.watch,
        })
    }
}

impl<'a, P: Pending, D: Direction> Migration<'a, Copying<P>, D> {
    /// Returns the first error with which the engine, or a hook, has rejected an operation.
    /// Rejected pages stay where they are.
    pub fn error(&self) -> Option<Error> {
        self.state.error
    }

    /// Returns the engine's error if page `index` of the range was collected and has no
    /// destination.
    pub(crate) fn refused(&self, index: usize) -> Result {
        match self.state.error {
            Some(error) if self.inner.lacks_destination(index) => Err(error),
            _ => Ok(()),
        }
    }

    /// Waits for the engine, and moves the pages that were copied.
    ///
    /// May sleep. The folios stay locked, and unmapped, until the result is dropped.
    ///
    /// # Errors
    ///
    /// Any error of [`Pending::wait`]. Nothing has moved then.
    ///
    /// C function: `migrate_vma_pages()`.
    // Inlined, because a call would copy the migration once more.
    #[inline(always)]
    pub fn commit(mut self) -> Result<Migration<'a, Migrated, D>> {
        self.state.wait()?;
        self.watch.copied();
        let hooks = self.direction.pagemap().hooks();
        hooks.sync_point(D::POINTS[1]);
        self.inner.move_pages();
        let (small, huge) = self.note_moved();
        self.watch.moved(small, huge);
        hooks.sync_point(D::POINTS[2]);
        Ok(Migration {
            state: Migrated {
                moved: small + huge,
            },
            inner: self.inner,
            direction: self.direction,
            watch: self.watch,
        })
    }
}

impl<P: Pending, D: Direction> Migration<'_, Copying<P>, D> {
    /// Records the pages of the device that have just come or gone. Returns the number of pages
    /// that moved in folios of one page, and in large ones.
    #[inline(never)]
    fn note_moved(&self) -> (usize, usize) {
        let pagemap = self.direction.pagemap();
        let (mut small, mut huge) = (0, 0);
        // Consecutive pages of the device are recorded together.
        let mut run = 0..0;
        let mut next = 0;
        while next < self.inner.arrays.dst.len() {
            let index = next;
            next += 1;
            let Some(moved) = self.inner.moved_to(index) else {
                continue;
            };
            let mut npages = 1;
            if moved.order == 0 {
                small += 1;
            } else {
                npages = 1 << moved.order;
                huge += npages;
                next = index + npages;
            }
            let frame = if D::TO_DEVICE {
                Some(moved.frame)
            } else {
                Mpfn::new(self.inner.arrays.src[index]).frame()
            };
            let Some(first) = frame.and_then(|frame| pagemap.index_of(frame)) else {
                continue;
            };
            if first != run.end {
                pagemap.note_moved(run, D::TO_DEVICE);
                run = first..first;
            }
            run.end = first + npages;
        }
        pagemap.note_moved(run, D::TO_DEVICE);
        (small, huge)
    }
}

impl<D: Direction> Migration<'_, Migrated, D> {
    /// Returns the number of pages that moved. Does not sleep.
    pub fn moved(&self) -> usize {
        self.state.moved
    }

    /// Returns the folio that has moved at page `index` of the range, counted from 0. A folio that
    /// moved as a whole is reported only at its first page. Does not sleep.
    pub fn moved_to(&self, index: usize) -> Option<Moved> {
        self.inner.moved_to(index)
    }
}

/// A folio that has moved; see [`Migration::moved_to`].
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    /// The folio's first page frame at its new place.
    pub frame: Frame,
    /// The folio's order.
    pub order: u32,
    /// True if the process may write to it without a fault.
    pub is_writable: bool,
}

enum Phase {
    Collected,
    Migrated,
}

/// The part of a migration that is the same in all states, and the data that its drop needs.
///
/// # Invariants
///
/// `migrate_vma_setup()` has filled the arrays, with the arguments that [`args`](Self::args)
/// builds, and they are not finalized yet. In phase `Collected`, each destination is a folio that
/// we have locked and hold a reference to; in phase `Migrated`, `migrate_vma_pages()` was called.
pub(super) struct Inner<'a> {
    arrays: PfnArrays<'a>,
    vma: LockedVma<'a>,
    /// The first address, in bytes.
    start: usize,
    owner: *mut c_void,
    fault_page: *mut bindings::page,
    flags: u32,
    /// Number of pages that `migrate_vma_setup()` has looked at.
    npages: u32,
    phase: Phase,
}

impl<'a> Inner<'a> {
    // Inlined, because a call would copy the migration once more.
    #[inline(always)]
    pub(super) fn new<T: DevPagemapOps>(
        vma: LockedVma<'a>,
        range: Range<usize>,
        select: u32,
        large: LargeFolios,
        pagemap: &DevPagemap<T>,
        arrays: PfnArrays<'a>,
        fault_page: Option<NonNull<bindings::page>>,
    ) -> Result<Self> {
        if (range.start | range.end) % PAGE_SIZE != 0
            || range.start >= range.end
            || (range.end - range.start) >> PAGE_SHIFT != arrays.src.len()
        {
            return Err(EINVAL);
        }
        let compound = match large {
            LargeFolios::Split => 0,
            LargeFolios::Keep => bindings::migrate_vma_direction_MIGRATE_VMA_SELECT_COMPOUND,
        };
        // The arrays may hold entries of an earlier migration, and drop trusts the destinations.
        arrays.dst.fill(0);
        let mut this = ManuallyDrop::new(Self {
            arrays,
            vma,
            start: range.start,
            owner: pagemap.owner().as_ptr(),
            fault_page: fault_page.map_or(null_mut(), NonNull::as_ptr),
            flags: select | compound,
            npages: 0,
            phase: Phase::Collected,
        });
        let mut args = this.args();
        // SAFETY: The VMA is valid and its `mmap_lock` is held for 'a; the arrays have an entry for
        // each page of the range; the C function checks the rest.
        to_result(unsafe { bindings::migrate_vma_setup(&mut args) })?;
        this.npages = args.npages as u32;
        // INVARIANT: The C function has just filled the arrays, and there are no destinations.
        Ok(ManuallyDrop::into_inner(this))
    }

    /// Builds the arguments of the C functions. They are not stored, because a migration is passed
    /// on by value.
    fn args(&mut self) -> bindings::migrate_vma {
        let PfnArrays { src, dst } = &mut self.arrays;
        bindings::migrate_vma {
            vma: self.vma.as_ptr(),
            start: self.start,
            end: self.start + (src.len() << PAGE_SHIFT),
            npages: self.npages as usize,
            pgmap_owner: self.owner,
            flags: self.flags as usize,
            fault_page: self.fault_page,
            src: src.as_mut_ptr(),
            dst: dst.as_mut_ptr(),
            ..Default::default()
        }
    }

    fn target(&self) -> Target<'a> {
        Target {
            vma: self.vma,
            start: self.start,
        }
    }

    /// See [`Migration::moved_to`]. Only for phase `Migrated`.
    #[inline(always)]
    fn moved_to(&self, index: usize) -> Option<Moved> {
        let src = Mpfn::new(*self.arrays.src.get(index)?);
        let dst = Mpfn::new(*self.arrays.dst.get(index)?);
        let frame = dst.frame().filter(|_| src.is_migrating())?;
        Some(Moved {
            frame,
            // SAFETY: The migration has locked the destination, and holds a reference to it.
            order: unsafe { dst.order() },
            is_writable: src.is_writable(),
        })
    }

    /// Returns whether a page of the range was collected and has no destination.
    fn lacks_destination(&self, index: usize) -> bool {
        let entry = |array: &[usize], index| Mpfn::new(array.get(index).copied().unwrap_or(0));
        // A huge page has a single entry, at its first page, unless it is split.
        let (src, dst) = (&*self.arrays.src, &*self.arrays.dst);
        let collected = if entry(src, 0).is_compound() {
            entry(src, 0)
        } else {
            entry(src, index)
        };
        let has_one = entry(dst, 0).is_compound() || entry(dst, index).frame().is_some();
        collected.is_migrating() && !has_one
    }

    fn move_pages(&mut self) {
        self.drop_incomplete_splits();
        let mut args = self.args();
        // SAFETY: The arguments are those of the set-up, and each destination is a locked folio, by
        // the type invariant.
        unsafe { bindings::migrate_vma_pages(&mut args) };
        // INVARIANT: The function was just called.
        self.phase = Phase::Migrated;
    }

    /// Takes back the destinations of folios and holes that are to be split, but lack a destination
    /// for some page: C would read the missing ones.
    fn drop_incomplete_splits(&mut self) {
        let mut at = 0;
        let is_large = |&src: &usize| Mpfn::new(src).is_compound();
        while let Some(next) = self.arrays.src[at..].iter().position(is_large) {
            at += next;
            // SAFETY: We have locked the folio and hold a reference to it, by the type invariant.
            let order = unsafe { Mpfn::new(self.arrays.src[at]).order() };
            let len = (1 << order).min(self.arrays.dst.len() - at);
            let dst = &mut self.arrays.dst[at..at + len];
            at += len;
            if !Mpfn::new(dst[0]).is_compound() && dst.contains(&0) {
                put_destinations(dst);
            }
        }
    }
}

impl Drop for Inner<'_> {
    fn drop(&mut self) {
        if let Phase::Collected = self.phase {
            // C would take a destination that skipped `migrate_vma_pages()` for one that has moved.
            put_destinations(self.arrays.dst);
        }
        let mut args = self.args();
        // SAFETY: The migration was set up with these arguments, and is finalized once, by the type
        // invariant. The `mmap_lock` of its VMA is still held, so the VMA keeps the `anon_vma` of
        // each folio that it mapped when that folio was collected.
        unsafe { bindings::migrate_vma_finalize(&mut args) };
    }
}

/// Frees the destinations of an [`Inner`] in phase `Collected`.
fn put_destinations(dst: &mut [usize]) {
    for entry in dst.iter_mut() {
        if let Some(frame) = Mpfn::new(core::mem::take(entry)).frame() {
            // SAFETY: We have locked the folio and hold a reference to it, by the invariant of
            // `Inner`, and its entry has just been cleared.
            unsafe { unlock_and_put(frame) };
        }
    }
}
