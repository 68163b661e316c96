// SPDX-License-Identifier: GPL-2.0

//! The numbers that engines count accesses with, see [`hits`](crate::hits).

use hmm::memremap::HPAGE_PMD_NR;
use kernel::sync::atomic::{ordering::Relaxed, Atomic};

use crate::hits::{Number, BLOCK};

// The counters, which know nothing of the kernel, and mm speak of the same blocks.
const _: () = assert!(BLOCK == HPAGE_PMD_NR);

/// A number that stands for itself: nothing else is concluded from it.
pub(crate) struct HitCounter(Atomic<usize>);

impl Number for HitCounter {
    fn zero() -> Self {
        Self(Atomic::new(0))
    }

    fn count(&self) -> usize {
        // ORDERING: Relaxed: the number stands for itself.
        self.0.fetch_add(1_usize, Relaxed).wrapping_add(1)
    }

    fn get(&self) -> usize {
        // ORDERING: Relaxed: the number stands for itself.
        self.0.load(Relaxed)
    }

    fn replace(&self, value: usize) -> usize {
        // ORDERING: Relaxed: the number stands for itself.
        self.0.xchg(value, Relaxed)
    }
}
