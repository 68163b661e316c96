// SPDX-License-Identifier: GPL-2.0

//! Nothing is taken once the pagemap is gone.

use hmm::DevPagemap;
use hmm::DevPagemapOps;
use hmm::DevicePages;
use kernel::prelude::*;

/// Takes a page of what was dropped.
pub fn take<T: DevPagemapOps>(pagemap: Pin<KBox<DevPagemap<T>>>) -> Result {
    drop(pagemap);
    drop(pagemap.take(DevicePages::new(0, 0)?)?); //~ E0382
    Ok(())
}
