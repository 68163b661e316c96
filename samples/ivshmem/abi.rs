// SPDX-License-Identifier: GPL-2.0

//! What the driver has agreed with others: with programs, the commands of `/dev/hmm_ivshmem`; with
//! whoever looks at the device's memory from outside, its layout.
//!
//! This file is also a part of `samples/ivshmem-test`, so that nothing is written down twice.
//!
//! # The memory of the device
//!
//! ```text
//! 0         MAGIC, or 0 when no driver is bound
//! 8         number of data pages
//! 16        where the data pages begin, in bytes
//! 64        the directory: for each data page the process that moved it here, and its address there
//!           in bytes; both are 0 for a page that is free
//! at 16     the data pages
//! ```
//!
//! All numbers have 8 bytes, in little endian. A page that was moved by one process and is shared
//! by its children is that of the process that moved it.

/// What the memory begins with while a driver is bound.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"hmm-ivsh");

/// Where the number of data pages is.
pub(crate) const NPAGES_AT: usize = 8;

/// Where it says where the data pages begin.
pub(crate) const DATA_AT: usize = 16;

/// Where the directory begins.
pub(crate) const DIRECTORY_AT: usize = 64;

/// Bytes of an entry of the directory: a process id, and an address.
pub(crate) const ENTRY_SIZE: usize = 16;

/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;

/// How the memory of a device is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// The number of data pages.
    pub(crate) npages: usize,
    /// Where they begin, in bytes.
    pub(crate) data: usize,
}

impl Layout {
    /// Divides a memory of `bytes` bytes, or returns `None` when that is too small for a page.
    pub(crate) const fn new(bytes: usize) -> Option<Self> {
        // What the directory needs to start its first page is not shared with data.
        let Some(room) = bytes.checked_sub(DIRECTORY_AT + PAGE) else {
            return None;
        };
        let npages = room / (ENTRY_SIZE + PAGE);
        if npages == 0 {
            return None;
        }
        let data = (DIRECTORY_AT + npages * ENTRY_SIZE).next_multiple_of(PAGE);
        Some(Self { npages, data })
    }

    /// Returns where the entry of data page `page` is, in bytes.
    pub(crate) const fn entry(&self, page: usize) -> usize {
        DIRECTORY_AT + page * ENTRY_SIZE
    }

    /// Returns where data page `page` is, in bytes.
    pub(crate) const fn page(&self, page: usize) -> usize {
        self.data + page * PAGE
    }
}

/// The type of the commands, an argument of `_IOWR()`.
pub(crate) const IOC_TYPE: u8 = b'v';

/// Number of the command that moves pages to the device.
///
/// Fails with `ENOSPC` when the device is full, and as [`TO_SYSTEM`] does.
pub(crate) const TO_DEVICE: u8 = 0;

/// Number of the command that moves pages back to system memory.
///
/// Fails with `ENODEV` when the device has gone, `EINVAL` when the address is no multiple of a page
/// or the memory is of a kind that never migrates, `EFAULT` when something in the range is not
/// mapped, `EINTR` when a signal is pending, `ENOMEM`. What had moved before that is in
/// [`Request::moved`].
pub(crate) const TO_SYSTEM: u8 = 1;

/// The argument of both commands.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Request {
    /// In: the address of the first page, in bytes.
    pub(crate) address: u64,
    /// In: the number of pages.
    pub(crate) npages: u64,
    /// Out, whether the command fails or not: how many pages have moved. Pages that somebody else
    /// holds, and those that are there already, do not.
    pub(crate) moved: u64,
}
