// SPDX-License-Identifier: GPL-2.0

//! Reservations of device pages, with eviction if there is no room.

use emu::{
    device::{Emulated, Pagemap},
    sched::fatal_signal_pending,
    trace::Cause,
};
use hmm::memremap::DevicePages;
use kernel::{alloc::flags::GFP_KERNEL, prelude::*};

use crate::{
    config::EVICT_ROUNDS,
    device::DeviceMemory,
    inject::Site,
    pages::{BLOCK_ORDER, BLOCK_PAGES},
    plan::WhenFull,
};

/// Free pages of a device of this driver.
type FreeFolio<'d> = hmm::memremap::FreeFolio<'d, Emulated<DeviceMemory>>;
type FreePages<'d> = hmm::memremap::FreePages<'d, Emulated<DeviceMemory>>;

/// Pages that a migration will need, reserved before it locks anything, so that eviction never runs
/// while source folios are locked. Drop frees the unused ones.
pub(crate) struct Reservation<'d> {
    pagemap: &'d Pagemap<DeviceMemory>,
    block: Option<FreeFolio<'d>>,
    /// Small pages, one item per consecutive run. The vector always has room for one more run.
    pages: KVec<FreePages<'d>>,
    /// Number of pages that are left in the reservation.
    npages: usize,
    /// Number of pages that were reserved in total, which the pool counts until drop.
    counted: usize,
    /// Maximum number of blocks that may still be evicted for it.
    rounds: usize,
    /// Set if pages were evicted for it, or could not be because others had locked them.
    contended: bool,
}

impl<'d> Reservation<'d> {
    /// Creates an empty reservation.
    pub(crate) fn new(pagemap: &'d Pagemap<DeviceMemory>) -> Self {
        Self {
            pagemap,
            block: None,
            pages: KVec::new(),
            npages: 0,
            counted: 0,
            rounds: pagemap.npages() / BLOCK_PAGES * EVICT_ROUNDS,
            contended: false,
        }
    }

    /// Reserves a block, at most one; returns whether there was one.
    ///
    /// May sleep. Takes the folio locks of one block at a time, so the caller must hold no folio
    /// lock.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`] when system memory ran out; [`EINTR`].
    pub(crate) fn add_block(&mut self, when_full: WhenFull) -> Result<bool> {
        let added = self.add(when_full, |this| {
            let Some(block) = take_block(this.pagemap)? else {
                return Ok(0);
            };
            this.block = Some(block);
            Ok(BLOCK_PAGES)
        })?;
        Ok(added > 0)
    }

    /// Reserves `npages` pages or, with [`WhenFull::TakeWhatIsFree`], as many of them as are free.
    ///
    /// May sleep. Takes the folio locks of one block at a time, so the caller must hold no folio
    /// lock.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`] when fewer pages are available, or system memory ran out; [`EINTR`].
    pub(crate) fn add_pages(&mut self, npages: usize, when_full: WhenFull) -> Result {
        let mut missing = npages;
        while missing > 0 {
            let added = self.add(when_full, |this| {
                // If failures are injected, each page is allocated separately.
                let one_by_one = this.pagemap.ops().injection().is_on(Site::DeviceAlloc);
                let most = if one_by_one { 1 } else { missing };
                let Some(pages) = take_pages(this.pagemap, most)? else {
                    return Ok(0);
                };
                let npages = pages.npages();
                this.pages.push(pages, GFP_KERNEL)?;
                Ok(npages)
            })?;
            if added == 0 {
                return match when_full {
                    WhenFull::TakeWhatIsFree => Ok(()),
                    WhenFull::Evict => Err(ENOMEM),
                };
            }
            missing -= added;
        }
        Ok(())
    }

    /// Returns the number of pages that are left in the reservation.
    pub(crate) fn npages(&self) -> usize {
        self.npages
    }

    /// Returns whether others took the pages that were evicted for this reservation, or pages could
    /// not be evicted at the time.
    pub(crate) fn lost_a_race(&self) -> bool {
        self.contended
    }

