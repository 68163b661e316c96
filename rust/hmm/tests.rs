// SPDX-License-Identifier: GPL-2.0

//! KUnit suites of this crate, and the device that they share.
//!
//! They are compiled only for a kernel with `CONFIG_KUNIT=y`, and run when the module is loaded.

mod back;
mod claim;
mod fault;
mod folio;
mod huge;
mod knobs;
mod memory;
mod migrate;
mod mirror;
mod node;
mod notifier;
mod other;
mod pagemap;
mod process;
mod shared;
mod snapshot;

use core::ops::Range;
use core::ptr::NonNull;

use kernel::alloc::flags::GFP_KERNEL;
use kernel::error::to_result;
use kernel::mm::virt::vm_flags_t;
use kernel::mm::MmWithUser;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::atomic::ordering::Relaxed;
use kernel::sync::atomic::Atomic;
use kernel::sync::Arc;
use kernel::time::delay::fsleep;
use kernel::time::Delta;
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
use crate::Slot;
use crate::Step;
use crate::SystemFolio;
use crate::ToDevice;
use crate::ToSystem;
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
    /// Folios of system memory that it was asked for, large and small ones.
    asked_large: Counter,
    asked_small: Counter,
    /// What the last fault said of the page that was touched.
    fault_address: Counter,
    fault_nth: Counter,
    /// Answer so many faults with a window for a page, whatever they are on.
    narrow: Counter,
    /// The steps of operations, see [`steps`].
    steps: Counter,
    /// Sleep for so many milliseconds in the next operation on the way back.
    slow: Counter,
    /// Walks of a device fault that were looked at before they were used.
    walks: Counter,
    /// Put new memory at this address after so many of the next walks.
    remap_at: Counter,
    remap_times: Counter,
    /// Have the task killed in so many walks from now, if not 0.
    kill_in: Counter,
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
        self.fault_address.set(fault.address());
        self.fault_nth.set(fault.nth());
        let vma = fault.vma();
        if !core::ptr::eq(fault.pagemap().ops(), self)
            || !(vma.start()..vma.end()).contains(&fault.address())
        {
            return fault.bus_error();
        }
        let npages = if self.narrow.take() {
            1
        } else {
            fault.npages()
        };
        answer(fault, npages)
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
        let asked = if order > 0 {
            &self.asked_large
        } else {
            &self.asked_small
        };
        asked.add(1);
        if order > 0 && self.no_large.get() > 0 || order == 0 && self.no_small.take() {
            return Err(ENOMEM);
        }
        Ok(())
    }

    fn between(&self, step: Step) {
        self.steps.set(steps(&[step]) | self.steps.get() << 4);
        if step == Step::BackCollected {
            fsleep(Delta::from_millis(self.slow.get() as i64));
            self.slow.set(0);
        }
        if step == Step::Walked {
            self.walks.add(1);
            if self.kill_in.get() == 1 {
                kill();
            }
            self.kill_in.take();
            if self.remap_times.take() {
                // No lock is held here. If it fails, the test sees that nothing has changed.
                let _ = map_over(self.remap_at.get(), 1, true);
            }
        }
    }
}

/// Answers a fault with a window of so many pages.
fn answer<T: DevPagemapOps>(fault: CpuFault<'_, T>, npages: usize) -> FaultAnswer {
    let result = Window::new(npages).and_then(|mut window| {
        let mut migration = fault.collect(&mut window)?;
        migration.slots().try_for_each(|slot| slot.fill_system())?;
        drop(migration.commit());
        Ok(())
    });
    match result {
        Ok(()) => fault.retry(),
        Err(ENOMEM) => fault.out_of_memory(),
        Err(_) => fault.bus_error(),
    }
}

/// Up to 16 steps as a number, of which the last four bits stand for the last one.
fn steps(steps: &[Step]) -> usize {
    let number = |sum, &step: &Step| sum << 4 | (step as usize + 1);
    steps.iter().fold(0, number)
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
    let mapped = unsafe { bindings::kunit_mmap_over(start, npages * PAGE_SIZE, writable, false) };
    check_mapped(start, mapped)
}

/// Puts new memory at an address that processes would share, and that is not anonymous.
fn map_shared_over(start: usize, npages: usize) -> Result {
    // SAFETY: This runs in a KUnit test, whose address space is its own.
    let mapped = unsafe { bindings::kunit_mmap_over(start, npages * PAGE_SIZE, true, true) };
    check_mapped(start, mapped)
}

