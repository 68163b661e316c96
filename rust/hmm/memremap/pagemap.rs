// SPDX-License-Identifier: GPL-2.0

//! Registration of device pages with mm.
//!
//! C header: [`include/linux/memremap.h`](srctree/include/linux/memremap.h),
//! source: [`mm/memremap.c`](srctree/mm/memremap.c).

use core::{ffi::c_void, marker::PhantomData, ops::Range};

use kernel::{
    error::from_err_ptr,
    prelude::*,
    sync::{
        atomic::{
            ordering::{Full, Relaxed},
            Atomic,
        },
        Arc,
    },
    time::{delay::fsleep, Delta},
    types::Opaque,
};

use super::{
    ownership::OwnershipMap, totals::Way, try_get_page, CpuFault, DevPagemapOps, DevicePages,
    FolioData, FreeFolio, FreePages, Hooks, Kind, PfnRange, SyncPoint, HPAGE_PMD_NR,
};
use crate::{
    bindings,
    counter::Counter,
    lru::drain_lru_batches,
    memremap::pfn::{Frame, PagePtr},
    migrate::MigrateBuffer,
};

/// Time that drop waits before it tries again to evict pages.
const DROP_PAUSE: Delta = Delta::from_millis(1);

/// An owner of device memory, as mm knows it: a migration and a walk over a range treat all pages
/// of one owner alike. Devices that can access each other's memory share one.
///
/// C: `dev_pagemap.owner`.
#[derive(Clone)]
pub struct Owner(Arc<OwnerTag>);

/// The tag of an owner. It is not zero-sized, so that each has its own address.
struct OwnerTag {
    _tag: u8,
}

impl Owner {
    /// Creates an owner that differs from all others. May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub fn new() -> Result<Self> {
        Ok(Self(Arc::new(OwnerTag { _tag: 0 }, GFP_KERNEL)?))
    }

    pub(crate) fn as_ptr(&self) -> *mut c_void {
        core::ptr::from_ref(&*self.0).cast_mut().cast()
    }
}

/// The parameters of a [`DevPagemap`] besides its pages.
pub struct Options<H> {
    /// The owner of the memory.
    pub owner: Owner,
    /// The NUMA node of the pages and of their `struct page`s; `None` lets mm choose.
    pub node: Option<u32>,
    /// Hooks for tests; `()` for none.
    pub hooks: H,
}

impl Options<()> {
    /// Returns options with an owner of their own, no particular node, and no hooks.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub fn new() -> Result<Self> {
        Ok(Self {
            owner: Owner::new()?,
            node: None,
            hooks: (),
        })
    }
}

/// The outcome of an eviction; see [`DevPagemap::evict`].
#[derive(Debug, Default)]
pub struct Evicted {
    /// Number of pages that moved back.
    pub moved: usize,
    /// Number of pages of the range that are still in use.
    pub left: usize,
    /// The last error that kept pages on the device.
    pub error: Option<Error>,
}

/// Device pages registered with mm, and the driver's data that belongs to them.
///
/// [`reserve`](Self::reserve) and [`reserve_pages`](Self::reserve_pages) reserve pages for use,
/// until drop begins.
///
/// Drop moves every page that is in use back to system memory, waits for the last owner, and
/// unregisters the pages. It sleeps, and does not give up. So it must not run in a callback of
/// [`DevPagemapOps`], with a folio locked or an `mmap_lock` held, or while a
/// [`Migration`](crate::migrate::Migration) lives. It waits for ever if a [`FreeFolio`], a
/// [`FreePages`] or a migration was leaked.
///
/// # Invariants
///
/// `pgmap` was registered by `memremap_pages()` for the range of `pfns`. The bit of a page in
/// `owned` is set exactly while the page is in use, or in a [`FreeFolio`] or a [`FreePages`]. Once
/// `closing` is seen as set, no bit becomes set any more.
///
/// # Examples
///
/// ```
/// # use hmm::memremap::{DevPagemap, DevPagemapOps, DevicePages, Options, PfnRange};
/// # use kernel::{prelude::*, sync::Arc};
/// fn register<T: DevPagemapOps<FolioData = (), Hooks = ()>>(ops: T) -> Result {
///     let pfns = PfnRange::private(512, c"my device")?;
///     let pagemap = DevPagemap::new(pfns, Options::new()?, Ok::<_, Error>(ops)?);
///     let pagemap = Arc::pin_init(pagemap, GFP_KERNEL)?;
///     let folio = pagemap.reserve(DevicePages::new(0, 0)?, ())?;
///     drop(folio);
///     Ok(())
/// }
/// ```
#[pin_data(PinnedDrop)]
#[repr(C)]
pub struct DevPagemap<T: DevPagemapOps> {
    // First, so that the pointer that C holds also points to the whole struct.
    #[pin]
    pgmap: Opaque<bindings::dev_pagemap>,
    pub(super) owned: OwnershipMap,
    /// Number of pages that were resident when they were freed.
    pub(super) freed: Counter,
    /// Statistics of the moves to system memory (0) and to the device (1).
    pub(super) ways: [Way; 2],
    /// Set when drop begins.
    closing: Atomic<bool>,
    /// The buffer for the eviction in drop, which must not fail.
    buffer: MigrateBuffer,
    pfns: PfnRange,
    owner: Owner,
    hooks: T::Hooks,
    #[pin]
    ops: T,
}

