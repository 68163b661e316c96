// SPDX-License-Identifier: GPL-2.0

//! Delays and failures on demand, for tests: files in `/sys/kernel/debug/dmirror`, initially all 0,
//! which is off. Root can write to them.
//!
//! `delay_STEP_us` delays everything by that many microseconds after a step, so that others can
//! interfere. `fail_SITE_times` is the number of times that something fails; `0xffffffff` means
//! without limit. With `fail_SITE_interval` set to n, only every n-th try fails; with
//! `fail_SITE_percent` set to n, n percent of the tries fail at random.

use emu::{
    debugfs::{DebugfsDir, DebugfsU32s},
    sched::random,
};
use hmm::memremap::SyncPoint;
use kernel::{
    c_str,
    prelude::*,
    sync::{
        atomic::{ordering::Relaxed, Atomic},
        Arc,
    },
    time::{delay::fsleep, Delta},
};

/// A number that is set for a site, each through its own file.
#[derive(Clone, Copy)]
enum Number {
    Times,
    Interval,
    Percent,
}

/// Number of numbers of a site.
const NUMBERS: usize = [Number::Times, Number::Interval, Number::Percent].len();

/// Generates everything that follows from the table of files: the sites, and the names and indices
/// of files.
macro_rules! files {
    (
        delays { $($point:ident: $delay:literal,)* }
        failures { $($(#[$doc:meta])* $site:ident: $failure:literal,)* }
    ) => {
        /// An operation that tests can make fail.
        #[derive(Clone, Copy)]
        pub(crate) enum Site {
            $($(#[$doc])* $site,)*
        }

        const DELAYS: usize = [$(SyncPoint::$point),*].len();
        const SITES: usize = [$(Site::$site),*].len();
        const FILES: usize = DELAYS + SITES * NUMBERS;

        /// The names of the files, in the order of [`delay_index`] and [`fail_index`].
        const NAMES: [&CStr; FILES] = distinct([
            $(c_str!(concat!("delay_", $delay, "_us")),)*
            $(
                // In the order of `Number`.
                c_str!(concat!("fail_", $failure, "_times")),
                c_str!(concat!("fail_", $failure, "_interval")),
                c_str!(concat!("fail_", $failure, "_percent")),
            )*
        ]);

        /// Returns the index of the file that delays at a point. The match ensures that each point
        /// has a file.
        const fn delay_index(point: SyncPoint) -> usize {
            enum Index { $($point,)* }
            match point {
                $(SyncPoint::$point => Index::$point as usize,)*
            }
        }
    };
}

files! {
    delays {
        ToDeviceCollected: "out_collected",
        ToDeviceCopied: "out_copied",
        ToDeviceMoved: "out_moved",
        ToDeviceMapped: "out_mapped",
        ToSystemCollected: "back_collected",
        ToSystemCopied: "back_copied",
        ToSystemMoved: "back_moved",
        CpuFault: "fault",
        RangeWalked: "walked",
        Exclusive: "exclusive",
    }
    failures {
        /// Allocation of device pages for a migration.
        DeviceAlloc: "device_alloc",
        /// Allocation of system memory for pages that move back.
        SystemAlloc: "system_alloc",
        /// The copy of a folio to the device.
        CopyIn: "copy_in",
        /// The copy of a folio from the device.
        CopyOut: "copy_out",
        /// The lock of a folio: a failure acts as if others had it locked.
        Lock: "lock",
    }
}

/// Returns the index of the file with the given number of a site.
const fn fail_index(site: Site, number: Number) -> usize {
    DELAYS + site as usize * NUMBERS + number as usize
}

/// Returns the names unchanged; two equal names fail the compilation.
const fn distinct(names: [&CStr; FILES]) -> [&CStr; FILES] {
    let mut file = 0;
    while file < FILES {
        let mut other = 0;
        while other < file {
            assert!(!is_same(names[file].to_bytes(), names[other].to_bytes()));
            other += 1;
        }
        file += 1;
    }
    names
}

/// Returns whether two names are equal; `==` cannot be used in constants.
const fn is_same(one: &[u8], other: &[u8]) -> bool {
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

/// The files, shared by all devices.
#[pin_data]
pub(crate) struct Injection {
    #[pin]
    numbers: DebugfsU32s<FILES>,
    /// Number of times that each site was asked while it was on.
    asked: [Atomic<u32>; SITES],
}

impl Injection {
    /// Creates the files in a directory, with everything off.
    pub(crate) fn new(dir: Arc<DebugfsDir>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            numbers <- DebugfsU32s::new(dir, &NAMES),
            asked: [const { Atomic::new(0) }; SITES],
        })
    }

    /// Writes to a file, for the tests of this module.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(crate) fn write(&self, name: &CStr, number: u32) -> Result {
        let index = NAMES.iter().position(|&file| file == name).ok_or(ENOENT)?;
        self.numbers.put(index, number);
        Ok(())
    }

    /// Waits for as long as the file of a point requests. May sleep.
    pub(crate) fn delay(&self, point: SyncPoint) {
        let microseconds = self.numbers.get(delay_index(point));
        if microseconds > 0 {
            fsleep(Delta::from_micros(microseconds.into()));
        }
    }

    /// Returns whether a site may be made to fail. Does not sleep.
    pub(crate) fn is_on(&self, site: Site) -> bool {
        let is_on = self.numbers.get(fail_index(site, Number::Times)) != 0;
        let asked = &self.asked[site as usize];
        // ORDERING: Relaxed: the number orders no other memory access.
        if !is_on && asked.load(Relaxed) != 0 {
            // Reset it, so that intervals are counted from when the site is switched on.
            // ORDERING: Relaxed: the number orders no other memory access.
            asked.store(0, Relaxed);
        }
        is_on
    }

    /// Returns whether a site is to fail this time. Does not sleep.
    pub(crate) fn fails(&self, site: Site) -> bool {
        if !self.is_on(site) {
            return false;
        }
        let get = |number| self.numbers.get(fail_index(site, number));
        // ORDERING: Relaxed: the number orders no other memory access.
        let asked = self.asked[site as usize].fetch_add(1, Relaxed);
        let interval = get(Number::Interval);
        if interval > 1 && asked % interval != interval - 1 {
            return false;
        }
        let percent = get(Number::Percent);
        if percent > 0 && random() % 100 >= percent {
            return false;
        }
        self.numbers.count_down(fail_index(site, Number::Times))
    }
}
