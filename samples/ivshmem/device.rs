// SPDX-License-Identifier: GPL-2.0

//! A bound device: its pages as mm knows them, the list of free pages, and the migration of a
//! process's pages there and back.
//!
//! Locks, in this order: [`Device::pagemap`], the `mmap_lock`, folio locks, [`Pool::free`].

use core::ops::Range;

use hmm::{
    lru::drain_lru_batches,
    memremap::{
        CpuFault, DevPagemap, DevPagemapOps, DevicePages, FaultAnswer, FreeFolio, Options, PfnRange,
    },
    migrate::{LargeFolios, MigrateBuffer, Migration},
    vma::LockedVma,
};
use kernel::{
    alloc::KVVec,
    device::Core,
    mm::MmWithUser,
    new_mutex, new_spinlock_irq,
    page::PAGE_SIZE,
    pci,
    prelude::*,
    sync::{
        atomic::{ordering::Relaxed, Atomic},
        Arc, Mutex, SpinLockIrq,
    },
};

use crate::bar::BarMemory;

/// Number of pages that move in one step.
pub(crate) const STEP_PAGES: usize = 512;

/// Number of tries of a step. By the second try, mm itself has dropped its temporary references.
const TRIES: usize = 2;

pub(crate) type Pagemap = DevPagemap<Pool>;

/// Counts the pages that an open file has on the device. Each open file has an account, which lives
/// on as long as pages are charged to it.
pub(crate) struct Account {
    npages: Atomic<usize>,
}

impl Account {
    pub(crate) fn new() -> Result<Arc<Self>> {
        let npages = Atomic::new(0);
        Ok(Arc::new(Self { npages }, GFP_KERNEL)?)
    }

    /// Returns the number of pages charged to this account.
    pub(crate) fn npages(&self) -> usize {
        // ORDERING: Relaxed: the number is only for display.
        self.npages.load(Relaxed)
    }
}

/// The driver's side of the device pages.
#[pin_data]
pub(crate) struct Pool {
    memory: BarMemory,
    // mm gives pages back in any context: the lock is irq-safe, and nothing allocates under it.
    #[pin]
    free: SpinLockIrq<KVVec<usize>>,
}

impl Pool {
    fn new(memory: BarMemory) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            free <- {
                // Allocate room for all pages, so that returning one never needs memory.
                let mut free = KVVec::with_capacity(memory.npages(), GFP_KERNEL)?;
                for page in (0..memory.npages()).rev() {
                    free.push(page, GFP_KERNEL)?;
                }
                new_spinlock_irq!(free)
            },
            memory,
        })
    }

    fn put(&self, page: usize) {
        // There was room for each page initially, so there is now.
        let _ = self.free.lock().push_within_capacity(page);
    }
}

impl DevPagemapOps for Pool {
    type Engine = BarMemory;
    type FolioData = Arc<Account>;
    type Hooks = ();

    fn engine(&self) -> &BarMemory {
        &self.memory
    }

    fn folio_free(&self, pages: DevicePages, account: Arc<Account>) {
        for page in pages.range() {
            // Clear the entry before the page can get another owner.
            self.memory.set_entry(page, 0, 0);
            // ORDERING: Relaxed: the number is only for display.
            account.npages.fetch_sub(1, Relaxed);
            self.put(page);
        }
    }

    fn migrate_to_ram(&self, fault: CpuFault<'_, Self>) -> FaultAnswer {
        match fault.migrate_to_system() {
            Ok(()) => fault.retry(),
            Err(ENOMEM) => fault.out_of_memory(),
            Err(_) => fault.bus_error(),
        }
    }
}

/// The one bound device, which open files keep after it is gone.
#[pin_data]
pub(crate) struct Device {
    /// `None` before the device is started, and after it is gone. A request holds the lock for one
    /// step, so requests take turns. (A driver that allows concurrent requests uses SRCU, as
    /// `drm_dev_enter()` does.)
    #[pin]
    pagemap: Mutex<Option<Pin<KBox<Pagemap>>>>,
}

