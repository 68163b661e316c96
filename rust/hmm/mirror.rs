// SPDX-License-Identifier: GPL-2.0

//! The view that a device has of an address space: its page table, kept true.
//!
//! C document: [`Documentation/mm/hmm.rst`](srctree/Documentation/mm/hmm.rst), "Address space
//! mirroring implementation and API".
//!
//! Locks: the claim lock of a [`Mirror`] (a mutex) is taken before the `mmap_lock` and folio locks,
//! and those before its update lock, see [`IntervalNotifier`].

use core::marker::PhantomData;
use core::ops::Deref;
use core::ops::DerefMut;
use core::ops::Range;
use core::ptr::NonNull;

use kernel::alloc::flags::GFP_KERNEL_ACCOUNT;
use kernel::alloc::flags::__GFP_NOWARN;
use kernel::mm::MmWithUser;
use kernel::page::PAGE_SHIFT;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::lock::mutex::MutexGuard;
use kernel::sync::Arc;
use kernel::sync::LockClassKey;
use kernel::sync::Mutex;
use kernel::task::Task;

use crate::bindings;
use crate::notifier::IntervalNotifier;
use crate::notifier::Invalidate;
use crate::notifier::Invalidation;
use crate::ops::DevPagemapOps;
use crate::pagemap::DevPagemap;
use crate::table::Access;
use crate::table::Entry;
use crate::table::Node;
use crate::table::Place;
use crate::table::Spares;
use crate::table::Table;
use crate::table::FANOUT;

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
    /// As many nodes as mapping pages of one aligned run can need.
    pub(crate) fn new() -> Result<Self> {
        let mut this = Self([const { None }; crate::table::MAX_SPARES]);
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

/// What the update lock of a [`Mirror`] protects.
pub(crate) struct State {
    pub(crate) table: Table<NodeBox>,
    /// The claim that is held, if one is.
    pub(crate) claim: Option<ClaimRecord>,
}

/// What a [`Claim`](crate::Claim) stands for.
pub(crate) struct ClaimRecord {
    /// The pages.
    pub(crate) pages: Range<usize>,
    /// The task that claims them; never dereferenced.
    pub(crate) task: *const bindings::task_struct,
    /// Whether another task has changed the page tables there since.
    pub(crate) spoiled: bool,
}

// SAFETY: `task` is only compared.
unsafe impl Send for State {}

impl Invalidate for State {
    fn invalidate(&mut self, event: &Invalidation<'_>) {
        let range = event.range();
        let pages = range.start >> PAGE_SHIFT..range.end.div_ceil(PAGE_SIZE);
        if let Some(claim) = &mut self.claim {
            let overlaps = pages.start < claim.pages.end && claim.pages.start < pages.end;
            // What the claiming task causes runs inside its own call, before it maps anything.
            if overlaps && claim.task != Task::current_raw().cast_const() {
                claim.spoiled = true;
            }
        }
        self.table.clear(pages);
    }
}

/// The view that a device has of an address space.
///
/// It owns the device's page table, the lock that protects it, and the notifier that keeps it true.
/// A page behind an entry is valid only under that lock, so that access to it goes through a
/// [`MirrorGuard`]. Every change to the page tables of the process, whoever causes it, clears the
/// entries that it covers; the device faults them in again. So several mirrors of one address space,
/// fork, and CPU faults need no special case.
///
/// It keeps the `mm_struct` from being freed, but not alive; the pagemap lives as long as it does.
///
/// # Invariants
///
/// An entry is there only while the page that it names is mapped in the address space with at least
/// the same rights; a page of `pagemap` is not locked for migration by anybody but the holder of
/// the claim while it is there.
///
/// # Examples
///
/// ```ignore
/// let mirror = KBox::pin_init(Mirror::new(mm, pagemap), GFP_KERNEL)?;
/// let mut buffer = RangeBuffer::new()?;
/// let page = address..address + PAGE_SIZE;
/// mirror.fault(mm, page, Access::Read, Patience::Bounded, &mut buffer, |guard| {
///     if let Some(page) = guard.page(address) {
///         result = page.read(0, &mut bytes);
///     }
/// })?;
/// ```
#[pin_data]
pub struct Mirror<T: DevPagemapOps> {
    // Before the pagemap, so that it is dropped first.
    #[pin]
    notifier: IntervalNotifier<State>,
    #[pin]
    claiming: Mutex<()>,
    pagemap: Arc<DevPagemap<T>>,
}

impl<T: DevPagemapOps> Mirror<T> {
    /// A view of `mm` that shows nothing yet.
    ///
    /// May sleep. Takes the `mmap_lock` for writing.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub fn new(mm: &MmWithUser, pagemap: Arc<DevPagemap<T>>) -> impl PinInit<Self, Error> + '_ {
        let (name, key) = claim_lock_class();
        try_pin_init!(Self {
            notifier <- IntervalNotifier::new(mm, 0..usize::MAX & !(PAGE_SIZE - 1), State {
                table: Table::new(NodeBox::new()?),
                claim: None,
            }),
            claiming <- Mutex::new((), name, key),
            pagemap,
        }? Error)
    }

    /// The pages of the device.
    pub fn pagemap(&self) -> &DevPagemap<T> {
        &self.pagemap
    }

    /// Takes the update lock, to look at the page table or to access pages through it.
    ///
    /// May sleep. While the guard lives, the caller must not access user memory, nor allocate
    /// memory in a way that may sleep: mm waits for the lock.
    pub fn lock(&self) -> MirrorGuard<'_, T> {
        MirrorGuard {
            state: self.notifier.lock(),
            pagemap: &self.pagemap,
        }
    }

    /// The address space. It may be gone but for its number.
    pub(crate) fn mm(&self) -> *mut bindings::mm_struct {
        // SAFETY: The notifier is inserted in an address space, and this never changes.
        unsafe { (*self.notifier.as_raw()).mm }
    }

    pub(crate) fn notifier(&self) -> &IntervalNotifier<State> {
        &self.notifier
    }

    pub(crate) fn claiming(&self) -> &Mutex<()> {
        &self.claiming
    }
}

