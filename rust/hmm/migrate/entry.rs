// SPDX-License-Identifier: GPL-2.0

//! The entries of a migration: the collected pages, and their destinations.
//!
//! C header: [`include/linux/migrate.h`](srctree/include/linux/migrate.h),
//! `struct migrate_vma`, members `src` and `dst`.

use kernel::{page::PAGE_SIZE, prelude::*};

use super::{Direction, ToDevice, ToSystem};
use crate::{
    bindings,
    folio::{Reclaim, SystemFolio},
    memremap::{DevPagemapOps, FreeFolio, Hooks, Kind, Mpfn, HPAGE_PMD_ORDER},
    vma::LockedVma,
};

/// The VMA of a migrated range, and the first address of the range, in bytes.
#[derive(Clone, Copy)]
pub(super) struct Target<'s> {
    pub(super) vma: LockedVma<'s>,
    pub(super) start: usize,
}

/// The entries of a migration that need a destination: see
/// [`Migration::entries`](super::Migration::entries).
///
/// # Invariants
///
/// As for [`Entry`]: the entries belong to a migration that keeps its pages collected for `'s`.
pub struct Entries<'s, D: Direction> {
    index: usize,
    src: &'s [usize],
    dst: &'s mut [usize],
    direction: &'s D,
    target: Target<'s>,
}

impl<'s, D: Direction> Entries<'s, D> {
    /// # Safety
    ///
    /// The slices, of the same length, are the arrays of a migration in direction `direction`. The
    /// migration has collected its pages and keeps them collected for `'s`; `target` belongs to it
    /// too.
    pub(super) unsafe fn new(
        src: &'s [usize],
        dst: &'s mut [usize],
        direction: &'s D,
        target: Target<'s>,
    ) -> Self {
        // INVARIANT: By the safety requirement.
        Self {
            index: 0,
            src,
            dst,
            direction,
            target,
        }
    }
}

// Not composed from iterator adapters of `core`: objtool warns about the long symbol names.
impl<'s, D: Direction> Iterator for Entries<'s, D> {
    type Item = Entry<'s, D>;

    fn next(&mut self) -> Option<Entry<'s, D>> {
        loop {
            let src = Mpfn::new(*self.src.first()?);
            // SAFETY: The migration has locked the folio of the entry and has a reference to it,
            // by the type invariant.
            let order = unsafe { src.order() };
            let len = (1 << order).min(self.src.len());
            let (dst, rest) = core::mem::take(&mut self.dst).split_at_mut(len);
            self.src = &self.src[len..];
            self.dst = rest;
            // INVARIANT: By the type invariant.
            let entry = Entry {
                index: self.index,
                src,
                order,
                dst,
                direction: self.direction,
                target: self.target,
            };
            self.index += len;
            if src.is_migrating() && entry.dst[0] == 0 && entry.can_move() {
                return Some(entry);
            }
        }
    }
}

/// A folio of the range that can be migrated, or a hole, and the slots for its destinations.
///
/// # Invariants
///
/// The migration that this belongs to has collected its pages, and keeps them collected for `'s`.
/// `dst` has a slot for each page.
pub struct Entry<'s, D: Direction> {
    index: usize,
    src: Mpfn,
    order: u32,
    dst: &'s mut [usize],
    direction: &'s D,
    target: Target<'s>,
}

impl<'s, D: Direction> Entry<'s, D> {
    /// Returns the position in the range, in pages, counted from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Returns the order of the folio, or of the hole: 0, or
    /// [`HPAGE_PMD_ORDER`](crate::memremap::HPAGE_PMD_ORDER). The destination must have the same
    /// order; if none is available, see [`split`](Self::split).
    pub fn order(&self) -> u32 {
        self.order
    }

    /// Returns whether the process maps the zero page here, or no page: the destination must be
    /// zeroed.
    pub fn is_hole(&self) -> bool {
        self.src.frame().is_none()
    }

    /// Returns whether the process can write to the folio without a fault. It never can if it may
    /// share the folio with another process. Does not sleep.
    pub fn is_writable(&self) -> bool {
        self.src.is_writable()
    }

    /// Returns whether [`split`](Self::split) is possible: this is a hole, a folio that no other
    /// process can share, or the folio of a CPU fault. Does not sleep.
    ///
    /// When mm splits a collected folio (`migrate_vma_split_unmapped_folio()`), it splits the entry
    /// in the page table of the VMA only. Another process's page table would keep a huge entry for
    /// a folio that is no longer huge. mm restores such an entry as if it were for a small page,
    /// which ends in a `VM_BUG_ON_FOLIO()` or in wrong memory. To split shared folios, collect with
    /// [`LargeFolios::Split`](super::LargeFolios::Split).
    pub fn can_split(&self) -> bool {
        self.is_hole() || self.is_writable() || self.direction.keeps_shared_whole()
    }

