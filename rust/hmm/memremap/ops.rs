// SPDX-License-Identifier: GPL-2.0

//! What a driver implements for its device memory, and hooks for those that test.
//!
//! C header: [`include/linux/memremap.h`](srctree/include/linux/memremap.h),
//! `struct dev_pagemap_ops`.

use kernel::prelude::*;

use super::{CpuFault, DevicePages, FaultAnswer, FolioData};
use crate::migrate::CopyEngine;

/// The driver's side of a [`DevPagemap`](super::DevPagemap).
///
/// The methods are called on the value that the driver gave to
/// [`DevPagemap::new`](super::DevPagemap::new), by any CPU, at the same time.
pub trait DevPagemapOps: Send + Sync + Sized + 'static {
    /// What copies pages to the memory of this device and back.
    type Engine: CopyEngine<Self>;

    /// What the driver keeps in each folio; `()` for nothing.
    type FolioData: FolioData;

    /// What tests hook in; `()` for nothing, which costs nothing.
    type Hooks: Hooks;

    /// Returns the engine that copies for this device.
    ///
    /// Does not sleep.
    fn engine(&self) -> &Self::Engine;

    /// Takes back pages that nobody uses any more: the last reference to the folio that covered
    /// them was put, or a [`FreeFolio`](super::FreeFolio) was dropped, or a
    /// [`FreePages`](super::FreePages), whose pages come in runs as large as they are aligned. They
    /// can be handed out by [`DevPagemap::reserve`](super::DevPagemap::reserve) again at once.
    ///
    /// Must not sleep and may take only irq-safe locks: mm calls it under page table locks, with
    /// interrupts on or off. Must not drop the last reference to the pagemap.
    ///
    /// C: `dev_pagemap_ops.folio_free`.
    fn folio_free(&self, pages: DevicePages, data: Self::FolioData);

    /// Answers a CPU that touched a page on the device: bring it back, and say how that went.
    ///
    /// May sleep. Called with the `mmap_lock` held for reading, and the folio locked and
    /// referenced by the core: so it must not wait for the folio, and must not drop the last
    /// reference to the pagemap or to an [`interval::Notifier`](crate::interval::Notifier), whose
    /// drops wait for it.
    ///
    /// C: `dev_pagemap_ops.migrate_to_ram`.
    fn migrate_to_ram(&self, fault: CpuFault<'_, Self>) -> FaultAnswer;

    /// Learns that a folio of this device was split, once for each piece that there is now. The
    /// pieces stay in use, and each of them comes back by [`folio_free`](Self::folio_free) alone.
    ///
    /// Must not sleep, allocate or take other than irq-safe locks: interrupts are off and the
    /// reference counts of the folios are frozen.
    ///
    /// C: `dev_pagemap_ops.folio_split`.
    fn folio_split(&self, piece: DevicePages) {
        let _ = piece;
    }
}

/// A point between two steps of an operation, see [`Hooks::sync_point`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPoint {
    /// On the way to the device: pages are collected, and have destinations that were not written.
    ToDeviceCollected,
    /// They have been copied.
    ToDeviceCopied,
    /// They have moved, and neither the device nor the process has them mapped.
    ToDeviceMoved,
    /// The device has them mapped, the process has not. For users that keep a device page table.
    ToDeviceMapped,
    /// On the way to system memory, for whatever reason: as
    /// [`ToDeviceCollected`](Self::ToDeviceCollected).
    ToSystemCollected,
    /// They have been copied.
    ToSystemCopied,
    /// They have moved, and the process does not have them mapped.
    ToSystemMoved,
    /// A CPU has touched a page on the device: its folio is locked, its entry is as it was.
    CpuFault,
    /// A walk over a range has found the pages. No lock is held.
    RangeWalked,
    /// A page was made exclusive to the device, which does not have it mapped. For users that
    /// keep a device page table.
    Exclusive,
}

/// What a driver that tests itself hooks into the operations of this crate. `()` hooks nothing.
pub trait Hooks: Send + Sync + 'static {
    /// Called between the steps of an operation, without a spinlock. To test races, sleep here:
    /// folios are locked, except at [`SyncPoint::RangeWalked`].
    fn sync_point(&self, point: SyncPoint) {
        let _ = point;
    }

    /// Asked before a system folio is allocated for pages that come back, a huge one also where it
    /// may turn out that there are small pages only.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// Whatever the driver returns counts as an error of the allocation: the pages stay on the
    /// device, or come back one by one.
    fn should_fail_alloc(&self, order: u32) -> Result {
        let _ = order;
        Ok(())
    }

    /// Asked before the folios of a migration are copied, to the device or to system memory:
    /// whether [`should_fail_copy`](Self::should_fail_copy) is to be asked for each. Does not
    /// sleep.
    fn may_fail_copies(&self, to_device: bool) -> bool {
        let _ = to_device;
        false
    }

    /// Asked before a folio is copied, to the device or to system memory, if
    /// [`may_fail_copies`](Self::may_fail_copies) says so.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// Whatever the driver returns counts as an error of the copy engine for this folio.
    fn should_fail_copy(&self, to_device: bool) -> Result {
        let _ = to_device;
        Ok(())
    }
}

impl Hooks for () {}
