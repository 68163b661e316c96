// SPDX-License-Identifier: GPL-2.0

//! An emulated device: its memory, the pages that mm knows of, and a copy engine that is a CPU.

use core::{ops::Deref, ptr::NonNull};

use hmm::{
    folio::SystemPages,
    memremap::{
        CpuFault, DevPagemap, DevPagemapOps, DevicePages, FaultAnswer, FolioData, Hooks, Options,
    },
    migrate::{CopyBatch, CopyEngine, Place},
};
use kernel::prelude::*;

use crate::{bindings, memory::Memory};

/// The driver's side of an emulated device: as
/// [`DevPagemapOps`], but the copy engine is there.
pub trait DeviceOps: Send + Sync + Sized + 'static {
    /// What the driver keeps in each folio; `()` for nothing.
    type FolioData: FolioData;

    /// What tests hook in; `()` for nothing.
    type Hooks: Hooks;

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
        let ops = try_pin_init!(Self {
            // INVARIANT: `pfns` is for the pages of this memory.
            engine: CpuEngine(memory),
            driver <- driver,
        }? Error);
        Ok(DevPagemap::new::<Error>(pfns, options, ops))
    }

    /// Returns the memory of the device.
    pub fn memory(&self) -> &Memory {
        &self.engine.0
    }
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
        self.driver.migrate_to_ram(fault)
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
                self.each_page(*to, |n, to| copy_from_system(from, n, to))
            }
            (Place::Zero, Place::Device(to)) => self.each_page(*to, |_, to| {
                // SAFETY: The page of the device is the migration's alone, by the invariant of
                // `Memory`, and has PAGE_SIZE bytes.
                unsafe { bindings::clear_page(to.as_ptr().cast()) }
            }),
            (Place::Device(from), Place::System(to)) => {
                self.each_page(*from, |n, from| copy_to_system(to, n, from))
            }
            _ => Err(EINVAL),
        });
        Ok(())
    }
}

impl CpuEngine {
    /// Calls `with` for each page of the device, with its number among them.
    fn each_page(&self, pages: DevicePages, with: impl Fn(usize, NonNull<u8>)) -> Result {
        for (n, page) in pages.range().enumerate() {
            with(n, self.0.frame(page).ok_or(EIO)?);
        }
        Ok(())
    }
}

fn copy_from_system(from: &SystemPages<'_>, n: usize, to: NonNull<u8>) {
    from.with_page(n, |from| {
        // SAFETY: Both have PAGE_SIZE bytes, and begin at a page. The system page is locked and
        // unmapped, and the page of the device is the migration's alone.
        unsafe { bindings::copy_page(to.as_ptr().cast(), from.as_ptr().cast()) }
    });
}

fn copy_to_system(to: &SystemPages<'_>, n: usize, from: NonNull<u8>) {
    to.with_page(n, |to| {
        // SAFETY: Both have PAGE_SIZE bytes, and begin at a page. The page of the device is locked
        // and unmapped, and the system page is the migration's alone.
        unsafe { bindings::copy_page(to.as_ptr().cast(), from.as_ptr().cast()) }
    });
}
