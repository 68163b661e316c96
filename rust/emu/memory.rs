// SPDX-License-Identifier: GPL-2.0

//! RAM that plays the memory of an emulated device.
//!
//! Page n of the device is page n of this memory, so that neither a device page nor a split of a
//! folio needs any bookkeeping here. The CPU reaches the bytes only through this file.
//!
//! C header: [`include/linux/io.h`](srctree/include/linux/io.h).

use core::{cell::UnsafeCell, mem::MaybeUninit, ptr::NonNull};

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

/// A page of RAM. Its bytes are reached by raw pointer only.
#[repr(C, align(4096))]
struct Frame(UnsafeCell<MaybeUninit<[u8; PAGE_SIZE]>>);

type Block = KVBox<MaybeUninit<[Frame; HPAGE_PMD_NR]>>;

enum Backing {
    /// Allocated a block at a time, on first use; by one task at a time, which holds the lock.
    Lazy(KVVec<SetOnce<Block>>, Pin<KBox<Mutex<()>>>),
    /// A physical range that the system does not use as RAM, mapped whole.
    Fixed(Mapping),
    /// A physical range that the pages of the device map themselves.
    Coherent(Claim),
}

/// The memory of an emulated device: a number of whole blocks of [`HPAGE_PMD_NR`] pages.
///
/// # Invariants
///
/// The bytes of page n are accessed by the copy engine for a migration that has device page n, or a
/// destination there, locked and unmapped; and, while it is in use and this is not the case, by
/// those who have it mapped, through a [`View`](crate::view::View) or, if it is coherent memory, as
/// CPUs.
pub struct Memory {
    blocks: usize,
    backing: Backing,
}

// SAFETY: The frames are plain memory; a block may be freed by any thread.
unsafe impl Send for Memory {}
// SAFETY: `populate` synchronises through `SetOnce`; access to the bytes is exclusive for a page,
// or made for races, by the type invariant.
unsafe impl Sync for Memory {}

impl Memory {
    /// Makes memory of `npages` pages that is taken from the system a block at a time, when
    /// [`populate`](Self::populate) asks for it, and kept until drop.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when `npages` is 0 or no multiple of [`HPAGE_PMD_NR`]; [`ENOMEM`].
    pub fn lazy(npages: usize) -> Result<Self> {
        let blocks = whole_blocks(npages)?;
        let mut slots = KVVec::with_capacity(blocks, GFP_KERNEL | __GFP_NOWARN)?;
        for _ in 0..blocks {
            slots.push(SetOnce::new(), GFP_KERNEL)?;
        }
        Ok(Self {
            blocks,
            backing: Backing::Lazy(slots, KBox::pin_init(new_mutex!(()), GFP_KERNEL)?),
        })
    }

    /// Makes memory of the physical range of `npages` pages from `start` on, which must have been
    /// kept from the system, for example with `memmap=512M$0x180000000` on the kernel command line.
    /// The range is claimed under `name` in `/proc/iomem`.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when `npages` is 0 or no multiple of [`HPAGE_PMD_NR`], or the range is not page
    /// aligned, or wraps; [`EBUSY`] when the system uses a part of the range as RAM, the range is
    /// not one that the firmware's memory map, or `memmap=`, calls reserved, or somebody else has
    /// claimed it; [`ENOMEM`] when it cannot be mapped.
    pub fn fixed(start: PhysicalStart, npages: usize, name: &CStr) -> Result<Self> {
        Ok(Self {
            blocks: whole_blocks(npages)?,
            backing: Backing::Fixed(Mapping::new(start, bytes_of(npages)?, name)?),
        })
    }

    /// Makes memory of the physical range of `npages` pages from `start` on that CPUs reach like
    /// any other, once it is a [`device`](crate::device). It must have been kept from the system,
    /// as for [`fixed`](Self::fixed), and is claimed in the same way.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// As for [`fixed`](Self::fixed); [`EINVAL`] also when `start` is no multiple of
    /// [`HPAGE_PMD_NR`] pages.
    pub fn coherent(start: PhysicalStart, npages: usize, name: &CStr) -> Result<Self> {
        let blocks = whole_blocks(npages)?;
        if start.address() % (HPAGE_PMD_NR * PAGE_SIZE) as u64 != 0 {
            return Err(EINVAL);
        }
        Ok(Self {
            blocks,
            backing: Backing::Coherent(Claim::new(start, bytes_of(npages)?, name)?),
        })
    }

