// SPDX-License-Identifier: GPL-2.0

//! Device faults, and the mappings of a process.
//!
//! C document: [`Documentation/mm/hmm.rst`](srctree/Documentation/mm/hmm.rst).
//!
//! Locks: C takes and releases the `mmap_lock` and folio locks; after that, this code takes the
//! update lock of a [`View`].

use core::ops::Range;

use hmm::{
    interval::{Guard, SharedGuard, UpdateGuard},
    memremap::{Frame, HPAGE_PMD_ORDER},
    migrate::MigrateBuffer,
    range::{self, MappedPage, PagePlace, PageView, Request, Timeout, Walked},
    vma::LockedVma,
};
use kernel::{
    alloc::{flags::GFP_KERNEL, KVVec},
    mm::{virt::flags, MmWithUser},
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
    time::{delay::fsleep, Delta, Instant, Monotonic},
};

use crate::{
    bindings,
    device::{DeviceOps, Emulated, Pagemap},
    node::NodeBox,
    sched::{cond_resched, fatal_signal_pending},
    table::{Access, Entry, Spares, FANOUT},
    trace,
    view::{pages_of_run, State, View, ViewGuard},
};

/// Time to wait before retrying a page that someone else has locked.
const PAUSE: Delta = Delta::from_micros(200);

/// The result of a walk, for reading.
type SeenView<'w, T> = Walked<'w, SharedGuard<'w, State>, Emulated<T>>;
/// The result of a walk, for mapping its pages.
type WalkedView<'w, T> = Walked<'w, Guard<'w, State>, Emulated<T>>;

impl<T: DeviceOps> View<T> {
    /// Maps `range` (bytes, page aligned, the end exclusive, inside one aligned run of
    /// [`HPAGE_PMD_NR`](hmm::memremap::HPAGE_PMD_NR) pages) for the device, and faults pages in as
    /// a CPU access would. Pages in the memory of this device are mapped where they are. If the
    /// device needs to write to such a page and the page may be shared, the page moves back to
    /// system memory first.
    ///
    /// As soon as the start of the range is mapped, `then` is called on the page table, before
    /// anyone can take the pages away again. So an access in `then` makes progress, no matter how
    /// often others take the pages. Pages to which the device has exclusive access are left alone.
    ///
    /// May sleep, without a bound if user space handles a fault (userfaultfd). Takes the
    /// `mmap_lock` for reading and folio locks; the caller must hold neither.
    ///
    /// # Errors
    ///
    /// [`EFAULT`] when a part is not mapped, not readable, not ordinary memory, or lost to a memory
    /// error; [`EPERM`] when a part is not writable and `access` is not [`Access::Read`]; [`EBUSY`]
    /// when the time has run out; [`ENOMEM`]; [`EINTR`] when a fatal signal arrived; [`EINVAL`]
    /// when the range is not as above.
    ///
    /// C function: `hmm_range_fault_unlocked_timeout()`.
    pub fn fault(
        &self,
        mm: &MmWithUser,
        range: Range<usize>,
        access: Access,
        timeout: Timeout,
        buffer: &mut FaultBuffer,
        then: impl FnOnce(&ViewGuard<'_, T>),
    ) -> Result {
        pages_of_run(&range)?;
        let mut fault = Fault {
            view: self,
            mm,
            access,
            timeout,
            buffer,
            then: Some(then),
        };
        let result = fault.run_between_exclusive(range.clone());
        let stats = self.pagemap().ops().stats();
        self.faults.add(1);
        stats.device_faults.add(1);
        if let Err(error) = result {
            stats.device_fault_failures.note(error);
        }
        trace::DeviceFault::emit(|| trace::DeviceFault {
            device: self.pagemap().ops().number(),
            range: range.clone(),
            access,
            error: result.err(),
        });
        result
    }

    /// Unmaps a range (bytes, page aligned, the end exclusive) from the device, so that its next
    /// access faults. When this returns, nobody accesses the pages through an earlier [`ViewGuard`]
    /// any more; but concurrent device faults may have mapped some pages again.
    ///
    /// May sleep.
    pub fn clear(&self, range: Range<usize>) {
        let pages = range.start >> PAGE_SHIFT..range.end >> PAGE_SHIFT;
        self.notifier().lock().table.clear(pages, cond_resched);
    }

    /// Returns the address of the first page of a range to which the device has exclusive access,
    /// or the range's end. A fault would end that access, because C faults in all pages from the
    /// first one that needs it to the end of the range.
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

    /// Passes the mapping of each page of `range` to `visit`, in order, and changes nothing. The
    /// range is as for [`fault`](Self::fault). `pfns` is room for an entry for each page.
    ///
    /// May sleep. `visit` is called under the update lock, which other readers may share.
    ///
    /// # Errors
    ///
    /// As for [`fault`](Self::fault), except that missing or inaccessible mappings are not errors.
    pub fn snapshot(
        &self,
        mm: &MmWithUser,
        range: Range<usize>,
        pfns: &mut [usize],
        visit: impl FnMut(PageView),
    ) -> Result {
        pages_of_run(&range)?;
        let (look, never_mind) = (Request::Snapshot, Timeout::Bounded);
        let seen: SeenView<'_, T> = self.walk(mm, range, look, never_mind, pfns)?;
        seen.views().for_each(visit);
        Ok(())
    }

    /// Maps for the device those pages of `range` that the process maps now, and faults nothing in.
    /// The range is as for [`fault`](Self::fault).
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// As for [`snapshot`](Self::snapshot).
    pub fn map_present(
        &self,
        mm: &MmWithUser,
        range: Range<usize>,
        buffer: &mut FaultBuffer,
    ) -> Result {
        pages_of_run(&range)?;
        buffer.spares.refill()?;
        let (look, never_mind) = (Request::Snapshot, Timeout::Bounded);
        let mut walked: WalkedView<'_, T> =
            self.walk(mm, range, look, never_mind, &mut buffer.pfns)?;
        map(&mut walked, self.pagemap(), None, &mut buffer.spares).map(drop)
    }

    fn walk<'w, G: UpdateGuard<'w, State = State>>(
        &'w self,
        mm: &MmWithUser,
        range: Range<usize>,
        request: Request,
        timeout: Timeout,
        pfns: &'w mut [usize],
    ) -> Result<Walked<'w, G, Emulated<T>>> {
        let pagemap = self.pagemap();
        range::walk(self.notifier(), mm, pagemap, range, request, timeout, pfns)
    }
}

