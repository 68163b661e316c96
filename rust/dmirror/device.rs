// SPDX-License-Identifier: GPL-2.0

//! A device: its pages, and what it does when mm calls.

use hmm::CpuFault;
use hmm::DevPagemap;
use hmm::DevPagemapOps;
use hmm::DevicePage;
use hmm::DevicePages;
use hmm::DeviceRegion;
use hmm::FaultAnswer;
use hmm::Step;
use hmm::SystemFolio;
use hmm::Window;
use kernel::prelude::*;
use kernel::sync::atomic::ordering::Relaxed;
use kernel::sync::atomic::Atomic;
use kernel::sync::Arc;
use kernel::time::delay::fsleep;
use kernel::time::Delta;

use crate::config::MIGRATE_PAUSE_US;
use crate::config::RELEASE_ROUNDS;
use crate::inject::Injection;
use crate::inject::Site;
use crate::pool::Pool;

/// A device with memory of its own.
pub(crate) struct Device {
    pagemap: Arc<DevPagemap<DeviceMemory>>,
}

impl Device {
    /// A device whose memory is `region`.
    pub(crate) fn new(region: DeviceRegion, injection: Arc<Injection>) -> Result<Self> {
        let memory = DeviceMemory::new(region.npages(), injection);
        Ok(Self {
            pagemap: Arc::pin_init(DevPagemap::new(region, memory), GFP_KERNEL)?,
        })
    }

    /// The pages of the device.
    pub(crate) fn pagemap(&self) -> &Arc<DevPagemap<DeviceMemory>> {
        &self.pagemap
    }

    /// Brings every page back to system memory, whoever owns it; returns how many came.
    ///
    /// May sleep. Pages that others have locked are tried again, within bounds.
    ///
    /// # Errors
    ///
    /// As `rust/uapi/dmirror.h` lists them for `RELEASE`; `count` is true all the same.
    pub(crate) fn release(&self, count: &mut u64) -> Result {
        let pagemap = &*self.pagemap;
        let mut outcome = Ok(());
        for round in 0..RELEASE_ROUNDS {
            if round > 0 {
                fsleep(Delta::from_micros(MIGRATE_PAUSE_US));
                hmm::drain_lru_batches();
            }
            outcome = Ok(());
            let mut left = 0;
            for block in 0..pagemap.region().npages() / hmm::BLOCK_PAGES {
                if pagemap.taken_in(block) == 0 {
                    continue;
                }
                match pagemap.evict(block) {
                    Ok((moved, stayed)) => {
                        *count += moved as u64;
                        left += stayed;
                    }
                    Err(error) => outcome = Err(error),
                }
                hmm::cond_resched();
                if hmm::fatal_signal_pending() {
                    return Err(EINTR);
                }
            }
            // What a migration has reserved is no page that could come back.
            if outcome.is_ok() && left <= pagemap.unused() {
                return Ok(());
            }
        }
        outcome.and(Err(EBUSY))
    }
}

/// The driver's side of the pages.
///
/// It belongs to the device alone: pages outlive the files and the processes that moved them.
#[pin_data]
pub(crate) struct DeviceMemory {
    #[pin]
    pool: Pool,
    /// Whether the next allocation is to fail.
    fail_next: Atomic<bool>,
    injection: Arc<Injection>,
}

impl DeviceMemory {
    fn new(npages: usize, injection: Arc<Injection>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            pool <- Pool::new(npages),
            fail_next: Atomic::new(false),
            injection,
        })
    }

    /// The pages that are free.
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Says whether the next allocation is to fail.
    pub(crate) fn set_fail_next(&self, fail: bool) {
        // ORDERING: Relaxed: the flag stands for itself.
        self.fail_next.store(fail, Relaxed);
    }

    /// The delays and failures that tests ask for.
    pub(crate) fn injection(&self) -> &Injection {
        &self.injection
    }

    /// Whether this allocation is to fail, which only one is told.
    pub(crate) fn fails_now(&self) -> bool {
        // ORDERING: Relaxed: the flag stands for itself. Looked at first, so that the line of the
        // cache is not written to by every allocation.
        self.fail_next.load(Relaxed) && self.fail_next.xchg(false, Relaxed)
    }
}

impl DevPagemapOps for DeviceMemory {
    fn folio_free(&self, pages: DevicePages) {
        self.pool.free(pages);
    }

    fn folio_split(&self, piece: DevicePages) {
        self.pool.split(piece);
    }

    fn migrate_to_ram(&self, fault: CpuFault<'_, Self>) -> FaultAnswer {
        match bring_back(&fault) {
            // Either the page came back, or somebody else has a reference to it and is about to let
            // go of it. Or it was told to fail, once.
            Ok(()) | Err(EAGAIN) => fault.retry(),
            Err(ENOMEM) => fault.out_of_memory(),
            Err(_) => fault.bus_error(),
        }
    }

    fn before_system_alloc(&self, _order: u32) -> Result {
        if self.fails_now() {
            return Err(EAGAIN);
        }
        if self.injection.fails(Site::SystemAlloc) {
            return Err(ENOMEM);
        }
        Ok(())
    }

    fn between(&self, step: Step) {
        self.injection.delay(step);
    }

    fn copy_to_system(&self, from: &DevicePage<'_, Self>, to: &mut SystemFolio) -> Result {
        if self.injection.fails(Site::CopyOut) {
            return Err(EIO);
        }
        to.fill_from(from)
    }
}

/// Brings back what a CPU has touched: a page, or a huge page that is mapped as one. What becomes of
/// the page that was touched decides.
fn bring_back(fault: &CpuFault<'_, DeviceMemory>) -> Result {
    let mut window = Window::new(fault.npages())?;
    let mut migration = fault.collect(&mut window)?;
    let mut outcome = Ok(());
    for slot in migration.slots() {
        let pages = slot.nth()..slot.nth() + (1 << slot.order());
        let filled = slot.fill_system();
        if pages.contains(&fault.nth()) {
            outcome = filled;
        }
    }
    let moved = migration.commit().moved();
    if moved == 0 && outcome.is_ok() {
        // Perhaps it is mm that has a reference, for as long as a CPU does nothing.
        hmm::drain_lru_batches();
    }
    outcome
}