    /// Finds page frame numbers for the pages of this memory; `name` is for those that must be
    /// claimed.
    pub(crate) fn pfns(&self, name: &CStr) -> Result<PfnRange> {
        match &self.backing {
            Backing::Coherent(claim) => {
                // SAFETY: The range is memory that root vouches for, and claimed; `Emulated` holds
                // this memory until its pagemap was dropped.
                unsafe { PfnRange::coherent(claim.start(), self.npages()) }
            }
            _ => PfnRange::private(self.npages(), name),
        }
    }

    /// Returns the number of pages.
    pub fn npages(&self) -> usize {
        self.blocks * HPAGE_PMD_NR
    }

    /// Makes sure that there is memory behind block `block` of [`HPAGE_PMD_NR`] pages. New memory is
    /// zeroed.
    ///
    /// May sleep; takes a mutex, under which one block is allocated. Quick when the memory is there
    /// already.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]; [`EINVAL`] when there is no such block.
    pub fn populate(&self, block: usize) -> Result {
        if block >= self.blocks {
            return Err(EINVAL);
        }
        let Backing::Lazy(slots, lock) = &self.backing else {
            return Ok(());
        };
        let slot = slots.get(block).ok_or(EINVAL)?;
        if slot.as_ref().is_some() {
            return Ok(());
        }
        let _guard = lock.lock();
        if slot.as_ref().is_none() {
            slot.populate(KVBox::new_uninit(GFP_KERNEL | __GFP_NOWARN | __GFP_ZERO)?);
        }
        Ok(())
    }

    /// Returns the bytes of page `page`, or `None` when there is no such page or no memory behind
    /// it.
    ///
    /// The pointer is valid for `PAGE_SIZE` bytes and as long as `self`. The bytes of the pages of a
    /// block follow one another.
    pub(crate) fn frame(&self, page: usize) -> Option<NonNull<u8>> {
        if page >= self.npages() {
            return None;
        }
        match &self.backing {
            Backing::Lazy(slots, _) => {
                let block = slots.get(page / HPAGE_PMD_NR)?.as_ref()?;
                let frames: *const Frame = block.as_ptr().cast();
                // SAFETY: The remainder is below HPAGE_PMD_NR, the length of the array.
                let frame = unsafe { frames.add(page % HPAGE_PMD_NR) };
                NonNull::new(frame.cast_mut().cast())
            }
            Backing::Fixed(mapping) => {
                // SAFETY: The mapping has `npages()` pages, and `page` is below that.
                Some(unsafe { mapping.base.byte_add(page * PAGE_SIZE) })
            }
            Backing::Coherent(claim) => {
                let address = claim.start() + (page * PAGE_SIZE) as u64;
                // SAFETY: The address is inside the range. It is accessed only for pages that a
                // `DevPagemap` has handed out, and that one has mapped them.
                NonNull::new(unsafe { bindings::phys_to_virt(address) }.cast())
            }
        }
    }
}

fn whole_blocks(npages: usize) -> Result<usize> {
    if npages == 0 || npages % HPAGE_PMD_NR != 0 {
        return Err(EINVAL);
    }
    Ok(npages / HPAGE_PMD_NR)
}

fn bytes_of(npages: usize) -> Result<usize> {
    npages.checked_mul(PAGE_SIZE).ok_or(EINVAL)
}

/// A physical range that the kernel can reach at `base`.
///
/// # Invariants
///
/// `base` came from `memremap()` over the whole of the claimed range.
struct Mapping {
    base: NonNull<u8>,
    _range: Claim,
}

impl Mapping {
    fn new(start: PhysicalStart, size: usize, name: &CStr) -> Result<Self> {
        let range = Claim::new(start, size, name)?;
        // SAFETY: The range is ours, reserved, and not RAM of the system.
        let base =
            unsafe { bindings::memremap(range.start(), size, bindings::MEMREMAP_WB as usize) };
        // INVARIANT: `base` was mapped just now.
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
