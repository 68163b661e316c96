// SPDX-License-Identifier: GPL-2.0

//! KUnit suites of this crate, and the device that they share.
//!
//! They are compiled only for a kernel with `CONFIG_KUNIT=y`, and run when the module is loaded.

mod claim;
mod folio;
mod huge;
mod knobs;
mod memory;
mod migrate;
mod mirror;
mod notifier;
mod other;
mod pagemap;
mod snapshot;

use core::ops::Range;

use kernel::alloc::flags::GFP_KERNEL;
use kernel::error::to_result;
use kernel::mm::MmWithUser;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::atomic::ordering::Relaxed;
use kernel::sync::atomic::Atomic;
use kernel::sync::Arc;
use kernel::uaccess::UserPtr;
use kernel::uaccess::UserSlice;

use crate::bindings;
use crate::CpuFault;
use crate::DevPagemap;
use crate::DevPagemapOps;
use crate::DevicePage;
use crate::DevicePages;
use crate::DeviceRegion;
use crate::FaultAnswer;
use crate::Huge;
use crate::LockedVma;
use crate::Migration;
use crate::Mirror;
use crate::Step;
use crate::SystemFolio;
use crate::Vram;
use crate::Window;
use crate::BLOCK_PAGES;

/// A device that counts what mm asks of it.
#[derive(Default)]
struct Probe {
    freed: Counter,
    faults: Counter,
    copies: Counter,
    /// Fail so many copies to system memory.
    bad_copies: Counter,
    /// Pieces that folios were split into.
    pieces: Counter,
    /// Whether there is no system memory for large folios, and for how many small ones there is none.
    no_large: Counter,
    no_small: Counter,
    /// Walks of a device fault that were looked at before they were used.
    walks: Counter,
    /// Put new memory at this address after so many of the next walks.
    remap_at: Counter,
    remap_times: Counter,
}

struct Counter(Atomic<usize>);

impl Default for Counter {
    fn default() -> Self {
        Self(Atomic::new(0))
    }
}

// ORDERING: Relaxed throughout: the tests read what they or their faults have counted.
impl Counter {
    fn get(&self) -> usize {
        self.0.load(Relaxed)
    }

    fn set(&self, value: usize) {
        self.0.store(value, Relaxed);
    }

    fn add(&self, value: usize) {
        self.0.add(value, Relaxed);
    }

    /// Takes one away, unless it is 0; says whether it did.
    fn take(&self) -> bool {
        let value = self.get();
        self.set(value.saturating_sub(1));
        value > 0
    }
}

impl DevPagemapOps for Probe {
    fn folio_free(&self, pages: DevicePages) {
        self.freed.add(pages.npages());
    }

    fn migrate_to_ram(&self, fault: CpuFault<'_, Self>) -> FaultAnswer {
        self.faults.add(1);
        let result = Window::new(fault.npages()).and_then(|mut window| {
            let mut migration = fault.collect(&mut window)?;
            migration.slots().try_for_each(|slot| slot.fill_system())?;
            drop(migration.commit());
            Ok(())
        });
        match result {
            Ok(()) => fault.retry(),
            Err(_) => fault.bus_error(),
        }
    }

    fn copy_to_system(&self, from: &DevicePage<'_, Self>, to: &mut SystemFolio) -> Result {
        self.copies.add(1);
        if self.bad_copies.take() {
            return Err(EIO);
        }
        to.fill_from(from)
    }

    fn folio_split(&self, _piece: DevicePages) {
        self.pieces.add(1);
    }

    fn before_system_alloc(&self, order: u32) -> Result {
        if order > 0 && self.no_large.get() > 0 || order == 0 && self.no_small.take() {
            return Err(ENOMEM);
        }
        Ok(())
    }

    fn between(&self, step: Step) {
        if step == Step::Walked {
            self.walks.add(1);
            if self.remap_times.take() {
                // No lock is held here. If it fails, the test sees that nothing has changed.
                let _ = map_over(self.remap_at.get(), 1, true);
            }
        }
    }
}

type Pagemap = Pin<KBox<DevPagemap<Probe>>>;

/// Addresses of `blocks` blocks, all of them with memory behind them.
fn region(blocks: usize) -> Result<DeviceRegion> {
    let vram = Vram::lazy(blocks * BLOCK_PAGES)?;
    for block in 0..blocks {
        vram.populate(block)?;
    }
    DeviceRegion::private(vram, c"hmm test")
}

/// A registered device of `blocks` blocks.
fn device(blocks: usize) -> Result<Pagemap> {
    let pagemap = DevPagemap::new(region(blocks)?, Probe::default());
    KBox::pin_init(pagemap, GFP_KERNEL)
}

/// The same, for mirrors.
fn shared_device(blocks: usize) -> Result<Arc<DevPagemap<Probe>>> {
    let pagemap = DevPagemap::new(region(blocks)?, Probe::default());
    Arc::pin_init(pagemap, GFP_KERNEL)
}

