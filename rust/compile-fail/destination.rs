// SPDX-License-Identifier: GPL-2.0

//! A destination belongs to the migration to which it was given.

use hmm::{
    memremap::{
        DevPagemapOps,
        FreeFolio, //
    },
    migrate::{
        Direction,
        Entry,
        ToDevice,
        ToSystem, //
    },
};
use kernel::prelude::*;

/// Uses one folio as two destinations.
pub fn again<T: DevPagemapOps>(
    one: Entry<'_, ToDevice<'_, T>>,
    two: Entry<'_, ToDevice<'_, T>>,
    folio: FreeFolio<'_, T>,
) -> Result {
    one.set_dst(folio)?;
    two.set_dst(folio) //~ E0382
}

/// Sets two destinations for one entry.
pub fn twice<T: DevPagemapOps>(
    entry: Entry<'_, ToDevice<'_, T>>,
    one: FreeFolio<'_, T>,
    two: FreeFolio<'_, T>,
) -> Result {
    entry.set_dst(one)?;
    entry.set_dst(two) //~ E0382
}

/// Uses device memory as the destination of a page that moves to system memory.
pub fn wrong<T: DevPagemapOps>(
    entry: Entry<'_, ToSystem<'_, T>>,
    folio: FreeFolio<'_, T>,
) -> Result {
    entry.set_dst(folio) //~ E0599
}

/// A direction that a driver defines itself.
pub struct Sideways;

#[rustfmt::skip]
impl Direction for Sideways { //~ E0277
    type Ops = Nobody;
    const TO_DEVICE: bool = true;
    const POINTS: [hmm::memremap::SyncPoint; 3] = [hmm::memremap::SyncPoint::CpuFault; 3];

    fn pagemap(&self) -> &hmm::memremap::DevPagemap<Nobody> {
        loop {}
    }
}

/// A driver that does nothing.
pub struct Nobody;

/// An engine that copies nothing.
pub struct NoEngine;

#[allow(unsafe_code)]
// SAFETY: It fails always.
unsafe impl hmm::migrate::CopyEngine<Nobody> for NoEngine {
    type Pending = ();

    fn copy(&self, _: &mut hmm::migrate::CopyBatch<'_>) -> Result {
        Err(EIO)
    }
}

impl DevPagemapOps for Nobody {
    type Engine = NoEngine;
    type FolioData = ();
    type Hooks = ();

    fn engine(&self) -> &NoEngine {
        &NoEngine
    }

    fn folio_free(&self, _: hmm::memremap::DevicePages, (): ()) {}

    fn migrate_to_ram(
        &self,
        fault: hmm::memremap::CpuFault<'_, Self>,
    ) -> hmm::memremap::FaultAnswer {
        fault.bus_error()
    }
}
