// SPDX-License-Identifier: GPL-2.0

//! Physical ranges that root reserves for a device, claimed in `/proc/iomem`.
//!
//! C header: [`include/linux/ioport.h`](srctree/include/linux/ioport.h).

use hmm::compat::parameter as value_of;
use kernel::{module_param::ModuleParamAccess, page::PAGE_SIZE, prelude::*, str::CString};

use crate::bindings;

/// A physical address, in bytes, for which root vouches: nothing else uses the memory there.
///
/// Only a module parameter creates one. The kernel can neither distinguish RAM reserved with
/// `memmap=` from memory that the firmware keeps for itself, nor tell whether someone else uses it.
/// So whoever loads the module vouches for it, as with a driver for persistent memory.
#[derive(Clone, Copy, Debug)]
pub struct PhysicalStart(u64);

impl PhysicalStart {
    /// Returns the address given by a parameter of the module. Does not sleep.
    pub fn from_parameter(parameter: &'static ModuleParamAccess<u64>) -> Self {
        Self(value_of(parameter))
    }

    /// Creates an address for tests that expect it to be refused.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(crate) fn for_test(address: u64) -> Self {
        Self(address)
    }

    /// Returns the address that is `bytes` above this one. Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when it would exceed `u64::MAX`.
    pub fn offset(self, bytes: u64) -> Result<Self> {
        Ok(Self(self.0.checked_add(bytes).ok_or(EINVAL)?))
    }

    /// Returns the address as a number, in bytes.
    pub fn address(self) -> u64 {
        self.0
    }
}

/// A claimed physical range that is not system RAM.
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
    /// Claims `size` reserved bytes from `start` on, under a copy of `name`.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when the range is not page aligned, or wraps around; [`EBUSY`] when the system
    /// uses a part of it as RAM, the range is not reserved, or someone else has claimed it;
    /// [`ENOMEM`].
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
        if ram != bindings::REGION_DISJOINT || !is_kept(start, size) {
            return Err(EBUSY);
        }
        let name = CString::try_from_fmt(fmt!("{name}"))?;
        // SAFETY: `iomem_resource` lives for ever; the claim keeps the copy of the name until the
        // resource is released.
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
        // INVARIANT: The range was just claimed.
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
        // SAFETY: Exactly this range is claimed, by the type invariant, and it is released once.
        unsafe {
            bindings::__release_region(&raw mut bindings::iomem_resource, self.start, self.size)
        };
    }
}

/// Returns whether a range was kept from the system. On x86-64 `memmap=` marks it as reserved. On
/// other architectures `mem=` hides the memory behind it, so nothing may be known of the range.
fn is_kept(start: u64, size: usize) -> bool {
    let (desc, wanted) = if cfg!(CONFIG_X86_64) {
        (bindings::IORES_DESC_RESERVED, bindings::REGION_INTERSECTS)
    } else {
        (bindings::IORES_DESC_NONE, bindings::REGION_DISJOINT)
    };
    intersects(start, size, bindings::IORESOURCE_MEM as usize, desc) == wanted
}

/// Returns how a range relates to the resources of a kind: `REGION_DISJOINT`, `REGION_INTERSECTS`
/// (inside), or `REGION_MIXED`.
fn intersects(start: u64, size: usize, flags: usize, desc: u32) -> u32 {
    // SAFETY: The function only reads the resource tree, under its lock.
    unsafe { bindings::region_intersects(start, size, flags, desc as usize) as u32 }
}
