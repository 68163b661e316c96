// SPDX-License-Identifier: GPL-2.0

//! The device reads and writes memory of the process, through its own page table.
//!
//! What is copied to or from user space goes through the bounce buffer, so that no lock is held
//! while user memory is accessed.

use core::{cell::Cell, ops::Range};

use emu::view::{Access, ViewGuard};
use hmm::{
    memremap::{HPAGE_PMD_NR, HPAGE_PMD_ORDER, HPAGE_PUD_ORDER},
    range::{MappedPage, PagePlace, PageView, Timeout},
};
use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    time::{Instant, Monotonic},
    uaccess::{UserPtr, UserSlice},
};

use crate::{
    alloc::BLOCK_PAGES,
    call::{resched_or_eintr, window_at, Buffers, Call},
    config::{ACCESS_TIMEOUT_MS, BOUNCE_PAGES, FAULT_PAGES},
    device::DeviceMemory,
    uapi,
};

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
        let request = AccessRequest {
            range: at..part.end,
            ahead: part.end,
            copy: Copy::Read,
            timeout,
        };
        let bytes = access(call, request)? * PAGE_SIZE;
        let to = out.wrapping_byte_add(at - part.start);
        UserSlice::new(to, bytes)
            .writer()
            .write_slice(&call.buffers.bounce[..bytes])?;
        call.counts.cpages += (bytes / PAGE_SIZE) as u64;
        at += bytes;
        resched_or_eintr()?;
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
            let request = AccessRequest {
                range: at..end,
                ahead: range.end,
                copy: Copy::Write { skip: at - chunk },
                timeout: Timeout::Bounded,
            };
            let npages = access(call, request)?;
            call.counts.cpages += npages as u64;
            at += npages * PAGE_SIZE;
            resched_or_eintr()?;
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
        resched_or_eintr()?;
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
        resched_or_eintr()?;
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
        resched_or_eintr()?;
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
        resched_or_eintr()?;
    }
    Ok(())
}

/// What the device is to access.
struct AccessRequest {
    range: Range<usize>,
    /// How far a round of faults goes, because the access will get there.
    ahead: usize,
    copy: Copy,
    timeout: Timeout,
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
fn access(call: &mut Call<'_>, request: AccessRequest) -> Result<usize> {
    let AccessRequest { range, copy, .. } = &request;
    let npages = copy_mapped(&call.view.lock(), &mut call.buffers.bounce, range, *copy);
    if npages > 0 {
        return Ok(npages);
    }
    call.counts.faults += 1;
    let first = window_at(range.start, request.end());
    let (npages, is_whole) = fault_first(call, &request, first.clone())?;
    if is_whole {
        fault_ahead(call, &request, first.end, npages)?;
    }
    Ok(npages)
}

/// Faults in the window that the range begins in, and copies what is mapped at its start then.
/// Returns the number of pages, and whether all of the window was faulted in.
fn fault_first(
    call: &mut Call<'_>,
    request: &AccessRequest,
    window: Range<usize>,
) -> Result<(usize, bool)> {
    let at = window.start;
    match fault(call, request, window) {
        (npages, Ok(())) => Ok((npages, true)),
        // What was accessed counts, and is not accessed again.
        (npages, Err(_)) if npages > 0 => Ok((npages, false)),
        (_, Err(error @ (EBUSY | EINTR))) => Err(error),
        // The first page alone decides: so everything before the page that is the reason is
        // accessed.
        (_, Err(_)) => match fault(call, request, at..at + PAGE_SIZE) {
            (0, Err(error)) => Err(error),
            (npages, _) => Ok((npages, false)),
        },
    }
}

/// Faults in the windows from `at` on, because the access will get there. What keeps one from being
/// mapped is found then. `npages` were copied already.
fn fault_ahead(
    call: &mut Call<'_>,
    request: &AccessRequest,
    mut at: usize,
    npages: usize,
) -> Result {
    while at < request.end() {
        match resched_or_eintr() {
            Err(_) if npages > 0 => break,
            paused => paused?,
        }
        let window = window_at(at, request.end());
        at = window.end;
        if fault(call, request, window).1.is_err() {
            break;
        }
    }
    Ok(())
}

/// Faults in a window; where it is the one that the range begins in, copies what is mapped at its
/// start then. Returns the number of pages that were copied.
fn fault(call: &mut Call<'_>, request: &AccessRequest, window: Range<usize>) -> (usize, Result) {
    let AccessRequest {
        range,
        copy,
        timeout,
        ..
    } = request;
    let access = match copy {
        Copy::Read => Access::Read,
        Copy::Write { .. } => Access::Write,
    };
    let Buffers { fault, bounce, .. } = &mut *call.buffers;
    let is_first = window.start == range.start;
    let copied = Cell::new(0);
    let faulted = call
        .view
        .fault(call.mm, window, access, *timeout, fault, |guard| {
            if is_first {
                copied.set(copy_mapped(guard, bounce, range, *copy));
            }
        });
    (copied.get(), faulted)
}

impl AccessRequest {
    /// Returns where a round of faults ends.
    fn end(&self) -> usize {
        self.ahead.min(self.range.start + FAULT_PAGES * PAGE_SIZE)
    }
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
