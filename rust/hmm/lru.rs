// SPDX-License-Identifier: GPL-2.0

//! Temporary references that mm itself holds to pages of a process.
//!
//! C source: [`mm/folio.c`](srctree/mm/folio.c), [`mm/mlock.c`](srctree/mm/mlock.c).

use core::ffi::c_int;
use core::ffi::c_void;
use core::ptr::null_mut;

use kernel::cpu::nr_cpu_ids;

use crate::bindings;

/// Empties the per-CPU batches of folios that are to move between LRU lists, or that `mlock()` or
/// `munlock()` has touched; device pages get into these batches as well.
///
/// A batch holds a reference to each of its folios until it is full, so they can be neither
/// migrated nor freed. `migrate_vma_setup()` and `migrate_device_range()` empty only the batches of
/// their own CPU, unless they meet a system folio that is not on an LRU list yet. Call this between
/// two attempts.
///
/// May sleep until a work item has run on each CPU in turn. The caller may hold the locks that
/// `migrate_vma_setup()` may be called with, but no lock that an invalidation or a callback of
/// [`DevPagemapOps`](crate::memremap::DevPagemapOps) takes.
///
/// C function: `lru_add_drain_all()`, which modules cannot call.
pub fn drain_lru_batches() {
    for cpu in 0..nr_cpu_ids() {
        // An error means that the CPU is offline. A CPU that went offline has emptied its batches.
        // SAFETY: The C function checks the number of the CPU and waits for the callback, which
        // does not look at its argument.
        let _ = unsafe { bindings::smp_call_on_cpu(cpu, Some(drain_here), null_mut(), false) };
    }
}

/// Empties the batches of this CPU. A folio that has just moved back is in one of them; a migration
/// on another CPU that meets the folio there has to wait for a work item on each CPU.
///
/// Does not sleep.
///
/// C function: `lru_add_drain()`, which modules cannot call.
pub(crate) fn drain_local_batches() {
    let mut none = bindings::folio_batch::default();
    // SAFETY: The batch is empty. The C function first empties the batches of this CPU, because
    // this batch is not marked as drained.
    unsafe { bindings::__folio_batch_release(&mut none) };
}

/// # Safety
///
/// None: the function is `unsafe` only because its type requires it.
unsafe extern "C" fn drain_here(_: *mut c_void) -> c_int {
    drain_local_batches();
    0
}
