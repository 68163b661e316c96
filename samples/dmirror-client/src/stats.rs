// SPDX-License-Identifier: GPL-2.0

//! Statistics of a device, from its file in debugfs, and of an open file, from its fdinfo.

use std::fs;
use std::io;
use std::ops::Sub;
use std::path::Path;

use crate::range::{hpage_pmd_nr, page_size};

const DEBUGFS: &str = "/sys/kernel/debug";

/// Defines a struct of numbers, each with a key, that is read from lines `KEY: NUMBER`.
macro_rules! numbers {
    (
        $(#[$doc:meta])*
        $name:ident { $($(#[$about:meta])* $field:ident = $key:literal,)* }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$about])* pub $field: u64,)*
        }

        impl $name {
            /// Reads the lines.
            ///
            /// # Errors
            ///
            /// `InvalidData` if a line is missing or has no number; the error names it.
            pub fn parse(text: &str) -> io::Result<Self> {
                Ok(Self { $($field: number(text, $key)?,)* })
            }
        }

        impl Sub for $name {
            type Output = Self;

            /// Returns the increase since `before`.
            fn sub(self, before: Self) -> Self {
                Self { $($field: self.$field.wrapping_sub(before.$field),)* }
            }
        }
    };
}

fn number(text: &str, key: &str) -> io::Result<u64> {
    let value = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name == key).then(|| value.trim().trim_end_matches(" KiB"))
    });
    let number = value.and_then(|value| value.parse().ok());
    number.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("no number of {key}")))
}

numbers! {
    /// The statistics of a device, see Documentation/statistics.md.
    Stats {
        /// Pages that moved to the device, in small folios.
        out_4k = "svm_4K_migrate_count",
        /// Huge pages that moved to the device.
        out_2m = "svm_2M_migrate_count",
        /// KiB that moved to the device.
        out_kb = "svm_device_copy_kb",
        /// The part of `out_kb` that moved in huge pages.
        out_2m_kb = "svm_2M_device_copy_kb",
        /// KiB that moved back.
        back_kb = "svm_cpu_copy_kb",
        /// The part of `back_kb` that moved in small pages.
        back_4k_kb = "svm_4K_cpu_copy_kb",
        /// The part of `back_kb` that moved in huge pages.
        back_2m_kb = "svm_2M_cpu_copy_kb",
        /// Microseconds of reserving pages, for moves to the device.
        out_reserve_us = "svm_device_reserve_us",
        /// Microseconds of collecting pages, for moves to the device.
        out_collect_us = "svm_device_collect_us",
        /// Microseconds of copying pages, for moves to the device.
        out_copy_us = "svm_device_copy_us",
        /// Microseconds of moving folios, for moves to the device.
        out_move_us = "svm_device_move_us",
        /// Microseconds of mapping pages, for moves to the device.
        out_map_us = "svm_device_map_us",
        /// Microseconds of collecting pages, for moves back.
        back_collect_us = "svm_cpu_collect_us",
        /// Microseconds of copying pages, for moves back.
        back_copy_us = "svm_cpu_copy_us",
        /// Microseconds of moving folios, for moves back.
        back_move_us = "svm_cpu_move_us",
        /// Microseconds of mapping pages, for moves back.
        back_map_us = "svm_cpu_map_us",
        /// Pages that moved to the device by request.
        out_request = "out_request_pages",
        /// Pages that moved to the device because an engine missed them.
        out_device_fault = "out_device_fault_pages",
        /// Pages that moved back by request.
        back_request = "back_request_pages",
        /// Pages that moved back because the device wanted to write.
        back_device_fault = "back_device_fault_pages",
        /// Pages that moved back because a CPU touched them, or a neighbour.
        back_cpu_fault = "back_cpu_fault_pages",
        /// Pages that moved back because others needed room.
        back_eviction = "back_eviction_pages",
        /// Pages that moved back by RELEASE.
        back_release = "back_release_pages",
        /// Pages that moved back because the module was unloaded.
        back_unload = "back_unload_pages",
        /// Pages that were on the device when they were freed.
        freed = "freed_pages",
        /// All pages.
        pages = "pages",
        /// Pages that are on the device.
        resident = "resident_pages",
        /// Pages that reservations hold, and those that have just moved.
        reserved = "reserved_pages",
        /// Pages that are free.
        free = "free_pages",
        /// Blocks of a huge page each that are free as a whole.
        free_blocks = "free_blocks",
        /// Windows that the device has faulted in.
        device_faults = "svm_pagefault_count",
        /// CPU faults on pages of the device.
        cpu_faults = "cpu_fault_count",
        /// Changes to page tables.
        invalidations = "svm_tlb_inval_count",
        /// Pages that the device lost through these changes.
        invalidated = "svm_tlb_inval_pages",
        /// Blocks whose pages had to move back.
        evictions = "evict_count",
        /// Pages that engines have posted to the fault buffer.
        fault_posted = "fault_posted",
        /// Posted pages that were handled together with another one.
        fault_merged = "fault_merged",
        /// Batches in which the handler has taken posted pages out.
        fault_batches = "fault_batches",
        /// Posted pages for which there was no room at first.
        fault_overflows = "fault_overflows",
        /// Posted pages that were withdrawn.
        fault_cancelled = "fault_cancelled",
        /// Granules that were to move because an engine missed a page in them.
        granules = "service_granules",
        /// Pages that were to move together with such granules.
        prefetched = "service_prefetched_pages",
        /// Blocks that an engine has accessed often enough to move them.
        hot_blocks = "service_hot_blocks",
        /// Number of times that an engine has left a granule alone for a while.
        naps = "service_naps",
        /// Number of times that an engine has used a granule where it was.
        pins = "service_pins",
        /// CPU faults that waited for the end of a time slice.
        timeslices = "service_timeslices",
        /// Retried passes, because pages were locked or referenced.
        retry_busy = "retry_busy",
        /// Retried passes, because there was no room.
        retry_no_room = "retry_no_room",
        /// Retried passes, because a huge page may be shared.
        retry_shared = "retry_shared",
        /// Migrations that failed with a copy error.
        fail_io = "fail_migrate_io",
        /// Migrations that failed because of a lack of memory.
        fail_no_memory = "fail_migrate_no_memory",
        /// Pages that stayed where they were.
        stayed = "fail_migrate_stayed_pages",
        /// Device faults that failed because the access was not allowed.
        fail_device_fault_no_access = "fail_device_fault_no_access",
        /// CPU faults that ended in SIGBUS.
        fail_cpu_fault_bus_error = "fail_cpu_fault_bus_error",
    }
}

