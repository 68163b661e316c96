// SPDX-License-Identifier: GPL-2.0

//! What a lock protects is used under it.

use hmm::DevPagemap;
use hmm::DevPagemapOps;
use hmm::Huge;
use hmm::LockedVma;
use hmm::Migration;
use hmm::Mirror;
use hmm::Window;
use kernel::mm::MmWithUser;
use kernel::prelude::*;

/// Reads a page of the device after the update lock was released.
pub fn page<T: DevPagemapOps>(mirror: &Mirror<T>, out: &mut [u8]) -> Result {
    let guard = mirror.lock();
    let page = guard.page(0x1000).ok_or(ENOENT)?;
    drop(guard); //~ E0505
    page.read(0, out)
}

/// The same, with a page that was found.
pub fn found<T: DevPagemapOps>(mirror: &Mirror<T>, out: &mut [u8]) -> Result {
    let guard = mirror.lock();
    let (_, page) = guard.next(0..0x1000).ok_or(ENOENT)?;
    drop(guard); //~ E0505
    page.read(0, out)
}

/// Migrates without the `mmap_lock`.
pub fn migrate<T: DevPagemapOps>(
    mm: &MmWithUser,
    pagemap: &DevPagemap<T>,
    window: &mut Window,
) -> Result {
    let mmap = mm.mmap_read_lock();
    let vma = LockedVma::lookup(&mmap, 0x1000).ok_or(EFAULT)?;
    drop(mmap); //~ E0505
    drop(Migration::to_device(
        vma,
        0x1000..0x2000,
        Huge::Split,
        pagemap,
        window,
    )?);
    Ok(())
}

/// Uses the arrays of a migration that is going on.
pub fn window<T: DevPagemapOps>(pagemap: &DevPagemap<T>, window: &mut Window) -> Result {
    let first = Migration::evict(pagemap, 0..1, window)?;
    let second = Migration::evict(pagemap, 1..2, window)?; //~ E0499
    drop((first, second));
    Ok(())
}

/// Keeps a claim longer than the mirror.
pub fn claim<T: DevPagemapOps>(mirror: Pin<KBox<Mirror<T>>>) -> Result {
    let claim = mirror.claim(0x1000..0x2000)?;
    drop(mirror); //~ E0505
    drop(claim);
    Ok(())
}
