// SPDX-License-Identifier: GPL-2.0

//! KUnit suites of `hmm` and of this crate, on an emulated device with memory of the test's own
//! address space.
//!
//! They are compiled only for a kernel with `CONFIG_KUNIT=y`, and run when the module is loaded.

mod back;
mod copy;
mod debugfs;
mod device_file;
mod fault;
mod folio;
mod huge;
mod memory;
mod migrate;
mod notifier;
mod observer;
mod other;
mod pagemap;
mod pending;
mod process;
mod rwsem;
mod shared;
mod snapshot;
mod totals;
mod view;

/// Common imports of the suites.
mod prelude {
    pub(super) use super::{
        clear_vm_flags, device, evict, huge::*, kill, map_over, map_shared_over, mapped, move_out,
        move_out_by, other::*, other_mm, revive, set_vm_flags, shared_device, steps, unmap, view,
        with_mm, Counter, Device, Out, Pagemap, Probe, ProbeHooks, UserMemory,
    };
    pub(super) use crate::{
        bindings, debugfs::*, device::*, device_file::*, fault::*, iomem::*, memory::*, pending::*,
        sched::*, view::*,
    };
    pub(super) use core::ops::Range;
    pub(super) use hmm::compat::EOPNOTSUPP;
    pub(super) use hmm::{interval::*, lru::*, memremap::*, migrate::*, range::*, vma::*};
    pub(super) use kernel::{
        page::PAGE_SIZE,
        prelude::*,
        sync::{aref::ARef, Arc},
        time::{delay::fsleep, Delta},
    };
}

use core::ops::Deref;
use core::ptr::NonNull;

use kernel::{
    error::to_result,
    mm::{virt::vm_flags_t, MmWithUser},
    sync::atomic::{ordering::Relaxed, Atomic},
    uaccess::{UserPtr, UserSlice},
};

use self::prelude::*;

/// A device that counts mm's requests to it.
#[derive(Default)]
struct Probe {
    freed: Counter,
    faults: Counter,
    copies: Counter,
    /// Number of the next copies to system memory that fail.
    bad_copies: Counter,
    /// Number of pieces that folios were split into.
    pieces: Counter,
    /// Not 0 if no system memory is available for large folios; and the number of small folios for
    /// which none is available.
    no_large: Counter,
    no_small: Counter,
    /// Number of large and small folios of system memory that were requested.
    asked_large: Counter,
    asked_small: Counter,
    /// The address and the index that the last fault reported for the touched page.
    fault_address: Counter,
    fault_index: Counter,
    /// The steps of operations; see [`steps`].
    steps: Counter,
    /// Number of milliseconds to sleep in the next operation to system memory.
    slow: Counter,
    /// Number of walks of a device fault that were inspected before their result was used.
    walks: Counter,
    /// Put new memory at this address, after that many of the next walks.
    remap_at: Counter,
    remap_times: Counter,
    /// Kill the task in the walk with this number, counted from now, if not 0.
    kill_in: Counter,
}

struct Counter(Atomic<usize>);

impl Default for Counter {
    fn default() -> Self {
        Self(Atomic::new(0))
    }
}

// ORDERING: Relaxed throughout: the tests read what they themselves, or their faults, have counted.
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

    /// Decrements the number, unless it is 0; returns whether it did.
    fn take(&self) -> bool {
        let value = self.get();
        self.set(value.saturating_sub(1));
        value > 0
    }
}

/// The driver's side of the device under test.
struct Device(Arc<Probe>);

/// The hooks of the tests.
struct ProbeHooks(Arc<Probe>);

impl Deref for Device {
    type Target = Probe;

    fn deref(&self) -> &Probe {
        &self.0
    }
}

impl DeviceOps for Device {
    type FolioData = ();
    type Hooks = ProbeHooks;

    fn folio_free(&self, pages: DevicePages, (): ()) {
        self.freed.add(pages.npages());
    }

