// SPDX-License-Identifier: GPL-2.0

//! Maps for the device the pages that the current task migrates or makes exclusive.
//!
//! Both operations change the page tables of the process, so a plain check of the sequence would
//! always report a change. A [`PendingMap`] distinguishes the operation's own changes from those of
//! others, by this order:
//!
//! ```text
//!  View::pending_map()     waits until no change is in progress, and records each later one
//!        |
//!  migrate(), make_exclusive()   the C function runs, in this task: what this task changes
//!        |                       now is part of the operation
//!     armed: the folios are locked. Only an event MIGRATE or EXCLUSIVE that carries the owner of
//!        |   the device, in this task, is part of the operation
//!       map()              under the update lock, the folios still locked
//! ```
//!
//! Any other change to the pages invalidates the pending map, and then nothing is mapped. That is
//! no loss: the device faults the pages in when it needs them. A change after the pages were mapped
//! finds the entries and clears them. Several maps may be pending in one view at the same time.

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

/// The right to map the pages that the current task is about to migrate, or to make exclusive: see
/// the [module](self). A leaked one costs memory, and time in each invalidation, until its view is
/// dropped.
pub struct PendingMap<'v, T: DeviceOps> {
    view: &'v View<T>,
    /// The page numbers.
    pages: Range<usize>,
    /// The map's record in the list of the view; never dereferenced.
    id: *const Record,
    spares: Spares<NodeBox>,
}

impl<T: DeviceOps> View<T> {
    /// Prepares the current task to map `range` (bytes, page aligned, the end exclusive, inside one
    /// aligned run that a PMD entry can map).
    ///
    /// May sleep: waits for changes to the page tables that are in progress. The caller must not
    /// hold the `mmap_lock` or a folio lock.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when the range is not as above; [`EBUSY`] when the page tables of the address
    /// space have kept changing for a second; [`ENOMEM`]; [`EINTR`] when a fatal signal arrives.
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
    /// Waits for a moment at which no change to the page tables is in progress. The task that finds
    /// such a moment begins for all waiting tasks. If each had to find its own, then with several
    /// tasks migrating at once, each would need a moment at which none of the others has begun.
    fn begin(&self) -> Result {
        let mut start = None;
        loop {
            let notifier = self.view.notifier();
            let seq = notifier.read_begin();
            // Hold the lock while beginning for all, so that no change starts meanwhile.
            let quiet = notifier.lock_shared_if_unchanged(seq);
            let mut pending = self.view.pending.lock();
            let record = pending.get(self.id).ok_or(EINVAL)?;
            if record.is_begun && !record.is_invalidated {
                return Ok(());
            }
            // Another task has begun this map, and its pages have changed since. So begin again:
            // now, if no change is in progress, or else later.
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
    /// Collects the pages of the range that lie in the VMA for a migration to the device, and makes
    /// this pending map a part of it. See [`Migration::to_device`].
    ///
    /// # Errors
    ///
    /// As for [`Migration::to_device`]; [`EINVAL`] also when the VMA belongs to another address
    /// space, or does not contain the start of the range.
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
    /// lie in the range, maps the page, and calls `with` on the page table with the page in it.
    ///
    /// May sleep. Faults the page in for writing, and returns it with the result of `with`. A CPU
    /// that touches the page waits until the returned page is dropped, and then ends the exclusive
    /// access. So keep it for a bounded time, and meanwhile take no lock except the update lock.
    ///
    /// Returns `None` when others have changed the page tables meanwhile: the caller must begin
    /// again.
    ///
    /// # Errors
    ///
    /// As for [`ExclusivePage::new`]; [`EINVAL`] also when the page does not lie in the range;
    /// [`ENOMEM`].
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

    /// Returns the pagemap of the device.
    pub fn pagemap(&self) -> &'v Pagemap<T> {
        self.view.pagemap()
    }

    /// Maps as many as possible of the pages that have moved to the device, at the addresses where
    /// the process maps them. Returns whether the pending map was valid; if it was not, nothing was
    /// mapped.
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
        // If the table has no node for it, the device faults the page in when it needs it.
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

    /// Arms the map: from now on, a change by this task belongs to the operation only if it is a
    /// migration, or an exclusive access, for this device.
    fn arm(&self) {
        if let Some(record) = self.view.pending.lock().get(self.id) {
            record.is_armed = true;
        }
    }

    /// Disarms the map: from now on, every change by this task belongs to the operation.
    fn disarm(&self) {
        if let Some(record) = self.view.pending.lock().get(self.id) {
            record.is_armed = false;
        }
    }

    /// Takes the update lock if only this operation has changed the pages.
    fn lock_if_valid(&self) -> Option<Guard<'v, State>> {
        // While the lock is held, nothing changes.
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
        // Freed without the lock held.
        drop(surplus);
    }
}

/// A migration to the device, whose pages can be mapped for the device when they have moved.
pub struct MappedMigration<'v, 'm, S, T: DeviceOps> {
    // Declared before `pending`, so that drop unlocks the folios first.
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
    /// See [`Migration::entries`]. The migration itself is not borrowed mutably: the caller could
    /// replace it by another one.
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
    /// Moves the pages that were copied, see [`Migration::commit`], and maps for the device those
    /// that have moved.
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
