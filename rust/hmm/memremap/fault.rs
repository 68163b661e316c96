// SPDX-License-Identifier: GPL-2.0

//! A CPU fault on a page that is on the device.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h), `struct vm_fault`,
//! source: [`mm/memory.c`](srctree/mm/memory.c), `do_swap_page()`.

use core::{cell::Cell, ops::Range, ptr::NonNull};

use kernel::{mm::virt::VmaRef, page::PAGE_SIZE, prelude::*};

use super::{DevPagemap, DevPagemapOps, Frame, HPAGE_PMD_NR};
use crate::{bindings, vma::LockedVma};

/// A CPU fault on a page of the device, which the driver must answer.
///
/// Consuming it is the only way to create a [`FaultAnswer`].
///
/// # Invariants
///
/// `vmf` is valid for `'f`, its page is one of `pagemap`, locked and referenced by the core, and
/// the `mmap_lock` of its VMA is held.
///
/// # Examples
///
/// ```
/// # use hmm::memremap::{CpuFault, DevPagemapOps, FaultAnswer};
/// # use kernel::prelude::*;
/// fn answer<T: DevPagemapOps>(fault: CpuFault<'_, T>) -> FaultAnswer {
///     match fault.migrate_to_system() {
///         Ok(()) => fault.retry(),
///         Err(ENOMEM) => fault.out_of_memory(),
///         Err(_) => fault.bus_error(),
///     }
/// }
/// ```
pub struct CpuFault<'f, T: DevPagemapOps> {
    vmf: NonNull<bindings::vm_fault>,
    pagemap: &'f DevPagemap<T>,
    /// The start and the end of the last attempted range, the number of pages that moved, and the
    /// error that kept the touched page on the device.
    outcome: Cell<(usize, usize, usize, Option<Error>)>,
}

impl<'f, T: DevPagemapOps> CpuFault<'f, T> {
    /// # Safety
    ///
    /// The caller must uphold the type invariant.
    pub(super) unsafe fn new(vmf: *mut bindings::vm_fault, pagemap: &'f DevPagemap<T>) -> Self {
        // INVARIANT: By the safety requirement.
        Self {
            // SAFETY: `vmf` is valid, by the safety requirement, and so not null.
            vmf: unsafe { NonNull::new_unchecked(vmf) },
            pagemap,
            outcome: Cell::new((0, 0, 0, None)),
        }
    }

