// SPDX-License-Identifier: GPL-2.0

//! The counters with which engines count accesses, see [`hits`](crate::hits).

use kernel::sync::atomic::{ordering::Relaxed, Atomic};

use crate::hits::Number;

/// A counter that orders no other memory access.
pub(crate) struct HitCounter(Atomic<usize>);

impl Number for HitCounter {
    fn zero() -> Self {
        Self(Atomic::new(0))
    }

    fn count(&self) -> usize {
        // ORDERING: Relaxed: the counter orders no other memory access.
        self.0.fetch_add(1_usize, Relaxed).wrapping_add(1)
    }

    fn get(&self) -> usize {
        // ORDERING: Relaxed: the counter orders no other memory access.
        self.0.load(Relaxed)
    }

    fn replace(&self, value: usize) -> usize {
        // ORDERING: Relaxed: the counter orders no other memory access.
        self.0.xchg(value, Relaxed)
    }
}
