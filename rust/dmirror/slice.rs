// SPDX-License-Identifier: GPL-2.0

//! How long what a device has fetched stays, before a CPU gets it back. Pure logic, no kernel
//! calls.
//!
//! A device that misses a granule again as soon as its time was over had too little of it: it gets
//! twice as much, up to a bound.

/// How many granules are remembered.
const GRANULES: usize = 16;

/// The most times that a slice is doubled.
pub(crate) const MAX_DOUBLED: u32 = 3;

#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    /// The number of the first page; `until` is 0 where nothing is remembered.
    first: usize,
    until: u64,
    doubled: u32,
}

/// The time slices of an address space.
#[derive(Debug, Default)]
pub(crate) struct Slices {
    slices: [Slice; GRANULES],
    /// The one that the next takes the place of.
    next: usize,
}

impl Slices {
    /// Returns until when the granule that begins with page number `first` stays, which is fetched
    /// now: times in nanoseconds. A slice is at least `slice` long.
    pub(crate) fn grant(&mut self, first: usize, now: u64, slice: u64) -> u64 {
        let known = |it: &&mut Slice| it.until > 0 && it.first == first;
        if let Some(granule) = self.slices.iter_mut().find(known) {
            let is_early = now.saturating_sub(granule.until) <= slice;
            granule.doubled = if is_early {
                (granule.doubled + 1).min(MAX_DOUBLED)
            } else {
                0
            };
            granule.until = now.saturating_add(slice << granule.doubled);
            return granule.until;
        }
        let until = now.saturating_add(slice);
        self.slices[self.next] = Slice {
            first,
            until,
            doubled: 0,
        };
        self.next = (self.next + 1) % GRANULES;
        until
    }
}
