// SPDX-License-Identifier: GPL-2.0

//! An open `/dev/hmm_dmirror*` and its commands.
//!
//! Each command works on the address space of the process that opened the file, whoever calls. To
//! add a command of the ABI, add a variant of [`Command`] and a method of [`Device`];
//! [`Device::call`] sends it.

use std::fmt;
use std::fs;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use thiserror::Error;

use crate::abi;
use crate::abi::dmirror_cmd;
use crate::range::PageRange;
use crate::range::page_size;
use crate::region::Region;
use crate::stats::FileStats;
use crate::sys;

/// The bits in a byte of [`Device::snapshot`]: one of [`READ`](prot::READ) and
/// [`WRITE`](prot::WRITE), a place, and flags; or [`NONE`](prot::NONE) or [`ERROR`](prot::ERROR)
/// alone.
pub mod prot {
    use crate::abi;

    macro_rules! values {
        ($($(#[$doc:meta])* $name:ident = $value:ident;)*) => {
            $($(#[$doc])* pub const $name: u8 = abi::$value as u8;)*
        };
    }

    values! {
        /// No page, or one that the device cannot use as it is.
        NONE = DMIRROR_PROT_NONE;
        /// Mapped for reading.
        READ = DMIRROR_PROT_READ;
        /// Mapped for reading and writing.
        WRITE = DMIRROR_PROT_WRITE;
        /// Flag: mapped by one 2 MiB entry.
        PMD = DMIRROR_PROT_PMD;
        /// Flag: the zero page.
        ZERO = DMIRROR_PROT_ZERO;
        /// Place: private memory of this device.
        PRIVATE_LOCAL = DMIRROR_PROT_DEV_PRIVATE_LOCAL;
        /// Place: coherent memory of this device.
        COHERENT_LOCAL = DMIRROR_PROT_DEV_COHERENT_LOCAL;
        /// Place: coherent memory of another device.
        COHERENT_REMOTE = DMIRROR_PROT_DEV_COHERENT_REMOTE;
        /// No mapping, or one that no device may use.
        ERROR = DMIRROR_PROT_ERROR;
    }
}

/// The commands of the ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The device reads memory.
    Read,
    /// The device reads memory, without a time limit for its faults.
    ReadUnlocked,
    /// The device writes memory.
    Write,
    /// Move pages to the memory of the device, and return its view of them.
    MigrateToDevice,
    /// Move pages that are on the device back to system memory.
    MigrateToSystem,
    /// Report how and where pages are mapped.
    Snapshot,
    /// Give the device exclusive access to pages.
    Exclusive,
    /// Fail if the device has exclusive access to a page.
    CheckExclusive,
    /// Move everything on the device back to system memory.
    Release,
    /// Set the flags of the device.
    Flags,
}

impl Command {
    /// Returns the number of the command in the header.
    pub fn number(self) -> u32 {
        match self {
            Self::Read => abi::DMIRROR_NR_READ,
            Self::ReadUnlocked => abi::DMIRROR_NR_READ_UNLOCKED,
            Self::Write => abi::DMIRROR_NR_WRITE,
            Self::MigrateToDevice => abi::DMIRROR_NR_MIGRATE_TO_DEV,
            Self::MigrateToSystem => abi::DMIRROR_NR_MIGRATE_TO_SYS,
            Self::Snapshot => abi::DMIRROR_NR_SNAPSHOT,
            Self::Exclusive => abi::DMIRROR_NR_EXCLUSIVE,
            Self::CheckExclusive => abi::DMIRROR_NR_CHECK_EXCLUSIVE,
            Self::Release => abi::DMIRROR_NR_RELEASE,
            Self::Flags => abi::DMIRROR_NR_FLAGS,
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "READ",
            Self::ReadUnlocked => "READ_UNLOCKED",
            Self::Write => "WRITE",
            Self::MigrateToDevice => "MIGRATE_TO_DEV",
            Self::MigrateToSystem => "MIGRATE_TO_SYS",
            Self::Snapshot => "SNAPSHOT",
            Self::Exclusive => "EXCLUSIVE",
            Self::CheckExclusive => "CHECK_EXCLUSIVE",
            Self::Release => "RELEASE",
            Self::Flags => "FLAGS",
        })
    }
}

/// The kernel's counts for a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Number of pages that the command moved, copied or looked at.
    pub pages: u64,
    /// Number of rounds of device faults.
    pub faults: u64,
}

/// The error of a command.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{command} of {pages} pages at {addr:#x}: {errno}, {}", .counts.map_or("no counts".into(), |c| format!("{} pages done", c.pages)))]
pub struct CallError {
    /// The command.
    pub command: Command,
    /// The first virtual address of the range.
    pub addr: u64,
    /// The number of pages of the range.
    pub pages: u64,
    /// The error number.
    pub errno: Errno,
    /// The counts at the time of the failure; `None` if the kernel returned none, as for an invalid
    /// range.
    pub counts: Option<Counts>,
}

/// The buffer of a command.
#[derive(Debug)]
pub enum Buffer<'a> {
    /// No buffer, or deliberately a null pointer.
    Null,
    /// Memory of the program that the command fills, one page for each page of the range.
    Output(&'a mut [u8]),
    /// Memory of the program that the command reads, one page for each page of the range.
    Input(&'a [u8]),
    /// Memory of the program that the command fills, one byte for each page of the range.
    Bytes(&'a mut [u8]),
    /// A mapping, possibly one that the kernel cannot access.
    Region(&'a Region),
}

impl Buffer<'_> {
    /// Returns the buffer's address, and the number of pages of a range for which it has room.
    fn parts(&mut self) -> Option<(u64, usize)> {
        match self {
            Self::Null => None,
            Self::Output(bytes) => Some((bytes.as_mut_ptr() as u64, bytes.len() / page_size())),
            Self::Input(bytes) => Some((bytes.as_ptr() as u64, bytes.len() / page_size())),
            Self::Bytes(bytes) => Some((bytes.as_mut_ptr() as u64, bytes.len())),
            Self::Region(region) => Some((region.addr(), region.len() / page_size())),
        }
    }
}

/// A `/dev/hmm_dmirror*` file, open for the address space of a process.
#[derive(Debug)]
pub struct Device {
    pub(crate) file: Arc<File>,
}

/// The size of a device's memory, and how much of it is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Number of all pages.
    pub pages: u64,
    /// Number of free pages, including those of free blocks.
    pub free_pages: u64,
    /// Number of all blocks of 2 MiB.
    pub blocks: u64,
    /// Number of blocks that are free as a whole.
    pub free_blocks: u64,
}

impl Device {
    /// Opens the device file at `path`.
    ///
    /// # Errors
    ///
    /// The error of opening a file for reading and writing: `NotFound` if the module is not loaded,
    /// `PermissionDenied`.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?.into();
        Ok(Self { file })
    }

    /// Returns the size of the device's memory and the free part, from `/proc/self/fdinfo`; `None`
    /// for a module that does not report them, such as test_hmm.
    ///
    /// # Errors
    ///
    /// The error of reading the file.
    pub fn room(&self) -> io::Result<Option<Room>> {
        let info = self.info()?;
        let number = |name: &str| {
            let value = info.lines().find_map(|line| line.strip_prefix(name))?;
            value.trim().parse().ok()
        };
        let room = || {
            Some(Room {
                pages: number("dmirror-pages:")?,
                free_pages: number("dmirror-free-pages:")?,
                blocks: number("dmirror-blocks:")?,
                free_blocks: number("dmirror-free-blocks:")?,
            })
        };
        Ok(room())
    }

    /// Returns the statistics of this open file, and how much it maps.
    ///
    /// # Errors
    ///
    /// The error of reading the file, or `InvalidData` on another module.
    pub fn stats(&self) -> io::Result<FileStats> {
        FileStats::parse(&self.info()?)
    }

    fn info(&self) -> io::Result<String> {
        fs::read_to_string(format!("/proc/self/fdinfo/{}", self.file.as_raw_fd()))
    }

    /// Moves the pages of `range` to the memory of the device, then copies the
    /// range to `view` as the device sees it.
    ///
    /// Holes and zero pages become zeroed device pages; pages that are already on the device stay
    /// there. [`Counts::pages`] is the number of pages of the range that are on the device and were
    /// copied.
    ///
    /// # Errors
    ///
    /// [`CallError`] with `EINVAL` (a part is not mapped, not readable, or never migrates),
    /// `ENOENT` (some page cannot move; the others moved), `ENOMEM`, `EFAULT`, `EINTR`.
    ///
    /// # Panics
    ///
    /// If `view` is shorter than `range`.
    pub fn migrate_to_device(
        &self,
        range: PageRange,
        view: &mut [u8],
    ) -> Result<Counts, CallError> {
        self.call_range(Command::MigrateToDevice, range, Buffer::Output(view))
    }

    /// Moves those pages of `range` that are on this device back to system memory.
    /// [`Counts::pages`] is the number of pages that moved back.
    ///
    /// # Errors
    ///
    /// [`CallError`] with `EINVAL` (a part is not mapped, not readable, or never migrates), `EBUSY`
    /// (some page stayed locked or referenced; the others moved back), `ENOMEM`, `EINTR`.
    pub fn migrate_to_system(&self, range: PageRange) -> Result<Counts, CallError> {
        self.call_range(Command::MigrateToSystem, range, Buffer::Null)
    }

    /// Makes the device read `range`, and returns the data in `view`. [`Counts::pages`] is the
    /// number of pages copied.
    ///
    /// # Errors
    ///
    /// [`CallError`] with `EFAULT` (a part cannot be read), `EBUSY` (a part kept changing),
    /// `ENOMEM`, `EINTR`.
    ///
    /// # Panics
    ///
    /// If `view` is shorter than `range`.
    pub fn read(&self, range: PageRange, view: &mut [u8]) -> Result<Counts, CallError> {
        self.call_range(Command::Read, range, Buffer::Output(view))
    }

    /// Does the same as [`read`](Self::read), without a time limit for faults that user space
    /// handles.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read).
    ///
    /// # Panics
    ///
    /// If `view` is shorter than `range`.
    pub fn read_unlocked(&self, range: PageRange, view: &mut [u8]) -> Result<Counts, CallError> {
        self.call_range(Command::ReadUnlocked, range, Buffer::Output(view))
    }

    /// Makes the device write `data` to `range`. [`Counts::pages`] is the number of pages written.
    ///
    /// # Errors
    ///
    /// [`CallError`] with `EPERM` (a part is not writable), `EFAULT` (a part is not mapped),
    /// `EBUSY` (a part kept changing), `ENOMEM`, `EINTR`.
    ///
    /// # Panics
    ///
    /// If `data` is shorter than `range`.
    pub fn write(&self, range: PageRange, data: &[u8]) -> Result<Counts, CallError> {
        self.call_range(Command::Write, range, Buffer::Input(data))
    }

    /// Returns how and where the pages of `range` are mapped, one byte per page; see [`prot`].
    ///
    /// # Errors
    ///
    /// [`CallError`] with `EBUSY` (the range kept changing), `ENOMEM`, `EINTR`.
    pub fn snapshot(&self, range: PageRange) -> Result<Vec<u8>, CallError> {
        let mut bytes = vec![0; range.pages() as usize];
        self.call_range(Command::Snapshot, range, Buffer::Bytes(&mut bytes))?;
        Ok(bytes)
    }

    /// Gives the device exclusive access to the pages of `range`, and returns their content, as the
    /// device sees it, in `view`. [`Counts::pages`] is the number of pages that became exclusive.
    ///
    /// # Errors
    ///
    /// [`CallError`] with `EFAULT` (a part is not writable), `EOPNOTSUPP` (a page is not
    /// anonymous), `EBUSY` (a page kept changing), `ENOMEM`, `EINTR`.
    ///
    /// # Panics
    ///
    /// If `view` is shorter than `range`.
    pub fn exclusive(&self, range: PageRange, view: &mut [u8]) -> Result<Counts, CallError> {
        self.call_range(Command::Exclusive, range, Buffer::Output(view))
    }

    /// Returns whether the device has exclusive access to a page of `range`.
    ///
    /// # Errors
    ///
    /// [`CallError`] with anything but `EPERM`, which means yes.
    pub fn is_exclusive(&self, range: PageRange) -> Result<bool, CallError> {
        match self.call_range(Command::CheckExclusive, range, Buffer::Null) {
            Ok(_) => Ok(false),
            Err(error) if error.errno == Errno::EPERM => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Moves everything on the device back to system memory, whoever owns it. [`Counts::pages`] is
    /// the number of pages that moved back.
    ///
    /// # Errors
    ///
    /// [`CallError`] with `EBUSY` (some page stayed), `ENOMEM`, `EIO`, `EINTR`.
    pub fn release(&self) -> Result<Counts, CallError> {
        // test_hmm requires a range, and ignores it.
        self.call(Command::Release, 0, 1, Buffer::Null)
    }

    /// Makes the next allocation of a page fail, once.
    ///
    /// # Errors
    ///
    /// A device of this ABI returns none.
    pub fn fail_next_allocation(&self) -> Result<(), CallError> {
        let flag = abi::DMIRROR_FLAG_FAIL_ALLOC.into();
        self.call(Command::Flags, 0, flag, Buffer::Null).map(drop)
    }

    /// Clears the flags of the device.
    ///
    /// # Errors
    ///
    /// [`CallError`] with `EINVAL` on test_hmm, which does not support it.
    pub fn clear_flags(&self) -> Result<(), CallError> {
        self.call(Command::Flags, 0, 0, Buffer::Null).map(drop)
    }

    /// Returns another descriptor of the same open file, for example for
    /// [`Options::shared_file`](crate::region::Options::shared_file) to map the device.
    ///
    /// # Errors
    ///
    /// The error of dup.
    pub fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    fn call_range(
        &self,
        command: Command,
        range: PageRange,
        buffer: Buffer<'_>,
    ) -> Result<Counts, CallError> {
        self.call(command, range.addr(), range.pages(), buffer)
    }

    /// Sends `command` for any address and number of pages, valid or not.
    ///
    /// # Errors
    ///
    /// [`CallError`] with any error of the kernel.
    ///
    /// # Panics
    ///
    /// If `buffer` is memory with room for less than `pages` pages.
    pub fn call(
        &self,
        command: Command,
        addr: u64,
        pages: u64,
        mut buffer: Buffer<'_>,
    ) -> Result<Counts, CallError> {
        // The kernel overwrites both in every reply that has counts.
        const UNTOUCHED: u64 = u64::MAX;
        let ptr = buffer.parts().map_or(0, |(ptr, room)| {
            let room = room as u64;
            assert!(
                pages <= room,
                "the buffer has room for {room} pages, not for {pages}"
            );
            ptr
        });
        let mut cmd = dmirror_cmd {
            addr,
            ptr,
            npages: pages,
            cpages: UNTOUCHED,
            faults: UNTOUCHED,
        };
        let answer = sys::ioctl(self.file.as_fd(), command.number(), &mut cmd);
        let counts = (cmd.cpages != UNTOUCHED).then_some(Counts {
            pages: cmd.cpages,
            faults: cmd.faults,
        });
        match answer {
            Ok(()) => Ok(counts.unwrap_or_default()),
            Err(errno) => Err(CallError {
                command,
                addr,
                pages,
                errno,
                counts,
            }),
        }
    }

    /// Sends a command whose struct lies at the start of `argument`, for example to test
    /// inaccessible memory or an unknown command number.
    ///
    /// `command` is the command's number in the ABI's series; `size` is the size of the struct in
    /// the request number, in bytes. The struct's pointer, if it has one, must be null.
    ///
    /// # Errors
    ///
    /// The error of the kernel; `E2BIG` if `argument` is shorter than `size`, `EADDRNOTAVAIL` if
    /// the struct's pointer is not null.
    pub fn call_at(&self, command: u32, size: usize, argument: &Region) -> Result<(), Errno> {
        sys::ioctl_at(self.file.as_fd(), command, size, argument.mapping())
    }

    /// Writes a struct for `range`, with a null pointer, to the start of `argument`, for
    /// [`Device::call_at`].
    pub fn prepare(argument: &Region, range: PageRange) {
        for (index, word) in [range.addr(), 0, range.pages(), 0, 0]
            .into_iter()
            .enumerate()
        {
            argument.store(index, word);
        }
    }

    /// The size of the ABI's struct in bytes.
    pub const STRUCT_SIZE: usize = size_of::<dmirror_cmd>();
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
