// SPDX-License-Identifier: GPL-2.0

//! What a device has done, by its file in debugfs, and an open file, by its
//! fdinfo.

use std::fs;
use std::io;
use std::ops::Sub;
use std::path::Path;

const DEBUGFS: &str = "/sys/kernel/debug";

/// A struct of numbers, with the key of each, that is read from lines `KEY: NUMBER`.
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
            /// `InvalidData` if one is missing or has no number; it is named.
            pub fn parse(text: &str) -> io::Result<Self> {
                Ok(Self { $($field: number(text, $key)?,)* })
            }
        }

        impl Sub for $name {
            type Output = Self;

            /// What was added since.
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
    /// What a device has done, see Documentation/statistics.md.
    Stats {
        /// Pages that moved to the device, in small folios.
        out_4k = "svm_4K_migrate_count",
        /// Huge pages that moved to the device.
        out_2m = "svm_2M_migrate_count",
        /// KiB that moved to the device.
        out_kb = "svm_device_copy_kb",
        /// Of them, in huge pages.
        out_2m_kb = "svm_2M_device_copy_kb",
        /// KiB that came back.
        back_kb = "svm_cpu_copy_kb",
        /// Of them, in small pages.
        back_4k_kb = "svm_4K_cpu_copy_kb",
        /// Of them, in huge pages.
        back_2m_kb = "svm_2M_cpu_copy_kb",
        /// Time of the phases, to the device.
        out_reserve_us = "svm_device_reserve_us",
        /// As above.
        out_collect_us = "svm_device_collect_us",
        /// As above.
        out_copy_us = "svm_device_copy_us",
        /// As above.
        out_move_us = "svm_device_move_us",
        /// As above.
        out_map_us = "svm_device_map_us",
        /// Time of the phases, back.
        back_collect_us = "svm_cpu_collect_us",
        /// As above.
        back_copy_us = "svm_cpu_copy_us",
        /// As above.
        back_move_us = "svm_cpu_move_us",
        /// As above.
        back_map_us = "svm_cpu_map_us",
        /// Pages that moved to the device by request.
        out_request = "out_request_pages",
        /// Pages that moved to the device because an engine missed them.
        out_device_fault = "out_device_fault_pages",
        /// Pages that came back by request.
        back_request = "back_request_pages",
        /// Pages that came back because the device wanted to write.
        back_device_fault = "back_device_fault_pages",
        /// Pages that came back because a CPU touched them, or one near.
        back_cpu_fault = "back_cpu_fault_pages",
        /// Pages that came back because others needed room.
        back_eviction = "back_eviction_pages",
        /// Pages that came back by RELEASE.
        back_release = "back_release_pages",
        /// Pages that came back because the module goes.
        back_unload = "back_unload_pages",
        /// Pages that were on the device when they were freed.
        freed = "freed_pages",
        /// All pages.
        pages = "pages",
        /// Pages that are on the device.
        resident = "resident_pages",
        /// Pages that reservations hold, and those that have just moved.
        reserved = "reserved_pages",
        /// Pages that nobody has.
        free = "free_pages",
        /// Blocks of 512 pages that are free as a whole.
        free_blocks = "free_blocks",
        /// Windows that the device has faulted in.
        device_faults = "svm_pagefault_count",
        /// Faults of CPUs on pages of the device.
        cpu_faults = "cpu_fault_count",
        /// Changes to page tables.
        invalidations = "svm_tlb_inval_count",
        /// Pages that the device lost by them.
        invalidated = "svm_tlb_inval_pages",
        /// Blocks with pages that had to go back.
        evictions = "evict_count",
        /// Pages that engines have posted to the fault buffer.
        fault_posted = "fault_posted",
        /// Those of them that were seen to together with another.
        fault_merged = "fault_merged",
        /// Batches in which the handler has taken them out.
        fault_batches = "fault_batches",
        /// Those for which there was no room at first.
        fault_overflows = "fault_overflows",
        /// Those that were taken back.
        fault_cancelled = "fault_cancelled",
        /// Granules that were to move because an engine missed a page of them.
        granules = "service_granules",
        /// Pages that were to move with them.
        prefetched = "service_prefetched_pages",
        /// Blocks that an engine has accessed often enough.
        hot_blocks = "service_hot_blocks",
        /// How often an engine has left a granule alone for a while.
        naps = "service_naps",
        /// How often an engine has used a granule where it was.
        pins = "service_pins",
        /// Faults of CPUs that waited for the end of a time slice.
        timeslices = "service_timeslices",
        /// Passes again, because pages were locked or referenced.
        retry_busy = "retry_busy",
        /// Passes again, because there was no room.
        retry_no_room = "retry_no_room",
        /// Passes again, because a huge page may be shared.
        retry_shared = "retry_shared",
        /// Migrations that failed with an error of the copy.
        fail_io = "fail_migrate_io",
        /// Migrations that failed for lack of memory.
        fail_no_memory = "fail_migrate_no_memory",
        /// Pages that stayed where they were.
        stayed = "fail_migrate_stayed_pages",
        /// Device faults that were not allowed.
        fail_device_fault_no_access = "fail_device_fault_no_access",
        /// Faults of CPUs that ended in SIGBUS.
        fail_cpu_fault_bus_error = "fail_cpu_fault_bus_error",
    }
}

