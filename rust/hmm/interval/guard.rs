// SPDX-License-Identifier: GPL-2.0

//! The update lock, held exclusively or shared with other readers.

use core::ops::{Deref, DerefMut};

use super::{Guarded, Invalidate, Notifier, Sequence};
use crate::rwsem::{ReadGuard, WriteGuard};

/// The update lock, held exclusively.
pub struct Guard<'n, T: Invalidate>(pub(super) WriteGuard<'n, Guarded<T>>);

impl<'n, T: Invalidate> Guard<'n, T> {
    /// Downgrades the lock to a shared one, which readers can share; nothing changes in between.
    ///
    /// Does not sleep.
    pub fn downgrade(self) -> SharedGuard<'n, T> {
        SharedGuard(self.0.downgrade())
    }
}

impl<T: Invalidate> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T: Invalidate> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0.value
    }
}

/// The update lock, held shared with other readers: nothing changes while it is held.
pub struct SharedGuard<'n, T: Invalidate>(pub(super) ReadGuard<'n, Guarded<T>>);

impl<T: Invalidate> Deref for SharedGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

/// A way to hold the update lock: [`Guard`] or [`SharedGuard`].
pub trait UpdateGuard<'n>: private::Sealed + Sized {
    /// The data that the lock protects.
    type State: Invalidate;

    /// Takes the update lock in this way if nothing has changed since `seq`, and no change is in
    /// progress.
    ///
    /// May sleep.
    fn lock_if_unchanged(notifier: &'n Notifier<Self::State>, seq: Sequence) -> Option<Self>;
}

impl<'n, T: Invalidate> UpdateGuard<'n> for Guard<'n, T> {
    type State = T;

    fn lock_if_unchanged(notifier: &'n Notifier<T>, seq: Sequence) -> Option<Self> {
        notifier.lock_if_unchanged(seq)
    }
}

impl<'n, T: Invalidate> UpdateGuard<'n> for SharedGuard<'n, T> {
    type State = T;

    fn lock_if_unchanged(notifier: &'n Notifier<T>, seq: Sequence) -> Option<Self> {
        notifier.lock_shared_if_unchanged(seq)
    }
}

mod private {
    pub trait Sealed {}
    impl<T: super::Invalidate> Sealed for super::Guard<'_, T> {}
    impl<T: super::Invalidate> Sealed for super::SharedGuard<'_, T> {}
}
