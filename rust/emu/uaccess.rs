// SPDX-License-Identifier: GPL-2.0

//! User memory of the current task, besides what the kernel crate has.
//!
//! C header: [`include/linux/pagemap.h`](srctree/include/linux/pagemap.h).

use kernel::uaccess::UserPtr;

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
