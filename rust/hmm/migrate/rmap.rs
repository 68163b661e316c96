// SPDX-License-Identifier: GPL-2.0

//! The places where a page of the device may be mapped, according to mm's reverse map.
//!
//! C source: [`mm/rmap.c`](srctree/mm/rmap.c), `folio_lock_anon_vma_read()`.
//!
//! Locks: the `rwsem` of an `anon_vma`. It is only tried, and no lock is taken under it.

use core::ptr::NonNull;

use kernel::{
    mm::{virt::VmaRef, Mm, MmWithUser, MmWithUserAsync},
    page::PAGE_SIZE,
    sync::{aref::ARef, rcu},
};

use crate::{
    bindings,
    memremap::{try_get_page, DevPagemap, DevPagemapOps},
};

/// Number of places that are looked up at a time.
const CHUNK: usize = 8;

/// A place where pages may be mapped. It may be stale.
pub(super) struct Mapping {
    /// The address space. Dropping this reference does not sleep, and does not tear down the
    /// address space synchronously.
    pub(super) mm: ARef<MmWithUserAsync>,
    /// The address of the first page, in bytes.
    pub(super) address: usize,
}

/// The places where a run of pages of a device may be mapped.
#[derive(Default)]
pub(super) struct Mappings {
    /// Some of the places, in the order of the reverse map.
    pub(super) found: [Option<Mapping>; CHUNK],
    /// Number of pages, from the first one on, that are mapped consecutively at each of the places,
    /// unless a place's VMA ends earlier.
    pub(super) npages: usize,
    /// Set if the first page belongs to a large folio.
    pub(super) is_large: bool,
    /// Set if there is a VMA besides that of the first place.
    pub(super) is_shared: bool,
    /// Set if there are more places.
    pub(super) more: bool,
    /// The address of the pages' `anon_vma`, never dereferenced, and the offset of the first page
    /// in it.
    anon_vma: usize,
    index: usize,
}

impl Mappings {
    /// Returns whether page `n` of the run that begins with page `first` still has the same place:
    /// it is neither free, nor in use elsewhere. Does not sleep; the answer may be stale.
    pub(super) fn is_still_there<T: DevPagemapOps>(
        &self,
        pagemap: &DevPagemap<T>,
        first: usize,
        n: usize,
    ) -> bool {
        let page = pagemap.page(first + n).as_ptr();
        self.anon_vma != 0 && place_of(page) == (self.anon_vma, self.index + n)
    }
}

/// Returns the address of the `anon_vma` of a page of the memory map, as a number, and the page's
/// offset in it. The folio may change meanwhile, so the result may be wrong.
fn place_of(page: *mut bindings::page) -> (usize, usize) {
    // SAFETY: The page belongs to the memory map.
    let folio = unsafe { bindings::page_folio(page) };
    // SAFETY: The folio is a page of the memory map, and the function only reads a member.
    let anon_vma = unsafe { bindings::folio_anon_vma(folio) };
    // SAFETY: Both are pages of the memory map, and the function only computes.
    (anon_vma as usize, unsafe {
        bindings::page_pgoff(folio, page)
    })
}

/// Returns the places where the run of pages from `first` to `end` (exclusive) may be mapped,
/// without the first `skip` places.
///
/// Does not sleep. Finds nothing for a page that is free, that is not mapped, or whose `anon_vma`
/// is being changed.
pub(super) fn mappings_of<T: DevPagemapOps>(
    pagemap: &DevPagemap<T>,
    first: usize,
    end: usize,
    skip: usize,
) -> Mappings {
    let mut mappings = Mappings::default();
    let page = pagemap.page(first).as_ptr();
    let Some(folio) = try_get_page(pagemap.page(first)) else {
        return mappings;
    };
    let Some(guard) = AnonVmaGuard::try_lock(folio.as_ptr()) else {
        return mappings;
    };
    let anon_vma = guard.anon_vma.as_ptr();
    // SAFETY: We have a reference to the folio of the page, so it is neither split nor freed.
    mappings.is_large = unsafe { bindings::folio_order(folio.as_ptr()) } > 0;
    // SAFETY: We have a reference to the folio of the page, so it is neither split nor freed.
    let index = unsafe { bindings::page_pgoff(folio.as_ptr(), page) };
    (mappings.anon_vma, mappings.index) = (anon_vma as usize, index);
    // If this is wrong, a migration finds nothing at the address.
    let follows = |&next: &usize| mappings.is_still_there(pagemap, first, next - first);
    mappings.npages = 1 + (first + 1..end).take_while(follows).count();
    let mut skip = skip;
    let mut count = 0;
    // SAFETY: `guard` holds the lock of the `anon_vma`.
    let mut chain = unsafe { bindings::anon_vma_first(anon_vma, index) };
    while !chain.is_null() {
        if count == CHUNK {
            mappings.more = true;
            break;
        }
        // SAFETY: The tree contains this entry, whose VMA is not freed while `guard` holds the
        // lock.
        let vma = unsafe { VmaRef::from_raw(bindings::avc_vma(chain)) };
        if skip > 0 {
            skip -= 1;
            mappings.is_shared = true;
        } else {
            mappings.found[count] = mapping_in(vma, index);
            count += 1;
            mappings.is_shared |= count > 1;
        }
        // SAFETY: `guard` holds the lock, and the tree contains this entry.
        chain = unsafe { bindings::anon_vma_next(chain, index) };
    }
    mappings
}

