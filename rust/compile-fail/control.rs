// SPDX-License-Identifier: GPL-2.0

//! The correct counterparts of the other files: this one compiles.

use emu::{
    device::{
        DeviceOps,
        Emulated,
        Pagemap, //
    },
    iomem::PhysicalStart,
    memory::Memory,
    view::{
        Access,
        View, //
    }, //
};
use hmm::{
    interval::{
        Invalidate,
        Notifier, //
    },
    memremap::{
        CpuFault,
        DevPagemap,
        DevPagemapOps,
        DevicePages,
        FaultAnswer, //
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
    module_param::ModuleParamAccess,
    prelude::*,
    sync::Arc, //
};

/// Reads a page of the device while the lock is held.
pub fn read<T: DeviceOps>(view: &View<T>, address: usize, out: &mut [u8]) -> Result {
    let guard = view.lock();
    let page = guard.page(address).ok_or(ENOENT)?;
    if page.access() == Access::Read {
        return Err(EPERM);
    }
    page.read(0, out)
}

/// Collects pages, sets their destinations, copies, commits, and asks for the result.
pub fn migrate<T: DevPagemapOps<FolioData = ()>>(
    mm: &MmWithUser,
    pagemap: &DevPagemap<T>,
    buffer: &mut MigrateBuffer,
) -> Result<usize> {
    let mmap = mm.mmap_read_lock();
    let vma = LockedVma::lookup(&mmap, 0x1000).ok_or(EFAULT)?;
    let range = 0x1000..0x2000;
    let mut migration = Migration::to_device(vma, range, LargeFolios::Split, pagemap, buffer)?;
    for entry in migration.entries() {
        let folio = pagemap.reserve(DevicePages::new(entry.index(), 0)?, ())?;
        entry.set_dst(folio)?;
    }
    let moved = migration.copy()?.commit()?.moved();
    Ok(moved)
}

/// Maps the moved pages through a pending map that was created before the migration.
pub fn map<T: DeviceOps>(
    view: &View<T>,
    mm: &MmWithUser,
    buffer: &mut MigrateBuffer,
) -> Result<usize> {
    let pending = view.pending_map(0x1000..0x2000)?;
    let mmap = mm.mmap_read_lock();
    let vma = LockedVma::lookup(&mmap, 0x1000).ok_or(EFAULT)?;
    let migration = pending.migrate(vma, LargeFolios::Split, buffer)?;
    let moved = migration.copy()?.commit()?.moved();
    Ok(moved)
}

/// Answers a fault once.
pub fn answer<T: DevPagemapOps>(fault: CpuFault<'_, T>) -> FaultAnswer {
    match fault.migrate_to_system() {
        Ok(()) => fault.retry(),
        Err(_) => fault.bus_error(),
    }
}

/// Drops folios before the pagemap.
pub fn reserve<T: DevPagemapOps<FolioData = ()>>(pagemap: Arc<DevPagemap<T>>) -> Result {
    let mut pages = pagemap.reserve(DevicePages::new(0, 1)?, ())?.into_pages();
    drop(pages.pop());
    drop(pages);
    drop(pagemap);
    Ok(())
}

/// Creates memory at an address that root has given as a parameter.
pub fn fixed(parameter: &'static ModuleParamAccess<u64>) -> Result<Memory> {
    Memory::fixed(PhysicalStart::from_parameter(parameter), 512, c"memory")
}

/// Uses the state if nothing has changed.
pub fn unchanged<T: Invalidate>(notifier: &Notifier<T>, look: impl Fn(&T)) {
    let seq = notifier.read_begin();
    if let Some(state) = notifier.lock_shared_if_unchanged(seq) {
        look(&state);
    }
}

/// Changes the state, and then reads it together with other readers.
pub fn changed<T: Invalidate>(notifier: &Notifier<T>, change: impl Fn(&mut T), look: impl Fn(&T)) {
    let mut state = notifier.lock();
    change(&mut state);
    look(&state.downgrade());
}

/// Gets the memory of a device from its pagemap.
pub fn memory<T: DeviceOps>(pagemap: &Pagemap<T>) -> usize {
    let emulated: &Emulated<T> = pagemap.ops();
    emulated.memory().npages()
}
