// SPDX-License-Identifier: GPL-2.0

//! Telling user space that something has happened, by an eventfd.
//!
//! C header: [`include/linux/eventfd.h`](srctree/include/linux/eventfd.h).

use core::ptr::NonNull;

use kernel::{error::from_err_ptr, prelude::*};

use crate::bindings;

/// An eventfd.
///
/// # Invariants
///
/// There is a reference to the context, which is given up on drop.
pub struct Eventfd(NonNull<bindings::eventfd_ctx>);

// SAFETY: C synchronises what is done with a context.
unsafe impl Send for Eventfd {}
// SAFETY: C synchronises what is done with a context.
unsafe impl Sync for Eventfd {}

impl Eventfd {
    /// Returns the eventfd that a descriptor of the current task is for.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EBADF`] when it is no open file; [`EINVAL`] when that is no eventfd.
    ///
    /// C function: `eventfd_ctx_fdget()`.
    pub fn from_fd(fd: i32) -> Result<Self> {
        // SAFETY: The C function checks the descriptor.
        let context = from_err_ptr(unsafe { bindings::eventfd_ctx_fdget(fd) })?;
        // INVARIANT: C has given a reference.
        NonNull::new(context).map(Self).ok_or(EINVAL)
    }

    /// Adds 1 to its counter, and wakes those who wait for that.
    ///
    /// Does not sleep.
    ///
    /// C function: `eventfd_signal()`.
    pub fn signal(&self) {
        // SAFETY: The context is valid, by the type invariant.
        unsafe { bindings::eventfd_signal(self.0.as_ptr()) };
    }
}

impl Drop for Eventfd {
    fn drop(&mut self) {
        // SAFETY: The reference is given up once.
        unsafe { bindings::eventfd_ctx_put(self.0.as_ptr()) };
    }
}
