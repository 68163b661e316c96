// SPDX-License-Identifier: GPL-2.0

//! Numbers that root sets in debugfs, for tests.
//!
//! C header: [`include/linux/debugfs.h`](srctree/include/linux/debugfs.h).
//!
//! Not the kernel crate's debugfs: the operations of its files are code of the module that makes
//! them, and do not keep that module loaded while a file is open. Those of these files are the
//! core's own.

use kernel::{
    prelude::*,
    sync::atomic::{ordering::Relaxed, Atomic},
};

use crate::bindings;

/// A directory in debugfs with one file for each of `N` numbers, all of them 0 at first. It is
/// there from initialisation until drop; without debugfs there are just the numbers.
///
/// # Invariants
///
/// `dir` is what `debugfs_create_dir()` returned; its files refer to `values`.
#[pin_data(PinnedDrop)]
pub struct DebugfsU32s<const N: usize> {
    values: [Atomic<u32>; N],
    dir: *mut bindings::dentry,
    #[pin]
    _pin: core::marker::PhantomPinned,
}

// SAFETY: `dir` is used in drop only, which any thread may do.
unsafe impl<const N: usize> Send for DebugfsU32s<N> {}
// SAFETY: The numbers are atomic.
unsafe impl<const N: usize> Sync for DebugfsU32s<N> {}

impl<const N: usize> DebugfsU32s<N> {
    /// Makes a directory `name`, with the files `files`, of mode 0600.
    ///
    /// May sleep.
    pub fn new(name: &'static CStr, files: &'static [&'static CStr; N]) -> impl PinInit<Self> {
        let init = move |slot: *mut Self| {
            // SAFETY: `slot` is valid for writes; zero is a value of each number.
            unsafe { (&raw mut (*slot).values).write_bytes(0, 1) };
            // SAFETY: The name is a string of C; no parent means the root.
            let dir =
                unsafe { bindings::debugfs_create_dir(name.as_char_ptr(), core::ptr::null_mut()) };
            // SAFETY: `slot` is valid for writes.
            unsafe { (&raw mut (*slot).dir).write(dir) };
            for (index, file) in files.iter().enumerate() {
                // SAFETY: `index` is below the length of the array.
                let value = unsafe { (&raw mut (*slot).values).cast::<u32>().add(index) };
                // SAFETY: The number stays in place until drop has removed the file, and has the
                // layout of an integer; C accepts the error that `dir` may be.
                unsafe { bindings::debugfs_create_u32(file.as_char_ptr(), 0o600, dir, value) };
            }
            Ok(())
        };
        // SAFETY: The closure initialises each field, and what it hands out refers to the pinned
        // place.
        unsafe { pin_init::pin_init_from_closure(init) }
    }

    /// Returns the number in file `index`; 0 when there is no such file.
    ///
    /// Does not sleep.
    pub fn get(&self, index: usize) -> u32 {
        // ORDERING: Relaxed: the number stands for itself.
        self.values
            .get(index)
            .map_or(0, |value| value.load(Relaxed))
    }

    /// Puts a number into file `index`, as root does by writing to it; without such a file, nothing.
    ///
    /// Does not sleep.
    pub fn put(&self, index: usize, number: u32) {
        if let Some(value) = self.values.get(index) {
            // ORDERING: Relaxed: the number stands for itself.
            value.store(number, Relaxed);
        }
    }

    /// Takes one from the number in file `index`, unless it is 0 or `u32::MAX`, which stands for no
    /// end; returns whether it was not 0.
    ///
    /// Does not sleep.
    pub fn count_down(&self, index: usize) -> bool {
        let Some(value) = self.values.get(index) else {
            return false;
        };
        // ORDERING: Relaxed: the number stands for itself.
        let mut old = value.load(Relaxed);
        loop {
            if old == 0 || old == u32::MAX {
                return old != 0;
            }
            match value.cmpxchg(old, old - 1, Relaxed) {
                Ok(_) => return true,
                Err(seen) => old = seen,
            }
        }
    }
}

#[pinned_drop]
impl<const N: usize> PinnedDrop for DebugfsU32s<N> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant. It waits for those who are just reading or writing a
        // number, and lets nobody in afterwards.
        unsafe { bindings::debugfs_remove(self.dir) };
    }
}
