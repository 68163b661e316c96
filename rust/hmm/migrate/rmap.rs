// SPDX-License-Identifier: GPL-2.0

//! Where a page of the device may be mapped, as mm's reverse map knows it.
//!
//! C source: [`mm/rmap.c`](srctree/mm/rmap.c), `folio_lock_anon_vma_read()`.
//!
//! Locks: the `rwsem` of an `anon_vma`, which is only tried, and under which nothing is taken.

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

/// How many places are looked up at a time.
const CHUNK: usize = 8;

/// A place where pages may be mapped. The answer may be old when it arrives.
pub(super) struct Mapping {
    /// The address space. Putting it does not sleep, and does not destroy it here and now.
    pub(super) mm: ARef<MmWithUserAsync>,
    /// The address of the first page, in bytes.
    pub(super) address: usize,
}

/// Where a run of pages of a device may be mapped.
#[derive(Default)]
pub(super) struct Mappings {
    /// Some of the places, in the order of the reverse map.
    pub(super) found: [Option<Mapping>; CHUNK],
    /// How many pages from the first one on are mapped one after the other in each of the places,
    /// unless its VMA ends before.
    pub(super) npages: usize,
    /// Whether the first page is one of a large folio.
    pub(super) is_large: bool,
    /// Whether there is a VMA besides that of the first place.
    pub(super) is_shared: bool,
    /// Whether there are more places.
    pub(super) more: bool,
    /// The `anon_vma` of the pages, never dereferenced, and the offset of the first one in it.
    anon_vma: usize,
    index: usize,
}

impl Mappings {
    /// Returns whether page `n` of the run, which begins with page `first`, is where it was: not
    /// free, and not used anew elsewhere. Does not sleep; the answer may be old.
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

/// Returns the `anon_vma` of a page of the memory map, as a number, and its offset in that. The
/// folio may change meanwhile, and what is read be wrong.
fn place_of(page: *mut bindings::page) -> (usize, usize) {
    // SAFETY: It is a page of the memory map.
    let folio = unsafe { bindings::page_folio(page) };
    // SAFETY: It is a page of the memory map, and the function only reads a member.
    let anon_vma = unsafe { bindings::folio_anon_vma(folio) };
    // SAFETY: They are pages of the memory map, and the function only computes.
    (anon_vma as usize, unsafe {
        bindings::page_pgoff(folio, page)
    })
}

/// Returns where the run of pages may be mapped that begins with page `first` and ends before page
/// `end`, without the first `skip` places.
///
/// Does not sleep. Finds nothing for a page that is free, that is mapped nowhere, or whose
/// `anon_vma` somebody changes at this moment.
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
    // SAFETY: We have a reference to the folio of the page, so that it is not split or freed.
    mappings.is_large = unsafe { bindings::folio_order(folio.as_ptr()) } > 0;
    // SAFETY: We have a reference to the folio of the page, so that it is not split or freed.
    let index = unsafe { bindings::page_pgoff(folio.as_ptr(), page) };
    (mappings.anon_vma, mappings.index) = (anon_vma as usize, index);
    // Where that is wrong, a migration finds nothing at the address.
    let follows = |&next: &usize| mappings.is_still_there(pagemap, first, next - first);
    mappings.npages = 1 + (first + 1..end).take_while(follows).count();
    let mut skip = skip;
    let mut count = 0;
    // SAFETY: The lock is held.
    let mut chain = unsafe { bindings::anon_vma_first(anon_vma, index) };
    while !chain.is_null() {
        if count == CHUNK {
            mappings.more = true;
            break;
        }
        // SAFETY: The tree has this entry, whose VMA is not freed while the lock is held.
        let vma = unsafe { VmaRef::from_raw(bindings::avc_vma(chain)) };
        if skip > 0 {
            skip -= 1;
            mappings.is_shared = true;
        } else {
            mappings.found[count] = mapping_in(vma, index);
            count += 1;
            mappings.is_shared |= count > 1;
        }
        // SAFETY: The lock is held, and the tree has this entry.
        chain = unsafe { bindings::anon_vma_next(chain, index) };
    }
    mappings
}

/// Returns where in a VMA of the reverse map the page with this offset is, if the address space
/// has users.
fn mapping_in(vma: &VmaRef, index: usize) -> Option<Mapping> {
    // SAFETY: The VMA is valid, and this member never changes.
    let mm = unsafe { (*vma.as_ptr()).vm_mm };
    // SAFETY: An address space outlives its VMAs, of which this is one.
    let mm = unsafe { Mm::from_raw(mm) };
    // SAFETY: The VMA is valid, and the lock of its `anon_vma` keeps what this reads as it is.
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
/// The `rwsem` of the root is held for reading by this.
struct RootGuard(NonNull<bindings::anon_vma>);

impl Drop for RootGuard {
    fn drop(&mut self) {
        // SAFETY: The lock is held, by the type invariant. A root that is locked is not freed:
        // whoever frees it takes the lock first (`anon_vma_free()`), and until then its memory is
        // one of an `anon_vma`.
        unsafe { bindings::anon_vma_unlock_root(self.0.as_ptr()) };
    }
}

/// The `anon_vma` of a folio, locked.
///
/// # Invariants
///
/// The root of the `anon_vma` is locked, and while it was, the folio was mapped and had this
/// `anon_vma`. So a VMA of its tree has it in its chain, and cannot leave it before the lock is
/// released: it is not freed.
struct AnonVmaGuard {
    anon_vma: NonNull<bindings::anon_vma>,
    _root: RootGuard,
}

impl AnonVmaGuard {
    /// The caller has a reference to the folio.
    ///
    /// C function: `folio_lock_anon_vma_read()`, which modules cannot call.
    fn try_lock(folio: *mut bindings::folio) -> Option<Self> {
        let _rcu = rcu::read_lock();
        // SAFETY: The folio is valid.
        let anon_vma = NonNull::new(unsafe { bindings::folio_anon_vma(folio) })?;
        // While the folio is mapped its `anon_vma` is not freed; what was freed after this still is
        // an `anon_vma` until the RCU read section ends.
        // SAFETY: The folio is valid.
        if !unsafe { bindings::folio_mapped(folio) } {
            return None;
        }
        // What was locked is kept: the `anon_vma` may be free by now, and used again with another
        // root.
        // SAFETY: It is an `anon_vma`, if perhaps a free one, in the RCU read section.
        let root = NonNull::new(unsafe { bindings::anon_vma_trylock_root(anon_vma.as_ptr()) })?;
        // INVARIANT: The lock was just taken.
        let root = RootGuard(root);
        // SAFETY: The folio is valid.
        let mapped = unsafe { bindings::folio_mapped(folio) };
        // `folio_move_anon_rmap()` may have changed it, since the folio is not locked here.
        // SAFETY: The folio is valid.
        let same = unsafe { bindings::folio_anon_vma(folio) } == anon_vma.as_ptr();
        // One that is in use keeps its root.
        // SAFETY: It is an `anon_vma`, if perhaps a free one, in the RCU read section.
        let same_root = unsafe { bindings::anon_vma_root(anon_vma.as_ptr()) } == root.0.as_ptr();
        // INVARIANT: All three were checked after the lock was taken.
        (mapped && same && same_root).then_some(Self {
            anon_vma,
            _root: root,
        })
    }
}
