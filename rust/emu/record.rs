// SPDX-License-Identifier: GPL-2.0

//! Records of the mappings that tasks are about to make while they change the page tables. A record
//! shows whether others have changed the pages since.

use core::ops::Range;

use kernel::{
    new_spinlock,
    prelude::*,
    sync::{Arc, SpinLock},
    task::Task,
};

use crate::{bindings, node::NodeBox, table::Spares};

/// The record of a [`PendingMap`](crate::pending::PendingMap), in the list of its view.
pub(crate) struct Record {
    /// The page numbers.
    pub(crate) pages: Range<usize>,
    /// The task that owns the pending map; never dereferenced.
    pub(crate) task: *const bindings::task_struct,
    /// Set if a moment without a change in progress was found; then changes are recorded.
    pub(crate) is_begun: bool,
    /// Set while the folios that are to be mapped are locked.
    pub(crate) is_armed: bool,
    /// Set if others have changed the pages since.
    pub(crate) is_invalidated: bool,
    pub(crate) next: Option<KBox<Record>>,
}

// SAFETY: `task` is only compared.
unsafe impl Send for Record {}

/// An unused record and spare nodes, so that the next pending map need not allocate.
pub(crate) type Idle = (KBox<Record>, Spares<NodeBox>);

/// Number of unused ones that are kept: enough for as many concurrent migrations through a view.
const MOST_IDLE: usize = 4;

/// The pending maps of a view, under a lock of their own: invalidations record changes here without
/// waiting for tasks that copy under the update lock.
pub(crate) struct PendingList {
    first: Option<KBox<Record>>,
    idle: [Option<Idle>; MOST_IDLE],
}

impl PendingList {
    /// Creates an empty list.
    ///
    /// This is not part of a generic function: each crate would instantiate the code, and one lock
    /// class would get several names, which lockdep rejects.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    #[inline(never)]
    pub(crate) fn new() -> Result<Arc<SpinLock<Self>>> {
        let none = Self {
            first: None,
            idle: [const { None }; MOST_IDLE],
        };
        Arc::pin_init(new_spinlock!(none, "View::pending"), GFP_KERNEL)
    }

    /// Takes the record and the nodes that an earlier pending map has left for reuse, if any.
    pub(crate) fn take_idle(&mut self) -> Option<Idle> {
        self.idle.iter_mut().find_map(Option::take)
    }

    /// Keeps the record and the nodes of a pending map, or returns them for the caller to free.
    pub(crate) fn keep_idle(
        &mut self,
        record: KBox<Record>,
        spares: Spares<NodeBox>,
    ) -> Option<Idle> {
        let new = Some((record, spares));
        match self.idle.iter_mut().find(|kept| kept.is_none()) {
            Some(room) => core::mem::replace(room, new),
            None => new,
        }
    }

    #[cfg(CONFIG_KUNIT = "y")]
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Records a change to pages; `is_own` says that it is a migration, or an exclusive access, for
    /// the device of the view.
    pub(crate) fn invalidate(&mut self, pages: &Range<usize>, is_own: bool) {
        let task = Task::current_raw().cast_const();
        let mut next = &mut self.first;
        while let Some(record) = next {
            let overlaps = pages.start < record.pages.end && record.pages.start < pages.end;
            let is_part = record.task == task && (is_own || !record.is_armed);
            record.is_invalidated |= overlaps && !is_part;
            next = &mut record.next;
        }
    }

    pub(crate) fn push(&mut self, mut record: KBox<Record>) -> *const Record {
        let id: *const Record = &*record;
        record.next = self.first.take();
        self.first = Some(record);
        id
    }

    /// Begins all waiting records. The caller makes sure that no change is in progress.
    pub(crate) fn begin_all(&mut self) {
        let mut next = &mut self.first;
        while let Some(record) = next {
            if !record.is_begun {
                record.is_begun = true;
                record.is_invalidated = false;
            }
            next = &mut record.next;
        }
    }

    pub(crate) fn get(&mut self, id: *const Record) -> Option<&mut Record> {
        let mut next = self.first.as_deref_mut();
        while let Some(record) = next {
            if core::ptr::eq(record, id) {
                return Some(record);
            }
            next = record.next.as_deref_mut();
        }
        None
    }

    /// Removes a record and returns it for the caller to free.
    pub(crate) fn remove(&mut self, id: *const Record) -> Option<KBox<Record>> {
        let mut place = &mut self.first;
        while place
            .as_deref()
            .is_some_and(|record| !core::ptr::eq(record, id))
        {
            place = match place {
                Some(record) => &mut record.next,
                None => return None,
            };
        }
        let mut removed = place.take()?;
        *place = removed.next.take();
        Some(removed)
    }
}