    fn migrate_to_ram(&self, fault: CpuFault<'_, Emulated<Self>>) -> FaultAnswer {
        self.faults.add(1);
        self.fault_address.set(fault.address());
        self.fault_index.set(fault.index());
        let vma = fault.vma();
        if !core::ptr::eq(&*fault.pagemap().ops().0, &*self.0)
            || !(vma.start()..vma.end()).contains(&fault.address())
        {
            return fault.bus_error();
        }
        match fault.migrate_to_system() {
            Ok(()) => fault.retry(),
            Err(ENOMEM) => fault.out_of_memory(),
            Err(_) => fault.bus_error(),
        }
    }

    fn folio_split(&self, _piece: DevicePages) {
        self.pieces.add(1);
    }
}

impl Hooks for ProbeHooks {
    fn may_fail_copies(&self, _: bool) -> bool {
        true
    }

    fn should_fail_copy(&self, to_device: bool) -> Result {
        if to_device {
            return Ok(());
        }
        self.0.copies.add(1);
        if self.0.bad_copies.take() {
            return Err(EIO);
        }
        Ok(())
    }

    fn should_fail_alloc(&self, order: u32) -> Result {
        let asked = if order > 0 {
            &self.0.asked_large
        } else {
            &self.0.asked_small
        };
        asked.add(1);
        if order > 0 && self.0.no_large.get() > 0 || order == 0 && self.0.no_small.take() {
            return Err(ENOMEM);
        }
        Ok(())
    }

    fn sync_point(&self, point: SyncPoint) {
        let probe = &*self.0;
        probe.steps.set(steps(&[point]) | probe.steps.get() << 4);
        if point == SyncPoint::ToSystemCollected {
            fsleep(Delta::from_millis(probe.slow.get() as i64));
            probe.slow.set(0);
        }
        if point == SyncPoint::RangeWalked {
            probe.walks.add(1);
            if probe.kill_in.get() == 1 {
                kill();
            }
            probe.kill_in.take();
            if probe.remap_times.take() {
                // No lock is held here. If this fails, the test notices that nothing has changed.
                let _ = map_over(probe.remap_at.get(), 1, true);
            }
        }
    }
}

/// Up to 16 sync points as a number, whose last four bits are the most recent one.
fn steps(points: &[SyncPoint]) -> usize {
    let number = |sum, &point: &SyncPoint| sum << 4 | (point as usize + 1);
    points.iter().fold(0, number)
}

type Pagemap = crate::device::Pagemap<Device>;

/// Creates a registered device of `blocks` blocks, all of which have memory.
fn device(blocks: usize) -> Result<Pin<KBox<Pagemap>>> {
    KBox::pin_init(new_device(blocks, Owner::new()?)?, GFP_KERNEL)
}

/// Does the same, for views.
fn shared_device(blocks: usize) -> Result<Arc<Pagemap>> {
    Arc::pin_init(new_device(blocks, Owner::new()?)?, GFP_KERNEL)
}

fn new_device(blocks: usize, owner: Owner) -> Result<impl PinInit<Pagemap, Error>> {
    let memory = Memory::lazy(blocks * HPAGE_PMD_NR)?;
    memory.populate(0..memory.npages())?;
    let probe = Arc::new(Probe::default(), GFP_KERNEL)?;
    let options = Options {
        owner,
        node: None,
        hooks: ProbeHooks(probe.clone()),
    };
    let driver = Ok::<_, Error>(Device(probe));
    Emulated::new(memory, c"hmm test", options, driver)
}

/// Creates a device's view of the test's own address space.
fn view(pagemap: &Arc<Pagemap>) -> Result<Pin<KBox<View<Device>>>> {
    with_mm(|mm| KBox::pin_init(View::new(mm, pagemap.clone(), None), GFP_KERNEL))
}

