// SPDX-License-Identifier: GPL-2.0

//! Migration of the pages of a VMA back to system memory.

use core::{cell::Cell, ops::Range, ptr::NonNull};

use kernel::{page::PAGE_SIZE, prelude::*};

use super::{
    migration::Inner, Collected, Entry, LargeFolios, MigrateBuffer, Migration, PfnArrays, ToSystem,
};
use crate::{
    bindings,
    folio::{Reclaim, SystemFolio},
    lru::{drain_local_batches, drain_lru_batches},
    memremap::{
        CpuFault, DevPagemap, DevPagemapOps, Hooks, Kind, Stopwatch, HPAGE_PMD_NR, HPAGE_PMD_ORDER,
    },
    vma::LockedVma,
};

/// Size of a huge page, in bytes.
const HPAGE_PMD_SIZE: usize = HPAGE_PMD_NR * PAGE_SIZE;

/// The page that a CPU has touched.
struct FaultPage {
    /// The page. The core has locked it and holds a reference to it.
    page: NonNull<bindings::page>,
    /// Set if it belongs to a huge page that other processes may share.
    is_shared: bool,
}

impl<'a, T: DevPagemapOps> Migration<'a, Collected, ToSystem<'a, T>> {
    /// Collects the pages of `range` (bytes, page aligned, the end exclusive) that are on the
    /// device, for a migration to system memory. The range must lie in the VMA and have as many
    /// pages as the arrays. `huge` is a destination for the first huge page.
    ///
    /// May sleep. Locks the folios that it collects, and leaves out those that others have locked.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when the range is not as above, or the VMA is of a kind that never migrates.
    ///
    /// C function: `migrate_vma_setup()`.
    // Inlined, because a call would copy the migration once more.
    #[inline(always)]
    fn to_system(
        vma: LockedVma<'a>,
        range: Range<usize>,
        large: LargeFolios,
        pagemap: &'a DevPagemap<T>,
        arrays: PfnArrays<'a>,
        fault_page: Option<NonNull<bindings::page>>,
        huge: Option<SystemFolio>,
    ) -> Result<Self> {
        let select = match pagemap.kind() {
            Kind::Private => bindings::migrate_vma_direction_MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
            Kind::Coherent => bindings::migrate_vma_direction_MIGRATE_VMA_SELECT_DEVICE_COHERENT,
        };
        let watch = Stopwatch::start(pagemap.way(false), arrays.src.len());
        let inner = Inner::new(vma, range, select, large, pagemap, arrays, fault_page)?;
        let direction = ToSystem {
            pagemap,
            huge: Cell::new(huge),
            is_fault: fault_page.is_some(),
        };
        Ok(Self::collected(inner, direction, watch))
    }

    /// Collects the pages of a CPU fault.
    fn for_fault(
        vma: LockedVma<'a>,
        range: Range<usize>,
        large: LargeFolios,
        pagemap: &'a DevPagemap<T>,
        arrays: PfnArrays<'a>,
        fault: FaultPage,
    ) -> Result<Self> {
        // mm warns when a huge page that other processes may share has to stay, or has to be split
        // (see Documentation/known-mm-issues.md). So try hard to allocate a huge folio, and do so
        // before the page is collected.
        let huge = if fault.is_shared {
            alloc_huge(pagemap, vma, range.start, Reclaim::RetryMayFail).ok()
        } else {
            None
        };
        Self::to_system(vma, range, large, pagemap, arrays, Some(fault.page), huge)
    }

    /// Allocates a destination for each collected page; returns the last error.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], and any error of [`Hooks::should_fail_alloc`]. Pages without a destination stay.
    fn populate(&mut self) -> Result {
        self.free_unused();
        let mut result = Ok(());
        for entry in self.entries() {
            result = entry.alloc_dst(Reclaim::Default).and(result);
        }
        result
    }

    /// Allocates a destination for the folio of the touched page (counted from 0). Only if that
    /// succeeds, allocates destinations for the other pages, without trying hard.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// As for [`populate`](Self::populate), for the touched page alone; the other pages stay then.
    fn populate_touched(&mut self, touched: usize) -> Result {
        self.free_unused();
        let is_alone = self.npages() == 1;
        let touches = |entry: &Entry<'_, ToSystem<'a, T>>| {
            (entry.index()..entry.index() + (1 << entry.order())).contains(&touched)
        };
        if let Some(entry) = self.entries().find(touches) {
            entry.alloc_dst(Reclaim::Default)?;
        }
        if is_alone {
            return Ok(());
        }
        for entry in self.entries() {
            // The page stays: a CPU that touches it will ask for it.
            if entry.alloc_dst(Reclaim::NoRetry).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Frees the destination that was allocated for a huge page, if no huge page was collected.
    fn free_unused(&mut self) {
        let is_large = |entry: Entry<'_, _>| entry.order() > 0;
        if self.npages() == HPAGE_PMD_NR && !self.entries().next().is_some_and(is_large) {
            self.direction().huge.take();
        }
    }
}

impl<T: DevPagemapOps> DevPagemap<T> {
    /// Moves the pages of `range` (bytes, page aligned, the end exclusive) of a VMA that are on the
    /// device back to system memory, unless others have them locked or referenced. Huge pages move
    /// as a whole, or as small pages if system memory has no huge page. Returns the number of pages
    /// that moved back, and the last error that kept others on the device. The buffer must have a
    /// place for each page of the range, or for [`HPAGE_PMD_NR`] pages.
    ///
    /// May sleep. The time is proportional to the size of the range; a caller that wants to handle
    /// fatal signals calls it for [`HPAGE_PMD_NR`] pages at a time. Takes folio locks. Must not be
    /// called with a folio locked, so neither from [`DevPagemapOps::migrate_to_ram`] nor while a
    /// [`Migration`] lives.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when the range does not lie in the VMA, the buffer is too small, or the VMA is of
    /// a kind that never migrates; [`ENOMEM`], after which no further pages are tried; any error of
    /// the copy engine.
    ///
    /// C functions: `migrate_vma_setup()` and those after it.
    pub fn bring_back(
        &self,
        vma: LockedVma<'_>,
        range: Range<usize>,
        buffer: &mut MigrateBuffer,
    ) -> (usize, Result) {
        self.bring_back_as(vma, range, true, buffer)
    }

    /// Does the same as [`bring_back`](Self::bring_back); unless `keeps_large`, huge pages move as
    /// small pages.
    pub(super) fn bring_back_as(
        &self,
        vma: LockedVma<'_>,
        range: Range<usize>,
        keeps_large: bool,
        buffer: &mut MigrateBuffer,
    ) -> (usize, Result) {
        let mut moved = 0;
        let mut result = Ok(());
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min((at | (HPAGE_PMD_SIZE - 1)).saturating_add(1));
            let mut outcome = Ok(());
            match self.bring_block_back(vma, at..end, keeps_large, buffer, &mut outcome) {
                Ok(count) => moved += count,
                Err(error) => outcome = Err(error),
            }
            result = outcome.and(result);
            if outcome == Err(ENOMEM) {
                break;
            }
            at = end;
        }
        (moved, result)
    }

    /// Does the same for a range that contains at most one huge page. Sets `outcome` to the last
    /// error that kept a page on the device.
    fn bring_block_back(
        &self,
        vma: LockedVma<'_>,
        range: Range<usize>,
        keeps_large: bool,
        buffer: &mut MigrateBuffer,
        outcome: &mut Result,
    ) -> Result<usize> {
        // Allocate before the page is collected: only then can mm still split a shared huge page,
        // and mm warns if a collected one has to stay (see Documentation/known-mm-issues.md).
        let keeps_large = keeps_large
            && range.len() == HPAGE_PMD_SIZE
            && self.kind() == Kind::Private
            && vma.maps_huge_device_page(range.start);
        let huge = if keeps_large {
            alloc_huge(self, vma, range.start, Reclaim::NoRetry).ok()
        } else {
            None
        };
        let large = if huge.is_some() {
            LargeFolios::Keep
        } else {
            LargeFolios::Split
        };
        let arrays = buffer.arrays(range.len() / PAGE_SIZE)?;
        let mut migration = Migration::to_system(vma, range, large, self, arrays, None, huge)?;
        *outcome = migration.populate();
        let copying = migration.copy()?;
        if let Some(error) = copying.error() {
            *outcome = Err(error);
        }
        let moved = copying.commit()?.moved();
        if moved > 0 {
            drain_local_batches();
        }
        Ok(moved)
    }
}

