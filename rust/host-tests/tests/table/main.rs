// SPDX-License-Identifier: GPL-2.0

//! Tests of the page table of a device, `rust/emu/table.rs`.
//!
//! - `directed`: tests of one behaviour each, which the name of the test states.
//! - `random`: sequences of operations, compared at each step with a model.
//! - `model`: the model, made of sets, and the comparison.
//! - `nodes`: nodes that are counted while they live.

#[path = "../../src/pages.rs"]
#[allow(dead_code, reason = "some tests use a part")]
mod pages;

#[path = "../../../emu/table.rs"]
mod table;

mod directed;
mod model;
mod nodes;
mod random;
