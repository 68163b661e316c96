// SPDX-License-Identifier: GPL-2.0

//! Safe abstractions for drivers of devices that have memory of their own: `ZONE_DEVICE` memory
//! that processes use through HMM, heterogeneous memory management.
//!
//! A driver registers a range of device pages with a [`DevPagemap`] and implements
//! [`DevPagemapOps`] for its device. It moves pages of a process to the device and back with a
//! [`Migration`], and answers a CPU that touches a page on the device through [`CpuFault`].
//!
//! # What a type says you hold
//!
//! ```text
//!            take()              init()                give()
//!  a free  ---------> FreeFolio --------> LockedFolio --------> a destination of a Migration
//!  page    <---------           <-------                               |
//!     ^       drop                 drop                                | commit(), finalize
//!     |                                                                v
//!     +-------------------- DevPagemapOps::folio_free() <------ resident: owned by mm
//!                                last reference put
//! ```
//!
//! [`FreeFolio`] has reference count 0 and belongs to the driver; [`LockedFolio`] has reference
//! count 1 and is locked; a resident folio belongs to the page tables that map it, and a driver
//! never holds one, but sees it as [`Source::Device`] while a migration has it locked and unmapped.
//!
//! # Locks
//!
//! `mmap_lock` (shown as [`LockedVma`]) is taken before folio locks (taken by
//! `migrate_vma_setup()` and held by a [`Migration`]), and those before whatever lock the
//! driver's allocator has, which [`DevPagemapOps::folio_free`] takes in atomic context.
//!
//! C headers: [`include/linux/memremap.h`](srctree/include/linux/memremap.h),
//! [`include/linux/migrate.h`](srctree/include/linux/migrate.h).
//! Reference: <https://docs.kernel.org/mm/hmm.html>

mod back;
mod bindings;
mod claim;
mod device;
mod direction;
mod fault;
mod folio;
mod knobs;
mod lru;
mod migrate;
mod mirror;
mod node;
mod notifier;
mod ops;
mod pagemap;
mod pages;
mod range;
mod region;
mod slot;
mod table;
mod taken;
mod task;
#[cfg(CONFIG_KUNIT = "y")]
mod tests;
mod vma;
mod vram;
mod window;

pub use self::claim::Claim;
pub use self::device::DevicePage;
pub use self::direction::Direction;
pub use self::direction::ToDevice;
pub use self::direction::ToSystem;
pub use self::fault::CpuFault;
pub use self::fault::FaultAnswer;
pub use self::folio::FreeFolio;
pub use self::folio::LockedFolio;
pub use self::folio::SystemFolio;
pub use self::knobs::Knobs;
pub use self::lru::drain_lru_batches;
pub use self::migrate::Collected;
pub use self::migrate::Huge;
pub use self::migrate::Migrated;
pub use self::migrate::Migration;
pub use self::mirror::MappedPage;
pub use self::mirror::Mirror;
pub use self::mirror::MirrorGuard;
pub use self::node::Node;
pub use self::node::NodeOps;
pub use self::notifier::IntervalNotifier;
pub use self::notifier::Invalidate;
pub use self::notifier::Invalidation;
pub use self::notifier::Sequence;
pub use self::ops::DevPagemapOps;
pub use self::ops::Step;
pub use self::pagemap::DevPagemap;
pub use self::pages::DevicePages;
pub use self::pages::BLOCK_PAGES;
pub use self::pages::PMD_ORDER;
pub use self::pages::PUD_ORDER;
pub use self::range::PagePlace;
pub use self::range::PageView;
pub use self::range::Patience;
pub use self::range::RangeBuffer;
pub use self::region::DeviceRegion;
pub use self::region::Kind;
pub use self::slot::Slot;
pub use self::slot::Slots;
pub use self::slot::Source;
pub use self::slot::SplitSlot;
pub use self::slot::SystemPage;
pub use self::table::Access;
pub use self::task::cond_resched;
pub use self::task::fatal_signal_pending;
pub use self::task::random;
pub use self::vma::task_size;
pub use self::vma::LockedVma;
pub use self::vram::Vram;
pub use self::window::Window;
