// SPDX-License-Identifier: GPL-2.0

//! The policy of a device: the handling of pages that its engines miss, and the choice of pages to
//! evict when it is full. Presets of its settings imitate real drivers. Pure logic, no kernel
//! calls.
//!
//! The commands of the ABI of test_hmm set the destination of pages themselves. Only two settings
//! affect them: the window of a CPU fault and the eviction policy.

use crate::pages::{BLOCK_PAGES, PAGE_SIZE};

/// A setting of a device, with a file of the same name in debugfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setting {
    /// Maximum number of bytes that a CPU fault moves back.
    Window,
    /// Set if a device fault moves pages to the device; otherwise they are mapped where they are.
    Migrate,
    /// Maximum number of bytes that a device fault moves, with the same alignment.
    Granule,
    /// If more than this percentage of an aligned part of a block is on the device, or missed, the
    /// rest of the part moves with a missed granule; 0: nothing else moves.
    Prefetch,
    /// Number of accesses after which a block moves to the device, instead of being mapped where it
    /// is; 0: never.
    AccessCounter,
    /// Minimum time before a CPU gets pages that a device fault has moved, in microseconds.
    Timeslice,
    /// Time that an exclusive page stays exclusive before a CPU gets it, in microseconds.
    AtomicTimeslice,
    /// Set if an atomic operation moves its page to the device; otherwise the page becomes
    /// exclusive where it is.
    AtomicsMigrate,
    /// Number of device faults in a granule within [`ThrashWindow`](Self::ThrashWindow) that count
    /// as thrashing; 0: no number does.
    ThrashEvents,
    /// The length of that window, in microseconds.
    ThrashWindow,
    /// Time for which the device then leaves a granule alone, in microseconds.
    ThrashNap,
    /// Number of times that it does so before it pins the granule where it is.
    ThrashNaps,
    /// Time for which the granule stays pinned, in milliseconds.
    ThrashPin,
    /// Maximum number of faults that are handled in a batch.
    FaultBatch,
    /// Maximum number of waiting faults.
    FaultBuffer,
    /// The block that the device evicts when it is full: 0 the least recently used one, 1 the one
    /// that was allocated first, 2 a random one.
    Eviction,
}

/// The number of settings.
pub(crate) const SETTINGS: usize = Setting::ALL.len();

impl Setting {
    /// All settings, and the names of their files.
    pub(crate) const ALL: [(Self, &'static core::ffi::CStr); 16] = [
        (Self::Window, c"window"),
        (Self::Migrate, c"migrate"),
        (Self::Granule, c"granule"),
        (Self::Prefetch, c"prefetch"),
        (Self::AccessCounter, c"access_counter"),
        (Self::Timeslice, c"timeslice_us"),
        (Self::AtomicTimeslice, c"atomic_timeslice_us"),
        (Self::AtomicsMigrate, c"atomics_migrate"),
        (Self::ThrashEvents, c"thrash_events"),
        (Self::ThrashWindow, c"thrash_window_us"),
        (Self::ThrashNap, c"thrash_nap_us"),
        (Self::ThrashNaps, c"thrash_naps"),
        (Self::ThrashPin, c"thrash_pin_ms"),
        (Self::FaultBatch, c"fault_batch"),
        (Self::FaultBuffer, c"fault_buffer"),
        (Self::Eviction, c"eviction"),
    ];

    /// The names of the files, in the order of the enum.
    pub(crate) const FILES: [&'static core::ffi::CStr; SETTINGS] = {
        let mut files = [c""; SETTINGS];
        let mut at = 0;
        while at < SETTINGS {
            let (setting, file) = Self::ALL[at];
            files[setting as usize] = file;
            at += 1;
        }
        files
    };
}

/// Maximum values of settings; larger values count as the maximum.
pub(crate) const MAX_TIMESLICE_US: u32 = 20_000;
pub(crate) const MAX_NAP_US: u32 = 20_000;
pub(crate) const MAX_PIN_MS: u32 = 10_000;
pub(crate) const MAX_FAULTS: u32 = 256;

/// The size of a block in bytes: that of the largest window and granule.
const LARGEST: u32 = (BLOCK_PAGES * PAGE_SIZE) as u32;

/// The size of a page in bytes: that of the smallest window and granule.
const SMALLEST: u32 = PAGE_SIZE as u32;

/// A set of settings.
pub(crate) struct Preset {
    pub(crate) name: &'static str,
    values: [u32; SETTINGS],
}

/// The settings that each preset starts from.
const PLAIN: [(Setting, u32); SETTINGS] = [
    (Setting::Window, LARGEST),
    (Setting::Migrate, 0),
    (Setting::Granule, LARGEST),
    (Setting::Prefetch, 0),
    (Setting::AccessCounter, 0),
    (Setting::Timeslice, 0),
    (Setting::AtomicTimeslice, 0),
    (Setting::AtomicsMigrate, 0),
    (Setting::ThrashEvents, 0),
    (Setting::ThrashWindow, 500),
    (Setting::ThrashNap, 500),
    (Setting::ThrashNaps, 10),
    (Setting::ThrashPin, 150),
    (Setting::FaultBatch, 64),
    (Setting::FaultBuffer, MAX_FAULTS),
    (Setting::Eviction, 0),
];

/// The presets; the first one is that of a new device. The numbers are those of the real drivers,
/// see `Documentation/device.md`.
pub(crate) static PRESETS: [Preset; 4] = [
    // Explicit placement: engines map pages where they are.
    preset("test_hmm", &[]),
    // The largest aligned granule that fits, up to a block; a time slice; atomics migrate.
    preset(
        "xe",
        &[
            (Setting::Migrate, 1),
            (Setting::AtomicsMigrate, 1),
            (Setting::AtomicTimeslice, 5000),
            (Setting::Timeslice, 5000),
            (Setting::FaultBatch, 32),
        ],
    ),
    // Granules of a block in both directions.
    preset(
        "kfd",
        &[
            (Setting::Migrate, 1),
            (Setting::AtomicsMigrate, 1),
            (Setting::FaultBatch, 16),
        ],
    ),
    // Single pages, a density tree over a block, access counters, and detection of thrashing.
    preset(
        "uvm",
        &[
            (Setting::Migrate, 1),
            (Setting::Window, SMALLEST),
            (Setting::Granule, SMALLEST),
            (Setting::Prefetch, 51),
            (Setting::AccessCounter, 256),
            (Setting::AtomicsMigrate, 1),
            (Setting::ThrashEvents, 3),
            (Setting::FaultBatch, MAX_FAULTS),
        ],
    ),
];

const fn preset(name: &'static str, changes: &[(Setting, u32)]) -> Preset {
    let mut values = [0; SETTINGS];
    let mut at = 0;
    while at < SETTINGS {
        let (setting, value) = PLAIN[at];
        values[setting as usize] = value;
        at += 1;
    }
    let mut at = 0;
    while at < changes.len() {
        let (setting, value) = changes[at];
        values[setting as usize] = value;
        at += 1;
    }
    Preset { name, values }
}

impl Preset {
    /// Returns the preset with a given name.
    pub(crate) fn find(name: &[u8]) -> Option<&'static Self> {
        PRESETS.iter().find(|preset| preset.name.as_bytes() == name)
    }

