// SPDX-License-Identifier: GPL-2.0

//! Migration of pages between a process's system memory and a device.
//!
//! C header: [`include/linux/migrate.h`](srctree/include/linux/migrate.h),
//! source: [`mm/migrate_device.c`](srctree/mm/migrate_device.c).
//!
//! # States
//!
//! ```text
//! to_device(), to_system()          copy()                    commit()
//! ---> Migration<Collected> ---> Migration<Copying> ---> Migration<Migrated>
//!       entries(): look,          the engine works         moved(), map them
//!       set_dst(), alloc_dst()         |                         |
//!            | drop                    | drop: waits             | drop
//!            v                         v                         v
//!      all pages are mapped again where they were, or where they moved; unlocked, put
//! ```
//!
//! While one lives, its owner must not touch user memory: a fault on a page of the migration would
//! wait for the migration, for ever. Whatever state it is dropped in, the C protocol is completed.
//!
//! # Copying
//!
//! [`Migration::copy`] hands the [`CopyEngine`] of the device one [`CopyBatch`] with all that there
//! is to copy, a folio an operation. The engine may go on after that; [`Migration::commit`] waits
//! for it, and so does drop, before any destination is put.
//!
//! # Eviction
//!
//! [`DevPagemap::evict`](crate::memremap::DevPagemap::evict) asks mm's reverse map which processes
//! may have a page mapped, and migrates it by address, with the `mmap_lock` of such a process
//! held. `migrate_device_range()`, which is made for eviction, is not used: it walks an `anon_vma`
//! that nothing keeps from being freed.
//!
//! # Locks
//!
//! A migration wants the `mmap_lock` (held for reading at least, shown as
//! [`LockedVma`](crate::vma::LockedVma)), and holds the locks of the folios that it has collected.

mod buffer;
mod copy;
mod direction;
mod entry;
mod evict;
mod migration;
mod rmap;
mod to_system;

use self::buffer::PfnArrays;
pub use self::{
    buffer::MigrateBuffer,
    copy::{CopyBatch, CopyEngine, CopyOp, CopyOps, Pending, Place},
    direction::{Direction, ToDevice, ToSystem},
    entry::{Entries, Entry, SplitEntry},
    migration::{Collected, Copying, LargeFolios, Migrated, Migration, Moved},
};
