// SPDX-License-Identifier: GPL-2.0

//! userfaultfd(2) and its ioctls.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;

use linux_raw_sys::general as raw;
use nix::errno::Errno;
use nix::libc;
use nix::libc::c_ulong;

use super::Mapping;

/// A struct for an ioctl of userfaultfd. It refers only to memory of this program that [`Mapping`]s
/// own.
trait Argument {
    const REQUEST: c_ulong;
}

macro_rules! arguments {
    ($($name:ident = $nr:expr;)*) => {
        $(impl Argument for raw::$name {
            const REQUEST: c_ulong =
                nix::request_code_readwrite!(raw::UFFDIO, $nr, size_of::<raw::$name>());
        })*
    };
}

arguments! {
    uffdio_api = raw::_UFFDIO_API;
    uffdio_register = raw::_UFFDIO_REGISTER;
    uffdio_copy = raw::_UFFDIO_COPY;
    uffdio_zeropage = raw::_UFFDIO_ZEROPAGE;
    uffdio_move = raw::_UFFDIO_MOVE;
    uffdio_writeprotect = raw::_UFFDIO_WRITEPROTECT;
}

/// Opens a non-blocking userfaultfd.
pub(crate) fn open() -> io::Result<OwnedFd> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: The system call takes an integer and accesses no memory.
    let answer = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    let fd = Errno::result(answer)?;
    // SAFETY: The kernel has just created this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn ioctl<T: Argument>(uffd: BorrowedFd<'_>, argument: &mut T) -> Result<(), Errno> {
    // SAFETY: The request number matches a struct of this type, and the functions below fill it
    // only with addresses in mappings, where any content is valid.
    let answer = unsafe { libc::ioctl(uffd.as_raw_fd(), T::REQUEST, argument) };
    Errno::result(answer).map(drop)
}

/// Negotiates the version and `features`.
pub(crate) fn api(uffd: BorrowedFd<'_>, features: u32) -> Result<(), Errno> {
    let mut argument = raw::uffdio_api {
        api: raw::UFFD_API.into(),
        features: features.into(),
        ioctls: 0,
    };
    ioctl(uffd, &mut argument)
}

fn range(mapping: &Mapping, offset: usize, len: usize) -> raw::uffdio_range {
    raw::uffdio_range {
        start: mapping.at(offset, len).as_ptr() as u64,
        len: len as u64,
    }
}

/// Registers a part of a mapping.
pub(crate) fn register(
    uffd: BorrowedFd<'_>,
    mapping: &Mapping,
    offset: usize,
    len: usize,
    mode: u32,
) -> Result<(), Errno> {
    let mut argument = raw::uffdio_register {
        range: range(mapping, offset, len),
        mode: mode.into(),
        ioctls: 0,
    };
    ioctl(uffd, &mut argument)
}

/// Fills holes with copies of `bytes`, which are whole pages; returns the number of bytes copied.
pub(crate) fn copy(
    uffd: BorrowedFd<'_>,
    mapping: &Mapping,
    offset: usize,
    bytes: &[u8],
) -> Result<usize, Errno> {
    let mut argument = raw::uffdio_copy {
        dst: range(mapping, offset, bytes.len()).start,
        src: bytes.as_ptr() as u64,
        len: bytes.len() as u64,
        mode: 0,
        copy: 0,
    };
    ioctl(uffd, &mut argument)?;
    Ok(argument.copy as usize)
}

/// Fills holes with zero pages.
pub(crate) fn zero(
    uffd: BorrowedFd<'_>,
    mapping: &Mapping,
    offset: usize,
    len: usize,
) -> Result<(), Errno> {
    let mut argument = raw::uffdio_zeropage {
        range: range(mapping, offset, len),
        mode: 0,
        zeropage: 0,
    };
    ioctl(uffd, &mut argument)
}

/// Moves pages from one mapping to holes of another; returns the number of bytes moved.
pub(crate) fn move_pages(
    uffd: BorrowedFd<'_>,
    from: (&Mapping, usize),
    to: (&Mapping, usize),
    len: usize,
) -> Result<usize, Errno> {
    let mut argument = raw::uffdio_move {
        dst: range(to.0, to.1, len).start,
        src: range(from.0, from.1, len).start,
        len: len as u64,
        mode: 0,
        move_: 0,
    };
    ioctl(uffd, &mut argument)?;
    Ok(argument.move_ as usize)
}

/// Write-protects pages, or removes the protection.
pub(crate) fn protect(
    uffd: BorrowedFd<'_>,
    mapping: &Mapping,
    offset: usize,
    len: usize,
    mode: u64,
) -> Result<(), Errno> {
    let mut argument = raw::uffdio_writeprotect {
        range: range(mapping, offset, len),
        mode,
    };
    ioctl(uffd, &mut argument)
}

/// Returns the next message, if there is one: the event, and the flags and the address of a fault.
pub(crate) fn message(uffd: BorrowedFd<'_>) -> Result<Option<(u8, u64, u64)>, Errno> {
    let mut message = MaybeUninit::<raw::uffd_msg>::zeroed();
    let len = size_of::<raw::uffd_msg>();
    // SAFETY: The buffer has room for `len` bytes.
    let answer = unsafe { libc::read(uffd.as_raw_fd(), message.as_mut_ptr().cast(), len) };
    match Errno::result(answer) {
        Err(Errno::EAGAIN) => return Ok(None),
        answer => answer?,
    };
    // SAFETY: The message consists of integers, for which any content is valid.
    let message = unsafe { message.assume_init() };
    let arg = message.arg;
    // SAFETY: All members of the union are integers.
    let fault = unsafe { arg.pagefault };
    Ok(Some((message.event, fault.flags, fault.address)))
}
