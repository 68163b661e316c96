// SPDX-License-Identifier: GPL-2.0

//! Delays and failures on demand, for tests: files in `/sys/kernel/debug/dmirror`, all of them 0,
//! which is off, until root writes to them.
//!
//! `delay_STEP_us` makes everything wait for so many microseconds after a step, so that others come
//! in between. `fail_SITE_times` is how often something fails, `0xffffffff` for ever. With
//! `fail_SITE_interval` n only every nth try fails, with `fail_SITE_percent` n only so many of a
//! hundred, by chance.

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

/// A number that is set for a site, each in a file of its own.
#[derive(Clone, Copy)]
enum Number {
    Times,
    Interval,
    Percent,
}

/// The numbers of a site.
const NUMBERS: usize = [Number::Times, Number::Interval, Number::Percent].len();

/// Makes all that follows from the table of files: the sites, and the names and indices of files.
macro_rules! files {
    (
        delays { $($point:ident: $delay:literal,)* }
        failures { $($(#[$doc:meta])* $site:ident: $failure:literal,)* }
    ) => {
        /// What can be told to fail.
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

        /// Returns the index of the file that delays at a point. That each point has one is what
        /// the match is for.
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
        /// Taking pages of the device for a migration.
        DeviceAlloc: "device_alloc",
        /// Allocating system memory for pages that come back.
        SystemAlloc: "system_alloc",
        /// Copying a folio to the device.
        CopyIn: "copy_in",
        /// Copying a page from the device.
        CopyOut: "copy_out",
        /// Finding a folio not locked by others.
        Lock: "lock",
    }
}

/// Returns the index of the file with a number of a site.
const fn fail_index(site: Site, number: Number) -> usize {
    DELAYS + site as usize * NUMBERS + number as usize
}

/// Returns the names as they are; two that are the same do not compile.
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

/// Returns whether two names are the same; `==` cannot be used in constants.
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
    /// How often each site was asked while it was on.
    asked: [Atomic<u32>; SITES],
}

impl Injection {
    /// Makes the files in a directory, with everything off.
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

    /// Waits for as long as the file of a point says. May sleep.
    pub(crate) fn delay(&self, point: SyncPoint) {
        let microseconds = self.numbers.get(delay_index(point));
        if microseconds > 0 {
            fsleep(Delta::from_micros(microseconds.into()));
        }
    }

    /// Returns whether something may be told to fail. Does not sleep.
    pub(crate) fn is_on(&self, site: Site) -> bool {
        let is_on = self.numbers.get(fail_index(site, Number::Times)) != 0;
        let asked = &self.asked[site as usize];
        // ORDERING: Relaxed: the number stands for itself.
        if !is_on && asked.load(Relaxed) != 0 {
            // So that every third failure is the third from when it was switched on.
            // ORDERING: Relaxed: the number stands for itself.
            asked.store(0, Relaxed);
        }
        is_on
    }

    /// Returns whether something is to fail this time. Does not sleep.
    pub(crate) fn fails(&self, site: Site) -> bool {
        if !self.is_on(site) {
            return false;
        }
        let get = |number| self.numbers.get(fail_index(site, number));
        // ORDERING: Relaxed: the number stands for itself.
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
