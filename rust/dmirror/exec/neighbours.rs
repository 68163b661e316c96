// SPDX-License-Identifier: GPL-2.0

//! The pages that may move together with a page that an engine misses.

use core::ops::Range;

use hmm::{memremap::HPAGE_PMD_NR, vma::LockedVma};
use kernel::{mm::MmWithUser, page::PAGE_SHIFT};

use crate::{
    call::Buffers,
    client::Client,
    migrate,
    policy::{self, Setting},
};

/// Returns the page numbers of the VMA that contains a page, limited to those with the same advice
/// (`same`, in bytes), if they may be of a kind that can move.
pub(super) fn movable_bounds(
    users: &MmWithUser,
    page: usize,
    same: &Range<usize>,
) -> Option<Range<usize>> {
    let mmap = users.mmap_read_lock();
    let vma = LockedVma::lookup(&mmap, page << PAGE_SHIFT)?;
    let (start, end) = (vma.start().max(same.start), vma.end().min(same.end));
    let bounds = start >> PAGE_SHIFT..end >> PAGE_SHIFT;
    let may_move = vma.may_have_anonymous_pages() && !vma.never_migrates();
    may_move.then_some(bounds)
}

/// Returns a granule, extended by the pages that are to move together with it.
pub(super) fn with_dense_rest(
    client: &Client,
    buffers: &mut Buffers,
    users: &MmWithUser,
    part: Range<usize>,
    bounds: &Range<usize>,
) -> Range<usize> {
    let memory = client.device().pagemap().ops();
    let percent = memory.setting(Setting::Prefetch);
    if percent == 0 || part.len() >= HPAGE_PMD_NR {
        return part;
    }
    let block = part.start & !(HPAGE_PMD_NR - 1);
    let inside = bounds.start.max(block)..bounds.end.min(block + HPAGE_PMD_NR);
    let bytes = inside.start << PAGE_SHIFT..inside.end << PAGE_SHIFT;
    let Ok(there) = migrate::on_device(client.view(), users, bytes, &mut buffers.fault) else {
        return part;
    };
    let relative = |range: &Range<usize>| range.start - block..range.end - block;
    let is_there = |nth: usize| there.contains(nth + block - inside.start);
    let (missed, inside_block) = (relative(&part), relative(&inside));
    let dense = policy::dense_part(missed, &inside_block, HPAGE_PMD_NR, percent, is_there);
    let whole = dense.start + block..dense.end + block;
    // Pages that are pinned where they are must not move along with a neighbour.
    let is_pinned = client.thrashing.lock().is_pinned(&whole, memory.now_ns());
    if is_pinned {
        part
    } else {
        whole
    }
}
