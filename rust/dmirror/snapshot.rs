// SPDX-License-Identifier: GPL-2.0

//! Snapshots of the mappings of a process and the location of its memory, for user space.

use core::ops::Range;

use emu::{uaccess::write_slice, view::View};
use hmm::{
    memremap::{HPAGE_PMD_ORDER, HPAGE_PUD_ORDER},
    range::{MappedPage, PagePlace, PageView},
};
use kernel::{mm::MmWithUser, page::PAGE_SIZE, prelude::*, uaccess::UserPtr};

use crate::{
    call::{resched_or_eintr, window_at, Call},
    device::DeviceMemory,
    request::UserRange,
    uapi,
};

/// Maximum number of pages of a snapshot that needs no allocated buffers.
const FEW: usize = 8;

/// Copies the mapping and the location of each page of `range` to `out`, one byte per page. Adds
/// the number of pages to `cpages`.
///
/// May sleep.
///
/// # Errors
///
/// As `rust/uapi/dmirror.h` lists them for `SNAPSHOT`.
pub(crate) fn snapshot(call: &mut Call<'_>, out: UserPtr) -> Result {
    let (range, cpages) = (call.range(), &mut call.counts.cpages);
    let (pfns, bytes) = (call.buffers.fault.pfns(), &mut call.buffers.bounce);
    look(call.view, call.mm, range, (pfns, bytes), out, cpages)
}

/// Returns whether [`snapshot_few`] can handle a range.
pub(crate) fn are_few(range: &UserRange) -> bool {
    range.end() - range.start() <= FEW * PAGE_SIZE
}

/// Does the same as [`snapshot`] for a few pages, without the buffers of a command.
pub(crate) fn snapshot_few(
    view: &View<DeviceMemory>,
    mm: &MmWithUser,
    range: UserRange,
    out: UserPtr,
    cpages: &mut u64,
) -> Result {
    let (mut pfns, mut bytes) = ([0; FEW], [0; FEW]);
    let range = range.start()..range.end();
    look(view, mm, range, (&mut pfns, &mut bytes), out, cpages)
}

fn look(
    view: &View<DeviceMemory>,
    mm: &MmWithUser,
    range: Range<usize>,
    (pfns, bytes): (&mut [usize], &mut [u8]),
    out: UserPtr,
    cpages: &mut u64,
) -> Result {
    let mut at = range.start;
    loop {
        let window = window_at(at, range.end);
        let mut npages = 0;
        view.snapshot(mm, window.clone(), pfns, |view| {
            bytes[npages] = prot(view);
            npages += 1;
        })?;
        let to = out.wrapping_byte_add((at - range.start) / PAGE_SIZE);
        write_slice(to, &bytes[..npages])?;
        *cpages += npages as u64;
        at = window.end;
        if at >= range.end {
            return Ok(());
        }
        resched_or_eintr()?;
    }
}

/// Returns the byte that user space gets for a page.
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
