// SPDX-License-Identifier: GPL-2.0

//! Reads and writes through io_uring.

use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;

use io_uring::IoUring;
use io_uring::opcode;
use io_uring::types::Fd;
use nix::libc;

use crate::region::Region;

/// An operation of a [`Ring`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// Read from the file to memory.
    Read,
    /// Write memory to the file.
    Write,
    /// Like `Read`, to the registered buffer.
    ReadFixed,
    /// Like `Write`, from the registered buffer.
    WriteFixed,
}

/// An io_uring with one operation at a time.
pub struct Ring(IoUring);

impl Ring {
    /// Creates an io_uring.
    ///
    /// # Errors
    ///
    /// The error of io_uring_setup: `ENOSYS` or `EPERM` if it is not available.
    pub fn new() -> io::Result<Self> {
        IoUring::new(4).map(Self)
    }

    /// Registers `region` as the buffer of [`Transfer::ReadFixed`] and [`Transfer::WriteFixed`]:
    /// the kernel pins its pages.
    ///
    /// # Errors
    ///
    /// The error of io_uring_register.
    pub fn register(&self, region: &Region) -> io::Result<()> {
        let buffer = libc::iovec {
            iov_base: region.addr() as *mut libc::c_void,
            iov_len: region.len(),
        };
        // SAFETY: The pinned pages belong to the region. If the region is unmapped before the
        // buffer is used, the kernel accesses those pages, not what is mapped in their place.
        unsafe { self.0.submitter().register_buffers(&[buffer]) }
    }

    /// Removes the registration.
    ///
    /// # Errors
    ///
    /// The error of io_uring_register: `ENXIO` if there is no registration.
    pub fn unregister(&self) -> io::Result<()> {
        self.0.submitter().unregister_buffers()
    }

    /// Transfers the bytes of `pages` of `region` from or to `file` at `offset`, and waits until
    /// that is done. Returns the number of bytes.
    ///
    /// # Errors
    ///
    /// The error of the operation.
    ///
    /// # Panics
    ///
    /// If not all of the pages are inside the region.
    pub fn transfer(
        &mut self,
        transfer: Transfer,
        file: BorrowedFd<'_>,
        region: &Region,
        pages: Range<usize>,
        offset: u64,
    ) -> io::Result<usize> {
        let (fd, part) = (Fd(file.as_raw_fd()), region.part(pages));
        let (at, len) = (part.addr() as *mut u8, part.bytes() as u32);
        let entry = match transfer {
            Transfer::Read => opcode::Read::new(fd, at, len).offset(offset).build(),
            Transfer::Write => opcode::Write::new(fd, at, len).offset(offset).build(),
            Transfer::ReadFixed => opcode::ReadFixed::new(fd, at, len, 0)
                .offset(offset)
                .build(),
            Transfer::WriteFixed => opcode::WriteFixed::new(fd, at, len, 0)
                .offset(offset)
                .build(),
        };
        // SAFETY: The memory belongs to the region, which may have any content. Both the region and
        // the file are borrowed until the operation has completed, below.
        unsafe { self.0.submission().push(&entry) }.map_err(io::Error::other)?;
        loop {
            // An error may arrive after the kernel has accepted the operation: only the completion
            // shows that it no longer uses the memory.
            let answer = self.0.submit_and_wait(1);
            if let Some(completion) = self.0.completion().next() {
                let result = completion.result();
                return usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
            }
            match answer {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    eprintln!("an operation of io_uring is neither done nor refused: {error}");
                    // Unwinding would free the memory.
                    std::process::abort()
                }
                _ => {}
            }
        }
    }
}
