// SPDX-License-Identifier: GPL-2.0

//! Sizes, windows and bounds: the one place where they stand.

/// The device files, one for each private device.
pub(crate) const NODE_NAMES: [&kernel::str::CStr; DEVICES] = [c"hmm_dmirror0", c"hmm_dmirror1"];

/// The number of private devices.
pub(crate) const DEVICES: usize = 2;

/// What the memory of a device is called in `/proc/iomem`.
pub(crate) const REGION_NAME: &kernel::str::CStr = c"dmirror";

/// Memory of a device in bytes, where the module parameter `capacity` gives no other.
pub(crate) const DEFAULT_CAPACITY: u64 = 512 << 20;

/// The most memory that a device can be given, in bytes; the kernel's own bounds lie not far above.
pub(crate) const MAX_CAPACITY: u64 = 1 << 40;

/// The most pages that one step of a migration moves: what is copied to user space in one piece,
/// and for how many pages the `mmap_lock` is held at a time.
pub(crate) const WINDOW_PAGES: usize = 64;

/// How often a migration tries pages that were locked or referenced by somebody else.
pub(crate) const MIGRATE_TRIES: usize = 16;

/// How long a migration waits before it tries such pages again, in microseconds.
pub(crate) const MIGRATE_PAUSE_US: i64 = 200;

/// How many blocks a reservation tries to evict before it gives up, for each block of the device.
pub(crate) const EVICT_ROUNDS: usize = 2;
