// SPDX-License-Identifier: GPL-2.0

//! A read-write semaphore: a sleeping lock that readers share.
//!
//! C header: [`include/linux/rwsem.h`](srctree/include/linux/rwsem.h),
//! source: [`kernel/locking/rwsem.c`](srctree/kernel/locking/rwsem.c).
//!
//! The kernel crate has none. The lock is fair: a reader that arrives while a writer waits queues
//! behind the writer.

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

/// A value under a lock that either several readers or one writer can hold.
///
/// A task must not take the lock again while it holds it, not even for reading: a writer that waits
/// in between would wait for ever, and the task would wait for the writer. Lockdep reports this.
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
    /// Creates a semaphore that nobody holds. `name` and `key` identify its lockdep class.
    pub fn new(
        value: impl PinInit<T>,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        // INVARIANT: The C function initialises it, and it is pinned from then on.
        pin_init!(Self {
            // SAFETY: `slot` is valid while the closure runs, and stays in place, because the type
            // is pinned; the name and the key live for ever.
            raw <- Opaque::ffi_init(|slot| unsafe {
                bindings::__init_rwsem(slot, name.as_char_ptr(), key.as_ptr())
            }),
            value <- UnsafeCell::pin_init(value),
        })
    }

    /// Takes the lock for reading, shared with other readers.
    ///
    /// May sleep.
    ///
    /// C function: `down_read()`.
    pub fn read(&self) -> ReadGuard<'_, T> {
        // SAFETY: The semaphore is initialised, by the type invariant.
        unsafe { bindings::down_read(self.raw.get()) };
        // INVARIANT: The semaphore was just taken for reading.
        ReadGuard {
            semaphore: self,
            _not_send: NotThreadSafe,
        }
    }

    /// Takes the lock for writing, exclusively.
    ///
    /// May sleep.
    ///
    /// C function: `down_write()`.
    pub fn write(&self) -> WriteGuard<'_, T> {
        // SAFETY: The semaphore is initialised, by the type invariant.
        unsafe { bindings::down_write(self.raw.get()) };
        // INVARIANT: The semaphore was just taken for writing.
        WriteGuard {
            semaphore: self,
            _not_send: NotThreadSafe,
        }
    }

    /// Takes the lock for writing, if nobody holds it.
    ///
    /// Does not sleep.
    ///
    /// C function: `down_write_trylock()`.
    #[must_use = "if unused, it is released at once"]
    pub fn try_write(&self) -> Option<WriteGuard<'_, T>> {
        // SAFETY: The semaphore is initialised, by the type invariant.
        let is_taken = unsafe { bindings::down_write_trylock(self.raw.get()) } != 0;
        // INVARIANT: The semaphore was just taken for writing.
        is_taken.then(|| WriteGuard {
            semaphore: self,
            _not_send: NotThreadSafe,
        })
    }
}

/// An [`RwSemaphore`] that is held for reading, shared with other readers.
///
/// # Invariants
///
/// This task holds the semaphore for reading.
#[must_use = "if unused, it is released at once"]
pub struct ReadGuard<'s, T> {
    semaphore: &'s RwSemaphore<T>,
    /// The task that takes the lock must release it: lockdep requires it, and so do real-time
    /// kernels, which track owners.
    _not_send: NotThreadSafe,
}

// SAFETY: A shared guard only lends the value for reading, which `T: Sync` allows from several
// threads.
unsafe impl<T: Sync> Sync for ReadGuard<'_, T> {}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: The semaphore is held for reading, by the type invariant: so nobody writes.
        unsafe { &*self.semaphore.value.get() }
    }
}

impl<T> Drop for ReadGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: The semaphore is held for reading, by the type invariant, and references to the
        // value do not outlive the guard.
        unsafe { bindings::up_read(self.semaphore.raw.get()) };
    }
}

/// An [`RwSemaphore`] that is held for writing, exclusively.
///
/// # Invariants
///
/// This task holds the semaphore for writing.
#[must_use = "if unused, it is released at once"]
pub struct WriteGuard<'s, T> {
    semaphore: &'s RwSemaphore<T>,
    _not_send: NotThreadSafe,
}

// SAFETY: A shared guard only lends the value for reading, which `T: Sync` allows from several
// threads.
unsafe impl<T: Sync> Sync for WriteGuard<'_, T> {}

impl<'s, T> WriteGuard<'s, T> {
    /// Downgrades the lock to reading, which lets other readers in; nobody can write in between.
    ///
    /// Does not sleep.
    ///
    /// C function: `downgrade_write()`.
    pub fn downgrade(self) -> ReadGuard<'s, T> {
        let semaphore = self.semaphore;
        // The semaphore is not released here, so the destructor must not run.
        core::mem::forget(self);
        // SAFETY: The semaphore is held for writing, by the type invariant of the forgotten guard.
        // Nobody uses the references that this guard has lent any more, because it was moved.
        unsafe { bindings::downgrade_write(semaphore.raw.get()) };
        // INVARIANT: The semaphore is held for reading from now on.
        ReadGuard {
            semaphore,
            _not_send: NotThreadSafe,
        }
    }
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: The semaphore is held for writing, by the type invariant: so nobody else holds
        // it.
        unsafe { &*self.semaphore.value.get() }
    }
}

impl<T: Unpin> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: The semaphore is held for writing, by the type invariant: so nobody else holds
        // it.
        unsafe { &mut *self.semaphore.value.get() }
    }
}

impl<T> Drop for WriteGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: The semaphore is held for writing, by the type invariant, and references to the
        // value do not outlive the guard.
        unsafe { bindings::up_write(self.semaphore.raw.get()) };
    }
}
