// SPDX-License-Identifier: GPL-2.0

//! Statistics of devices and open files, and their text format.
//!
//! A device shows a line `key: value` for each number in debugfs, an open file in its fdinfo. The
//! names follow those of xe (`drivers/gpu/drm/xe/xe_gt_stats.c`) and of
//! `Documentation/gpu/drm-usage-stats.rst`, where these have one. See
//! `Documentation/statistics.md`.
//!
//! The counters are in three places: `hmm` counts the pages that move, by size, and those that are
//! freed; `emu` counts moves by cause, and the faults of both sides; this module counts the retries
//! and failures of the driver. While nothing moves and no page is freed, the following are equal:
//!
//! - the pages that moved to the device, by cause and by size;
//! - the pages that moved back, by cause and by size;
//! - the pages that moved to the device, minus those that moved back or were freed, and the
//!   resident pages;
//! - all pages, and the sum of the resident, reserved and free pages.
//!
//! If pages move during a read, the numbers are from different moments.

use emu::{
    debugfs::Text,
    stats::{Failures, Reason},
    trace::Cause,
};
use hmm::{
    counter::Counter,
    memremap::{Moves, Phase, HPAGE_PMD_NR},
};
use kernel::{
    page::PAGE_SIZE,
    seq_file::SeqFile,
    seq_print,
    sync::atomic::{ordering::Relaxed, Atomic},
};

use crate::{call::Counts, device::Device, plan::Outcome};

/// Statistics of the retries and failures of a device's migrations.
#[derive(Default)]
pub(crate) struct Attempts {
    /// Number of passes that followed one in which others had pages locked or referenced.
    pub(crate) busy: Counter,
    /// Number of passes that followed one that found no room, or no block.
    pub(crate) no_room: Counter,
    /// Number of passes that followed one that found a huge page which may be shared.
    pub(crate) shared: Counter,
    /// Number of times a reservation waited for others to release theirs.
    pub(crate) reserve: Counter,
    /// The errors of steps to the device, passes back and evictions. The error of an eviction for a
    /// step counts for both.
    pub(crate) failures: Failures,
    /// Number of pages that a step has left where they were.
    pub(crate) stayed: Counter,
    /// Number of blocks whose pages had to move back, for an eviction, for `RELEASE` or on unload.
    pub(crate) evictions: Counter,
    /// Nanoseconds that reservations took. Only those count that were for many pages or evicted
    /// others; the others only call the allocator.
    pub(crate) reserve_ns: Counter,
}

impl Attempts {
    /// Counts a pass that follows one with the given outcome.
    pub(crate) fn again_after(&self, outcome: &Outcome) {
        let counter = if outcome.is_shared {
            &self.shared
        } else if outcome.lacks_block || outcome.lacking > 0 {
            &self.no_room
        } else {
            &self.busy
        };
        counter.add(1);
    }
}

/// Statistics of the policy of a device.
#[derive(Default)]
pub(crate) struct ServiceStats {
    /// Number of granules that were moved for a device fault.
    pub(crate) granules: Counter,
    /// Number of pages that were requested in addition, because most of their surroundings are on
    /// the device.
    pub(crate) prefetched: Counter,
    /// Number of blocks that became hot: the device has accessed them often where they are.
    pub(crate) hot_blocks: Counter,
    /// Number of times the device left a granule alone.
    pub(crate) naps: Counter,
    /// Number of times it pinned a granule where it was.
    pub(crate) pins: Counter,
    /// Number of times a CPU waited for a time slice.
    pub(crate) slices: Counter,
}

/// Statistics of an open file. Its view counts the faults.
#[derive(Default)]
pub(crate) struct FileStats {
    moved_out: Counter,
    moved_back: Counter,
}

impl FileStats {
    /// Adds the counts of a command.
    pub(crate) fn add(&self, counts: &Counts) {
        for (counter, pages) in [
            (&self.moved_out, counts.moved_out),
            (&self.moved_back, counts.moved_back),
        ] {
            if pages > 0 {
                counter.add(pages);
            }
        }
    }

    /// Writes the lines of these statistics.
    pub(crate) fn show(&self, m: &SeqFile) {
        for (key, counter) in [
            ("out-pages", &self.moved_out),
            ("back-pages", &self.moved_back),
        ] {
            seq_print!(m, "dmirror-{key}:\t{}\n", counter.get());
        }
    }
}

/// Returns a number that no other open file has or ever had.
pub(crate) fn new_client() -> u64 {
    static LAST: Atomic<u64> = Atomic::new(0);
    // ORDERING: Relaxed: the number orders no other memory access.
    LAST.fetch_add(1_u64, Relaxed) + 1
}

fn line(m: &SeqFile, key: &str, value: u64) {
    seq_print!(m, "{key}: {value}\n");
}

fn kib(pages: u64) -> u64 {
    pages * (PAGE_SIZE as u64 / 1024)
}

fn us(ns: u64) -> u64 {
    ns / 1000
}

