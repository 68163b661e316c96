// SPDX-License-Identifier: GPL-2.0

//! Tests of the allocator of device pages, `rust/dmirror/alloc.rs`.
//!
//! - `directed`: one behaviour a test, which the test's name says.
//! - `eviction`: the same of which block has to go when the device is full.
//! - `random`: sequences of operations, compared at each step with a model.
//! - `model`: the model, made of sets, and the comparison.
//! - `steps`: what an operation costs, which must not grow with the device.

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
