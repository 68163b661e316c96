// SPDX-License-Identifier: GPL-2.0

//! Eviction: pages of the device go back to system memory, whoever maps them.
//!
//! # Why by address
//!
//! `remove_migration_ptes()` walks the `anon_vma` of a folio, and may do so only while something
//! keeps that from being freed: the `mmap_lock` of an address space that maps the folio, or a
//! reference (`mm/rmap.c`). `migrate_device_range()` has neither: if the owner unmaps the VMA, or
//! exits, while its pages are collected, the entries for the migration go away without waiting,
//! then the `anon_vma`, and `migrate_device_finalize()` walks freed memory.
//!
//! So an eviction asks the reverse map which processes may have a page mapped, and goes the way of
//! a migration that the process itself asks for: `migrate_vma_setup()` under its `mmap_lock`. What
//! that collects was in a page table entry of one of its VMAs, and such a VMA has the `anon_vma` of
//! the folio in its chain. It cannot be unmapped before the lock is released, which is after
//! `migrate_vma_finalize()`; nor can the address space be destroyed, since this is one of its
//! users. This holds for private and coherent memory, for pages that a parent and its children
//! share (they come back for all of them), and for a process whose files are closed.
//!
//! The lock keeps that one process from unmapping its pages, and not others that share them. They
//! may take away entries of the migration, which mm does wrong for huge ones: it drops a reference
//! that they do not hold. So a huge page that more than one VMA may map comes back in small pages,
//! split before it is collected.
//!
//! What the reverse map says may be old when it is used. Then the migration collects nothing, or
//! other pages of the device that lie at that address now, and the page is looked up once more.
//!
//! # Locks
//!
//! The `mmap_lock` is only tried: whoever holds it may wait for what the caller has. Nothing of
//! this crate is held meanwhile.

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

/// How often pages are tried that were locked or referenced by somebody else.
const TRIES: usize = 4;

/// How long to wait before such pages are tried again.
const PAUSE: Delta = Delta::from_millis(1);

impl<T: DevPagemapOps> DevPagemap<T> {
    /// Brings those of the device pages `pages` (numbered from the start of the pagemap, the end
    /// exclusive) that are in use back to system memory, as far as they are not locked or
    /// referenced by others, with a few retries for those. The buffer has a place for each page of
    /// the range, or [`HPAGE_PMD_NR`] of them.
    ///
    /// May sleep. Tries the `mmap_lock` of the processes that have the pages mapped, and takes
    /// folio locks; must not be called with a folio locked, so neither from
    /// [`DevPagemapOps::migrate_to_ram`] nor while a [`Migration`](super::Migration) lives.
    ///
    /// The error, if there is one, is the last that kept pages on the device: [`ENOMEM`] when
    /// system memory ran out, what the copy engine returned; [`EINVAL`] when the pagemap has no
    /// such pages.
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

    /// Evicts those of up to [`HPAGE_PMD_NR`] pages that are in use now. Pages that are used anew
    /// meanwhile are none of them: who has just got them would lose them again.
    fn evict_chunk(&self, pages: Range<usize>, buffer: &mut MigrateBuffer, evicted: &mut Evicted) {
        let mut stuck = PageBits::default();
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
                    // Not by the number that came: others may have come with them. And where all
                    // came, what is in use now may be somebody else's.
                    let stays = if moved < npages {
                        self.is_in_use(first + n)
                    } else {
                        mappings.is_still_there(self, first, n)
                    };
                    stuck.set(run.start + n, stays);
                }
                evicted.moved += moved;
                at = run.start + npages;
                // SAFETY: The caller holds no spinlock: this may sleep.
                unsafe { bindings::cond_resched() };
            }
            if stuck.count() == 0 {
                break;
            }
        }
        let left = stuck.count();
        if left > 0 {
            // What failed in one place may have gone in another, or by itself.
            evicted.error = error.or(evicted.error);
        }
        evicted.left += left;
    }

    /// Evicts the page that the range begins with, and those behind it that are mapped behind it.
    /// Returns where they were looked for last, and how many pages came.
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
                // Not each VMA of the reverse map has the pages mapped, or all of them: those that
                // a parent and its children share come back for all, others for one.
                moved += self.evict_at(mapping, &mappings, buffer, error);
                if moved >= mappings.npages {
                    return (mappings, moved);
                }
                // SAFETY: The caller holds no spinlock: this may sleep.
                unsafe { bindings::cond_resched() };
            }
            if !mappings.more {
                return (mappings, moved);
            }
            skip += mappings.found.len();
        }
    }

    /// Brings back what is on the device of a run of pages in one place; returns how many came.
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

/// A bit for each of [`HPAGE_PMD_NR`] pages.
#[derive(Default)]
struct PageBits([usize; HPAGE_PMD_NR / BITS]);

impl PageBits {
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

    /// Returns the first bits that are set one after the other, none before `at`.
    fn next_run(&self, at: usize) -> Option<Range<usize>> {
        let start = (at..HPAGE_PMD_NR).find(|&bit| self.is_set(bit))?;
        let clear = (start..HPAGE_PMD_NR).find(|&bit| !self.is_set(bit));
        Some(start..clear.unwrap_or(HPAGE_PMD_NR))
    }
}
