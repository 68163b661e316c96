// SPDX-License-Identifier: GPL-2.0

//! Engines that are held between two steps while others go on: in faults of their own, while pages
//! move because they miss them, as policy says, and in packets that move pages.

use super::held::all_deeds;
use super::held_movers::Mover;
use crate::prelude::*;

cases! { "held":
    engine_walked = "Whatever happens to pages that a fault of an engine has found, the device maps nothing that is gone.",
    engine_exclusive = "Whatever happens to a page that an engine has made exclusive, the device maps nothing that is gone.",
    engine_out_collected = "Whatever happens to pages that are collected because an engine misses them, data are right.",
    engine_out_copied = "Whatever happens to pages that were copied because an engine misses them, data are right.",
    engine_out_moved = "Whatever happens to pages that have moved for an engine and are not mapped, it sees no old data.",
    engine_out_mapped = "Whatever happens to pages that an engine has got, and the program not yet, data are right.",
    engine_out_huge = "Whatever happens to a huge page that has moved for an engine and is not mapped, data are right.",
    engine_atomic_moved = "The same for pages that have moved for atomic operations.",
    engine_found = "Whatever happens to pages that have moved for an engine, and that it has found there, data are right.",
    prefetch_moved = "Whatever happens to pages that have moved by PREFETCH and are not mapped, data are right.",
    prefetch_back_collected = "Whatever happens to pages that are collected to come back by PREFETCH, no write is lost.",
    prefetch_back_copied = "Whatever happens to pages that were copied back by PREFETCH, no write is lost.",
    prefetch_back_moved = "Whatever happens to pages that came back by PREFETCH and are not mapped, data are right.",
}

/// An engine that moves what it misses, as xe does, with a time slice before a CPU gets it.
fn by_policy(context: &Context, step: &str, mover: Mover, huge_pages: bool) -> Result<()> {
    let _policy = Policy::of("xe")?;
    all_deeds(context, step, mover, huge_pages)
}

fn engine_walked(context: &Context) -> Result<()> {
    all_deeds(context, "walked", Mover::Sum, false)
}

fn engine_exclusive(context: &Context) -> Result<()> {
    all_deeds(context, "exclusive", Mover::Add, false)
}

fn engine_out_collected(context: &Context) -> Result<()> {
    by_policy(context, "out_collected", Mover::Sum, false)
}

fn engine_out_copied(context: &Context) -> Result<()> {
    by_policy(context, "out_copied", Mover::Sum, false)
}

fn engine_out_moved(context: &Context) -> Result<()> {
    by_policy(context, "out_moved", Mover::Sum, false)
}

fn engine_out_mapped(context: &Context) -> Result<()> {
    by_policy(context, "out_mapped", Mover::Sum, false)
}

fn engine_out_huge(context: &Context) -> Result<()> {
    by_policy(context, "out_moved", Mover::Sum, true)
}

fn engine_atomic_moved(context: &Context) -> Result<()> {
    by_policy(context, "out_moved", Mover::Add, false)
}

fn engine_found(context: &Context) -> Result<()> {
    by_policy(context, "walked", Mover::Sum, false)
}

fn prefetch_moved(context: &Context) -> Result<()> {
    all_deeds(context, "out_moved", Mover::Fetch, false)
}

fn prefetch_back_collected(context: &Context) -> Result<()> {
    all_deeds(context, "back_collected", Mover::SendBack, false)
}

fn prefetch_back_copied(context: &Context) -> Result<()> {
    all_deeds(context, "back_copied", Mover::SendBack, false)
}

fn prefetch_back_moved(context: &Context) -> Result<()> {
    all_deeds(context, "back_moved", Mover::SendBack, false)
}
