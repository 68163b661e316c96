// SPDX-License-Identifier: GPL-2.0

//! The pages of a device: the allocator under its lock.
//!
//! Locks: the pool's spinlock is the innermost one. mm takes it, through `folio_free` and
//! `folio_split`, in any context, so it is irq-safe and nothing is done under it but book-keeping.

use core::ops::Range;

use emu::debugfs::{DebugfsDir, DebugfsU32s};
use hmm::memremap::{DevicePages, HPAGE_PMD_NR, HPAGE_PMD_ORDER};
use kernel::{
    alloc::{flags::GFP_KERNEL, KVVec},
    new_spinlock_irq,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        atomic::{ordering::Relaxed, Atomic},
        Arc, SpinLockIrq,
    },
};

use crate::{
    alloc::{Allocator, Block, Eviction, BLOCK_ORDER, BLOCK_PAGES},
    policy::{limit_pages, LIMIT_FILE},
};

// The allocator, which knows nothing of the kernel, and mm speak of the same blocks.
const _: () = assert!(BLOCK_ORDER == HPAGE_PMD_ORDER && BLOCK_PAGES == HPAGE_PMD_NR);

/// The pages of a device that are free, and the order in which the others have to go.
#[pin_data]
pub(crate) struct Pool {
    #[pin]
    allocator: SpinLockIrq<Allocator<KVVec<Block>>>,
    /// Pages that reservations hold.
    reserved: Atomic<usize>,
    /// All pages.
    npages: usize,
    /// The file that says how many of them may be in use.
    #[pin]
    limit: DebugfsU32s<1>,
}

impl Pool {
    /// A pool of `npages` free pages, whose random numbers begin with `seed`, and whose file is in
    /// `folder`.
    pub(crate) fn new(
        npages: usize,
        seed: u64,
        folder: Arc<DebugfsDir>,
    ) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            allocator <- {
                let blocks = KVVec::from_elem(Block::new(), npages / BLOCK_PAGES, GFP_KERNEL)?;
                new_spinlock_irq!(Allocator::new(blocks).with_seed(seed))
            },
            reserved: Atomic::new(0),
            npages,
            limit <- DebugfsU32s::new(folder, &[LIMIT_FILE]),
        })
    }

    /// Sets how many MiB may be in use, for the tests of this module.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(crate) fn set_limit(&self, mib: u32) {
        self.limit.put(0, mib);
    }

    /// Returns how many pages more may be in use. The limit may change at any time; it holds for
    /// who takes pages afterwards.
    fn below_limit(&self, allocator: &Allocator<KVVec<Block>>) -> usize {
        let limit = limit_pages(self.limit.get(0), self.npages, PAGE_SIZE, BLOCK_PAGES);
        // What reservations hold is in use for the allocator.
        let used = self.npages - allocator.free_pages();
        limit.saturating_sub(used)
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

    /// How much is free, whether the limit lets it be used or not. Does not sleep.
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
        self.allocator.lock().used_in(block) == 0
    }

    /// Returns how many pages are in use of each of the `N` blocks from `first` on. Does not sleep.
    pub(crate) fn used_from<const N: usize>(&self, first: usize) -> [usize; N] {
        let allocator = self.allocator.lock();
        core::array::from_fn(|nth| allocator.used_in(first + nth))
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

    /// Takes a block that is free now, if the limit has room for it; returns its first page. Does
    /// not sleep.
    pub(crate) fn alloc_block(&self) -> Option<usize> {
        let mut allocator = self.allocator.lock();
        if self.below_limit(&allocator) < BLOCK_PAGES {
            return None;
        }
        allocator.alloc_block()
    }

    /// Takes pages that are free now and follow one another, at least one and at most `most`, and
    /// no more than the limit has room for. Does not sleep.
    pub(crate) fn alloc_pages(&self, most: usize) -> Option<Range<usize>> {
        let mut allocator = self.allocator.lock();
        let most = most.min(self.below_limit(&allocator));
        allocator.alloc_pages(most)
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
