// SPDX-License-Identifier: GPL-2.0

//! The pure logic of the driver and of `emu`, compiled as in the kernel: with `core` only.
//!
//! The only purpose of this crate is to compile. The tests, which do use `std`, include the same
//! files and work from outside: `tests/alloc`, `tests/table`, and one file for each of the others.

#![no_std]

#[path = "../../dmirror/alloc.rs"]
#[expect(dead_code, reason = "compiled here, used by the tests")]
mod alloc;

#[path = "../../dmirror/attributes.rs"]
#[expect(dead_code, reason = "compiled here, used by the tests")]
mod attributes;

#[path = "../../dmirror/hits.rs"]
#[expect(dead_code, reason = "compiled here, used by the tests")]
mod hits;

#[path = "../../dmirror/pageset.rs"]
#[expect(dead_code, reason = "compiled here, used by the tests")]
mod pageset;

#[path = "../../dmirror/params.rs"]
#[expect(dead_code, reason = "compiled here, used by the tests")]
mod params;

#[path = "../../dmirror/plan.rs"]
#[expect(dead_code, reason = "compiled here, used by the tests")]
mod plan;

#[path = "../../dmirror/policy.rs"]
#[expect(dead_code, reason = "compiled here, used by the tests")]
mod policy;

#[path = "../../dmirror/request.rs"]
#[expect(dead_code, reason = "compiled here, used by the tests")]
mod request;

#[path = "../../dmirror/slice.rs"]
#[expect(dead_code, reason = "compiled here, used by the tests")]
mod slice;

#[path = "../../emu/table.rs"]
#[expect(dead_code, reason = "compiled here, used by the tests")]
mod table;

#[path = "../../dmirror/thrash.rs"]
#[expect(dead_code, reason = "compiled here, used by the tests")]
mod thrash;

mod pages;

#[path = "../../dmirror/window.rs"]
#[expect(dead_code, reason = "compiled here, used by the tests")]
mod window;
