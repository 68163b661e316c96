// SPDX-License-Identifier: GPL-2.0

//! A destination that was given away belongs to the migration.

use hmm::DevPagemapOps;
use hmm::LockedFolio;
use hmm::Slot;
use hmm::SystemFolio;
use hmm::ToDevice;
use hmm::ToSystem;
use kernel::prelude::*;

/// Fills a folio that is on its way.
pub fn fill<T: DevPagemapOps>(
    slot: Slot<'_, ToDevice<'_, T>>,
    mut folio: LockedFolio<'_, T>,
) -> Result {
    slot.give(folio)?;
    folio.fill_zero() //~ E0382
}

/// Gives a slot two destinations.
pub fn twice<T: DevPagemapOps>(
    slot: Slot<'_, ToSystem<'_, T>>,
    one: SystemFolio,
    two: SystemFolio,
) -> Result {
    slot.give(one)?;
    slot.give(two) //~ E0382
}

/// Gives system memory to what goes to the device.
pub fn wrong<T: DevPagemapOps>(slot: Slot<'_, ToDevice<'_, T>>, folio: SystemFolio) -> Result {
    slot.give(folio) //~ E0308
}