/// Arrays and spare nodes for a device fault, allocated once and reused.
pub struct FaultBuffer {
    /// The results of a walk, by page.
    pfns: KVVec<usize>,
    migrate: MigrateBuffer,
    spares: Spares<NodeBox>,
}

impl FaultBuffer {
    /// Allocates the buffers for a fault on as many pages as a PMD entry maps. May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub fn new() -> Result<Self> {
        Ok(Self {
            pfns: KVVec::from_elem(0, FANOUT, GFP_KERNEL)?,
            migrate: MigrateBuffer::new(FANOUT)?,
            spares: Spares::new()?,
        })
    }

    /// Returns the room for a [`View::snapshot`] of as many pages as a PMD entry maps.
    pub fn pfns(&mut self) -> &mut [usize] {
        &mut self.pfns
    }
}

/// A device fault; see [`View::fault`].
struct Fault<'f, T: DeviceOps, F> {
    view: &'f View<T>,
    mm: &'f MmWithUser,
    access: Access,
    timeout: Timeout,
    buffer: &'f mut FaultBuffer,
    /// `None` once it has been called.
    then: Option<F>,
}

impl<T: DeviceOps, F: FnOnce(&ViewGuard<'_, T>)> Fault<'_, T, F> {
    /// Faults in a range, except for its exclusive pages.
    fn run_between_exclusive(&mut self, range: Range<usize>) -> Result {
        let mut at = range.start;
        while at < range.end {
            let exclusive = self.view.next_exclusive(at..range.end);
            if exclusive > at {
                self.run(at..exclusive)?;
            }
            at = exclusive + PAGE_SIZE;
        }
        Ok(())
    }

    /// Faults in a run that contains no exclusive page.
    fn run(&mut self, range: Range<usize>) -> Result {
        // Set only when a page did not come back, since most do at once.
        let mut start = None;
        while let Some(shared) = self.round(&range)? {
            if self.bring_back(shared)? == 0 {
                let start = *start.get_or_insert_with(Instant::<Monotonic>::now);
                if self.timeout.is_over(start) {
                    return Err(EBUSY);
                }
                let stats = self.view.pagemap().ops().stats();
                stats.device_fault_retries.add(1);
                fsleep(PAUSE);
            }
            if fatal_signal_pending() {
                return Err(EINTR);
            }
        }
        Ok(())
    }

    /// Faults in and maps as many pages as possible. Returns the addresses of device pages that may
    /// be shared, and that must move back to system memory before the device can write to them.
    fn round(&mut self, range: &Range<usize>) -> Result<Option<Range<usize>>> {
        let request = match self.access {
            Access::Read => Request::Read,
            _ => Request::Write,
        };
        self.buffer.spares.refill()?;
        let (view, buffer) = (self.view, &mut *self.buffer);
        let mut walked: WalkedView<'_, T> = view.walk(
            self.mm,
            range.clone(),
            request,
            self.timeout,
            &mut buffer.pfns,
        )?;
        let shared = map(
            &mut walked,
            view.pagemap(),
            Some(self.access),
            &mut buffer.spares,
        )?;
        let start_is_mapped = shared
            .as_ref()
            .is_none_or(|shared| shared.start > range.start);
        if let Some(then) = self.then.take_if(|_| start_is_mapped) {
            then(&ViewGuard {
                state: walked.into_guard().downgrade(),
                pagemap: view.pagemap(),
            });
        }
        Ok(shared)
    }

    /// Moves pages of this device that the process may share with others back to system memory,
    /// where a write fault copies them. Returns the number of pages that moved.
    fn bring_back(&mut self, range: Range<usize>) -> Result<usize> {
        let mmap = self.mm.mmap_read_lock();
        let vma = LockedVma::lookup(&mmap, range.start).ok_or(EFAULT)?;
        if vma.flags() & flags::WRITE == 0 {
            return Err(EPERM);
        }
        let range = range.start..range.end.min(vma.end());
        let buffer = &mut self.buffer.migrate;
        let pagemap = self.view.pagemap();
        let migrate = || trace::Migrate {
            device: pagemap.ops().number(),
            range: range.clone(),
            order: HPAGE_PMD_ORDER,
            to: trace::Place::System,
            cause: trace::Cause::DeviceFault,
        };
        let came = trace::Migrate::trace(
            migrate,
            || pagemap.bring_back(vma, range.clone(), buffer),
            |&(moved, outcome)| (moved, outcome.err()),
        );
        self.view.brought_back.add(came.0 as u64);
        let stats = pagemap.ops().stats();
        stats.came_back(trace::Cause::DeviceFault, came.0);
        match came {
            (0, Err(error)) => Err(error),
            (moved, _) => Ok(moved),
        }
    }
}

