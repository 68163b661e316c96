// SPDX-License-Identifier: GPL-2.0

//! The view that a device has of an address space: its page table, kept true.
//!
//! C document: [`Documentation/mm/hmm.rst`](srctree/Documentation/mm/hmm.rst), "Address space
//! mirroring implementation and API".
//!
//! Locks: the `mmap_lock` and folio locks are taken before the update lock of a [`View`], see
//! [`hmm::interval`].

use core::{
    marker::PhantomData,
    ops::{Deref, DerefMut, Range},
    ptr::NonNull,
};

use hmm::{
    interval::{Guard, Invalidate, Invalidation, Notifier},
    memremap::{Frame, Owner},
};
use kernel::{
    alloc::flags::{GFP_KERNEL_ACCOUNT, __GFP_NOWARN},
    mm::MmWithUser,
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
    sync::Arc,
};

pub use crate::table::Access;
use crate::{
    bindings,
    device::{DeviceOps, Pagemap},
    record::PendingList,
    sched::cond_resched,
    table::{Entry, Node, Place, Spares, Table, END, FANOUT, MAX_SPARES},
};

/// A node of the page table.
pub(crate) struct NodeBox(KBox<Node<NodeBox>>);

impl NodeBox {
    fn new() -> Result<Self> {
        let places = pin_init::init_array_from_fn(|_| Place::Empty);
        let node = init!(Node { used: 0, places <- places });
        Ok(Self(KBox::init(node, GFP_KERNEL_ACCOUNT | __GFP_NOWARN)?))
    }
}

impl Deref for NodeBox {
    type Target = Node<NodeBox>;

    fn deref(&self) -> &Node<NodeBox> {
        &self.0
    }
}

impl DerefMut for NodeBox {
    fn deref_mut(&mut self) -> &mut Node<NodeBox> {
        &mut self.0
    }
}

impl Spares<NodeBox> {
    /// Makes as many nodes as mapping pages of one aligned run can need.
    pub(crate) fn new() -> Result<Self> {
        let mut this = Self([const { None }; MAX_SPARES]);
        this.refill()?;
        Ok(this)
    }

    /// Makes nodes for those that were used. May sleep.
    pub(crate) fn refill(&mut self) -> Result {
        for spare in self.0.iter_mut().filter(|spare| spare.is_none()) {
            *spare = Some(NodeBox::new()?);
        }
        Ok(())
    }
}

/// What the update lock of a [`View`] protects.
pub(crate) struct State {
    pub(crate) table: Table<NodeBox>,
    /// What is about to be mapped by those who change the page tables themselves.
    pub(crate) pending: PendingList,
    owner: Owner,
}

impl Invalidate for State {
    fn invalidate(&mut self, event: &Invalidation<'_>) {
        let range = event.range();
        let pages = range.start >> PAGE_SHIFT..range.end >> PAGE_SHIFT;
        self.pending.invalidate(&pages, event.is_by(&self.owner));
        // The end of an address space clears all that there is, which takes long.
        let maybe_resched = || {
            if event.is_blockable() {
                cond_resched();
            }
        };
        self.table.clear(pages, maybe_resched);
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
}

impl<T: DeviceOps> View<T> {
    /// Makes a view of `mm` that shows nothing yet.
    ///
    /// May sleep. Takes the `mmap_lock` for writing.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub fn new(mm: &MmWithUser, pagemap: Arc<Pagemap<T>>) -> impl PinInit<Self, Error> + '_ {
        let all = 0..usize::MAX & !(PAGE_SIZE - 1);
        try_pin_init!(Self {
            notifier <- Notifier::new(mm, all, State {
                table: Table::new(NodeBox::new()?),
                pending: PendingList::new(),
                owner: pagemap.owner().clone(),
            }),
            pagemap,
        }? Error)
    }

    /// Returns the pages of the device.
    pub fn pagemap(&self) -> &Pagemap<T> {
        &self.pagemap
    }

