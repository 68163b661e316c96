// SPDX-License-Identifier: GPL-2.0

//! A device's view of an address space: its page table, kept consistent with that of the process.
//!
//! C document: [`Documentation/mm/hmm.rst`](srctree/Documentation/mm/hmm.rst), "Address space
//! mirroring implementation and API".
//!
//! Locks: the `mmap_lock` and folio locks are taken before the update lock of a [`View`], see
//! [`hmm::interval`].

use core::{iter::from_fn, marker::PhantomData, ops::Range, ptr::NonNull};

use hmm::{
    counter::Counter,
    interval::{Invalidate, Invalidation, Notifier, SharedGuard},
    memremap::{Frame, Owner},
};
use kernel::{
    mm::MmWithUser,
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
    sync::{Arc, SpinLock},
    uaccess::UserPtr,
};

use crate::{
    bindings,
    device::{DeviceOps, Pagemap},
    memory::CHUNK_PAGES,
    node::NodeBox,
    observer::{tell_unmapped, UnmapObserver},
    record::PendingList,
    sched::cond_resched,
    stats::Stats,
    table::{Entry, Table, END, FANOUT},
    trace,
};
pub use crate::{table::Access, word::Word};

/// The data that the update lock of a [`View`] protects.
pub(crate) struct State {
    pub(crate) table: Table<NodeBox>,
    pending: Arc<SpinLock<PendingList>>,
    owner: Owner,
    /// The number of the device, for trace events.
    device: u32,
    /// Statistics of the device.
    stats: Arc<Stats>,
    observer: Option<Arc<dyn UnmapObserver>>,
    pub(crate) invalidations: u64,
    pub(crate) cleared: u64,
}

impl Invalidate for State {
    fn invalidate(&mut self, event: &Invalidation<'_>) {
        let range = event.range();
        let pages = range.start >> PAGE_SHIFT..range.end >> PAGE_SHIFT;
        let is_own = event.is_by(&self.owner);
        tell_unmapped(self.observer.as_deref(), event);
        self.pending.lock().invalidate(&pages, is_own);
        // At the end of an address space, all entries are cleared, which takes long.
        let maybe_resched = || {
            if event.is_blockable() {
                cond_resched();
            }
        };
        let cleared = self.table.clear(pages, maybe_resched);
        self.invalidations += 1;
        self.stats.invalidations.add(1);
        if cleared > 0 {
            self.cleared += cleared as u64;
            self.stats.cleared.add(cleared as u64);
        }
        trace::Invalidate::emit(|| trace::Invalidate {
            device: self.device,
            range,
            event: event.event(),
            is_own,
            cleared,
        });
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.table.clear(0..END, cond_resched);
    }
}

/// A device's view of an address space.
///
/// A view owns the device's page table, the lock that protects it, and the notifier that keeps it
/// consistent. The page of an entry is valid only under that lock, so access to it goes through a
/// [`ViewGuard`]. Every change to the page tables of the process, whatever its cause, clears the
/// entries in its range; the device faults them in again. So several views of one address space,
/// fork, and CPU faults need no special case.
///
/// A view keeps the `mm_struct` from being freed, but does not keep its users. The pagemap lives as
/// long as the view. Dropping a view waits for changes to the page tables, see [`hmm::interval`].
///
/// # Invariants
///
/// An entry exists only while the address space maps the entry's page with at least the same
/// rights, or while a migration that has locked the page's folio is mapping it there.
#[pin_data]
pub struct View<T: DeviceOps> {
    // Declared before the pagemap, so that drop drops the notifier first.
    #[pin]
    notifier: Notifier<State>,
    pagemap: Arc<Pagemap<T>>,
    /// The pending maps of tasks that change the page tables themselves.
    pub(crate) pending: Arc<SpinLock<PendingList>>,
    /// Number of windows that were faulted in.
    pub(crate) faults: Counter,
    /// Number of pages that moved back to system memory for device faults.
    pub(crate) brought_back: Counter,
}

