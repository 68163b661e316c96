// SPDX-License-Identifier: GPL-2.0

//! Pages that a device and CPUs take from each other again and again. Pure logic, no kernel calls.
//!
//! Each device fault that would move a granule is an event. Where several follow each other within
//! a short time, the device first leaves the granule alone for a while, so that the CPU gets
//! something done; if that does not help it uses the pages where they are, for longer.

use core::ops::Range;

/// How many granules are watched: those that were missed last, and those that are pinned.
const WATCHED: usize = 16;

/// What is too much, and what follows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// So many events …
    pub(crate) events: u32,
    /// … within so many nanoseconds.
    pub(crate) window_ns: u64,
    /// How often the device naps before it pins.
    pub(crate) naps: u32,
    /// For how many nanoseconds it pins.
    pub(crate) pin_ns: u64,
}

/// What a device is to do about a granule that it misses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Move it.
    Move,
    /// Leave it alone for a while, then move it.
    Nap,
    /// Map it where it is.
    Pin,
}

/// A granule, and what has happened to it.
#[derive(Clone, Copy, Debug, Default)]
struct Granule {
    /// The number of its first page.
    first: usize,
    /// When the run of events began that goes on, in nanoseconds.
    since: u64,
    /// Events in that run; 0 where nothing is watched.
    events: u32,
    /// Naps in a row.
    naps: u32,
    /// When it is not pinned any more.
    pinned_until: u64,
}

/// The granules that are watched.
#[derive(Debug, Default)]
pub(crate) struct Thrashing {
    granules: [Granule; WATCHED],
    /// The one that the next takes the place of.
    next: usize,
}

impl Thrashing {
    /// Notes that the granule which begins with page number `first` is missed at a time, in
    /// nanoseconds, and returns what to do.
    pub(crate) fn missed(&mut self, first: usize, now: u64, limits: &Limits) -> Verdict {
        if limits.events == 0 {
            return Verdict::Move;
        }
        let granule = self.watch(first, now);
        if now < granule.pinned_until {
            return Verdict::Pin;
        }
        if now.saturating_sub(granule.since) > limits.window_ns {
            // The run is over; if it was too long, the naps have not ended it yet.
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

    /// Returns whether one of the granules that begin in `pages` is used where it is at a time, in
    /// nanoseconds.
    pub(crate) fn is_pinned(&self, pages: &Range<usize>, now: u64) -> bool {
        self.granules
            .iter()
            .any(|granule| pages.contains(&granule.first) && now < granule.pinned_until)
    }

    /// Returns a granule, which takes the place of another if it is not watched yet.
    fn watch(&mut self, first: usize, now: u64) -> &mut Granule {
        let known = |granule: &Granule| granule.events > 0 && granule.first == first;
        let place = self.granules.iter().position(known).unwrap_or_else(|| {
            // One that is used where it is does not give way, unless all are.
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
