// SPDX-License-Identifier: GPL-2.0

//! The memory of the device, as the CPU accesses it: the BAR, the directory at its start, and a
//! copy engine that is the CPU.
//!
//! # Unsafe
//!
//! The kernel crate maps a BAR and gives access to its registers without `unsafe`. Three things
//! need it here: selecting a part of the BAR ([`BarMemory::with_page`]); copying between that and a
//! page, which must not become a slice; and implementing [`CopyEngine`], which is a promise.

use core::ptr::slice_from_raw_parts_mut;

use hmm::{
    folio::SystemPages,
    memremap::{DevPagemapOps, DevicePages},
    migrate::{CopyBatch, CopyEngine, CopyOp, Place},
};
use kernel::{
    device::Core,
    io::{Io, IoBackend, IoBase, IoCopyable, Mmio, MmioBackend},
    page::PAGE_SIZE,
    pci,
    prelude::*,
};

use crate::abi;

/// The number of the BAR that contains the memory.
const BAR: u32 = 2;

static ZEROES: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

/// The memory of the device.
///
/// The owner can access the memory. The mapping ends when this is dropped, or when the device is
/// unbound, whichever comes first. After that, copies fail.
pub(crate) struct BarMemory {
    bar: pci::DevresBar,
    layout: abi::Layout,
}

impl BarMemory {
    /// Maps the BAR of a device, and writes an empty directory.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`] when the device has no such BAR, or the BAR cannot be mapped; [`EBUSY`] when
    /// someone else has claimed it; [`ENOSPC`] when it is too small.
    pub(crate) fn new(pdev: &pci::Device<Core<'_>>) -> Result<Self> {
        pdev.enable_device_mem()?;
        let bar = pdev.iomap_region(BAR, c"hmm_ivshmem")?;
        let layout = abi::Layout::new((&bar).size(), PAGE_SIZE).ok_or(ENOSPC)?;
        let memory = Self {
            bar: bar.into_devres()?,
            layout,
        };
        for page in 0..layout.npages {
            memory.set_entry(page, 0, 0);
        }
        memory.write(abi::NPAGES_AT, layout.npages as u64);
        memory.write(abi::DATA_AT, layout.data as u64);
        memory.write(abi::PAGE_SIZE_AT, PAGE_SIZE as u64);
        memory.write(0, abi::MAGIC);
        Ok(memory)
    }

    /// Returns the number of data pages.
    pub(crate) fn npages(&self) -> usize {
        self.layout.npages
    }

    /// Records the owner of data page `page`, and its address there; 0 and 0 if it has no owner.
    ///
    /// Does not sleep and takes no lock.
    pub(crate) fn set_entry(&self, page: usize, pid: u64, address: u64) {
        let entry = self.layout.entry(page);
        self.write(entry, pid);
        self.write(entry + size_of::<u64>(), address);
    }

    fn write(&self, offset: usize, value: u64) {
        // Nobody reads the directory of a device that is gone.
        if let Some(bar) = self.bar.try_access() {
            let _ = bar.try_write64(value, offset);
        }
    }

    /// Fails when the device was removed without notice: then all bits read as ones.
    fn check_presence(&self) -> Result {
        let bar = self.bar.try_access().ok_or(ENODEV)?;
        match bar.try_read64(0)? {
            abi::MAGIC => Ok(()),
            _ => Err(EIO),
        }
    }

    /// Calls `with` on a data page. `with` must not sleep: it runs in an RCU read section, which
    /// keeps the mapping.
    fn with_page<R>(&self, page: usize, with: impl FnOnce(Mmio<'_, [u8]>) -> R) -> Result<R> {
        let bar = self.bar.try_access().ok_or(ENODEV)?;
        let region = (&*bar).as_view();
        let start = self.layout.page(page);
        if page >= self.layout.npages || start + PAGE_SIZE > region.size() {
            return Err(EINVAL);
        }
        let base: *mut u8 = MmioBackend::as_ptr(region).cast();
        let part = slice_from_raw_parts_mut(base.wrapping_add(start), PAGE_SIZE);
        // SAFETY: The part lies in the region, as checked above.
        Ok(with(unsafe { MmioBackend::project_view(region, part) }))
    }

    fn copy_op(&self, op: &CopyOp<'_>) -> Result {
        match (&op.src, &op.dst) {
            (Place::System(from), Place::Device(to)) => {
                self.each_page(*to, |n, page| copy_from_system(from, n, page))
            }
            (Place::Zero, Place::Device(to)) => {
                self.each_page(*to, |_, page| page.copy_from_slice(&ZEROES))
            }
            (Place::Device(from), Place::System(to)) => {
                self.each_page(*from, |n, page| copy_to_system(to, n, page))
            }
            _ => Err(EINVAL),
        }
    }

    /// Calls `with` on each of the data pages, with its index among them.
    fn each_page(&self, pages: DevicePages, with: impl Fn(usize, Mmio<'_, [u8]>)) -> Result {
        for (n, page) in pages.range().enumerate() {
            self.with_page(page, |view| with(n, view))?;
        }
        Ok(())
    }
}

impl Drop for BarMemory {
    fn drop(&mut self) {
        self.write(0, 0);
    }
}

// SAFETY: This CPU completes each operation before `copy` returns, or the operation is rejected, or
// `copy` fails. Nothing continues after that.
//
// Writes to a PCI device are posted, and may still be in flight when they have been issued. Reads
// take the same path, through the BAR, and do not overtake them.
//
// The engine cannot be cloned: its owner is the driver's side of the only pagemap for the BAR.
unsafe impl<T: DevPagemapOps> CopyEngine<T> for BarMemory {
    type Pending = ();

    fn copy(&self, batch: &mut CopyBatch<'_>) -> Result {
        batch.for_each(|op| self.copy_op(op));
        // Data read from a device that is gone must not become the data of a process.
        self.check_presence()
    }
}

/// Copies page `n` of `from` to a page of the BAR.
fn copy_from_system(from: &SystemPages<'_>, n: usize, to: Mmio<'_, [u8]>) {
    from.with_page(n, |from| {
        // SAFETY: The page is readable for PAGE_SIZE bytes, which is the size of the view, and is
        // not part of a BAR.
        unsafe { MmioBackend::copy_to_io(to, from.as_ptr()) }
    });
}

/// Copies a page of the BAR to page `n` of `to`.
fn copy_to_system(to: &SystemPages<'_>, n: usize, from: Mmio<'_, [u8]>) {
    to.with_page(n, |to| {
        // SAFETY: The page is writable for PAGE_SIZE bytes, which is the size of the view: only the
        // engine of the migration, which is this code, writes to it. It is not part of a BAR.
        unsafe { MmioBackend::copy_from_io(from, to.as_ptr()) }
    });
}
