// SPDX-License-Identifier: GPL-2.0

//! A lock that readers share.
//!
//! C header: [`include/linux/rwsem.h`](srctree/include/linux/rwsem.h),
//! source: [`kernel/locking/rwsem.c`](srctree/kernel/locking/rwsem.c).
//!
//! The kernel crate has none. Nobody starves: a reader that comes while somebody waits queues
//! behind.

use core::{
    cell::UnsafeCell,
    ops::{Deref, DerefMut},
};

use kernel::{
    prelude::*,
    sync::LockClassKey,
    types::{NotThreadSafe, Opaque},
};
use pin_init::Wrapper;

use crate::bindings;

/// A value under a lock that either several readers hold, or one writer.
///
/// A task takes it once at a time, for reading too: a writer that waits in between would wait for
/// ever, and the task with it. Lockdep says so.
///
/// C type: `struct rw_semaphore`.
///
/// # Invariants
///
/// `raw` is initialised, and stays where it is.
///
/// # Examples
///
/// ```
/// # use hmm::rwsem::RwSemaphore;
/// fn add(numbers: &RwSemaphore<[u32; 2]>) -> u32 {
///     let mut guard = numbers.write();
///     guard[0] += 1;
///     // Nobody writes in between.
///     let guard = guard.downgrade();
///     guard[0] + guard[1]
/// }
/// ```
#[pin_data]
pub struct RwSemaphore<T> {
    #[pin]
    raw: Opaque<bindings::rw_semaphore>,
    #[pin]
    value: UnsafeCell<T>,
}

// SAFETY: The semaphore may be moved to another thread before it is pinned, and used by any after
// that; the value goes with it.
unsafe impl<T: Send> Send for RwSemaphore<T> {}
// SAFETY: Threads that write hand the value on to one another, so that it must be `Send`; threads
// that read have it at the same time, so that it must be `Sync`. The semaphore keeps them apart.
unsafe impl<T: Send + Sync> Sync for RwSemaphore<T> {}

impl<T> RwSemaphore<T> {
    /// Makes a semaphore that nobody holds. `name` and `key` are what lockdep calls its class.
    pub fn new(
        value: impl PinInit<T>,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        // INVARIANT: The C function initialises it, and it is pinned from then on.
        pin_init!(Self {
            // SAFETY: `slot` is valid while the closure is called, and stays in place, as the type
            // is pinned; the name and the key live for ever.
            raw <- Opaque::ffi_init(|slot| unsafe {
                bindings::__init_rwsem(slot, name.as_char_ptr(), key.as_ptr())
            }),
            value <- UnsafeCell::pin_init(value),
        })
    }

    /// Takes it for reading, together with others.
    ///
    /// May sleep.
    ///
    /// C function: `down_read()`.
    pub fn read(&self) -> ReadGuard<'_, T> {
        // SAFETY: The semaphore is initialised, by the type invariant.
        unsafe { bindings::down_read(self.raw.get()) };
        // INVARIANT: It was taken for reading just now.
        ReadGuard {
            semaphore: self,
            _not_send: NotThreadSafe,
        }
    }

    /// Takes it for writing, alone.
    ///
    /// May sleep.
    ///
    /// C function: `down_write()`.
    pub fn write(&self) -> WriteGuard<'_, T> {
        // SAFETY: The semaphore is initialised, by the type invariant.
        unsafe { bindings::down_write(self.raw.get()) };
        // INVARIANT: It was taken for writing just now.
        WriteGuard {
            semaphore: self,
            _not_send: NotThreadSafe,
        }
    }

    /// Takes it for writing, if nobody holds it.
    ///
    /// Does not sleep.
    ///
    /// C function: `down_write_trylock()`.
    #[must_use = "if unused, it is released at once"]
    pub fn try_write(&self) -> Option<WriteGuard<'_, T>> {
        // SAFETY: The semaphore is initialised, by the type invariant.
        let is_taken = unsafe { bindings::down_write_trylock(self.raw.get()) } != 0;
        // INVARIANT: It was taken for writing just now.
        is_taken.then(|| WriteGuard {
            semaphore: self,
            _not_send: NotThreadSafe,
        })
    }
}

/// An [`RwSemaphore`] that is held for reading, together with others.
///
/// # Invariants
///
/// This task holds it for reading.
#[must_use = "if unused, it is released at once"]
pub struct ReadGuard<'s, T> {
    semaphore: &'s RwSemaphore<T>,
    /// Who takes it releases it: lockdep, and owners on a real-time kernel.
    _not_send: NotThreadSafe,
}

// SAFETY: A shared guard lends the value for reading, to threads that may have it.
unsafe impl<T: Sync> Sync for ReadGuard<'_, T> {}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: The semaphore is held for reading, by the type invariant: nobody writes.
        unsafe { &*self.semaphore.value.get() }
    }
}

impl<T> Drop for ReadGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: The semaphore is held for reading, by the type invariant, and what was lent does
        // not outlive the guard.
        unsafe { bindings::up_read(self.semaphore.raw.get()) };
    }
}

/// An [`RwSemaphore`] that is held for writing, alone.
///
/// # Invariants
///
/// This task holds it for writing.
#[must_use = "if unused, it is released at once"]
pub struct WriteGuard<'s, T> {
    semaphore: &'s RwSemaphore<T>,
    _not_send: NotThreadSafe,
}

// SAFETY: A shared guard lends the value for reading, to threads that may have it.
unsafe impl<T: Sync> Sync for WriteGuard<'_, T> {}

impl<'s, T> WriteGuard<'s, T> {
    /// Lets other readers in, and keeps reading; nobody writes in between.
    ///
    /// Does not sleep.
    ///
    /// C function: `downgrade_write()`.
    pub fn downgrade(self) -> ReadGuard<'s, T> {
        let semaphore = self.semaphore;
        // It is not released.
        core::mem::forget(self);
        // SAFETY: The semaphore is held for writing, by the type invariant of the guard that is
        // gone, and what that has lent with it.
        unsafe { bindings::downgrade_write(semaphore.raw.get()) };
        // INVARIANT: From now on it is held for reading.
        ReadGuard {
            semaphore,
            _not_send: NotThreadSafe,
        }
    }
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: The semaphore is held for writing, by the type invariant: nobody else has it.
        unsafe { &*self.semaphore.value.get() }
    }
}

impl<T: Unpin> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: The semaphore is held for writing, by the type invariant: nobody else has it.
        unsafe { &mut *self.semaphore.value.get() }
    }
}

impl<T> Drop for WriteGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: The semaphore is held for writing, by the type invariant, and what was lent does
        // not outlive the guard.
        unsafe { bindings::up_write(self.semaphore.raw.get()) };
    }
}
