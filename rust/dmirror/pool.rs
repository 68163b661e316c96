// SPDX-License-Identifier: GPL-2.0

//! The free pages of a device: the allocator and its lock.
//!
//! Locks: the pool's spinlock is the innermost one. mm takes it, through `folio_free` and
//! `folio_split`, in any context, so it is irq-safe, and is held for bookkeeping only.

use core::ops::Range;

use emu::debugfs::{DebugfsDir, DebugfsU32s};
use hmm::{
    compat::{new_spinlock_irq, SpinLockIrq},
    memremap::DevicePages,
};
use kernel::{
    alloc::{flags::GFP_KERNEL, KVVec},
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        atomic::{ordering::Relaxed, Atomic},
        Arc,
    },
};

use crate::{
    alloc::{Allocator, Block, Eviction},
    pages::BLOCK_PAGES,
    policy::{limit_pages, LIMIT_FILE},
};

/// The free pages of a device, and the order in which the others are evicted.
#[pin_data]
pub(crate) struct Pool {
    #[pin]
    allocator: SpinLockIrq<Allocator<KVVec<Block>>>,
    /// Number of pages that reservations hold.
    reserved: Atomic<usize>,
    /// Number of all pages.
    npages: usize,
    /// The file with the limit of pages that may be in use.
    #[pin]
    limit: DebugfsU32s<1>,
}

impl Pool {
    /// Creates a pool of `npages` free pages, with `seed` for its random numbers, and its file in
    /// `folder`.
    pub(crate) fn new(
        npages: usize,
        seed: u64,
        folder: Arc<DebugfsDir>,
    ) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            allocator <- {
                let blocks = KVVec::from_elem(Block::default(), npages / BLOCK_PAGES, GFP_KERNEL)?;
                new_spinlock_irq!(Allocator::new(blocks).with_seed(seed))
            },
            reserved: Atomic::new(0),
            npages,
            limit <- DebugfsU32s::new(folder, &[LIMIT_FILE]),
        })
    }

    /// Sets the limit in MiB, for the tests of this module.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(crate) fn set_limit(&self, mib: u32) {
        self.limit.put(0, mib);
    }

    /// Returns the number of further pages that may be in use. The limit may change at any time;
    /// the new limit applies to later allocations.
    fn below_limit(&self, allocator: &Allocator<KVVec<Block>>) -> usize {
        let limit = limit_pages(self.limit.get(0), self.npages, PAGE_SIZE, BLOCK_PAGES);
        // Pages in reservations are in use from the allocator's point of view.
        let used = self.npages - allocator.free_pages();
        limit.saturating_sub(used)
    }

    /// Frees pages that nobody uses. Does not sleep.
    pub(crate) fn free(&self, pages: DevicePages) {
        let freed = self.allocator.lock().free(pages.first(), pages.order());
        // `hmm` returns only pages that were reserved, which this pool has allocated.
        debug_assert!(freed.is_ok());
    }

    /// Records that the folio of a page's block was split. Does not sleep.
    pub(crate) fn split(&self, page: usize) {
        self.allocator.lock().split(page);
    }

    /// Returns the free memory, whether or not the limit allows its use. Does not sleep.
    pub(crate) fn room(&self) -> Room {
        let allocator = self.allocator.lock();
        Room {
            pages: allocator.free_pages(),
            blocks: allocator.free_blocks(),
        }
    }

    /// Returns the block to evict next. Does not sleep; the answer may be stale.
    pub(crate) fn victim(&self, eviction: Eviction) -> Option<usize> {
        Some(self.allocator.lock().victim(eviction)? / BLOCK_PAGES)
    }

    /// Returns whether a block is free. Does not sleep.
    pub(crate) fn is_block_free(&self, block: usize) -> bool {
        self.allocator.lock().is_block_free(block)
    }

    /// Returns the number of used pages of each of the `N` blocks from `first` on. Does not sleep.
    pub(crate) fn used_from<const N: usize>(&self, first: usize) -> [usize; N] {
        let allocator = self.allocator.lock();
        core::array::from_fn(|nth| allocator.used_in(first + nth))
    }

    /// Returns the number of pages that reservations hold. Does not sleep; the answer may be stale.
    pub(crate) fn reserved(&self) -> usize {
        // ORDERING: Relaxed: the value only decides whether to try again.
        self.reserved.load(Relaxed)
    }

    /// Adds to the number of pages that reservations hold; `npages` may be negative. Does not
    /// sleep.
    pub(crate) fn count_reserved(&self, npages: isize) {
        // ORDERING: Relaxed: the number orders no other memory access.
        self.reserved.add(npages as usize, Relaxed);
    }

    /// Allocates a free block, if the limit allows it; returns its first page. Does not sleep.
    pub(crate) fn alloc_block(&self) -> Option<usize> {
        let mut allocator = self.allocator.lock();
        if self.below_limit(&allocator) < BLOCK_PAGES {
            return None;
        }
        allocator.alloc_block()
    }

    /// Allocates consecutive free pages: at least one, at most `most`, within the limit. Does not
    /// sleep.
    pub(crate) fn alloc_pages(&self, most: usize) -> Option<Range<usize>> {
        let mut allocator = self.allocator.lock();
        let most = most.min(self.below_limit(&allocator));
        allocator.alloc_pages(most)
    }

    /// Records that the device has used a block. Does not sleep.
    pub(crate) fn touch(&self, block: usize) {
        self.allocator.lock().touch(block * BLOCK_PAGES);
    }

    /// Returns the block to evict next, and makes it the last one to evict, so that the next call
    /// returns another one. Does not sleep.
    pub(crate) fn next_victim(&self, eviction: Eviction) -> Option<usize> {
        Some(self.allocator.lock().next_victim(eviction)? / BLOCK_PAGES)
    }
}

/// The free memory of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// Number of free pages, including those of free blocks.
    pub(crate) pages: usize,
    /// Number of blocks that are free as a whole.
    pub(crate) blocks: usize,
}