fn check_mapped(start: usize, mapped: usize) -> Result {
    if mapped == start {
        Ok(())
    } else {
        Err(ENOMEM)
    }
}

/// Adds flags to those of the VMA at an address; page table entries stay as they are.
fn set_vm_flags(address: usize, flags: vm_flags_t) -> Result {
    // SAFETY: This runs in a KUnit test, whose address space is its own.
    to_result(unsafe { bindings::kunit_set_vm_flags(address, flags) })
}

/// An address space that is not the one of the test, and in which nothing is mapped.
fn other_mm() -> Result<ARef<MmWithUser>> {
    // SAFETY: This runs in a KUnit test.
    let mm = NonNull::new(unsafe { bindings::kunit_other_mm() }).ok_or(ENOMEM)?;
    // SAFETY: It is new, with one user; an `MmWithUser` is a transparent `mm_struct`.
    Ok(unsafe { ARef::from_raw(mm.cast()) })
}

/// Has the test look like a task that was killed, until [`revive`].
fn kill() {
    // SAFETY: This runs in a KUnit test, which has a thread of its own.
    unsafe { bindings::kunit_kill() };
}

fn revive() {
    // SAFETY: As in `kill`.
    unsafe { bindings::kunit_revive() };
}

type Out<'s, 'p, T = Probe> = Slot<'s, ToDevice<'p, T>>;

type Back<'s, 'p> = Slot<'s, ToSystem<'p, Probe>>;

/// Collects the range for the device, has `fill` fill the slots, and commits. Returns the number of
/// pages that moved.
fn move_out_by<T: DevPagemapOps>(
    pagemap: &DevPagemap<T>,
    range: Range<usize>,
    huge: Huge,
    mut fill: impl FnMut(Out<'_, '_, T>) -> Result,
) -> Result<usize> {
    with_mm(|mm| {
        let mmap = mm.mmap_read_lock();
        let vma = LockedVma::lookup(&mmap, range.start).ok_or(EFAULT)?;
        let mut window = Window::new(range.len() / PAGE_SIZE)?;
        let mut migration = Migration::to_device(vma, range, huge, pagemap, &mut window)?;
        for slot in migration.slots() {
            fill(slot)?;
        }
        let moved = migration.commit().moved();
        Ok(moved)
    })
}

/// The same on the way back.
fn move_back_by(
    pagemap: &DevPagemap<Probe>,
    range: Range<usize>,
    mut fill: impl FnMut(Back<'_, '_>) -> Result,
) -> Result<usize> {
    with_mm(|mm| {
        let mmap = mm.mmap_read_lock();
        let vma = LockedVma::lookup(&mmap, range.start).ok_or(EFAULT)?;
        let mut window = Window::new(range.len() / PAGE_SIZE)?;
        let mut migration = Migration::to_system(vma, range, Huge::Keep, pagemap, &mut window)?;
        for slot in migration.slots() {
            fill(slot)?;
        }
        let moved = migration.commit().moved();
        Ok(moved)
    })
}

/// Moves what is at the range to pages 0, 1, … of the device; returns the number of pages.
fn move_out<T: DevPagemapOps>(pagemap: &DevPagemap<T>, range: Range<usize>) -> Result<usize> {
    move_out_by(pagemap, range, Huge::Split, |slot| {
        let folio = pagemap.take(DevicePages::new(slot.nth(), 0)?)?;
        slot.fill(folio)
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
        Self::blocks(1)
    }

    /// Several of them, one after the other.
    fn blocks(blocks: usize) -> Result<Self> {
        let npages = blocks * BLOCK_PAGES;
        let around = Self::new(npages + 2 * BLOCK_PAGES)?;
        let start = around.start.next_multiple_of(BLOCK_PAGES * PAGE_SIZE);
        let before = (start - around.start) / PAGE_SIZE;
        unmap(around.start, before)?;
        unmap(start + npages * PAGE_SIZE, 2 * BLOCK_PAGES - before)?;
        Ok(Self { start })
    }

    /// The memory from a page on.
    fn from(&self, nth: usize) -> Self {
        Self {
            start: self.at(nth),
        }
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
