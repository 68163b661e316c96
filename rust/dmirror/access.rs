// SPDX-License-Identifier: GPL-2.0

//! Reads and writes of process memory by the device, through its own page table.
//!
//! If user memory is present, it is copied directly from or to the pages that the device maps, with
//! page faults disabled, since the update lock is held. Otherwise, the copy goes through the bounce
//! buffer, so that no lock is held while user memory is faulted in.

use core::{cell::Cell, ops::Range};

use emu::{
    device::DeviceOps,
    trace,
    uaccess::fault_in_readable,
    view::{Access, ViewGuard, ViewPages},
};
use hmm::{memremap::HPAGE_PMD_NR, range::Timeout};
use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    time::{Instant, Monotonic},
    uaccess::{UserPtr, UserSlice},
};

use crate::{
    call::{resched_or_eintr, window_at, Buffers, Call},
    config::{ACCESS_TIMEOUT_MS, BOUNCE_PAGES, FAULT_PAGES, HOLD_PAGES},
    device::DeviceMemory,
    pages::BLOCK_PAGES,
};

/// Copies the range to `out`, as the device sees it.
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

/// Does the same as [`read`], for a part of the range; `out` is the destination of that part.
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
        let to = out.wrapping_byte_add(at - part.start);
        let request = AccessRequest {
            range: at..part.end,
            ahead: part.end,
            copy: Copy::Read { to },
            timeout,
        };
        let copied = access(call, request)?;
        let bytes = copied.npages * PAGE_SIZE;
        if copied.is_bounced {
            UserSlice::new(to, bytes)
                .writer()
                .write_slice(&call.buffers.bounce[..bytes])?;
        }
        call.counts.cpages += copied.npages as u64;
        at += bytes;
        resched_or_eintr()?;
    }
    Ok(())
}

/// Makes the device write the data at `data` to the range.
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
        progress.check(at)?;
        let from = data.wrapping_byte_add(at - range.start);
        let chunk = at..range.end.min(at + HOLD_PAGES * PAGE_SIZE);
        // Data that can be read now is very likely still present when it is copied.
        let written = if fault_in_readable(from, chunk.len()) {
            let request = AccessRequest {
                range: chunk,
                ahead: range.end,
                copy: Copy::Write { from },
                timeout: Timeout::Bounded,
            };
            access(call, request)?.npages
        } else {
            0
        };
        call.counts.cpages += written as u64;
        at += written * PAGE_SIZE;
        if written == 0 {
            at = write_bounced(call, window_at(at, range.end), from, range.end)?;
        }
        resched_or_eintr()?;
    }
    Ok(())
}

/// Makes the device write the data at `from` to the start of a range, through the bounce buffer;
/// returns the address where it stopped. A round of faults extends to `ahead`.
fn write_bounced(
    call: &mut Call<'_>,
    range: Range<usize>,
    from: UserPtr,
    ahead: usize,
) -> Result<usize> {
    let end = range.end.min(range.start + BOUNCE_PAGES * PAGE_SIZE);
    UserSlice::new(from, end - range.start)
        .reader()
        .read_slice(&mut call.buffers.bounce[..end - range.start])?;
    let mut progress = Progress::new(range.start, Timeout::Bounded);
    let mut at = range.start;
    while at < end {
        progress.check(at)?;
        let request = AccessRequest {
            range: at..end,
            ahead,
            copy: Copy::WriteBounced {
                skip: at - range.start,
            },
            timeout: Timeout::Bounded,
        };
        let npages = access(call, request)?.npages;
        call.counts.cpages += npages as u64;
        at += npages * PAGE_SIZE;
        resched_or_eintr()?;
    }
    Ok(end)
}

/// Gives the device exclusive access to the pages of the range, and copies their content to `out`.
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
        trace::Exclusive::emit(|| trace::Exclusive {
            device: call.view.pagemap().ops().number(),
            range: window.clone(),
            made: npages,
            error: made.err(),
        });
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

