// SPDX-License-Identifier: GPL-2.0

//! A fault is answered exactly once, and only a fault can create an answer.

use hmm::memremap::{
    CpuFault,
    DevPagemapOps,
    FaultAnswer, //
};

/// Creates an answer without a fault.
pub fn made_up() -> FaultAnswer {
    FaultAnswer(0) //~ E0423
}

/// Answers a fault twice.
pub fn twice<T: DevPagemapOps>(fault: CpuFault<'_, T>) -> FaultAnswer {
    drop(fault.retry());
    fault.bus_error() //~ E0382
}

/// Drops a fault without an answer.
pub fn silent<T: DevPagemapOps>(fault: CpuFault<'_, T>) -> FaultAnswer {
    return drop(fault); //~ E0308
}

/// Keeps a fault for later.
pub fn keep<T: DevPagemapOps>(fault: CpuFault<'_, T>, later: &mut Option<CpuFault<'static, T>>) {
    *later = Some(fault); //~ ERROR
}