/// See `lock_class` in `notifier.rs`.
#[inline(never)]
fn claim_lock_class() -> (&'static CStr, Pin<&'static LockClassKey>) {
    (c"Mirror::claiming", kernel::static_lock_class!())
}

/// The page numbers of an address range, in bytes, page aligned.
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
pub struct MirrorGuard<'m, T: DevPagemapOps> {
    pub(crate) state: MutexGuard<'m, State>,
    pub(crate) pagemap: &'m DevPagemap<T>,
}

impl<T: DevPagemapOps> MirrorGuard<'_, T> {
    /// The page that the device has mapped at an address (bytes).
    ///
    /// Does not sleep.
    pub fn page(&self, address: usize) -> Option<MappedPage<'_, T>> {
        let entry = self.state.table.get(address >> PAGE_SHIFT)?;
        Some(MappedPage {
            entry,
            pagemap: self.pagemap,
            _guard: PhantomData,
        })
    }

    /// The first page of `range` (bytes, the end exclusive) that the device has mapped, and its
    /// address.
    ///
    /// Does not sleep; takes as long as the range has nodes, not pages.
    pub fn next(&self, range: Range<usize>) -> Option<(usize, MappedPage<'_, T>)> {
        let pages = range.start >> PAGE_SHIFT..range.end.div_ceil(PAGE_SIZE);
        let (page, entry) = self.state.table.find(pages)?;
        let mapped = MappedPage {
            entry,
            pagemap: self.pagemap,
            _guard: PhantomData,
        };
        Some((page << PAGE_SHIFT, mapped))
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
pub struct MappedPage<'g, T: DevPagemapOps> {
    entry: Entry,
    pagemap: &'g DevPagemap<T>,
    _guard: PhantomData<&'g ()>,
}

impl<T: DevPagemapOps> MappedPage<'_, T> {
    /// The pages of the device.
    pub fn pagemap(&self) -> &DevPagemap<T> {
        self.pagemap
    }

    /// What the device may do with it.
    pub fn access(&self) -> Access {
        self.entry.access
    }

    /// If the page is one of the device's own memory, which one, counted from the start of the
    /// region.
    pub fn device_index(&self) -> Option<usize> {
        self.pagemap.index_of(self.entry.pfn)
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
        match self.frame()? {
            Some(frame) => {
                // SAFETY: The frame has PAGE_SIZE bytes, and the offset is below that.
                let from = unsafe { frame.add(offset) };
                // SAFETY: Both have that many bytes, as was checked. Others may write at the same
                // time, which the C function is made for.
                unsafe {
                    bindings::memcpy_racy(
                        out.as_mut_ptr().cast(),
                        from.as_ptr().cast_const().cast(),
                        out.len(),
                    )
                };
            }
            // SAFETY: The page is valid by the type invariant, and has those bytes.
            None => unsafe {
                bindings::memcpy_from_page(
                    out.as_mut_ptr().cast(),
                    self.as_raw(),
                    offset,
                    out.len(),
                )
            },
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
        match self.frame()? {
            Some(frame) => {
                // SAFETY: The frame has PAGE_SIZE bytes, and the offset is below that.
                let to = unsafe { frame.add(offset) };
                // SAFETY: As in `read`.
                unsafe {
                    bindings::memcpy_racy(to.as_ptr().cast(), data.as_ptr().cast(), data.len())
                };
            }
            None => {
                // SAFETY: The page is valid by the type invariant, and has those bytes.
                unsafe {
                    bindings::memcpy_to_page(
                        self.as_raw(),
                        offset,
                        data.as_ptr().cast(),
                        data.len(),
                    )
                };
            }
        }
        self.mark_dirty();
        Ok(())
    }

    /// Makes sure that reclaim does not take the page for one that nobody has written to: mm does
    /// not see what a device writes. A page of the device takes the mark along when it comes back.
    fn mark_dirty(&self) {
        // SAFETY: The page is valid by the type invariant.
        let folio = unsafe { bindings::page_folio(self.as_raw()) };
        // A page of a file on a disk can be written to only through a page table entry that is
        // dirty already, and its file system may want the lock of the folio to hear of it.
        // SAFETY: As above.
        let plain = unsafe { bindings::folio_test_anon(folio) }
            // SAFETY: As above.
            || unsafe { bindings::folio_test_swapbacked(folio) };
        if plain {
            // SAFETY: As above; for such folios it only sets flags.
            unsafe { bindings::folio_mark_dirty(folio) };
        }
    }

    /// The bytes of a page of the device's own memory; `None` for others.
    fn frame(&self) -> Result<Option<NonNull<u8>>> {
        match self.device_index() {
            Some(index) => {
                let frame = self.pagemap.region().vram().frame(index).ok_or(EIO)?;
                Ok(Some(frame))
            }
            None => Ok(None),
        }
    }

    fn as_raw(&self) -> *mut bindings::page {
        // SAFETY: The page frame exists by the type invariant.
        unsafe { bindings::pfn_to_page(self.entry.pfn) }
    }
}

fn check(offset: usize, len: usize) -> Result {
    match offset.checked_add(len) {
        Some(end) if end <= PAGE_SIZE => Ok(()),
        _ => Err(EINVAL),
    }
}
