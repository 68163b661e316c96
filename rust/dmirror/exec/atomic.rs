// SPDX-License-Identifier: GPL-2.0

//! Atomic operations of an engine.
//!
//! No CPU may come in between the two halves of one. So the device makes them on a page that it has
//! in memory of its own, which no CPU reaches; else on one to which it has exclusive access; and on
//! a page of a file, of which neither can be had, by a bus that CPUs respect. Either of the first
//! two can be taken from it at any time, but not in the midst of an operation, since that takes the
//! update lock.

use core::ops::Range;

use emu::{
    kthread::clear_interrupt,
    memcg::charge_to,
    sched::{cond_resched, fatal_signal_pending},
    view::{Access, ViewGuard, Word},
};
use hmm::{exclusive::ExclusivePage, memremap::Kind, range::Timeout, vma::task_size};
use kernel::{mm::MmWithUser, page::PAGE_SIZE, prelude::*};

use super::{
    memory::{note_use, put},
    Execution, Patience, Stop,
};
use crate::{
    attributes,
    client::Client,
    config::BOUNCE_PAGES,
    device::DeviceMemory,
    faults::Reason,
    packet::AtomicOp,
    policy::{Setting, MAX_TIMESLICE_US},
    queue::AccessKind,
};

/// Atomic operations on one word.
struct Operations<'c> {
    client: &'c Client,
    at: u64,
    op: AtomicOp,
    /// How many are left to be made.
    left: u64,
    /// What the last has found.
    found: u64,
}

/// How a device makes atomic operations.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Atomics {
    /// On a page that no CPU reaches meanwhile.
    OnPage,
    /// By a bus that CPUs respect.
    OnBus,
}

impl Operations<'_> {
    /// The bytes of the word.
    fn range(&self) -> Range<u64> {
        let size = if self.op.is_64 {
            Word::Eight
        } else {
            Word::Four
        };
        self.at..self.at + size.bytes() as u64
    }

    /// Makes some of the operations, if the device can make them here: so few that a CPU that wants
    /// the page does not wait for long. Returns whether it could.
    fn make(&mut self, guard: &ViewGuard<'_, DeviceMemory>, atomics: Atomics) -> Result<bool> {
        self.client.check_access(self.range())?;
        let (advice, _) = self.client.attributes_at(self.at as usize);
        if advice.atomics == attributes::Atomics::Denied {
            return Err(EACCES);
        }
        let Some(page) = usize::try_from(self.at).ok().and_then(|at| guard.page(at)) else {
            return Ok(false);
        };
        let is_own = page.device_index().is_some() && page.pagemap().kind() == Kind::Private;
        let is_alone = match page.access() {
            Access::Read => return Ok(false),
            Access::Write => is_own,
            Access::Exclusive => true,
        };
        if !is_alone && atomics == Atomics::OnPage {
            return Ok(false);
        }
        // CAST: Below the size of a page.
        let offset = (self.at % PAGE_SIZE as u64) as usize;
        let size = if self.op.is_64 {
            Word::Eight
        } else {
            Word::Four
        };
        let op = self.op;
        for _ in 0..self.left.min(BOUNCE_PAGES as u64) {
            self.found = if is_alone {
                page.read_modify_write(offset, size, |word| op.apply(word))?
            } else {
                page.bus_atomic(offset, size, |word| op.apply(word))?
            };
            self.left -= 1;
        }
        note_use(&page, &mut None);
        Ok(true)
    }
}

impl Execution<'_> {
    /// Makes atomic operations on a word, at least one, and returns what the last of them found.
    pub(super) fn atomic(&mut self, at: u64, op: AtomicOp, times: u64) -> Result<u64, Stop> {
        let stop = |error| Stop::Access {
            error,
            access: AccessKind::Atomic,
            address: at,
        };
        let mut operations = Operations {
            client: self.client,
            at,
            op,
            left: times,
            found: 0,
        };
        let mut patience = Patience::default();
        while operations.left > 0 {
            self.check()?;
            let left = operations.left;
            let made = operations.make(&self.client.view().lock(), Atomics::OnPage);
            if !made.map_err(stop)? {
                self.service(&operations.range(), at, Reason::Atomic)?;
                match self.make_after_fault(&mut operations) {
                    // The page did not hold still.
                    Err(EBUSY) => patience.try_again().map_err(stop)?,
                    made => made.map_err(stop)?,
                }
            }
            if operations.left < left {
                patience.renew();
            }
            cond_resched();
        }
        Ok(operations.found)
    }

    /// Makes operations on a word that the device cannot make them on yet. It may be that none is
    /// made.
    fn make_after_fault(&mut self, operations: &mut Operations<'_>) -> Result {
        let users = self.client.users().ok_or(EFAULT)?;
        let result = if operations.at < task_size(&users) as u64 {
            charge_to(&users, || self.fault_and_make(&users, operations))
        } else {
            Err(EFAULT)
        };
        put(users);
        match result {
            // Others were faster.
            Err(EAGAIN) => Ok(()),
            // `check()` knows whether to go on.
            Err(_) if fatal_signal_pending() => {
                clear_interrupt();
                Ok(())
            }
            result => result,
        }
    }

    fn fault_and_make(&mut self, users: &MmWithUser, operations: &mut Operations<'_>) -> Result {
        let page = operations.at as usize & !(PAGE_SIZE - 1);
        let window = page..page + PAGE_SIZE;
        let view = self.client.view();
        // Where it is in the memory of the device, it can stay.
        let mut made = Ok(false);
        view.fault(
            users,
            window.clone(),
            Access::Write,
            Timeout::Bounded,
            &mut self.buffers.fault,
            |guard| made = operations.make(guard, Atomics::OnPage),
        )?;
        if made? {
            return Ok(());
        }
        let mut pending = view.pending_map(window)?;
        let mmap = users.mmap_read_lock();
        let exclusive = pending.make_exclusive(users, &mmap, page, |guard| {
            operations.make(guard, Atomics::OnPage)
        });
        drop(pending);
        let result = match exclusive {
            // A page of a file cannot be made exclusive.
            Err(EOPNOTSUPP) => operations.make(&view.lock(), Atomics::OnBus).map(drop),
            // It was there a moment ago. Who answers for it, a userfaultfd, is not waited for here,
            // but by the fault that comes next.
            Err(EFAULT) => Err(EBUSY),
            Err(error) => Err(error),
            Ok(None) => Err(EAGAIN),
            Ok(Some((made, page))) => made.and_then(|_| self.use_timeslice(operations, page)),
        };
        // Not before the folio is unlocked: a fork that finds it locked fails. See
        // Documentation/known-mm-issues.md.
        drop(mmap);
        result
    }

    /// Goes on with a page that is exclusive for as long as its time slice is: a CPU that touches
    /// it waits for the lock of its folio.
    fn use_timeslice(&self, operations: &mut Operations<'_>, page: ExclusivePage) -> Result {
        let memory = self.client.device().pagemap().ops();
        let slice = memory
            .setting(Setting::AtomicTimeslice)
            .min(MAX_TIMESLICE_US);
        let end = memory.now_ns() + u64::from(slice) * 1000;
        while operations.left > 0 && memory.now_ns() < end && self.check().is_ok() {
            // It is taken away at any time by who unmaps it, which takes no lock of the folio.
            if !operations.make(&self.client.view().lock(), Atomics::OnPage)? {
                break;
            }
            cond_resched();
        }
        drop(page);
        Ok(())
    }
}
