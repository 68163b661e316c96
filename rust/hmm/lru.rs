// SPDX-License-Identifier: GPL-2.0

//! References that mm itself holds to pages of a process, for a while.
//!
//! C source: [`mm/folio.c`](srctree/mm/folio.c), [`mm/mlock.c`](srctree/mm/mlock.c).

use core::ffi::c_int;
use core::ffi::c_void;
use core::ptr::null_mut;

use kernel::cpu::nr_cpu_ids;

use crate::bindings;

/// Empties the batches in which each CPU collects folios that are to move between LRU lists, or
/// that `mlock()` and its end have met; pages of devices get into those as well.
///
/// A batch holds a reference to each of its folios until it is full, so that they can neither be
/// migrated nor be freed. `migrate_vma_setup()` and `migrate_device_range()` empty the batches of
/// their own CPU alone, unless a folio of the system is not on a list yet. Call this between two
/// tries.
///
/// May sleep, until a work item has run on each CPU in turn. The caller may hold what
/// `migrate_vma_setup()` may be called with, and nothing that a callback of
/// [`DevPagemapOps`](crate::memremap::DevPagemapOps) or an invalidation takes.
///
/// C function: `lru_add_drain_all()`, which modules cannot call.
pub fn drain_lru_batches() {
    for cpu in 0..nr_cpu_ids() {
        // The answer may be that the CPU is not there. One that went has emptied its batches.
        // SAFETY: The C function checks the number of the CPU and waits for the callback, which
        // does not look at its argument.
        let _ = unsafe { bindings::smp_call_on_cpu(cpu, Some(drain_here), null_mut(), false) };
    }
}

/// Empties the batches of this CPU. What has just come back is in one; a migration on another CPU
/// that meets it there waits for a work item on each.
///
/// Does not sleep.
///
/// C function: `lru_add_drain()`, which modules cannot call.
pub(crate) fn drain_local_batches() {
    let mut none = bindings::folio_batch::default();
    // SAFETY: A batch of no folios. The C function empties those of the CPU first, because the
    // batch does not say that it was done.
    unsafe { bindings::__folio_batch_release(&mut none) };
}

/// # Safety
///
/// None: it is one only by its type.
unsafe extern "C" fn drain_here(_: *mut c_void) -> c_int {
    drain_local_batches();
    0
}
