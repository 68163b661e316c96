// SPDX-License-Identifier: GPL-2.0

//! Eviction: moves pages of the device back to system memory, regardless of who maps them.
//!
//! # Why by address
//!
//! `remove_migration_ptes()` walks the `anon_vma` of a folio. It may do so only while something
//! keeps the `anon_vma` from being freed: the `mmap_lock` of an address space that maps the folio,
//! or a reference (`mm/rmap.c`). `migrate_device_range()` has neither. If the owner unmaps the VMA
//! or exits while its pages are collected, the migration entries go away without waiting, then the
//! `anon_vma` does, and `migrate_device_finalize()` walks freed memory.
//!
//! So an eviction asks the reverse map which processes may map a page, and then works like a
//! migration by the process itself: it calls `migrate_vma_setup()` under the `mmap_lock` of that
//! process. The pages that this collects were in a page table entry of one of its VMAs, and such a
//! VMA has the `anon_vma` of the folio in its chain. The VMA cannot be unmapped before the lock is
//! released, which is after `migrate_vma_finalize()`. The address space cannot be destroyed either,
//! since the eviction is one of its users. This holds for private and coherent memory, for pages
//! that a parent and its children share (they move back for all of them), and for a process that
//! has closed its files.
//!
//! The lock keeps only that one process from unmapping its pages, not others that share them.
//! Others may zap entries of the migration. For huge entries, mm does this wrong: it drops a
//! reference that they do not hold. So a huge page that more than one VMA may map moves back in
//! small pages, and is split before it is collected.
//!
//! The answer of the reverse map may be stale when it is used. Then the migration collects nothing,
//! or collects other pages of the device that are now mapped at that address, and the page is
//! looked up again.
//!
//! # Locks
//!
//! Eviction only tries the `mmap_lock`, because its holder may wait for something that the caller
//! of the eviction holds. It holds no lock of this crate meanwhile.

use core::ops::Range;

use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    time::{delay::fsleep, Delta},
};

use super::{
    rmap::{mappings_of, Mapping, Mappings},
    MigrateBuffer,
};
use crate::{
    bindings,
    memremap::{DevPagemap, DevPagemapOps, Evicted, HPAGE_PMD_NR},
    vma::LockedVma,
};

/// Number of times to try pages that someone else has locked or referenced.
const TRIES: usize = 4;

/// Time to wait before such pages are tried again.
const PAUSE: Delta = Delta::from_millis(1);

impl<T: DevPagemapOps> DevPagemap<T> {
    /// Moves those of the device pages `pages` (counted from the start of the pagemap, the end
    /// exclusive) that are in use back to system memory, unless others have them locked or
    /// referenced. It retries such pages a few times. The buffer must have a place for each page of
    /// the range, or for [`HPAGE_PMD_NR`] pages.
    ///
    /// May sleep. Tries the `mmap_lock` of the processes that map the pages, and takes folio locks.
    /// Must not be called with a folio locked, so neither from [`DevPagemapOps::migrate_to_ram`]
    /// nor while a [`Migration`](super::Migration) lives.
    ///
    /// The error, if any, is the last one that kept pages on the device: [`ENOMEM`] when system
    /// memory ran out, an error of the copy engine, or [`EINVAL`] when the pagemap has no such
    /// pages.
    ///
    /// C functions: `migrate_vma_setup()` and those after it.
    pub fn evict(&self, pages: Range<usize>, buffer: &mut MigrateBuffer) -> Evicted {
        let mut evicted = Evicted::default();
        if pages.end > self.npages() {
            evicted.error = Some(EINVAL);
            return evicted;
        }
        let mut at = pages.start;
        while at < pages.end {
            let end = pages.end.min(at + HPAGE_PMD_NR);
            self.evict_chunk(at..end, buffer, &mut evicted);
            at = end;
        }
        evicted
    }

