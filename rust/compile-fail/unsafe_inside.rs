// SPDX-License-Identifier: GPL-2.0

//! All that is unsafe stays inside.

use emu::{
    iomem::PhysicalStart,
    memory::Memory, //
};
use hmm::memremap::{
    DevPagemap,
    DevPagemapOps,
    DevicePages,
    PfnRange, //
};
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
pub fn release<T: DevPagemapOps<FolioData = ()>>(pagemap: &DevPagemap<T>) -> Result {
    pagemap.release(DevicePages::new(0, 0)?, ()); //~ E0624
    Ok(())
}

/// Takes memory for its own that may be anybody's.
pub fn coherent() -> Result<PfnRange> {
    PfnRange::coherent(0x1000_0000, 512) //~ E0133
}

/// Takes memory for its own that nobody has vouched for.
pub fn fixed() -> Result<Memory> {
    Memory::fixed(PhysicalStart(0x1000_0000), 512, c"memory") //~ E0423
}
