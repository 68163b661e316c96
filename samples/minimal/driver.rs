// SPDX-License-Identifier: GPL-2.0

//! The smallest driver with device memory: a starting point to copy from.
//!
//! `/dev/hmm_minimal` has one command: `ioctl(fd, _IO('m', 0), address)` moves the page of the
//! calling process at that address to the device, and returns 1, or 0 when the page cannot move.
//! A CPU that touches the page brings it back.
//!
//! Left out, and to be found in dmirror: several pages at once, eviction when the device is full,
//! retries for pages that others have locked.

#![deny(unsafe_code)]

use hmm::CpuFault;
use hmm::DevPagemap;
use hmm::DevPagemapOps;
use hmm::DevicePages;
use hmm::DeviceRegion;
use hmm::FaultAnswer;
use hmm::Huge;
use hmm::LockedVma;
use hmm::Migration;
use hmm::Node;
use hmm::NodeOps;
use hmm::Vram;
use hmm::Window;
use hmm::BLOCK_PAGES;
use kernel::alloc::flags::GFP_KERNEL;
use kernel::alloc::KVec;
use kernel::ioctl::_IO;
use kernel::new_spinlock_irq;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::SpinLockIrq;

module! {
    type: Minimal,
    name: "minimal",
    authors: ["The dmirror authors"],
    description: "The smallest driver with device memory",
    license: "GPL",
}

/// The command of the device file.
const TO_DEVICE: u32 = _IO('m' as u32, 0);

/// Pages of the device.
const NPAGES: usize = BLOCK_PAGES;

/// The driver's side of the device pages: which of them are free.
#[pin_data]
struct Memory {
    // mm gives pages back in any context: the lock is irq-safe, and nothing allocates under it.
    #[pin]
    free: SpinLockIrq<KVec<usize>>,
}

impl Memory {
    fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            free <- {
                let mut free = KVec::with_capacity(NPAGES, GFP_KERNEL)?;
                for page in 0..NPAGES {
                    free.push(page, GFP_KERNEL)?;
                }
                new_spinlock_irq!(free)
            },
        })
    }
}

impl DevPagemapOps for Memory {
    fn folio_free(&self, pages: DevicePages) {
        // There was room for each page at the start, so there is now.
        let _ = self.free.lock().push_within_capacity(pages.first());
    }

    fn migrate_to_ram(&self, fault: CpuFault<'_, Self>) -> FaultAnswer {
        let result = Window::new(fault.npages()).and_then(|mut window| {
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
}

/// Moves the page of the current process at `address` to the device; returns how many moved.
fn to_device(pagemap: &DevPagemap<Memory>, address: usize) -> Result<usize> {
    // Taken before anything is locked, and given back by drop if it is not used.
    let page = pagemap.ops().free.lock().pop().ok_or(ENOMEM)?;
    let page = DevicePages::new(page, 0)?;
    let folio = pagemap
        .take(page)
        .inspect_err(|_| pagemap.ops().folio_free(page))?;

    let mut window = Window::new(1)?;
    let task = kernel::current!();
    let mmap = task.mm().ok_or(EINVAL)?.mmap_read_lock();
    let vma = LockedVma::lookup(&mmap, address).ok_or(EINVAL)?;
    let range = address..address.checked_add(PAGE_SIZE).ok_or(EINVAL)?;
    let mut migration = Migration::to_device(vma, range, Huge::Split, pagemap, &mut window)?;
    if let Some(slot) = migration.slots().next() {
        slot.fill(folio)?;
    }
    let moved = migration.commit().moved();
    Ok(moved)
}

/// An open file: it needs nothing but the device.
struct MinimalFile;

impl NodeOps for MinimalFile {
    type OwnerModule = crate::LocalModule;
    type Device = Pin<KBox<DevPagemap<Memory>>>;
    type File = Arc<Self::Device>;

    fn open(device: &Arc<Self::Device>) -> Result<Self::File> {
        Ok(device.clone())
    }

    fn ioctl(
        device: kernel::sync::ArcBorrow<'_, Self::Device>,
        cmd: u32,
        arg: usize,
    ) -> Result<isize> {
        match cmd {
            TO_DEVICE => to_device(&device, arg).map(|moved| moved as isize),
            _ => Err(ENOTTY),
        }
    }
}

/// The device, from load to unload. Unloading brings every page back.
struct Minimal {
    _node: Pin<KBox<Node<MinimalFile>>>,
}

impl kernel::Module for Minimal {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let vram = Vram::lazy(NPAGES)?;
        vram.populate(0)?;
        let region = DeviceRegion::private(vram, c"minimal")?;
        let pagemap = KBox::pin_init(DevPagemap::new(region, Memory::new()), GFP_KERNEL)?;
        let node = Node::new(c"hmm_minimal", Arc::new(pagemap, GFP_KERNEL)?);
        Ok(Self {
            _node: KBox::pin_init(node, GFP_KERNEL)?,
        })
    }
}
