// SPDX-License-Identifier: GPL-2.0

//! User memory of the current task, besides what the kernel crate has.
//!
//! C headers: [`include/linux/pagemap.h`](srctree/include/linux/pagemap.h),
//! [`include/linux/uaccess.h`](srctree/include/linux/uaccess.h).

use kernel::{prelude::*, uaccess::UserPtr};

use crate::bindings;

/// Faults in `len` bytes of user memory for reading, and returns whether all of them are there.
/// They may be gone again when this returns.
///
/// May sleep, for as long as user space wants where a fault is answered there; the caller holds
/// neither the `mmap_lock`, nor a folio lock, nor the update lock of a view.
///
/// C function: `fault_in_readable()`.
pub fn fault_in_readable(from: UserPtr, len: usize) -> bool {
    // SAFETY: The C function checks the address; by the doc comment it may sleep here, which the
    // kernel checks.
    let missing = unsafe { bindings::fault_in_readable(from.as_const_ptr().cast(), len) };
    missing == 0
}

/// Copies `data` to user memory of the current task. Unlike the writer of the kernel crate it does
/// not have C look what memory the data is in, which costs more than copying a few bytes: that they
/// are bytes, and how many, says the slice.
///
/// May sleep, as [`fault_in_readable`] does, with the same demands on the caller.
///
/// # Errors
///
/// [`EFAULT`] when not all of it could be written.
///
/// C function: `_copy_to_user()`.
pub fn write_slice(to: UserPtr, data: &[u8]) -> Result {
    // SAFETY: The slice has that many bytes, which may be read; the C function checks the address
    // of user space.
    let missing =
        unsafe { bindings::_copy_to_user(to.as_mut_ptr(), data.as_ptr().cast(), data.len()) };
    if missing == 0 {
        Ok(())
    } else {
        Err(EFAULT)
    }
}
