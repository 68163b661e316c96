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
//! While a migration lives, its owner must not touch user memory: a fault on a page of the
//! migration would wait for the migration, for ever. Drop completes the C protocol in every state
//! of a migration.
//!
//! # Copying
//!
//! [`Migration::copy`] passes one [`CopyBatch`] with all copies to the [`CopyEngine`] of the
//! device, one operation per folio. The engine may continue after `copy` returns;
//! [`Migration::commit`] waits for it, and so does drop, before any destination is put.
//!
//! # Eviction
//!
//! [`DevPagemap::evict`](crate::memremap::DevPagemap::evict) asks mm's reverse map which processes
//! may map a page, and migrates the page by address, with the `mmap_lock` of such a process held.
//! It does not use `migrate_device_range()`, which is made for eviction, because that walks an
//! `anon_vma` that nothing keeps from being freed.
//!
//! # Locks
//!
//! A migration requires the `mmap_lock` (held at least for reading, represented by
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