/// What a device sees of the test's own address space.
fn mirror(pagemap: &Arc<DevPagemap<Probe>>) -> Result<Pin<KBox<Mirror<Probe>>>> {
    with_mm(|mm| KBox::pin_init(Mirror::new(mm, pagemap.clone()), GFP_KERNEL))
}

/// Calls `with` on the test's own address space.
fn with_mm<R>(with: impl FnOnce(&MmWithUser) -> Result<R>) -> Result<R> {
    // SAFETY: This runs in a KUnit test, which this gives an address space if it has none.
    to_result(unsafe { bindings::kunit_attach_mm() })?;
    with(kernel::current!().mm().ok_or(EINVAL)?)
}

/// Puts new memory at an address, over what is there.
fn map_over(start: usize, npages: usize, writable: bool) -> Result {
    // SAFETY: This runs in a KUnit test, whose address space is its own.
    let mapped = unsafe { bindings::kunit_mmap_over(start, npages * PAGE_SIZE, writable) };
    if mapped == start {
        Ok(())
    } else {
        Err(ENOMEM)
    }
}

/// Moves what is at the range to pages 0, 1, … of the device; returns the number of pages.
fn move_out(pagemap: &DevPagemap<Probe>, range: Range<usize>) -> Result<usize> {
    with_mm(|mm| {
        let mmap = mm.mmap_read_lock();
        let vma = LockedVma::lookup(&mmap, range.start).ok_or(EFAULT)?;
        let mut window = Window::new(range.len() / PAGE_SIZE)?;
        let mut migration = Migration::to_device(vma, range, Huge::Split, pagemap, &mut window)?;
        for slot in migration.slots() {
            let folio = pagemap.take(DevicePages::new(slot.nth(), 0)?)?;
            slot.fill(folio)?;
        }
        let moved = migration.commit().moved();
        Ok(moved)
    })
}

/// Anonymous memory of the test's own address space.
struct UserMemory {
    start: usize,
}

impl UserMemory {
    /// `npages` pages that were never touched.
    fn new(npages: usize) -> Result<Self> {
        // SAFETY: This runs in a KUnit test.
        let start = unsafe { bindings::kunit_mmap_anonymous(npages * PAGE_SIZE) };
        if start == 0 || start > isize::MAX as usize {
            return Err(ENOMEM);
        }
        Ok(Self { start })
    }

    /// `npages` pages, page n filled with the byte `first + n`.
    fn filled(npages: usize, first: u8) -> Result<Self> {
        let this = Self::new(npages)?;
        for nth in 0..npages {
            this.fill(nth, first + nth as u8)?;
        }
        Ok(this)
    }

    /// `npages` pages of a block that is all there is at this place: page `first` on.
    fn in_block(first: usize, npages: usize) -> Result<Self> {
        let mut this = Self::block()?;
        this.start += first * PAGE_SIZE;
        // Never a huge page, whatever is touched.
        let end = this.start + npages * PAGE_SIZE;
        let block = this.start - first * PAGE_SIZE;
        unmap(block, first)?;
        unmap(end, BLOCK_PAGES - first - npages)?;
        Ok(this)
    }

    /// A block of pages that were never touched, at an address that one entry could map.
    fn block() -> Result<Self> {
        let bytes = BLOCK_PAGES * PAGE_SIZE;
        let around = Self::new(3 * BLOCK_PAGES)?;
        let start = around.start.next_multiple_of(bytes);
        unmap(around.start, (start - around.start) / PAGE_SIZE)?;
        unmap(start + bytes, BLOCK_PAGES)?;
        Ok(Self { start })
    }

    /// The address of a page.
    fn at(&self, nth: usize) -> usize {
        self.start + nth * PAGE_SIZE
    }

    /// The addresses of pages.
    fn range(&self, pages: Range<usize>) -> Range<usize> {
        self.at(pages.start)..self.at(pages.end)
    }

    fn page(&self, nth: usize) -> UserSlice {
        UserSlice::new(UserPtr::from_addr(self.start + nth * PAGE_SIZE), PAGE_SIZE)
    }

    /// Writes as a CPU does, faults and all.
    fn fill(&self, nth: usize, byte: u8) -> Result {
        let bytes = KVec::from_elem(byte, PAGE_SIZE, GFP_KERNEL)?;
        self.page(nth).writer().write_slice(&bytes)
    }

    /// Whether a page holds one byte all over. Reads as a CPU does, faults and all.
    fn is_filled(&self, nth: usize, byte: u8) -> Result<bool> {
        let mut bytes = KVec::from_elem(!byte, PAGE_SIZE, GFP_KERNEL)?;
        self.page(nth).reader().read_slice(&mut bytes)?;
        Ok(bytes.iter().all(|&seen| seen == byte))
    }
}

/// Unmaps memory of the test's own address space.
fn unmap(start: usize, npages: usize) -> Result {
    if npages == 0 {
        return Ok(());
    }
    // SAFETY: This runs in a KUnit test, whose address space is its own.
    to_result(unsafe { bindings::kunit_munmap(start, npages * PAGE_SIZE) })
}