// SAFETY: Any thread may use and drop all of the fields; C synchronises `pgmap` internally.
unsafe impl<T: DevPagemapOps> Send for DevPagemap<T> {}
// SAFETY: C synchronises `pgmap` internally; `T` and `T::Hooks` are `Sync` by their traits, and
// only drop uses `buffer`.
unsafe impl<T: DevPagemapOps> Sync for DevPagemap<T> {}

impl<T: DevPagemapOps> DevPagemap<T> {
    /// Registers the pages of `pfns` with mm; the callbacks are called on `ops`.
    ///
    /// May sleep. Takes the memory hotplug lock.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when the node is not online; [`ENOMEM`], or any error of `memremap_pages()`.
    ///
    /// C function: `memremap_pages()`.
    pub fn new<E>(
        pfns: PfnRange,
        options: Options<T::Hooks>,
        ops: impl PinInit<T, E>,
    ) -> impl PinInit<Self, Error>
    where
        Error: From<E>,
    {
        let range = pfns.addresses();
        let kind = match pfns.kind() {
            Kind::Private => bindings::memory_type_MEMORY_DEVICE_PRIVATE,
            Kind::Coherent => bindings::memory_type_MEMORY_DEVICE_COHERENT,
        };
        let Options { owner, node, hooks } = options;
        let owner_ptr = owner.as_ptr();
        try_pin_init!(Self {
            owned: OwnershipMap::new(pfns.npages())?,
            freed: Counter::default(),
            ways: [Way::default(), Way::default()],
            closing: Atomic::new(false),
            buffer: MigrateBuffer::new(HPAGE_PMD_NR)?,
            pfns,
            owner,
            hooks,
            ops <- ops,
            // Initialised last: nothing can fail after the registration, so it is never undone
            // here.
            pgmap <- Opaque::try_ffi_init(move |slot: *mut bindings::dev_pagemap| {
                let node = match node {
                    None => bindings::NUMA_NO_NODE,
                    // SAFETY: The function accepts any number.
                    Some(node) if unsafe { bindings::node_online(node) } => node as i32,
                    Some(_) => return Err(EINVAL),
                };
                let mut pgmap = bindings::dev_pagemap {
                    type_: kind,
                    ops: &Callbacks::<T>::TABLE,
                    owner: owner_ptr,
                    nr_range: 1,
                    ..Default::default()
                };
                // SAFETY: With `nr_range` 1, this is the member of the union that is used.
                unsafe { *pgmap.__bindgen_anon_1.range.as_mut() = range };
                // SAFETY: `slot` is valid for writes, and pinned from now on.
                unsafe { slot.write(pgmap) };
                // SAFETY: The struct is filled in as the function requires, and stays in place
                // until `memunmap_pages()` in drop, or until this call has failed.
                from_err_ptr(unsafe { bindings::memremap_pages(slot, node) }).map(|_| ())
            }),
        }? Error)
    }

    /// Returns the driver's data.
    pub fn ops(&self) -> &T {
        &self.ops
    }

    /// Returns the test hooks.
    pub fn hooks(&self) -> &T::Hooks {
        &self.hooks
    }

    /// Returns the number of pages.
    pub fn npages(&self) -> usize {
        self.pfns.npages()
    }

    /// Returns the kind of memory.
    pub fn kind(&self) -> Kind {
        self.pfns.kind()
    }

    /// Returns the number of pages that are in use, or in a [`FreeFolio`] or a [`FreePages`].
    ///
    /// Does not sleep. The answer may be stale.
    pub fn owned(&self) -> usize {
        self.owned.count(0..self.npages())
    }

    /// Returns the owner of the memory.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Returns the device's number for the page in `frame`, or `None` if it belongs to another
    /// device.
    pub fn index_of(&self, frame: Frame) -> Option<usize> {
        self.pfns.index_of(frame)
    }

