// SPDX-License-Identifier: GPL-2.0

//! The author of an engine vouches for its copies; an engine serves only its own device.

use emu::{
    device::{
        CpuEngine,
        DeviceOps,
        Pagemap, //
    },
    memory::Memory, //
};
use hmm::{
    memremap::{
        CpuFault,
        DevPagemapOps,
        DevicePages,
        FaultAnswer, //
    },
    migrate::{
        CopyBatch,
        CopyEngine, //
    },
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// An engine that does not copy.
pub struct Lazy;

#[rustfmt::skip]
impl<T: DevPagemapOps> CopyEngine<T> for Lazy { //~ E0200
    type Pending = ();

    fn copy(&self, _: &mut CopyBatch<'_>) -> Result {
        Ok(())
    }
}

/// Creates an engine for memory that is not its own.
pub fn engine(memory: Memory) -> CpuEngine {
    CpuEngine(memory) //~ E0423
}

/// A driver that lets the engine of another device copy for it.
pub struct Borrower<T: DeviceOps>(Arc<Pagemap<T>>);

impl<T: DeviceOps> DevPagemapOps for Borrower<T> {
    type Engine = CpuEngine; //~ E0277
    type FolioData = ();
    type Hooks = ();

    fn engine(&self) -> &CpuEngine {
        self.0.ops().engine()
    }

    fn folio_free(&self, _: DevicePages, (): ()) {}

    fn migrate_to_ram(&self, fault: CpuFault<'_, Self>) -> FaultAnswer {
        fault.bus_error()
    }
}