    /// Returns the value of each setting, in the order of [`Setting::FILES`].
    pub(crate) fn values(&self) -> &[u32; SETTINGS] {
        &self.values
    }
}

/// The file with the limit, in MiB, of the memory of a device that may be in use. Presets do not
/// change it: it is a property of the device, not of its behaviour.
pub(crate) const LIMIT_FILE: &core::ffi::CStr = c"limit_mib";

/// Returns the number of the `npages` pages, of `page` bytes each, of a device that may be in use
/// under a limit of `mib` MiB. Returns all for 0, and at least a block of `block` pages (if there
/// are as many), so that there is room for the pages that move in one step.
pub(crate) fn limit_pages(mib: u32, npages: usize, page: usize, block: usize) -> usize {
    match mib {
        0 => npages,
        _ => ((mib as usize) << 20)
            .div_euclid(page)
            .max(block)
            .min(npages),
    }
}

/// Returns the order of the granule for the page `number`: the largest one of at most `most` bytes
/// whose aligned range lies inside `bounds`. Page numbers and bounds count pages of `page` bytes.
pub(crate) fn granule_order(
    number: usize,
    bounds: &core::ops::Range<usize>,
    most: u32,
    page: usize,
) -> u32 {
    let most = (most.min(LARGEST) as usize / page).max(1).ilog2();
    let fits = |order: &u32| {
        let start = number & !((1 << order) - 1);
        bounds.start <= start && start + (1 << order) <= bounds.end
    };
    (0..=most).rev().find(fits).unwrap_or(0)
}

/// Returns the pages that move together with the granule `missed` of a block: the largest aligned
/// part of the block that contains the granule, and of which more than `percent` percent are on the
/// device or missed. All page numbers are relative to the block of `block` pages, a power of two;
/// `is_there` tells which pages are on the device. Only pages inside `bounds` can move.
pub(crate) fn dense_part(
    missed: core::ops::Range<usize>,
    bounds: &core::ops::Range<usize>,
    block: usize,
    percent: u32,
    is_there: impl Fn(usize) -> bool,
) -> core::ops::Range<usize> {
    let mut part = missed.clone();
    let mut size = missed.len();
    let mut best = missed.clone();
    while percent > 0 && size < block {
        size *= 2;
        let start = part.start & !(size - 1);
        part = start..start + size;
        let inside = part.start.max(bounds.start)..part.end.min(bounds.end);
        let there = inside
            .clone()
            .filter(|&page| missed.contains(&page) || is_there(page))
            .count();
        if there * 100 > inside.len() * percent as usize {
            best = inside;
        }
    }
    best
}