    /// Reserves pages that the driver's allocator has found to be free. `data` goes into the folio
    /// when the pages are used, and comes back with them.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`ENODEV`] when the pagemap is being dropped, which callbacks can see; [`EINVAL`] when it
    /// has no such pages; [`EBUSY`] when one of them has an owner: a bug in the allocator, detected
    /// before it corrupts memory.
    pub fn reserve(&self, pages: DevicePages, data: T::FolioData) -> Result<FreeFolio<'_, T>> {
        self.own(pages.range())?;
        Ok(FreeFolio::new(self, pages, data))
    }

    /// Reserves pages (the end exclusive) as [`reserve`](Self::reserve) does, so that small folios
    /// can be taken from them; each folio gets a clone of `data`.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// As for [`reserve`](Self::reserve); [`EINVAL`] also for an empty range.
    pub fn reserve_pages(
        &self,
        pages: Range<usize>,
        data: T::FolioData,
    ) -> Result<FreePages<'_, T>> {
        self.own(pages.clone())?;
        Ok(FreePages::new(self, pages, data))
    }

    /// Sets the owner bits of pages that have no owner.
    fn own(&self, pages: Range<usize>) -> Result {
        if pages.is_empty() || pages.end > self.npages() {
            return Err(EINVAL);
        }
        if !self.owned.reserve(pages.clone()) {
            return Err(EBUSY);
        }
        // ORDERING: Relaxed: the update of the map was a full barrier, so either drop sees the
        // bits, or this load sees the flag.
        if self.closing.load(Relaxed) {
            self.owned.release(pages);
            return Err(ENODEV);
        }
        Ok(())
    }

    /// Gives back pages that nobody uses any more.
    pub(super) fn release(&self, pages: DevicePages, data: T::FolioData) {
        // Pages that a migration has moved away are no longer resident; unused destinations never
        // were.
        let freed = self.owned.release(pages.range());
        if freed > 0 {
            self.freed.add(freed as u64);
        }
        self.ops.folio_free(pages, data);
    }

    /// Returns the first page of the range that has an owner.
    pub(crate) fn first_owned(&self, pages: Range<usize>) -> Option<usize> {
        self.owned.first(pages)
    }

    /// Returns whether `page`, which is below the number of pages, is in use: it has an owner that
    /// is neither a [`FreeFolio`] nor a [`FreePages`]. The answer may be stale.
    pub(crate) fn is_in_use(&self, page: usize) -> bool {
        // Pages in a `FreeFolio` or `FreePages` have reference count 0.
        self.first_owned(page..page + 1).is_some() && try_get_page(self.page(page)).is_some()
    }

    pub(crate) fn pfns(&self) -> &PfnRange {
        &self.pfns
    }

    /// Returns the `struct page` of page `index`, which is below the number of pages.
    pub(crate) fn page(&self, index: usize) -> PagePtr {
        debug_assert!(index < self.npages());
        // SAFETY: The memory map has an entry for each page of a registered range, and lies in the
        // kernel's half of the address space.
        unsafe { PagePtr::new_unchecked(self.pfns.frame(index).page()) }
    }

    pub(crate) fn as_raw(&self) -> *mut bindings::dev_pagemap {
        self.pgmap.get()
    }

    /// # Safety
    ///
    /// `pgmap` belongs to a `DevPagemap<T>` that is not dropped during `'a`.
    unsafe fn from_raw<'a>(pgmap: *mut bindings::dev_pagemap) -> &'a Self {
        let this: *const Self = pgmap.cast();
        // SAFETY: `pgmap` is the first field of a `repr(C)` struct, which lives for 'a by the
        // safety requirement.
        unsafe { &*this }
    }

    /// Returns the pages of a folio of this pagemap.
    ///
    /// # Safety
    ///
    /// `folio` is a folio of this pagemap, and its order can be read.
    unsafe fn pages_of(&self, folio: *mut bindings::folio) -> Option<DevicePages> {
        // SAFETY: The order can be read, by the safety requirement.
        let order = unsafe { bindings::folio_order(folio) };
        // SAFETY: A folio begins with its first page, which belongs to the memory map.
        let frame = unsafe { Frame::of_page(folio.cast()) };
        self.pfns.pages_of(frame, order)
    }
}