numbers! {
    /// The statistics of an open file, and how much it maps.
    FileStats {
        /// A number that no other open file has.
        client = "drm-client-id",
        /// KiB in device memory that the device maps for this file.
        mapped_device_kib = "drm-resident-vram0",
        /// KiB of other memory that the device maps for this file.
        mapped_system_kib = "drm-resident-memory",
        /// Pages that commands of this file have moved to the device.
        out = "dmirror-out-pages",
        /// Pages that commands of this file have moved back.
        back = "dmirror-back-pages",
        /// Pages that moved back because the device wanted to write.
        back_device_fault = "dmirror-device-fault-pages",
        /// Windows that the device has faulted in.
        device_faults = "dmirror-device-faults",
        /// Changes to the page tables of the process.
        invalidations = "dmirror-invalidations",
        /// Pages that the device lost through these changes.
        invalidated = "dmirror-invalidated-pages",
    }
}

impl Stats {
    /// Reads the statistics of device `name`, such as `hmm_dmirror0`; `None` if there is no such
    /// file, or it may not be read.
    ///
    /// # Errors
    ///
    /// As for [`parse`](Self::parse), or the error of reading the file.
    pub fn of(name: &str) -> io::Result<Option<Self>> {
        read(name, "stats")?.map_or(Ok(None), |text| Self::parse(&text).map(Some))
    }

    /// Reads the number of used pages of each block of 2 MiB of device `name`, in the order of
    /// their frames; `None` if there is no such file, or it may not be read.
    ///
    /// # Errors
    ///
    /// `InvalidData` if the file contains anything but numbers, or the error of reading the file.
    pub fn blocks_of(name: &str) -> io::Result<Option<Vec<u64>>> {
        let Some(text) = read(name, "blocks")? else {
            return Ok(None);
        };
        let used = text.split_whitespace().map(str::parse);
        let used = used.collect::<Result<_, _>>();
        used.map(Some)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Returns the number of pages that moved to the device.
    pub fn out(&self) -> u64 {
        self.out_request + self.out_device_fault
    }

    /// Returns the number of pages that moved back, for whatever reason.
    pub fn back(&self) -> u64 {
        self.back_request
            + self.back_device_fault
            + self.back_cpu_fault
            + self.back_eviction
            + self.back_release
            + self.back_unload
    }

    /// Returns the sums that do not agree. They must agree only while no page moves.
    pub fn disagreements(&self) -> Vec<String> {
        let kib = page_size() as u64 / 1024;
        let sums = [
            ("out by size and by cause", self.out_kb / kib, self.out()),
            (
                "out in small and in huge pages",
                self.out_4k + hpage_pmd_nr() as u64 * self.out_2m,
                self.out(),
            ),
            ("back by size and by cause", self.back_kb / kib, self.back()),
            (
                "back in small and in huge pages",
                (self.back_4k_kb + self.back_2m_kb) / kib,
                self.back(),
            ),
            (
                "out and back, freed or there",
                self.out(),
                self.back() + self.freed + self.resident,
            ),
            (
                "all pages and those there, reserved or free",
                self.pages,
                self.resident + self.reserved + self.free,
            ),
        ];
        let differ = |&(_, one, other): &(&str, u64, u64)| one != other;
        let text = |(what, one, other)| format!("{what}: {one} and {other}");
        sums.into_iter().filter(differ).map(text).collect()
    }
}

/// Reads a file of a device in debugfs; `None` if there is no such file, or it may not be read.
fn read(name: &str, file: &str) -> io::Result<Option<String>> {
    match fs::read_to_string(Path::new(DEBUGFS).join(name).join(file)) {
        Ok(text) => Ok(Some(text)),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => Ok(None),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_by_their_whole_key() {
        let text = "xpages: 1\npages:\t2\npages_more: 3\nsize:\t4 KiB\n";
        assert_eq!(number(text, "pages").unwrap(), 2);
        assert_eq!(number(text, "size").unwrap(), 4);
        assert!(number(text, "page").is_err());
    }

    #[test]
    fn sums_agree_or_are_named() {
        let mut stats = Stats {
            out_4k: 8,
            out_kb: 32,
            out_request: 5,
            out_device_fault: 3,
            back_cpu_fault: 3,
            back_kb: 12,
            back_4k_kb: 12,
            freed: 1,
            resident: 4,
            pages: 512,
            free: 508,
            ..Stats::default()
        };
        assert_eq!(stats.disagreements(), Vec::<String>::new());
        stats.freed += 1;
        assert_eq!(
            stats.disagreements(),
            ["out and back, freed or there: 8 and 9"]
        );
    }
}
