// SPDX-License-Identifier: GPL-2.0

//! Registration of device pages with mm.
//!
//! C header: [`include/linux/memremap.h`](srctree/include/linux/memremap.h),
//! source: [`mm/memremap.c`](srctree/mm/memremap.c).
//!
//! Locks: the eviction lock of a [`DevPagemap`] (a mutex) is taken before folio locks.

use core::marker::PhantomData;

use kernel::error::from_err_ptr;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::atomic::ordering::Acquire;
use kernel::sync::atomic::ordering::Relaxed;
use kernel::sync::atomic::ordering::Release;
use kernel::sync::atomic::Atomic;
use kernel::sync::Mutex;
use kernel::time::delay::fsleep;
use kernel::time::Delta;
use kernel::types::Opaque;

use crate::bindings;
use crate::fault::CpuFault;
use crate::folio::FreeFolio;
use crate::migrate::Migration;
use crate::ops::DevPagemapOps;
use crate::ops::Step;
use crate::pages::DevicePages;
use crate::pages::BLOCK_PAGES;
use crate::region::DeviceRegion;
use crate::region::Kind;
use crate::taken::TakenMap;
use crate::window::Window;

/// How often [`DevPagemap::evict`] tries pages that were locked or referenced by somebody else.
const EVICT_TRIES: usize = 4;

/// How long to wait before pages that could not be evicted are tried again.
const EVICT_PAUSE: Delta = Delta::from_millis(1);

/// Device pages that mm knows of, and the driver's data that goes with them.
///
/// Pages are taken for use with [`take`](Self::take), which works until drop begins: so the driver
/// hands out no page any more when `memunmap_pages()` is called, as that function demands. Drop
/// brings every page that is still in use back to system memory, waits for the last reference, and
/// gives back the addresses; it sleeps, and does not give up. A [`LockedFolio`](crate::LockedFolio)
/// or a [`Migration`] that was leaked with `mem::forget` makes it wait for ever.
///
/// # Invariants
///
/// `pgmap` was registered by `memremap_pages()` for the range of `region`. A page is in use, or
/// owned by a [`FreeFolio`], exactly while its bit in `taken` is set.
///
/// # Examples
///
/// ```ignore
/// let vram = Vram::lazy(256 * BLOCK_PAGES)?;
/// let region = DeviceRegion::private(vram, c"my device")?;
/// let pagemap = Arc::pin_init(DevPagemap::new(region, MyPool::new()), GFP_KERNEL)?;
/// let folio = pagemap.take(DevicePages::new(0, 0)?)?.init();
/// ```
#[pin_data(PinnedDrop)]
#[repr(C)]
pub struct DevPagemap<T: DevPagemapOps> {
    // First, so that the pointer that C has is one to the whole as well.
    #[pin]
    pgmap: Opaque<bindings::dev_pagemap>,
    taken: TakenMap,
    /// Pages of `FreeFolio`s: taken, and without a reference to the pagemap.
    unused: Atomic<usize>,
    /// Set when drop begins.
    closing: Atomic<bool>,
    region: DeviceRegion,
    #[pin]
    eviction: Mutex<Window>,
    #[pin]
    ops: T,
}

// SAFETY: All of it may be used and dropped by any thread; C synchronises `pgmap` by itself.
unsafe impl<T: DevPagemapOps> Send for DevPagemap<T> {}
// SAFETY: As above; `T` is `Sync` by its trait.
unsafe impl<T: DevPagemapOps> Sync for DevPagemap<T> {}