impl<T: DeviceOps> View<T> {
    /// Creates an empty view of `mm`. From now on, `observer` receives all unmapped ranges.
    ///
    /// May sleep. Takes the `mmap_lock` for writing.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub fn new(
        mm: &MmWithUser,
        pagemap: Arc<Pagemap<T>>,
        observer: Option<Arc<dyn UnmapObserver>>,
    ) -> impl PinInit<Self, Error> + '_ {
        let all = 0..usize::MAX & !(PAGE_SIZE - 1);
        try_pin_init!(Self {
            pending: PendingList::new()?,
            notifier <- {
                let root = NodeBox::new()?;
                let (owner, stats) = (pagemap.owner().clone(), pagemap.ops().stats().clone());
                let device = pagemap.ops().number();
                // Initialised in place, because it is large.
                Notifier::new(mm, all, init!(State {
                    table: Table::new(root),
                    pending: pending.clone(),
                    owner,
                    device,
                    stats,
                    observer,
                    invalidations: 0,
                    cleared: 0,
                }))
            },
            pagemap,
            faults: Counter::default(),
            brought_back: Counter::default(),
        }? Error)
    }

    /// Returns the pagemap of the device.
    pub fn pagemap(&self) -> &Pagemap<T> {
        &self.pagemap
    }

    /// Takes the update lock, shared with other readers, to look at the page table or to access
    /// pages through it.
    ///
    /// May sleep. While the guard lives, the caller must not access user memory, or allocate memory
    /// in a way that may sleep: mm waits for the lock.
    pub fn lock(&self) -> ViewGuard<'_, T> {
        ViewGuard {
            state: self.notifier.lock_shared(),
            pagemap: &self.pagemap,
        }
    }

    pub(crate) fn notifier(&self) -> &Notifier<State> {
        &self.notifier
    }
}

/// Returns the page numbers of an address range (bytes, page aligned, the end exclusive).
///
/// # Errors
///
/// [`EINVAL`] when the range is empty, not page aligned, or not inside one aligned run of
/// [`FANOUT`] pages, for which one set of spare nodes suffices.
pub(crate) fn pages_of_run(range: &Range<usize>) -> Result<Range<usize>> {
    let pages = range.start >> PAGE_SHIFT..range.end >> PAGE_SHIFT;
    if (range.start | range.end) % PAGE_SIZE != 0
        || pages.is_empty()
        || pages.start / FANOUT != (pages.end - 1) / FANOUT
    {
        return Err(EINVAL);
    }
    Ok(pages)
}

/// The page table of a device, under the update lock. Other readers may share the lock: all of them
/// read the table, and access the pages concurrently, as CPUs do. This lock alone makes no access
/// atomic to others.
pub struct ViewGuard<'v, T: DeviceOps> {
    pub(crate) state: SharedGuard<'v, State>,
    pub(crate) pagemap: &'v Pagemap<T>,
}

impl<T: DeviceOps> ViewGuard<'_, T> {
    /// Returns the page that the device maps at `address` (bytes).
    ///
    /// Does not sleep.
    pub fn page(&self, address: usize) -> Option<ViewPages<'_, T>> {
        let entry = self.state.table.get(address >> PAGE_SHIFT)?;
        Some(self.pages_of(entry, 1))
    }

    /// Returns the consecutive pages that the device maps from `address` (bytes) on, at most `most`
    /// of them. Each item has as many pages as have consecutive page frames.
    ///
    /// Does not sleep; the time is proportional to the number of pages. More mapped pages may
    /// follow.
    pub fn runs(&self, address: usize, most: usize) -> impl Iterator<Item = ViewPages<'_, T>> {
        let mut rows = self.state.table.rows(address >> PAGE_SHIFT, most);
        let mut rest = None;
        from_fn(move || {
            let (entry, npages) = rest.take().or_else(|| rows.next())?;
            let pages = self.pages_of(entry, npages);
            if pages.npages < npages {
                let pfn = entry.pfn + pages.npages;
                rest = Some((Entry { pfn, ..entry }, npages - pages.npages));
            }
            Some(pages)
        })
    }

    /// Returns the first page in `range` (bytes, the end exclusive) that the device maps, and its
    /// address.
    ///
    /// Does not sleep; the time is proportional to the number of nodes in the range, not of pages.
    pub fn next(&self, range: Range<usize>) -> Option<(usize, ViewPages<'_, T>)> {
        let pages = range.start >> PAGE_SHIFT..range.end.div_ceil(PAGE_SIZE);
        let (page, entry) = self.state.table.find(pages)?;
        Some((page << PAGE_SHIFT, self.pages_of(entry, 1)))
    }

    fn pages_of(&self, entry: Entry, npages: usize) -> ViewPages<'_, T> {
        let index_of = |n: usize| self.pagemap.index_of(Frame::from_bits(entry.pfn + n));
        let first = index_of(0);
        // The bytes of device pages are consecutive within a chunk only; and device memory may lie
        // directly beside system memory.
        let npages = match first {
            Some(index) => npages.min(CHUNK_PAGES - index % CHUNK_PAGES),
            None if npages > 1 && index_of(npages - 1).is_some() => 1,
            None => npages,
        };
        // INVARIANT: The entries come from the table, and the update lock is held. Either all pages
        // are in one chunk of the device, since its pagemap has whole chunks, or none is.
        ViewPages {
            entry,
            npages,
            first,
            pagemap: self.pagemap,
            _guard: PhantomData,
        }
    }
}

