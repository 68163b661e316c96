// SPDX-License-Identifier: GPL-2.0

//! What has moved to a device and back, and how long that took.
//!
//! C header: [`include/linux/sched/clock.h`](srctree/include/linux/sched/clock.h).
//!
//! A migration counts once, not once a page: [`Way`] has one atomic addition for what moved, and
//! one for each [`Phase`]. Where it is for few pages, even the clock costs more than one in a
//! hundred of the instructions: so of those, one of [`SAMPLE`] is timed, and counts for all.

use core::ops::Range;

use super::{DevPagemap, DevPagemapOps};
use crate::{bindings, counter::Counter};

/// A part of a migration whose time is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The pages are locked and unmapped, and get destinations.
    Collect,
    /// The engine copies them.
    Copy,
    /// Their folios change places.
    Move,
    /// They are mapped again: by the device, for a driver that has a page table, and by processes.
    /// Of a migration that ends with an error, all that came since the last phase.
    Map,
}

/// The phases, in their order.
const PHASES: usize = [Phase::Collect, Phase::Copy, Phase::Move, Phase::Map].len();

/// What has moved one way, to the device or back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// Pages that moved in folios of one page.
    pub small_pages: u64,
    /// Pages that moved in folios of [`HPAGE_PMD_NR`](super::HPAGE_PMD_NR) pages.
    pub huge_pages: u64,
    /// Nanoseconds that each [`Phase`] took, as far as it was timed.
    ns: [u64; PHASES],
}

impl Moves {
    /// Returns the number of pages that moved.
    pub fn pages(&self) -> u64 {
        self.small_pages + self.huge_pages
    }

    /// Returns how long a phase took, in nanoseconds, with what it waited for. That of migrations
    /// for less than 64 pages is known by samples.
    pub fn ns(&self, phase: Phase) -> u64 {
        self.ns[phase as usize]
    }
}

/// What has become of the pages of a device, see [`DevPagemap::totals`](super::DevPagemap::totals).
///
/// While no page moves and none is freed,
///
/// ```text
/// to_device.pages() - to_system.pages() - freed == resident
/// ```
///
/// The four are counted apart: what moved by the migrations, what was freed where mm hands a folio
/// back that no migration of this crate has taken away (mm itself takes coherent ones for a
/// long-term pin), and what is resident in a map with a bit for each page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// What has moved to the device.
    pub to_device: Moves,
    /// What came back, for whatever reason.
    pub to_system: Moves,
    /// Pages that were on the device when their last user let go of them.
    pub freed: u64,
    /// Pages that are on the device.
    pub resident: u64,
}

impl<T: DevPagemapOps> DevPagemap<T> {
    /// Returns what has moved, what was freed, and what is there.
    ///
    /// Does not sleep; takes as long as the device has pages, 32 at a time. What moves meanwhile
    /// may be counted here and not there.
    pub fn totals(&self) -> Totals {
        // First what is taken away, so that the difference is hardly ever below 0; processors may
        // see the numbers change in another order.
        let freed = self.freed.get();
        let to_system = self.way(false).get();
        Totals {
            to_device: self.way(true).get(),
            to_system,
            freed,
            resident: self.owned.resident() as u64,
        }
    }

    /// Returns the counters of a way.
    pub(crate) fn way(&self, to_device: bool) -> &Way {
        &self.ways[usize::from(to_device)]
    }

    /// Notes that pages have moved to the device, or back. Their folios are locked, and held.
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

/// The counters of one way.
#[derive(Default)]
pub(crate) struct Way {
    small_pages: Counter,
    huge_pages: Counter,
    /// Migrations for few pages, of which one of [`SAMPLE`] is timed.
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

    /// Counts what a migration has moved.
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

/// Migrations for less pages are timed by samples.
const FEW: usize = 64;

/// How many of them one that is timed stands for: a prime, so that what repeats does not always
/// fall on the same one.
const SAMPLE: u32 = 61;

/// Times the phases of a migration, for the counters of its way. As small as can be: a migration is
/// handed on by value.
pub(crate) struct Stopwatch<'w> {
    way: &'w Way,
    /// When the current phase began, with [`IS_SAMPLE`]; 0 if it is not timed.
    since: u64,
}

/// Bit of a time: it is that of a migration for [`FEW`] pages.
const IS_SAMPLE: u64 = 1;

impl<'w> Stopwatch<'w> {
    /// Starts it, for a migration of up to `npages` pages that begins now.
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

    /// Notes that the pages are collected and have destinations.
    #[inline]
    pub(crate) fn collected(&mut self) {
        self.end_of(Phase::Collect);
    }

    /// Notes that the pages are copied.
    #[inline]
    pub(crate) fn copied(&mut self) {
        self.end_of(Phase::Copy);
    }

    /// Notes that pages have moved, in folios of one page and in large ones. What remains, until
    /// the stopwatch is dropped, is to map them.
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

    /// Counts the time since the last call, or the start, for a phase.
    #[cold]
    fn lap(&mut self, phase: Phase) {
        let sample = self.since & IS_SAMPLE;
        let now = now() & !IS_SAMPLE | sample;
        // The clocks of two CPUs may differ.
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

/// Nanoseconds of a clock that costs little.
fn now() -> u64 {
    // SAFETY: The function may be called in any context.
    unsafe { bindings::local_clock() }
}
