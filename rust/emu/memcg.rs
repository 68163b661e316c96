// SPDX-License-Identifier: GPL-2.0

//! Accounting of memory that a kernel thread allocates.
//!
//! C header: [`include/linux/memcontrol.h`](srctree/include/linux/memcontrol.h).

use kernel::mm::MmWithUser;

use crate::bindings;

/// Calls `with`, and charges its allocations with `GFP_KERNEL_ACCOUNT` to the memory cgroup of an
/// address space instead of that of the current task. mm itself charges pages that are faulted in
/// there.
///
/// May sleep if `with` does.
///
/// C functions: `get_mem_cgroup_from_mm()`, `set_active_memcg()`.
pub fn charge_to<R>(mm: &MmWithUser, with: impl FnOnce() -> R) -> R {
    // SAFETY: The address space has users.
    let memcg = unsafe { bindings::get_mem_cgroup_from_mm(mm.as_raw()) };
    // SAFETY: We hold a reference to the cgroup until it is no longer the active one.
    let before = unsafe { bindings::set_active_memcg(memcg) };
    let result = with();
    // SAFETY: `before` was the active cgroup when this function was called; whoever has set it
    // keeps a reference until their function returns, as this function does.
    unsafe { bindings::set_active_memcg(before) };
    // SAFETY: We own the reference, and put it once.
    unsafe { bindings::mem_cgroup_put(memcg) };
    result
}
