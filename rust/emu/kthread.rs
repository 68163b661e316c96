// SPDX-License-Identifier: GPL-2.0

//! Kernel threads that can be interrupted.
//!
//! C headers: [`include/linux/kthread.h`](srctree/include/linux/kthread.h),
//! [`include/linux/sched/signal.h`](srctree/include/linux/sched/signal.h).
//!
//! Such a thread may wait for user space, for example for a userfaultfd to handle a fault. A fatal
//! signal ends such a wait. No program can send one to a kernel thread, but the owner of the thread
//! can, with [`Kthread::interrupt`].

use core::{marker::PhantomData, ptr::NonNull};

use kernel::{
    error::from_err_ptr,
    ffi::{c_int, c_void},
    prelude::*,
    types::ForeignOwnable,
};

use crate::bindings;

/// The code of a thread.
pub trait KthreadBody: Send + 'static {
    /// Runs in the thread, once. Dropping the [`Kthread`] waits until this returns; the code that
    /// drops it must tell this to return.
    fn run(self);
}

/// A kernel thread. Dropping it waits for the end of the thread.
///
/// # Invariants
///
/// `task` is a thread created by `kthread_run()`, and we own a reference to it. `body` is the
/// argument of the thread, and belongs to the thread once it has begun to run `main`.
pub struct Kthread<T: KthreadBody> {
    task: NonNull<bindings::task_struct>,
    body: *mut c_void,
    _body: PhantomData<KBox<T>>,
}

// SAFETY: Any thread may interrupt and stop another one; the body is `Send`.
unsafe impl<T: KthreadBody> Send for Kthread<T> {}
// SAFETY: A shared reference offers only `interrupt`, which C synchronises.
unsafe impl<T: KthreadBody> Sync for Kthread<T> {}

impl<T: KthreadBody> Kthread<T> {
    /// Creates and starts a thread named `name`.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]; [`EINTR`] when a fatal signal arrived.
    ///
    /// C function: `kthread_run()`.
    pub fn new(name: &CStr, body: T) -> Result<Self> {
        let body = KBox::new(body, GFP_KERNEL)?.into_foreign();
        // SAFETY: C calls the function at most once, with the argument that it expects; the name is
        // a C string, which C copies.
        let task = unsafe { bindings::kthread_run(Some(Self::main), body, name.as_char_ptr()) };
        match from_err_ptr(task).and_then(|task| NonNull::new(task).ok_or(ENOMEM)) {
            // INVARIANT: `kthread_run()` has just created the task.
            Ok(task) => Ok(Self {
                task,
                body,
                _body: PhantomData,
            }),
            Err(error) => {
                // SAFETY: The pointer came from the box above, and no thread received it.
                drop(unsafe { KBox::<T>::from_foreign(body) });
                Err(error)
            }
        }
    }

    /// Ends any wait of the thread that a fatal signal would end. The thread can check for it with
    /// [`fatal_signal_pending`](crate::sched::fatal_signal_pending), until it calls
    /// [`clear_interrupt`].
    ///
    /// Does not sleep.
    ///
    /// C function: `send_sig()`.
    pub fn interrupt(&self) {
        // SAFETY: We own a reference to the task, by the type invariant.
        unsafe { bindings::send_sigkill(self.task.as_ptr()) };
    }

    /// # Safety
    ///
    /// `body` is a `KBox<T>` in foreign form, and this function takes ownership of it.
    unsafe extern "C" fn main(body: *mut c_void) -> c_int {
        // SAFETY: `body` is a `KBox<T>` that belongs to this function, by the safety requirement.
        let body = unsafe { KBox::<T>::from_foreign(body) };
        // SAFETY: The function changes the current task, which is this kernel thread.
        unsafe { bindings::allow_sigkill() };
        KBox::into_inner(body).run();
        0
    }
}

impl<T: KthreadBody> Drop for Kthread<T> {
    /// Waits until the thread has ended.
    ///
    /// May sleep. C function: `kthread_stop_put()`.
    fn drop(&mut self) {
        // SAFETY: We own the reference to the task, by the type invariant, and give it up here.
        let ended = unsafe { bindings::kthread_stop_put(self.task.as_ptr()) };
        if ended != 0 {
            // The thread was stopped before it began: C has not called `main`, which returns 0.
            // SAFETY: The box was created for `main`, which will not be called any more.
            drop(unsafe { KBox::<T>::from_foreign(self.body) });
        }
    }
}

/// Discards a pending interrupt. Does nothing in a thread that is not a kernel thread.
///
/// Does not sleep.
///
/// C function: `flush_signals()`.
pub fn clear_interrupt() {
    // SAFETY: `current` is always a valid task.
    unsafe { bindings::flush_signals() };
}
