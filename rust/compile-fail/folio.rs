// SPDX-License-Identifier: GPL-2.0

//! Pages of a device have one owner, who holds them no longer than mm knows of them.

use hmm::memremap::{
    DevPagemap,
    DevPagemapOps,
    DevicePages,
    FolioData,
    FreeFolio, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// Keeps a free page.
pub fn keep<T: DevPagemapOps<FolioData = ()>>(pagemap: Arc<DevPagemap<T>>) -> Result {
    let free = pagemap.reserve(DevicePages::new(0, 0)?, ())?;
    drop(pagemap); //~ E0505
    drop(free);
    Ok(())
}

/// Reserves a page of what was dropped.
pub fn reserve<T: DevPagemapOps<FolioData = ()>>(pagemap: Pin<KBox<DevPagemap<T>>>) -> Result {
    drop(pagemap);
    drop(pagemap.reserve(DevicePages::new(0, 0)?, ())?); //~ E0382
    Ok(())
}

/// Uses a folio that is in small pages now.
pub fn small_pages<T: DevPagemapOps>(folio: FreeFolio<'_, T>) {
    let pages = folio.into_pages();
    drop(folio); //~ E0382
    drop(pages);
}

/// Puts a folio in use past a migration.
pub fn init<T: DevPagemapOps>(folio: FreeFolio<'_, T>) {
    let _ = folio.init(); //~ E0624
}

/// Keeps what does not outlive a borrow in a folio.
pub fn data<T: FolioData>() {}

/// Calls for data of a kind that has no rule for its end.
pub fn number() {
    data::<usize>(); //~ E0277
}
