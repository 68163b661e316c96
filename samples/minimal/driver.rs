// SPDX-License-Identifier: GPL-2.0

//! The smallest driver for device memory: a starting point to copy.
//!
//! `/dev/hmm_minimal` has one command: `ioctl(fd, _IO('m', 0), address)` moves the page of the
//! calling process at that address to the device, and returns 1, or 0 when the page cannot move.
//! When a CPU touches the page, it moves back.
//!
//! dmirror has more: several pages at once, eviction when the device is full, and retries for pages
//! that others have locked.

#![deny(unsafe_code)]

use emu::{
    device::{DeviceOps, Emulated, Pagemap},
    device_file::{DeviceFileOps, DeviceFiles, Opened},
    memory::Memory,
};
use hmm::{
    // From 7.3 on, `kernel` has them.
    compat::{new_spinlock_irq, SpinLockIrq},
    memremap::{CpuFault, DevicePages, FaultAnswer, Options, HPAGE_PMD_NR},
    migrate::{LargeFolios, MigrateBuffer, Migration},
    vma::LockedVma,
};
use kernel::{
    ioctl::_IO,
    page::PAGE_SIZE,
    prelude::*,
    sync::{Arc, ArcBorrow},
};

module! {
    type: Minimal,
    name: "minimal",
    authors: ["The dmirror authors"],
    description: "The smallest driver with device memory",
    license: "GPL",
}

/// The command of the device file.
const TO_DEVICE: u32 = _IO('m' as u32, 0);

/// Number of pages of the device.
const NPAGES: usize = HPAGE_PMD_NR;

/// The driver's side of the device pages: a list of those that are free.
#[pin_data]
struct Pool {
    // mm gives pages back in any context: the lock is irq-safe, and nothing allocates under it.
    #[pin]
    free: SpinLockIrq<KVec<usize>>,
}

impl Pool {
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

    fn put(&self, pages: DevicePages) {
        // There was room for each page initially, so there is now.
        let _ = self.free.lock().push_within_capacity(pages.first());
    }
}

impl DeviceOps for Pool {
    type FolioData = ();
    type Hooks = ();

    fn folio_free(&self, pages: DevicePages, (): ()) {
        self.put(pages);
    }

    fn migrate_to_ram(&self, fault: CpuFault<'_, Emulated<Self>>) -> FaultAnswer {
        match fault.migrate_to_system() {
            Ok(()) => fault.retry(),
            Err(ENOMEM) => fault.out_of_memory(),
            Err(_) => fault.bus_error(),
        }
    }
}

/// Moves the page at `address` of this process to the device; returns the number of moved pages.
fn to_device(pagemap: &Pagemap<Pool>, address: usize) -> Result<usize> {
    // Reserve it before anything is locked; drop gives the page back if it is not used.
    let page = pagemap.ops().free.lock().pop().ok_or(ENOMEM)?;
    let page = DevicePages::new(page, 0)?;
    let folio = pagemap
        .reserve(page, ())
        .inspect_err(|_| pagemap.ops().put(page))?;

    let mut buffer = MigrateBuffer::new(1)?;
    let task = kernel::current!();
    let mmap = task.mm().ok_or(EINVAL)?.mmap_read_lock();
    let vma = LockedVma::lookup(&mmap, address).ok_or(EINVAL)?;
    let range = address..address.checked_add(PAGE_SIZE).ok_or(EINVAL)?;
    let mut migration = Migration::to_device(vma, range, LargeFolios::Split, pagemap, &mut buffer)?;
    if let Some(entry) = migration.entries().next() {
        entry.set_dst(folio)?;
    }
    let moved = migration.copy()?.commit()?.moved();
    Ok(moved)
}

/// An open file: it needs nothing except the device.
struct MinimalFile;

impl DeviceFileOps for MinimalFile {
    type OwnerModule = crate::LocalModule;
    type Device = Pin<KBox<Pagemap<Pool>>>;
    type File = Arc<Self::Device>;

    fn open(device: &Arc<Self::Device>) -> Result<Self::File> {
        Ok(device.clone())
    }

    fn ioctl(
        device: ArcBorrow<'_, Self::Device>,
        _: Opened<'_, Self>,
        cmd: u32,
        arg: usize,
    ) -> Result<isize> {
        match cmd {
            TO_DEVICE => to_device(&device, arg).map(|moved| moved as isize),
            _ => Err(ENOTTY),
        }
    }
}

/// The device, from load to unload. On unload, every page moves back.
struct Minimal {
    _files: DeviceFiles<MinimalFile>,
}

impl kernel::Module for Minimal {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let memory = Memory::lazy(NPAGES)?;
        memory.populate(0..NPAGES)?;
        let pagemap = Emulated::new(memory, c"minimal", Options::new()?, Pool::new())?;
        let device = Arc::new(KBox::pin_init(pagemap, GFP_KERNEL)?, GFP_KERNEL)?;
        let mut devices = KVec::new();
        devices.push((c"hmm_minimal", device), GFP_KERNEL)?;
        Ok(Self {
            _files: DeviceFiles::new(devices)?,
        })
    }
}
