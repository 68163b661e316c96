// SPDX-License-Identifier: GPL-2.0

//! Delays and failures on demand, for tests: files in `/sys/kernel/debug/dmirror`, all of them 0,
//! which is off, until root writes to them.
//!
//! `delay_POINT_us` makes everything wait for so many microseconds at a point, so that others come
//! in between. `fail_SITE_times` is how often something is to fail, `0xffffffff` for ever;
//! `fail_SITE_interval` n lets only every nth try fail, `fail_SITE_percent` n only so many of a
//! hundred, by chance.

use emu::{debugfs::DebugfsU32s, sched::random};
use hmm::memremap::SyncPoint;
use kernel::{
    c_str,
    prelude::*,
    sync::atomic::{ordering::Relaxed, Atomic},
    time::{delay::fsleep, Delta},
};

/// Makes the enum of what can be told to fail, and the names of its files, from one list.
macro_rules! sites {
    ($($(#[$doc:meta])* $site:ident = $name:literal,)*) => {
        /// What can be told to fail.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Site {
            $($(#[$doc])* $site,)*
        }

        impl Site {
            /// Each site.
            pub(crate) const ALL: &[Self] = &[$(Self::$site,)*];
        }

        /// The files of each site: how often, at which interval, with which percentage.
        const SITE_FILES: [[&CStr; 3]; Site::ALL.len()] = [$([
            c_str!(concat!("fail_", $name, "_times")),
            c_str!(concat!("fail_", $name, "_interval")),
            c_str!(concat!("fail_", $name, "_percent")),
        ],)*];
    };
}

sites! {
    /// Taking pages of the device for a migration.
    DeviceAlloc = "device_alloc",
    /// Allocating system memory for pages that come back.
    SystemAlloc = "system_alloc",
    /// Copying a folio to the device.
    CopyIn = "copy_in",
    /// Copying a folio from the device.
    CopyOut = "copy_out",
    /// Finding a folio not locked by others.
    Lock = "lock",
}

/// The file of each point at which something can be held, in the order of the points.
const DELAYS: [(SyncPoint, &CStr); 10] = [
    (SyncPoint::ToDeviceCollected, c"delay_out_collected_us"),
    (SyncPoint::ToDeviceCopied, c"delay_out_copied_us"),
    (SyncPoint::ToDeviceMoved, c"delay_out_moved_us"),
    (SyncPoint::ToDeviceMapped, c"delay_out_mapped_us"),
    (SyncPoint::ToSystemCollected, c"delay_back_collected_us"),
    (SyncPoint::ToSystemCopied, c"delay_back_copied_us"),
    (SyncPoint::ToSystemMoved, c"delay_back_moved_us"),
    (SyncPoint::CpuFault, c"delay_fault_us"),
    (SyncPoint::RangeWalked, c"delay_walked_us"),
    (SyncPoint::Exclusive, c"delay_exclusive_us"),
];

const FILES: usize = DELAYS.len() + SITE_FILES.len() * SITE_FILES[0].len();

/// All files: first those of the points, then those of the sites.
const NAMES: [&CStr; FILES] = {
    let mut names = [c""; FILES];
    let mut n = 0;
    while n < FILES {
        names[n] = if n < DELAYS.len() {
            // So that the number of a point is the number of its file.
            assert!(DELAYS[n].0 as usize == n);
            DELAYS[n].1
        } else {
            let site = n - DELAYS.len();
            SITE_FILES[site / SITE_FILES[0].len()][site % SITE_FILES[0].len()]
        };
        n += 1;
    }
    names
};

/// The files, shared by all devices.
#[pin_data]
pub(crate) struct Injection {
    #[pin]
    files: DebugfsU32s<FILES>,
    /// How often each site was asked while it was on.
    asked: [Atomic<u32>; SITE_FILES.len()],
}

impl Injection {
    /// Everything off.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            files <- DebugfsU32s::new(c"dmirror", &NAMES),
            asked: [const { Atomic::new(0) }; SITE_FILES.len()],
        })
    }

    /// Writes to a file, for the tests of this module.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(crate) fn write(&self, name: &CStr, number: u32) -> Result {
        let nth = NAMES.iter().position(|&file| file == name).ok_or(ENOENT)?;
        self.files.put(nth, number);
        Ok(())
    }

    /// Waits as long as was said for a point. May sleep.
    pub(crate) fn delay(&self, point: SyncPoint) {
        let microseconds = self.files.get(point as usize);
        if microseconds > 0 {
            fsleep(Delta::from_micros(microseconds.into()));
        }
    }

    /// Returns whether something is to fail this time. Does not sleep.
    pub(crate) fn fails(&self, site: Site) -> bool {
        let first = DELAYS.len() + site as usize * SITE_FILES[0].len();
        if self.files.get(first) == 0 {
            return false;
        }
        // ORDERING: Relaxed: the number stands for itself.
        let asked = self.asked[site as usize].fetch_add(1, Relaxed);
        let interval = self.files.get(first + 1);
        if interval > 1 && asked % interval != interval - 1 {
            return false;
        }
        let percent = self.files.get(first + 2);
        if percent > 0 && random() % 100 >= percent {
            return false;
        }
        self.files.count_down(first)
    }
}