    /// Takes the update lock, to look at the page table or to access pages through it.
    ///
    /// May sleep. While the guard lives, the caller must not access user memory, nor allocate
    /// memory in a way that may sleep: mm waits for the lock.
    pub fn lock(&self) -> ViewGuard<'_, T> {
        ViewGuard {
            state: self.notifier.lock(),
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

/// The page table of a device, under the update lock.
pub struct ViewGuard<'v, T: DeviceOps> {
    pub(crate) state: Guard<'v, State>,
    pub(crate) pagemap: &'v Pagemap<T>,
}

impl<T: DeviceOps> ViewGuard<'_, T> {
    /// Returns the page that the device has mapped at an address (bytes).
    ///
    /// Does not sleep.
    pub fn page(&self, address: usize) -> Option<ViewPage<'_, T>> {
        let entry = self.state.table.get(address >> PAGE_SHIFT)?;
        Some(self.page_of(entry))
    }

    /// Returns the first page of `range` (bytes, the end exclusive) that the device has mapped, and
    /// its address.
    ///
    /// Does not sleep; takes as long as the range has nodes, not pages.
    pub fn next(&self, range: Range<usize>) -> Option<(usize, ViewPage<'_, T>)> {
        let pages = range.start >> PAGE_SHIFT..range.end.div_ceil(PAGE_SIZE);
        let (page, entry) = self.state.table.find(pages)?;
        Some((page << PAGE_SHIFT, self.page_of(entry)))
    }

    fn page_of(&self, entry: Entry) -> ViewPage<'_, T> {
        // INVARIANT: The entry is one of the table, and the update lock is held.
        ViewPage {
            entry,
            pagemap: self.pagemap,
            _guard: PhantomData,
        }
    }
}

/// A page that a device has mapped. It lives no longer than the update lock is held.
///
/// Its content is that of user memory: CPUs, and other devices that have it mapped, may change it at
/// the same time, unless the mapping is exclusive. So it is copied, and never borrowed.
///
/// # Invariants
///
/// The page is one that the address space has mapped, with the rights of the entry, until the
/// update lock is released.
pub struct ViewPage<'g, T: DeviceOps> {
    entry: Entry,
    pagemap: &'g Pagemap<T>,
    _guard: PhantomData<&'g ()>,
}

impl<T: DeviceOps> ViewPage<'_, T> {
    /// Returns the pages of the device.
    pub fn pagemap(&self) -> &Pagemap<T> {
        self.pagemap
    }

    /// Returns what the device may do with it.
    pub fn access(&self) -> Access {
        self.entry.access
    }

    /// Returns which page of the device it is, if it is in the device's own memory.
    pub fn device_index(&self) -> Option<usize> {
        self.pagemap.index_of(self.frame())
    }

    /// Copies from the page, from byte `offset` on, to `out`.
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

    /// Copies `data` to the page, from byte `offset` on.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EPERM`] when the device may only read the page; [`EINVAL`] when it has no such bytes.
    pub fn write(&self, offset: usize, data: &[u8]) -> Result {
        check(offset, data.len())?;
        if self.entry.access == Access::Read {
            return Err(EPERM);
        }
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
        self.mark_dirty();
        Ok(())
    }

    /// Makes sure that reclaim does not take the page for one that nobody has written to: mm does
    /// not see what a device writes. A page of the device takes the mark along when it comes back.
    fn mark_dirty(&self) {
        // SAFETY: The page is valid, by the type invariant.
        let folio = unsafe { bindings::page_folio(self.frame().page()) };
        // A page of a file on a disk can be written to only through a page table entry that is
        // dirty already, and its file system may want the lock of the folio to hear of it.
        // SAFETY: The folio is that of a valid page.
        let is_anonymous = unsafe { bindings::folio_test_anon(folio) };
        // SAFETY: The folio is that of a valid page.
        if is_anonymous || unsafe { bindings::folio_test_swapbacked(folio) } {
            // SAFETY: The folio is that of a valid page; for such folios this only sets flags.
            unsafe { bindings::folio_mark_dirty(folio) };
        }
    }

    /// Returns the bytes of a page of the device's own memory; `None` for others.
    fn device_bytes(&self) -> Result<Option<NonNull<u8>>> {
        let Some(index) = self.device_index() else {
            return Ok(None);
        };
        let memory = self.pagemap.ops().memory();
        Ok(Some(memory.frame(index).ok_or(EIO)?))
    }

    fn frame(&self) -> Frame {
        Frame::from_bits(self.entry.pfn)
    }
}

fn check(offset: usize, len: usize) -> Result {
    match offset.checked_add(len) {
        Some(end) if end <= PAGE_SIZE => Ok(()),
        _ => Err(EINVAL),
    }
}