    /// Takes the block out, if there is one.
    pub(crate) fn pop_block(&mut self) -> Option<FreeFolio<'d>> {
        let block = self.block.take()?;
        self.npages -= BLOCK_PAGES;
        Some(block)
    }

    /// Takes a page out, if there is one. Splits a block if necessary.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`] when there is no system memory to record the rest of a block.
    pub(crate) fn pop_page(&mut self) -> Result<Option<FreeFolio<'d>>> {
        loop {
            if let Some(pages) = self.pages.last_mut() {
                if let Some(page) = pages.pop() {
                    self.npages -= 1;
                    return Ok(Some(page));
                }
                self.pages.pop();
            } else if let Some(block) = self.block.take() {
                self.pagemap.ops().pool().split(block.pages().first());
                // There is room, so this does not allocate.
                self.pages.push(block.into_pages(), GFP_KERNEL)?;
            } else {
                return Ok(None);
            }
        }
    }

    /// Calls `take` to reserve pages, and evicts others if allowed and necessary; returns the
    /// number of reserved pages.
    fn add(
        &mut self,
        when_full: WhenFull,
        take: impl Fn(&mut Self) -> Result<usize>,
    ) -> Result<usize> {
        self.pages.reserve(2, GFP_KERNEL)?;
        loop {
            if self.pagemap.ops().injection().fails(Site::DeviceAlloc) {
                return match when_full {
                    WhenFull::TakeWhatIsFree => Ok(0),
                    WhenFull::Evict => Err(ENOMEM),
                };
            }
            let npages = take(self)?;
            if npages > 0 {
                self.npages += npages;
                self.counted += npages;
                self.pagemap.ops().pool().count_reserved(npages as isize);
                return Ok(npages);
            }
            if when_full == WhenFull::TakeWhatIsFree || self.rounds == 0 {
                return Ok(0);
            }
            self.rounds -= 1;
            let memory = self.pagemap.ops();
            let Some(victim) = memory.pool().next_victim(memory.eviction_policy()) else {
                return Ok(0);
            };
            let evicted = memory.evict(self.pagemap, victim, Cause::Eviction);
            match evicted.error.filter(|_| evicted.moved == 0) {
                None => self.contended = true,
                // There may be no memory for one block, but enough for one that has small pages.
                Some(ENOMEM | EAGAIN) => {}
                Some(error) => return Err(error),
            }
            if fatal_signal_pending() {
                return Err(EINTR);
            }
        }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let pool = self.pagemap.ops().pool();
        pool.count_reserved(-(self.counted as isize));
    }
}

/// Reserves a free block, with memory, or returns `None` if there is none.
fn take_block(pagemap: &Pagemap<DeviceMemory>) -> Result<Option<FreeFolio<'_>>> {
    let pool = pagemap.ops().pool();
    let Some(first) = pool.alloc_block() else {
        return Ok(None);
    };
    let pages = DevicePages::new(first, BLOCK_ORDER)?;
    let memory = pagemap.ops().memory().populate(pages.range());
    match memory.and_then(|()| pagemap.reserve(pages, ())) {
        Ok(folio) => Ok(Some(folio)),
        Err(error) => {
            pool.free(pages);
            Err(error)
        }
    }
}

/// Reserves consecutive free pages of a block, at most `most` and with memory, or returns `None` if
/// there are none.
fn take_pages(pagemap: &Pagemap<DeviceMemory>, most: usize) -> Result<Option<FreePages<'_>>> {
    let pool = pagemap.ops().pool();
    let Some(pages) = pool.alloc_pages(most) else {
        return Ok(None);
    };
    let memory = pagemap.ops().memory().populate(pages.clone());
    match memory.and_then(|()| pagemap.reserve_pages(pages.clone(), ())) {
        Ok(pages) => Ok(Some(pages)),
        Err(error) => {
            for page in pages {
                pool.free(DevicePages::new(page, 0)?);
            }
            Err(error)
        }
    }
}
