// SPDX-License-Identifier: GPL-2.0

//! Counters for statistics.
//!
//! C header: [`include/linux/atomic.h`](srctree/include/linux/atomic.h).

use kernel::sync::atomic::{ordering::Relaxed, Atomic};

/// A counter that only grows. It orders no other memory access.
pub struct Counter(Atomic<u64>);

impl Default for Counter {
    fn default() -> Self {
        Self(Atomic::new(0))
    }
}

impl Counter {
    /// Adds `more` to the counter. Does not sleep.
    #[inline]
    pub fn add(&self, more: u64) {
        // ORDERING: Relaxed: the counter orders no other memory access.
        self.0.add(more, Relaxed);
    }

    /// Adds one to the counter and returns the previous value. Does not sleep.
    #[inline]
    pub(crate) fn next(&self) -> u64 {
        // ORDERING: Relaxed: the counter orders no other memory access.
        self.0.fetch_add(1_u64, Relaxed)
    }

    /// Returns the value. Does not sleep.
    #[inline]
    pub fn get(&self) -> u64 {
        // ORDERING: Relaxed: the counter orders no other memory access.
        self.0.load(Relaxed)
    }
}
