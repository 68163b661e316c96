// SPDX-License-Identifier: GPL-2.0

//! Memory accesses of an engine: through the page table of its device, with faults for pages that
//! are missing there.

use core::ops::Range;

use emu::{
    kthread::clear_interrupt,
    memcg::charge_to,
    sched::{cond_resched, fatal_signal_pending},
    view::{Access, ViewGuard},
};
use hmm::{range::Timeout, vma::task_size};
use kernel::{mm::MmWithUser, page::PAGE_SIZE, prelude::*, sync::aref::ARef};

use super::{service::moves, Execution, Pages, Part, Patience, Stop};
use crate::{
    call::{window_at, Buffers},
    client::Client,
    config::BOUNCE_PAGES,
    device::DeviceMemory,
    faults::LANES,
    packet::WORD,
    pages::BLOCK_PAGES,
    policy::Setting,
    queue::AccessKind,
};

impl Execution<'_> {
    pub(super) fn read_word(&mut self, at: u64) -> Result<u64, Stop> {
        let mut word = 0;
        self.on_pages(at..at + WORD, AccessKind::Read, |page, part, _| {
            word = page.read_word(part.offset)?;
            Ok(())
        })?;
        Ok(word)
    }

    pub(super) fn write_word(&mut self, at: u64, value: u64) -> Result<(), Stop> {
        self.on_pages(at..at + WORD, AccessKind::Write, |page, part, _| {
            page.write_word(part.offset, value)
        })
    }

    /// Accesses a range through the page table of the device, page by page. `access` gets each page
    /// with the part of it to access, and the bounce buffer.
    pub(super) fn on_pages(
        &mut self,
        range: Range<u64>,
        kind: AccessKind,
        mut access: impl FnMut(&Pages<'_>, Part, &mut [u8]) -> Result,
    ) -> Result<(), Stop> {
        let mut at = range.start;
        let mut patience = Patience::default();
        while at < range.end {
            self.check()?;
            let mut done = access_mapped(
                self.client,
                &self.client.view().lock(),
                &range,
                at,
                kind,
                &mut self.buffers.bounce,
                &mut access,
            )?;
            if done == 0 {
                self.service(&range, at, kind.into())?;
                done = self.fault(&range, at, kind, &mut patience, &mut access)?;
            }
            if done > 0 {
                patience.renew();
            }
            at += done;
            self.notice_hot_block()?;
            cond_resched();
        }
        Ok(())
    }

    /// Faults in the pages that an access needs, and performs the access as far as they are mapped
    /// then. Returns the number of bytes; 0 if the page was taken away again, or the thread was
    /// interrupted.
    fn fault(
        &mut self,
        range: &Range<u64>,
        at: u64,
        kind: AccessKind,
        patience: &mut Patience,
        access: &mut impl FnMut(&Pages<'_>, Part, &mut [u8]) -> Result,
    ) -> Result<u64, Stop> {
        let stop = |error| Stop::Access {
            error,
            access: kind,
            address: at,
        };
        let users = self.client.users().ok_or(stop(EFAULT))?;
        if at >= task_size(&users) as u64 {
            put(users);
            return Err(stop(EFAULT));
        }
        let end = range.end.min(task_size(&users) as u64);
        let page = at as usize & !(PAGE_SIZE - 1);
        // Also fault in the pages that the access will reach later, as far as they have the same
        // advice. If one of them fails, fault in only this page.
        let (advice, same) = self.client.attributes_at(page);
        let ahead_end = (end as usize).next_multiple_of(PAGE_SIZE).min(same.end);
        let mut ahead = window_at(page, ahead_end);
        // If pages are to move, map at most the pages to which the policy was applied: pages that
        // are mapped here are not missed later.
        if moves(self.client.device().pagemap().ops(), &advice, kind.into()) {
            ahead.end = ahead.end.min(page + LANES * PAGE_SIZE);
        }
        let alone = page..page + PAGE_SIZE;
        // A walk over one page is the fastest.
        if patience.is_tried() {
            ahead = alone.clone();
        }
        let (mut done, mut faulted) = self.fault_window(&users, ahead, range, at, kind, access);
        let is_over = matches!(faulted, Ok(()) | Err(EINTR | EBUSY));
        if !is_over && matches!(done, Ok(0)) {
            (done, faulted) = self.fault_window(&users, alone, range, at, kind, access);
        }
        put(users);
        match (done?, faulted) {
            // An interrupt causes other errors, too; `check()` decides whether to continue.
            (0, Err(_)) if fatal_signal_pending() => {
                clear_interrupt();
                Ok(0)
            }
            (0, Err(EBUSY)) => patience.try_again().map(|()| 0).map_err(stop),
            (0, Err(error)) => Err(stop(error)),
            (done, _) => Ok(done),
        }
    }

    fn fault_window(
        &mut self,
        users: &MmWithUser,
        window: Range<usize>,
        range: &Range<u64>,
        at: u64,
        kind: AccessKind,
        access: &mut impl FnMut(&Pages<'_>, Part, &mut [u8]) -> Result,
    ) -> (Result<u64, Stop>, Result) {
        let rights = match kind {
            AccessKind::Write | AccessKind::Atomic => Access::Write,
            AccessKind::None | AccessKind::Fetch | AccessKind::Read => Access::Read,
        };
        let Buffers { fault, bounce, .. } = &mut *self.buffers;
        let mut done = Ok(0);
        let client = self.client;
        let view = client.view();
        let faulted = charge_to(users, || {
            view.fault(users, window, rights, Timeout::Bounded, fault, |guard| {
                done = access_mapped(client, guard, range, at, kind, bounce, access);
            })
        });
        (done, faulted)
    }
}

/// Drops the users of an address space. If they are the last ones, the address space is torn down,
/// which takes locks under which others wait; so this happens in another thread.
pub(super) fn put(users: ARef<MmWithUser>) {
    drop(MmWithUser::into_mmput_async(users));
}

/// Accesses the mapped pages from `at` on, one by one, at most [`BOUNCE_PAGES`]. Returns the number
/// of bytes.
fn access_mapped(
    client: &Client,
    guard: &ViewGuard<'_, DeviceMemory>,
    range: &Range<u64>,
    at: u64,
    kind: AccessKind,
    bounce: &mut [u8],
    access: &mut impl FnMut(&Pages<'_>, Part, &mut [u8]) -> Result,
) -> Result<u64, Stop> {
    let denied = |error| Stop::Access {
        error,
        access: kind,
        address: at,
    };
    let end = client.check_access(at..range.end).map_err(denied)?;
    let mut done = 0;
    let mut used = None;
    let hot = client
        .device()
        .pagemap()
        .ops()
        .setting(Setting::AccessCounter);
    for _ in 0..BOUNCE_PAGES {
        let address = at + done;
        if address >= end {
            break;
        }
        let Some(page) = usize::try_from(address).ok().and_then(|at| guard.page(at)) else {
            break;
        };
        let is_allowed = match kind {
            AccessKind::Write => page.access() != Access::Read,
            AccessKind::Atomic => false,
            AccessKind::None | AccessKind::Fetch | AccessKind::Read => true,
        };
        if !is_allowed {
            break;
        }
        // CAST: The offset is below the size of a page.
        let offset = (address % PAGE_SIZE as u64) as usize;
        let len = (end - address).min((PAGE_SIZE - offset) as u64);
        let part = Part {
            offset,
            before: address - range.start,
            len: len as usize,
        };
        match access(&page, part, bounce) {
            Ok(()) => done += len,
            // Count the finished part, since it is not accessed again.
            Err(_) if done > 0 => break,
            Err(error) => {
                return Err(Stop::Access {
                    error,
                    access: kind,
                    address,
                })
            }
        }
        note_use(&page, &mut used);
        if hot > 0 && page.device_index().is_none() {
            client.hits.count(address as usize / PAGE_SIZE, hot);
        }
    }
    Ok(done)
}

/// Records that the device uses a page, so that its block is not evicted first.
pub(super) fn note_use(page: &Pages<'_>, used: &mut Option<usize>) {
    let block = page.device_index().map(|index| index / BLOCK_PAGES);
    if let Some(block) = block.filter(|_| block != *used) {
        page.pagemap().ops().pool().touch(block);
        *used = Some(block);
    }
}