    /// Returns the pagemap of the device.
    pub fn pagemap(&self) -> &'f DevPagemap<T> {
        self.pagemap
    }

    /// Returns the address of the page that was touched, in bytes, page aligned.
    pub fn address(&self) -> usize {
        // SAFETY: `vmf` is valid, by the type invariant.
        let info = unsafe { &self.vmf.as_ref().__bindgen_anon_1 };
        info.address & !(PAGE_SIZE - 1)
    }

    /// Returns the VMA that contains the address.
    pub fn vma(&self) -> LockedVma<'f> {
        // SAFETY: `vmf` is valid, by the type invariant.
        let info = unsafe { &self.vmf.as_ref().__bindgen_anon_1 };
        // SAFETY: The VMA is valid for 'f, because its `mmap_lock` is held, by the type invariant.
        let vma = unsafe { VmaRef::from_raw(info.vma) };
        // SAFETY: The `mmap_lock` of the VMA is held for 'f, by the type invariant.
        unsafe { LockedVma::new(vma) }
    }

    /// Returns the number of pages that the touched page table entry maps: 1, or [`HPAGE_PMD_NR`].
    /// They move back together.
    pub fn npages(&self) -> usize {
        // SAFETY: `vmf` is valid, by the type invariant. The core leaves `pte` null for an entry
        // that maps a huge page.
        if unsafe { self.vmf.as_ref().pte.is_null() } {
            HPAGE_PMD_NR
        } else {
            1
        }
    }

    /// Returns whether the touched page belongs to a folio of several pages.
    pub(crate) fn is_in_large_folio(&self) -> bool {
        // SAFETY: The core holds a reference to the page, by the type invariant.
        let folio = unsafe { bindings::page_folio(self.page()) };
        // SAFETY: The core has locked the folio, by the type invariant, so nobody can split it.
        (unsafe { bindings::folio_order(folio) }) > 0
    }

    /// Narrows `window` to the run of consecutive pages around the touched page that are also on
    /// this device, in folios of one page. `window` (bytes, page aligned, the end exclusive)
    /// contains the touched page and lies below one PMD entry. The answer may be stale.
    ///
    /// A migration announces a change to its whole range, so pages that are not on the device must
    /// be left out: devices would lose their mappings of those pages, and exclusive access to them.
    /// Also, if mm cannot split a large folio, it leaves out all pages behind it.
    pub(crate) fn resident_run(&self, window: Range<usize>) -> Range<usize> {
        let Range { mut start, mut end } = window;
        let pfns = self.pagemap.pfns();
        // SAFETY: `vmf` is valid, by the type invariant.
        let pmd = unsafe { self.vmf.as_ref().pmd };
        // SAFETY: The entry is that of the touched address, and the `mmap_lock` is held, by the
        // type invariant; the caller has made sure that the whole window lies below the entry.
        unsafe {
            bindings::private_run(
                pmd,
                self.address(),
                pfns.first(),
                pfns.npages(),
                &mut start,
                &mut end,
            )
        };
        start..end
    }

    /// Returns the index of the touched page, counted from 0 and below [`npages`](Self::npages).
    pub fn index(&self) -> usize {
        self.address() / PAGE_SIZE % self.npages()
    }

    /// Returns the device's number for the touched page, or for the first page of a touched huge
    /// page. `None` means that the page belongs to another device; mm does not ask a driver about
    /// such pages.
    ///
    /// Does not sleep.
    pub fn device_index(&self) -> Option<usize> {
        // SAFETY: The core passes a valid page, so it belongs to the memory map.
        let frame = unsafe { Frame::of_page(self.page()) };
        self.pagemap.index_of(frame)
    }

    /// Returns the touched page. The core has locked it and holds a reference to it.
    pub(crate) fn page(&self) -> *mut bindings::page {
        // SAFETY: `vmf` is valid, by the type invariant.
        unsafe { self.vmf.as_ref().page }
    }

    /// Returns whether the process may write to the touched huge page without a fault.
    pub(crate) fn is_writable(&self) -> bool {
        // SAFETY: `vmf` is valid, by the type invariant.
        let fault = unsafe { self.vmf.as_ref() };
        // SAFETY: The core sets the entry before it calls the driver; any bits are a valid value.
        let pmd = unsafe { fault.__bindgen_anon_2.orig_pmd };
        // SAFETY: The function only computes with the bits.
        let entry = unsafe { bindings::softleaf_from_pmd(pmd) };
        // SAFETY: The function only computes with the bits.
        unsafe { bindings::softleaf_is_device_private_write(entry) }
    }

    /// Answers that the page is back, or that someone else has changed the page table; the CPU
    /// tries again.
    ///
    /// If neither is true, the CPU faults again at once, for ever. Does not sleep.
    pub fn retry(self) -> FaultAnswer {
        self.answer(Answer::Retry)
    }

    /// Answers that there is no system memory for the page. The core prints a rate-limited message,
    /// and the CPU tries again; so use this only when nothing else helps. Does not sleep.
    pub fn out_of_memory(self) -> FaultAnswer {
        self.answer(Answer::OutOfMemory)
    }

    /// Answers that the device cannot give the data back: the task gets `SIGBUS`. Does not sleep.
    pub fn bus_error(self) -> FaultAnswer {
        self.answer(Answer::BusError)
    }

    /// Records the outcome of an attempt to move the pages.
    pub(crate) fn note(&self, range: Range<usize>, moved: usize, error: Option<Error>) {
        let before = self.outcome.get().2;
        let outcome = (range.start, range.end, before + moved, error);
        self.outcome.set(outcome);
    }

    fn answer(self, kind: Answer) -> FaultAnswer {
        let (start, end, moved, error) = self.outcome.get();
        FaultAnswer {
            kind,
            range: start..end,
            moved,
            error,
        }
    }
}

/// The answer to a CPU that touched a page on the device.
#[must_use]
#[derive(Debug)]
pub struct FaultAnswer {
    kind: Answer,
    range: Range<usize>,
    moved: usize,
    error: Option<Error>,
}

/// The kind of a [`FaultAnswer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// See [`CpuFault::retry`].
    Retry,
    /// See [`CpuFault::out_of_memory`].
    OutOfMemory,
    /// See [`CpuFault::bus_error`].
    BusError,
}

impl FaultAnswer {
    /// Returns the kind.
    pub fn kind(&self) -> Answer {
        self.kind
    }

    /// Returns the addresses (bytes, the end exclusive) that were to move back; empty if nothing
    /// was tried.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Returns the number of pages that moved back.
    pub fn moved(&self) -> usize {
        self.moved
    }

    /// Returns the error that kept the touched page on the device, if any.
    pub fn error(&self) -> Option<Error> {
        self.error
    }

    pub(super) fn into_raw(self) -> bindings::vm_fault_t {
        match self.kind {
            Answer::Retry => 0,
            Answer::OutOfMemory => bindings::vm_fault_reason_VM_FAULT_OOM,
            Answer::BusError => bindings::vm_fault_reason_VM_FAULT_SIGBUS,
        }
    }
}
