// SPDX-License-Identifier: GPL-2.0

//! Observers of unmapped ranges, which discard the data that belongs to a mapping.
//!
//! C header: [`include/linux/mmu_notifier.h`](srctree/include/linux/mmu_notifier.h).

use core::ops::Range;

use hmm::interval::{Event, Invalidation};

/// An observer of the ranges that are unmapped from a [`View`](crate::view::View)'s address space.
pub trait UnmapObserver: Send + Sync + 'static {
    /// Called when a range (bytes, page aligned, the end exclusive) is about to be unmapped or
    /// moved, or when the address space is about to be torn down. Nothing is mapped there again
    /// before this returns.
    ///
    /// Called under the update lock. Must not sleep or allocate memory.
    fn unmapped(&self, range: Range<usize>);
}

/// Notifies an observer of the range that a change to the page tables unmaps.
pub(crate) fn tell_unmapped(observer: Option<&dyn UnmapObserver>, event: &Invalidation<'_>) {
    if let (Event::Unmap | Event::Release, Some(observer)) = (event.event(), observer) {
        observer.unmapped(event.range());
    }
}