impl<T: DevPagemapOps> DevPagemap<T> {
    /// Registers the pages of `region` with mm; `ops` is what the callbacks are called on.
    ///
    /// May sleep. Takes the memory hotplug lock.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], and what `memremap_pages()` returns.
    ///
    /// C function: `memremap_pages()`.
    pub fn new<E>(region: DeviceRegion, ops: impl PinInit<T, E>) -> impl PinInit<Self, Error>
    where
        Error: From<E>,
    {
        let range = region.range();
        let kind = match region.kind() {
            Kind::Private => bindings::memory_type_MEMORY_DEVICE_PRIVATE,
            Kind::Coherent => bindings::memory_type_MEMORY_DEVICE_COHERENT,
        };
        let npages = region.npages();
        try_pin_init!(Self {
            taken: TakenMap::new(npages)?,
            unused: Atomic::new(0),
            closing: Atomic::new(false),
            region,
            eviction <- eviction_lock()?,
            ops <- ops,
            // Last: nothing below can fail after it, so that it need not be undone here.
            pgmap <- Opaque::try_ffi_init(move |slot: *mut bindings::dev_pagemap| {
                let mut pgmap = bindings::dev_pagemap {
                    type_: kind,
                    ops: &Callbacks::<T>::TABLE,
                    owner: slot.cast(),
                    nr_range: 1,
                    ..Default::default()
                };
                // SAFETY: With `nr_range` 1, this is the member of the union that is used.
                unsafe { *pgmap.__bindgen_anon_1.range.as_mut() = range };
                // SAFETY: `slot` is valid for writes, and pinned from now on.
                unsafe { slot.write(pgmap) };
                // SAFETY: The struct is filled in as the function wants it, and stays in place
                // until `memunmap_pages()` in drop, or until this has failed.
                from_err_ptr(unsafe { bindings::memremap_pages(slot, bindings::NUMA_NO_NODE) })
                    .map(|_| ())
            }),
        }? Error)
    }

    /// The driver's data.
    pub fn ops(&self) -> &T {
        &self.ops
    }

    /// The addresses of the pages, and the memory behind them.
    pub fn region(&self) -> &DeviceRegion {
        &self.region
    }

    /// The number of pages that are in use, or owned by a [`FreeFolio`].
    ///
    /// Does not sleep. The answer may be old when it arrives.
    pub fn taken(&self) -> usize {
        self.taken.count(0..self.region.npages())
    }

    /// The number of pages that are owned by [`FreeFolio`]s: taken, and not in use yet.
    ///
    /// Does not sleep. The answer may be old when it arrives.
    pub fn unused(&self) -> usize {
        // ORDERING: Relaxed, because nothing is concluded from it.
        self.unused.load(Relaxed)
    }

    /// The number of pages of block `block` that are in use, or owned by a [`FreeFolio`].
    ///
    /// Does not sleep. The answer may be old when it arrives.
    pub fn taken_in(&self, block: usize) -> usize {
        let end = self.region.npages();
        let first = block.saturating_mul(BLOCK_PAGES).min(end);
        self.taken.count(first..(first + BLOCK_PAGES).min(end))
    }

