// SPDX-License-Identifier: GPL-2.0

//! Faults of a device, and looking at how a process has memory mapped.
//!
//! C header: [`include/linux/hmm.h`](srctree/include/linux/hmm.h),
//! source: [`mm/hmm.c`](srctree/mm/hmm.c).

use core::ops::Range;

use kernel::alloc::flags::GFP_KERNEL;
use kernel::alloc::KVVec;
use kernel::error::to_result;
use kernel::mm::virt::flags::WRITE as VM_WRITE;
use kernel::mm::MmWithUser;
use kernel::page::PAGE_SHIFT;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::time::delay::fsleep;
use kernel::time::msecs_to_jiffies;
use kernel::time::Delta;
use kernel::time::Instant;
use kernel::time::Monotonic;

use crate::bindings;
use crate::mirror::pages_of_run;
use crate::mirror::Mirror;
use crate::mirror::MirrorGuard;
use crate::mirror::NodeBox;
use crate::notifier::Sequence;
use crate::ops::DevPagemapOps;
use crate::ops::Step;
use crate::pagemap::DevPagemap;
use crate::table::Access;
use crate::table::Entry;
use crate::table::Spares;
use crate::table::FANOUT;
use crate::vma::LockedVma;
use crate::window::Window;

// The bits of a page in C's array.
const VALID: usize = bindings::hmm_pfn_flags_HMM_PFN_VALID;
const WRITABLE: usize = bindings::hmm_pfn_flags_HMM_PFN_WRITE;
const ERROR: usize = bindings::hmm_pfn_flags_HMM_PFN_ERROR;
const REQ_FAULT: usize = bindings::hmm_pfn_flags_HMM_PFN_REQ_FAULT;
const REQ_WRITE: usize = bindings::hmm_pfn_flags_HMM_PFN_REQ_WRITE;
const FLAGS: usize = bindings::hmm_pfn_flags_HMM_PFN_FLAGS;

/// How long [`Patience::Bounded`] waits, in milliseconds: `HMM_RANGE_DEFAULT_TIMEOUT`.
const TIMEOUT_MS: u32 = 1000;

/// How long to wait before a page that others have locked is tried again.
const PAUSE: Delta = Delta::from_micros(200);

/// How long a device tries to get a range that does not hold still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// A second, not counting the time that a fault itself takes.
    Bounded,
    /// Until a fatal signal arrives.
    Endless,
}

impl Patience {
    pub(crate) fn is_over(self, start: Instant<Monotonic>) -> bool {
        self == Self::Bounded && start.elapsed().as_millis() > TIMEOUT_MS.into()
    }
}

/// Arrays for a range of up to 512 pages, made once and used again and again.
pub struct RangeBuffer {
    pfns: KVVec<usize>,
    window: Window,
    spares: Spares<NodeBox>,
}

impl RangeBuffer {
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub fn new() -> Result<Self> {
        Ok(Self {
            pfns: KVVec::from_elem(0, FANOUT, GFP_KERNEL)?,
            window: Window::new(FANOUT)?,
            spares: Spares::new()?,
        })
    }
}

/// How a process has a page mapped, see [`Mirror::snapshot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageView {
    /// No mapping, or one that no device may use.
    Error,
    /// Nothing that this device could use as it is.
    None,
    /// A page.
    Mapped {
        /// Where it is.
        place: PagePlace,
        /// Whether it may be written to.
        writable: bool,
        /// The order of the page table entry that maps it.
        order: u32,
    },
}

/// Where a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PagePlace {
    /// In system memory.
    System,
    /// It is the zero page.
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

