// SPDX-License-Identifier: GPL-2.0

//! Mapping for the device what the current task migrates, or makes exclusive.
//!
//! Both change the page tables of the process, so that a plain check of the sequence would always
//! say that something has changed. A [`PendingMap`] tells the operation's own changes from those of
//! others, by its order:
//!
//! ```text
//!  View::pending_map()     at a moment when no change is going on; from then on each one is noted
//!        |
//!  migrate(), make_exclusive()   the C function runs, in this task: what this task changes
//!        |                       now is part of the operation
//!     armed: the folios are locked. Only an event MIGRATE or EXCLUSIVE that carries the owner of
//!        |   the device, in this task, is part of the operation
//!       map()              under the update lock, the folios still locked
//! ```
//!
//! Any other change to the pages invalidates it, and nothing is mapped then. That is no loss: the
//! device faults the pages in when it needs them. What changes after they were mapped finds the
//! entries and clears them. Several may be pending in one view at a time.

use core::ops::{Deref, Range};

use hmm::{
    exclusive::ExclusivePage,
    interval::Guard,
    memremap::{Hooks, SyncPoint},
    migrate::{
        Collected, Copying, Entries, LargeFolios, MigrateBuffer, Migrated, Migration, Moved,
        ToDevice,
    },
    range::Timeout,
    vma::LockedVma,
};
use kernel::{
    alloc::flags::GFP_KERNEL,
    mm::{MmWithUser, MmapReadGuard},
    page::PAGE_SHIFT,
    prelude::*,
    task::Task,
    time::{Instant, Monotonic},
};

use crate::{
    device::{DeviceOps, Emulated, Pagemap},
    node::NodeBox,
    record::Record,
    sched::fatal_signal_pending,
    table::{Access, Entry, Spares},
    view::{pages_of_run, State, View, ViewGuard},
};

/// The right to map what the current task is about to migrate, or to make exclusive: see the
/// [module](self). One that is leaked costs memory, and time in each invalidation, until its view
/// is dropped.
pub struct PendingMap<'v, T: DeviceOps> {
    view: &'v View<T>,
    /// The numbers of the pages.
    pages: Range<usize>,
    /// Its record in the list of the view; never dereferenced.
    id: *const Record,
    spares: Spares<NodeBox>,
}

impl<T: DeviceOps> View<T> {
    /// Prepares to map `range` (bytes, page aligned, the end exclusive, inside one aligned run of
    /// 512 pages) by the current task.
    ///
    /// May sleep: waits for changes to the page tables that are going on. The caller must not hold
    /// the `mmap_lock` or a folio lock.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when the range is not as above; [`EBUSY`] when the address space has not held
    /// still for a second; [`ENOMEM`]; [`EINTR`] when a fatal signal arrives.
    pub fn pending_map(&self, range: Range<usize>) -> Result<PendingMap<'_, T>> {
        let pages = pages_of_run(&range)?;
        let new = Record {
            pages: pages.clone(),
            task: Task::current_raw(),
            is_begun: false,
            is_armed: false,
            is_invalidated: false,
            next: None,
        };
        let idle = self.pending.lock().take_idle();
        let (record, mut spares) = match idle {
            Some((mut record, spares)) => {
                *record = new;
                (record, spares)
            }
            None => (KBox::new(new, GFP_KERNEL)?, Spares::none()),
        };
        spares.refill()?;
        let pending = PendingMap {
            view: self,
            pages,
            id: self.pending.lock().push(record),
            spares,
        };
        pending.begin()?;
        Ok(pending)
    }
}

impl<T: DeviceOps> PendingMap<'_, T> {
    /// Waits for a moment at which no change to the page tables is going on. Who finds one begins
    /// for all that wait: where several tasks migrate at a time, each of them would have to find
    /// one at which none of the others has begun.
    fn begin(&self) -> Result {
        let mut start = None;
        loop {
            let notifier = self.view.notifier();
            let seq = notifier.read_begin();
            // Held while a moment is one for all: no change begins meanwhile.
            let quiet = notifier.lock_shared_if_unchanged(seq);
            let mut pending = self.view.pending.lock();
            let record = pending.get(self.id).ok_or(EINVAL)?;
            if record.is_begun && !record.is_invalidated {
                return Ok(());
            }
            // Another task has begun it, and its pages have changed since: from this moment on,
            // then, or from another.
            record.is_begun = false;
            if quiet.is_some() {
                pending.begin_all();
                return Ok(());
            }
            drop(pending);
            if fatal_signal_pending() {
                return Err(EINTR);
            }
            if Timeout::Bounded.is_over(*start.get_or_insert_with(Instant::<Monotonic>::now)) {
                return Err(EBUSY);
            }
        }
    }
}

