// SPDX-License-Identifier: GPL-2.0

//! Threads of the kernel that can be interrupted.
//!
//! C headers: [`include/linux/kthread.h`](srctree/include/linux/kthread.h),
//! [`include/linux/sched/signal.h`](srctree/include/linux/sched/signal.h).
//!
//! What such a thread waits for may be up to user space: a fault that a userfaultfd answers. A wait
//! of that kind ends for a fatal signal. No program can send one to a thread of the kernel; who
//! owns the thread can, by [`Kthread::interrupt`].

use core::{marker::PhantomData, ptr::NonNull};

use kernel::{
    error::from_err_ptr,
    ffi::{c_int, c_void},
    prelude::*,
    types::ForeignOwnable,
};

use crate::bindings;

/// What a thread does.
pub trait KthreadBody: Send + 'static {
    /// Runs in the thread, once. Whoever drops the [`Kthread`] waits until it returns, and has to
    /// tell it to.
    fn run(self);
}

/// A thread, until drop, which waits for its end.
///
/// # Invariants
///
/// `task` is a thread that `kthread_run()` has made, with a reference. `body` is what it was given,
/// which belongs to the thread once that has begun to run it.
pub struct Kthread<T: KthreadBody> {
    task: NonNull<bindings::task_struct>,
    body: *mut c_void,
    _body: PhantomData<KBox<T>>,
}

// SAFETY: Any thread may interrupt and stop another one; the body is `Send`.
unsafe impl<T: KthreadBody> Send for Kthread<T> {}
// SAFETY: `interrupt` is all that a shared reference offers, which C synchronises.
unsafe impl<T: KthreadBody> Sync for Kthread<T> {}

impl<T: KthreadBody> Kthread<T> {
    /// Starts a thread with a name.
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
        // SAFETY: The function is called with what it is made for, at most once; the name is a
        // string of C, which C copies.
        let task = unsafe { bindings::kthread_run(Some(Self::main), body, name.as_char_ptr()) };
        match from_err_ptr(task).and_then(|task| NonNull::new(task).ok_or(ENOMEM)) {
            // INVARIANT: It was just made.
            Ok(task) => Ok(Self {
                task,
                body,
                _body: PhantomData,
            }),
            Err(error) => {
                // SAFETY: The pointer is that of the box, which nobody was given.
                drop(unsafe { KBox::<T>::from_foreign(body) });
                Err(error)
            }
        }
    }

    /// Ends what the thread waits for, if a fatal signal would end it. The thread sees that by
    /// [`fatal_signal_pending`](crate::sched::fatal_signal_pending), until it calls
    /// [`clear_interrupt`].
    ///
    /// Does not sleep.
    ///
    /// C function: `send_sig()`.
    pub fn interrupt(&self) {
        // SAFETY: There is a reference to the task, by the type invariant.
        unsafe { bindings::send_sigkill(self.task.as_ptr()) };
    }

    /// # Safety
    ///
    /// `body` is a `KBox<T>`, which belongs to this.
    unsafe extern "C" fn main(body: *mut c_void) -> c_int {
        // SAFETY: By the safety requirement.
        let body = unsafe { KBox::<T>::from_foreign(body) };
        // SAFETY: This is the thread itself.
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
        // SAFETY: The reference to the task is this one's, and given up here.
        let ended = unsafe { bindings::kthread_stop_put(self.task.as_ptr()) };
        if ended != 0 {
            // The thread was stopped before it began: C has not called `main`, which returns 0.
            // SAFETY: The box was made for `main`, which will not be called any more.
            drop(unsafe { KBox::<T>::from_foreign(self.body) });
        }
    }
}

/// Forgets an interrupt. In another thread than one of the kernel, does nothing.
///
/// Does not sleep.
///
/// C function: `flush_signals()`.
pub fn clear_interrupt() {
    // SAFETY: `current` is always valid.
    unsafe { bindings::flush_signals() };
}
