// SPDX-License-Identifier: GPL-2.0

//! The device maps only pages that moved in a migration of the pending map.

use emu::{
    device::{
        DeviceOps,
        Emulated, //
    },
    pending::MappedMigration,
    view::View, //
};
use hmm::{
    migrate::{
        Collected,
        LargeFolios,
        MigrateBuffer,
        Migrated,
        Migration,
        ToDevice, //
    },
    vma::LockedVma, //
};
use kernel::prelude::*;

/// Maps pages that have moved before.
pub fn afterwards<T: DeviceOps>(
    view: &View<T>,
    migrated: &Migration<'_, Migrated, ToDevice<'_, Emulated<T>>>,
) -> Result {
    let mut pending = view.pending_map(0x1000..0x2000)?;
    pending.map(migrated); //~ E0624
    Ok(())
}

/// Replaces the migration of a pending map with another one.
pub fn swap<'m, T: DeviceOps>(
    mapped: &mut MappedMigration<'_, 'm, Collected, T>,
    other: &mut Migration<'m, Collected, ToDevice<'m, Emulated<T>>>,
) {
    core::mem::swap(&mut **mapped, other); //~ E0596
}

/// Uses a pending map for two migrations.
pub fn twice<T: DeviceOps>(
    view: &View<T>,
    vma: LockedVma<'_>,
    one: &mut MigrateBuffer,
    two: &mut MigrateBuffer,
) -> Result {
    let pending = view.pending_map(0x1000..0x2000)?;
    drop(pending.migrate(vma, LargeFolios::Split, one)?);
    drop(pending.migrate(vma, LargeFolios::Split, two)?); //~ E0382
    Ok(())
}
