// SPDX-License-Identifier: GPL-2.0

//! What is not known to be unchanged is not used.

use hmm::interval::{
    Invalidate,
    Notifier,
    Sequence, //
};
use kernel::prelude::*;

/// Makes up a moment.
pub fn made_up() -> Sequence {
    Sequence(0) //~ E0423
}

/// Uses the state where there may be none.
pub fn unchecked<T: Invalidate>(notifier: &Notifier<T>) {
    let seq = notifier.read_begin();
    let state: &T = &notifier.lock_if_unchanged(seq); //~ E0308
    let _ = state;
}

/// Keeps the notifier's lock over its end.
pub fn keep<T: Invalidate>(notifier: Pin<KBox<Notifier<T>>>) {
    let guard = notifier.lock();
    drop(notifier); //~ E0505
    drop(guard);
}