impl<T: DevPagemapOps> CpuFault<'_, T> {
    /// Moves the [`npages`](Self::npages) pages of the touched entry to system memory: a huge page
    /// as a whole, or as small pages if system memory has no huge page. The outcome for the touched
    /// page determines the result.
    ///
    /// May sleep. The caller holds no folio lock except that of the fault.
    ///
    /// Returns `Ok` also when the page stays because someone else has a reference to it: the holder
    /// will either move it back or drop the reference.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], and any error of [`Hooks::should_fail_alloc`] or of the copy engine; [`EINVAL`]
    /// when the VMA is of a kind that never migrates.
    ///
    /// C functions: `migrate_vma_setup()` with `fault_page`, and those after it.
    pub fn migrate_to_system(&self) -> Result {
        if self.npages() == 1 {
            // A fault on a single page needs no allocated arrays.
            let (mut src, mut dst) = ([0], [0]);
            let arrays = PfnArrays {
                src: &mut src,
                dst: &mut dst,
            };
            return self.migrate(self.entry(), arrays);
        }
        let mut buffer = MigrateBuffer::new(self.npages())?;
        self.migrate(self.entry(), buffer.arrays(self.npages())?)
    }

    /// Moves the touched page and the consecutive pages around it that are on the device. The pages
    /// lie in the same VMA and in the same aligned window of `npages` pages, a power of two up to
    /// [`HPAGE_PMD_NR`]. Pages around the touched one stay if they cannot move, or if there is no
    /// system memory for them. If the touched entry maps at least the window, or a part of a large
    /// folio, this is the same as [`migrate_to_system`](Self::migrate_to_system). In all other
    /// respects, it behaves like that function. The buffer must have a place for each page of the
    /// window.
    ///
    /// # Errors
    ///
    /// As for [`migrate_to_system`](Self::migrate_to_system); [`EINVAL`] also when the window or
    /// the buffer is not as above.
    pub fn migrate_window(&self, npages: usize, buffer: &mut MigrateBuffer) -> Result {
        if !npages.is_power_of_two() || npages > HPAGE_PMD_NR {
            return Err(EINVAL);
        }
        // To collect a part of a large folio, mm splits the folio, and then mistakes its former
        // first page for the touched page, which the core has locked. So that first page must not
        // be in the range.
        if npages <= self.npages() || self.is_in_large_folio() {
            return self.migrate_to_system();
        }
        let window = self.aligned(npages);
        let vma = self.vma();
        let window = window.start.max(vma.start())..window.end.min(vma.end());
        let range = self.resident_run(window);
        let arrays = buffer.arrays(range.len() / PAGE_SIZE)?;
        self.migrate(range, arrays)
    }

    /// Returns the addresses (bytes, the end exclusive) that the touched entry maps.
    fn entry(&self) -> Range<usize> {
        self.aligned(self.npages())
    }

    /// Returns the addresses (bytes, the end exclusive) of the aligned run of `npages` pages, a
    /// power of two, that contains the touched page.
    fn aligned(&self, npages: usize) -> Range<usize> {
        let bytes = npages * PAGE_SIZE;
        let start = self.address() & !(bytes - 1);
        start..start + bytes
    }

    fn migrate(&self, range: Range<usize>, arrays: PfnArrays<'_>) -> Result {
        let mut moved = 0;
        let result = self.try_migrate(range.clone(), arrays, &mut moved);
        self.note(range, moved, result.err());
        result
    }

    fn try_migrate(&self, range: Range<usize>, arrays: PfnArrays<'_>, moved: &mut usize) -> Result {
        let fault = FaultPage {
            page: NonNull::new(self.page()).ok_or(EINVAL)?,
            is_shared: self.npages() > 1 && !self.is_writable(),
        };
        let touched = (self.address() - range.start) / PAGE_SIZE;
        let large = if self.npages() > 1 {
            LargeFolios::Keep
        } else {
            LargeFolios::Split
        };
        let (vma, pagemap) = (self.vma(), self.pagemap());
        let mut migration = Migration::for_fault(vma, range, large, pagemap, arrays, fault)?;
        let populated = migration.populate_touched(touched);
        let copying = migration.copy()?;
        let refused = copying.refused(touched);
        let migrated = copying.commit()?;
        *moved = migrated.moved();
        // A huge page that moved as a whole is reported at its first page only.
        let stays = migrated.moved_to(touched).is_none()
            && migrated.moved_to(0).is_none_or(|it| it.order == 0);
        drop(migrated);
        populated?;
        refused?;
        if stays {
            // mm itself may hold the reference, in the batch of an idle CPU.
            drain_lru_batches();
        }
        Ok(())
    }
}

/// Allocates a destination for the huge page at an address (bytes) of a VMA.
fn alloc_huge<T: DevPagemapOps>(
    pagemap: &DevPagemap<T>,
    vma: LockedVma<'_>,
    address: usize,
    reclaim: Reclaim,
) -> Result<SystemFolio> {
    let end = address.checked_add(HPAGE_PMD_SIZE).ok_or(EINVAL)?;
    if end > vma.end() {
        return Err(EINVAL);
    }
    pagemap.hooks().should_fail_alloc(HPAGE_PMD_ORDER)?;
    SystemFolio::for_vma(vma, address, HPAGE_PMD_ORDER, reclaim)
}