impl<T: DevPagemapOps> Mirror<T> {
    /// Maps `range` (bytes, page aligned, the end exclusive, inside 2 MiB) for the device, faulting
    /// pages in as a CPU's access would. Pages in the memory of this device are mapped there. A
    /// page there that may be shared, and that the device wants to write to, goes back to system
    /// memory first.
    ///
    /// As soon as the start of the range is mapped, `then` is called on the page table, before
    /// anything can take the pages away again: so whoever accesses them there makes progress, however
    /// often others take them. Pages that the device has exclusive access to are left alone.
    ///
    /// May sleep, for as long as user space wants where a fault is answered there. Takes the
    /// `mmap_lock` for reading and folio locks; the caller holds none.
    ///
    /// # Errors
    ///
    /// [`EFAULT`] when a part is not mapped, not readable, or not ordinary memory; [`EPERM`] when a
    /// part is not for writing and `access` is not [`Access::Read`]; [`EBUSY`] when patience ran
    /// out; [`ENOMEM`]; [`EINTR`] when a fatal signal arrived; [`EINVAL`] when the range is not as
    /// above. A page that was lost to a memory error is [`EFAULT`], too.
    ///
    /// C function: `hmm_range_fault_unlocked_timeout()`.
    pub fn fault(
        &self,
        mm: &MmWithUser,
        range: Range<usize>,
        access: Access,
        patience: Patience,
        buffer: &mut RangeBuffer,
        then: impl FnOnce(&MirrorGuard<'_, T>),
    ) -> Result {
        pages_of_run(&range)?;
        let mut then = Some(then);
        let mut at = range.start;
        while at < range.end {
            let exclusive = self.next_exclusive(at..range.end);
            if exclusive > at {
                self.fault_run(mm, at..exclusive, access, patience, buffer, &mut then)?;
            }
            at = exclusive + PAGE_SIZE;
        }
        Ok(())
    }

    /// The first page of a range that the device has exclusive access to, or its end. A fault would
    /// end that access, and C faults in everything from the first page that needs it to the end of
    /// the range.
    fn next_exclusive(&self, range: Range<usize>) -> usize {
        let guard = self.lock();
        let mut at = range.start;
        while let Some((address, page)) = guard.next(at..range.end) {
            if page.access() == Access::Exclusive {
                return address;
            }
            at = address + PAGE_SIZE;
        }
        range.end
    }

    /// As [`fault`](Self::fault), for a run of pages none of which is exclusive.
    fn fault_run(
        &self,
        mm: &MmWithUser,
        range: Range<usize>,
        access: Access,
        patience: Patience,
        buffer: &mut RangeBuffer,
        then: &mut Option<impl FnOnce(&MirrorGuard<'_, T>)>,
    ) -> Result {
        let mut flags = REQ_FAULT;
        if access != Access::Read {
            flags |= REQ_WRITE;
        }
        let start = Instant::<Monotonic>::now();
        loop {
            let shared =
                self.walk(mm, &range, flags, patience, buffer, |walked| -> Result<_> {
                    let shared = walked.map(Some(access))?;
                    if shared
                        .as_ref()
                        .is_none_or(|shared| shared.start > range.start)
                    {
                        if let Some(then) = then.take() {
                            then(walked.guard);
                        }
                    }
                    Ok(shared)
                })??;
            let Some(shared) = shared else {
                return Ok(());
            };
            if self.bring_back(mm, shared, &mut buffer.window)? == 0 {
                if patience.is_over(start) {
                    return Err(EBUSY);
                }
                fsleep(PAUSE);
            }
            if crate::fatal_signal_pending() {
                return Err(EINTR);
            }
        }
    }

    /// Maps those pages of `range` for the device that the process has mapped now, without faulting
    /// anything in. The range is as for [`fault`](Self::fault).
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// As for [`fault`](Self::fault), but nothing that is or is not mapped is an error.
    pub fn look(&self, mm: &MmWithUser, range: Range<usize>, buffer: &mut RangeBuffer) -> Result {
        let looked = self.walk(mm, &range, 0, Patience::Bounded, buffer, |walked| {
            walked.map(None)
        })?;
        looked.map(drop)
    }

    /// Tells how the process has the pages of `range` mapped, changing nothing; calls `tell` for
    /// each, in order. The range is as for [`fault`](Self::fault).
    ///
    /// May sleep. `tell` is called under the update lock.
    ///
    /// # Errors
    ///
    /// As for [`look`](Self::look).
    pub fn snapshot(
        &self,
        mm: &MmWithUser,
        range: Range<usize>,
        buffer: &mut RangeBuffer,
        mut tell: impl FnMut(PageView),
    ) -> Result {
        self.walk(mm, &range, 0, Patience::Bounded, buffer, |walked| {
            for &pfn in walked.pfns {
                tell(view(walked.guard.pagemap, pfn));
            }
        })
    }

    /// Looks at a range, requesting what `request` says of each page, until nothing has changed
    /// meanwhile; then calls `with` under the update lock.
    fn walk<R>(
        &self,
        mm: &MmWithUser,
        range: &Range<usize>,
        request: usize,
        patience: Patience,
        buffer: &mut RangeBuffer,
        with: impl FnOnce(&mut Walked<'_, '_, T>) -> R,
    ) -> Result<R> {
        let pages = pages_of_run(range)?;
        if self.mm() != mm.as_raw() {
            return Err(EINVAL);
        }
        buffer.spares.refill()?;
        let pfns = buffer.pfns.get_mut(..pages.len()).ok_or(EINVAL)?;
        let start = Instant::<Monotonic>::now();
        loop {
            pfns.fill(0);
            let mut args = bindings::hmm_range {
                notifier: self.notifier().as_raw(),
                notifier_seq: 0,
                start: range.start,
                end: range.end,
                hmm_pfns: pfns.as_mut_ptr(),
                default_flags: request,
                pfn_flags_mask: 0,
                dev_private_owner: self.pagemap().owner(),
            };
            // SAFETY: The notifier is inserted and covers the range; the array has an entry for
            // each page; the address space has users.
            let walked = to_result(unsafe {
                bindings::hmm_range_fault_unlocked_timeout(&mut args, msecs_to_jiffies(TIMEOUT_MS))
            });
            match walked {
                // Without a limit the C function would not look for signals.
                Err(EBUSY) if patience == Patience::Endless => {
                    if crate::fatal_signal_pending() {
                        return Err(EINTR);
                    }
                    continue;
                }
                walked => walked?,
            }
            self.pagemap().ops().between(Step::Walked);
            if let Some(state) = self
                .notifier()
                .lock_if_unchanged(Sequence(args.notifier_seq))
            {
                let mut guard = MirrorGuard {
                    state,
                    pagemap: self.pagemap(),
                };
                return Ok(with(&mut Walked {
                    guard: &mut guard,
                    pages,
                    pfns,
                    spares: &mut buffer.spares,
                }));
            }
            if crate::fatal_signal_pending() {
                return Err(EINTR);
            }
            if patience.is_over(start) {
                return Err(EBUSY);
            }
        }
    }

    /// Brings pages of this device that the process may share with others back to system memory,
    /// where a fault for writing copies them. Returns the number of pages that came.
    fn bring_back(
        &self,
        mm: &MmWithUser,
        range: Range<usize>,
        window: &mut Window,
    ) -> Result<usize> {
        let mmap = mm.mmap_read_lock();
        let vma = LockedVma::lookup(&mmap, range.start).ok_or(EFAULT)?;
        if vma.flags() & VM_WRITE == 0 {
            return Err(EPERM);
        }
        let range = range.start..range.end.min(vma.end());
        match self.pagemap().bring_back(vma, range, window) {
            (0, Err(error)) => Err(error),
            (moved, _) => Ok(moved),
        }
    }
}

/// What a walk found, under the update lock.
struct Walked<'w, 'm, T: DevPagemapOps> {
    guard: &'w mut MirrorGuard<'m, T>,
    /// The page numbers of the range.
    pages: Range<usize>,
    /// What C says of each page.
    pfns: &'w [usize],
    spares: &'w mut Spares<NodeBox>,
}

impl<T: DevPagemapOps> Walked<'_, '_, T> {
    /// Maps the pages: all of them, if `demand` says what the device wants to do, or what is there.
    ///
    /// Returns the addresses from the first to the last page that the device wants to write to and
    /// may only read; those are pages of its own that may be shared.
    fn map(&mut self, demand: Option<Access>) -> Result<Option<Range<usize>>> {
        if self.is_one_run() {
            if let Some(entry) = self.entry(self.pages.start, self.pfns[0]) {
                if demand.is_none_or(|demand| demand == Access::Read || demand == entry.access) {
                    let table = &mut self.guard.state.table;
                    return match table.set_run(self.pages.start, entry, self.spares) {
                        Ok(()) => Ok(None),
                        Err(_) => Err(ENOMEM),
                    };
                }
            }
        }
        let mut shared: Option<Range<usize>> = None;
        for (page, &pfn) in self.pages.clone().zip(self.pfns) {
            if pfn & VALID == 0 || pfn & ERROR != 0 {
                continue;
            }
            let Some(entry) = self.entry(page, pfn) else {
                if demand.is_some() {
                    return Err(EFAULT);
                }
                continue;
            };
            if entry.access == Access::Read && demand.is_some_and(|demand| demand != Access::Read) {
                let first = shared.map_or(page << PAGE_SHIFT, |range| range.start);
                shared = Some(first..(page + 1) << PAGE_SHIFT);
                continue;
            }
            let table = &mut self.guard.state.table;
            table.set(page, entry, self.spares).map_err(|_| ENOMEM)?;
        }
        Ok(shared)
    }

    /// Whether the range is mapped by one entry of the process's page table.
    fn is_one_run(&self) -> bool {
        self.pfns.len() == FANOUT
            && self
                .pfns
                .iter()
                .all(|&pfn| pfn & VALID != 0 && map_order(pfn) == crate::PMD_ORDER)
    }

    /// The entry for a page that C says is mapped; `None` when the kernel cannot reach its content.
    fn entry(&self, page: usize, pfn: usize) -> Option<Entry> {
        let access = if pfn & WRITABLE != 0 {
            Access::Write
        } else {
            Access::Read
        };
        let mut frame = pfn & !FLAGS;
        if map_order(pfn) == crate::PMD_ORDER {
            // For a part of a huge page of a device, C gives the page frames from its head on:
            // see Documentation/known-mm-issues.md. Both begin at a multiple of the same number.
            frame = (frame & !(FANOUT - 1)) | (page & (FANOUT - 1));
        }
        let pfn = frame;
        let reachable = self.guard.pagemap.index_of(pfn).is_some() || is_reachable(pfn);
        reachable.then_some(Entry { pfn, access })
    }
}

/// The order of the page table entry that maps a page.
fn map_order(pfn: usize) -> u32 {
    // SAFETY: It only looks at the bits.
    unsafe { bindings::hmm_pfn_to_map_order(pfn) }
}

/// Whether the kernel can reach the content of a page that a process has mapped: not that of
/// `memfd_secret()`, which has been taken out of its page tables.
fn is_reachable(pfn: usize) -> bool {
    // SAFETY: The page exists: it is mapped, which the update lock keeps so.
    let page = unsafe { bindings::pfn_to_page(pfn) };
    // SAFETY: As above.
    let folio = unsafe { bindings::page_folio(page) };
    // SAFETY: As above.
    if unsafe { bindings::folio_test_anon(folio) } {
        return true;
    }
    let mut byte = 0_u8;
    // SAFETY: Like all pages of x86-64, it has an address, whether or not anything is mapped there.
    let address = unsafe { bindings::phys_to_virt((pfn << PAGE_SHIFT) as u64) };
    // SAFETY: The destination is valid; the source is read with fault handling.
    unsafe { bindings::copy_from_kernel_nofault((&raw mut byte).cast(), address, 1) == 0 }
}

/// What C says of a page, in words.
fn view<T: DevPagemapOps>(pagemap: &DevPagemap<T>, pfn: usize) -> PageView {
    if pfn & ERROR != 0 {
        return PageView::Error;
    }
    if pfn & VALID == 0 {
        return PageView::None;
    }
    let number = pfn & !FLAGS;
    // SAFETY: The page is mapped, which the update lock keeps so.
    let page = unsafe { bindings::pfn_to_page(number) };
    let local = pagemap.index_of(number).is_some();
    // SAFETY: As above.
    let private = unsafe { bindings::is_device_private_page(page) };
    // SAFETY: As above.
    let coherent = unsafe { bindings::is_device_coherent_page(page) };
    // SAFETY: It only compares numbers.
    let zero = unsafe { bindings::is_zero_pfn(number) };
    PageView::Mapped {
        place: match (private, coherent, local) {
            (true, _, true) => PagePlace::PrivateLocal,
            (true, _, false) => PagePlace::PrivateRemote,
            (_, true, true) => PagePlace::CoherentLocal,
            (_, true, false) => PagePlace::CoherentRemote,
            _ if zero => PagePlace::Zero,
            _ => PagePlace::System,
        },
        writable: pfn & WRITABLE != 0,
        order: map_order(pfn),
    }
}