    /// Gives up on a single destination for all pages: each page gets its own. The folio is split
    /// when the migration is committed.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] when this migration cannot split the folio; see [`can_split`](Self::can_split).
    /// The folio stays where it is.
    pub fn split(self) -> Result<SplitEntry<'s, D>> {
        if !self.can_split() {
            return Err(EBUSY);
        }
        Ok(SplitEntry {
            entry: self,
            next: 0,
        })
    }

    /// Returns whether the folio can have a destination.
    ///
    /// Pages of files cannot: they cannot move to a device, and those of `memfd_secret()` cannot
    /// even be read. Pages of another device of the same owner cannot either, nor can folios of an
    /// order that mm does not move.
    fn can_move(&self) -> bool {
        if self.order != 0 && self.order != HPAGE_PMD_ORDER {
            return false;
        }
        let Some(frame) = self.src.frame() else {
            return D::TO_DEVICE;
        };
        // SAFETY: The migration has a reference to the folio of the page, by the type invariant.
        let folio = unsafe { bindings::page_folio(frame.page()) };
        // SAFETY: The migration has the folio locked, by the type invariant.
        if !unsafe { bindings::folio_test_anon(folio) } {
            return false;
        }
        if D::TO_DEVICE {
            // SAFETY: The migration has a reference to the page, by the type invariant.
            return !unsafe { bindings::is_zone_device_page(frame.page()) };
        }
        self.direction.pagemap().index_of(frame).is_some()
    }

    fn put(&mut self, dst: Mpfn) {
        self.dst[0] = dst.into_bits();
    }
}

/// A folio, or a hole, whose pages each get their own destination. Either all of them get one, or
/// none, which [`Migration::copy`](super::Migration::copy) ensures.
pub struct SplitEntry<'s, D: Direction> {
    entry: Entry<'s, D>,
    next: usize,
}

impl<'s, D: Direction> SplitEntry<'s, D> {
    /// Returns the entry of the next page, in order. Does not sleep.
    #[expect(
        clippy::should_implement_trait,
        reason = "what it lends depends on the borrow"
    )]
    pub fn next(&mut self) -> Option<Entry<'_, D>> {
        let n = self.next;
        let dst = self.entry.dst.get_mut(n..n + 1)?;
        self.next += 1;
        // INVARIANT: By the invariant of the folio's entry; the slot belongs to the page.
        Some(Entry {
            index: self.entry.index + n,
            src: self.entry.src.piece(n),
            order: 0,
            dst,
            direction: self.entry.direction,
            target: self.entry.target,
        })
    }
}

impl<T: DevPagemapOps> Entry<'_, ToDevice<'_, T>> {
    /// Sets the destination.
    ///
    /// May sleep briefly if a page frame walker has the folio locked.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when the folio belongs to another pagemap, has another order, or is a large folio
    /// of coherent memory, which mm does not support. The folio is freed, and the page stays where
    /// it is.
    ///
    /// C function: `zone_device_folio_init()`.
    pub fn set_dst(mut self, folio: FreeFolio<'_, T>) -> Result {
        let order = folio.pages().order();
        let pagemap = self.direction.pagemap();
        let is_large_coherent = order > 0 && pagemap.kind() == Kind::Coherent;
        if !folio.is_of(pagemap) || order != self.order || is_large_coherent {
            return Err(EINVAL);
        }
        self.put(Mpfn::of_destination(folio.init(), order));
        Ok(())
    }
}

impl<T: DevPagemapOps> Entry<'_, ToSystem<'_, T>> {
    /// Allocates the destination according to the VMA's memory policy, or takes one that was
    /// allocated before. If there is no memory for a large folio and the folio can be split, each
    /// of its pages gets a destination of its own. `reclaim` applies to small pages.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], and any error of [`Hooks::should_fail_alloc`].
    ///
    /// C function: `vma_alloc_folio()`.
    pub(super) fn alloc_dst(mut self, reclaim: Reclaim) -> Result {
        match self.alloc(reclaim) {
            Ok(folio) => {
                let order = folio.order();
                self.put(Mpfn::of_destination(folio.into_frame(), order));
                Ok(())
            }
            Err(_) if self.order > 0 && self.can_split() => {
                let mut small = self.split()?;
                while let Some(mut entry) = small.next() {
                    let folio = entry.alloc(reclaim)?;
                    entry.put(Mpfn::of_destination(folio.into_frame(), 0));
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn alloc(&self, reclaim: Reclaim) -> Result<SystemFolio> {
        let order = self.order;
        if order > 0 {
            if let Some(folio) = self.direction.huge.take() {
                return Ok(folio);
            }
        }
        let reclaim = match order {
            0 => reclaim,
            // Small pages are sufficient, so do not try hard.
            _ if self.can_split() => Reclaim::NoRetry,
            _ => Reclaim::RetryMayFail,
        };
        let hooks = self.direction.pagemap().hooks();
        hooks.should_fail_alloc(order)?;
        let address = self.target.start + self.index * PAGE_SIZE;
        SystemFolio::for_vma(self.target.vma, address, order, reclaim)
    }
}
