// SPDX-License-Identifier: GPL-2.0

//! Numbers for statistics.
//!
//! C header: [`include/linux/atomic.h`](srctree/include/linux/atomic.h).

use kernel::sync::atomic::{ordering::Relaxed, Atomic};

/// A number that only grows. Nothing is concluded from it but itself.
pub struct Counter(Atomic<u64>);

impl Default for Counter {
    fn default() -> Self {
        Self(Atomic::new(0))
    }
}

impl Counter {
    /// Adds to the number. Does not sleep.
    #[inline]
    pub fn add(&self, more: u64) {
        // ORDERING: Relaxed: the number stands for itself.
        self.0.add(more, Relaxed);
    }

    /// Adds one to the number, and returns what it was. Does not sleep.
    #[inline]
    pub(crate) fn next(&self) -> u64 {
        // ORDERING: Relaxed: the number stands for itself.
        self.0.fetch_add(1_u64, Relaxed)
    }

    /// Returns the number. Does not sleep.
    #[inline]
    pub fn get(&self) -> u64 {
        // ORDERING: Relaxed: the number stands for itself.
        self.0.load(Relaxed)
    }
}
