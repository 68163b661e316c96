// SPDX-License-Identifier: GPL-2.0

//! Device faults, and the mappings of a process.
//!
//! C header: [`include/linux/hmm.h`](srctree/include/linux/hmm.h),
//! source: [`mm/hmm.c`](srctree/mm/hmm.c).
//!
//! Locks: [`walk`] takes the `mmap_lock` for reading and folio locks. It returns with only the
//! update lock of the notifier held, exclusively or shared, as the guard type chooses.

use core::{iter::zip, ops::Range};

use kernel::{
    error::to_result,
    mm::MmWithUser,
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
    time::{msecs_to_jiffies, Instant, Monotonic},
};

use crate::{
    bindings,
    interval::{Guard, Invalidate, Notifier, Sequence, UpdateGuard},
    memremap::{DevPagemap, DevPagemapOps, Frame, Hooks, SyncPoint, HPAGE_PMD_NR, HPAGE_PMD_ORDER},
};

// The bits of an entry in C's array.
const VALID: usize = bindings::hmm_pfn_flags_HMM_PFN_VALID;
const WRITABLE: usize = bindings::hmm_pfn_flags_HMM_PFN_WRITE;
const ERROR: usize = bindings::hmm_pfn_flags_HMM_PFN_ERROR;
const REQ_FAULT: usize = bindings::hmm_pfn_flags_HMM_PFN_REQ_FAULT;
const REQ_WRITE: usize = bindings::hmm_pfn_flags_HMM_PFN_REQ_WRITE;
const FLAGS: usize = bindings::hmm_pfn_flags_HMM_PFN_FLAGS;

/// The time limit of [`Timeout::Bounded`], in milliseconds: `HMM_RANGE_DEFAULT_TIMEOUT`.
const TIMEOUT_MS: u32 = 1000;

/// The time limit of a walk that retries because its range keeps changing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// One second, not counting the time of the faults themselves.
    Bounded,
    /// Until a fatal signal arrives.
    Never,
}

impl Timeout {
    /// Returns whether this timeout has expired since `start`. Does not sleep.
    pub fn is_over(self, start: Instant<Monotonic>) -> bool {
        self == Self::Bounded && start.elapsed().as_millis() > TIMEOUT_MS.into()
    }
}

/// The requirement of a walk for each page of its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// No requirement: the walk only looks, and changes nothing.
    Snapshot,
    /// The page must be readable; a missing page is faulted in.
    Read,
    /// The page must be writable; a missing page is faulted in. A page in memory of the pagemap's
    /// owner is left as it is, even if the process may only read it.
    Write,
}

/// The mapping of a page in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageView {
    /// No mapping, or one that devices must not use.
    Error,
    /// No mapping that this device could use as it is.
    None,
    /// A mapped page.
    Mapped(MappedPage),
}

/// A page that a process maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappedPage {
    /// The page frame; it stays in use at least as long as the update lock is held.
    pub frame: Frame,
    /// The place of the page.
    pub place: PagePlace,
    /// True if the process may write to the page.
    pub is_writable: bool,
    /// The order of the page table entry that maps it.
    pub order: u32,
}

/// The place of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PagePlace {
    /// In system memory.
    System,
    /// The zero page.
    Zero,
    /// In private memory of this device.
    PrivateLocal,
    /// In private memory of another device.
    PrivateRemote,
    /// In coherent memory of this device.
    CoherentLocal,
    /// In coherent memory of another device.
    CoherentRemote,
}

impl PagePlace {
    /// Returns whether it is in the memory of this device.
    pub fn is_local(self) -> bool {
        matches!(self, Self::PrivateLocal | Self::CoherentLocal)
    }
}