#[pinned_drop]
impl<T: DevPagemapOps> PinnedDrop for DevPagemap<T> {
    fn drop(mut self: Pin<&mut Self>) {
        let mut buffer = core::mem::take(self.as_mut().project().buffer);
        let this = self.into_ref();
        // Resident pages keep working, because their callbacks use only shared references. But from
        // now on, they cannot reserve pages.
        // ORDERING: Full: pairs with the update of the map in `reserve`.
        this.closing.xchg(true, Full);
        let all = 0..this.npages();
        while this.first_owned(all.clone()).is_some() {
            // Drop cannot be aborted, and a page that stays would also make `memunmap_pages()`
            // wait. So after an error, try again after a pause.
            this.evict(all.clone(), &mut buffer);
            if this.first_owned(all.clone()).is_some() {
                fsleep(DROP_PAUSE);
                drain_lru_batches();
            }
        }
        // SAFETY: The pages are registered, by the type invariant, and this is called once. No page
        // has an owner, and none can get one any more.
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
    /// mm calls this for a folio of a `DevPagemap<T>` whose last reference was put. The pagemap is
    /// alive, because the folio's references to it are put after this.
    unsafe extern "C" fn folio_free(folio: *mut bindings::folio) {
        // SAFETY: The folio is one of ours, by the safety requirement.
        let pgmap = unsafe { bindings::page_pgmap(folio.cast()) };
        // SAFETY: The pagemap lives, by the safety requirement.
        let pagemap: &DevPagemap<T> = unsafe { DevPagemap::from_raw(pgmap) };
        // SAFETY: The folio is one of ours, by the safety requirement. Its order changes only when
        // its pages are used again, which is impossible before the release below.
        let Some(pages) = (unsafe { pagemap.pages_of(folio) }) else {
            return;
        };
        // SAFETY: The folio is one of ours, by the safety requirement, and its last reference was
        // put.
        let data = unsafe { bindings::folio_zone_device_data(folio) };
        // SAFETY: `FreeFolio::init`, or a split, has stored the data, and it is taken once.
        let data = unsafe { T::FolioData::from_raw(data) };
        if pages.order() > 0 {
            // If it stayed a head page, C would take small pages after it for its tails.
            // SAFETY: The folio is ours and nobody uses it; the core does not need its order any
            // more.
            unsafe { bindings::zone_device_folio_dissolve(folio, pages.order()) };
        }
        pagemap.release(pages, data);
    }

    /// # Safety
    ///
    /// mm calls this for a fault on a page of a `DevPagemap<T>`, which is locked and referenced.
    unsafe extern "C" fn migrate_to_ram(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // SAFETY: `vmf` is valid, by the safety requirement.
        let page = unsafe { (*vmf).page };
        // SAFETY: The page is one of ours, by the safety requirement.
        let pgmap = unsafe { bindings::page_pgmap(page) };
        // SAFETY: The core's reference to the page keeps the pagemap alive.
        let pagemap: &DevPagemap<T> = unsafe { DevPagemap::from_raw(pgmap) };
        // SAFETY: The core keeps `vmf` valid and its page locked and referenced during this call,
        // by the safety requirement, and holds the `mmap_lock`.
        let fault = unsafe { CpuFault::new(vmf, pagemap) };
        pagemap.hooks.sync_point(SyncPoint::CpuFault);
        pagemap.ops.migrate_to_ram(fault).into_raw()
    }

    /// # Safety
    ///
    /// mm calls this when it splits a folio of a `DevPagemap<T>`: for each new folio `tail`, then
    /// with `tail` null.
    unsafe extern "C" fn folio_split(head: *mut bindings::folio, tail: *mut bindings::folio) {
        let piece = if tail.is_null() {
            head
        } else {
            // SAFETY: Both are valid, by the safety requirement.
            unsafe { bindings::folio_split_default(head, tail) };
            // SAFETY: The head is valid, by the safety requirement.
            let data = unsafe { bindings::folio_zone_device_data(head) };
            // SAFETY: `FreeFolio::init` has stored the data in the head, which keeps it: it is not
            // dropped here.
            let data = core::mem::ManuallyDrop::new(unsafe { T::FolioData::from_raw(data) });
            // SAFETY: The tail is a new folio, which nobody uses yet.
            unsafe {
                bindings::folio_set_zone_device_data(tail, T::FolioData::clone(&data).into_raw())
            };
            tail
        };
        // SAFETY: The folio is one of ours, by the safety requirement.
        let pgmap = unsafe { bindings::page_pgmap(head.cast()) };
        // SAFETY: The folio keeps its pagemap alive.
        let pagemap: &DevPagemap<T> = unsafe { DevPagemap::from_raw(pgmap) };
        // SAFETY: The core sets the order of each piece before it calls this.
        if let Some(pages) = unsafe { pagemap.pages_of(piece) } {
            pagemap.ops.folio_split(pages);
        }
    }
}
