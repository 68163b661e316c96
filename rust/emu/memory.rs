// SPDX-License-Identifier: GPL-2.0

//! RAM that emulates the memory of a device.
//!
//! Page n of the device is page n of this memory, so neither a device page nor the split of a folio
//! needs any bookkeeping here. CPUs access the bytes only through this file.
//!
//! C header: [`include/linux/io.h`](srctree/include/linux/io.h).

use core::{cell::UnsafeCell, mem::MaybeUninit, ops::Range, ptr::NonNull};

use hmm::memremap::{PfnRange, HPAGE_PMD_NR};
use kernel::{
    alloc::{
        flags::{GFP_KERNEL, __GFP_NOWARN, __GFP_ZERO},
        KVBox, KVVec,
    },
    new_mutex,
    page::PAGE_SIZE,
    prelude::*,
    sync::{Mutex, SetOnce},
};

use crate::{
    bindings,
    iomem::{Claim, PhysicalStart},
};

/// A page of RAM, aligned as C's `copy_page()` needs it. Its bytes are accessed only through raw
/// pointers.
#[repr(C)]
#[cfg_attr(CONFIG_PAGE_SIZE_4KB, repr(align(4096)))]
#[cfg_attr(CONFIG_PAGE_SIZE_16KB, repr(align(16384)))]
#[cfg_attr(CONFIG_PAGE_SIZE_64KB, repr(align(65536)))]
struct Frame(UnsafeCell<MaybeUninit<[u8; PAGE_SIZE]>>);

const _: () = assert!(align_of::<Frame>() == PAGE_SIZE);

/// Number of pages of a chunk, which are allocated at once and have consecutive bytes: 2 MiB. A
/// huge page may have many chunks: with pages of 64 KiB it has 512 MiB.
pub(crate) const CHUNK_PAGES: usize = (2 << 20) / PAGE_SIZE;

const _: () = assert!(HPAGE_PMD_NR % CHUNK_PAGES == 0);

type Chunk = KVBox<MaybeUninit<[Frame; CHUNK_PAGES]>>;

enum Backing {
    /// Chunks that are allocated on first use, by one task at a time, which holds the lock.
    Lazy(KVVec<SetOnce<Chunk>>, Pin<KBox<Mutex<()>>>),
    /// A physical range that the system does not use as RAM, mapped as a whole.
    Fixed(Mapping),
    /// A physical range that the device pages themselves map.
    Coherent(Claim),
}

/// The memory of an emulated device: a number of whole blocks of [`HPAGE_PMD_NR`] pages.
///
/// # Invariants
///
/// The copy engine accesses the bytes of page n for a migration that has device page n, or a
/// destination there, locked and unmapped. Otherwise, while the page is in use, those who map it
/// access them: through a [`View`](crate::view::View), or as CPUs if it is coherent memory.
pub struct Memory {
    npages: usize,
    backing: Backing,
}

// SAFETY: The frames are plain memory; any thread may free a chunk.
unsafe impl Send for Memory {}
// SAFETY: `populate` synchronises through `SetOnce`; access to the bytes of a page is exclusive, or
// tolerates races, by the type invariant.
unsafe impl Sync for Memory {}

impl Memory {
    /// Creates memory of `npages` pages. [`populate`](Self::populate) allocates it from the system,
    /// 2 MiB at a time, and it is kept until drop.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when `npages` is 0 or not a multiple of [`HPAGE_PMD_NR`]; [`ENOMEM`].
    pub fn lazy(npages: usize) -> Result<Self> {
        whole_blocks(npages)?;
        let chunks = npages / CHUNK_PAGES;
        let mut slots = KVVec::with_capacity(chunks, GFP_KERNEL | __GFP_NOWARN)?;
        for _ in 0..chunks {
            slots.push(SetOnce::new(), GFP_KERNEL)?;
        }
        Ok(Self {
            npages,
            backing: Backing::Lazy(slots, KBox::pin_init(new_mutex!(()), GFP_KERNEL)?),
        })
    }

    /// Creates memory from the physical range of `npages` pages at `start`, which must have been
    /// reserved, for example with `memmap=512M$0x180000000` on the kernel command line. The range
    /// is claimed under `name` in `/proc/iomem`.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when `npages` is 0 or not a multiple of [`HPAGE_PMD_NR`], or the range is not
    /// page aligned or wraps around; [`EBUSY`] when the system uses a part of the range as RAM,
    /// when neither the firmware's memory map nor `memmap=` marks the range as reserved, or when
    /// someone else has claimed it; [`ENOMEM`] when it cannot be mapped.
    pub fn fixed(start: PhysicalStart, npages: usize, name: &CStr) -> Result<Self> {
        whole_blocks(npages)?;
        Ok(Self {
            npages,
            backing: Backing::Fixed(Mapping::new(start, bytes_of(npages)?, name)?),
        })
    }

