// SPDX-License-Identifier: GPL-2.0

//! Access to user memory of the current task that the kernel crate lacks.
//!
//! C headers: [`include/linux/pagemap.h`](srctree/include/linux/pagemap.h),
//! [`include/linux/uaccess.h`](srctree/include/linux/uaccess.h).

use kernel::{prelude::*, uaccess::UserPtr};

use crate::bindings;

/// Faults in `len` bytes of user memory for reading, and returns whether all of them are present.
/// They may be gone again when this returns.
///
/// May sleep, without a bound if user space handles a fault (userfaultfd). The caller must hold
/// neither the `mmap_lock`, nor a folio lock, nor the update lock of a view.
///
/// C function: `fault_in_readable()`.
pub fn fault_in_readable(from: UserPtr, len: usize) -> bool {
    // SAFETY: The C function checks the address. It may sleep here, as the doc comment demands of
    // the callers and the kernel checks.
    let missing = unsafe { bindings::fault_in_readable(from.as_const_ptr().cast(), len) };
    missing == 0
}

/// Copies `data` to user memory of the current task. Unlike the kernel crate's writer, this skips
/// C's check of the object that the data lies in, which costs more than copying a few bytes: the
/// slice already guarantees the length.
///
/// May sleep as [`fault_in_readable`] does, and makes the same demands on the caller.
///
/// # Errors
///
/// [`EFAULT`] when not all of the data could be written.
///
/// C function: `_copy_to_user()`.
pub fn write_slice(to: UserPtr, data: &[u8]) -> Result {
    // SAFETY: The slice has that many readable bytes; the C function checks the user address.
    let missing =
        unsafe { bindings::_copy_to_user(to.as_mut_ptr(), data.as_ptr().cast(), data.len()) };
    if missing == 0 {
        Ok(())
    } else {
        Err(EFAULT)
    }
}
