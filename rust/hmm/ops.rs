// SPDX-License-Identifier: GPL-2.0

//! What a driver implements for its device memory.
//!
//! C header: [`include/linux/memremap.h`](srctree/include/linux/memremap.h),
//! `struct dev_pagemap_ops`.

use kernel::prelude::*;

use crate::device::DevicePage;
use crate::fault::CpuFault;
use crate::fault::FaultAnswer;
use crate::folio::SystemFolio;
use crate::pages::DevicePages;

/// A place between two steps of an operation, where others may come in between: see
/// [`DevPagemapOps::between`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// On the way to the device: pages are collected, and have no destination yet.
    OutCollected,
    /// They have been copied.
    OutCopied,
    /// They have moved, and neither the device nor the process has them mapped.
    OutMoved,
    /// The device has them mapped, the process has not.
    OutMapped,
    /// On the way to system memory, for whatever reason: pages are collected.
    BackCollected,
    /// They have been copied.
    BackCopied,
    /// They have moved, and the process does not have them mapped.
    BackMoved,
    /// A CPU has touched a page on the device: its folio is locked, its entry is as it was.
    Fault,
    /// A device fault has found the pages, and not mapped them.
    Walked,
    /// A page was made exclusive to the device, which does not have it mapped.
    Exclusive,
}

/// The driver's side of a [`DevPagemap`](crate::DevPagemap).
///
/// The methods are called on the data that the driver gave to
/// [`DevPagemap::new`](crate::DevPagemap::new), by any CPU, at the same time.
pub trait DevPagemapOps: Send + Sync + Sized + 'static {
    /// Takes back pages that nobody uses any more: the last reference to the folio that covered
    /// them was put, or a [`FreeFolio`](crate::FreeFolio) was dropped. They can be handed out by
    /// [`DevPagemap::take`](crate::DevPagemap::take) again at once.
    ///
    /// Must not sleep and may take only irq-safe locks: mm calls it under page table locks, with
    /// interrupts on or off. The reference that the folio held on the pagemap is put afterwards by
    /// the core.
    ///
    /// C: `dev_pagemap_ops.folio_free`.
    fn folio_free(&self, pages: DevicePages);

    /// Answers a CPU that touched a page on the device: bring it back, and say how that went.
    ///
    /// May sleep. Called with the `mmap_lock` held for reading, and the folio locked and
    /// referenced by the core.
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

    /// Called between the steps of an operation, without a spinlock. For drivers that test races, by
    /// sleeping there: folios are locked, except at [`Step::Walked`].
    fn between(&self, step: Step) {
        let _ = step;
    }

    /// Asked before a folio of system memory is allocated for pages that come back, a huge one also
    /// where it may turn out that there are small pages only; an error counts as one of the
    /// allocation. For drivers that test how they fail.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// Whatever the driver returns; the pages then stay on the device, or come back one by one.
    fn before_system_alloc(&self, order: u32) -> Result {
        let _ = order;
        Ok(())
    }

    /// Fills the next page of a system folio with a page of device memory.
    ///
    /// May sleep. Called for pages that are locked and unmapped, when the device is evicted or
    /// removed. The default is right for an emulated device, whose memory is [`Vram`](crate::Vram).
    ///
    /// # Errors
    ///
    /// Whatever the driver returns; the page then stays on the device.
    fn copy_to_system(&self, from: &DevicePage<'_, Self>, to: &mut SystemFolio) -> Result {
        to.fill_from(from)
    }
}
