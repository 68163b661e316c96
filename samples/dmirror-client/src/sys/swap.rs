// SPDX-License-Identifier: GPL-2.0

//! swapon and swapoff.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

/// Has the kernel swap to `path`.
pub(crate) fn on(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path is a string that ends with a null byte.
    let answer = unsafe { libc::swapon(path.as_ptr(), 0) };
    Errno::result(answer)?;
    Ok(())
}

/// Has the kernel bring back what it swapped to `path`, and let go of it.
pub(crate) fn off(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: as in `on`.
    let answer = unsafe { libc::swapoff(path.as_ptr()) };
    Errno::result(answer)?;
    Ok(())
}
