// SPDX-License-Identifier: GPL-2.0

//! Advice: what a program has said about ranges of its addresses, as long as they are mapped.
//!
//! It is set with the `mmap_lock` held, where the range is mapped, and forgotten in the notifier,
//! before anything else can be mapped there: so no memory has advice that was given for other
//! memory.
//!
//! Locks: the `mmap_lock`, the update lock of a view, then that of the ranges, which is held for
//! book-keeping only.

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

/// Places for ranges. Half of them are for ranges of which a part is unmapped.
const PLACES: usize = 2 * DMIRROR_MAX_ADVICE as usize;

type Ranges = AttributeMap<KVVec<Slot>>;

/// The advice that an open file has got.
#[pin_data]
pub(crate) struct Advice {
    /// Made for the first advice.
    #[pin]
    ranges: SpinLock<Option<Ranges>>,
    /// Whether engines must not access some range.
    denies: Atomic<bool>,
    /// Pages that are mapped and whose advice was forgotten, because there was no place.
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

    /// Changes what is advised for a range (bytes, page aligned, the end exclusive) of the address
    /// space whose unmapped ranges this learns of.
    ///
    /// May sleep. Takes the `mmap_lock` for reading.
    ///
    /// # Errors
    ///
    /// [`EFAULT`] when a part is not mapped; [`ENOSPC`] when there would be too many ranges;
    /// [`ENOMEM`]; [`EINTR`] when a fatal signal arrived. Then nothing has changed.
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

    /// Returns what was advised for an address, and the whole range around it for which that is so.
    ///
    /// Does not sleep. It may change at any time.
    pub(crate) fn at(&self, address: usize) -> (Attributes, Range<usize>) {
        match &*self.ranges.lock() {
            Some(ranges) => ranges.at(address),
            None => (Attributes::default(), 0..usize::MAX),
        }
    }

    /// Returns whether engines must not access some range.
    pub(crate) fn denies(&self) -> bool {
        // ORDERING: Relaxed: engines look under the update lock, which who denies something takes
        // afterwards.
        self.denies.load(Relaxed)
    }

    /// Returns the number of ranges that have advice, and the pages that lost theirs for want of a
    /// place.
    pub(crate) fn counts(&self) -> (usize, u64) {
        let ranges = self.ranges.lock();
        let len = ranges.as_ref().map_or(0, AttributeMap::len);
        (len, self.lost.get())
    }

    fn note_denials(&self, ranges: &Ranges) {
        // ORDERING: Relaxed: see `denies`. Stores are in order by the lock of the ranges.
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

/// Fails if a part of a range is not mapped.
fn check_mapped(mmap: &MmapReadGuard<'_>, range: &Range<usize>) -> Result {
    let mut at = range.start;
    while at < range.end {
        at = LockedVma::lookup(mmap, at).ok_or(EFAULT)?.end();
        resched_or_eintr()?;
    }
    Ok(())
}
