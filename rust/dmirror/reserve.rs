// SPDX-License-Identifier: GPL-2.0

//! Reservations of device pages, and eviction when there is no room.

use emu::{
    device::{Emulated, Pagemap},
    sched::fatal_signal_pending,
    trace::Cause,
};
use hmm::memremap::DevicePages;
use kernel::{alloc::flags::GFP_KERNEL, prelude::*};

use crate::{
    alloc::{BLOCK_ORDER, BLOCK_PAGES},
    config::EVICT_ROUNDS,
    device::DeviceMemory,
    inject::Site,
    plan::WhenFull,
};

/// Free pages of a device of ours.
type FreeFolio<'d> = hmm::memremap::FreeFolio<'d, Emulated<DeviceMemory>>;
type FreePages<'d> = hmm::memremap::FreePages<'d, Emulated<DeviceMemory>>;

/// Pages that a migration will need, taken before it locks anything, so that eviction never runs
/// while source folios are locked. What is not used goes back on drop.
pub(crate) struct Reservation<'d> {
    pagemap: &'d Pagemap<DeviceMemory>,
    block: Option<FreeFolio<'d>>,
    /// Small pages, in as many runs as they lie. There is room for one more run.
    pages: KVec<FreePages<'d>>,
    /// How many pages are left of it.
    npages: usize,
    /// How many it has had, which the pool counts until drop.
    counted: usize,
    /// How many blocks may still be evicted for it.
    rounds: usize,
    /// Pages were evicted for it, or were locked by others then.
    contended: bool,
}

impl<'d> Reservation<'d> {
    /// A reservation of nothing.
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

    /// Takes a block, the only one; returns whether there was one.
    ///
    /// May sleep. Takes folio locks one block at a time, so the caller must hold none.
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

    /// Takes `npages` pages, or with [`WhenFull::TakeWhatIsFree`] as many as there are.
    ///
    /// May sleep. Takes folio locks one block at a time, so the caller must hold none.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`] when so many pages are not to be had, or system memory ran out; [`EINTR`].
    pub(crate) fn add_pages(&mut self, npages: usize, when_full: WhenFull) -> Result {
        let mut missing = npages;
        while missing > 0 {
            let added = self.add(when_full, |this| {
                // One that is told to fail is asked for each page.
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

    /// The number of pages that are left of it.
    pub(crate) fn npages(&self) -> usize {
        self.npages
    }

    /// Whether pages that were evicted for it went to others, or could not be evicted at that
    /// moment.
    pub(crate) fn lost_a_race(&self) -> bool {
        self.contended
    }

    /// A block, if there is one.
    pub(crate) fn pop_block(&mut self) -> Option<FreeFolio<'d>> {
        let block = self.block.take()?;
        self.npages -= BLOCK_PAGES;
        Some(block)
    }

    /// A page, if there is one. Takes a block apart if it must.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`] when there is no system memory to note what is left of a block.
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
                // There is room for it, so that this does not allocate.
                self.pages.push(block.into_pages(), GFP_KERNEL)?;
            } else {
                return Ok(None);
            }
        }
    }

    /// Has `take` take pages, evicting others if that is wanted; returns how many it has got.
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
                // Where there is no memory for one block, there may be for another, of small pages.
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

/// Takes a free block, with memory behind it, or `None` when there is none.
fn take_block(pagemap: &Pagemap<DeviceMemory>) -> Result<Option<FreeFolio<'_>>> {
    let pool = pagemap.ops().pool();
    let Some(first) = pool.alloc_block() else {
        return Ok(None);
    };
    let pages = DevicePages::new(first, BLOCK_ORDER)?;
    let memory = pagemap.ops().memory().populate(first / BLOCK_PAGES);
    match memory.and_then(|()| pagemap.reserve(pages, ())) {
        Ok(folio) => Ok(Some(folio)),
        Err(error) => {
            pool.free(pages);
            Err(error)
        }
    }
}

/// Takes free pages that follow one another in a block, at most `most` and with memory behind them,
/// or `None` when there are none.
fn take_pages(pagemap: &Pagemap<DeviceMemory>, most: usize) -> Result<Option<FreePages<'_>>> {
    let pool = pagemap.ops().pool();
    let Some(pages) = pool.alloc_pages(most) else {
        return Ok(None);
    };
    let memory = pagemap.ops().memory().populate(pages.start / BLOCK_PAGES);
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
