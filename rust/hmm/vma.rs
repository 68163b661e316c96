// SPDX-License-Identifier: GPL-2.0

//! A VMA under the `mmap_lock`, and the end of an address space.
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
/// A [`VmaRef`] alone does not prove that: it may rely on the lock of the VMA only, and a migration
/// requires the `mmap_lock`.
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
        // INVARIANT: The guard holds the `mmap_lock`, and is borrowed for 'a.
        mmap.vma_lookup(address).map(|vma| Self { vma })
    }

    /// Returns whether the VMA is of a kind whose pages never migrate: hugetlb, or mapped by a
    /// device. A migration detects the other kinds.
    ///
    /// Does not sleep.
    ///
    /// C: `is_vm_hugetlb_page()`, `VM_SPECIAL`.
    pub fn never_migrates(&self) -> bool {
        const KINDS: vm_flags_t =
            flags::HUGETLB | flags::IO | flags::DONTEXPAND | flags::PFNMAP | flags::MIXEDMAP;
        self.vma.flags() & KINDS != 0
    }

    /// Returns whether the VMA may contain anonymous pages; it does not before the first one was
    /// created.
    ///
    /// Does not sleep. A concurrent fault may create the first one.
    ///
    /// C: `vm_area_struct.anon_vma`.
    pub fn may_have_anonymous_pages(&self) -> bool {
        // SAFETY: The VMA is valid, by the type invariant.
        let anon_vma = unsafe { &raw const (*self.vma.as_ptr()).anon_vma };
        // SAFETY: The member is valid while the VMA is. A concurrent fault may set it, so the
        // compiler must read it exactly once.
        !unsafe { anon_vma.read_volatile() }.is_null()
    }

    /// Returns whether a single page table entry maps a huge page of device-private memory at
    /// `address` (bytes), which must lie in the VMA.
    ///
    /// Does not sleep. The answer may be stale.
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

/// Returns the end of an address space: the first address, in bytes, that no user mapping can
/// contain.
///
/// Does not sleep.
///
/// C: `mm_struct.task_size`.
pub fn task_size(mm: &MmWithUser) -> usize {
    // SAFETY: The struct is valid while we have a reference to it. Only exec writes the member,
    // before the task returns to user space, and so before any program can have passed the address
    // space to a driver.
    unsafe { (*mm.as_raw()).__bindgen_anon_1.task_size }
}
