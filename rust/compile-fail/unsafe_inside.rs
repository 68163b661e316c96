// SPDX-License-Identifier: GPL-2.0

//! All that is unsafe stays inside.

use hmm::DevPagemap;
use hmm::DevPagemapOps;
use kernel::prelude::*;

/// Calls C past the abstraction.
pub fn bindings() {
    let _ = hmm::bindings::HPAGE_PMD_ORDER; //~ E0603
}

/// Takes the address that C has.
pub fn raw<T: DevPagemapOps>(pagemap: &DevPagemap<T>) {
    let _ = pagemap.as_raw(); //~ E0624
}

/// Gives back pages that somebody has.
pub fn release<T: DevPagemapOps>(pagemap: &DevPagemap<T>) -> Result {
    pagemap.release(hmm::DevicePages::new(0, 0)?); //~ E0624
    Ok(())
}
