// SPDX-License-Identifier: GPL-2.0

//! How entries get into the page table of a device after a migration, and exclusive access.
//!
//! C source: [`mm/rmap.c`](srctree/mm/rmap.c), `make_device_exclusive()`.
//!
//! Locks: claim lock, then `mmap_lock`, folio locks, update lock.

use core::ops::Range;

use kernel::error::from_err_ptr;
use kernel::mm::MmWithUser;
use kernel::mm::MmapReadGuard;
use kernel::page::PAGE_SHIFT;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::lock::mutex::MutexGuard;
use kernel::task::Task;
use kernel::time::Instant;
use kernel::time::Monotonic;

use crate::bindings;
use crate::direction::ToDevice;
use crate::folio::unlock_and_put;
use crate::migrate::Migrated;
use crate::migrate::Migration;
use crate::mirror::pages_of_run;
use crate::mirror::ClaimRecord;
use crate::mirror::Mirror;
use crate::mirror::MirrorGuard;
use crate::mirror::NodeBox;
use crate::ops::DevPagemapOps;
use crate::ops::Step;
use crate::range::Patience;
use crate::table::Access;
use crate::table::Entry;
use crate::table::Spares;

/// The right to map what the current task is about to migrate, or to make exclusive.
///
/// Both change the page tables of the process, so that a plain check of the sequence would always
/// say that something has changed. A claim tells the task's own changes, which are part of the
/// operation, from those of others: a change by another task to the claimed pages spoils it, and
/// nothing is mapped then. That is no loss: the device faults the pages in when it needs them.
///
/// Mapping happens under the update lock while the folios are still locked, so that whatever
/// changes afterwards finds the entries and clears them. One claim a mirror is held at a time.
pub struct Claim<'m, T: DevPagemapOps> {
    mirror: &'m Mirror<T>,
    /// The numbers of the pages.
    pages: Range<usize>,
    spares: Spares<NodeBox>,
    _claiming: MutexGuard<'m, ()>,
}

impl<T: DevPagemapOps> Mirror<T> {
    /// Claims `range` (bytes, page aligned, the end exclusive, inside 2 MiB) for the current task.
    ///
    /// May sleep: waits for changes to the page tables that are going on, and for other claims. The
    /// caller must not hold the `mmap_lock` or a folio lock, and must not access user memory while
    /// it holds the claim.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when the range is not as above; [`EBUSY`] when the address space has not held still
    /// for a second; [`ENOMEM`]; [`EINTR`] when a fatal signal arrives.
    pub fn claim(&self, range: Range<usize>) -> Result<Claim<'_, T>> {
        let pages = pages_of_run(&range)?;
        let spares = Spares::new()?;
        let claiming = self.claiming().lock();
        let start = Instant::<Monotonic>::now();
        loop {
            let seq = self.notifier().read_begin();
            if let Some(mut state) = self.notifier().lock_if_unchanged(seq) {
                state.claim = Some(ClaimRecord {
                    pages: pages.clone(),
                    task: Task::current_raw(),
                    spoiled: false,
                });
                break;
            }
            if crate::fatal_signal_pending() {
                return Err(EINTR);
            }
            if Patience::Bounded.is_over(start) {
                return Err(EBUSY);
            }
        }
        Ok(Claim {
            mirror: self,
            pages,
            spares,
            _claiming: claiming,
        })
    }
}

