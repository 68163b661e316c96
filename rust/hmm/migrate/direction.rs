// SPDX-License-Identifier: GPL-2.0

//! The two directions of a migration, and their differences.
//!
//! C header: [`include/linux/migrate.h`](srctree/include/linux/migrate.h), `enum
//! migrate_vma_direction`.

use core::cell::Cell;

use crate::{
    folio::SystemFolio,
    memremap::{DevPagemap, DevPagemapOps, SyncPoint},
};

/// Direction of a migration: to the device. Destinations are
/// [`FreeFolio`](crate::memremap::FreeFolio)s.
pub struct ToDevice<'p, T: DevPagemapOps>(pub(super) &'p DevPagemap<T>);

/// Direction of a migration: to system memory. Destinations are new system folios.
pub struct ToSystem<'p, T: DevPagemapOps> {
    pub(super) pagemap: &'p DevPagemap<T>,
    /// A destination for the first huge page, allocated before the page is collected.
    pub(super) huge: Cell<Option<SystemFolio>>,
    /// Set if the migration answers a CPU fault.
    pub(super) is_fault: bool,
}

mod private {
    /// Keeps others from implementing a trait.
    pub trait Sealed {}
    impl<T: super::DevPagemapOps> Sealed for super::ToDevice<'_, T> {}
    impl<T: super::DevPagemapOps> Sealed for super::ToSystem<'_, T> {}
}

/// The common interface of [`ToDevice`] and [`ToSystem`].
pub trait Direction: private::Sealed {
    /// The driver's side of the device.
    type Ops: DevPagemapOps;

    /// True if the migration moves pages of system memory, rather than those of the device.
    const TO_DEVICE: bool;

    /// The sync points after which pages are collected, copied and moved.
    const POINTS: [SyncPoint; 3];

    /// Returns the pagemap of the device.
    fn pagemap(&self) -> &DevPagemap<Self::Ops>;

    /// Returns whether mm itself does not split a folio that other processes share. This is so in a
    /// CPU fault, where the core holds one more reference than `folio_split_unmapped()` expects: mm
    /// then splits the page table entry of this process only, and at the next fault the folio, for
    /// all processes.
    fn keeps_shared_whole(&self) -> bool {
        false
    }
}

impl<T: DevPagemapOps> Direction for ToDevice<'_, T> {
    type Ops = T;

    const TO_DEVICE: bool = true;

    const POINTS: [SyncPoint; 3] = [
        SyncPoint::ToDeviceCollected,
        SyncPoint::ToDeviceCopied,
        SyncPoint::ToDeviceMoved,
    ];

    fn pagemap(&self) -> &DevPagemap<T> {
        self.0
    }
}

impl<T: DevPagemapOps> Direction for ToSystem<'_, T> {
    type Ops = T;

    const TO_DEVICE: bool = false;

    const POINTS: [SyncPoint; 3] = [
        SyncPoint::ToSystemCollected,
        SyncPoint::ToSystemCopied,
        SyncPoint::ToSystemMoved,
    ];

    fn pagemap(&self) -> &DevPagemap<T> {
        self.pagemap
    }

    fn keeps_shared_whole(&self) -> bool {
        self.is_fault
    }
}
