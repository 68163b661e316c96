// SPDX-License-Identifier: GPL-2.0

//! The view that a device has of an address space: its page table, kept true.
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
    memremap::{Frame, Owner, HPAGE_PMD_NR},
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
    node::NodeBox,
    observer::{tell_unmapped, UnmapObserver},
    record::PendingList,
    sched::cond_resched,
    stats::Stats,
    table::{Entry, Table, END, FANOUT},
    trace,
};
pub use crate::{table::Access, word::Word};

/// What the update lock of a [`View`] protects.
pub(crate) struct State {
    pub(crate) table: Table<NodeBox>,
    pending: Arc<SpinLock<PendingList>>,
    owner: Owner,
    /// The number of the device, for trace events.
    device: u32,
    /// What the device has done.
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
        // The end of an address space clears all that there is, which takes long.
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

/// The view that a device has of an address space.
///
/// It owns the device's page table, the lock that protects it, and the notifier that keeps it true.
/// A page behind an entry is valid only under that lock, so that access to it goes through a
/// [`ViewGuard`]. Every change to the page tables of the process, whoever causes it, clears the
/// entries that it covers; the device faults them in again. So several views of one address space,
/// fork, and CPU faults need no special case.
///
/// It keeps the `mm_struct` from being freed, but not alive; the pagemap lives as long as it does.
/// Dropping it waits for changes to the page tables, see [`hmm::interval`].
///
/// # Invariants
///
/// An entry is there only while the page that it names is mapped in the address space with at least
/// the same rights, or is being mapped there by a migration that has its folio locked.
#[pin_data]
pub struct View<T: DeviceOps> {
    // Before the pagemap, so that it is dropped first.
    #[pin]
    notifier: Notifier<State>,
    pagemap: Arc<Pagemap<T>>,
    /// What is about to be mapped by those who change the page tables themselves.
    pub(crate) pending: Arc<SpinLock<PendingList>>,
    /// Windows that were faulted in.
    pub(crate) faults: Counter,
    /// Pages that went back to system memory for that.
    pub(crate) brought_back: Counter,
}

impl<T: DeviceOps> View<T> {
    /// Makes a view of `mm` that shows nothing yet. `observer` learns what is unmapped from now on.
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
                // Made in its place: it is large.
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

    /// Returns the pages of the device.
    pub fn pagemap(&self) -> &Pagemap<T> {
        &self.pagemap
    }

    /// Takes the update lock, together with other readers, to look at the page table or to access
    /// pages through it.
    ///
    /// May sleep. While the guard lives, the caller must not access user memory, nor allocate
    /// memory in a way that may sleep: mm waits for the lock.
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

/// Returns the page numbers of an address range, in bytes, page aligned.
///
/// # Errors
///
/// [`EINVAL`] when the range is empty, not page aligned, or not inside one aligned run of
/// [`FANOUT`] pages, which one set of spare nodes is for.
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

/// The page table of a device, under the update lock, which other readers may share: all of them
/// look, and copy from and to the pages as several CPUs do. What has to be atomic for others needs
/// more than this.
pub struct ViewGuard<'v, T: DeviceOps> {
    pub(crate) state: SharedGuard<'v, State>,
    pub(crate) pagemap: &'v Pagemap<T>,
}

impl<T: DeviceOps> ViewGuard<'_, T> {
    /// Returns the page that the device has mapped at an address (bytes).
    ///
    /// Does not sleep.
    pub fn page(&self, address: usize) -> Option<ViewPages<'_, T>> {
        let entry = self.state.table.get(address >> PAGE_SHIFT)?;
        Some(self.pages_of(entry, 1))
    }

    /// Returns the pages that the device has mapped from an address (bytes) on, one after the
    /// other, at most `most` of them, as many at a time as have page frames that follow one
    /// another.
    ///
    /// Does not sleep; takes as long as there are pages. There may be more behind them.
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

    /// Returns the first page of `range` (bytes, the end exclusive) that the device has mapped, and
    /// its address.
    ///
    /// Does not sleep; takes as long as the range has nodes, not pages.
    pub fn next(&self, range: Range<usize>) -> Option<(usize, ViewPages<'_, T>)> {
        let pages = range.start >> PAGE_SHIFT..range.end.div_ceil(PAGE_SIZE);
        let (page, entry) = self.state.table.find(pages)?;
        Some((page << PAGE_SHIFT, self.pages_of(entry, 1)))
    }

    fn pages_of(&self, entry: Entry, npages: usize) -> ViewPages<'_, T> {
        let index_of = |n: usize| self.pagemap.index_of(Frame::from_bits(entry.pfn + n));
        let first = index_of(0);
        // The bytes of the device follow one another in a block; and its memory may lie beside
        // that of the system.
        let npages = match first {
            Some(index) => npages.min(HPAGE_PMD_NR - index % HPAGE_PMD_NR),
            None if npages > 1 && index_of(npages - 1).is_some() => 1,
            None => npages,
        };
        // INVARIANT: The entries are those of the table, and the update lock is held. All pages are
        // in one block of the device, as its pagemap has whole blocks, or none is.
        ViewPages {
            entry,
            npages,
            first,
            pagemap: self.pagemap,
            _guard: PhantomData,
        }
    }
}

