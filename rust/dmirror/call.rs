// SPDX-License-Identifier: GPL-2.0

//! A command on a range of a process's memory, and what it works with.

use core::ops::Range;

use emu::{fault::FaultBuffer, sched, trace::Cause, view::View};
use hmm::migrate::MigrateBuffer;
use kernel::{
    alloc::{flags::GFP_KERNEL_ACCOUNT, KVVec},
    mm::MmWithUser,
    page::PAGE_SIZE,
    prelude::*,
};

use crate::{
    config::{BOUNCE_PAGES, WINDOW_PAGES},
    device::DeviceMemory,
    request::{self, UserRange},
};

/// What one step of a command works with.
pub(crate) struct Buffers {
    /// The page frame numbers of a migration.
    pub(crate) migrate: MigrateBuffer,
    /// What a device fault or a look at the page tables needs.
    pub(crate) fault: FaultBuffer,
    /// [`BOUNCE_PAGES`] pages on their way to or from user space.
    pub(crate) bounce: KVVec<u8>,
}

impl Buffers {
    /// Makes buffers. May sleep.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            migrate: MigrateBuffer::new(WINDOW_PAGES)?,
            fault: FaultBuffer::new()?,
            bounce: KVVec::from_elem(0, BOUNCE_PAGES * PAGE_SIZE, GFP_KERNEL_ACCOUNT)?,
        })
    }
}

/// How many of those an open file keeps: for as many commands at a time.
const MOST_IDLE: usize = 4;

/// Buffers that wait for the next commands, so that these need not allocate. In boxes, because they
/// go from hand to hand and are large.
#[derive(Default)]
pub(crate) struct IdleBuffers([Option<KBox<Buffers>>; MOST_IDLE]);

impl IdleBuffers {
    pub(crate) fn take(&mut self) -> Option<KBox<Buffers>> {
        self.0.iter_mut().find_map(Option::take)
    }

    /// Keeps buffers, or returns them for the caller to free.
    pub(crate) fn keep(&mut self, buffers: KBox<Buffers>) -> Option<KBox<Buffers>> {
        match self.0.iter_mut().find(|kept| kept.is_none()) {
            Some(room) => room.replace(buffers),
            None => Some(buffers),
        }
    }
}

/// What a command has done so far, for the caller to see.
#[derive(Default)]
pub(crate) struct Counts {
    /// Pages moved, copied or looked at.
    pub(crate) cpages: u64,
    /// Rounds of device faults.
    pub(crate) faults: u64,
    /// Pages that moved to the device, for statistics.
    pub(crate) moved_out: u64,
    /// Pages that moved back, for statistics.
    pub(crate) moved_back: u64,
}

/// A command on a range of the process's memory, and what it works with.
pub(crate) struct Call<'c> {
    pub(crate) view: &'c View<DeviceMemory>,
    pub(crate) mm: &'c MmWithUser,
    pub(crate) user_range: UserRange,
    pub(crate) buffers: &'c mut Buffers,
    pub(crate) counts: &'c mut Counts,
    /// Why pages move.
    pub(crate) cause: Cause,
}

impl Call<'_> {
    /// The addresses, in bytes, the end exclusive.
    pub(crate) fn range(&self) -> Range<usize> {
        self.user_range.start()..self.user_range.end()
    }
}

/// The part of a range that the step from address `at` on is for: up to the next address that an
/// entry for [`WINDOW_PAGES`] pages begins at.
pub(crate) fn window_at(at: usize, end: usize) -> Range<usize> {
    request::window_at(at, end, WINDOW_PAGES * PAGE_SIZE)
}

/// Lets others run between steps, and stops when the task was killed.
pub(crate) fn resched_or_eintr() -> Result {
    sched::cond_resched();
    if sched::fatal_signal_pending() {
        return Err(EINTR);
    }
    Ok(())
}
