// SPDX-License-Identifier: GPL-2.0

//! A CPU that touched a page on the device.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h), `struct vm_fault`,
//! source: [`mm/memory.c`](srctree/mm/memory.c), `do_swap_page()`.

use core::ptr::NonNull;

use kernel::mm::virt::VmaRef;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;

use crate::bindings;
use crate::direction::ToSystem;
use crate::folio::Effort;
use crate::migrate::Collected;
use crate::migrate::Huge;
use crate::migrate::Migration;
use crate::ops::DevPagemapOps;
use crate::pagemap::DevPagemap;
use crate::vma::LockedVma;
use crate::window::Window;

/// A fault on a page of the device, which the driver must answer.
///
/// Consuming it is the only way to make a [`FaultAnswer`].
///
/// # Invariants
///
/// `vmf` is valid for `'f`, its page is one of `pagemap`, locked and referenced by the core, and
/// the `mmap_lock` of its VMA is held.
pub struct CpuFault<'f, T: DevPagemapOps> {
    vmf: NonNull<bindings::vm_fault>,
    pagemap: &'f DevPagemap<T>,
}

impl<'f, T: DevPagemapOps> CpuFault<'f, T> {
    /// # Safety
    ///
    /// The caller must uphold the type invariant.
    pub(crate) unsafe fn new(vmf: *mut bindings::vm_fault, pagemap: &'f DevPagemap<T>) -> Self {
        // INVARIANT: By the safety requirement.
        Self {
            // SAFETY: By the safety requirement.
            vmf: unsafe { NonNull::new_unchecked(vmf) },
            pagemap,
        }
    }

    /// The pages of the device.
    pub fn pagemap(&self) -> &'f DevPagemap<T> {
        self.pagemap
    }

    /// The address of the page that was touched, in bytes, page aligned.
    pub fn address(&self) -> usize {
        // SAFETY: `vmf` is valid by the type invariant.
        let info = unsafe { &self.vmf.as_ref().__bindgen_anon_1 };
        info.address & !(PAGE_SIZE - 1)
    }

    /// The VMA that the address lies in.
    pub fn vma(&self) -> LockedVma<'f> {
        // SAFETY: `vmf` is valid by the type invariant.
        let info = unsafe { &self.vmf.as_ref().__bindgen_anon_1 };
        // SAFETY: The VMA is valid for 'f, by the type invariant.
        let vma = unsafe { VmaRef::from_raw(info.vma) };
        // SAFETY: Its `mmap_lock` is held for 'f, by the type invariant.
        unsafe { LockedVma::new(vma) }
    }

    /// The number of pages that the touched page table entry maps: 1, or
    /// [`BLOCK_PAGES`](crate::BLOCK_PAGES). They come back together.
    pub fn npages(&self) -> usize {
        // SAFETY: `vmf` is valid by the type invariant. The core leaves `pte` alone for an entry
        // that maps a huge page.
        if unsafe { self.vmf.as_ref().pte.is_null() } {
            crate::BLOCK_PAGES
        } else {
            1
        }
    }

    /// Which of them was touched, counted from 0.
    pub fn nth(&self) -> usize {
        self.address() / PAGE_SIZE % self.npages()
    }

    /// Collects the [`npages`](Self::npages) pages of the touched entry for a migration to system
    /// memory, with a window for that many.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when the VMA is of a kind that never migrates, or the window is too small.
    ///
    /// C function: `migrate_vma_setup()` with `fault_page`.
    pub fn collect<'m>(
        &'m self,
        window: &'m mut Window,
    ) -> Result<Migration<'m, Collected, ToSystem<'m, T>>> {
        let bytes = self.npages() * PAGE_SIZE;
        let start = self.address() & !(bytes - 1);
        // SAFETY: `vmf` is valid by the type invariant.
        let page = NonNull::new(unsafe { self.vmf.as_ref().page });
        let slots = window.slots(self.npages())?;
        let range = start..start + bytes;
        // mm warns of one that other processes may share and that has to stay, or to be cut (see
        // Documentation/known-mm-issues.md): that is worth an effort, and one before it is collected.
        let spare = if self.npages() > 1 && !self.is_writable() {
            self.pagemap
                .alloc_huge(self.vma(), start, Effort::Much)
                .ok()
        } else {
            None
        };
        let (vma, huge) = (self.vma(), Huge::Keep);
        Migration::from_vma(vma, range, huge, self.pagemap, slots, page, spare)
    }

    /// Whether the process may write to a huge page without a fault.
    fn is_writable(&self) -> bool {
        // SAFETY: `vmf` is valid by the type invariant.
        let fault = unsafe { self.vmf.as_ref() };
        // SAFETY: The core has set the entry before it called us. Any value does for the function.
        let pmd = unsafe { fault.__bindgen_anon_2.orig_pmd };
        // SAFETY: As above.
        let entry = unsafe { bindings::softleaf_from_pmd(pmd) };
        // SAFETY: As above.
        unsafe { bindings::softleaf_is_device_private_write(entry) }
    }

    /// The page came back, or somebody else has changed the page table; the CPU tries again.
    ///
    /// If neither is the case, it faults again at once, for ever. Does not sleep.
    pub fn retry(self) -> FaultAnswer {
        FaultAnswer(0)
    }

    /// There was no memory to bring the page back to. The core prints a line about that, at a
    /// bounded rate, and the CPU tries again; so this is for the case that nothing else helps. Does
    /// not sleep.
    pub fn out_of_memory(self) -> FaultAnswer {
        FaultAnswer(bindings::vm_fault_reason_VM_FAULT_OOM)
    }

    /// The device cannot give the data back: the task gets `SIGBUS`. Does not sleep.
    pub fn bus_error(self) -> FaultAnswer {
        FaultAnswer(bindings::vm_fault_reason_VM_FAULT_SIGBUS)
    }
}

/// What becomes of a CPU that touched a page on the device.
#[must_use]
pub struct FaultAnswer(bindings::vm_fault_t);

impl FaultAnswer {
    pub(crate) fn into_raw(self) -> bindings::vm_fault_t {
        self.0
    }
}
