// SPDX-License-Identifier: GPL-2.0

//! Tests of the allocator of device pages, `rust/dmirror/alloc.rs`.
//!
//! - `directed`: tests of one behaviour each, which the name of the test states.
//! - `eviction`: the same for the choice of the block to evict when the device is full.
//! - `random`: sequences of operations, compared at each step with a model.
//! - `model`: the model, made of sets, and the comparison.
//! - `steps`: the cost of an operation, which must not grow with the device.

#[path = "../../src/pages.rs"]
#[allow(dead_code, reason = "some tests use a part")]
mod pages;

#[path = "../../../dmirror/alloc.rs"]
mod alloc;

mod directed;
mod eviction;
mod model;
mod random;
mod steps;