/// Makes the pages of a window exclusive, one after the other, and copies them to the bounce
/// buffer.
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
                // A CPU that wants the page may have it now.
                Some((copied, page)) => {
                    drop(page);
                    copied?;
                }
                // Another task has changed the page tables: begin again with a new pending map.
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

/// Checks that the device has exclusive access to no page of the range.
///
/// May sleep.
///
/// # Errors
///
/// [`EPERM`] if it has exclusive access to one; [`EINTR`].
pub(crate) fn check_exclusive(call: &mut Call<'_>) -> Result {
    let range = call.range();
    let mut at = range.start;
    while at < range.end {
        let guard = call.view.lock();
        // Work in steps, so that the lock is not held for long.
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

/// An access that the device is to perform.
struct AccessRequest {
    range: Range<usize>,
    /// The end of a round of faults, which the access will reach later.
    ahead: usize,
    copy: Copy,
    timeout: Timeout,
}

/// The direction of a copy.
#[derive(Clone, Copy)]
enum Copy {
    /// To user memory, or to the start of the bounce buffer if user memory is not present.
    Read { to: UserPtr },
    /// From user memory, as far as it is present.
    Write { from: UserPtr },
    /// From the bounce buffer, that many bytes after its start.
    WriteBounced { skip: usize },
}

/// The result of a copy from the start of a range.
#[derive(Clone, Copy, Default)]
struct Copied {
    npages: usize,
    /// Set if the data is in the bounce buffer, on its way to user memory.
    is_bounced: bool,
}

/// Copies the mapped pages at the start of a range, after a round of faults if none is mapped
/// there. May copy less than the whole range, or nothing.
fn access(call: &mut Call<'_>, request: AccessRequest) -> Result<Copied> {
    let AccessRequest { range, copy, .. } = &request;
    let copied = copy_mapped(&call.view.lock(), &mut call.buffers.bounce, range, *copy);
    if copied.npages > 0 {
        return Ok(copied);
    }
    call.counts.faults += 1;
    let first = window_at(range.start, request.end());
    let (copied, is_whole) = fault_first(call, &request, first.clone())?;
    if is_whole {
        fault_ahead(call, &request, first.end, copied.npages)?;
    }
    Ok(copied)
}

/// Faults in the window at the start of the range, and copies the pages that are mapped at the
/// start afterwards. Returns the result of the copy, and whether the whole window was faulted in.
fn fault_first(
    call: &mut Call<'_>,
    request: &AccessRequest,
    window: Range<usize>,
) -> Result<(Copied, bool)> {
    let at = window.start;
    match fault(call, request, window) {
        (copied, Ok(())) => Ok((copied, true)),
        // Count the finished part, since it is not accessed again.
        (copied, Err(_)) if copied.npages > 0 => Ok((copied, false)),
        (_, Err(error @ (EBUSY | EINTR))) => Err(error),
        // Only the first page decides, so everything before the page that caused the error is
        // accessed.
        (_, Err(_)) => match fault(call, request, at..at + PAGE_SIZE) {
            (copied, Err(error)) if copied.npages == 0 => Err(error),
            (copied, _) => Ok((copied, false)),
        },
    }
}

/// Faults in the windows from `at` on, because the access will reach them. An error in a window is
/// ignored: the access will meet it there. `npages` were already copied.
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

/// Faults in a window. If it is the window at the start of the range, also copies the pages that
/// are mapped at the start afterwards. Returns the result of the copy.
fn fault(call: &mut Call<'_>, request: &AccessRequest, window: Range<usize>) -> (Copied, Result) {
    let AccessRequest {
        range,
        copy,
        timeout,
        ..
    } = request;
    let access = match copy {
        Copy::Read { .. } => Access::Read,
        Copy::Write { .. } | Copy::WriteBounced { .. } => Access::Write,
    };
    let Buffers { fault, bounce, .. } = &mut *call.buffers;
    let is_first = window.start == range.start;
    let copied = Cell::new(Copied::default());
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
    /// Returns the end of a round of faults.
    fn end(&self) -> usize {
        self.ahead.min(self.range.start + FAULT_PAGES * PAGE_SIZE)
    }
}

/// Copies the mapped pages at the start of a range, up to the first page that the device does not
/// map, or may not write to.
fn copy_mapped(
    guard: &ViewGuard<'_, DeviceMemory>,
    bounce: &mut [u8],
    range: &Range<usize>,
    copy: Copy,
) -> Copied {
    let (npages, is_bounced) = match copy {
        Copy::Read { to } => {
            match copy_runs(guard, range, |run, at| {
                run.copy_to_user(to.wrapping_byte_add(at))
            }) {
                // The user buffer may not be present.
                0 => (copy_bounced(guard, bounce, range), true),
                npages => (npages, false),
            }
        }
        Copy::Write { from } => {
            let npages = copy_runs(guard, range, |run, at| {
                run.copy_from_user(from.wrapping_byte_add(at))
            });
            (npages, false)
        }
        Copy::WriteBounced { skip } => {
            let npages = copy_runs(guard, range, |run, at| {
                run.write(0, &bounce[skip + at..skip + at + PAGE_SIZE])?;
                Ok(1)
            });
            (npages, false)
        }
    };
    Copied { npages, is_bounced }
}

/// Copies the mapped pages at the start of a range to the bounce buffer; returns their number.
fn copy_bounced(
    guard: &ViewGuard<'_, DeviceMemory>,
    bounce: &mut [u8],
    range: &Range<usize>,
) -> usize {
    copy_runs(guard, range, |run, at| {
        run.read(0, &mut bounce[at..at + PAGE_SIZE])?;
        Ok(1)
    })
}

/// Calls `copy` for runs of mapped pages at the start of a range, for at most [`HOLD_PAGES`] pages.
/// `copy` gets the number of bytes before the run, and returns the number of its pages that it has
/// copied; it is called again unless it returned 0. Returns the number of copied pages.
fn copy_runs(
    guard: &ViewGuard<'_, DeviceMemory>,
    range: &Range<usize>,
    mut copy: impl FnMut(&ViewPages<'_, DeviceMemory>, usize) -> Result<usize>,
) -> usize {
    let npages = (range.len() / PAGE_SIZE).min(HOLD_PAGES);
    let mut used = None;
    let mut done = 0;
    while done < npages {
        let before = done;
        for run in guard.runs(range.start + done * PAGE_SIZE, npages - done) {
            let copied = copy(&run, done * PAGE_SIZE).unwrap_or(0);
            if copied == 0 {
                return done;
            }
            done += copied;
            // Pages that the device uses should not be evicted first.
            let block = run.device_index().map(|index| index / BLOCK_PAGES);
            if let Some(block) = block.filter(|_| block != used) {
                run.pagemap().ops().pool().touch(block);
                used = Some(block);
            }
            if copied < run.npages() {
                break;
            }
        }
        if done == before {
            break;
        }
    }
    done
}

/// A time limit for an access that makes no progress.
struct Progress {
    timeout: Timeout,
    at: usize,
    /// The time of the second try of the access; most are tried only once.
    since: Option<Instant<Monotonic>>,
}

impl Progress {
    fn new(at: usize, timeout: Timeout) -> Self {
        Self {
            timeout,
            at,
            since: None,
        }
    }

    /// Checks that the access may try again at an address. Call it before each such try.
    fn check(&mut self, at: usize) -> Result {
        if at != self.at {
            *self = Self::new(at, self.timeout);
            return Ok(());
        }
        let since = self.since.get_or_insert_with(Instant::now);
        let over = since.elapsed().as_millis() > ACCESS_TIMEOUT_MS;
        if self.timeout == Timeout::Bounded && over {
            return Err(EBUSY);
        }
        Ok(())
    }
}
