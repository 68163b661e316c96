// SPDX-License-Identifier: GPL-2.0

//! Sizes, windows and bounds: the one place where they stand.

use kernel::str::CStr;

/// The device files of devices with private memory.
pub(crate) const PRIVATE_NODES: [&CStr; PRIVATE_DEVICES] = [c"hmm_dmirror0", c"hmm_dmirror1"];

/// The device files of devices with coherent memory.
pub(crate) const COHERENT_NODES: [&CStr; 2] = [c"hmm_dmirror2", c"hmm_dmirror3"];

/// Returns the device file of a device by its number, in the order of the two tables.
pub(crate) fn node(number: u32) -> Option<&'static CStr> {
    let mut nodes = PRIVATE_NODES.iter().chain(&COHERENT_NODES);
    nodes.nth(number as usize).copied()
}

/// The number of private devices.
pub(crate) const PRIVATE_DEVICES: usize = 2;

/// What the memory of a device is called in `/proc/iomem`.
pub(crate) const REGION_NAME: &CStr = c"dmirror";

/// The most pages that one step of a command handles, in one aligned run of that many: what one
/// entry of a page table can map, and for how many pages the `mmap_lock` is held at a time.
pub(crate) const WINDOW_PAGES: usize = hmm::memremap::HPAGE_PMD_NR;

/// Pages that are copied under one hold of the update lock, for which each change to the page
/// tables waits.
pub(crate) const HOLD_PAGES: usize = 32;

/// Pages that are copied to or from user space in one piece, where that is not present.
pub(crate) const BOUNCE_PAGES: usize = 64;

/// Pages that a round of device faults maps.
pub(crate) const FAULT_PAGES: usize = 16384;

/// How long a migration waits before it tries pages again that were locked or referenced by
/// somebody else, in microseconds; how often it does stands in `plan.rs`.
pub(crate) const MIGRATE_PAUSE_US: i64 = 200;

/// How often, and for how long in milliseconds, a migration tries at least to reserve device pages
/// while others hold reservations, or take what was evicted for it.
pub(crate) const RESERVE_TRIES: usize = 20;
pub(crate) const RESERVE_TIMEOUT_MS: i64 = 1000;

/// How long it waits before it tries that again, in microseconds.
pub(crate) const RESERVE_PAUSE_US: i64 = 1000;

/// How many blocks a reservation tries to evict before it gives up, for each block of the device.
pub(crate) const EVICT_ROUNDS: usize = 2;

/// How often RELEASE goes over the blocks that have pages left.
pub(crate) const RELEASE_ROUNDS: usize = 8;

/// How long a device tries to get at pages that are taken from it again and again, in milliseconds.
pub(crate) const ACCESS_TIMEOUT_MS: i64 = 1000;

/// How long an engine tries, in milliseconds: nobody is in a call meanwhile, and whoever does not
/// want to wait any longer cancels the job.
pub(crate) const ENGINE_TIMEOUT_MS: i64 = 10_000;

/// The most queues of an open file, jobs of a queue, and packets of a job.
pub(crate) const MAX_QUEUES: usize = 64;
pub(crate) const MAX_DEPTH: u32 = 1024;
pub(crate) const MAX_PACKETS: u32 = 65536;
