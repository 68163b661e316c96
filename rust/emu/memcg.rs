// SPDX-License-Identifier: GPL-2.0

//! Whose memory it is that a thread of the kernel allocates.
//!
//! C header: [`include/linux/memcontrol.h`](srctree/include/linux/memcontrol.h).

use kernel::mm::MmWithUser;

use crate::bindings;

/// Calls `with`, in which what is allocated with `GFP_KERNEL_ACCOUNT` is charged to the memory
/// cgroup of an address space, not to that of the current task. Pages that are faulted in are
/// charged there by mm itself.
///
/// May sleep if `with` does.
///
/// C functions: `get_mem_cgroup_from_mm()`, `set_active_memcg()`.
pub fn charge_to<R>(mm: &MmWithUser, with: impl FnOnce() -> R) -> R {
    // SAFETY: The address space has users.
    let memcg = unsafe { bindings::get_mem_cgroup_from_mm(mm.as_raw()) };
    // SAFETY: There is a reference to the cgroup until it is not the active one any more.
    let before = unsafe { bindings::set_active_memcg(memcg) };
    let result = with();
    // SAFETY: It is what was the active one when this function was called; whoever has set it keeps
    // it until that function returns, as this one does.
    unsafe { bindings::set_active_memcg(before) };
    // SAFETY: The reference is given up once.
    unsafe { bindings::mem_cgroup_put(memcg) };
    result
}
