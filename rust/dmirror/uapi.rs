// SPDX-License-Identifier: GPL-2.0

//! The ABI, as bindgen generates it from `rust/uapi/dmirror.h`.

#![allow(dead_code, missing_docs, non_camel_case_types, unreachable_pub)]

use kernel::ffi;

include!(concat!(env!("DMIRROR_OBJ"), "/rust/uapi/uapi_generated.rs"));