    /// Creates memory from the physical range of `npages` pages at `start`, which CPUs access like
    /// any other memory once it is a [`device`](crate::device). The range must have been reserved
    /// as for [`fixed`](Self::fixed), and is claimed in the same way.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// As for [`fixed`](Self::fixed); [`EINVAL`] also when `start` is not a multiple of
    /// [`HPAGE_PMD_NR`] pages.
    pub fn coherent(start: PhysicalStart, npages: usize, name: &CStr) -> Result<Self> {
        whole_blocks(npages)?;
        if start.address() % (HPAGE_PMD_NR * PAGE_SIZE) as u64 != 0 {
            return Err(EINVAL);
        }
        Ok(Self {
            npages,
            backing: Backing::Coherent(Claim::new(start, bytes_of(npages)?, name)?),
        })
    }

    /// Returns page frame numbers for the pages of this memory; `name` is for a claim on new
    /// addresses.
    pub(crate) fn pfns(&self, name: &CStr) -> Result<PfnRange> {
        match &self.backing {
            Backing::Coherent(claim) => {
                // SAFETY: The range is memory that root vouches for, and it is claimed; `Emulated`
                // holds this memory until its pagemap has been dropped.
                unsafe { PfnRange::coherent(claim.start(), self.npages()) }
            }
            _ => PfnRange::private(self.npages(), name),
        }
    }

    /// Returns the number of pages.
    pub fn npages(&self) -> usize {
        self.npages
    }

    /// Makes sure that the pages have memory; the end is exclusive. New memory is zeroed.
    ///
    /// May sleep; takes a mutex, under which 2 MiB are allocated at a time. Fast if the pages
    /// already have memory.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]; [`EINVAL`] when there are no such pages.
    pub fn populate(&self, pages: Range<usize>) -> Result {
        if pages.start > pages.end || pages.end > self.npages {
            return Err(EINVAL);
        }
        let Backing::Lazy(slots, lock) = &self.backing else {
            return Ok(());
        };
        let chunks = pages.start / CHUNK_PAGES..pages.end.div_ceil(CHUNK_PAGES);
        for slot in slots.get(chunks).ok_or(EINVAL)? {
            if slot.as_ref().is_some() {
                continue;
            }
            let _guard = lock.lock();
            if slot.as_ref().is_none() {
                slot.populate(KVBox::new_uninit(GFP_KERNEL | __GFP_NOWARN | __GFP_ZERO)?);
            }
        }
        Ok(())
    }

    /// Returns the bytes of page `page`, or `None` if there is no such page, or it has no memory
    /// yet.
    ///
    /// The pointer is valid for `PAGE_SIZE` bytes, and as long as `self`. The pages of an aligned
    /// run of [`CHUNK_PAGES`] are consecutive.
    pub(crate) fn frame(&self, page: usize) -> Option<NonNull<u8>> {
        if page >= self.npages() {
            return None;
        }
        match &self.backing {
            Backing::Lazy(slots, _) => {
                let chunk = slots.get(page / CHUNK_PAGES)?.as_ref()?;
                let frames: *const Frame = chunk.as_ptr().cast();
                // SAFETY: The remainder is below CHUNK_PAGES, the length of the array.
                let frame = unsafe { frames.add(page % CHUNK_PAGES) };
                NonNull::new(frame.cast_mut().cast())
            }
            Backing::Fixed(mapping) => {
                // SAFETY: The mapping has `npages()` pages, and `page` is less than that.
                Some(unsafe { mapping.base.byte_add(page * PAGE_SIZE) })
            }
            Backing::Coherent(claim) => {
                let address = claim.start() + (page * PAGE_SIZE) as u64;
                // SAFETY: The address is inside the range. It is accessed only for pages that a
                // `DevPagemap` has handed out, and that `DevPagemap` has mapped them.
                NonNull::new(unsafe { bindings::phys_to_virt(address) }.cast())
            }
        }
    }
}

fn whole_blocks(npages: usize) -> Result {
    if npages == 0 || npages % HPAGE_PMD_NR != 0 {
        return Err(EINVAL);
    }
    Ok(())
}

fn bytes_of(npages: usize) -> Result<usize> {
    npages.checked_mul(PAGE_SIZE).ok_or(EINVAL)
}

/// A physical range that the kernel accesses at `base`.
///
/// # Invariants
///
/// `base` came from `memremap()` of the whole claimed range.
struct Mapping {
    base: NonNull<u8>,
    _range: Claim,
}

impl Mapping {
    fn new(start: PhysicalStart, size: usize, name: &CStr) -> Result<Self> {
        let range = Claim::new(start, size, name)?;
        // SAFETY: The range is reserved, claimed by us, and not system RAM.
        let base =
            unsafe { bindings::memremap(range.start(), size, bindings::MEMREMAP_WB as usize) };
        // INVARIANT: `base` was just mapped.
        Ok(Self {
            base: NonNull::new(base.cast()).ok_or(ENOMEM)?,
            _range: range,
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `base` is a mapping by `memremap()`, by the type invariant.
        unsafe { bindings::memunmap(self.base.as_ptr().cast()) };
    }
}
