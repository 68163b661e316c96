// SPDX-License-Identifier: GPL-2.0

//! Device pages registered with mm: registration, ownership, and the callbacks from mm to the
//! driver.
//!
//! C header: [`include/linux/memremap.h`](srctree/include/linux/memremap.h),
//! source: [`mm/memremap.c`](srctree/mm/memremap.c).
//!
//! # The states of a device page
//!
//! ```text
//!          reserve()               set_dst()
//!  a free ----------> FreeFolio -------------> the destination of a Migration
//!  page   <----------                                  |
//!    ^       drop                                      | commit(), finalize
//!    |                                                 v
//!    +------ DevPagemapOps::folio_free() <---- resident: owned by mm
//!                  last reference put
//! ```
//!
//! A [`FreeFolio`] has reference count 0 and belongs to the driver. A destination has reference
//! count 1, is locked, and belongs to its [`Migration`](crate::migrate::Migration). A resident
//! folio belongs to the page tables that map it: a driver never holds one, but sees it as
//! [`Place::Device`](crate::migrate::Place) while a migration has it locked and unmapped.
//!
//! # Locks
//!
//! This module has no locks of its own. Eviction tries the `mmap_lock` of the processes whose pages
//! it moves, and then locks folios.

mod fault;
mod folio;
mod ops;
mod ownership;
mod pagemap;
mod pages;
mod pfn;
mod totals;

pub use self::{
    fault::{Answer, CpuFault, FaultAnswer},
    folio::{FolioData, FreeFolio, FreePages},
    ops::{DevPagemapOps, Hooks, SyncPoint},
    pagemap::{DevPagemap, Evicted, Options, Owner},
    pages::{DevicePages, HPAGE_PMD_NR, HPAGE_PMD_ORDER, HPAGE_PUD_ORDER},
    pfn::{Frame, Kind, PfnRange},
    totals::{Moves, Phase, Totals},
};
pub(crate) use self::{
    pfn::{try_get_page, unlock_and_put, Mpfn},
    totals::Stopwatch,
};
