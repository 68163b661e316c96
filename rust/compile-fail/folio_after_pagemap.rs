// SPDX-License-Identifier: GPL-2.0

//! A free page is held no longer than the pages are known to mm.

use hmm::DevPagemap;
use hmm::DevPagemapOps;
use hmm::DevicePages;
use kernel::prelude::*;
use kernel::sync::Arc;

/// Keeps one page free, and another one locked.
pub fn keep<T: DevPagemapOps>(pagemap: Arc<DevPagemap<T>>, other: Arc<DevPagemap<T>>) -> Result {
    let free = pagemap.take(DevicePages::new(0, 0)?)?;
    let locked = other.take(DevicePages::new(1, 0)?)?.init();
    drop(pagemap); //~ E0505
    drop(other); //~ E0505
    drop(free);
    drop(locked);
    Ok(())
}
