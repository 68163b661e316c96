// SPDX-License-Identifier: GPL-2.0

//! Unsafe operations stay inside the crates.

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

/// Uses the C bindings directly.
pub fn bindings() {
    let _ = hmm::bindings::HPAGE_PMD_ORDER; //~ E0603
}

/// Takes the pointer that C has.
pub fn raw<T: DevPagemapOps>(pagemap: &DevPagemap<T>) {
    let _ = pagemap.as_raw(); //~ E0624
}

/// Releases pages that belong to someone else.
pub fn release<T: DevPagemapOps<FolioData = ()>>(pagemap: &DevPagemap<T>) -> Result {
    pagemap.release(DevicePages::new(0, 0)?, ()); //~ E0624
    Ok(())
}

/// Takes memory that may belong to someone else.
pub fn coherent() -> Result<PfnRange> {
    PfnRange::coherent(0x1000_0000, 512) //~ E0133
}

/// Takes memory for which nobody has vouched.
pub fn fixed() -> Result<Memory> {
    Memory::fixed(PhysicalStart(0x1000_0000), 512, c"memory") //~ E0423
}