impl<T: DevPagemapOps> Claim<'_, T> {
    /// Maps the pages that have moved to the device, as many of them as can be, in the place where
    /// the process has them. The migration must be one of the address space of the mirror; its range
    /// must begin where the claim does, and must not go beyond it.
    ///
    /// May sleep for the update lock. The folios are still locked, because `migration` lives.
    ///
    /// Returns whether the claim was good; if not, nothing was mapped.
    pub fn map(&mut self, migration: &Migration<'_, Migrated, ToDevice<'_, T>>) -> bool {
        let mirror = self.mirror;
        let mut guard = mirror.lock();
        let good = guard
            .state
            .claim
            .as_ref()
            .is_some_and(|claim| !claim.spoiled)
            && migration.range().is_some_and(|range| {
                // A change behind the claim would not have spoiled it.
                range.start == self.pages.start << PAGE_SHIFT
                    && range.end <= self.pages.end << PAGE_SHIFT
            })
            && migration.mm() == Some(mirror.mm())
            && core::ptr::eq(migration.pagemap(), mirror.pagemap());
        if !good {
            return false;
        }
        for nth in 0..self.pages.len() {
            let Some((pfn, order, writable)) = migration.destination(nth) else {
                continue;
            };
            let entry = Entry {
                pfn,
                access: if writable {
                    Access::Write
                } else {
                    Access::Read
                },
            };
            let page = self.pages.start + nth;
            let table = &mut guard.state.table;
            let mapped = if order == 0 {
                table.set(page, entry, &mut self.spares)
            } else {
                table.set_run(page, entry, &mut self.spares)
            };
            // No node for it: the device faults it in when it needs it.
            if mapped.is_err() {
                break;
            }
        }
        drop(guard);
        mirror.pagemap().ops().between(Step::OutMapped);
        true
    }

    /// Gives the device exclusive access to the page at `address` (bytes, page aligned), which must
    /// be one of the claim, maps it, and calls `with` on the page table, in which the page is.
    ///
    /// May sleep. Faults the page in for writing, and locks its folio until `with` returns. A CPU
    /// that touches the page afterwards ends the exclusive access.
    ///
    /// Returns `None` when another task has changed the page tables meanwhile: claim again.
    ///
    /// # Errors
    ///
    /// [`EFAULT`] when there is nothing that can be written to; [`EOPNOTSUPP`] when the page is one
    /// of a file, or of hugetlb; [`EINVAL`] when the claim has no such page; [`ENOMEM`]; [`EINTR`].
    ///
    /// C function: `make_device_exclusive()`.
    pub fn make_exclusive<R>(
        &mut self,
        mm: &MmWithUser,
        mmap: &MmapReadGuard<'_>,
        address: usize,
        with: impl FnOnce(&MirrorGuard<'_, T>) -> R,
    ) -> Result<Option<R>> {
        // The guard says that the lock is held; it does not say whose, so that is checked.
        let held = mmap.vma_lookup(address).ok_or(EFAULT)?;
        let number = address >> PAGE_SHIFT;
        if held.mm().as_raw() != mm.as_raw()
            || self.mirror.mm() != mm.as_raw()
            || address % PAGE_SIZE != 0
            || !self.pages.contains(&number)
        {
            return Err(EINVAL);
        }
        self.spares.refill()?;
        let mut folio = core::ptr::null_mut();
        // SAFETY: The address space has users, and its `mmap_lock` is held for reading.
        let page = from_err_ptr(unsafe {
            bindings::make_device_exclusive(
                mm.as_raw(),
                address,
                self.mirror.pagemap().owner(),
                &mut folio,
            )
        })?;
        // SAFETY: The page is valid: its folio is locked and referenced by us.
        let pfn = unsafe { bindings::page_to_pfn(page) };
        self.mirror.pagemap().ops().between(Step::Exclusive);
        let mut guard = self.mirror.lock();
        let claim = guard.state.claim.as_ref();
        let good = claim.is_some_and(|claim| !claim.spoiled);
        let entry = Entry {
            pfn,
            access: Access::Exclusive,
        };
        let mapped = good
            && guard
                .state
                .table
                .set(number, entry, &mut self.spares)
                .is_ok();
        let result = mapped.then(|| with(&guard));
        drop(guard);
        // SAFETY: The lock and the reference are ours, and not used again.
        unsafe { unlock_and_put(pfn) };
        Ok(result)
    }
}

impl<T: DevPagemapOps> Drop for Claim<'_, T> {
    fn drop(&mut self) {
        self.mirror.lock().state.claim = None;
    }
}
