// SPDX-License-Identifier: GPL-2.0

//! RAM that plays the memory of an emulated device.
//!
//! Page n of the device is page n of this memory, so that neither a device page nor a split of a
//! folio needs any bookkeeping here. The CPU reaches the bytes only through this file.
//!
//! C headers: [`include/linux/io.h`](srctree/include/linux/io.h),
//! [`include/linux/ioport.h`](srctree/include/linux/ioport.h).

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use kernel::alloc::flags::GFP_KERNEL;
use kernel::alloc::flags::__GFP_NOWARN;
use kernel::alloc::flags::__GFP_ZERO;
use kernel::alloc::KVBox;
use kernel::alloc::KVVec;
use kernel::new_mutex;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::Mutex;
use kernel::sync::SetOnce;

use crate::bindings;
use crate::pages::BLOCK_PAGES;
use crate::region::ClaimedRange;

/// A page of RAM. Its bytes are reached by raw pointer only.
#[repr(C, align(4096))]
struct Frame(UnsafeCell<MaybeUninit<[u8; PAGE_SIZE]>>);

type Block = KVBox<MaybeUninit<[Frame; BLOCK_PAGES]>>;

enum Backing {
    /// Allocated a block at a time, on first use; by one task at a time, which holds the lock.
    Lazy(KVVec<SetOnce<Block>>, Pin<KBox<Mutex<()>>>),
    /// A physical range that the system does not use as RAM, mapped whole.
    Fixed(Mapping),
    /// Memory from this physical address on that the pages of the device map themselves.
    Coherent(u64),
}

/// The memory of an emulated device: a number of whole blocks of [`BLOCK_PAGES`] pages.
///
/// # Invariants
///
/// The bytes of page n are accessed by the holder of the [`LockedFolio`](crate::LockedFolio) that
/// covers device page n, or by a migration that has this page locked and unmapped; and, while it is
/// in use and neither is the case, by those who have it mapped, through a
/// [`Mirror`](crate::Mirror) or, if it is coherent memory, as CPUs. The `DevPagemap` that owns this
/// memory hands out each page once.
pub struct Vram {
    blocks: usize,
    backing: Backing,
}

// SAFETY: The frames are plain memory; a block may be freed by any thread.
unsafe impl Send for Vram {}
// SAFETY: `populate` synchronises through `SetOnce`; access to the bytes is exclusive for a page
// by the type invariant.
unsafe impl Sync for Vram {}

impl Vram {
    /// Memory of `npages` pages that is taken from the system a block at a time, when
    /// [`populate`](Self::populate) asks for it, and kept until drop.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when `npages` is 0 or no multiple of [`BLOCK_PAGES`]; [`ENOMEM`].
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

    /// Memory that is the physical range of `npages` pages from address `start` (bytes) on, which
    /// must have been kept from the system, for example with `memmap=512M$0x180000000` on the
    /// kernel command line. The range is claimed under `name` in `/proc/iomem`.
    ///
    /// The range must lie in one that the firmware's memory map, or that parameter, calls reserved;
    /// so no RAM in use and no registers of a device are taken. That nothing else uses it is the
    /// word of who loads the module, as it is for a driver of persistent memory: give this only
    /// what root has said, such as a module parameter.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when `npages` is 0 or no multiple of [`BLOCK_PAGES`], or `start` is not page
    /// aligned, or the range wraps; [`EBUSY`] when the system uses a part of the range as RAM, the
    /// range is not reserved, or somebody else has claimed it; [`ENOMEM`] when it cannot be mapped.
    pub fn fixed(start: u64, npages: usize, name: &'static CStr) -> Result<Self> {
        let blocks = whole_blocks(npages)?;
        let size = npages.checked_mul(PAGE_SIZE).ok_or(EINVAL)?;
        Ok(Self {
            blocks,
            backing: Backing::Fixed(Mapping::new(start, size, name)?),
        })
    }

    /// Memory of `npages` pages from physical address `start` (bytes) on that CPUs reach like any
    /// other, once a [`DevPagemap`](crate::DevPagemap) has been made of it. It must have been kept
    /// from the system, as for [`fixed`](Self::fixed).
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when `npages` is 0 or no multiple of [`BLOCK_PAGES`].
    pub fn coherent(start: u64, npages: usize) -> Result<Self> {
        Ok(Self {
            blocks: whole_blocks(npages)?,
            backing: Backing::Coherent(start),
        })
    }

    /// The physical address of coherent memory.
    pub(crate) fn start(&self) -> Option<u64> {
        match self.backing {
            Backing::Coherent(start) => Some(start),
            _ => None,
        }
    }

    /// The number of pages.
    pub fn npages(&self) -> usize {
        self.blocks * BLOCK_PAGES
    }

    /// Makes sure that there is memory behind block `block`. New memory is zeroed.
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

    /// Whether there is memory behind the page. Once there is, there always will be.
    pub(crate) fn is_populated(&self, page: usize) -> bool {
        self.frame(page).is_some()
    }

    /// The bytes of page `page`, or `None` when there is no such page or no memory behind it.
    ///
    /// The pointer is valid for `PAGE_SIZE` bytes and as long as `self`.
    pub(crate) fn frame(&self, page: usize) -> Option<NonNull<u8>> {
        match &self.backing {
            Backing::Lazy(slots, _) => {
                let block = slots.get(page / BLOCK_PAGES)?.as_ref()?;
                let frames: *const Frame = block.as_ptr().cast();
                // SAFETY: The remainder is below BLOCK_PAGES, the length of the array.
                let frame = unsafe { frames.add(page % BLOCK_PAGES) };
                NonNull::new(frame.cast_mut().cast())
            }
            Backing::Fixed(mapping) => {
                if page >= self.npages() {
                    return None;
                }
                // SAFETY: The mapping has `npages()` pages, and `page` is below that.
                Some(unsafe { mapping.base.byte_add(page * PAGE_SIZE) })
            }
            Backing::Coherent(start) => {
                if page >= self.npages() {
                    return None;
                }
                let address = start + (page * PAGE_SIZE) as u64;
                // SAFETY: The address is inside the region. It is accessed only for pages that a
                // `DevPagemap` has handed out, and that one has mapped them.
                NonNull::new(unsafe { bindings::phys_to_virt(address) }.cast())
            }
        }
    }
}

fn whole_blocks(npages: usize) -> Result<usize> {
    if npages == 0 || npages % BLOCK_PAGES != 0 {
        return Err(EINVAL);
    }
    Ok(npages / BLOCK_PAGES)
}

/// A physical range that the kernel can reach at `base`.
///
/// # Invariants
///
/// `base` came from `memremap()` over the whole of the claimed range.
struct Mapping {
    base: NonNull<u8>,
    _range: ClaimedRange,
}

impl Mapping {
    fn new(start: u64, size: usize, name: &'static CStr) -> Result<Self> {
        let range = ClaimedRange::new(start, size, name)?;
        // SAFETY: The range is ours, reserved, and not RAM of the system.
        let base = unsafe { bindings::memremap(start, size, bindings::MEMREMAP_WB as usize) };
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
