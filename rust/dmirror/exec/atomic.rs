// SPDX-License-Identifier: GPL-2.0

//! Atomic operations of an engine.
//!
//! No CPU may interfere between the read and the write of an operation. So the device operates on a
//! page in its own memory, which CPUs cannot access, or on one to which it has exclusive access.
//! For a page of a file, neither is possible, so the device uses a bus whose atomic operations CPUs
//! respect. A page of the first two kinds can be taken away at any time, but not during an
//! operation, since that takes the update lock.

use core::ops::Range;

use emu::{
    kthread::clear_interrupt,
    memcg::charge_to,
    sched::{cond_resched, fatal_signal_pending},
    view::{Access, ViewGuard, Word},
};
use hmm::{
    compat::EOPNOTSUPP, exclusive::ExclusivePage, memremap::Kind, range::Timeout, vma::task_size,
};
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
    /// Number of remaining operations.
    left: u64,
    /// The value that the last operation found.
    found: u64,
}

/// The method with which a device performs atomic operations.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Atomics {
    /// On a page that CPUs cannot access meanwhile.
    OnPage,
    /// With atomic operations of the bus, which CPUs respect.
    OnBus,
}

impl Operations<'_> {
    /// Returns the addresses of the word's bytes.
    fn range(&self) -> Range<u64> {
        let size = if self.op.is_64 {
            Word::Eight
        } else {
            Word::Four
        };
        self.at..self.at + size.bytes() as u64
    }

    /// Performs some of the operations, if the device can perform them now. They are few, so that a
    /// CPU that needs the page does not wait for long. Returns whether the device could.
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
        // CAST: The offset is below the size of a page.
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
    /// Performs atomic operations on a word, at least one, and returns the value that the last one
    /// found.
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
                    // The page was taken away again.
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

    /// Makes a word accessible for atomic operations, and performs some of them. It may perform
    /// none.
    fn make_after_fault(&mut self, operations: &mut Operations<'_>) -> Result {
        let users = self.client.users().ok_or(EFAULT)?;
        let result = if operations.at < task_size(&users) as u64 {
            charge_to(&users, || self.fault_and_make(&users, operations))
        } else {
            Err(EFAULT)
        };
        put(users);
        match result {
            // Others changed the page first.
            Err(EAGAIN) => Ok(()),
            // `check()` decides whether to continue.
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
        // If the page is in device memory, it can stay there.
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
            // A page of a file cannot become exclusive.
            Err(EOPNOTSUPP) => operations.make(&view.lock(), Atomics::OnBus).map(drop),
            // The page was present a moment ago. If a userfaultfd has to provide it, the next fault
            // waits for that, not this code.
            Err(EFAULT) => Err(EBUSY),
            Err(error) => Err(error),
            Ok(None) => Err(EAGAIN),
            Ok(Some((made, page))) => made.and_then(|_| self.use_timeslice(operations, page)),
        };
        // Keep this lock until the folio is unlocked: a fork that finds the folio locked fails. See
        // Documentation/known-mm-issues.md.
        drop(mmap);
        result
    }

    /// Continues with an exclusive page until the end of its time slice: a CPU that touches the
    /// page waits for its folio lock.
    fn use_timeslice(&self, operations: &mut Operations<'_>, page: ExclusivePage) -> Result {
        let memory = self.client.device().pagemap().ops();
        let slice = memory
            .setting(Setting::AtomicTimeslice)
            .min(MAX_TIMESLICE_US);
        let end = memory.now_ns() + u64::from(slice) * 1000;
        while operations.left > 0 && memory.now_ns() < end && self.check().is_ok() {
            // A task that unmaps the page takes no folio lock, and so can take it away at any time.
            if !operations.make(&self.client.view().lock(), Atomics::OnPage)? {
                break;
            }
            cond_resched();
        }
        drop(page);
        Ok(())
    }
}