impl Device {
    /// Creates a device without pages.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            pagemap <- new_mutex!(None),
        })
    }

    /// Attaches the memory of a PCI device; returns the number of pages.
    pub(crate) fn start(&self, pdev: &pci::Device<Core<'_>>) -> Result<usize> {
        let memory = BarMemory::new(pdev)?;
        let npages = memory.npages();
        let pfns = PfnRange::private(npages, c"hmm_ivshmem")?;
        let pagemap = DevPagemap::new(pfns, Options::new()?, Pool::new(memory));
        let pagemap = KBox::pin_init(pagemap, GFP_KERNEL)?;
        *self.pagemap.lock() = Some(pagemap);
        Ok(npages)
    }

    /// Detaches the memory: requests fail from now on, and the pages on the device move back.
    pub(crate) fn stop(&self) {
        // First remove the pagemap from view. The lock is not held while the pagemap is dropped, so
        // that requests fail instead of waiting.
        let pagemap = self.pagemap.lock().take();
        // Then all pages on the device move back to their processes. The copy engine, which the
        // pagemap owns, can access the memory until that is done; the mapping of the BAR goes away
        // with it.
        drop(pagemap);
    }

    /// Fails when the device is gone.
    pub(crate) fn check(&self) -> Result {
        self.pagemap.lock().as_ref().map(|_| ()).ok_or(ENODEV)
    }

    /// Performs one step of a request: calls `migrate` for the pages at the start of `range`
    /// (bytes) that lie in one VMA, at most [`STEP_PAGES`], and again if not all of them have
    /// moved. Adds the number of pages that moved to `moved`, and returns the end address of the
    /// step.
    pub(crate) fn step(
        &self,
        mm: &MmWithUser,
        range: Range<usize>,
        moved: &mut usize,
        mut migrate: impl FnMut(&Pagemap, LockedVma<'_>, Range<usize>) -> Result<(usize, Result)>,
    ) -> Result<usize> {
        let mut end = range.end.min(range.start + STEP_PAGES * PAGE_SIZE);
        let mut left = 0;
        for attempt in 0..TRIES {
            if attempt > 0 {
                drain_lru_batches();
            }
            let pagemap = self.pagemap.lock();
            let pagemap = pagemap.as_ref().ok_or(ENODEV)?;
            let mmap = mm.mmap_read_lock();
            let vma = LockedVma::lookup(&mmap, range.start).ok_or(EFAULT)?;
            end = end.min(vma.end());
            let pages = (end - range.start) / PAGE_SIZE;
            if attempt == 0 {
                left = pages;
            }
            let (count, result) = migrate(pagemap, vma, range.start..end)?;
            *moved += count;
            result?;
            left = left.saturating_sub(count);
            if left == 0 {
                break;
            }
        }
        Ok(end)
    }
}

/// The process that moves pages to the device.
pub(crate) struct Mover {
    /// The process ID, as the directory shows it.
    pub(crate) pid: u64,
    pub(crate) account: Arc<Account>,
}

/// Moves those pages of a range (bytes) of a VMA that can move to the device. Returns the number of
/// pages that moved, and the error that kept others from moving.
pub(crate) fn to_device(
    pagemap: &Pagemap,
    vma: LockedVma<'_>,
    range: Range<usize>,
    mover: &Mover,
    buffer: &mut MigrateBuffer,
) -> Result<(usize, Result)> {
    let start = range.start;
    let mut migration = Migration::to_device(vma, range, LargeFolios::Split, pagemap, buffer)?;
    let mut filled = Ok(());
    for entry in migration.entries() {
        match reserve(pagemap, start + entry.index() * PAGE_SIZE, mover) {
            Ok(folio) => entry.set_dst(folio)?,
            Err(error) => {
                // The device is full. Move the pages that have a destination.
                filled = Err(error);
                break;
            }
        }
    }
    let copying = migration.copy()?;
    let copied = copying.error().map_or(Ok(()), Err);
    Ok((copying.commit()?.moved(), copied.and(filled)))
}

/// Reserves a page of the device for the page at `address` (bytes) of a process.
fn reserve<'p>(pagemap: &'p Pagemap, address: usize, mover: &Mover) -> Result<FreeFolio<'p, Pool>> {
    let pool = pagemap.ops();
    let page = pool.free.lock().pop().ok_or(ENOSPC)?;
    let folio = DevicePages::new(page, 0)
        .and_then(|pages| pagemap.reserve(pages, mover.account.clone()))
        .inspect_err(|_| pool.put(page))?;
    // From now on, `folio_free` gives the page back in any case.
    // ORDERING: Relaxed: the number is only for display.
    mover.account.npages.fetch_add(1, Relaxed);
    pool.memory.set_entry(page, mover.pid, address as u64);
    Ok(folio)
}
