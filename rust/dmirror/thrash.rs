// SPDX-License-Identifier: GPL-2.0

//! Detection of thrashing: pages that a device and CPUs take from each other again and again. Pure
//! logic, no kernel calls.
//!
//! Each device fault that would move a granule is an event. After several events within a short
//! time, the device first leaves the granule alone for a while (a nap), so that the CPU makes
//! progress. If that does not help, the device uses the pages where they are for a longer time (a
//! pin).

use core::ops::Range;

/// Number of watched granules: those that were missed most recently, and those that are pinned.
const WATCHED: usize = 16;

/// The limits that define thrashing, and the reaction to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// This number of events …
    pub(crate) events: u32,
    /// … within this number of nanoseconds is thrashing.
    pub(crate) window_ns: u64,
    /// Number of naps that precede a pin.
    pub(crate) naps: u32,
    /// The duration of a pin, in nanoseconds.
    pub(crate) pin_ns: u64,
}

/// The action of a device for a granule that it misses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Move it.
    Move,
    /// Leave it alone for a while, then move it.
    Nap,
    /// Map it where it is.
    Pin,
}

/// A watched granule, and its history.
#[derive(Clone, Copy, Debug, Default)]
struct Granule {
    /// The number of its first page.
    first: usize,
    /// The start of the current run of events, in nanoseconds.
    since: u64,
    /// Number of events in that run; 0 for an unused entry.
    events: u32,
    /// Number of consecutive naps.
    naps: u32,
    /// The end of the pin, in nanoseconds.
    pinned_until: u64,
}

/// The watched granules.
#[derive(Debug, Default)]
pub(crate) struct Thrashing {
    granules: [Granule; WATCHED],
    /// The index of the entry to be replaced next.
    next: usize,
}

impl Thrashing {
    /// Records that the granule that begins with page number `first` is missed at time `now`, in
    /// nanoseconds, and returns the action to take.
    pub(crate) fn missed(&mut self, first: usize, now: u64, limits: &Limits) -> Verdict {
        if limits.events == 0 {
            return Verdict::Move;
        }
        let granule = self.watch(first, now);
        if now < granule.pinned_until {
            return Verdict::Pin;
        }
        if now.saturating_sub(granule.since) > limits.window_ns {
            // The run is over. If it had too many events, the naps have not helped yet, so keep
            // their number.
            if granule.events < limits.events {
                granule.naps = 0;
            }
            granule.since = now;
            granule.events = 0;
        }
        granule.events = granule.events.saturating_add(1);
        if granule.events < limits.events {
            return Verdict::Move;
        }
        if granule.naps < limits.naps {
            granule.naps += 1;
            return Verdict::Nap;
        }
        granule.naps = 0;
        granule.events = 1;
        granule.pinned_until = now.saturating_add(limits.pin_ns);
        Verdict::Pin
    }

    /// Returns whether one of the granules that begin in `pages` is pinned at time `now`, in
    /// nanoseconds.
    pub(crate) fn is_pinned(&self, pages: &Range<usize>, now: u64) -> bool {
        self.granules
            .iter()
            .any(|granule| pages.contains(&granule.first) && now < granule.pinned_until)
    }

    /// Returns the entry of a granule, which replaces another one if the granule is not watched
    /// yet.
    fn watch(&mut self, first: usize, now: u64) -> &mut Granule {
        let known = |granule: &Granule| granule.events > 0 && granule.first == first;
        let place = self.granules.iter().position(known).unwrap_or_else(|| {
            // A pinned granule is not replaced unless all are pinned.
            let next = self.next..self.next + WATCHED;
            let is_free = |place: &usize| now >= self.granules[*place].pinned_until;
            let place = next
                .map(|place| place % WATCHED)
                .find(is_free)
                .unwrap_or(self.next);
            self.granules[place] = Granule {
                first,
                since: now,
                ..Granule::default()
            };
            self.next = (place + 1) % WATCHED;
            place
        });
        &mut self.granules[place]
    }
}
