// SPDX-License-Identifier: GPL-2.0

//! Event notification to user space through an eventfd.
//!
//! C header: [`include/linux/eventfd.h`](srctree/include/linux/eventfd.h).

use core::ptr::NonNull;

use kernel::{error::from_err_ptr, prelude::*};

use crate::bindings;

/// An eventfd.
///
/// # Invariants
///
/// We own a reference to the context.
pub struct Eventfd(NonNull<bindings::eventfd_ctx>);

// SAFETY: C synchronises all uses of a context.
unsafe impl Send for Eventfd {}
// SAFETY: C synchronises all uses of a context.
unsafe impl Sync for Eventfd {}

impl Eventfd {
    /// Returns the eventfd behind a descriptor of the current task.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EBADF`] when the descriptor is not open; [`EINVAL`] when it is not an eventfd.
    ///
    /// C function: `eventfd_ctx_fdget()`.
    pub fn from_fd(fd: i32) -> Result<Self> {
        // SAFETY: The C function checks the descriptor.
        let context = from_err_ptr(unsafe { bindings::eventfd_ctx_fdget(fd) })?;
        // INVARIANT: The C function has returned a reference.
        NonNull::new(context).map(Self).ok_or(EINVAL)
    }

    /// Adds 1 to the counter, and wakes the waiters.
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
        // SAFETY: The reference is ours, by the type invariant, and is put once.
        unsafe { bindings::eventfd_ctx_put(self.0.as_ptr()) };
    }
}
