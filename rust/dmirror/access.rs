// SPDX-License-Identifier: GPL-2.0

//! The device reads and writes memory of the process, through its own page table.
//!
//! What is copied to or from user space goes through the bounce buffer, so that no lock is held
//! while user memory is accessed.

use core::cell::Cell;
use core::ops::Range;

use emu::view::{Access, ViewGuard};
use hmm::{
    memremap::{HPAGE_PMD_NR, HPAGE_PMD_ORDER, HPAGE_PUD_ORDER},
    range::{MappedPage, PagePlace, PageView, Timeout},
};
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::time::Instant;
use kernel::time::Monotonic;
use kernel::uaccess::UserPtr;
use kernel::uaccess::UserSlice;

use crate::alloc::BLOCK_PAGES;
use crate::config::ACCESS_TIMEOUT_MS;
use crate::config::BOUNCE_PAGES;
use crate::config::FAULT_PAGES;
use crate::device::DeviceMemory;
use crate::file::pause_for_others;
use crate::file::window_at;
use crate::file::Buffers;
use crate::file::Call;
use crate::uapi;

/// Hands out the range as the device sees it.
///
/// May sleep.
///
/// # Errors
///
/// As `rust/uapi/dmirror.h` lists them for `READ`.
pub(crate) fn read(call: &mut Call<'_>, out: UserPtr, timeout: Timeout) -> Result {
    let range = call.range();
    read_part(call, range, out, timeout)
}

/// As [`read`], for a part of the range; `out` is where that part goes.
pub(crate) fn read_part(
    call: &mut Call<'_>,
    part: Range<usize>,
    out: UserPtr,
    timeout: Timeout,
) -> Result {
    let mut progress = Progress::new(part.start, timeout);
    let mut at = part.start;
    while at < part.end {
        progress.check(at)?;
        let wanted = Wanted {
            range: at..part.end,
            ahead: part.end,
            copy: Copy::Read,
        };
        let bytes = access(call, wanted, timeout)? * PAGE_SIZE;
        let to = out.wrapping_byte_add(at - part.start);
        UserSlice::new(to, bytes)
            .writer()
            .write_slice(&call.buffers.bounce[..bytes])?;
        call.counts.cpages += (bytes / PAGE_SIZE) as u64;
        at += bytes;
        pause_for_others()?;
    }
    Ok(())
}

/// The device writes what is at `data` to the range.
///
/// May sleep.
///
/// # Errors
///
/// As `rust/uapi/dmirror.h` lists them for `WRITE`.
pub(crate) fn write(call: &mut Call<'_>, data: UserPtr) -> Result {
    let range = call.range();
    let mut progress = Progress::new(range.start, Timeout::Bounded);
    let mut at = range.start;
    while at < range.end {
        let end = range.end.min(at + BOUNCE_PAGES * PAGE_SIZE);
        let from = data.wrapping_byte_add(at - range.start);
        UserSlice::new(from, end - at)
            .reader()
            .read_slice(&mut call.buffers.bounce[..end - at])?;
        let chunk = at;
        while at < end {
            progress.check(at)?;
            let wanted = Wanted {
                range: at..end,
                ahead: range.end,
                copy: Copy::Write { skip: at - chunk },
            };
            let npages = access(call, wanted, Timeout::Bounded)?;
            call.counts.cpages += npages as u64;
            at += npages * PAGE_SIZE;
            pause_for_others()?;
        }
    }
    Ok(())
}

/// Tells how and where the pages of the range are mapped, a byte a page.
///
/// May sleep.
///
/// # Errors
///
/// As `rust/uapi/dmirror.h` lists them for `SNAPSHOT`.
pub(crate) fn snapshot(call: &mut Call<'_>, out: UserPtr) -> Result {
    let range = call.range();
    let mut at = range.start;
    while at < range.end {
        let window = window_at(at, range.end);
        let mut npages = 0;
        let bounce = &mut call.buffers.bounce;
        call.view
            .snapshot(call.mm, window.clone(), &mut call.buffers.fault, |view| {
                bounce[npages] = prot(view);
                npages += 1;
            })?;
        let to = out.wrapping_byte_add((at - range.start) / PAGE_SIZE);
        UserSlice::new(to, npages)
            .writer()
            .write_slice(&call.buffers.bounce[..npages])?;
        call.counts.cpages += npages as u64;
        at = window.end;
        pause_for_others()?;
    }
    Ok(())
}

