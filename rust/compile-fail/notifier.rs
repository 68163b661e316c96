// SPDX-License-Identifier: GPL-2.0

//! State can be used only if it is known to be unchanged.

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

/// Creates a sequence without a notifier.
pub fn made_up() -> Sequence {
    Sequence(0) //~ E0423
}

/// Uses the state without checking that there is one.
pub fn unchecked<T: Invalidate>(notifier: &Notifier<T>) {
    let seq = notifier.read_begin();
    let state: &T = &notifier.lock_if_unchanged(seq); //~ E0308
    let _ = state;
}

/// Keeps the lock of a notifier longer than the notifier.
pub fn keep<T: Invalidate>(notifier: Pin<KBox<Notifier<T>>>) {
    let guard = notifier.lock();
    drop(notifier); //~ E0505
    drop(guard);
}

/// Changes the state while other readers share the lock.
pub fn shared<T: Invalidate>(notifier: &Notifier<T>, change: impl Fn(&mut T)) {
    let mut state = notifier.lock_shared();
    change(&mut state); //~ E0596
}

/// Changes the state after the lock was downgraded.
pub fn downgraded<T: Invalidate>(notifier: &Notifier<T>, change: impl Fn(&mut T)) {
    let mut state = notifier.lock();
    let shared = state.downgrade();
    change(&mut state); //~ E0382
    drop(shared);
}

/// Maps the result of a walk while other readers share the lock.
pub fn mapped<S: Invalidate, T: DevPagemapOps>(
    walked: &mut Walked<'_, SharedGuard<'_, S>, T>,
) -> Result {
    walked.try_for_each(|_, _, _| Ok(())) //~ E0599
}

/// Sends the lock to another thread, which would release it.
pub fn sent<T: Invalidate>(notifier: &Notifier<T>, send: impl Fn(&dyn Send)) {
    send(&notifier.lock_shared()); //~ E0277
}
