// SPDX-License-Identifier: GPL-2.0

//! Delays and failures on demand, for tests: files in `/sys/kernel/debug/dmirror`, all of them 0,
//! which is off, until root writes to them.
//!
//! `delay_STEP_us` makes everything wait for so many microseconds after a step, so that others come
//! in between. `fail_SITE_times` is how often something is to fail, `0xffffffff` for ever;
//! `fail_SITE_interval` n lets only every nth try fail, `fail_SITE_percent` n only so many of a
//! hundred, by chance.

use emu::{debugfs::DebugfsU32s, sched::random};
use hmm::memremap::SyncPoint;
use kernel::prelude::*;
use kernel::sync::atomic::ordering::Relaxed;
use kernel::sync::atomic::Atomic;
use kernel::time::delay::fsleep;
use kernel::time::Delta;

/// What can be told to fail.
#[derive(Clone, Copy)]
pub(crate) enum Site {
    /// Taking pages of the device for a migration.
    DeviceAlloc,
    /// Allocating system memory for pages that come back.
    SystemAlloc,
    /// Copying a folio to the device.
    CopyIn,
    /// Copying a page from the device.
    CopyOut,
    /// Finding a folio not locked by others.
    Lock,
}

const SITES: usize = 5;
const STEPS: usize = 10;
/// Files of a site: times, interval, percent.
const FILES_OF_SITE: usize = 3;
const FILES: usize = STEPS + SITES * FILES_OF_SITE;

const NAMES: [&CStr; FILES] = [
    c"delay_out_collected_us",
    c"delay_out_copied_us",
    c"delay_out_moved_us",
    c"delay_out_mapped_us",
    c"delay_back_collected_us",
    c"delay_back_copied_us",
    c"delay_back_moved_us",
    c"delay_fault_us",
    c"delay_walked_us",
    c"delay_exclusive_us",
    c"fail_device_alloc_times",
    c"fail_device_alloc_interval",
    c"fail_device_alloc_percent",
    c"fail_system_alloc_times",
    c"fail_system_alloc_interval",
    c"fail_system_alloc_percent",
    c"fail_copy_in_times",
    c"fail_copy_in_interval",
    c"fail_copy_in_percent",
    c"fail_copy_out_times",
    c"fail_copy_out_interval",
    c"fail_copy_out_percent",
    c"fail_lock_times",
    c"fail_lock_interval",
    c"fail_lock_percent",
];

/// The files, shared by all devices.
#[pin_data]
pub(crate) struct Injection {
    #[pin]
    knobs: DebugfsU32s<FILES>,
    /// How often each site was asked while it was on.
    asked: [Atomic<u32>; SITES],
}

impl Injection {
    /// Everything off.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            knobs <- DebugfsU32s::new(c"dmirror", &NAMES),
            asked: [const { Atomic::new(0) }; SITES],
        })
    }

    /// Writes to a file, for the tests of this module.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(crate) fn write(&self, name: &CStr, number: u32) -> Result {
        let nth = NAMES.iter().position(|&file| file == name).ok_or(ENOENT)?;
        self.knobs.put(nth, number);
        Ok(())
    }

    /// Waits as long as was said for a step. May sleep.
    pub(crate) fn delay(&self, step: SyncPoint) {
        let nth = match step {
            SyncPoint::ToDeviceCollected => 0,
            SyncPoint::ToDeviceCopied => 1,
            SyncPoint::ToDeviceMoved => 2,
            SyncPoint::ToDeviceMapped => 3,
            SyncPoint::ToSystemCollected => 4,
            SyncPoint::ToSystemCopied => 5,
            SyncPoint::ToSystemMoved => 6,
            SyncPoint::CpuFault => 7,
            SyncPoint::RangeWalked => 8,
            SyncPoint::Exclusive => 9,
        };
        let microseconds = self.knobs.get(nth);
        if microseconds > 0 {
            fsleep(Delta::from_micros(microseconds.into()));
        }
    }

    /// Whether something is to fail this time. Does not sleep.
    pub(crate) fn fails(&self, site: Site) -> bool {
        let first = STEPS + site as usize * FILES_OF_SITE;
        if self.knobs.get(first) == 0 {
            return false;
        }
        // ORDERING: Relaxed: the number stands for itself.
        let asked = self.asked[site as usize].fetch_add(1, Relaxed);
        let interval = self.knobs.get(first + 1);
        if interval > 1 && asked % interval != interval - 1 {
            return false;
        }
        let percent = self.knobs.get(first + 2);
        if percent > 0 && random() % 100 >= percent {
            return false;
        }
        self.knobs.count_down(first)
    }
}