    /// Takes pages for use that the driver's allocator has found to be free.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`ENODEV`] when the pagemap is being dropped, which callbacks can see; [`EINVAL`] when the
    /// region has no such pages; [`EBUSY`] when one of them is in use: a bug
    /// of the allocator, found before it corrupts memory; [`ENOMEM`] when there is no memory
    /// behind one of them, see [`Vram::populate`](crate::Vram::populate).
    pub fn take(&self, pages: DevicePages) -> Result<FreeFolio<'_, T>> {
        // ORDERING: Acquire pairs with the store in drop; what drop waits for is the map of taken
        // pages, below.
        if self.closing.load(Acquire) {
            return Err(ENODEV);
        }
        if pages.range().end > self.region.npages() {
            return Err(EINVAL);
        }
        // Memory comes in blocks, and a folio is never larger than one.
        if !self.region.vram().is_populated(pages.first()) {
            return Err(ENOMEM);
        }
        if !self.taken.set(pages) {
            return Err(EBUSY);
        }
        // ORDERING: Relaxed, because drop reads the count when nobody else can change it.
        self.unused.add(pages.npages(), Relaxed);
        // SAFETY: We have just set the bits, and the memory is there.
        Ok(unsafe { FreeFolio::new(self, pages) })
    }

    /// Brings the pages of block `block` that are in use back to system memory, as far as they are
    /// not locked or referenced by others, with a few retries for those. Returns the number of
    /// pages that came back, and of those that are still taken.
    ///
    /// May sleep. Takes the eviction lock, which one block holds at a time, and folio locks; must
    /// not be called with a folio locked, so neither from [`DevPagemapOps::migrate_to_ram`] nor
    /// while a [`Migration`] is collected.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when there is no such block; [`ENOMEM`] when system memory ran out before the
    /// first page came back; what [`DevPagemapOps::copy_to_system`] returned, if no page came back.
    ///
    /// C functions: `migrate_device_range()` and those after it.
    pub fn evict(&self, block: usize) -> Result<(usize, usize)> {
        let first = block.checked_mul(BLOCK_PAGES).ok_or(EINVAL)?;
        if first >= self.region.npages() {
            return Err(EINVAL);
        }
        let pages = first..first + BLOCK_PAGES;
        let mut moved = 0;
        let mut error = None;
        for attempt in 0..EVICT_TRIES {
            if attempt > 0 {
                fsleep(EVICT_PAUSE);
            }
            let (count, failure) = self.evict_once(first);
            moved += count;
            error = failure;
            if self.taken.count(pages.clone()) == 0 {
                break;
            }
        }
        match error {
            Some(error) if moved == 0 => Err(error),
            _ => Ok((moved, self.taken.count(pages))),
        }
    }

    /// Waits until an eviction pass that runs now has ended, and with it the locks that it has on the
    /// pages of a block. For a migration that found pages of its range locked.
    ///
    /// May sleep. Takes the eviction lock, so must not be called with a folio locked.
    pub fn wait_for_eviction(&self) {
        drop(self.eviction.lock());
    }

    /// One pass over a block: the number of pages that came back, and the error that kept others
    /// on the device.
    fn evict_once(&self, first: usize) -> (usize, Option<Error>) {
        let mut window = self.eviction.lock();
        let mut failure = None;
        let mut migration = match Migration::evict(self, first..first + BLOCK_PAGES, &mut window) {
            Ok(migration) => migration,
            Err(error) => return (0, Some(error)),
        };
        for slot in migration.slots() {
            if let Err(error) = slot.fill_system() {
                failure = Some(error);
            }
        }
        let moved = migration.commit().moved();
        (moved, failure)
    }

    /// Gives back pages that nobody uses any more.
    pub(crate) fn release(&self, pages: DevicePages) {
        self.taken.clear(pages);
        self.ops.folio_free(pages);
    }

    /// Notes that a `FreeFolio` has become another state, or ended.
    pub(crate) fn note_in_use(&self, pages: DevicePages) {
        // ORDERING: As in `take`.
        self.unused.fetch_sub(pages.npages(), Relaxed);
    }

    pub(crate) fn as_raw(&self) -> *mut bindings::dev_pagemap {
        self.pgmap.get()
    }

    /// What tells pages of this pagemap from those of others, in `migrate_vma` and `hmm_range`.
    pub(crate) fn owner(&self) -> *mut kernel::ffi::c_void {
        self.pgmap.get().cast()
    }

    /// The number of the page with this page frame number, or `None` if it is none of ours.
    pub(crate) fn index_of(&self, pfn: usize) -> Option<usize> {
        let index = pfn.checked_sub(self.region.first_pfn())?;
        (index < self.region.npages()).then_some(index)
    }

    /// # Safety
    ///
    /// `pgmap` is the one of a `DevPagemap<T>` that is not dropped for `'a`.
    unsafe fn from_raw<'a>(pgmap: *mut bindings::dev_pagemap) -> &'a Self {
        let this: *const Self = pgmap.cast();
        // SAFETY: `pgmap` is the first field of a `repr(C)` struct.
        unsafe { &*this }
    }

    /// The pages of a folio of this pagemap.
    ///
    /// # Safety
    ///
    /// `folio` is a folio of this pagemap whose order can be read.
    unsafe fn pages_of(&self, folio: *mut bindings::folio) -> Option<DevicePages> {
        // SAFETY: By the safety requirement.
        let order = unsafe { bindings::folio_order(folio) };
        // SAFETY: As above.
        let first = self.index_of(unsafe { bindings::folio_pfn(folio) })?;
        DevicePages::new(first, order).ok()
    }
}

/// The initialiser of the eviction lock.
///
/// Not part of a generic function: code that is generated in several crates would give one lock
/// class several names, which lockdep rejects.
#[inline(never)]
fn eviction_lock() -> Result<impl PinInit<Mutex<Window>>> {
    let window = Window::new(BLOCK_PAGES)?;
    Ok(new_mutex!(window, "DevPagemap::eviction"))
}