impl<'v, T: DeviceOps> PendingMap<'v, T> {
    /// Collects those pages of the range that lie in the VMA for a migration to the device, which
    /// this becomes a part of. See [`Migration::to_device`].
    ///
    /// # Errors
    ///
    /// As for [`Migration::to_device`]; [`EINVAL`] also when the VMA is one of another address
    /// space, or does not hold the start of the range.
    pub fn migrate<'m>(
        self,
        vma: LockedVma<'m>,
        large: LargeFolios,
        buffer: &'m mut MigrateBuffer,
    ) -> Result<MappedMigration<'v, 'm, Collected, T>>
    where
        'v: 'm,
    {
        let start = self.pages.start << PAGE_SHIFT;
        let end = (self.pages.end << PAGE_SHIFT).min(vma.end());
        if !self.view.notifier().is_of(vma.mm()) {
            return Err(EINVAL);
        }
        let pagemap = self.view.pagemap();
        let migration = Migration::to_device(vma, start..end, large, pagemap, buffer)?;
        self.arm();
        Ok(MappedMigration {
            migration,
            pending: self,
        })
    }

    /// Gives the device exclusive access to the page at `address` (bytes, page aligned), which must
    /// be one of the range, maps it, and calls `with` on the page table, in which the page is.
    ///
    /// May sleep. Faults the page in for writing, and returns it with what `with` has returned. A
    /// CPU that touches the page waits until it is dropped, and ends the exclusive access: so keep
    /// it for a bounded time, and take no lock meanwhile but the update lock.
    ///
    /// Returns `None` when others have changed the page tables meanwhile: begin again.
    ///
    /// # Errors
    ///
    /// As for [`ExclusivePage::new`]; [`EINVAL`] also when the range has no such page; [`ENOMEM`].
    ///
    /// C function: `make_device_exclusive()`.
    pub fn make_exclusive<R>(
        &mut self,
        mm: &MmWithUser,
        mmap: &MmapReadGuard<'_>,
        address: usize,
        with: impl FnOnce(&ViewGuard<'_, T>) -> R,
    ) -> Result<Option<(R, ExclusivePage)>> {
        let number = address >> PAGE_SHIFT;
        if !self.pages.contains(&number) || !self.view.notifier().is_of(mm) {
            return Err(EINVAL);
        }
        self.spares.refill()?;
        self.disarm();
        let pagemap = self.view.pagemap();
        let page = ExclusivePage::new(mm, mmap, address, pagemap.owner())?;
        self.arm();
        pagemap.hooks().sync_point(SyncPoint::Exclusive);
        let entry = Entry {
            pfn: page.frame().into_bits(),
            access: Access::Exclusive,
        };
        let Some(mut state) = self.lock_if_valid() else {
            return Ok(None);
        };
        if state.table.set(number, entry, &mut self.spares).is_err() {
            return Ok(None);
        }
        let state = state.downgrade();
        let result = with(&ViewGuard { state, pagemap });
        Ok(Some((result, page)))
    }

    /// Returns the pages of the device.
    pub fn pagemap(&self) -> &'v Pagemap<T> {
        self.view.pagemap()
    }

    /// Maps what has moved to the device, as much of it as can be, in the place where the process
    /// has it. Returns whether the pending map was valid; if not, nothing was mapped.
    fn map(&mut self, migration: &Migration<'_, Migrated, ToDevice<'_, Emulated<T>>>) -> bool {
        let Some(mut state) = self.lock_if_valid() else {
            return false;
        };
        let spares = &mut self.spares;
        let entry_of = |moved: &Moved| Entry {
            pfn: moved.frame.into_bits(),
            access: if moved.is_writable {
                Access::Write
            } else {
                Access::Read
            },
        };
        // Where there is no node for it, the device faults it in when it needs it.
        match migration.moved_to(0) {
            Some(huge) if huge.order > 0 => {
                let _ = state
                    .table
                    .set_run(self.pages.start, entry_of(&huge), spares);
            }
            _ => {
                let mut small = (0..self.pages.len())
                    .filter_map(|index| {
                        Some((self.pages.start + index, migration.moved_to(index)?))
                    })
                    .peekable();
                if small.peek().is_some() {
                    if let Ok(mut leaf) = state.table.leaf(self.pages.start, spares) {
                        small.for_each(|(page, moved)| leaf.set(page, entry_of(&moved)));
                    }
                }
            }
        }
        true
    }

    /// From now on, what this task changes is part of the operation only as a migration, or an
    /// exclusive access, for this device.
    fn arm(&self) {
        if let Some(record) = self.view.pending.lock().get(self.id) {
            record.is_armed = true;
        }
    }

    /// From now on, what this task changes is part of the operation.
    fn disarm(&self) {
        if let Some(record) = self.view.pending.lock().get(self.id) {
            record.is_armed = false;
        }
    }

    /// Takes the update lock if the pages were changed by this operation alone.
    fn lock_if_valid(&self) -> Option<Guard<'v, State>> {
        // Nothing changes from here on.
        let state = self.view.notifier().lock();
        let mut pending = self.view.pending.lock();
        let is_valid = pending
            .get(self.id)
            .is_some_and(|record| record.is_armed && !record.is_invalidated);
        drop(pending);
        is_valid.then_some(state)
    }
}