numbers! {
    /// What an open file has done, and how much it has mapped.
    FileStats {
        /// A number that no other open file has.
        client = "drm-client-id",
        /// KiB in the memory of the device that it has mapped for this file.
        mapped_device_kib = "drm-resident-vram0",
        /// KiB of other memory that it has mapped.
        mapped_system_kib = "drm-resident-memory",
        /// Pages that commands of this file have moved to the device.
        out = "dmirror-out-pages",
        /// Pages that commands of this file have brought back.
        back = "dmirror-back-pages",
        /// Pages that came back because the device wanted to write.
        back_device_fault = "dmirror-device-fault-pages",
        /// Windows that the device has faulted in.
        device_faults = "dmirror-device-faults",
        /// Changes to the page tables of the process.
        invalidations = "dmirror-invalidations",
        /// Pages that the device lost by them.
        invalidated = "dmirror-invalidated-pages",
    }
}

impl Stats {
    /// Reads what device `name`, such as `hmm_dmirror0`, has done; `None` where
    /// there is no such file, or it may not be read.
    ///
    /// # Errors
    ///
    /// As for [`parse`](Self::parse), and what reading the file fails with.
    pub fn of(name: &str) -> io::Result<Option<Self>> {
        read(name, "stats")?.map_or(Ok(None), |text| Self::parse(&text).map(Some))
    }

    /// Reads how many pages are in use of each block of 2 MiB of device `name`, in the order of
    /// their frames; `None` where there is no such file, or it may not be read.
    ///
    /// # Errors
    ///
    /// `InvalidData` for what is no number, and what reading the file fails with.
    pub fn blocks_of(name: &str) -> io::Result<Option<Vec<u64>>> {
        let Some(text) = read(name, "blocks")? else {
            return Ok(None);
        };
        let used = text.split_whitespace().map(str::parse);
        let used = used.collect::<Result<_, _>>();
        used.map(Some)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Pages that moved to the device.
    pub fn out(&self) -> u64 {
        self.out_request + self.out_device_fault
    }

    /// Pages that came back, for whatever reason.
    pub fn back(&self) -> u64 {
        self.back_request
            + self.back_device_fault
            + self.back_cpu_fault
            + self.back_eviction
            + self.back_release
            + self.back_unload
    }

    /// Which sums do not agree. They need to only while no page moves.
    pub fn disagreements(&self) -> Vec<String> {
        let kib = 4;
        let sums = [
            ("out by size and by cause", self.out_kb / kib, self.out()),
            (
                "out in small and in huge pages",
                self.out_4k + 512 * self.out_2m,
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

/// A file of a device in debugfs, where there is one and it may be read.
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
