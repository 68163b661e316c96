// SPDX-License-Identifier: GPL-2.0

//! What the other files get wrong, done right: this one compiles.

use hmm::Access;
use hmm::CpuFault;
use hmm::DevPagemap;
use hmm::DevPagemapOps;
use hmm::DevicePages;
use hmm::FaultAnswer;
use hmm::Huge;
use hmm::LockedVma;
use hmm::Migration;
use hmm::Mirror;
use hmm::Window;
use kernel::mm::MmWithUser;
use kernel::prelude::*;
use kernel::sync::Arc;

/// A page of the device is read while the lock is held.
pub fn read<T: DevPagemapOps>(mirror: &Mirror<T>, address: usize, out: &mut [u8]) -> Result {
    let guard = mirror.lock();
    let page = guard.page(address).ok_or(ENOENT)?;
    if page.access() == Access::Read {
        return Err(EPERM);
    }
    page.read(0, out)
}

/// A migration is collected, given destinations, committed, and asked.
pub fn migrate<T: DevPagemapOps>(
    mm: &MmWithUser,
    pagemap: &DevPagemap<T>,
    window: &mut Window,
) -> Result<usize> {
    let mmap = mm.mmap_read_lock();
    let vma = LockedVma::lookup(&mmap, 0x1000).ok_or(EFAULT)?;
    let mut migration = Migration::to_device(vma, 0x1000..0x2000, Huge::Split, pagemap, window)?;
    for slot in migration.slots() {
        let folio = pagemap.take(DevicePages::new(slot.nth(), 0)?)?;
        slot.fill(folio)?;
    }
    let moved = migration.commit().moved();
    Ok(moved)
}

/// A fault is answered once.
pub fn answer<T: DevPagemapOps>(fault: CpuFault<'_, T>) -> FaultAnswer {
    if fault.npages() > 1 {
        fault.bus_error()
    } else {
        fault.retry()
    }
}

/// Folios go before the pagemap.
pub fn take<T: DevPagemapOps>(pagemap: Arc<DevPagemap<T>>) -> Result {
    let (low, high) = pagemap.take(DevicePages::new(0, 1)?)?.halve()?;
    drop(low.init());
    drop(high);
    drop(pagemap);
    Ok(())
}
