// SPDX-License-Identifier: GPL-2.0

//! A command on a range of a process's memory, and its buffers.

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

/// The buffers of one step of a command.
pub(crate) struct Buffers {
    /// The page frame numbers of a migration.
    pub(crate) migrate: MigrateBuffer,
    /// Buffers for a device fault, or for a walk of the page tables.
    pub(crate) fault: FaultBuffer,
    /// A bounce buffer of [`BOUNCE_PAGES`] pages, for data on the way to or from user space.
    pub(crate) bounce: KVVec<u8>,
}

impl Buffers {
    /// Allocates buffers. May sleep.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            migrate: MigrateBuffer::new(WINDOW_PAGES)?,
            fault: FaultBuffer::new()?,
            bounce: KVVec::from_elem(0, BOUNCE_PAGES * PAGE_SIZE, GFP_KERNEL_ACCOUNT)?,
        })
    }
}

/// Maximum number of unused buffers of an open file: enough for as many concurrent commands.
const MOST_IDLE: usize = 4;

/// Unused buffers for the next commands, so that those need not allocate. They are boxed, because
/// they are large and are moved around.
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

/// The progress of a command, as reported to the caller.
#[derive(Default)]
pub(crate) struct Counts {
    /// Number of pages moved, copied or looked at.
    pub(crate) cpages: u64,
    /// Number of rounds of device faults.
    pub(crate) faults: u64,
    /// Number of pages that moved to the device, for statistics.
    pub(crate) moved_out: u64,
    /// Number of pages that moved back, for statistics.
    pub(crate) moved_back: u64,
}

/// A command on a range of the process's memory, and its resources.
pub(crate) struct Call<'c> {
    pub(crate) view: &'c View<DeviceMemory>,
    pub(crate) mm: &'c MmWithUser,
    pub(crate) user_range: UserRange,
    pub(crate) buffers: &'c mut Buffers,
    pub(crate) counts: &'c mut Counts,
    /// The reason why pages move, for trace events and statistics.
    pub(crate) cause: Cause,
}

impl Call<'_> {
    /// Returns the addresses, in bytes, the end exclusive.
    pub(crate) fn range(&self) -> Range<usize> {
        self.user_range.start()..self.user_range.end()
    }
}

/// Returns the part of a range that the step from address `at` on handles: up to the next address
/// at which an entry for [`WINDOW_PAGES`] pages begins.
pub(crate) fn window_at(at: usize, end: usize) -> Range<usize> {
    request::window_at(at, end, WINDOW_PAGES * PAGE_SIZE)
}

/// Lets other tasks run between steps; fails when a fatal signal is pending.
pub(crate) fn resched_or_eintr() -> Result {
    sched::cond_resched();
    if sched::fatal_signal_pending() {
        return Err(EINTR);
    }
    Ok(())
}
