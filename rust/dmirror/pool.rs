// SPDX-License-Identifier: GPL-2.0

//! The pages of a device: the allocator under its lock, reservations, and eviction when there is
//! no room.
//!
//! Locks: the pool's spinlock is the innermost one. mm takes it, through `folio_free` and
//! `folio_split`, in any context, so it is irq-safe and nothing is done under it but book-keeping.

use hmm::DevPagemap;
use hmm::DevicePages;
use hmm::FreeFolio;
use kernel::alloc::flags::GFP_KERNEL;
use kernel::alloc::KVVec;
use kernel::alloc::KVec;
use kernel::new_spinlock_irq;
use kernel::prelude::*;
use kernel::sync::SpinLockIrq;

use crate::alloc::Allocator;
use crate::alloc::Block;
use crate::alloc::BLOCK_ORDER;
use crate::alloc::BLOCK_PAGES;
use crate::config::EVICT_ROUNDS;
use crate::device::DeviceMemory;

// The allocator, which knows nothing of the kernel, and mm speak of the same blocks.
const _: () = assert!(BLOCK_ORDER == hmm::PMD_ORDER && BLOCK_PAGES == hmm::BLOCK_PAGES);

/// The pages of a device that are free, and the order in which the others were used.
#[pin_data]
pub(crate) struct Pool {
    #[pin]
    allocator: SpinLockIrq<Allocator<KVVec<Block>>>,
}

impl Pool {
    /// A pool of `npages` free pages.
    pub(crate) fn new(npages: usize) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            allocator <- new_spinlock_irq!(Allocator::new(KVVec::from_elem(
                Block::new(),
                npages / BLOCK_PAGES,
                GFP_KERNEL
            )?)),
        })
    }

    /// Takes back pages that nobody uses. Does not sleep.
    pub(crate) fn free(&self, pages: DevicePages) {
        let freed = self.allocator.lock().free(pages.first(), pages.order());
        // `hmm` hands back only what it was given by `take`, which this pool has allocated.
        debug_assert!(freed.is_ok());
    }

    /// Notes that the folio of a block was split. Does not sleep.
    pub(crate) fn split(&self, piece: DevicePages) {
        self.allocator.lock().split(piece.first());
    }

    /// How much is free. Does not sleep.
    pub(crate) fn room(&self) -> Room {
        let allocator = self.allocator.lock();
        Room {
            pages: allocator.free_pages(),
            blocks: allocator.free_blocks(),
        }
    }

    /// Takes one page that is free now. Does not sleep.
    fn alloc_page(&self) -> Option<usize> {
        self.allocator.lock().alloc_page()
    }

    /// The block that was left alone for longest, which becomes the one that was used last, so that
    /// the next call gives another one. Does not sleep.
    fn next_victim(&self) -> Option<usize> {
        let mut allocator = self.allocator.lock();
        let page = allocator.oldest()?;
        allocator.touch(page);
        Some(page / BLOCK_PAGES)
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

/// What to do when the device has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// Be content with what is free.
    TakeWhatIsFree,
    /// Evict the least recently used blocks, whoever owns them.
    Evict,
}

/// Pages that a migration will need, taken before it locks anything, so that eviction never runs
/// while source folios are locked. What is not used goes back on drop.
pub(crate) struct Reservation<'d> {
    folios: KVec<FreeFolio<'d, DeviceMemory>>,
}

impl<'d> Reservation<'d> {
    /// Takes `npages` pages.
    ///
    /// May sleep. Takes folio locks one block at a time, so the caller must hold none.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`] when so many pages are not to be had, or system memory ran out.
    pub(crate) fn new(
        pagemap: &'d DevPagemap<DeviceMemory>,
        npages: usize,
        when_full: WhenFull,
    ) -> Result<Self> {
        let mut this = Self {
            folios: KVec::with_capacity(npages, GFP_KERNEL)?,
        };
        let pool = pagemap.ops().pool();
        let mut rounds = pagemap.region().npages() / BLOCK_PAGES * EVICT_ROUNDS;
        while this.folios.len() < npages {
            match take_page(pagemap)? {
                Some(folio) => this.folios.push(folio, GFP_KERNEL)?,
                None if when_full == WhenFull::TakeWhatIsFree => break,
                None => {
                    let victim = pool.next_victim().ok_or(ENOMEM)?;
                    rounds = rounds.checked_sub(1).ok_or(ENOMEM)?;
                    pagemap.evict(victim)?;
                    if hmm::fatal_signal_pending() {
                        return Err(EINTR);
                    }
                }
            }
        }
        Ok(this)
    }

    /// One of the pages.
    pub(crate) fn pop(&mut self) -> Option<FreeFolio<'d, DeviceMemory>> {
        self.folios.pop()
    }
}

/// Takes one free page with memory behind it, or `None` when there is none.
fn take_page(pagemap: &DevPagemap<DeviceMemory>) -> Result<Option<FreeFolio<'_, DeviceMemory>>> {
    let pool = pagemap.ops().pool();
    let Some(page) = pool.alloc_page() else {
        return Ok(None);
    };
    let pages = DevicePages::new(page, 0)?;
    let memory = pagemap.region().vram().populate(page / BLOCK_PAGES);
    match memory.and_then(|()| pagemap.take(pages)) {
        Ok(folio) => Ok(Some(folio)),
        Err(error) => {
            pool.free(pages);
            Err(error)
        }
    }
}
