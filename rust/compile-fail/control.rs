// SPDX-License-Identifier: GPL-2.0

//! What the other files get wrong, done right: this one compiles.

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

/// A page of the device is read while the lock is held.
pub fn read<T: DeviceOps>(view: &View<T>, address: usize, out: &mut [u8]) -> Result {
    let guard = view.lock();
    let page = guard.page(address).ok_or(ENOENT)?;
    if page.access() == Access::Read {
        return Err(EPERM);
    }
    page.read(0, out)
}

/// A migration is collected, given destinations, copied, committed, and asked.
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

/// What has moved is mapped by the pending map that was there before.
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

/// A fault is answered once.
pub fn answer<T: DevPagemapOps>(fault: CpuFault<'_, T>) -> FaultAnswer {
    match fault.migrate_to_system() {
        Ok(()) => fault.retry(),
        Err(_) => fault.bus_error(),
    }
}

/// Folios go before the pagemap.
pub fn reserve<T: DevPagemapOps<FolioData = ()>>(pagemap: Arc<DevPagemap<T>>) -> Result {
    let mut pages = pagemap.reserve(DevicePages::new(0, 1)?, ())?.into_pages();
    drop(pages.pop());
    drop(pages);
    drop(pagemap);
    Ok(())
}

/// Root says where memory lies.
pub fn fixed(parameter: &'static ModuleParamAccess<u64>) -> Result<Memory> {
    Memory::fixed(PhysicalStart::from_parameter(parameter), 512, c"memory")
}

/// The state is used where nothing has changed.
pub fn unchanged<T: Invalidate>(notifier: &Notifier<T>, look: impl Fn(&T)) {
    let seq = notifier.read_begin();
    if let Some(state) = notifier.lock_shared_if_unchanged(seq) {
        look(&state);
    }
}

/// The state is changed, and looked at together with others.
pub fn changed<T: Invalidate>(notifier: &Notifier<T>, change: impl Fn(&mut T), look: impl Fn(&T)) {
    let mut state = notifier.lock();
    change(&mut state);
    look(&state.downgrade());
}

/// The memory of a device is that of its pagemap.
pub fn memory<T: DeviceOps>(pagemap: &Pagemap<T>) -> usize {
    let emulated: &Emulated<T> = pagemap.ops();
    emulated.memory().npages()
}
