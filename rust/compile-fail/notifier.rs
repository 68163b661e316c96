// SPDX-License-Identifier: GPL-2.0

//! What is not known to be unchanged is not used.

use hmm::{
    interval::{
        Invalidate,
        Notifier,
        Sequence,
        SharedGuard, //
    },
    memremap::DevPagemapOps,
    range::Walked, //
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

/// Changes the state with other readers about.
pub fn shared<T: Invalidate>(notifier: &Notifier<T>, change: impl Fn(&mut T)) {
    let mut state = notifier.lock_shared();
    change(&mut state); //~ E0596
}

/// Changes the state when readers have been let in.
pub fn downgraded<T: Invalidate>(notifier: &Notifier<T>, change: impl Fn(&mut T)) {
    let mut state = notifier.lock();
    let shared = state.downgrade();
    change(&mut state); //~ E0382
    drop(shared);
}

/// Maps what a walk has found with other readers about.
pub fn mapped<S: Invalidate, T: DevPagemapOps>(
    walked: &mut Walked<'_, SharedGuard<'_, S>, T>,
) -> Result {
    walked.try_for_each(|_, _, _| Ok(())) //~ E0599
}

/// Has another thread release the lock.
pub fn sent<T: Invalidate>(notifier: &Notifier<T>, send: impl Fn(&dyn Send)) {
    send(&notifier.lock_shared()); //~ E0277
}