impl<T: DeviceOps> Drop for PendingMap<'_, T> {
    fn drop(&mut self) {
        let spares = core::mem::replace(&mut self.spares, Spares::none());
        let mut pending = self.view.pending.lock();
        let removed = pending.remove(self.id);
        let surplus = removed.and_then(|record| pending.keep_idle(record, spares));
        drop(pending);
        // Freed without the lock.
        drop(surplus);
    }
}

/// A migration to the device whose pages can be mapped for the device.
pub struct MappedMigration<'v, 'm, S, T: DeviceOps> {
    // Before `pending`, so that the folios are unlocked first.
    migration: Migration<'m, S, ToDevice<'m, Emulated<T>>>,
    pending: PendingMap<'v, T>,
}

impl<'m, S, T: DeviceOps> Deref for MappedMigration<'_, 'm, S, T> {
    type Target = Migration<'m, S, ToDevice<'m, Emulated<T>>>;

    fn deref(&self) -> &Self::Target {
        &self.migration
    }
}

impl<'v, 'm, T: DeviceOps> MappedMigration<'v, 'm, Collected, T> {
    /// See [`Migration::entries`]. The migration itself is not lent for changes: another one could
    /// be put in its place.
    pub fn entries(&mut self) -> Entries<'_, ToDevice<'m, Emulated<T>>> {
        self.migration.entries()
    }

    /// See [`Migration::copy`].
    ///
    /// # Errors
    ///
    /// As for [`Migration::copy`].
    pub fn copy(self) -> Result<MappedMigration<'v, 'm, Copying<()>, T>> {
        Ok(MappedMigration {
            migration: self.migration.copy()?,
            pending: self.pending,
        })
    }
}

impl<'v, 'm, T: DeviceOps> MappedMigration<'v, 'm, Copying<()>, T> {
    /// Moves the pages that were copied, see [`Migration::commit`], and maps those that have moved
    /// for the device.
    ///
    /// # Errors
    ///
    /// As for [`Migration::commit`].
    pub fn commit(self) -> Result<MappedMigration<'v, 'm, Migrated, T>> {
        let mut this = MappedMigration {
            migration: self.migration.commit()?,
            pending: self.pending,
        };
        this.pending.map(&this.migration);
        let hooks = this.pending.view.pagemap().hooks();
        hooks.sync_point(SyncPoint::ToDeviceMapped);
        Ok(this)
    }
}
