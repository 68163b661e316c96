// SPDX-License-Identifier: GPL-2.0

//! Statistics of the pages that moved to a device and back, and of the time that this took.
//!
//! C header: [`include/linux/sched/clock.h`](srctree/include/linux/sched/clock.h).
//!
//! A migration costs a fixed number of updates, not some for each page: [`Way`] needs one atomic
//! addition for the moved pages, and one for each [`Phase`]. For a migration of few pages, even
//! reading the clock would cost more than 1 % of the instructions. So only one in [`SAMPLE`] of
//! such migrations is timed, and counts for all.

use core::ops::Range;

use super::{DevPagemap, DevPagemapOps};
use crate::{bindings, counter::Counter};

/// A phase of a migration whose time is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The pages are locked and unmapped, and get destinations.
    Collect,
    /// The engine copies the pages.
    Copy,
    /// The folios are replaced.
    Move,
    /// The pages are mapped again: by the device, if the driver has a page table, and by processes.
    /// For a migration that ends with an error, this includes everything since the last completed
    /// phase.
    Map,
}

/// The number of phases.
const PHASES: usize = [Phase::Collect, Phase::Copy, Phase::Move, Phase::Map].len();

/// The moves in one direction, to the device or back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// Number of pages that moved in folios of one page.
    pub small_pages: u64,
    /// Number of pages that moved in folios of [`HPAGE_PMD_NR`](super::HPAGE_PMD_NR) pages.
    pub huge_pages: u64,
    /// Nanoseconds that each [`Phase`] took; see [`ns`](Self::ns).
    ns: [u64; PHASES],
}

impl Moves {
    /// Returns the number of pages that moved.
    pub fn pages(&self) -> u64 {
        self.small_pages + self.huge_pages
    }

    /// Returns the total time of a phase, in nanoseconds, including waits. For migrations of less
    /// than 64 pages, this is an estimate from samples.
    pub fn ns(&self, phase: Phase) -> u64 {
        self.ns[phase as usize]
    }
}

/// Statistics of a device's pages; see [`DevPagemap::totals`](super::DevPagemap::totals).
///
/// While no page moves and no page is freed,
///
/// ```text
/// to_device.pages() - to_system.pages() - freed == resident
/// ```
///
/// The four are counted independently: migrations count the pages that they move; `freed` counts
/// when mm returns a folio that no migration of this crate has moved away (mm itself moves coherent
/// folios away for a long-term pin); and `resident` comes from a map with a bit for each page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Pages that moved to the device.
    pub to_device: Moves,
    /// Pages that moved back, for any reason.
    pub to_system: Moves,
    /// Number of pages that were on the device when their last user released them.
    pub freed: u64,
    /// Number of pages that are on the device.
    pub resident: u64,
}

impl<T: DevPagemapOps> DevPagemap<T> {
    /// Returns the numbers of pages that moved, were freed, and are resident.
    ///
    /// Does not sleep. The time is proportional to the size of the device, 32 pages per step. A
    /// page that moves meanwhile may be counted in one number and not in another.
    pub fn totals(&self) -> Totals {
        // Read the subtracted numbers first, so that the difference is hardly ever negative; CPUs
        // may still see the counters change in another order.
        let freed = self.freed.get();
        let to_system = self.way(false).get();
        Totals {
            to_device: self.way(true).get(),
            to_system,
            freed,
            resident: self.owned.resident() as u64,
        }
    }

    /// Returns the counters of one direction.
    pub(crate) fn way(&self, to_device: bool) -> &Way {
        &self.ways[usize::from(to_device)]
    }

    /// Records that pages have moved to the device, or back. Their folios are locked and
    /// referenced.
    #[inline(always)]
    pub(crate) fn note_moved(&self, pages: Range<usize>, to_device: bool) {
        if pages.is_empty() {
            return;
        }
        if to_device {
            self.owned.add_resident(pages);
        } else {
            self.owned.remove_resident(pages);
        }
    }
}

/// The counters of one direction.
#[derive(Default)]
pub(crate) struct Way {
    small_pages: Counter,
    huge_pages: Counter,
    /// Number of migrations of few pages, of which one in [`SAMPLE`] is timed.
    few: Counter,
    ns: [Counter; PHASES],
}

impl Way {
    pub(super) fn get(&self) -> Moves {
        Moves {
            small_pages: self.small_pages.get(),
            huge_pages: self.huge_pages.get(),
            ns: self.ns.each_ref().map(Counter::get),
        }
    }

    /// Counts the pages that a migration has moved.
    #[inline(always)]
    fn count(&self, small_pages: usize, huge_pages: usize) {
        if small_pages > 0 {
            self.small_pages.add(small_pages as u64);
        }
        if huge_pages > 0 {
            self.huge_pages.add(huge_pages as u64);
        }
    }
}

/// Migrations of less than this number of pages are timed by sampling.
const FEW: usize = 64;

/// Number of migrations that one timed sample represents: a prime, so that a repeating pattern does
/// not always hit the same migration.
const SAMPLE: u32 = 61;

/// Measures the phases of a migration, for the counters of its direction. Kept small, because a
/// migration is passed on by value.
pub(crate) struct Stopwatch<'w> {
    way: &'w Way,
    /// The start of the current phase, with the bit [`IS_SAMPLE`]; 0 if it is not timed.
    since: u64,
}

/// Bit of a time: the migration has less than [`FEW`] pages, and is a sample.
const IS_SAMPLE: u64 = 1;

impl<'w> Stopwatch<'w> {
    /// Starts the stopwatch for a migration of up to `npages` pages that begins now.
    pub(crate) fn start(way: &'w Way, npages: usize) -> Self {
        let since = if npages >= FEW {
            now() & !IS_SAMPLE
        } else if way.few.next() as u32 % SAMPLE == 0 {
            now() | IS_SAMPLE
        } else {
            0
        };
        Self { way, since }
    }

    /// Records that the pages are collected and have destinations.
    #[inline]
    pub(crate) fn collected(&mut self) {
        self.end_of(Phase::Collect);
    }

    /// Records that the pages are copied.
    #[inline]
    pub(crate) fn copied(&mut self) {
        self.end_of(Phase::Copy);
    }

    /// Records that pages have moved, in folios of one page and in large ones. The time until the
    /// stopwatch is dropped counts as mapping them.
    #[inline(always)]
    pub(crate) fn moved(&mut self, small_pages: usize, huge_pages: usize) {
        self.way.count(small_pages, huge_pages);
        self.end_of(Phase::Move);
    }

    #[inline(always)]
    fn end_of(&mut self, phase: Phase) {
        if self.since > 0 {
            self.lap(phase);
        }
    }

    /// Adds the time since the last call, or since the start, to a phase.
    #[cold]
    fn lap(&mut self, phase: Phase) {
        let sample = self.since & IS_SAMPLE;
        let now = now() & !IS_SAMPLE | sample;
        // The clocks of two CPUs may differ, so the difference may be negative.
        let ns = now.saturating_sub(self.since);
        let weight = if sample > 0 { SAMPLE.into() } else { 1 };
        self.way.ns[phase as usize].add(ns.wrapping_mul(weight));
        self.since = now;
    }
}

impl Drop for Stopwatch<'_> {
    #[inline]
    fn drop(&mut self) {
        self.end_of(Phase::Map);
    }
}

/// Returns the time in nanoseconds, from a cheap clock.
fn now() -> u64 {
    // SAFETY: The function may be called in any context.
    unsafe { bindings::local_clock() }
}
