// SPDX-License-Identifier: GPL-2.0

//! A CPU that touched a page on the device.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h), `struct vm_fault`,
//! source: [`mm/memory.c`](srctree/mm/memory.c), `do_swap_page()`.

use core::{cell::Cell, ops::Range, ptr::NonNull};

use kernel::{mm::virt::VmaRef, page::PAGE_SIZE, prelude::*};

use super::{DevPagemap, DevPagemapOps, Frame, HPAGE_PMD_NR};
use crate::{bindings, vma::LockedVma};

/// A fault on a page of the device, which the driver must answer.
///
/// Consuming it is the only way to make a [`FaultAnswer`].
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
    /// The start and the end of what was tried to move back last, how many pages moved, and what
    /// kept the touched one.
    outcome: Cell<(usize, usize, usize, Option<Error>)>,
}

impl<'f, T: DevPagemapOps> CpuFault<'f, T> {
    /// # Safety
    ///
    /// The caller must uphold the type invariant.
    pub(super) unsafe fn new(vmf: *mut bindings::vm_fault, pagemap: &'f DevPagemap<T>) -> Self {
        // INVARIANT: By the safety requirement.
        Self {
            // SAFETY: What is valid is not null.
            vmf: unsafe { NonNull::new_unchecked(vmf) },
            pagemap,
            outcome: Cell::new((0, 0, 0, None)),
        }
    }

    /// Returns the pages of the device.
    pub fn pagemap(&self) -> &'f DevPagemap<T> {
        self.pagemap
    }

    /// Returns the address of the page that was touched, in bytes, page aligned.
    pub fn address(&self) -> usize {
        // SAFETY: `vmf` is valid, by the type invariant.
        let info = unsafe { &self.vmf.as_ref().__bindgen_anon_1 };
        info.address & !(PAGE_SIZE - 1)
    }

    /// Returns the VMA that the address lies in.
    pub fn vma(&self) -> LockedVma<'f> {
        // SAFETY: `vmf` is valid, by the type invariant.
        let info = unsafe { &self.vmf.as_ref().__bindgen_anon_1 };
        // SAFETY: The VMA is valid for 'f, because its `mmap_lock` is held, by the type invariant.
        let vma = unsafe { VmaRef::from_raw(info.vma) };
        // SAFETY: Its `mmap_lock` is held for 'f, by the type invariant.
        unsafe { LockedVma::new(vma) }
    }

    /// Returns the number of pages that the touched page table entry maps: 1, or
    /// [`HPAGE_PMD_NR`]. They come back together.
    pub fn npages(&self) -> usize {
        // SAFETY: `vmf` is valid, by the type invariant. The core leaves `pte` alone for an entry
        // that maps a huge page.
        if unsafe { self.vmf.as_ref().pte.is_null() } {
            HPAGE_PMD_NR
        } else {
            1
        }
    }

    /// Returns whether the touched page is one of a folio of several pages.
    pub(crate) fn is_in_large_folio(&self) -> bool {
        // SAFETY: The core holds a reference to the page, by the type invariant.
        let folio = unsafe { bindings::page_folio(self.page()) };
        // SAFETY: The core has locked the folio, by the type invariant, so that it is not split.
        (unsafe { bindings::folio_order(folio) }) > 0
    }

    /// Narrows `window` (bytes, page aligned, the end exclusive, below one entry of a PMD), in
    /// which the touched page is, to the pages around that one that are on this device too, one
    /// after the other, and of folios of one page. The answer may be old.
    ///
    /// A migration announces a change to all of its range: what is not on the device shall not hear
    /// of it. Devices would lose what they have mapped there, and exclusive access to it. And where
    /// mm cannot split a large folio, it leaves out all pages behind it.
    pub(crate) fn resident_run(&self, window: Range<usize>) -> Range<usize> {
        let Range { mut start, mut end } = window;
        let pfns = self.pagemap.pfns();
        // SAFETY: `vmf` is valid, by the type invariant.
        let pmd = unsafe { self.vmf.as_ref().pmd };
        // SAFETY: The entry is that of the touched address, and the `mmap_lock` is held, by the
        // type invariant; all of the window lies below it, by the doc comment.
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

    /// Returns which of them was touched, counted from 0.
    pub fn index(&self) -> usize {
        self.address() / PAGE_SIZE % self.npages()
    }

    /// Returns which page of the device the touched one is, or the first of a huge page; `None` if
    /// it is none of this device, which mm does not ask a driver about.
    ///
    /// Does not sleep.
    pub fn device_index(&self) -> Option<usize> {
        // SAFETY: The core has given the page, which is in the memory map.
        let frame = unsafe { Frame::of_page(self.page()) };
        self.pagemap.index_of(frame)
    }

    /// Returns the page that was touched, which the core has locked and holds.
    pub(crate) fn page(&self) -> *mut bindings::page {
        // SAFETY: `vmf` is valid, by the type invariant.
        unsafe { self.vmf.as_ref().page }
    }

    /// Returns whether the process may write to a huge page without a fault.
    pub(crate) fn is_writable(&self) -> bool {
        // SAFETY: `vmf` is valid, by the type invariant.
        let fault = unsafe { self.vmf.as_ref() };
        // SAFETY: The core has set the entry before it called us; any bits are a value of it.
        let pmd = unsafe { fault.__bindgen_anon_2.orig_pmd };
        // SAFETY: The function computes with the bits alone.
        let entry = unsafe { bindings::softleaf_from_pmd(pmd) };
        // SAFETY: The function computes with the bits alone.
        unsafe { bindings::softleaf_is_device_private_write(entry) }
    }

    /// Answers that the page came back, or that somebody else has changed the page table; the CPU
    /// tries again.
    ///
    /// If neither is the case, it faults again at once, for ever. Does not sleep.
    pub fn retry(self) -> FaultAnswer {
        self.answer(Answer::Retry)
    }

    /// Answers that there was no memory to bring the page back to. The core prints a line about
    /// that, at a bounded rate, and the CPU tries again; so this is for the case that nothing else
    /// helps. Does not sleep.
    pub fn out_of_memory(self) -> FaultAnswer {
        self.answer(Answer::OutOfMemory)
    }

    /// Answers that the device cannot give the data back: the task gets `SIGBUS`. Does not sleep.
    pub fn bus_error(self) -> FaultAnswer {
        self.answer(Answer::BusError)
    }

    /// Notes what has come of an attempt to move the pages.
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

/// What becomes of a CPU that touched a page on the device.
#[must_use]
#[derive(Debug)]
pub struct FaultAnswer {
    kind: Answer,
    range: Range<usize>,
    moved: usize,
    error: Option<Error>,
}

/// Which [`FaultAnswer`] it is.
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
    /// Returns which it is.
    pub fn kind(&self) -> Answer {
        self.kind
    }

    /// Returns the addresses (bytes, the end exclusive) of what was to come back; empty if nothing
    /// was tried.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Returns the number of pages that came back.
    pub fn moved(&self) -> usize {
        self.moved
    }

    /// Returns what kept the page that was touched on the device, if anything did.
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
