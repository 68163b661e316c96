// SPDX-License-Identifier: GPL-2.0

//! Migration of a range back to system memory.

use core::ops::Range;

use emu::trace;
use hmm::{lru::drain_lru_batches, memremap::HPAGE_PMD_ORDER};
use kernel::{page::PAGE_SIZE, prelude::*};

use super::{backoff, on_device, readable_vma, traced};
use crate::{
    call::{resched_or_eintr, window_at, Call},
    plan::{DRAIN_EVERY, IDLE_PASSES},
};

/// Moves those pages of the range that are on the device to system memory.
///
/// May sleep.
///
/// # Errors
///
/// As `rust/uapi/dmirror.h` lists them for `MIGRATE_TO_SYS`.
pub(crate) fn to_system(call: &mut Call<'_>) -> Result {
    let range = call.range();
    let mut left = 0;
    let mut at = range.start;
    while at < range.end {
        let mut window = window_at(at, range.end);
        left += step_to_system(call, &mut window)?;
        at = window.end;
        resched_or_eintr()?;
    }
    if left == 0 {
        Ok(())
    } else {
        Err(EBUSY)
    }
}

/// Moves those pages of a window that are on the device, with bounded retries for pages that
/// someone else has locked or referenced. Returns the number of pages that stayed.
fn step_to_system(call: &mut Call<'_>, range: &mut Range<usize>) -> Result<usize> {
    let mut left = 0;
    for attempt in 0..IDLE_PASSES {
        if attempt > 0 {
            call.view.pagemap().ops().attempts().busy.add(1);
            backoff(call.view.pagemap());
            if attempt % DRAIN_EVERY == 1 {
                drain_lru_batches();
            }
            resched_or_eintr()?;
        }
        let moved = pass_to_system(call, range)?;
        left = if moved == range.len() / PAGE_SIZE {
            // All pages have moved, so there is no need to walk.
            0
        } else {
            on_device(call.view, call.mm, range.clone(), &mut call.buffers.fault)?.len()
        };
        if left == 0 {
            break;
        }
    }
    if left > 0 {
        let attempts = call.view.pagemap().ops().attempts();
        attempts.stayed.add(left as u64);
    }
    Ok(left)
}

/// Moves those pages of the range that can move back to system memory.
///
/// May sleep.
pub(crate) fn prefetch_back(call: &mut Call<'_>) {
    let range = call.range();
    let mut at = range.start;
    while at < range.end {
        let mut window = window_at(at, range.end);
        at = match step_to_system(call, &mut window) {
            Err(EINVAL) => at + PAGE_SIZE,
            _ => window.end,
        };
        if resched_or_eintr().is_err() {
            return;
        }
    }
}

/// Performs one pass back; returns the number of pages that moved.
fn pass_to_system(call: &mut Call<'_>, range: &mut Range<usize>) -> Result<usize> {
    let mmap = call.mm.mmap_read_lock();
    let vma = readable_vma(&mmap, range.start)?;
    range.end = range.end.min(vma.end());
    let (pagemap, cause) = (call.view.pagemap(), call.cause);
    let (moved, outcome) = trace::Migrate::trace(
        || traced(pagemap, range, HPAGE_PMD_ORDER, trace::Place::System, cause),
        || pagemap.bring_back(vma, range.clone(), &mut call.buffers.migrate),
        |&(moved, outcome)| (moved, outcome.err()),
    );
    call.counts.cpages += moved as u64;
    call.counts.moved_back += moved as u64;
    let stats = pagemap.ops().stats();
    stats.came_back(cause, moved);
    match outcome {
        // An injected failure occurs only once: the next pass tries again.
        Ok(()) | Err(EAGAIN) => Ok(moved),
        Err(error) => {
            pagemap.ops().attempts().failures.note(error);
            Err(error)
        }
    }
}