/// Returns the name of a cause, which trace events use as well.
fn name(cause: Cause) -> &'static str {
    match cause {
        Cause::Request => "request",
        Cause::DeviceFault => "device_fault",
        Cause::CpuFault => "cpu_fault",
        Cause::Eviction => "eviction",
        Cause::Release => "release",
        Cause::Unload => "unload",
    }
}

fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::NoMemory => "no_memory",
        Reason::Io => "io",
        Reason::Busy => "busy",
        Reason::NoAccess => "no_access",
        Reason::Interrupted => "interrupted",
        Reason::Other => "other",
    }
}

/// Shows the moves in one direction: `device` or `cpu`, as xe names the copies.
fn show_way(m: &SeqFile, way: &str, moves: &Moves) {
    for (size, pages) in [("4K", moves.small_pages), ("2M", moves.huge_pages)] {
        seq_print!(m, "svm_{size}_{way}_copy_kb: {}\n", kib(pages));
    }
    seq_print!(m, "svm_{way}_copy_kb: {}\n", kib(moves.pages()));
    for (key, phase) in [
        ("collect", Phase::Collect),
        ("copy", Phase::Copy),
        ("move", Phase::Move),
        ("map", Phase::Map),
    ] {
        seq_print!(m, "svm_{way}_{key}_us: {}\n", us(moves.ns(phase)));
    }
}

impl Text for Device {
    type OwnerModule = crate::LocalModule;

    fn show(&self, m: &SeqFile) {
        let pagemap = self.pagemap();
        let (stats, pool) = (pagemap.ops().stats(), pagemap.ops().pool());
        let attempts = pagemap.ops().attempts();
        let line = |key, value| line(m, key, value);

        // Read the subtracted numbers first, so that a difference is hardly ever negative.
        let back = Cause::ALL.map(|cause| (name(cause), stats.back(cause)));
        let totals = pagemap.totals();
        line("svm_4K_migrate_count", totals.to_device.small_pages);
        let huge = totals.to_device.huge_pages / HPAGE_PMD_NR as u64;
        line("svm_2M_migrate_count", huge);
        line("svm_device_reserve_us", us(attempts.reserve_ns.get()));
        show_way(m, "device", &totals.to_device);
        show_way(m, "cpu", &totals.to_system);

        for cause in [Cause::Request, Cause::DeviceFault] {
            let (cause, out) = (name(cause), stats.out(cause));
            seq_print!(m, "out_{cause}_pages: {out}\n");
            seq_print!(m, "out_{cause}_kb: {}\n", kib(out));
        }
        for (cause, pages) in back {
            seq_print!(m, "back_{cause}_pages: {pages}\n");
            seq_print!(m, "back_{cause}_kb: {}\n", kib(pages));
        }
        line("freed_pages", totals.freed);
        line("freed_kb", kib(totals.freed));

        let (room, reserved) = (pool.room(), pool.reserved());
        line("pages", pagemap.npages() as u64);
        line("resident_pages", totals.resident);
        line("reserved_pages", reserved as u64);
        line("free_pages", room.pages as u64);
        line("free_blocks", room.blocks as u64);
        match pool.victim(pagemap.ops().eviction_policy()) {
            Some(block) => line("oldest_block", block as u64),
            None => seq_print!(m, "oldest_block: none\n"),
        }

        line("svm_pagefault_count", stats.device_faults.get());
        line("cpu_fault_count", stats.cpu_faults.get());
        line("svm_tlb_inval_count", stats.invalidations.get());
        line("svm_tlb_inval_pages", stats.cleared.get());
        line("evict_count", attempts.evictions.get());

        let (faults, service) = (self.faults().stats(), pagemap.ops().service());
        for (key, counter) in [
            ("fault_posted", &faults.posted),
            ("fault_merged", &faults.merged),
            ("fault_batches", &faults.batches),
            ("fault_overflows", &faults.overflows),
            ("fault_cancelled", &faults.cancelled),
            ("service_granules", &service.granules),
            ("service_prefetched_pages", &service.prefetched),
            ("service_hot_blocks", &service.hot_blocks),
            ("service_naps", &service.naps),
            ("service_pins", &service.pins),
            ("service_timeslices", &service.slices),
        ] {
            line(key, counter.get());
        }

        line("retry_busy", attempts.busy.get());
        line("retry_no_room", attempts.no_room.get());
        line("retry_shared", attempts.shared.get());
        line("retry_reserve", attempts.reserve.get());
        line("retry_device_fault", stats.device_fault_retries.get());
        line("retry_cpu_fault", stats.cpu_fault_retries.get());
        for (what, failures) in [
            ("migrate", &attempts.failures),
            ("device_fault", &stats.device_fault_failures),
        ] {
            for why in Reason::ALL {
                let (name, count) = (reason(why), failures.get(why));
                seq_print!(m, "fail_{what}_{name}: {count}\n");
            }
        }
        line("fail_migrate_stayed_pages", attempts.stayed.get());
        line(
            "fail_cpu_fault_no_memory",
            stats.cpu_faults_out_of_memory.get(),
        );
        line("fail_cpu_fault_bus_error", stats.cpu_fault_bus_errors.get());
    }
}
