// SPDX-License-Identifier: GPL-2.0

//! An emulated device: its memory, its pages as mm knows them, and a copy engine that is a CPU.

use core::{ffi::c_void, ops::Deref};

use hmm::{
    memremap::{
        CpuFault, DevPagemap, DevPagemapOps, DevicePages, FaultAnswer, FolioData, Hooks, Options,
    },
    migrate::{CopyBatch, CopyEngine, Place},
};
use kernel::{
    new_spinlock,
    prelude::*,
    sync::{Arc, SpinLock},
};

use crate::{
    bindings,
    memory::{Memory, CHUNK_PAGES},
    stats::Stats,
    trace,
};

/// The driver's side of an emulated device: like [`DevPagemapOps`], but with the copy engine
/// provided.
pub trait DeviceOps: Send + Sync + Sized + 'static {
    /// The driver's data in each folio; `()` for none.
    type FolioData: FolioData;

    /// Hooks for tests; `()` for none.
    type Hooks: Hooks;

    /// Returns the number of the device in [trace events](crate::trace).
    fn number(&self) -> u32 {
        0
    }

    /// See [`DevPagemapOps::folio_free`].
    fn folio_free(&self, pages: DevicePages, data: Self::FolioData);

    /// See [`DevPagemapOps::migrate_to_ram`].
    fn migrate_to_ram(&self, fault: CpuFault<'_, Emulated<Self>>) -> FaultAnswer;

    /// See [`DevPagemapOps::folio_split`].
    fn folio_split(&self, piece: DevicePages) {
        let _ = piece;
    }
}

/// The pages of an emulated device.
pub type Pagemap<T> = DevPagemap<Emulated<T>>;

/// A driver's side of an emulated device, and the memory of that device: page n of its pagemap is
/// page n of this memory.
#[pin_data]
pub struct Emulated<T> {
    engine: CpuEngine,
    /// Serialises the atomic operations of the device.
    #[pin]
    atomic_unit: SpinLock<()>,
    /// Shared with the views, which do not outlive their device.
    stats: Arc<Stats>,
    #[pin]
    driver: T,
}

impl<T: DeviceOps> Emulated<T> {
    /// Creates a device with `memory`, and registers its pages with mm. Physical addresses that
    /// have to be found for the pages are claimed under `name` in `/proc/iomem`.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// As for [`PfnRange::private`](hmm::memremap::PfnRange::private) and [`DevPagemap::new`].
    pub fn new<E>(
        memory: Memory,
        name: &CStr,
        options: Options<T::Hooks>,
        driver: impl PinInit<T, E>,
    ) -> Result<impl PinInit<Pagemap<T>, Error>>
    where
        Error: From<E>,
    {
        let pfns = memory.pfns(name)?;
        let stats = Arc::new(Stats::default(), GFP_KERNEL)?;
        let ops = try_pin_init!(Self {
            // INVARIANT: `pfns` numbers the pages of this memory.
            engine: CpuEngine(memory),
            atomic_unit <- atomic_unit(),
            stats,
            driver <- driver,
        }? Error);
        Ok(DevPagemap::new::<Error>(pfns, options, ops))
    }

    /// Returns the statistics of the device.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Returns the lock that serialises the atomic operations of the device.
    pub(crate) fn atomic_unit(&self) -> &SpinLock<()> {
        &self.atomic_unit
    }

    /// Returns the memory of the device.
    pub fn memory(&self) -> &Memory {
        &self.engine.0
    }
}

/// Creates the lock that serialises atomic operations.
///
/// This is not part of a generic function: each crate would instantiate the code, and one lock
/// class would get several names, which lockdep rejects.
#[inline(never)]
fn atomic_unit() -> impl PinInit<SpinLock<()>> {
    new_spinlock!((), "Emulated::atomic_unit")
}

impl<T> Deref for Emulated<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.driver
    }
}

impl<T: DeviceOps> DevPagemapOps for Emulated<T> {
    type Engine = CpuEngine;
    type FolioData = T::FolioData;
    type Hooks = T::Hooks;

    fn engine(&self) -> &CpuEngine {
        &self.engine
    }

    fn folio_free(&self, pages: DevicePages, data: T::FolioData) {
        self.driver.folio_free(pages, data);
    }

    fn migrate_to_ram(&self, fault: CpuFault<'_, Self>) -> FaultAnswer {
        let answer = if trace::CpuFault::is_enabled() || trace::Migrate::is_enabled() {
            trace::CpuFault::trace(self.driver.number(), fault, |fault| {
                self.driver.migrate_to_ram(fault)
            })
        } else {
            self.driver.migrate_to_ram(fault)
        };
        self.stats.answered(&answer);
        answer
    }

    fn folio_split(&self, piece: DevicePages) {
        self.driver.folio_split(piece);
    }
}

/// A copy engine that is the calling CPU.
///
/// # Invariants
///
/// The memory belongs to the pagemap whose [`Emulated`] has this engine.
pub struct CpuEngine(Memory);

// SAFETY: Each operation is done in full before `copy` returns, or is rejected. The memory belongs
// to the pagemap, by the type invariant: only `Emulated` has this engine, and an `Emulated` exists
// only in a pagemap that was created for its memory.
unsafe impl<T: DeviceOps> CopyEngine<Emulated<T>> for CpuEngine {
    type Pending = ();

    fn copy(&self, batch: &mut CopyBatch<'_>) -> Result {
        batch.for_each(|op| match (&op.src, &op.dst) {
            (Place::System(from), Place::Device(to)) => {
                self.for_each_piece(*to, |nth, to, npages| {
                    // SAFETY: The piece has `npages` pages, as the folio has from `nth` on. The
                    // migration has locked and unmapped those of the system, and alone uses those
                    // of the device.
                    unsafe { bindings::copy_from_pages(to, from.page(nth), npages) };
                })
            }
            (Place::Zero, Place::Device(to)) => {
                self.for_each_piece(*to, |_, to, npages| {
                    // SAFETY: Only the migration uses the pages of the device, by the invariant of
                    // `Memory`.
                    unsafe { bindings::clear_pages(to, npages) };
                })
            }
            (Place::Device(from), Place::System(to)) => {
                self.for_each_piece(*from, |nth, from, npages| {
                    // SAFETY: The piece has `npages` pages, as the folio has from `nth` on. The
                    // migration has locked and unmapped those of the device, and alone uses those
                    // of the system.
                    unsafe { bindings::copy_to_pages(to.page(nth), from, npages) };
                })
            }
            _ => Err(EINVAL),
        });
        Ok(())
    }
}

impl CpuEngine {
    /// Calls `f` for pieces of the device pages whose bytes are consecutive, in order: with the
    /// number of pages before the piece, the address of its bytes, and its number of pages.
    fn for_each_piece(
        &self,
        pages: DevicePages,
        mut f: impl FnMut(usize, *mut c_void, usize),
    ) -> Result {
        // The pages begin at a multiple of their number, which is a power of two, as a chunk's is.
        let npages = pages.npages().min(CHUNK_PAGES);
        for first in pages.range().step_by(npages) {
            let bytes = self.0.frame(first).ok_or(EIO)?;
            f(first - pages.first(), bytes.as_ptr().cast(), npages);
        }
        Ok(())
    }
}
