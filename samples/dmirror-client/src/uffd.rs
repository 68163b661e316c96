// SPDX-License-Identifier: GPL-2.0

//! Faults answered by the program itself: userfaultfd(2).

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

/// Which faults of a registered range are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Those on holes.
    Missing,
    /// Writes to pages that [`Uffd::protect`] has protected.
    WriteProtect,
    /// Both.
    Both,
}

/// A fault that waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The page-aligned address.
    pub addr: u64,
    /// Whether it is a write.
    pub write: bool,
    /// Whether it is a write to a protected page.
    pub protected: bool,
}

/// A userfaultfd.
#[derive(Debug)]
pub struct Uffd(OwnedFd);

impl Uffd {
    /// Opens one.
    ///
    /// # Errors
    ///
    /// `EPERM` where only root may answer faults of the kernel, `ENOSYS` or
    /// `EINVAL` where the kernel lacks a feature that this uses.
    pub fn new() -> io::Result<Self> {
        let fd = uffd::open()?;
        let features = raw::UFFD_FEATURE_PAGEFAULT_FLAG_WP | raw::UFFD_FEATURE_MOVE;
        uffd::api(fd.as_fd(), features)?;
        Ok(Self(fd))
    }

    /// Has faults on pages of `region` reported.
    ///
    /// # Errors
    ///
    /// What `UFFDIO_REGISTER` fails with.
    pub fn register(&self, region: &Region, pages: Range<usize>, mode: Mode) -> Result<(), Errno> {
        let mode = match mode {
            Mode::Missing => raw::UFFDIO_REGISTER_MODE_MISSING,
            Mode::WriteProtect => raw::UFFDIO_REGISTER_MODE_WP,
            Mode::Both => raw::UFFDIO_REGISTER_MODE_MISSING | raw::UFFDIO_REGISTER_MODE_WP,
        };
        let (offset, len) = bytes_of(pages);
        uffd::register(self.0.as_fd(), region.mapping(), offset, len, mode)
    }

    /// Fills holes of `region` from page `page` on with copies of `bytes`, whole
    /// pages, and wakes who waits for them; returns the pages copied.
    ///
    /// # Errors
    ///
    /// What `UFFDIO_COPY` fails with: `EEXIST` where there is a page.
    pub fn copy(&self, region: &Region, page: usize, bytes: &[u8]) -> Result<usize, Errno> {
        let offset = page * page_size();
        Ok(uffd::copy(self.0.as_fd(), region.mapping(), offset, bytes)? / page_size())
    }

    /// Fills holes of `region` with zeroes, and wakes who waits for them.
    ///
    /// # Errors
    ///
    /// What `UFFDIO_ZEROPAGE` fails with: `EEXIST` where there is a page.
    pub fn zero(&self, region: &Region, pages: Range<usize>) -> Result<(), Errno> {
        let (offset, len) = bytes_of(pages);
        uffd::zero(self.0.as_fd(), region.mapping(), offset, len)
    }

    /// Moves pages of `from` to holes of `to`, from page `page` on, and wakes who
    /// waits for them; returns the pages moved.
    ///
    /// # Errors
    ///
    /// What `UFFDIO_MOVE` fails with.
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

    /// Protects pages of `region` against writing; or takes the protection off
    /// and wakes who waits for that.
    ///
    /// # Errors
    ///
    /// What `UFFDIO_WRITEPROTECT` fails with.
    pub fn protect(&self, region: &Region, pages: Range<usize>, on: bool) -> Result<(), Errno> {
        // UFFDIO_WRITEPROTECT_MODE_WP of the kernel's header.
        let mode = u64::from(on);
        let (offset, len) = bytes_of(pages);
        uffd::protect(self.0.as_fd(), region.mapping(), offset, len, mode)
    }

    /// Waits for a fault, `limit` at most.
    ///
    /// # Errors
    ///
    /// What poll and reading fail with.
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