/// Maps the pages that a walk has found: all of them, for the access in `demand`, or just those
/// that are present.
///
/// Returns the addresses from the first to the last page that the device needs to write to but may
/// only read; those are pages of its own that may be shared.
fn map<T: DeviceOps>(
    walked: &mut WalkedView<'_, T>,
    pagemap: &Pagemap<T>,
    demand: Option<Access>,
    spares: &mut Spares<NodeBox>,
) -> Result<Option<Range<usize>>> {
    let is_enough =
        |entry: &Entry| demand.is_none_or(|it| it == Access::Read || it == entry.access);
    let run = walked
        .as_huge()
        .and_then(|page| entry_of(pagemap, &page))
        .filter(is_enough);
    let mut shared: Option<Range<usize>> = None;
    let mut is_first = true;
    walked.try_for_each(|state, page, view| {
        if let Some(entry) = run {
            return match core::mem::take(&mut is_first) {
                true => state.table.set_run(page, entry, spares).map_err(|_| ENOMEM),
                false => Ok(()),
            };
        }
        let PageView::Mapped(mapped) = view else {
            return Ok(());
        };
        let Some(entry) = entry_of(pagemap, &mapped) else {
            return demand.map_or(Ok(()), |_| Err(EFAULT));
        };
        if !is_enough(&entry) {
            let first = shared
                .as_ref()
                .map_or(page << PAGE_SHIFT, |range| range.start);
            shared = Some(first..(page + 1) << PAGE_SHIFT);
            return Ok(());
        }
        state.table.set(page, entry, spares).map_err(|_| ENOMEM)
    })?;
    Ok(shared)
}

/// Returns the entry for a page that the process maps, or `None` if the kernel's CPUs cannot access
/// its content.
fn entry_of<T: DeviceOps>(pagemap: &Pagemap<T>, page: &MappedPage) -> Option<Entry> {
    let is_reachable = match page.place {
        PagePlace::PrivateLocal | PagePlace::CoherentLocal => true,
        // CPUs cannot access private memory of another device of the same owner.
        PagePlace::PrivateRemote => false,
        _ => is_reachable(page.frame),
    };
    let access = if page.is_writable {
        Access::Write
    } else {
        Access::Read
    };
    let pfn = page.frame.into_bits();
    debug_assert!(page.place.is_local() == pagemap.index_of(page.frame).is_some());
    is_reachable.then_some(Entry { pfn, access })
}

/// Returns whether the kernel can access the content of a page that a process maps. It cannot for
/// pages of `memfd_secret()`, which are removed from the kernel's page tables.
fn is_reachable(frame: Frame) -> bool {
    let page = frame.page();
    // SAFETY: The page is mapped, and the update lock keeps it mapped.
    let folio = unsafe { bindings::page_folio(page) };
    // SAFETY: The page is mapped, and the update lock keeps it mapped.
    if unsafe { bindings::folio_test_anon(folio) } {
        return true;
    }
    let mut byte = 0_u8;
    // SAFETY: The page is mapped, and the update lock keeps it mapped.
    let address = unsafe { bindings::kmap_local_page(page) };
    // SAFETY: The destination is valid; the source is read with fault handling.
    let missed = unsafe { bindings::copy_from_kernel_nofault((&raw mut byte).cast(), address, 1) };
    // SAFETY: This is the address of the most recent mapping.
    unsafe { bindings::kunmap_local(address) };
    missed == 0
}
