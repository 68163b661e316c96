// SPDX-License-Identifier: GPL-2.0

//! Snapshots of how a process maps memory, and where the memory is, for user space.

use emu::uaccess::write_slice;
use hmm::{
    memremap::{HPAGE_PMD_ORDER, HPAGE_PUD_ORDER},
    range::{MappedPage, PagePlace, PageView},
};
use kernel::{page::PAGE_SIZE, prelude::*, uaccess::UserPtr};

use crate::{
    call::{resched_or_eintr, window_at, Call},
    uapi,
};

/// Copies to `out` how each page of the range is mapped and where it is, one byte per page.
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
        write_slice(to, &call.buffers.bounce[..npages])?;
        call.counts.cpages += npages as u64;
        at = window.end;
        resched_or_eintr()?;
    }
    Ok(())
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
