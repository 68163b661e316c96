// SPDX-License-Identifier: GPL-2.0

//! Physical ranges that root keeps from the system for a device, claimed in `/proc/iomem`.
//!
//! C header: [`include/linux/ioport.h`](srctree/include/linux/ioport.h).

use kernel::{module_param::ModuleParamAccess, page::PAGE_SIZE, prelude::*, str::CString};

use crate::bindings;

/// A physical address, in bytes, that root vouches for: nothing else uses the memory there.
///
/// Only a parameter of a module makes one. The kernel can tell neither RAM that was kept with
/// `memmap=` from what the firmware keeps for itself, nor whether somebody else uses it; so this is
/// the word of who loads the module, as it is for a driver of persistent memory.
#[derive(Clone, Copy, Debug)]
pub struct PhysicalStart(u64);

impl PhysicalStart {
    /// Returns the address that a parameter of the module has. Does not sleep.
    pub fn from_parameter(parameter: &'static ModuleParamAccess<u64>) -> Self {
        Self(parameter.value())
    }

    /// Vouches for an address that is only refused.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(crate) fn for_test(address: u64) -> Self {
        Self(address)
    }

    /// Returns the address so many bytes behind this one. Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when there is none.
    pub fn offset(self, bytes: u64) -> Result<Self> {
        Ok(Self(self.0.checked_add(bytes).ok_or(EINVAL)?))
    }

    /// Returns the address as a number, in bytes.
    pub fn address(self) -> u64 {
        self.0
    }
}

/// A physical range that is claimed, and is not RAM of the system.
///
/// # Invariants
///
/// The range is claimed in `iomem_resource`, which refers to the name.
pub(crate) struct Claim {
    start: u64,
    size: u64,
    _name: CString,
}

impl Claim {
    /// Claims `size` reserved bytes from an address on, under `name`, of which it keeps a copy.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when the range is not page aligned, or wraps; [`EBUSY`] when the system uses a
    /// part of it as RAM, the range is not reserved, or somebody else has claimed it; [`ENOMEM`].
    pub(crate) fn new(start: PhysicalStart, size: usize, name: &CStr) -> Result<Self> {
        let start = start.address();
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
        let name = CString::try_from_fmt(fmt!("{name}"))?;
        // SAFETY: `iomem_resource` lives for ever; the claim keeps the copy of the name, and is
        // released before that is freed.
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
        Ok(Self {
            start,
            size: bytes,
            _name: name,
        })
    }

    /// Returns the first address, in bytes.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // SAFETY: Exactly this range was claimed, by the type invariant, and is released once.
        unsafe {
            bindings::__release_region(&raw mut bindings::iomem_resource, self.start, self.size)
        };
    }
}

/// Returns how a range lies to the resources of a kind: `REGION_DISJOINT`, `REGION_INTERSECTS`
/// (inside) or `REGION_MIXED`.
fn intersects(start: u64, size: usize, flags: usize, desc: u32) -> u32 {
    // SAFETY: The function only reads the tree of resources, under its lock.
    unsafe { bindings::region_intersects(start, size, flags, desc as usize) as u32 }
}