/// Walks over `range` (bytes, page aligned, the end exclusive, no more pages than `pfns` has
/// entries), and faults in the pages as `request` requires. Repeats this until nothing has changed
/// meanwhile. `pfns` is room for C's results; its previous content does not matter.
///
/// May sleep, without a bound if user space handles a fault (userfaultfd). Takes the `mmap_lock`
/// for reading and folio locks; the caller must hold neither of them, nor the update lock.
///
/// # Errors
///
/// [`EFAULT`] when a requested page is not mapped, not readable, not ordinary memory, or lost to a
/// memory error; [`EPERM`] when a requested page is not writable; [`EBUSY`] when the time has run
/// out; [`ENOMEM`]; [`EINTR`] when a fatal signal arrived; [`EINVAL`] when the range is not as
/// above, or the notifier listens to another address space, or not to the whole range.
///
/// C function: `hmm_range_fault_unlocked_timeout()`.
///
/// # Examples
///
/// ```
/// # use hmm::interval::{Invalidate, Notifier, SharedGuard};
/// # use hmm::memremap::{DevPagemap, DevPagemapOps};
/// # use hmm::range::{walk, Request, Timeout, PageView, Walked};
/// # use kernel::{mm::MmWithUser, prelude::*};
/// fn count<S: Invalidate, T: DevPagemapOps>(
///     notifier: &Notifier<S>, mm: &MmWithUser, pagemap: &DevPagemap<T>,
///     range: core::ops::Range<usize>, pfns: &mut [usize],
/// ) -> Result<usize> {
///     let (request, timeout) = (Request::Read, Timeout::Bounded);
///     let walked: Walked<'_, SharedGuard<'_, S>, T> =
///         walk(notifier, mm, pagemap, range, request, timeout, pfns)?;
///     Ok(walked.views().filter(|view| matches!(view, PageView::Mapped(_))).count())
/// }
/// ```
pub fn walk<'w, G: UpdateGuard<'w>, T: DevPagemapOps>(
    notifier: &'w Notifier<G::State>,
    mm: &MmWithUser,
    pagemap: &'w DevPagemap<T>,
    range: Range<usize>,
    request: Request,
    timeout: Timeout,
    pfns: &'w mut [usize],
) -> Result<Walked<'w, G, T>> {
    let is_aligned = (range.start | range.end) % PAGE_SIZE == 0;
    if !is_aligned || !notifier.is_of(mm) || !notifier.covers(&range) {
        return Err(EINVAL);
    }
    let pages = range.start >> PAGE_SHIFT..range.end >> PAGE_SHIFT;
    let pfns = pfns.get_mut(..pages.len()).ok_or(EINVAL)?;
    // Set only when the range was seen to change, since most ranges do not.
    let mut start = None;
    loop {
        pfns.fill(0);
        let mut args = bindings::hmm_range {
            notifier: notifier.as_raw(),
            notifier_seq: 0,
            start: range.start,
            end: range.end,
            hmm_pfns: pfns.as_mut_ptr(),
            default_flags: match request {
                Request::Snapshot => 0,
                Request::Read => REQ_FAULT,
                Request::Write => REQ_FAULT | REQ_WRITE,
            },
            pfn_flags_mask: 0,
            dev_private_owner: pagemap.owner().as_ptr(),
        };
        // SAFETY: The notifier is inserted and covers the range, as checked above; the array has an
        // entry for each page; the address space has users.
        let walked = to_result(unsafe {
            bindings::hmm_range_fault_unlocked_timeout(&mut args, msecs_to_jiffies(TIMEOUT_MS))
        });
        match walked {
            // With no time limit, the C function would not check for signals.
            Err(EBUSY) if timeout == Timeout::Never => {
                fail_if_killed()?;
                continue;
            }
            walked => walked?,
        }
        pagemap.hooks().sync_point(SyncPoint::RangeWalked);
        if let Some(guard) = G::lock_if_unchanged(notifier, Sequence(args.notifier_seq)) {
            return Ok(Walked {
                guard,
                pages,
                pfns,
                pagemap,
            });
        }
        fail_if_killed()?;
        if timeout.is_over(*start.get_or_insert_with(Instant::<Monotonic>::now)) {
            return Err(EBUSY);
        }
    }
}

/// Fails with [`EINTR`] when a fatal signal is pending for the current task.
fn fail_if_killed() -> Result {
    // SAFETY: `current` is always a valid task.
    if unsafe { bindings::fatal_signal_pending() } {
        return Err(EINTR);
    }
    Ok(())
}

/// The result of a walk, under the update lock: nothing has changed since.
pub struct Walked<'w, G, T: DevPagemapOps> {
    guard: G,
    /// The page numbers of the range, in the address space.
    pages: Range<usize>,
    /// C's entry for each page.
    pfns: &'w [usize],
    pagemap: &'w DevPagemap<T>,
}

