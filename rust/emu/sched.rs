// SPDX-License-Identifier: GPL-2.0

//! Rescheduling, fatal signals, random numbers.
//!
//! C headers: [`include/linux/sched.h`](srctree/include/linux/sched.h),
//! [`include/linux/sched/signal.h`](srctree/include/linux/sched/signal.h).

use crate::bindings;

/// Lets other tasks run if necessary: `cond_resched()`.
///
/// May sleep; must not be called under a spinlock.
pub fn cond_resched() {
    // SAFETY: This is always allowed in process context without a spinlock held, which the doc
    // comment demands of the callers and DEBUG_ATOMIC_SLEEP checks.
    unsafe { bindings::cond_resched() }
}

/// Returns whether a fatal signal is pending for the current task: `fatal_signal_pending(current)`.
///
/// Does not sleep.
pub fn fatal_signal_pending() -> bool {
    // SAFETY: `current` is always a valid task.
    unsafe { bindings::fatal_signal_pending() }
}

/// Returns a random number: `get_random_u32()`.
///
/// Does not sleep.
pub fn random() -> u32 {
    // SAFETY: The function may be called in any context.
    unsafe { bindings::get_random_u32() }
}
