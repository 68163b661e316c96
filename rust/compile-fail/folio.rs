// SPDX-License-Identifier: GPL-2.0

//! Pages of a device have one owner, who cannot hold them longer than mm knows of them.

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

/// Keeps a free page longer than its pagemap.
pub fn keep<T: DevPagemapOps<FolioData = ()>>(pagemap: Arc<DevPagemap<T>>) -> Result {
    let free = pagemap.reserve(DevicePages::new(0, 0)?, ())?;
    drop(pagemap); //~ E0505
    drop(free);
    Ok(())
}

/// Reserves a page of a pagemap that was dropped.
pub fn reserve<T: DevPagemapOps<FolioData = ()>>(pagemap: Pin<KBox<DevPagemap<T>>>) -> Result {
    drop(pagemap);
    drop(pagemap.reserve(DevicePages::new(0, 0)?, ())?); //~ E0382
    Ok(())
}

/// Uses a folio that was converted into small pages.
pub fn small_pages<T: DevPagemapOps>(folio: FreeFolio<'_, T>) {
    let pages = folio.into_pages();
    drop(folio); //~ E0382
    drop(pages);
}

/// Puts a folio in use without a migration.
pub fn init<T: DevPagemapOps>(folio: FreeFolio<'_, T>) {
    let _ = folio.init(); //~ E0624
}

/// Accepts each type that can be the data of a folio.
pub fn data<T: FolioData>() {}

/// Uses a type as data for which the crate does not define how to release it.
pub fn number() {
    data::<usize>(); //~ E0277
}
