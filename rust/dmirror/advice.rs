// SPDX-License-Identifier: GPL-2.0

//! Advice that a program has given for ranges of its addresses, kept as long as they are mapped.
//!
//! Advice is set with the `mmap_lock` held and the range mapped. The notifier removes it before
//! anything else can be mapped there, so no memory has advice that was given for other memory.
//!
//! Locks: the `mmap_lock`, the update lock of a view, then the lock of the ranges, which is held
//! for bookkeeping only.

use core::ops::Range;

use emu::observer::UnmapObserver;
use hmm::{
    counter::Counter,
    vma::{task_size, LockedVma},
};
use kernel::{
    alloc::{flags::GFP_KERNEL_ACCOUNT, KVVec},
    mm::{MmWithUser, MmapReadGuard},
    new_spinlock,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        atomic::{ordering::Relaxed, Atomic},
        SpinLock,
    },
};

use crate::{
    attributes::{AttributeMap, Attributes, Change, Full, Slot},
    call::resched_or_eintr,
    uapi::DMIRROR_MAX_ADVICE,
};

/// Number of slots for ranges. Half of them are reserved for the splits that partial unmaps cause.
const PLACES: usize = 2 * DMIRROR_MAX_ADVICE as usize;

type Ranges = AttributeMap<KVVec<Slot>>;

/// The advice given to an open file.
#[pin_data]
pub(crate) struct Advice {
    /// Allocated with the first advice.
    #[pin]
    ranges: SpinLock<Option<Ranges>>,
    /// Set if there is a range that engines must not access.
    denies: Atomic<bool>,
    /// Number of mapped pages whose advice was dropped because no slot was left.
    lost: Counter,
}

impl Advice {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            ranges <- new_spinlock!(None, "Advice::ranges"),
            denies: Atomic::new(false),
            lost: Counter::default(),
        })
    }

    /// Changes the advice for a range (bytes, page aligned, the end exclusive) of the address space
    /// that this observes.
    ///
    /// May sleep. Takes the `mmap_lock` for reading.
    ///
    /// # Errors
    ///
    /// [`EFAULT`] when a part is not mapped; [`ENOSPC`] when there would be too many ranges;
    /// [`ENOMEM`]; [`EINTR`] when a fatal signal arrived. After an error, nothing has changed.
    pub(crate) fn set(&self, mm: &MmWithUser, range: Range<usize>, change: &Change) -> Result {
        if range.end > task_size(mm) {
            return Err(EFAULT);
        }
        let is_first = self.ranges.lock().is_none();
        let mut made = match is_first {
            true => Some(new_ranges()?),
            false => None,
        };
        let mmap = mm.mmap_read_lock();
        check_mapped(&mmap, &range)?;
        let mut guard = self.ranges.lock();
        if guard.is_none() {
            *guard = made.take();
        }
        let ranges = Option::as_mut(&mut guard).ok_or(ENOMEM)?;
        ranges.set(range, change).map_err(|Full| ENOSPC)?;
        self.note_denials(ranges);
        Ok(())
    }

    /// Returns the advice for an address, and the whole range around it that has the same advice.
    ///
    /// Does not sleep. The advice may change at any time.
    pub(crate) fn at(&self, address: usize) -> (Attributes, Range<usize>) {
        match &*self.ranges.lock() {
            Some(ranges) => ranges.at(address),
            None => (Attributes::default(), 0..usize::MAX),
        }
    }

    /// Returns whether there is a range that engines must not access.
    pub(crate) fn denies(&self) -> bool {
        // ORDERING: Relaxed: engines check this under the update lock, which a task that denies
        // access takes after the store.
        self.denies.load(Relaxed)
    }

    /// Returns the number of ranges that have advice, and the number of pages that lost theirs
    /// because no slot was left.
    pub(crate) fn counts(&self) -> (usize, u64) {
        let ranges = self.ranges.lock();
        let len = ranges.as_ref().map_or(0, AttributeMap::len);
        (len, self.lost.get())
    }

    fn note_denials(&self, ranges: &Ranges) {
        // ORDERING: Relaxed: see `denies`. The lock of the ranges orders the stores.
        self.denies.store(ranges.denies(), Relaxed);
    }
}

impl UnmapObserver for Advice {
    fn unmapped(&self, range: Range<usize>) {
        let mut guard = self.ranges.lock();
        let Some(ranges) = Option::as_mut(&mut guard).filter(|ranges| ranges.len() > 0) else {
            return;
        };
        let lost = ranges.forget(range) / PAGE_SIZE;
        if lost > 0 {
            self.lost.add(lost as u64);
        }
        if self.denies() {
            self.note_denials(ranges);
        }
    }
}

fn new_ranges() -> Result<Ranges> {
    let places = || KVVec::from_elem(Slot::default(), PLACES, GFP_KERNEL_ACCOUNT);
    Ok(AttributeMap::new(places()?, places()?))
}

/// Checks that the whole range is mapped.
fn check_mapped(mmap: &MmapReadGuard<'_>, range: &Range<usize>) -> Result {
    let mut at = range.start;
    while at < range.end {
        at = LockedVma::lookup(mmap, at).ok_or(EFAULT)?.end();
        resched_or_eintr()?;
    }
    Ok(())
}
