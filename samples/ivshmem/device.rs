// SPDX-License-Identifier: GPL-2.0

//! A bound device: the pages that mm knows of, which of them are free, and how pages of a process
//! get there and back.
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

/// How many pages are moved at a time.
pub(crate) const STEP_PAGES: usize = 512;

/// How often a step is tried. The second time, mm itself holds no page any more.
const TRIES: usize = 2;

pub(crate) type Pagemap = DevPagemap<Pool>;

/// On whose account pages are on the device. Each open file has one, which lives on while pages are
/// on it.
pub(crate) struct Account {
    npages: Atomic<usize>,
}

impl Account {
    pub(crate) fn new() -> Result<Arc<Self>> {
        let npages = Atomic::new(0);
        Ok(Arc::new(Self { npages }, GFP_KERNEL)?)
    }

    /// Returns how many pages are on it.
    pub(crate) fn npages(&self) -> usize {
        // ORDERING: Relaxed, a number for people.
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
                // Room for all of them, so that giving one back never needs memory.
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
        // There was room for each page at the start, so there is now.
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
            // Before the page can be somebody else's.
            self.memory.set_entry(page, 0, 0);
            // ORDERING: Relaxed, a number for people.
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

/// The one device that is bound, and what is left of it for files that are open when it goes.
#[pin_data]
pub(crate) struct Device {
    /// `None` before it is there, and when it has gone. A request holds the lock for one step, so
    /// that requests take turns. (A driver that wants more than one at a time uses SRCU, as
    /// `drm_dev_enter()` does.)
    #[pin]
    pagemap: Mutex<Option<Pin<KBox<Pagemap>>>>,
}

impl Device {
    /// Returns one without pages.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            pagemap <- new_mutex!(None),
        })
    }

    /// Gives it the memory of a PCI device; returns the number of pages.
    pub(crate) fn start(&self, pdev: &pci::Device<Core<'_>>) -> Result<usize> {
        let memory = BarMemory::new(pdev)?;
        let npages = memory.npages();
        let pfns = PfnRange::private(npages, c"hmm_ivshmem")?;
        let pagemap = DevPagemap::new(pfns, Options::new()?, Pool::new(memory));
        let pagemap = KBox::pin_init(pagemap, GFP_KERNEL)?;
        *self.pagemap.lock() = Some(pagemap);
        Ok(npages)
    }

    /// Takes its pages away: requests fail from now on, and what is on the device comes back.
    pub(crate) fn stop(&self) {
        // First nobody finds the pagemap any more. The lock is not held while it is dropped, so
        // that requests fail, and do not wait.
        let pagemap = self.pagemap.lock().take();
        // Then all that is on the device comes back to its processes. The copy engine, which the
        // pagemap owns, reaches the memory until that is done; the mapping of the BAR goes with it.
        drop(pagemap);
    }

    /// Fails when the device has gone.
    pub(crate) fn check(&self) -> Result {
        self.pagemap.lock().as_ref().map(|_| ()).ok_or(ENODEV)
    }

    /// Does one step of a request: calls `migrate` for the pages at the start of `range` (bytes) that
    /// lie in one VMA, [`STEP_PAGES`] at most, and once more if not all of them have moved. Adds the
    /// pages that it has moved to `moved`, and returns the address behind the step.
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

/// Who moves pages to the device.
pub(crate) struct Mover {
    /// The process, as the directory shows it.
    pub(crate) pid: u64,
    pub(crate) account: Arc<Account>,
}

/// Moves those pages of a range (bytes) of a VMA to the device that can be moved. Returns how many
/// moved, and what kept others from it.
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
                // The device is full. What has a destination moves.
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
    // From here on it comes back by `folio_free`, whatever happens.
    // ORDERING: Relaxed, a number for people.
    mover.account.npages.fetch_add(1, Relaxed);
    pool.memory.set_entry(page, mover.pid, address as u64);
    Ok(folio)
}