#[pinned_drop]
impl<T: DevPagemapOps> PinnedDrop for DevPagemap<T> {
    fn drop(self: Pin<&mut Self>) {
        let this = self.into_ref();
        // Resident pages keep working: their callbacks use shared references only. But they take
        // no pages any more.
        // ORDERING: Release pairs with the load in `take`.
        this.closing.store(true, Release);
        // A folio that was leaked while it was free holds no reference, and is not waited for.
        // ORDERING: Relaxed, because the borrows of all `FreeFolio`s have ended.
        while this.taken() > this.unused.load(Relaxed) {
            for block in 0..this.region.npages() / BLOCK_PAGES {
                let pages = block * BLOCK_PAGES..(block + 1) * BLOCK_PAGES;
                if this.taken.count(pages) != 0 {
                    // There is no way back from here: a page that stays would make the last step
                    // wait as well. So an error means: again, after a pause.
                    let _ = this.evict(block);
                }
                crate::cond_resched();
            }
            fsleep(EVICT_PAUSE);
            crate::drain_lru_batches();
        }
        // SAFETY: Registered by the type invariant, and called once.
        unsafe { bindings::memunmap_pages(this.as_raw()) };
    }
}

/// The table of callbacks for a driver.
struct Callbacks<T>(PhantomData<T>);

impl<T: DevPagemapOps> Callbacks<T> {
    const TABLE: bindings::dev_pagemap_ops = bindings::dev_pagemap_ops {
        folio_free: Some(Self::folio_free),
        migrate_to_ram: Some(Self::migrate_to_ram),
        memory_failure: None,
        folio_split: Some(Self::folio_split),
    };

    /// # Safety
    ///
    /// Called by mm for a folio of a `DevPagemap<T>` whose last reference was put; the pagemap
    /// lives, because the folio's references to it are put after this.
    unsafe extern "C" fn folio_free(folio: *mut bindings::folio) {
        // SAFETY: The folio is one of ours, by the safety requirement.
        let pgmap = unsafe { bindings::page_pgmap(folio.cast()) };
        // SAFETY: By the safety requirement.
        let pagemap: &DevPagemap<T> = unsafe { DevPagemap::from_raw(pgmap) };
        // SAFETY: By the safety requirement; the order is reset only when the pages are used again.
        if let Some(pages) = unsafe { pagemap.pages_of(folio) } {
            if pages.order() > 0 {
                // A head that stays behind would make C take small pages after it for its tails.
                // SAFETY: The folio is ours and nobody uses it; the core has what it needs of it.
                unsafe { bindings::zone_device_folio_dissolve(folio, pages.order()) };
            }
            pagemap.release(pages);
        }
    }

    /// # Safety
    ///
    /// Called by mm for a fault on a page of a `DevPagemap<T>`, which is locked and referenced.
    unsafe extern "C" fn migrate_to_ram(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // SAFETY: `vmf` is valid by the safety requirement.
        let page = unsafe { (*vmf).page };
        // SAFETY: The page is one of ours, by the safety requirement.
        let pgmap = unsafe { bindings::page_pgmap(page) };
        // SAFETY: By the safety requirement: the reference to the page holds the pagemap.
        let pagemap: &DevPagemap<T> = unsafe { DevPagemap::from_raw(pgmap) };
        // SAFETY: By the safety requirement.
        let fault = unsafe { CpuFault::new(vmf, pagemap) };
        pagemap.ops.between(Step::Fault);
        pagemap.ops.migrate_to_ram(fault).into_raw()
    }

    /// # Safety
    ///
    /// Called by mm when it splits a folio of a `DevPagemap<T>`: for each new folio `tail`, then
    /// with `tail` null.
    unsafe extern "C" fn folio_split(head: *mut bindings::folio, tail: *mut bindings::folio) {
        let piece = if tail.is_null() {
            head
        } else {
            // SAFETY: Both are valid by the safety requirement.
            unsafe { bindings::folio_split_default(head, tail) };
            tail
        };
        // SAFETY: The folio is one of ours, by the safety requirement.
        let pgmap = unsafe { bindings::page_pgmap(head.cast()) };
        // SAFETY: The folio holds its pagemap.
        let pagemap: &DevPagemap<T> = unsafe { DevPagemap::from_raw(pgmap) };
        // SAFETY: The core has set the order of each piece before it calls.
        if let Some(pages) = unsafe { pagemap.pages_of(piece) } {
            pagemap.ops.folio_split(pages);
        }
    }
}
