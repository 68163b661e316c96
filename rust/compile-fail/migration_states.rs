// SPDX-License-Identifier: GPL-2.0

//! What moved is known after commit, and destinations are given before.

use core::mem::forget;
use hmm::Collected;
use hmm::DevPagemapOps;
use hmm::Migration;
use hmm::Slot;
use hmm::ToDevice;
use kernel::prelude::*;

type Out<'a, T> = Migration<'a, Collected, ToDevice<'a, T>>;

/// Asks too early.
pub fn early<'a, T: DevPagemapOps>(migration: &Out<'a, T>) -> usize {
    migration.moved() //~ E0599
}

/// Commits twice.
pub fn twice<'a, T: DevPagemapOps>(migration: Out<'a, T>) {
    drop(migration.commit());
    drop(migration.commit()); //~ E0382
}

/// Looks for slots after the last step.
pub fn late<'a, T: DevPagemapOps>(migration: Out<'a, T>) {
    let mut migrated = migration.commit();
    drop(migrated.slots()); //~ E0599
}

/// Keeps a slot, and what stands there, over the commit.
pub fn keep<'a, T: DevPagemapOps>(mut migration: Out<'a, T>) -> Result {
    let slot = migration.slots().next().ok_or(ENOENT)?;
    drop(migration.commit()); //~ E0505
    drop(slot.source());
    Ok(())
}

/// Uses two pages of a split slot at the same time.
pub fn split<T: DevPagemapOps>(slot: Slot<'_, ToDevice<'_, T>>) -> Result {
    let mut small = slot.split()?;
    let first = small.next();
    let second = small.next(); //~ E0499
    forget((first, second));
    Ok(())
}
