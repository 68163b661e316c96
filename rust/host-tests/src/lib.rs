// SPDX-License-Identifier: GPL-2.0

//! The pure logic of the driver and of `emu`, compiled as in the kernel: with `core` and nothing
//! else.
//!
//! That it compiles is all there is to this crate. The tests, which do use `std`, include the same
//! files and work from outside: `tests/alloc`, `tests/attributes.rs`, `tests/pageset.rs`,
//! `tests/params.rs`, `tests/plan.rs`, `tests/request.rs`, `tests/table` and `tests/window.rs`.

#![no_std]

#[path = "../../dmirror/alloc.rs"]
#[expect(dead_code, reason = "compiled here, used by the tests")]
mod alloc;

#[path = "../../dmirror/attributes.rs"]
#[expect(dead_code, reason = "compiled here, used by the tests")]
mod attributes;

#[path = "../../dmirror/pageset.rs"]
#[expect(dead_code, reason = "compiled here, used by the tests")]
mod pageset;

#[path = "../../dmirror/params.rs"]
#[expect(dead_code, reason = "compiled here, used by the tests")]
mod params;

#[path = "../../dmirror/plan.rs"]
#[expect(dead_code, reason = "compiled here, used by the tests")]
mod plan;

#[path = "../../dmirror/request.rs"]
#[expect(dead_code, reason = "compiled here, used by the tests")]
mod request;

#[path = "../../emu/table.rs"]
#[expect(dead_code, reason = "compiled here, used by the tests")]
mod table;

#[path = "../../dmirror/window.rs"]
#[expect(dead_code, reason = "compiled here, used by the tests")]
mod window;
