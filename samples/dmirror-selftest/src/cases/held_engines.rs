// SPDX-License-Identifier: GPL-2.0

//! Engines that are held between two steps while others go on: in their own faults, while missed
//! pages move by policy, and in packets that move pages.

use super::held::{huge, small};
use super::held_movers::Mover;
use crate::prelude::*;

cases! { "held":
    engine_walked = "The device maps nothing that is gone, whatever happens to pages that a fault of an engine has found."
        => small("walked", Mover::Sum),
    engine_exclusive = "The device maps nothing that is gone, whatever happens to a page that an engine has made exclusive."
        => small("exclusive", Mover::Add),
    engine_out_collected = "Data are right, whatever happens to pages that are collected because an engine misses them."
        => by_policy(small("out_collected", Mover::Sum)),
    engine_out_copied = "Data are right, whatever happens to pages that were copied because an engine misses them."
        => by_policy(small("out_copied", Mover::Sum)),
    engine_out_moved = "The engine sees no old data, whatever happens to pages that have moved for an engine and are not mapped."
        => by_policy(small("out_moved", Mover::Sum)),
    engine_out_mapped = "Data are right, whatever happens to pages that an engine has got, and the program not yet."
        => by_policy(small("out_mapped", Mover::Sum)),
    engine_out_huge = "Data are right, whatever happens to a huge page that has moved for an engine and is not mapped."
        => by_policy(huge("out_moved", Mover::Sum)),
    engine_atomic_moved = "The same for pages that have moved for atomic operations."
        => by_policy(small("out_moved", Mover::Add)),
    engine_found = "Data are right, whatever happens to pages that have moved for an engine, and that it has found there."
        => by_policy(small("walked", Mover::Sum)),
    prefetch_moved = "Data are right, whatever happens to pages that have moved by PREFETCH and are not mapped."
        => small("out_moved", Mover::Fetch),
    prefetch_back_collected = "No write is lost, whatever happens to pages that are collected to come back by PREFETCH."
        => small("back_collected", Mover::SendBack),
    prefetch_back_copied = "No write is lost, whatever happens to pages that were copied back by PREFETCH."
        => small("back_copied", Mover::SendBack),
    prefetch_back_moved = "Data are right, whatever happens to pages that came back by PREFETCH and are not mapped."
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
