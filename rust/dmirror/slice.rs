// SPDX-License-Identifier: GPL-2.0

//! Time slices: pages that a device has fetched stay for a time before a CPU gets them back. Pure
//! logic, no kernel calls.
//!
//! If a device misses a granule again soon after its slice was over, the slice was too short: the
//! next one is twice as long, up to a bound.

/// Number of remembered granules.
const GRANULES: usize = 16;

/// Maximum number of times that a slice is doubled.
pub(crate) const MAX_DOUBLED: u32 = 3;

#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    /// The number of the granule's first page. The entry is unused if `until` is 0.
    first: usize,
    until: u64,
    doubled: u32,
}

/// The time slices of an address space.
#[derive(Debug, Default)]
pub(crate) struct Slices {
    slices: [Slice; GRANULES],
    /// The index of the entry to be replaced next.
    next: usize,
}

impl Slices {
    /// Returns the time until which the granule stays that begins with page number `first` and is
    /// fetched now; all times are in nanoseconds. A slice lasts at least `slice`.
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