    /// Evicts those of up to [`HPAGE_PMD_NR`] pages that are in use now. Pages that come into use
    /// meanwhile are left alone: their new users would otherwise lose them at once.
    fn evict_chunk(&self, pages: Range<usize>, buffer: &mut MigrateBuffer, evicted: &mut Evicted) {
        let mut stuck = PageBits::NONE;
        for page in pages.clone() {
            stuck.set(page - pages.start, self.is_in_use(page));
        }
        let mut error = None;
        for attempt in 0..TRIES {
            if attempt > 0 {
                fsleep(PAUSE);
            }
            error = None;
            let mut at = 0;
            while let Some(run) = stuck.next_run(at) {
                let (first, end) = (pages.start + run.start, pages.start + run.end);
                let (mappings, moved) = self.evict_run(first..end, buffer, &mut error);
                let npages = mappings.npages.max(1);
                for n in 0..npages {
                    // The number of moved pages is not enough: it may include other pages. But if
                    // all moved, a page that is in use now may belong to a new user.
                    let stays = if moved < npages {
                        self.is_in_use(first + n)
                    } else {
                        mappings.is_still_there(self, first, n)
                    };
                    stuck.set(run.start + n, stays);
                }
                evicted.moved += moved;
                at = run.start + npages;
                // SAFETY: The caller holds no spinlock, since this function may sleep.
                unsafe { bindings::cond_resched() };
            }
            if stuck.count() == 0 {
                break;
            }
        }
        let left = stuck.count();
        if left > 0 {
            // Report it only now: a page that failed at one mapping may have moved at another, or
            // without this eviction.
            evicted.error = error.or(evicted.error);
        }
        evicted.left += left;
    }

    /// Evicts the first page of the range, and the following pages that are mapped behind it.
    /// Returns the mappings that were tried last, and the number of pages that moved.
    fn evict_run(
        &self,
        pages: Range<usize>,
        buffer: &mut MigrateBuffer,
        error: &mut Option<Error>,
    ) -> (Mappings, usize) {
        let end = pages.end.min(pages.start + buffer.npages());
        let mut moved = 0;
        let mut skip = 0;
        loop {
            let mappings = mappings_of(self, pages.start, end, skip);
            for mapping in mappings.found.iter().flatten() {
                // Not every VMA of the reverse map maps the pages, or all of them: pages that a
                // parent and its children share move back for all of them, others for one process.
                moved += self.evict_at(mapping, &mappings, buffer, error);
                if moved >= mappings.npages {
                    return (mappings, moved);
                }
                // SAFETY: The caller holds no spinlock, since this function may sleep.
                unsafe { bindings::cond_resched() };
            }
            if !mappings.more {
                return (mappings, moved);
            }
            skip += mappings.found.len();
        }
    }

    /// Moves back those pages of a run at one mapping that are on the device; returns the number of
    /// pages that moved.
    fn evict_at(
        &self,
        mapping: &Mapping,
        run: &Mappings,
        buffer: &mut MigrateBuffer,
        error: &mut Option<Error>,
    ) -> usize {
        let start = mapping.address;
        let Some(mmap) = mapping.mm.mmap_read_trylock() else {
            return 0;
        };
        let Some(vma) = LockedVma::lookup(&mmap, start) else {
            return 0;
        };
        let range = start..vma.end().min(start + run.npages * PAGE_SIZE);
        let keeps_large = run.is_large && !run.is_shared;
        let (moved, outcome) = self.bring_back_as(vma, range, keeps_large, buffer);
        *error = outcome.err().or(*error);
        moved
    }
}

const BITS: usize = usize::BITS as usize;

/// One bit for each of [`HPAGE_PMD_NR`] pages.
struct PageBits([usize; HPAGE_PMD_NR / BITS]);

impl PageBits {
    const NONE: Self = Self([0; HPAGE_PMD_NR / BITS]);

    fn set(&mut self, bit: usize, value: bool) {
        let mask = 1 << (bit % BITS);
        let word = &mut self.0[bit / BITS];
        *word = if value { *word | mask } else { *word & !mask };
    }

    fn is_set(&self, bit: usize) -> bool {
        self.0[bit / BITS] & 1 << (bit % BITS) != 0
    }

    fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Returns the first run of consecutive set bits at or after `at`.
    fn next_run(&self, at: usize) -> Option<Range<usize>> {
        let start = (at..HPAGE_PMD_NR).find(|&bit| self.is_set(bit))?;
        let clear = (start..HPAGE_PMD_NR).find(|&bit| !self.is_set(bit));
        Some(start..clear.unwrap_or(HPAGE_PMD_NR))
    }
}
