// SPDX-License-Identifier: GPL-2.0

//! The heuristics of the kernel module, from the same files.

#[path = "../../../../rust/dmirror/alloc.rs"]
#[expect(dead_code, reason = "the module uses more of it")]
pub mod alloc;

#[path = "../../../../rust/dmirror/hits.rs"]
pub mod hits;

#[path = "../../../../rust/dmirror/plan.rs"]
pub mod plan;

#[path = "../../../../rust/dmirror/policy.rs"]
#[expect(dead_code, reason = "the module uses more of it")]
pub mod policy;

#[path = "../../../../rust/dmirror/slice.rs"]
pub mod slice;

#[path = "../../../../rust/dmirror/thrash.rs"]
pub mod thrash;

#[path = "../../../../rust/dmirror/window.rs"]
pub mod window;