impl<'w, S: Invalidate, T: DevPagemapOps> Walked<'w, Guard<'w, S>, T> {
    /// Calls `with` on the data that the update lock protects and on each page of the range with
    /// its page number in the address space, in order, as long as `with` returns `Ok`.
    ///
    /// # Errors
    ///
    /// The error of `with`.
    pub fn try_for_each(
        &mut self,
        mut with: impl FnMut(&mut S, usize, PageView) -> Result,
    ) -> Result {
        for (page, &pfn) in zip(self.pages.clone(), self.pfns) {
            with(&mut self.guard, page, view_of(self.pagemap, page, pfn))?;
        }
        Ok(())
    }
}

impl<'w, G: UpdateGuard<'w>, T: DevPagemapOps> Walked<'w, G, T> {
    /// Returns the mapping of each page of the range, in order. Does not sleep.
    pub fn views(&self) -> impl Iterator<Item = PageView> + use<'_, 'w, G, T> {
        let view = |(page, &pfn)| view_of(self.pagemap, page, pfn);
        zip(self.pages.clone(), self.pfns).map(view)
    }

    /// Returns the first page, if one entry of the process's page table maps the whole range.
    pub fn as_huge(&self) -> Option<MappedPage> {
        let is_huge = |&pfn| pfn & VALID != 0 && map_order(pfn) == HPAGE_PMD_ORDER;
        if self.pfns.len() != HPAGE_PMD_NR || !self.pfns.iter().all(is_huge) {
            return None;
        }
        match self.views().next() {
            Some(PageView::Mapped(page)) => Some(page),
            _ => None,
        }
    }

    /// Returns the data that the update lock protects, still locked.
    pub fn into_guard(self) -> G {
        self.guard
    }
}

/// Returns the order of the page table entry that maps a page.
fn map_order(pfn: usize) -> u32 {
    // SAFETY: The function only computes with the bits.
    unsafe { bindings::hmm_pfn_to_map_order(pfn) }
}

/// Interprets C's entry for a page that the update lock keeps mapped.
fn view_of<T: DevPagemapOps>(pagemap: &DevPagemap<T>, page: usize, pfn: usize) -> PageView {
    if pfn & ERROR != 0 {
        return PageView::Error;
    }
    if pfn & VALID == 0 {
        return PageView::None;
    }
    let order = map_order(pfn);
    let mut number = pfn & !FLAGS;
    if order == HPAGE_PMD_ORDER {
        // For a part of a huge device page, C gives the page frames from the head page on (see
        // Documentation/known-mm-issues.md). The address and the frame of the huge page are aligned
        // alike, so compute the frame from the page number.
        number = (number & !(HPAGE_PMD_NR - 1)) | (page & (HPAGE_PMD_NR - 1));
    }
    let frame = Frame::new(number);
    PageView::Mapped(MappedPage {
        frame,
        place: place_of(pagemap, frame, number),
        is_writable: pfn & WRITABLE != 0,
        order,
    })
}

/// Returns the place of a page that the update lock keeps mapped. `number` is the number of
/// `frame`.
fn place_of<T: DevPagemapOps>(pagemap: &DevPagemap<T>, frame: Frame, number: usize) -> PagePlace {
    let page = frame.page();
    // SAFETY: The page is mapped, and the update lock keeps it mapped.
    if !unsafe { bindings::is_zone_device_page(page) } {
        // SAFETY: The function only compares numbers.
        return match unsafe { bindings::is_zero_pfn(number) } {
            true => PagePlace::Zero,
            false => PagePlace::System,
        };
    }
    let is_local = pagemap.index_of(frame).is_some();
    // SAFETY: The page is mapped, and the update lock keeps it mapped.
    let is_private = unsafe { bindings::is_device_private_page(page) };
    // SAFETY: The page is mapped, and the update lock keeps it mapped.
    let is_coherent = unsafe { bindings::is_device_coherent_page(page) };
    match (is_private, is_coherent, is_local) {
        (true, _, true) => PagePlace::PrivateLocal,
        (true, _, false) => PagePlace::PrivateRemote,
        (_, true, true) => PagePlace::CoherentLocal,
        (_, true, false) => PagePlace::CoherentRemote,
        (false, false, _) => PagePlace::System,
    }
}
