// SPDX-License-Identifier: GPL-2.0

//! Reservations of device pages, and eviction when there is no room.

use emu::{
    device::{Emulated, Pagemap},
    sched::fatal_signal_pending,
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

/// Pages that a migration will need, taken before it locks anything, so that eviction never runs
/// while source folios are locked. What is not used goes back on drop.
pub(crate) struct Reservation<'d> {
    pagemap: &'d Pagemap<DeviceMemory>,
    /// Blocks, and what is left of blocks that were taken apart.
    folios: KVec<FreeFolio<'d>>,
    npages: usize,
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
            folios: KVec::new(),
            npages: 0,
            rounds: pagemap.npages() / BLOCK_PAGES * EVICT_ROUNDS,
            contended: false,
        }
    }

    /// Takes a block; returns whether there was one.
    ///
    /// May sleep. Takes folio locks one block at a time, so the caller must hold none.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`] when system memory ran out; [`EINTR`].
    pub(crate) fn add_block(&mut self, when_full: WhenFull) -> Result<bool> {
        self.add(BLOCK_ORDER, when_full)
    }

    /// Takes `npages` pages, or with [`WhenFull::TakeWhatIsFree`] as many as there are.
    ///
    /// May sleep. Takes folio locks one block at a time, so the caller must hold none.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`] when so many pages are not to be had, or system memory ran out; [`EINTR`].
    pub(crate) fn add_pages(&mut self, npages: usize, when_full: WhenFull) -> Result {
        self.folios.reserve(npages, GFP_KERNEL)?;
        for _ in 0..npages {
            if !self.add(0, when_full)? {
                return match when_full {
                    WhenFull::TakeWhatIsFree => Ok(()),
                    WhenFull::Evict => Err(ENOMEM),
                };
            }
        }
        Ok(())
    }

    /// The number of pages that are left of it.
    pub(crate) fn npages(&self) -> usize {
        self.npages
    }

    /// Whether pages that were evicted for it went to others, or could not be evicted at that moment.
    pub(crate) fn lost_a_race(&self) -> bool {
        self.contended
    }

    /// A block, if there is one.
    pub(crate) fn pop_block(&mut self) -> Option<FreeFolio<'d>> {
        let nth = self
            .folios
            .iter()
            .position(|folio| folio.pages().order() == BLOCK_ORDER)?;
        let folio = self.folios.remove(nth).ok()?;
        self.count(-(BLOCK_PAGES as isize));
        Some(folio)
    }

    /// A page, if there is one. Takes a block apart if it must.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`] when there is no system memory to note what is left of a block.
    pub(crate) fn pop_page(&mut self) -> Result<Option<FreeFolio<'d>>> {
        let Some(mut folio) = self.folios.pop() else {
            return Ok(None);
        };
        self.count(-(folio.pages().npages() as isize));
        while folio.pages().order() > 0 {
            let (low, high) = folio.halve()?;
            self.count(high.pages().npages() as isize);
            // With room for what one block can come to, this does not allocate.
            self.folios.push(high, GFP_KERNEL)?;
            folio = low;
        }
        Ok(Some(folio))
    }

    /// Takes pages of an order, evicting others if that is wanted; returns whether there were some.
    fn add(&mut self, order: u32, when_full: WhenFull) -> Result<bool> {
        self.folios.reserve(1 + BLOCK_ORDER as usize, GFP_KERNEL)?;
        loop {
            let injection = self.pagemap.ops().injection();
            if injection.fails(Site::DeviceAlloc) {
                return match when_full {
                    WhenFull::TakeWhatIsFree => Ok(false),
                    WhenFull::Evict => Err(ENOMEM),
                };
            }
            if let Some(folio) = take(self.pagemap, order)? {
                self.count(folio.pages().npages() as isize);
                self.folios.push(folio, GFP_KERNEL)?;
                return Ok(true);
            }
            if when_full == WhenFull::TakeWhatIsFree || self.rounds == 0 {
                return Ok(false);
            }
            self.rounds -= 1;
            let Some(victim) = self.pagemap.ops().pool().next_victim() else {
                return Ok(false);
            };
            let evicted = self.pagemap.ops().evict(self.pagemap, victim);
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

    /// Notes that pages have come or gone.
    fn count(&mut self, npages: isize) {
        self.npages = self.npages.wrapping_add_signed(npages);
        self.pagemap.ops().pool().count_reserved(npages);
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.count(-(self.npages as isize));
    }
}

/// Takes free pages of an order, with memory behind them, or `None` when there are none.
fn take(pagemap: &Pagemap<DeviceMemory>, order: u32) -> Result<Option<FreeFolio<'_>>> {
    let pool = pagemap.ops().pool();
    let Some(page) = pool.alloc(order) else {
        return Ok(None);
    };
    let pages = DevicePages::new(page, order)?;
    let memory = pagemap.ops().memory().populate(page / BLOCK_PAGES);
    match memory.and_then(|()| pagemap.reserve(pages, ())) {
        Ok(folio) => Ok(Some(folio)),
        Err(error) => {
            pool.free(pages);
            Err(error)
        }
    }
}
