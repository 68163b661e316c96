// SPDX-License-Identifier: GPL-2.0

//! Data that a lock protects can be used only under the lock.

use emu::{
    device::DeviceOps,
    view::View, //
};
use hmm::{
    memremap::{
        DevPagemap,
        DevPagemapOps, //
    },
    migrate::{
        LargeFolios,
        MigrateBuffer,
        Migration, //
    },
    vma::LockedVma, //
};
use kernel::{
    mm::MmWithUser,
    prelude::*, //
};

/// Reads a page of the device after the update lock was released.
pub fn page<T: DeviceOps>(view: &View<T>, out: &mut [u8]) -> Result {
    let guard = view.lock();
    let page = guard.page(0x1000).ok_or(ENOENT)?;
    drop(guard); //~ E0505
    page.read(0, out)
}

/// Reads a page that was found in a range, after the update lock was released.
pub fn found<T: DeviceOps>(view: &View<T>, out: &mut [u8]) -> Result {
    let guard = view.lock();
    let (_, page) = guard.next(0..0x1000).ok_or(ENOENT)?;
    drop(guard); //~ E0505
    page.read(0, out)
}

/// Migrates without the `mmap_lock`.
pub fn migrate<T: DevPagemapOps>(
    mm: &MmWithUser,
    pagemap: &DevPagemap<T>,
    buffer: &mut MigrateBuffer,
) -> Result {
    let mmap = mm.mmap_read_lock();
    let vma = LockedVma::lookup(&mmap, 0x1000).ok_or(EFAULT)?;
    drop(mmap); //~ E0505
    let range = 0x1000..0x2000;
    drop(Migration::to_device(
        vma,
        range,
        LargeFolios::Split,
        pagemap,
        buffer,
    )?);
    Ok(())
}

/// Uses the arrays of a running migration.
pub fn buffer<T: DevPagemapOps>(
    vma: LockedVma<'_>,
    pagemap: &DevPagemap<T>,
    buffer: &mut MigrateBuffer,
) -> Result {
    let first = Migration::to_device(vma, 0..0x1000, LargeFolios::Split, pagemap, buffer)?;
    pagemap.evict(0..1, buffer); //~ E0499
    drop(first);
    Ok(())
}

/// Keeps a pending map longer than its view.
pub fn pending<T: DeviceOps>(view: Pin<KBox<View<T>>>) -> Result {
    let pending = view.pending_map(0x1000..0x2000)?;
    drop(view); //~ E0505
    drop(pending);
    Ok(())
}
