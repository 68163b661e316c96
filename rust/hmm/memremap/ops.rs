// SPDX-License-Identifier: GPL-2.0

//! The traits that a driver implements for its device memory, and hooks for tests.
//!
//! C header: [`include/linux/memremap.h`](srctree/include/linux/memremap.h),
//! `struct dev_pagemap_ops`.

use kernel::prelude::*;

use super::{CpuFault, DevicePages, FaultAnswer, FolioData};
use crate::migrate::CopyEngine;

/// The driver's side of a [`DevPagemap`](super::DevPagemap).
///
/// Any CPU may call the methods, concurrently, on the value that the driver passed to
/// [`DevPagemap::new`](super::DevPagemap::new).
pub trait DevPagemapOps: Send + Sync + Sized + 'static {
    /// The engine that copies pages to the memory of this device and back.
    type Engine: CopyEngine<Self>;

    /// The driver's data in each folio; `()` for none.
    type FolioData: FolioData;

    /// Hooks for tests; `()` for none, at no cost.
    type Hooks: Hooks;

    /// Returns the engine that copies for this device.
    ///
    /// Does not sleep.
    fn engine(&self) -> &Self::Engine;

    /// Takes back pages that nobody uses any more, because the last reference to their folio was
    /// put, or a [`FreeFolio`](super::FreeFolio) or a [`FreePages`](super::FreePages) was dropped.
    /// The pages of a [`FreePages`](super::FreePages) arrive in runs as large as their alignment
    /// allows. [`DevPagemap::reserve`](super::DevPagemap::reserve) accepts the pages again at once.
    ///
    /// Must not sleep, and may take only irq-safe locks: mm calls it under page table locks, with
    /// interrupts enabled or disabled. Must not drop the last reference to the pagemap.
    ///
    /// C: `dev_pagemap_ops.folio_free`.
    fn folio_free(&self, pages: DevicePages, data: Self::FolioData);

    /// Answers a CPU fault on a page on the device: moves the page back, and returns the outcome.
    ///
    /// May sleep. Called with the `mmap_lock` held for reading; the core has locked the folio and
    /// holds a reference to it. So this must not wait for the folio, and must not drop the last
    /// reference to the pagemap or to an [`interval::Notifier`](crate::interval::Notifier), whose
    /// drops wait for the folio.
    ///
    /// C: `dev_pagemap_ops.migrate_to_ram`.
    fn migrate_to_ram(&self, fault: CpuFault<'_, Self>) -> FaultAnswer;

    /// Called when a folio of this device was split, once for each resulting piece. The pieces stay
    /// in use, and each is given back through its own call of [`folio_free`](Self::folio_free).
    ///
    /// Must not sleep or allocate, and may take only irq-safe locks: interrupts are disabled, and
    /// the reference counts of the folios are frozen.
    ///
    /// C: `dev_pagemap_ops.folio_split`.
    fn folio_split(&self, piece: DevicePages) {
        let _ = piece;
    }
}

/// A point between two steps of an operation; see [`Hooks::sync_point`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPoint {
    /// To the device: pages are collected, and their destinations are not written yet.
    ToDeviceCollected,
    /// To the device: pages are copied.
    ToDeviceCopied,
    /// To the device: pages have moved, and neither the device nor the process maps them.
    ToDeviceMoved,
    /// To the device: the device maps the pages, the process does not. For users with a device page
    /// table.
    ToDeviceMapped,
    /// To system memory, for any reason: pages are collected, and their destinations are not
    /// written yet.
    ToSystemCollected,
    /// To system memory: pages are copied.
    ToSystemCopied,
    /// To system memory: pages have moved, and the process does not map them.
    ToSystemMoved,
    /// A CPU has touched a page on the device: its folio is locked, its page table entry is
    /// unchanged.
    CpuFault,
    /// A walk over a range has found the pages. No lock is held.
    RangeWalked,
    /// A page has become exclusive to the device, which does not map it yet. For users with a
    /// device page table.
    Exclusive,
}

/// Hooks of a driver that tests itself into the operations of this crate. `()` hooks nothing.
pub trait Hooks: Send + Sync + 'static {
    /// Called between the steps of an operation, without a spinlock held. A test of races can sleep
    /// here: folios are locked, except at [`SyncPoint::RangeWalked`].
    fn sync_point(&self, point: SyncPoint) {
        let _ = point;
    }

    /// Called before a system folio is allocated for pages that move back. It is called for a huge
    /// folio even if it may turn out that only small pages are there.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// Any error that the driver returns counts as a failed allocation: the pages stay on the
    /// device, or move back one by one.
    fn should_fail_alloc(&self, order: u32) -> Result {
        let _ = order;
        Ok(())
    }

    /// Called before the folios of a migration are copied, to the device or to system memory.
    /// Returns whether to call [`should_fail_copy`](Self::should_fail_copy) for each folio. Does
    /// not sleep.
    fn may_fail_copies(&self, to_device: bool) -> bool {
        let _ = to_device;
        false
    }

    /// Called before a folio is copied, to the device or to system memory, if
    /// [`may_fail_copies`](Self::may_fail_copies) returned `true`.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// Any error that the driver returns counts as an error of the copy engine for this folio.
    fn should_fail_copy(&self, to_device: bool) -> Result {
        let _ = to_device;
        Ok(())
    }
}

impl Hooks for () {}
