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
//! `migrate_vma_finalize()`; nor can the address space be destroyed, since this is one of its users.
//! This holds for private and coherent memory, for pages that a parent and its children share (they
//! come back for all of them), and for a process whose files are closed.
//!
//! What the reverse map says may be old when it is used. Then the migration collects nothing, or
//! other pages of the device that lie at that address now, and the page is looked up once more.
//!
//! # Locks
//!
//! The `mmap_lock` is only tried: whoever holds it may wait for what the caller has. Nothing of this
//! crate is held meanwhile.

use core::ops::Range;

use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    time::{delay::fsleep, Delta},
};

use super::{
    rmap::{mappings_of, Mapping},
    MigrateBuffer,
};
use crate::{
    bindings,
    memremap::{DevPagemap, DevPagemapOps, Evicted},
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
    /// the range, or [`HPAGE_PMD_NR`](crate::memremap::HPAGE_PMD_NR) of them.
    ///
    /// May sleep. Tries the `mmap_lock` of the processes that have the pages mapped, and takes folio
    /// locks; must not be called with a folio locked, so neither from
    /// [`DevPagemapOps::migrate_to_ram`] nor while a [`Migration`](super::Migration) lives.
    ///
    /// The error, if there is one, is the last that kept pages on the device: [`ENOMEM`] when system
    /// memory ran out, what the copy engine returned; [`EINVAL`] when the pagemap has no such pages.
    ///
    /// C functions: `migrate_vma_setup()` and those after it.
    pub fn evict(&self, pages: Range<usize>, buffer: &mut MigrateBuffer) -> Evicted {
        let mut evicted = Evicted::default();
        if pages.end > self.npages() {
            evicted.error = Some(EINVAL);
            return evicted;
        }
        for attempt in 0..TRIES {
            if attempt > 0 {
                fsleep(PAUSE);
            }
            evicted.error = None;
            let mut at = pages.start;
            while let Some(page) = self.first_owned(at..pages.end) {
                at = page + self.evict_run(page..pages.end, buffer, &mut evicted);
                // SAFETY: The caller holds no spinlock: this may sleep.
                unsafe { bindings::cond_resched() };
            }
            evicted.left = self.in_use(pages.clone());
            if evicted.left == 0 {
                break;
            }
        }
        evicted
    }

    /// Evicts the page that the range begins with, and those behind it that are mapped behind it.
    /// Returns how many pages that was about.
    fn evict_run(
        &self,
        pages: Range<usize>,
        buffer: &mut MigrateBuffer,
        evicted: &mut Evicted,
    ) -> usize {
        let end = pages.end.min(pages.start + buffer.npages());
        let mut skip = 0;
        loop {
            let mappings = mappings_of(self, pages.start, end, skip);
            for mapping in mappings.found.iter().flatten() {
                // Not each VMA of the reverse map has the page mapped.
                if self.evict_at(mapping, mappings.npages, buffer, evicted) > 0 {
                    return mappings.npages;
                }
            }
            if !mappings.more {
                return mappings.npages.max(1);
            }
            skip += mappings.found.len();
        }
    }

    /// Brings back what is on the device of `npages` pages at a place; returns how many came.
    fn evict_at(
        &self,
        mapping: &Mapping,
        npages: usize,
        buffer: &mut MigrateBuffer,
        evicted: &mut Evicted,
    ) -> usize {
        let start = mapping.address;
        let Some(mmap) = mapping.mm.mmap_read_trylock() else {
            return 0;
        };
        let Some(vma) = LockedVma::lookup(&mmap, start) else {
            return 0;
        };
        let range = start..vma.end().min(start + npages * PAGE_SIZE);
        let (moved, outcome) = self.bring_back(vma, range, buffer);
        evicted.moved += moved;
        evicted.error = outcome.err().or(evicted.error);
        moved
    }
}
