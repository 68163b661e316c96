// SPDX-License-Identifier: GPL-2.0

//! Safe abstractions for drivers of devices that have memory of their own: `ZONE_DEVICE` memory
//! that processes use through HMM, heterogeneous memory management.
//!
//! | module | contents | C header |
//! | --- | --- | --- |
//! | [`memremap`] | device pages registered with mm, owners, CPU faults | `linux/memremap.h` |
//! | [`migrate`] | migration to the device and back, copy engines, eviction | `linux/migrate.h` |
//! | [`interval`] | changes to the page tables of a process | `linux/mmu_notifier.h` |
//! | [`range`] | device faults, and the mappings of a process | `linux/hmm.h` |
//! | [`counter`] | counters for statistics | `linux/atomic.h` |
//! | [`rwsem`] | a lock that readers share | `linux/rwsem.h` |
//! | [`exclusive`] | exclusive access for device atomics | `linux/rmap.h` |
//! | [`vma`], [`folio`], [`lru`] | locked VMAs, system folios, LRU batches | `linux/mm.h` |
//!
//! A driver registers device pages with a [`DevPagemap`](memremap::DevPagemap) and implements
//! [`DevPagemapOps`](memremap::DevPagemapOps) and a [`CopyEngine`](migrate::CopyEngine) for its
//! hardware. It moves pages of a process to the device with a [`Migration`](migrate::Migration),
//! and answers a CPU that touches a page on the device through [`CpuFault`](memremap::CpuFault).
//!
//! # Locks
//! The `mmap_lock` (represented by [`LockedVma`](vma::LockedVma)) is taken first. Folio locks come
//! next; `migrate_vma_setup()` takes them, and a [`Migration`](migrate::Migration) holds them.
//! Inside folio locks come the update lock of an [`interval::Notifier`] and any lock of the
//! driver's allocator, which [`folio_free`](memremap::DevPagemapOps::folio_free) takes in atomic
//! context.
//!
//! # Leaks
//! Safe Rust code can leak any value with `mem::forget`. A leaked
//! [`FreeFolio`](memremap::FreeFolio), [`FreePages`](memremap::FreePages) or
//! [`Migration`](migrate::Migration) makes the drop of its [`DevPagemap`](memremap::DevPagemap)
//! wait for ever. A leaked `DevPagemap` must not outlive the module whose code it calls: mm would
//! call freed text. No Rust type can forbid that, so keep each of them in a value that is dropped.
//!
//! Reference: <https://docs.kernel.org/mm/hmm.html>

mod bindings;
#[doc(hidden)]
#[path = "../compat/hmm.rs"]
pub mod compat;
pub mod counter;
pub mod exclusive;
pub mod folio;
pub mod interval;
pub mod lru;
pub mod memremap;
pub mod migrate;
pub mod range;
pub mod rwsem;
pub mod vma;
