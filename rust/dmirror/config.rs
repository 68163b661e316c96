// SPDX-License-Identifier: GPL-2.0

//! Sizes, windows and bounds, all in one place.

use kernel::str::CStr;

use crate::pages::{BLOCK_PAGES, PAGE_SIZE};

/// The device files of devices with private memory.
pub(crate) const PRIVATE_NODES: [&CStr; PRIVATE_DEVICES] = [c"hmm_dmirror0", c"hmm_dmirror1"];

/// The device files of devices with coherent memory.
pub(crate) const COHERENT_NODES: [&CStr; 2] = [c"hmm_dmirror2", c"hmm_dmirror3"];

/// Returns the device file of a device with a given number, counted through both tables in this
/// order.
pub(crate) fn node(number: u32) -> Option<&'static CStr> {
    let mut nodes = PRIVATE_NODES.iter().chain(&COHERENT_NODES);
    nodes.nth(number as usize).copied()
}

/// The number of private devices.
pub(crate) const PRIVATE_DEVICES: usize = 2;

/// The name of device memory in `/proc/iomem`.
pub(crate) const REGION_NAME: &CStr = c"dmirror";

/// Maximum number of pages that one step of a command handles, in one aligned run of that many
/// pages: the size that one page table entry can map. The `mmap_lock` is held for at most that many
/// pages at a time.
pub(crate) const WINDOW_PAGES: usize = BLOCK_PAGES;

/// Number of pages that are copied before the update lock is released, for which each change to the
/// page tables waits.
pub(crate) const HOLD_PAGES: usize = (128 << 10) / PAGE_SIZE;

/// Number of pages that are copied to or from user space in one piece if user memory is not
/// present.
pub(crate) const BOUNCE_PAGES: usize = (256 << 10) / PAGE_SIZE;

/// Number of pages that a round of device faults maps.
pub(crate) const FAULT_PAGES: usize = (64 << 20) / PAGE_SIZE;

/// Time that a migration waits, in microseconds, before it retries pages that someone else has
/// locked or referenced. `plan.rs` defines the number of retries.
pub(crate) const MIGRATE_PAUSE_US: i64 = 200;

/// Minimum number of retries, and minimum time in milliseconds, for which a migration tries to
/// reserve device pages while others hold reservations, or take the pages that were evicted for it.
pub(crate) const RESERVE_TRIES: usize = 20;
pub(crate) const RESERVE_TIMEOUT_MS: i64 = 1000;

/// Time that it waits before it tries to reserve again, in microseconds.
pub(crate) const RESERVE_PAUSE_US: i64 = 1000;

/// Number of blocks that a reservation tries to evict at most, per block of the device.
pub(crate) const EVICT_ROUNDS: usize = 2;

/// Number of times that RELEASE goes over the blocks that still have pages.
pub(crate) const RELEASE_ROUNDS: usize = 8;

/// Time in milliseconds for which a device retries pages that are taken away again and again.
pub(crate) const ACCESS_TIMEOUT_MS: i64 = 1000;

/// The same time in milliseconds for an engine. No one waits for an engine in a system call, and
/// anyone who does not want to wait any longer can cancel the job.
pub(crate) const ENGINE_TIMEOUT_MS: i64 = 10_000;

/// Maximum numbers of queues per open file, of jobs per queue, and of packets per job.
pub(crate) const MAX_QUEUES: usize = 64;
pub(crate) const MAX_DEPTH: u32 = 1024;
pub(crate) const MAX_PACKETS: u32 = 65536;
