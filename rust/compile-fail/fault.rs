// SPDX-License-Identifier: GPL-2.0

//! A fault is answered, once, and by nothing else than the fault.

use hmm::memremap::{
    CpuFault,
    DevPagemapOps,
    FaultAnswer, //
};

/// Makes up an answer.
pub fn made_up() -> FaultAnswer {
    FaultAnswer(0) //~ E0423
}

/// Answers twice.
pub fn twice<T: DevPagemapOps>(fault: CpuFault<'_, T>) -> FaultAnswer {
    drop(fault.retry());
    fault.bus_error() //~ E0382
}

/// Says nothing.
pub fn silent<T: DevPagemapOps>(fault: CpuFault<'_, T>) -> FaultAnswer {
    return drop(fault); //~ E0308
}

/// Keeps the fault for later.
pub fn keep<T: DevPagemapOps>(fault: CpuFault<'_, T>, later: &mut Option<CpuFault<'static, T>>) {
    *later = Some(fault); //~ ERROR
}
