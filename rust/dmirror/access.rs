// SPDX-License-Identifier: GPL-2.0

//! The device reads and writes memory of the process, through its own page table.
//!
//! What is copied to or from user space goes through the bounce buffer, so that no lock is held
//! while user memory is accessed.

use core::ops::Range;

use hmm::Access;
use hmm::PagePlace;
use hmm::PageView;
use hmm::Patience;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::time::Instant;
use kernel::time::Monotonic;
use kernel::uaccess::UserPtr;
use kernel::uaccess::UserSlice;

use crate::config::ACCESS_TIMEOUT_MS;
use crate::config::BOUNCE_PAGES;
use crate::config::FAULT_PAGES;
use crate::file::pause_for_others;
use crate::file::window_at;
use crate::file::Call;
use crate::uapi;

/// Hands out the range as the device sees it.
///
/// May sleep.
///
/// # Errors
///
/// As `rust/uapi/dmirror.h` lists them for `READ`.
pub(crate) fn read(call: &mut Call<'_>, out: UserPtr, patience: Patience) -> Result {
    let range = call.range();
    read_part(call, range, out, patience)
}

/// As [`read`], for a part of the range; `out` is where that part goes.
pub(crate) fn read_part(
    call: &mut Call<'_>,
    part: Range<usize>,
    out: UserPtr,
    patience: Patience,
) -> Result {
    let mut progress = Progress::new(part.start, patience);
    let mut at = part.start;
    while at < part.end {
        let npages = copy_mapped(call, at..part.end, Direction::Read);
        if npages > 0 {
            let to = out.wrapping_byte_add(at - part.start);
            let bytes = npages * PAGE_SIZE;
            UserSlice::new(to, bytes)
                .writer()
                .write_slice(&call.buffers.bounce[..bytes])?;
            call.counts.cpages += npages as u64;
            at += bytes;
        } else {
            progress.check(at)?;
            fault(call, at..part.end, Access::Read, patience)?;
        }
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
    let mut progress = Progress::new(range.start, Patience::Bounded);
    let mut at = range.start;
    while at < range.end {
        let end = range.end.min(at + BOUNCE_PAGES * PAGE_SIZE);
        let from = data.wrapping_byte_add(at - range.start);
        UserSlice::new(from, end - at)
            .reader()
            .read_slice(&mut call.buffers.bounce[..end - at])?;
        let chunk = at;
        while at < end {
            let npages = copy_mapped(call, at..end, Direction::Write { skip: at - chunk });
            call.counts.cpages += npages as u64;
            at += npages * PAGE_SIZE;
            if npages == 0 {
                progress.check(at)?;
                fault(call, at..range.end, Access::Write, Patience::Bounded)?;
            }
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
        call.mirror
            .snapshot(call.mm, window.clone(), &mut call.buffers.range, |view| {
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
    let mut progress = Progress::new(window.start, Patience::Bounded);
    let mut at = window.start;
    while at < window.end {
        progress.check(at)?;
        let mut claim = call.mirror.claim(at..window.end)?;
        let mmap = call.mm.mmap_read_lock();
        while at < window.end {
            let bytes = &mut call.buffers.bounce[*npages * PAGE_SIZE..(*npages + 1) * PAGE_SIZE];
            let copied = claim.make_exclusive(call.mm, &mmap, at, |guard| {
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
        drop(claim);
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
        let guard = call.mirror.lock();
        // In steps, so that the lock is not held for long.
        for _ in 0..hmm::BLOCK_PAGES {
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

/// Which way [`copy_mapped`] copies.
enum Direction {
    /// To the start of the bounce buffer.
    Read,
    /// From the bounce buffer, so many bytes after its start.
    Write { skip: usize },
}

/// Copies what is mapped at the start of the range; returns the number of pages, which ends where
/// the device has no page mapped, or may not write to it, or the bounce buffer ends.
fn copy_mapped(call: &mut Call<'_>, range: Range<usize>, direction: Direction) -> usize {
    let guard = call.mirror.lock();
    let bounce = &mut call.buffers.bounce;
    for nth in 0..range.len().div_ceil(PAGE_SIZE).min(BOUNCE_PAGES) {
        let Some(page) = guard.page(range.start + nth * PAGE_SIZE) else {
            return nth;
        };
        let offset = nth * PAGE_SIZE;
        let copied = match direction {
            Direction::Read => page.read(0, &mut bounce[offset..offset + PAGE_SIZE]),
            Direction::Write { skip } => {
                let offset = offset + skip;
                page.write(0, &bounce[offset..offset + PAGE_SIZE])
            }
        };
        if copied.is_err() {
            return nth;
        }
    }
    range.len().div_ceil(PAGE_SIZE).min(BOUNCE_PAGES)
}

/// A round of device faults: for the range, or as much of it as one round is for. Returns once the
/// start of the range was mapped; what keeps a later part from being mapped is found when the
/// access gets there.
fn fault(call: &mut Call<'_>, range: Range<usize>, access: Access, patience: Patience) -> Result {
    call.counts.faults += 1;
    let end = range.end.min(range.start + FAULT_PAGES * PAGE_SIZE);
    let mut at = range.start;
    while at < end {
        let window = window_at(at, end);
        let buffer = &mut call.buffers.range;
        let result = call
            .mirror
            .fault(call.mm, window.clone(), access, patience, buffer);
        match result {
            Ok(()) => at = window.end,
            Err(_) if at > range.start => return Ok(()),
            Err(error @ (EBUSY | EINTR)) => return Err(error),
            // The first page alone decides: so everything before the page that is the reason is
            // accessed.
            Err(_) => {
                let first = at..at + PAGE_SIZE;
                return call.mirror.fault(call.mm, first, access, patience, buffer);
            }
        }
        pause_for_others()?;
    }
    Ok(())
}

/// Sees to it that an access which gets nowhere ends.
struct Progress {
    patience: Patience,
    at: usize,
    since: Instant<Monotonic>,
}

impl Progress {
    fn new(at: usize, patience: Patience) -> Self {
        Self {
            patience,
            at,
            since: Instant::now(),
        }
    }

    /// Called before another try at an address.
    fn check(&mut self, at: usize) -> Result {
        if at != self.at {
            *self = Self::new(at, self.patience);
        }
        let over = self.since.elapsed().as_millis() > ACCESS_TIMEOUT_MS;
        if self.patience == Patience::Bounded && over {
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
        PageView::Mapped {
            place,
            writable,
            order,
        } => {
            let place = match place {
                PagePlace::System => uapi::DMIRROR_PROT_NONE,
                PagePlace::Zero => uapi::DMIRROR_PROT_ZERO,
                PagePlace::PrivateLocal => uapi::DMIRROR_PROT_DEV_PRIVATE_LOCAL,
                PagePlace::PrivateRemote => uapi::DMIRROR_PROT_DEV_PRIVATE_REMOTE,
                PagePlace::CoherentLocal => uapi::DMIRROR_PROT_DEV_COHERENT_LOCAL,
                PagePlace::CoherentRemote => uapi::DMIRROR_PROT_DEV_COHERENT_REMOTE,
            };
            let access = if writable {
                uapi::DMIRROR_PROT_WRITE
            } else {
                uapi::DMIRROR_PROT_READ
            };
            let size = match order {
                hmm::PMD_ORDER => uapi::DMIRROR_PROT_PMD,
                hmm::PUD_ORDER => uapi::DMIRROR_PROT_PUD,
                _ => 0,
            };
            place | access | size
        }
    };
    bits as u8
}
