// SPDX-License-Identifier: GPL-2.0

//! Physical address ranges: the one that device pages have, and ranges claimed in `/proc/iomem`.
//!
//! C header: [`include/linux/ioport.h`](srctree/include/linux/ioport.h).

use kernel::error::from_err_ptr;
use kernel::page::PAGE_SHIFT;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;

use crate::bindings;
use crate::vram::Vram;
use crate::BLOCK_PAGES;

/// What kind of memory a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No CPU can reach it: `MEMORY_DEVICE_PRIVATE`.
    Private,
    /// CPUs reach it like any other memory: `MEMORY_DEVICE_COHERENT`.
    Coherent,
}

/// The physical addresses that the pages of a device have, and the memory behind them.
///
/// For device-private memory, the addresses are ones that nothing else has: no CPU can reach
/// anything there; they only number the `struct page`s. For coherent memory they are those of the
/// memory itself.
///
/// # Invariants
///
/// The address range is claimed in `iomem_resource`, starts at a multiple of the section size
/// (private) or of a block (coherent), and has `vram.npages()` pages.
pub struct DeviceRegion {
    kind: Kind,
    range: ClaimedRange,
    vram: Vram,
}

impl DeviceRegion {
    /// Finds free physical addresses for device-private pages, one for each page of `vram`, and
    /// claims them under `name` in `/proc/iomem`.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`ERANGE`] or [`EBUSY`] when no such range is free, [`ENOMEM`]; [`EINVAL`] when `vram` is
    /// coherent memory.
    ///
    /// C function: `request_free_mem_region()`.
    pub fn private(vram: Vram, name: &'static CStr) -> Result<Self> {
        if vram.start().is_some() {
            return Err(EINVAL);
        }
        let size = vram.npages() * PAGE_SIZE;
        // SAFETY: `iomem_resource` lives for ever; `name` is static.
        let res = from_err_ptr(unsafe {
            bindings::request_free_mem_region(
                &raw mut bindings::iomem_resource,
                size,
                name.as_char_ptr(),
            )
        })?;
        // SAFETY: The resource was just made and is not freed before `drop`.
        let (start, end) = unsafe { ((*res).start, (*res).end) };
        // INVARIANT: The C function claims a range that starts at a section.
        Ok(Self {
            kind: Kind::Private,
            range: ClaimedRange {
                start,
                size: end - start + 1,
            },
            vram,
        })
    }

    /// The addresses of coherent memory are its own; they are claimed under `name` in `/proc/iomem`.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when `vram` is not [`Vram::coherent`], or its start is no multiple of 2 MiB;
    /// [`EBUSY`] when the system uses a part of the range as RAM, the range is not reserved, or
    /// somebody else has claimed it.
    pub fn coherent(vram: Vram, name: &'static CStr) -> Result<Self> {
        let start = vram.start().ok_or(EINVAL)?;
        if start % (BLOCK_PAGES * PAGE_SIZE) as u64 != 0 {
            return Err(EINVAL);
        }
        // INVARIANT: Claimed, and checked to start at a block.
        Ok(Self {
            kind: Kind::Coherent,
            range: ClaimedRange::new(start, vram.npages() * PAGE_SIZE, name)?,
            vram,
        })
    }

    /// What kind of memory it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The first page frame number.
    pub(crate) fn first_pfn(&self) -> usize {
        (self.range.start >> PAGE_SHIFT) as usize
    }

    /// The address range of the pages, in bytes, the end inclusive.
    pub(crate) fn range(&self) -> bindings::range {
        bindings::range {
            start: self.range.start,
            end: self.range.start + (self.npages() * PAGE_SIZE) as u64 - 1,
        }
    }

    /// The number of pages.
    pub fn npages(&self) -> usize {
        self.vram.npages()
    }

    /// The memory behind the pages.
    pub fn vram(&self) -> &Vram {
        &self.vram
    }
}

/// A physical range that is claimed, and is not RAM of the system.
///
/// # Invariants
///
/// The range is claimed in `iomem_resource`.
pub(crate) struct ClaimedRange {
    start: u64,
    size: u64,
}

impl ClaimedRange {
    /// Claims `size` reserved bytes from address `start` on; see [`Vram::fixed`] for the errors.
    pub(crate) fn new(start: u64, size: usize, name: &'static CStr) -> Result<Self> {
        let bytes = size as u64;
        if start % PAGE_SIZE as u64 != 0 || start.checked_add(bytes).is_none() {
            return Err(EINVAL);
        }
        let ram = intersects(
            start,
            size,
            bindings::IORESOURCE_SYSTEM_RAM,
            bindings::IORES_DESC_NONE,
        );
        let reserved = intersects(
            start,
            size,
            bindings::IORESOURCE_MEM as usize,
            bindings::IORES_DESC_RESERVED,
        );
        if ram != bindings::REGION_DISJOINT || reserved != bindings::REGION_INTERSECTS {
            return Err(EBUSY);
        }
        // SAFETY: `iomem_resource` lives for ever; `name` is static.
        let res = unsafe {
            bindings::__request_region(
                &raw mut bindings::iomem_resource,
                start,
                bytes,
                name.as_char_ptr(),
                0,
            )
        };
        if res.is_null() {
            return Err(EBUSY);
        }
        // INVARIANT: The range was claimed just now.
        Ok(Self { start, size: bytes })
    }
}

impl Drop for ClaimedRange {
    fn drop(&mut self) {
        // SAFETY: Exactly this range was claimed, by the type invariant, and is released once.
        unsafe {
            bindings::__release_region(&raw mut bindings::iomem_resource, self.start, self.size)
        };
    }
}

/// How a range lies to the resources of a kind: `REGION_DISJOINT`, `REGION_INTERSECTS` (inside) or
/// `REGION_MIXED`.
fn intersects(start: u64, size: usize, flags: usize, desc: u32) -> u32 {
    // SAFETY: This only reads the tree of resources, under its lock.
    unsafe { bindings::region_intersects(start, size, flags, desc as usize) as u32 }
}