/// Pages that a device maps, with consecutive page frames. They live at most as long as the update
/// lock is held.
///
/// Their content is user memory: CPUs, and other devices that map the pages, may change it
/// concurrently, unless the mapping is exclusive. So it is copied, and never borrowed.
///
/// # Invariants
///
/// The address space maps the pages, with the rights of the entry, until the update lock is
/// released. If `first` is set, the pages are that page of the device and those after it, in one
/// chunk; otherwise none of them is in the device's memory.
pub struct ViewPages<'g, T: DeviceOps> {
    /// The entry of the first page.
    entry: Entry,
    npages: usize,
    first: Option<usize>,
    pagemap: &'g Pagemap<T>,
    _guard: PhantomData<&'g ()>,
}

impl<T: DeviceOps> ViewPages<'_, T> {
    /// Returns the number of pages.
    pub fn npages(&self) -> usize {
        self.npages
    }

    /// Returns the pagemap of the device.
    pub fn pagemap(&self) -> &Pagemap<T> {
        self.pagemap
    }

    /// Returns the access rights of the device to the pages.
    pub fn access(&self) -> Access {
        self.entry.access
    }

    /// Returns the device's number for the first page, if the pages are in the device's own memory.
    pub fn device_index(&self) -> Option<usize> {
        self.first
    }

    /// Copies bytes of the first page, from byte `offset` on, to `out`.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when the range of bytes exceeds the page.
    pub fn read(&self, offset: usize, out: &mut [u8]) -> Result {
        check(offset, out.len())?;
        let to = out.as_mut_ptr().cast();
        match self.device_bytes()? {
            Some(bytes) => {
                // SAFETY: The page has PAGE_SIZE bytes, and the offset is below that.
                let from = unsafe { bytes.add(offset) };
                // SAFETY: Both sides have that many bytes, as checked above. Others may write
                // concurrently, which the C function tolerates.
                unsafe { bindings::memcpy_racy(to, from.as_ptr().cast(), out.len()) };
            }
            None => {
                let page = self.frame().page();
                // SAFETY: The page is valid, by the type invariant, and has those bytes.
                unsafe { bindings::memcpy_from_page(to, page, offset, out.len()) };
            }
        }
        Ok(())
    }

    /// Copies `data` to the first page, from byte `offset` on.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EPERM`] when the device may only read the page; [`EINVAL`] when the range of bytes exceeds
    /// the page.
    pub fn write(&self, offset: usize, data: &[u8]) -> Result {
        check(offset, data.len())?;
        self.check_write()?;
        let from = data.as_ptr().cast();
        match self.device_bytes()? {
            Some(bytes) => {
                // SAFETY: The page has PAGE_SIZE bytes, and the offset is below that.
                let to = unsafe { bytes.add(offset) };
                // SAFETY: Both sides have that many bytes, as checked above. Others may read and
                // write concurrently, which the C function tolerates.
                unsafe { bindings::memcpy_racy(to.as_ptr().cast(), from, data.len()) };
            }
            None => {
                let page = self.frame().page();
                // SAFETY: The page is valid, by the type invariant, and has those bytes.
                unsafe { bindings::memcpy_to_page(page, offset, from, data.len()) };
            }
        }
        self.mark_dirty(1);
        Ok(())
    }

    /// Copies the pages to user memory of the current task, as far as that memory is present:
    /// nothing is faulted in, so this is allowed under the update lock. Returns the number of pages
    /// that were copied completely. It is less than [`npages`](Self::npages) if the next user page
    /// was not present; a part of that page may have been written to.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EIO`] when a page of the device has no memory.
    ///
    /// C function: `__copy_to_user_inatomic()`.
    pub fn copy_to_user(&self, to: UserPtr) -> Result<usize> {
        let to = to.as_mut_ptr();
        Ok(match self.device_bytes()? {
            Some(bytes) => {
                // SAFETY: There are `npages` pages at `bytes`, by the type invariant. Others may
                // write to them concurrently, which the C function tolerates; it checks the user
                // address.
                unsafe { bindings::copy_to_user_present(to, bytes.as_ptr().cast(), self.npages) }
            }
            None => {
                let page = self.frame().page();
                // SAFETY: The pages are valid, by the type invariant. Others may write to them
                // concurrently, which the C function tolerates; it checks the user address.
                unsafe { bindings::copy_pages_to_user_present(to, page, self.npages) }
            }
        })
    }

    /// Copies user memory of the current task to the pages, as far as that memory is present, like
    /// [`copy_to_user`](Self::copy_to_user) in the other direction. A part of the first page that
    /// was not copied completely may have been written to.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EPERM`] when the device may only read the pages; [`EIO`] when a page of the device has no
    /// memory.
    ///
    /// C function: `__copy_from_user_inatomic()`.
    pub fn copy_from_user(&self, from: UserPtr) -> Result<usize> {
        self.check_write()?;
        let from = from.as_const_ptr();
        let copied = match self.device_bytes()? {
            Some(bytes) => {
                // SAFETY: There are `npages` pages at `bytes`, by the type invariant. Others may
                // read and write them concurrently, which the C function tolerates; it checks the
                // user address.
                unsafe {
                    bindings::copy_from_user_present(bytes.as_ptr().cast(), from, self.npages)
                }
            }
            None => {
                let page = self.frame().page();
                // SAFETY: The pages are valid, by the type invariant. Others may read and write
                // them concurrently, which the C function tolerates; it checks the user address.
                unsafe { bindings::copy_pages_from_user_present(page, from, self.npages) }
            }
        };
        // This includes the page that may have been written in part.
        self.mark_dirty((copied + 1).min(self.npages));
        Ok(copied)
    }

    pub(crate) fn check_write(&self) -> Result {
        match self.entry.access {
            Access::Read => Err(EPERM),
            Access::Write | Access::Exclusive => Ok(()),
        }
    }

    /// Marks the first `npages` pages dirty, so that reclaim does not consider them unmodified. A
    /// page of the device keeps the mark when it moves back.
    pub(crate) fn mark_dirty(&self, npages: usize) {
        // SAFETY: The pages are valid, by the type invariant, and `npages` does not exceed their
        // number.
        unsafe { bindings::mark_pages_dirty(self.frame().page(), npages) };
    }

    /// Returns the address of the consecutive bytes of all pages if they are in the device's own
    /// memory, or `None` for other memory.
    pub(crate) fn device_bytes(&self) -> Result<Option<NonNull<u8>>> {
        let Some(index) = self.first else {
            return Ok(None);
        };
        let memory = self.pagemap.ops().memory();
        Ok(Some(memory.frame(index).ok_or(EIO)?))
    }

    /// Returns the page frame of the first page.
    pub(crate) fn frame(&self) -> Frame {
        Frame::from_bits(self.entry.pfn)
    }
}

fn check(offset: usize, len: usize) -> Result {
    match offset.checked_add(len) {
        Some(end) if end <= PAGE_SIZE => Ok(()),
        _ => Err(EINVAL),
    }
}
