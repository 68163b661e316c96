// SPDX-License-Identifier: GPL-2.0

//! A VMA under the `mmap_lock`, and where an address space ends.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h).

use core::ops::Deref;

use kernel::mm::{
    virt::{flags, vm_flags_t, VmaRef},
    MmWithUser, MmapReadGuard,
};

use crate::bindings;

/// A VMA of an address space whose `mmap_lock` is held at least for reading.
///
/// A [`VmaRef`] alone does not say that: it may rest on the lock of the VMA only, and migration
/// needs the `mmap_lock`.
///
/// # Invariants
///
/// The `mmap_lock` of the VMA's address space is held for `'a`.
#[derive(Clone, Copy)]
pub struct LockedVma<'a> {
    vma: &'a VmaRef,
}

impl<'a> LockedVma<'a> {
    /// Returns the VMA that contains `address` (bytes), if there is one.
    ///
    /// Does not sleep.
    ///
    /// C function: `vma_lookup()`.
    pub fn lookup(mmap: &'a MmapReadGuard<'_>, address: usize) -> Option<Self> {
        // INVARIANT: The guard holds the lock, and is borrowed for 'a.
        mmap.vma_lookup(address).map(|vma| Self { vma })
    }

    /// Returns whether it is of a kind whose pages never migrate: of hugetlb, or mapped by a device.
    /// There are others, which a migration finds out.
    ///
    /// Does not sleep.
    ///
    /// C: `is_vm_hugetlb_page()`, `VM_SPECIAL`.
    pub fn never_migrates(&self) -> bool {
        const KINDS: vm_flags_t =
            flags::HUGETLB | flags::IO | flags::DONTEXPAND | flags::PFNMAP | flags::MIXEDMAP;
        self.vma.flags() & KINDS != 0
    }

    /// Returns whether there can be anonymous pages in it: not before one was made.
    ///
    /// Does not sleep. A fault that comes just now may make the first one.
    ///
    /// C: `vm_area_struct.anon_vma`.
    pub fn may_have_anonymous_pages(&self) -> bool {
        // SAFETY: The VMA is valid, by the type invariant.
        let anon_vma = unsafe { &raw const (*self.vma.as_ptr()).anon_vma };
        // SAFETY: The member is valid while the VMA is. A fault may set it meanwhile, so the
        // compiler shall read it once.
        !unsafe { anon_vma.read_volatile() }.is_null()
    }

    /// Returns whether one entry of the page table maps a huge page of device-private memory at an
    /// address (bytes), which must lie in the VMA.
    ///
    /// Does not sleep. The answer may be old when it arrives.
    pub(crate) fn maps_huge_device_page(&self, address: usize) -> bool {
        if !(self.vma.start()..self.vma.end()).contains(&address) {
            return false;
        }
        // SAFETY: The `mmap_lock` is held, by the type invariant, and the address lies in the VMA.
        unsafe { bindings::maps_huge_device_page(self.vma.as_ptr(), address) }
    }

    /// # Safety
    ///
    /// The caller must uphold the type invariant.
    pub(crate) unsafe fn new(vma: &'a VmaRef) -> Self {
        // INVARIANT: By the safety requirement.
        Self { vma }
    }
}

impl Deref for LockedVma<'_> {
    type Target = VmaRef;

    fn deref(&self) -> &VmaRef {
        self.vma
    }
}

/// Returns the end of an address space: the first address, in bytes, that no user mapping can have.
///
/// Does not sleep.
///
/// C: `mm_struct.task_size`.
pub fn task_size(mm: &MmWithUser) -> usize {
    // SAFETY: The struct is valid while we have a reference to it. The member is written by exec
    // alone, before the task returns to user space, so before any program could have handed the
    // address space to a driver.
    unsafe { (*mm.as_raw()).__bindgen_anon_1.task_size }
}
