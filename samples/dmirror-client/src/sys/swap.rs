// SPDX-License-Identifier: GPL-2.0

//! swapon and swapoff.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

/// Makes the kernel swap to `path`.
pub(crate) fn on(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: The path is a C string.
    let answer = unsafe { libc::swapon(path.as_ptr(), 0) };
    Errno::result(answer)?;
    Ok(())
}

/// Makes the kernel move swapped pages back from `path`, and stop using it.
pub(crate) fn off(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: The path is a C string.
    let answer = unsafe { libc::swapoff(path.as_ptr()) };
    Errno::result(answer)?;
    Ok(())
}
