// SPDX-License-Identifier: GPL-2.0

//! Faults that the program itself handles: userfaultfd(2).

use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::time::Duration;

use linux_raw_sys::general as raw;
use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;

use crate::range::page_size;
use crate::region::Region;
use crate::sys::uffd;

/// The faults of a registered range that are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Faults on holes.
    Missing,
    /// Writes to pages that [`Uffd::protect`] has protected.
    WriteProtect,
    /// Both.
    Both,
}

/// A fault that waits to be handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The page-aligned address.
    pub addr: u64,
    /// Set if it is a write.
    pub write: bool,
    /// Set if it is a write to a protected page.
    pub protected: bool,
}

/// A userfaultfd.
#[derive(Debug)]
pub struct Uffd(OwnedFd);

impl Uffd {
    /// Opens a userfaultfd.
    ///
    /// # Errors
    ///
    /// `EPERM` if only root may handle faults of the kernel; `ENOSYS` or `EINVAL` if the kernel
    /// lacks a required feature.
    pub fn new() -> io::Result<Self> {
        let fd = uffd::open()?;
        let features = raw::UFFD_FEATURE_PAGEFAULT_FLAG_WP | raw::UFFD_FEATURE_MOVE;
        uffd::api(fd.as_fd(), features)?;
        Ok(Self(fd))
    }

    /// Makes the kernel report faults on pages of `region`.
    ///
    /// # Errors
    ///
    /// The error of `UFFDIO_REGISTER`.
    pub fn register(&self, region: &Region, pages: Range<usize>, mode: Mode) -> Result<(), Errno> {
        let mode = match mode {
            Mode::Missing => raw::UFFDIO_REGISTER_MODE_MISSING,
            Mode::WriteProtect => raw::UFFDIO_REGISTER_MODE_WP,
            Mode::Both => raw::UFFDIO_REGISTER_MODE_MISSING | raw::UFFDIO_REGISTER_MODE_WP,
        };
        let (offset, len) = bytes_of(pages);
        uffd::register(self.0.as_fd(), region.mapping(), offset, len, mode)
    }

    /// Fills holes of `region` from page `page` on with copies of `bytes`, which are whole pages,
    /// and wakes the waiting threads; returns the number of pages copied.
    ///
    /// # Errors
    ///
    /// The error of `UFFDIO_COPY`: `EEXIST` if there is a page already.
    pub fn copy(&self, region: &Region, page: usize, bytes: &[u8]) -> Result<usize, Errno> {
        let offset = page * page_size();
        Ok(uffd::copy(self.0.as_fd(), region.mapping(), offset, bytes)? / page_size())
    }

    /// Fills holes of `region` with zeros, and wakes the waiting threads.
    ///
    /// # Errors
    ///
    /// The error of `UFFDIO_ZEROPAGE`: `EEXIST` if there is a page already.
    pub fn zero(&self, region: &Region, pages: Range<usize>) -> Result<(), Errno> {
        let (offset, len) = bytes_of(pages);
        uffd::zero(self.0.as_fd(), region.mapping(), offset, len)
    }

    /// Moves pages of `from` to holes of `to`, from page `page` on, and wakes the waiting threads;
    /// returns the number of pages moved.
    ///
    /// # Errors
    ///
    /// The error of `UFFDIO_MOVE`.
    pub fn move_pages(
        &self,
        from: &Region,
        pages: Range<usize>,
        to: &Region,
        page: usize,
    ) -> Result<usize, Errno> {
        let (offset, len) = bytes_of(pages);
        let target = (to.mapping(), page * page_size());
        let moved = uffd::move_pages(self.0.as_fd(), (from.mapping(), offset), target, len)?;
        Ok(moved / page_size())
    }

    /// Write-protects pages of `region`; or removes the protection and wakes the threads that wait
    /// for that.
    ///
    /// # Errors
    ///
    /// The error of `UFFDIO_WRITEPROTECT`.
    pub fn protect(&self, region: &Region, pages: Range<usize>, on: bool) -> Result<(), Errno> {
        // UFFDIO_WRITEPROTECT_MODE_WP of the kernel's header.
        let mode = u64::from(on);
        let (offset, len) = bytes_of(pages);
        uffd::protect(self.0.as_fd(), region.mapping(), offset, len, mode)
    }

    /// Waits for a fault, at most for `limit`.
    ///
    /// # Errors
    ///
    /// The error of poll, or of reading.
    pub fn wait(&self, limit: Duration) -> Result<Option<Fault>, Errno> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(
            &mut fds,
            PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX),
        )?;
        let message = uffd::message(self.0.as_fd())?;
        Ok(message
            .filter(|(event, ..)| u32::from(*event) == raw::UFFD_EVENT_PAGEFAULT)
            .map(|(_, flags, addr)| Fault {
                addr,
                write: flags & u64::from(raw::UFFD_PAGEFAULT_FLAG_WRITE) != 0,
                protected: flags & u64::from(raw::UFFD_PAGEFAULT_FLAG_WP) != 0,
            }))
    }
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn bytes_of(pages: Range<usize>) -> (usize, usize) {
    (pages.start * page_size(), pages.len() * page_size())
}