/// Gives the device exclusive access to the pages of the range, and hands them out.
///
/// May sleep.
///
/// # Errors
///
/// As `rust/uapi/dmirror.h` lists them for `EXCLUSIVE`.
pub(crate) fn exclusive(call: &mut Call<'_>, out: UserPtr) -> Result {
    let range = call.range();
    let mut at = range.start;
    while at < range.end {
        let window = window_at(at, range.end.min(at + BOUNCE_PAGES * PAGE_SIZE));
        let mut npages = 0;
        let made = make_exclusive(call, window.clone(), &mut npages);
        let to = out.wrapping_byte_add(at - range.start);
        let bytes = npages * PAGE_SIZE;
        UserSlice::new(to, bytes)
            .writer()
            .write_slice(&call.buffers.bounce[..bytes])?;
        call.counts.cpages += npages as u64;
        made?;
        at = window.end;
        pause_for_others()?;
    }
    Ok(())
}

/// Makes the pages of a window exclusive, one after the other, and copies them to the bounce buffer.
fn make_exclusive(call: &mut Call<'_>, window: Range<usize>, npages: &mut usize) -> Result {
    let mut progress = Progress::new(window.start, Timeout::Bounded);
    let mut at = window.start;
    while at < window.end {
        progress.check(at)?;
        let mut pending = call.view.pending_map(at..window.end)?;
        let mmap = call.mm.mmap_read_lock();
        while at < window.end {
            let bytes = &mut call.buffers.bounce[*npages * PAGE_SIZE..(*npages + 1) * PAGE_SIZE];
            let copied = pending.make_exclusive(call.mm, &mmap, at, |guard| {
                let page = guard.page(at).ok_or(EAGAIN)?;
                page.read(0, bytes)
            })?;
            match copied {
                Some(copied) => copied?,
                // Another task has changed the page tables: claim again.
                None => break,
            }
            *npages += 1;
            at += PAGE_SIZE;
        }
        drop(mmap);
        drop(pending);
        pause_for_others()?;
    }
    Ok(())
}

/// Fails if the device has exclusive access to a page of the range.
///
/// May sleep.
///
/// # Errors
///
/// [`EPERM`] if it has; [`EINTR`].
pub(crate) fn check_exclusive(call: &mut Call<'_>) -> Result {
    let range = call.range();
    let mut at = range.start;
    while at < range.end {
        let guard = call.view.lock();
        // In steps, so that the lock is not held for long.
        for _ in 0..HPAGE_PMD_NR {
            match guard.next(at..range.end) {
                None => return Ok(()),
                Some((_, page)) if page.access() == Access::Exclusive => return Err(EPERM),
                Some((address, _)) => at = address + PAGE_SIZE,
            }
        }
        drop(guard);
        pause_for_others()?;
    }
    Ok(())
}

/// What the device is to access.
struct Wanted {
    range: Range<usize>,
    /// How far a round of faults goes, because the access will get there.
    ahead: usize,
    copy: Copy,
}

/// Which way to copy.
#[derive(Clone, Copy)]
enum Copy {
    /// To the start of the bounce buffer.
    Read,
    /// From the bounce buffer, so many bytes after its start.
    Write { skip: usize },
}

/// Copies what is mapped at the start of a range, after a round of faults if nothing is. Returns the
/// number of pages.
fn access(call: &mut Call<'_>, wanted: Wanted, timeout: Timeout) -> Result<usize> {
    let Wanted { range, ahead, copy } = wanted;
    let npages = copy_mapped(&call.view.lock(), &mut call.buffers.bounce, &range, copy);
    if npages > 0 {
        return Ok(npages);
    }
    call.counts.faults += 1;
    let access = match copy {
        Copy::Read => Access::Read,
        Copy::Write { .. } => Access::Write,
    };
    let end = ahead.min(range.start + FAULT_PAGES * PAGE_SIZE);
    let copied = Cell::new(0);
    let mut at = range.start;
    while at < end {
        let window = window_at(at, end);
        let first = at == range.start;
        let mut fault = |part: Range<usize>| {
            let Buffers {
                fault: buffer,
                bounce,
                ..
            } = &mut *call.buffers;
            let (view, mm) = (call.view, call.mm);
            view.fault(mm, part, access, timeout, buffer, |guard| {
                if first {
                    copied.set(copy_mapped(guard, bounce, &range, copy));
                }
            })
        };
        match fault(window.clone()) {
            Ok(()) => at = window.end,
            // What was accessed counts, and is not accessed again. What keeps a later part from
            // being mapped is found when the access gets there.
            Err(_) if !first || copied.get() > 0 => break,
            Err(error @ (EBUSY | EINTR)) => return Err(error),
            // The first page alone decides: so everything before the page that is the reason is
            // accessed.
            Err(_) => {
                let faulted = fault(at..at + PAGE_SIZE);
                if copied.get() == 0 {
                    faulted?;
                }
                break;
            }
        }
        match pause_for_others() {
            Err(_) if copied.get() > 0 => break,
            paused => paused?,
        }
    }
    Ok(copied.get())
}