/// Evicts a block: returns the numbers of pages that moved back and that are left, or the error if
/// no page moved.
fn evict<T: DeviceOps>(
    pagemap: &crate::device::Pagemap<T>,
    block: usize,
) -> Result<(usize, usize)> {
    let first = block.saturating_mul(HPAGE_PMD_NR);
    let mut buffer = MigrateBuffer::new(HPAGE_PMD_NR)?;
    let evicted = pagemap.evict(first..first.saturating_add(HPAGE_PMD_NR), &mut buffer);
    match evicted.error {
        Some(error) if evicted.moved == 0 => Err(error),
        _ => Ok((evicted.moved, evicted.left)),
    }
}

/// Returns the place of a mapped page, whether its entry is writable, and the order of the entry.
fn mapped(view: PageView) -> Option<(PagePlace, bool, u32)> {
    match view {
        PageView::Mapped(page) => Some((page.place, page.is_writable, page.order)),
        _ => None,
    }
}

/// Calls `with` on the test's own address space.
fn with_mm<R>(with: impl FnOnce(&MmWithUser) -> Result<R>) -> Result<R> {
    // SAFETY: This runs in a KUnit test. If the test has no address space, this attaches one.
    to_result(unsafe { bindings::kunit_attach_mm() })?;
    with(kernel::current!().mm().ok_or(EINVAL)?)
}

type Out<'s, 'p, T = Device> = Entry<'s, ToDevice<'p, Emulated<T>>>;

/// Collects the range for the device, lets `fill` set the destinations, copies and commits. Returns
/// the number of pages that moved.
fn move_out_by<T: DeviceOps>(
    pagemap: &crate::device::Pagemap<T>,
    range: Range<usize>,
    large: LargeFolios,
    mut fill: impl FnMut(Out<'_, '_, T>) -> Result,
) -> Result<usize> {
    with_mm(|mm| {
        let mmap = mm.mmap_read_lock();
        let vma = LockedVma::lookup(&mmap, range.start).ok_or(EFAULT)?;
        let mut buffer = MigrateBuffer::new(range.len() / PAGE_SIZE)?;
        let mut migration = Migration::to_device(vma, range, large, pagemap, &mut buffer)?;
        for entry in migration.entries() {
            fill(entry)?;
        }
        let moved = migration.copy()?.commit()?.moved();
        Ok(moved)
    })
}

/// Puts new memory at an address, in place of the current mappings.
fn map_over(start: usize, npages: usize, writable: bool) -> Result {
    // SAFETY: This runs in a KUnit test, whose address space is its own.
    let mapped = unsafe { bindings::kunit_mmap_over(start, npages * PAGE_SIZE, writable, false) };
    check_mapped(start, mapped)
}

/// Puts new shared memory, which is not anonymous, at an address.
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

/// Adds flags to the VMA at an address; page table entries stay as they are.
fn set_vm_flags(address: usize, flags: vm_flags_t) -> Result {
    // SAFETY: This runs in a KUnit test, whose address space is its own.
    to_result(unsafe { bindings::kunit_mod_vm_flags(address, flags, 0) })
}

/// Removes the flags again.
fn clear_vm_flags(address: usize, flags: vm_flags_t) -> Result {
    // SAFETY: This runs in a KUnit test, whose address space is its own.
    to_result(unsafe { bindings::kunit_mod_vm_flags(address, 0, flags) })
}

/// Creates an address space that is not the test's own, and in which nothing is mapped.
fn other_mm() -> Result<ARef<MmWithUser>> {
    // SAFETY: This runs in a KUnit test.
    let mm = NonNull::new(unsafe { bindings::kunit_other_mm() }).ok_or(ENOMEM)?;
    // SAFETY: The address space is new, with one user; an `MmWithUser` is a transparent
    // `mm_struct`.
    Ok(unsafe { ARef::from_raw(mm.cast()) })
}

