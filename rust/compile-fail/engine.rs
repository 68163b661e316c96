// SPDX-License-Identifier: GPL-2.0

//! Who copies vouches for what is copied, and only for the memory of its own device.

use emu::{
    device::CpuEngine,
    memory::Memory, //
};
use hmm::migrate::{
    CopyBatch,
    CopyEngine, //
};
use kernel::prelude::*;

/// An engine that does not copy.
pub struct Lazy;

#[rustfmt::skip]
impl CopyEngine for Lazy { //~ E0200
    type Pending = ();

    fn copy(&self, _: &mut CopyBatch<'_>) -> Result {
        Ok(())
    }
}

/// Takes the memory of one device for the engine of another.
pub fn engine(memory: Memory) -> CpuEngine {
    CpuEngine(memory) //~ E0423
}