/// Copies what is mapped at the start of a range; returns the number of pages, which ends where the
/// device has no page mapped, or may not write to it, or the bounce buffer ends.
fn copy_mapped(
    guard: &ViewGuard<'_, DeviceMemory>,
    bounce: &mut [u8],
    range: &Range<usize>,
    copy: Copy,
) -> usize {
    let npages = (range.len() / PAGE_SIZE).min(BOUNCE_PAGES);
    let mut used = None;
    for nth in 0..npages {
        let Some(page) = guard.page(range.start + nth * PAGE_SIZE) else {
            return nth;
        };
        let offset = nth * PAGE_SIZE;
        let copied = match copy {
            Copy::Read => page.read(0, &mut bounce[offset..offset + PAGE_SIZE]),
            Copy::Write { skip } => {
                let offset = offset + skip;
                page.write(0, &bounce[offset..offset + PAGE_SIZE])
            }
        };
        if copied.is_err() {
            return nth;
        }
        // What the device uses is not the first to be evicted.
        let block = page.device_index().map(|index| index / BLOCK_PAGES);
        if let Some(block) = block.filter(|_| block != used) {
            page.pagemap().ops().pool().touch(block);
            used = Some(block);
        }
    }
    npages
}

/// Sees to it that an access which gets nowhere ends.
struct Progress {
    timeout: Timeout,
    at: usize,
    since: Instant<Monotonic>,
}

impl Progress {
    fn new(at: usize, timeout: Timeout) -> Self {
        Self {
            timeout,
            at,
            since: Instant::now(),
        }
    }

    /// Called before another try at an address.
    fn check(&mut self, at: usize) -> Result {
        if at != self.at {
            *self = Self::new(at, self.timeout);
        }
        let over = self.since.elapsed().as_millis() > ACCESS_TIMEOUT_MS;
        if self.timeout == Timeout::Bounded && over {
            return Err(EBUSY);
        }
        Ok(())
    }
}

/// The byte that user space sees for a page.
fn prot(view: PageView) -> u8 {
    let bits = match view {
        PageView::Error => uapi::DMIRROR_PROT_ERROR,
        PageView::None => uapi::DMIRROR_PROT_NONE,
        PageView::Mapped(MappedPage {
            place,
            is_writable,
            order,
            ..
        }) => {
            let place = match place {
                PagePlace::System => uapi::DMIRROR_PROT_NONE,
                PagePlace::Zero => uapi::DMIRROR_PROT_ZERO,
                PagePlace::PrivateLocal => uapi::DMIRROR_PROT_DEV_PRIVATE_LOCAL,
                PagePlace::PrivateRemote => uapi::DMIRROR_PROT_DEV_PRIVATE_REMOTE,
                PagePlace::CoherentLocal => uapi::DMIRROR_PROT_DEV_COHERENT_LOCAL,
                PagePlace::CoherentRemote => uapi::DMIRROR_PROT_DEV_COHERENT_REMOTE,
            };
            let access = if is_writable {
                uapi::DMIRROR_PROT_WRITE
            } else {
                uapi::DMIRROR_PROT_READ
            };
            let size = match order {
                HPAGE_PMD_ORDER => uapi::DMIRROR_PROT_PMD,
                HPAGE_PUD_ORDER => uapi::DMIRROR_PROT_PUD,
                _ => 0,
            };
            place | access | size
        }
    };
    bits as u8
}
