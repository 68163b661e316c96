// SPDX-License-Identifier: GPL-2.0

//! The C side: the helpers in `rust/helpers/`, on top of the kernel crate's own bindings.
//!
//! Private to this crate: code outside it cannot name a C function.

#![allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    non_snake_case,
    improper_ctypes,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]

include!(concat!(
    env!("DMIRROR_OBJ"),
    "/rust/bindings/bindings_generated.rs"
));
include!(concat!(
    env!("DMIRROR_OBJ"),
    "/rust/bindings/helpers_generated.rs"
));
include!(concat!(
    env!("DMIRROR_OBJ"),
    "/rust/bindings/emu_helpers_generated.rs"
));
include!(concat!(
    env!("DMIRROR_OBJ"),
    "/rust/bindings/trace_generated.rs"
));
