// SPDX-License-Identifier: GPL-2.0

//! An emulated device: its memory, the pages that mm knows of, and a copy engine that is a CPU.

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

use crate::{bindings, memory::Memory, stats::Stats, trace};

/// The driver's side of an emulated device: as
/// [`DevPagemapOps`], but the copy engine is there.
pub trait DeviceOps: Send + Sync + Sized + 'static {
    /// What the driver keeps in each folio; `()` for nothing.
    type FolioData: FolioData;

    /// What tests hook in; `()` for nothing.
    type Hooks: Hooks;

    /// Returns the number that the device has in [trace events](crate::trace).
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
    /// What the device makes atomic operations with, one at a time.
    #[pin]
    atomic_unit: SpinLock<()>,
    /// Shared with the views, which outlive no device.
    stats: Arc<Stats>,
    #[pin]
    driver: T,
}

impl<T: DeviceOps> Emulated<T> {
    /// Makes a device of `memory`, whose pages mm gets to know. Addresses that must be found for
    /// them are claimed under `name` in `/proc/iomem`.
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
            // INVARIANT: `pfns` is for the pages of this memory.
            engine: CpuEngine(memory),
            atomic_unit <- atomic_unit(),
            stats,
            driver <- driver,
        }? Error);
        Ok(DevPagemap::new::<Error>(pfns, options, ops))
    }

    /// Returns what the device has done.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Returns what the device makes atomic operations with, one at a time.
    pub(crate) fn atomic_unit(&self) -> &SpinLock<()> {
        &self.atomic_unit
    }

    /// Returns the memory of the device.
    pub fn memory(&self) -> &Memory {
        &self.engine.0
    }
}

/// Makes the lock of what makes atomic operations.
///
/// Not part of a generic function: code that is generated in several crates would give one lock
/// class several names, which lockdep rejects.
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

/// A copy engine that is the CPU which asks for it.
///
/// # Invariants
///
/// The memory is that of the pagemap whose [`Emulated`] has this engine.
pub struct CpuEngine(Memory);

// SAFETY: Each operation is done in full before `copy` returns, or is rejected. The memory is that
// of the pagemap, by the type invariant: only `Emulated`, which is only in a pagemap that was made
// for its memory, can have this engine.
unsafe impl<T: DeviceOps> CopyEngine<Emulated<T>> for CpuEngine {
    type Pending = ();

    fn copy(&self, batch: &mut CopyBatch<'_>) -> Result {
        batch.for_each(|op| match (&op.src, &op.dst) {
            (Place::System(from), Place::Device(to)) => {
                let (to, npages) = self.bytes(*to)?;
                // SAFETY: Both have as many pages. Those of the system are locked and unmapped,
                // those of the device are the migration's alone.
                unsafe { bindings::copy_from_pages(to, from.page(0), npages) };
                Ok(())
            }
            (Place::Zero, Place::Device(to)) => {
                let (to, npages) = self.bytes(*to)?;
                // SAFETY: The pages of the device are the migration's alone, by the invariant of
                // `Memory`.
                unsafe { bindings::clear_pages(to, npages) };
                Ok(())
            }
            (Place::Device(from), Place::System(to)) => {
                let (from, npages) = self.bytes(*from)?;
                // SAFETY: Both have as many pages. Those of the device are locked and unmapped,
                // those of the system are the migration's alone.
                unsafe { bindings::copy_to_pages(to.page(0), from, npages) };
                Ok(())
            }
            _ => Err(EINVAL),
        });
        Ok(())
    }
}

impl CpuEngine {
    /// Returns where the bytes of pages of the device are, one after the other, and the number of
    /// pages. They are in one block, because it is a multiple of their number.
    fn bytes(&self, pages: DevicePages) -> Result<(*mut c_void, usize)> {
        let bytes = self.0.frame(pages.first()).ok_or(EIO)?;
        Ok((bytes.as_ptr().cast(), pages.npages()))
    }
}
