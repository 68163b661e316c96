// SPDX-License-Identifier: GPL-2.0

//! Engines that are held between two steps while others go on: in their own faults, while missed
//! pages move by policy, and in packets that move pages.

use super::held::{huge, small};
use super::held_movers::Mover;
use crate::prelude::*;

cases! { "held":
    engine_walked = "Whatever happens to pages that a fault of an engine has found, the device maps nothing that is gone."
        => small("walked", Mover::Sum),
    engine_exclusive = "Whatever happens to a page that an engine has made exclusive, the device maps nothing that is gone."
        => small("exclusive", Mover::Add),
    engine_out_collected = "Whatever happens to pages that are collected because an engine misses them, data are right."
        => by_policy(small("out_collected", Mover::Sum)),
    engine_out_copied = "Whatever happens to pages that were copied because an engine misses them, data are right."
        => by_policy(small("out_copied", Mover::Sum)),
    engine_out_moved = "Whatever happens to pages that have moved for an engine and are not mapped, it sees no old data."
        => by_policy(small("out_moved", Mover::Sum)),
    engine_out_mapped = "Whatever happens to pages that an engine has got, and the program not yet, data are right."
        => by_policy(small("out_mapped", Mover::Sum)),
    engine_out_huge = "Whatever happens to a huge page that has moved for an engine and is not mapped, data are right."
        => by_policy(huge("out_moved", Mover::Sum)),
    engine_atomic_moved = "The same for pages that have moved for atomic operations."
        => by_policy(small("out_moved", Mover::Add)),
    engine_found = "Whatever happens to pages that have moved for an engine, and that it has found there, data are right."
        => by_policy(small("walked", Mover::Sum)),
    prefetch_moved = "Whatever happens to pages that have moved by PREFETCH and are not mapped, data are right."
        => small("out_moved", Mover::Fetch),
    prefetch_back_collected = "Whatever happens to pages that are collected to come back by PREFETCH, no write is lost."
        => small("back_collected", Mover::SendBack),
    prefetch_back_copied = "Whatever happens to pages that were copied back by PREFETCH, no write is lost."
        => small("back_copied", Mover::SendBack),
    prefetch_back_moved = "Whatever happens to pages that came back by PREFETCH and are not mapped, data are right."
        => small("back_moved", Mover::SendBack),
}

/// Returns a case under the policy of xe: an engine moves the pages that it misses, with a time
/// slice before a CPU gets them.
fn by_policy(case: impl Fn(&Context) -> Result<()>) -> impl Fn(&Context) -> Result<()> {
    move |context| {
        let _policy = Policy::of("xe")?;
        case(context)
    }
}