/// Pages that a device has mapped, with page frames that follow one another. They live no longer
/// than the update lock is held.
///
/// Their content is that of user memory: CPUs, and other devices that have them mapped, may change
/// it at the same time, unless the mapping is exclusive. So it is copied, and never borrowed.
///
/// # Invariants
///
/// The pages are those that the address space has mapped, with the rights of the entry, until the
/// update lock is released. If `first` is set, they are that page of the device and those behind
/// it, in one block; else, none of them is in its memory.
pub struct ViewPages<'g, T: DeviceOps> {
    /// That of the first page.
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

    /// Returns the pages of the device.
    pub fn pagemap(&self) -> &Pagemap<T> {
        self.pagemap
    }

    /// Returns what the device may do with them.
    pub fn access(&self) -> Access {
        self.entry.access
    }

    /// Returns which page of the device the first one is, if they are in the device's own memory.
    pub fn device_index(&self) -> Option<usize> {
        self.first
    }

    /// Copies from the first page, from byte `offset` on, to `out`.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when the page has no such bytes.
    pub fn read(&self, offset: usize, out: &mut [u8]) -> Result {
        check(offset, out.len())?;
        let to = out.as_mut_ptr().cast();
        match self.device_bytes()? {
            Some(bytes) => {
                // SAFETY: The page has PAGE_SIZE bytes, and the offset is below that.
                let from = unsafe { bytes.add(offset) };
                // SAFETY: Both have that many bytes, as was checked. Others may write at the same
                // time, which the C function is made for.
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
    /// [`EPERM`] when the device may only read the page; [`EINVAL`] when it has no such bytes.
    pub fn write(&self, offset: usize, data: &[u8]) -> Result {
        check(offset, data.len())?;
        self.check_write()?;
        let from = data.as_ptr().cast();
        match self.device_bytes()? {
            Some(bytes) => {
                // SAFETY: The page has PAGE_SIZE bytes, and the offset is below that.
                let to = unsafe { bytes.add(offset) };
                // SAFETY: Both have that many bytes, as was checked. Others may read and write at
                // the same time, which the C function is made for.
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

    /// Copies the pages to user memory of the current task, as far as that is present: nothing is
    /// faulted in, so that this can be done under the update lock. Returns the number of pages that
    /// were copied whole, which is less than [`npages`](Self::npages) when the next one was not
    /// present; a part of that may have been written to.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EIO`] when there is no memory behind a page of the device.
    ///
    /// C function: `__copy_to_user_inatomic()`.
    pub fn copy_to_user(&self, to: UserPtr) -> Result<usize> {
        let to = to.as_mut_ptr();
        Ok(match self.device_bytes()? {
            Some(bytes) => {
                // SAFETY: There are as many pages at `bytes`, by the type invariant. Others may
                // write to them at the same time, which the C function is made for; it checks the
                // address of user space.
                unsafe { bindings::copy_to_user_present(to, bytes.as_ptr().cast(), self.npages) }
            }
            None => {
                let page = self.frame().page();
                // SAFETY: The pages are valid, by the type invariant. Others may write to them at
                // the same time, which the C function is made for; it checks the address of user
                // space.
                unsafe { bindings::copy_pages_to_user_present(to, page, self.npages) }
            }
        })
    }

    /// Copies user memory of the current task to the pages, as far as that is present, as
    /// [`copy_to_user`](Self::copy_to_user) does in the other direction. A part of the first page
    /// that was not copied whole may have been written to.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EPERM`] when the device may only read the pages; [`EIO`] when there is no memory behind a
    /// page of the device.
    ///
    /// C function: `__copy_from_user_inatomic()`.
    pub fn copy_from_user(&self, from: UserPtr) -> Result<usize> {
        self.check_write()?;
        let from = from.as_const_ptr();
        let copied = match self.device_bytes()? {
            Some(bytes) => {
                // SAFETY: There are as many pages at `bytes`, by the type invariant. Others may
                // read and write them at the same time, which the C function is made for; it checks
                // the address of user space.
                unsafe {
                    bindings::copy_from_user_present(bytes.as_ptr().cast(), from, self.npages)
                }
            }
            None => {
                let page = self.frame().page();
                // SAFETY: The pages are valid, by the type invariant. Others may read and write
                // them at the same time, which the C function is made for; it checks the address of
                // user space.
                unsafe { bindings::copy_pages_from_user_present(page, from, self.npages) }
            }
        };
        // With the page that may have been written in part.
        self.mark_dirty((copied + 1).min(self.npages));
        Ok(copied)
    }

    pub(crate) fn check_write(&self) -> Result {
        match self.entry.access {
            Access::Read => Err(EPERM),
            Access::Write | Access::Exclusive => Ok(()),
        }
    }

    /// Makes sure that reclaim does not take the first `npages` pages for ones that nobody has
    /// written to. A page of the device takes the mark along when it comes back.
    pub(crate) fn mark_dirty(&self, npages: usize) {
        // SAFETY: The pages are valid, by the type invariant, and `npages` is no more than that.
        unsafe { bindings::mark_pages_dirty(self.frame().page(), npages) };
    }

    /// Returns the bytes of the first page, and behind them those of the others, in the device's
    /// own memory; `None` for other memory.
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
