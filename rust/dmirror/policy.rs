// SPDX-License-Identifier: GPL-2.0

//! What a device does when one of its engines misses a page, and which pages go when it is full:
//! settings, and sets of them that do as real drivers do. Pure logic, no kernel calls.
//!
//! Commands of the ABI of test_hmm say themselves where pages go, and are not governed by any of
//! this but the window of a CPU's fault, and the choice of what goes.

/// A setting of a device, a file of that name in debugfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setting {
    /// The most bytes that a CPU's fault brings back.
    Window,
    /// Whether a device fault moves pages to the device; else they are mapped where they are.
    Migrate,
    /// The most bytes that a device fault moves, aligned to as much.
    Granule,
    /// How much of a part of 2 MiB has to be on the device, in percent, for the rest of that part
    /// to be moved with what was missed; 0: nothing else is.
    Prefetch,
    /// How often the device accesses a block of 2 MiB that is mapped where it is before that moves;
    /// 0: it never does.
    AccessCounter,
    /// How long what a device fault has moved stays before a CPU gets it, in microseconds.
    Timeslice,
    /// How long a page stays exclusive before a CPU gets it, in microseconds.
    AtomicTimeslice,
    /// Whether an atomic operation moves its page to the device; else the page is made exclusive
    /// where it is.
    AtomicsMigrate,
    /// How many device faults in a granule within [`ThrashWindow`](Self::ThrashWindow) are too
    /// many; 0: none are.
    ThrashEvents,
    /// How long a time that is, in microseconds.
    ThrashWindow,
    /// How long the device leaves a page alone then, in microseconds.
    ThrashNap,
    /// How often it does that before it maps the page where it is.
    ThrashNaps,
    /// For how long it does that, in milliseconds.
    ThrashPin,
    /// The most faults that are handled at a time.
    FaultBatch,
    /// The most faults that can wait.
    FaultBuffer,
    /// Which block of the device has to go when it is full: 0 the least recently used one, 1 the
    /// one that was taken first, 2 any.
    Eviction,
}

/// The number of settings.
pub(crate) const SETTINGS: usize = Setting::ALL.len();

impl Setting {
    /// All of them, and their files.
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

/// The largest numbers that settings can have; what is larger counts as that.
pub(crate) const MAX_TIMESLICE_US: u32 = 20_000;
pub(crate) const MAX_NAP_US: u32 = 20_000;
pub(crate) const MAX_PIN_MS: u32 = 10_000;
pub(crate) const MAX_FAULTS: u32 = 256;

/// 2 MiB, the largest window and granule.
const LARGEST: u32 = 2 << 20;

/// A set of settings.
pub(crate) struct Preset {
    pub(crate) name: &'static str,
    values: [u32; SETTINGS],
}

/// What each preset begins with.
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

/// The presets; the first is that of a new device. The numbers are those of the drivers, see
/// `Documentation/device.md`.
pub(crate) static PRESETS: [Preset; 4] = [
    // Explicit placement: engines map pages where they are.
    preset("test_hmm", &[]),
    // The largest that fits, up to 2 MiB; a slice; atomics migrate.
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
    // A granule of 2^9 pages both ways.
    preset(
        "kfd",
        &[
            (Setting::Migrate, 1),
            (Setting::AtomicsMigrate, 1),
            (Setting::FaultBatch, 16),
        ],
    ),
    // Pages, a density tree over 2 MiB, access counters, and thrashing told from use.
    preset(
        "uvm",
        &[
            (Setting::Migrate, 1),
            (Setting::Window, 4096),
            (Setting::Granule, 4096),
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
    /// Returns the preset of a name.
    pub(crate) fn find(name: &[u8]) -> Option<&'static Self> {
        PRESETS.iter().find(|preset| preset.name.as_bytes() == name)
    }

    /// Returns the value of each setting, in the order of [`Setting::FILES`].
    pub(crate) fn values(&self) -> &[u32; SETTINGS] {
        &self.values
    }
}

/// Returns the order of the granule for a page: the largest of at most `most` bytes whose aligned
/// range is inside of `bounds`. Pages and bounds are numbers of pages of `page` bytes.
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

/// Returns what is moved together with the granule `missed` of a block: the largest aligned part of
/// the block, of at least that, of which more than `percent` are there already or missed. Numbers
/// of pages within the block, of `block` pages, a power of two; `is_there` says what is on the
/// device. Only pages inside of `bounds` can be.
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
