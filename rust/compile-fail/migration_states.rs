// SPDX-License-Identifier: GPL-2.0

//! A migration knows the moved pages only after commit, an entry needs its destination before the
//! copy, and only a migration that was copied can be committed.

use core::mem::forget;
use hmm::{
    memremap::DevPagemapOps,
    migrate::{
        Collected,
        Entry,
        Migration,
        ToDevice, //
    },
};
use kernel::prelude::*;

type Out<'a, T> = Migration<'a, Collected, ToDevice<'a, T>>;

/// Asks for the result too early.
pub fn early<'a, T: DevPagemapOps>(migration: &Out<'a, T>) -> usize {
    migration.moved() //~ E0599
}

/// Commits a migration that was not copied.
pub fn uncopied<'a, T: DevPagemapOps>(migration: Out<'a, T>) -> Result {
    drop(migration.commit()?); //~ E0599
    Ok(())
}

/// Copies a migration twice.
pub fn twice<'a, T: DevPagemapOps>(migration: Out<'a, T>) -> Result {
    drop(migration.copy()?);
    drop(migration.copy()?); //~ E0382
    Ok(())
}

/// Asks for entries while an engine works.
pub fn late<'a, T: DevPagemapOps>(migration: Out<'a, T>) -> Result {
    let mut copying = migration.copy()?;
    drop(copying.entries()); //~ E0599
    Ok(())
}

/// Keeps an entry while an engine works.
pub fn keep<'a, T: DevPagemapOps>(mut migration: Out<'a, T>) -> Result {
    let entry = migration.entries().next().ok_or(ENOENT)?;
    drop(migration.copy()?); //~ E0505
    drop(entry);
    Ok(())
}

/// Uses two pages of a split entry at the same time.
pub fn split<T: DevPagemapOps>(entry: Entry<'_, ToDevice<'_, T>>) -> Result {
    let mut small = entry.split()?;
    let first = small.next();
    let second = small.next(); //~ E0499
    forget((first, second));
    Ok(())
}

/// Creates a state without a migration.
pub fn made_up() -> Collected {
    Collected(()) //~ E0423
}
