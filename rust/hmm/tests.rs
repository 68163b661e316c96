// SPDX-License-Identifier: GPL-2.0

//! KUnit suites of this crate, and the device that they share.
//!
//! They are compiled only for a kernel with `CONFIG_KUNIT=y`, and run when the module is loaded.

mod folio;
mod memory;
mod migrate;
mod pagemap;

use kernel::alloc::flags::GFP_KERNEL;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::atomic::ordering::Relaxed;
use kernel::sync::atomic::Atomic;
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
        if self.bad_copies.get() > 0 {
            self.bad_copies.set(self.bad_copies.get() - 1);
            return Err(EIO);
        }
        to.fill_from(from)
    }
}

type Pagemap = Pin<KBox<DevPagemap<Probe>>>;

/// A registered device of `blocks` blocks, all of them with memory behind them.
fn device(blocks: usize) -> Result<Pagemap> {
    let vram = Vram::lazy(blocks * BLOCK_PAGES)?;
    for block in 0..blocks {
        vram.populate(block)?;
    }
    let region = DeviceRegion::private(vram, c"hmm test")?;
    KBox::pin_init(DevPagemap::new(region, Probe::default()), GFP_KERNEL)
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
