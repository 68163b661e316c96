// SPDX-License-Identifier: GPL-2.0

//! The pages of a device: the allocator under its lock.
//!
//! Locks: the pool's spinlock is the innermost one. mm takes it, through `folio_free` and
//! `folio_split`, in any context, so it is irq-safe and nothing is done under it but book-keeping.

use core::ops::Range;

use hmm::memremap::{DevicePages, HPAGE_PMD_NR, HPAGE_PMD_ORDER};
use kernel::{
    alloc::{flags::GFP_KERNEL, KVVec},
    new_spinlock_irq,
    prelude::*,
    sync::{
        atomic::{ordering::Relaxed, Atomic},
        SpinLockIrq,
    },
};

use crate::alloc::{Allocator, Block, Eviction, BLOCK_ORDER, BLOCK_PAGES};

// The allocator, which knows nothing of the kernel, and mm speak of the same blocks.
const _: () = assert!(BLOCK_ORDER == HPAGE_PMD_ORDER && BLOCK_PAGES == HPAGE_PMD_NR);

/// The pages of a device that are free, and the order in which the others have to go.
#[pin_data]
pub(crate) struct Pool {
    #[pin]
    allocator: SpinLockIrq<Allocator<KVVec<Block>>>,
    /// Pages that reservations hold.
    reserved: Atomic<usize>,
}

impl Pool {
    /// A pool of `npages` free pages, whose random numbers begin with `seed`.
    pub(crate) fn new(npages: usize, seed: u64) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            allocator <- {
                let blocks = KVVec::from_elem(Block::new(), npages / BLOCK_PAGES, GFP_KERNEL)?;
                new_spinlock_irq!(Allocator::new(blocks).with_seed(seed))
            },
            reserved: Atomic::new(0),
        })
    }

    /// Takes back pages that nobody uses. Does not sleep.
    pub(crate) fn free(&self, pages: DevicePages) {
        let freed = self.allocator.lock().free(pages.first(), pages.order());
        // `hmm` hands back only what was reserved there, which this pool has allocated.
        debug_assert!(freed.is_ok());
    }

    /// Notes that the folio of the block of a page was split. Does not sleep.
    pub(crate) fn split(&self, page: usize) {
        self.allocator.lock().split(page);
    }

    /// How much is free. Does not sleep.
    pub(crate) fn room(&self) -> Room {
        let allocator = self.allocator.lock();
        Room {
            pages: allocator.free_pages(),
            blocks: allocator.free_blocks(),
        }
    }

    /// Returns the block that has to go next. Does not sleep; the answer may be old when it arrives.
    pub(crate) fn victim(&self, eviction: Eviction) -> Option<usize> {
        Some(self.allocator.lock().victim(eviction)? / BLOCK_PAGES)
    }

    /// Returns whether a block is free. Does not sleep.
    pub(crate) fn is_block_free(&self, block: usize) -> bool {
        self.allocator.lock().is_block_free(block)
    }

    /// Returns the number of pages that reservations hold. Does not sleep; the answer may be old
    /// when it arrives.
    pub(crate) fn reserved(&self) -> usize {
        // ORDERING: Relaxed, because nothing is concluded from it but whether to try again.
        self.reserved.load(Relaxed)
    }

    /// Notes that reservations hold so many pages more, or less. Does not sleep.
    pub(crate) fn count_reserved(&self, npages: isize) {
        // ORDERING: Relaxed: the number stands for itself.
        self.reserved.add(npages as usize, Relaxed);
    }

    /// Takes a block that is free now; returns its first page. Does not sleep.
    pub(crate) fn alloc_block(&self) -> Option<usize> {
        self.allocator.lock().alloc_block()
    }

    /// Takes pages that are free now and follow one another, at least one and at most `most`. Does
    /// not sleep.
    pub(crate) fn alloc_pages(&self, most: usize) -> Option<Range<usize>> {
        self.allocator.lock().alloc_pages(most)
    }

    /// Notes that the device has used a block. Does not sleep.
    pub(crate) fn touch(&self, block: usize) {
        self.allocator.lock().touch(block * BLOCK_PAGES);
    }

    /// The block that has to go next, which becomes the one that has to go last, so that the next
    /// call gives another one. Does not sleep.
    pub(crate) fn next_victim(&self, eviction: Eviction) -> Option<usize> {
        Some(self.allocator.lock().next_victim(eviction)? / BLOCK_PAGES)
    }
}

/// What is free on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// Free pages, those of free blocks among them.
    pub(crate) pages: usize,
    /// Blocks that are free as a whole.
    pub(crate) blocks: usize,
}
