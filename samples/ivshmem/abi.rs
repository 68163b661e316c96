// SPDX-License-Identifier: GPL-2.0

//! The interfaces of the driver: the commands of `/dev/hmm_ivshmem`, for programs, and the layout
//! of the device's memory, for observers of the device.
//!
//! This file is also a part of `samples/ivshmem-test`, so that nothing is defined twice.
//!
//! # The memory of the device
//!
//! ```text
//! 0         MAGIC, or 0 when no driver is bound
//! 8         number of data pages
//! 16        where the data pages begin, in bytes
//! 24        number of bytes of a page
//! 64        the directory: for each data page the process that moved it here, and its address there
//!           in bytes; both are 0 for a page that is free
//! at 16     the data pages
//! ```
//!
//! All numbers have 8 bytes, in little endian. A page that a process has moved, and that its
//! children share, belongs to that process.

/// The first word of the memory while a driver is bound.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"hmm-ivsh");

/// The offset of the number of data pages, in bytes.
pub(crate) const NPAGES_AT: usize = 8;

/// The offset of the word with the start of the data pages, in bytes.
pub(crate) const DATA_AT: usize = 16;

/// The offset of the number of bytes of a page, in bytes.
pub(crate) const PAGE_SIZE_AT: usize = 24;

/// The offset of the directory, in bytes.
pub(crate) const DIRECTORY_AT: usize = 64;

/// Number of bytes of a directory entry: a process ID, and an address.
pub(crate) const ENTRY_SIZE: usize = 16;

/// The layout of the memory of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// The number of data pages.
    pub(crate) npages: usize,
    /// The offset of the data pages, in bytes.
    pub(crate) data: usize,
    /// Number of bytes of a page.
    pub(crate) page_size: usize,
}

impl Layout {
    /// Divides a memory of `bytes` bytes; returns `None` when it is too small for a data page.
    pub(crate) const fn new(bytes: usize, page_size: usize) -> Option<Self> {
        // The first page, in which the directory starts, contains no data.
        let Some(room) = bytes.checked_sub(DIRECTORY_AT + page_size) else {
            return None;
        };
        let npages = room / (ENTRY_SIZE + page_size);
        if npages == 0 {
            return None;
        }
        let data = (DIRECTORY_AT + npages * ENTRY_SIZE).next_multiple_of(page_size);
        Some(Self {
            npages,
            data,
            page_size,
        })
    }

    /// Returns the offset of the entry of data page `page`, in bytes.
    pub(crate) const fn entry(&self, page: usize) -> usize {
        DIRECTORY_AT + page * ENTRY_SIZE
    }

    /// Returns the offset of data page `page`, in bytes.
    pub(crate) const fn page(&self, page: usize) -> usize {
        self.data + page * self.page_size
    }
}

/// The type of the commands: an argument of `_IOWR()`.
pub(crate) const IOC_TYPE: u8 = b'v';

/// Number of the command that moves pages to the device.
///
/// Fails with `ENOSPC` when the device is full, and otherwise as [`TO_SYSTEM`] does.
pub(crate) const TO_DEVICE: u8 = 0;

/// Number of the command that moves pages back to system memory.
///
/// Fails with `ENODEV` when the device is gone; `EINVAL` when the address is not a multiple of the
/// page size, or the memory is of a kind that never migrates; `EFAULT` when a part of the range is
/// not mapped; `EINTR` when a signal is pending; and `ENOMEM`. [`Request::moved`] counts the pages
/// that moved before the error.
pub(crate) const TO_SYSTEM: u8 = 1;

/// The argument of both commands.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Request {
    /// In: the address of the first page, in bytes.
    pub(crate) address: u64,
    /// In: the number of pages.
    pub(crate) npages: u64,
    /// Out, whether or not the command fails: the number of pages that moved. Pages that someone
    /// else holds, and those that are already there, do not move.
    pub(crate) moved: u64,
}