/// Makes the test look like a task with a fatal signal, until [`revive`].
fn kill() {
    // SAFETY: This runs in a KUnit test, which has its own thread.
    unsafe { bindings::kunit_kill() };
}

fn revive() {
    // SAFETY: This runs in a KUnit test, which has its own thread.
    unsafe { bindings::kunit_revive() };
}

/// Moves the pages of the range to pages 0, 1, … of the device; returns the number of pages that
/// moved.
fn move_out<T: DeviceOps<FolioData = ()>>(
    pagemap: &crate::device::Pagemap<T>,
    range: Range<usize>,
) -> Result<usize> {
    move_out_by(pagemap, range, LargeFolios::Split, |entry| {
        let folio = pagemap.reserve(DevicePages::new(entry.index(), 0)?, ())?;
        entry.set_dst(folio)
    })
}

/// Anonymous memory of the test's own address space.
struct UserMemory {
    start: usize,
}

impl UserMemory {
    /// Creates `npages` pages that were never touched.
    fn new(npages: usize) -> Result<Self> {
        // SAFETY: This runs in a KUnit test.
        let start = unsafe { bindings::kunit_mmap_anonymous(npages * PAGE_SIZE) };
        if start == 0 || start > isize::MAX as usize {
            return Err(ENOMEM);
        }
        Ok(Self { start })
    }

    /// Creates `npages` pages, where page n is filled with the byte `first + n`.
    fn filled(npages: usize, first: u8) -> Result<Self> {
        let this = Self::new(npages)?;
        for nth in 0..npages {
            this.fill(nth, first + nth as u8)?;
        }
        Ok(this)
    }

    /// Creates `npages` pages of an otherwise unmapped block, from page `first` of the block on.
    fn in_block(first: usize, npages: usize) -> Result<Self> {
        let mut this = Self::block()?;
        this.start += first * PAGE_SIZE;
        // Unmap the rest of the block, so that touching a page never creates a huge page.
        let end = this.start + npages * PAGE_SIZE;
        let block = this.start - first * PAGE_SIZE;
        unmap(block, first)?;
        unmap(end, HPAGE_PMD_NR - first - npages)?;
        Ok(this)
    }

    /// Creates a block of pages that were never touched, at an address that one PMD entry could
    /// map.
    fn block() -> Result<Self> {
        Self::blocks(1)
    }

    /// Creates several consecutive blocks.
    fn blocks(blocks: usize) -> Result<Self> {
        let npages = blocks * HPAGE_PMD_NR;
        let around = Self::new(npages + 2 * HPAGE_PMD_NR)?;
        let start = around.start.next_multiple_of(HPAGE_PMD_NR * PAGE_SIZE);
        let before = (start - around.start) / PAGE_SIZE;
        unmap(around.start, before)?;
        unmap(start + npages * PAGE_SIZE, 2 * HPAGE_PMD_NR - before)?;
        Ok(Self { start })
    }

    /// Returns the memory from a page on.
    fn from(&self, nth: usize) -> Self {
        Self {
            start: self.at(nth),
        }
    }

    /// Returns the address of a page.
    fn at(&self, nth: usize) -> usize {
        self.start + nth * PAGE_SIZE
    }

    /// Returns the addresses of pages.
    fn range(&self, pages: Range<usize>) -> Range<usize> {
        self.at(pages.start)..self.at(pages.end)
    }

    fn page(&self, nth: usize) -> UserSlice {
        UserSlice::new(UserPtr::from_addr(self.start + nth * PAGE_SIZE), PAGE_SIZE)
    }

    /// Writes as a CPU does, including faults.
    fn fill(&self, nth: usize, byte: u8) -> Result {
        let bytes = KVec::from_elem(byte, PAGE_SIZE, GFP_KERNEL)?;
        self.page(nth).writer().write_slice(&bytes)
    }

    /// Returns whether all bytes of a page are equal to one value. Reads as a CPU does, including
    /// faults.
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
