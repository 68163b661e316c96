// SPDX-License-Identifier: GPL-2.0

//! Who learns what is unmapped, to forget what belongs to the mapping.
//!
//! C header: [`include/linux/mmu_notifier.h`](srctree/include/linux/mmu_notifier.h).

use core::ops::Range;

use hmm::interval::{Event, Invalidation};

/// Who learns what is unmapped from the address space of a [`View`](crate::view::View).
pub trait UnmapObserver: Send + Sync + 'static {
    /// Learns that a range (bytes, page aligned, the end exclusive) is about to be unmapped or
    /// moved away, or that the address space goes away. Nothing is mapped there again before it
    /// returns.
    ///
    /// Called under the update lock. Must not sleep, nor allocate memory.
    fn unmapped(&self, range: Range<usize>);
}

/// Tells an observer what a change to the page tables unmaps.
pub(crate) fn tell_unmapped(observer: Option<&dyn UnmapObserver>, event: &Invalidation<'_>) {
    if let (Event::Unmap | Event::Release, Some(observer)) = (event.event(), observer) {
        observer.unmapped(event.range());
    }
}