/// Returns the place of the page with offset `index` in a VMA of the reverse map, or `None` if the
/// address space has no users any more.
fn mapping_in(vma: &VmaRef, index: usize) -> Option<Mapping> {
    // SAFETY: The VMA is valid, and this member never changes.
    let mm = unsafe { (*vma.as_ptr()).vm_mm };
    // SAFETY: An address space outlives its VMAs, of which this is one.
    let mm = unsafe { Mm::from_raw(mm) };
    // SAFETY: The VMA is valid, and the caller holds the lock of its `anon_vma`, which keeps the
    // members that the function reads unchanged.
    let start = unsafe { bindings::vma_start_anon_pgoff(vma.as_ptr()) };
    Some(Mapping {
        mm: MmWithUser::into_mmput_async(mm.mmget_not_zero()?),
        address: vma.start() + index.checked_sub(start)? * PAGE_SIZE,
    })
}

/// The root of an `anon_vma`, locked for reading.
///
/// # Invariants
///
/// This value holds the `rwsem` of the root for reading.
struct RootGuard(NonNull<bindings::anon_vma>);

impl Drop for RootGuard {
    fn drop(&mut self) {
        // SAFETY: The lock is held, by the type invariant. A locked root is not freed: whoever
        // frees it takes the lock first (`anon_vma_free()`), and until then its memory still holds
        // an `anon_vma`.
        unsafe { bindings::anon_vma_unlock_root(self.0.as_ptr()) };
    }
}

/// The `anon_vma` of a folio, locked.
///
/// # Invariants
///
/// The root of the `anon_vma` is locked. While it was locked, the folio was mapped and had this
/// `anon_vma`. So a VMA of the tree has the `anon_vma` in its chain and cannot leave it before the
/// lock is released, and the `anon_vma` is not freed.
struct AnonVmaGuard {
    anon_vma: NonNull<bindings::anon_vma>,
    _root: RootGuard,
}

impl AnonVmaGuard {
    /// Locks the `anon_vma` of a folio to which the caller has a reference. Does not sleep.
    ///
    /// C function: `folio_lock_anon_vma_read()`, which modules cannot call.
    fn try_lock(folio: *mut bindings::folio) -> Option<Self> {
        let _rcu = rcu::read_lock();
        // SAFETY: The folio is valid, because the caller has a reference to it.
        let anon_vma = NonNull::new(unsafe { bindings::folio_anon_vma(folio) })?;
        // While the folio is mapped, its `anon_vma` is not freed. If it is freed after this check,
        // the memory still holds an `anon_vma` until the RCU read section ends.
        // SAFETY: The folio is valid, because the caller has a reference to it.
        if !unsafe { bindings::folio_mapped(folio) } {
            return None;
        }
        // Keep the root that was locked: the `anon_vma` may be free by now, and in use again with
        // another root.
        // SAFETY: This is an `anon_vma`, though perhaps a free one, in the RCU read section.
        let root = NonNull::new(unsafe { bindings::anon_vma_trylock_root(anon_vma.as_ptr()) })?;
        // INVARIANT: The lock was just taken.
        let root = RootGuard(root);
        // SAFETY: The folio is valid, because the caller has a reference to it.
        let mapped = unsafe { bindings::folio_mapped(folio) };
        // `folio_move_anon_rmap()` may have changed the `anon_vma`, since the folio is not locked
        // here.
        // SAFETY: The folio is valid, because the caller has a reference to it.
        let same = unsafe { bindings::folio_anon_vma(folio) } == anon_vma.as_ptr();
        // An `anon_vma` in use keeps its root.
        // SAFETY: This is an `anon_vma`, though perhaps a free one, in the RCU read section.
        let same_root = unsafe { bindings::anon_vma_root(anon_vma.as_ptr()) } == root.0.as_ptr();
        // INVARIANT: All three conditions were checked after the lock was taken.
        (mapped && same && same_root).then_some(Self {
            anon_vma,
            _root: root,
        })
    }
}
