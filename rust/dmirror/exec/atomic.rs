// SPDX-License-Identifier: GPL-2.0

//! Atomic operations of an engine.

use emu::{
    kthread::clear_interrupt,
    sched::cond_resched,
    view::{Access, ViewGuard, Word},
};
use hmm::{memremap::Kind, range::Timeout, vma::task_size};
use kernel::{mm::MmWithUser, page::PAGE_SIZE, prelude::*};

use super::{
    memory::{note_use, put},
    Execution, Stop,
};
use crate::{config::BOUNCE_PAGES, device::DeviceMemory, packet::AtomicOp, queue::AccessKind};

impl Execution<'_> {
    /// Makes atomic operations on a word, and returns what the last of them found.
    pub(super) fn atomic(&mut self, at: u64, op: AtomicOp, times: u64) -> Result<u64, Stop> {
        let mut found = 0;
        let mut done = 0;
        while done < times {
            self.check()?;
            // So that a CPU that wants the page does not wait for long.
            let batch = (times - done).min(BOUNCE_PAGES as u64);
            let mut operate = |guard: &ViewGuard<'_, DeviceMemory>, atomics| {
                operate(guard, at, op, batch, atomics)
            };
            let view = self.client.view();
            let operated = operate(&view.lock(), Atomics::OnPage);
            let (count, last) = match operated {
                Some(operated) => operated.map_err(|error| atomic_stop(error, at))?,
                None => self.atomic_after_fault(at, &mut operate)?,
            };
            if count > 0 {
                found = last;
                done += count;
            }
            cond_resched();
        }
        Ok(found)
    }

    /// Makes atomic operations on a word that the device cannot do them on yet. None may be made.
    fn atomic_after_fault(
        &mut self,
        at: u64,
        operate: &mut impl FnMut(&ViewGuard<'_, DeviceMemory>, Atomics) -> Option<Result<(u64, u64)>>,
    ) -> Result<(u64, u64), Stop> {
        let users = self.client.users().ok_or(atomic_stop(EFAULT, at))?;
        let result = if at < task_size(&users) as u64 {
            self.make_atomic(&users, at, operate)
        } else {
            Err(EFAULT)
        };
        put(users);
        match result {
            // Others were faster, or this was interrupted, which `check()` knows.
            Err(EINTR | EAGAIN) => {
                clear_interrupt();
                Ok((0, 0))
            }
            result => result.map_err(|error| atomic_stop(error, at)),
        }
    }

    fn make_atomic(
        &mut self,
        users: &MmWithUser,
        at: u64,
        operate: &mut impl FnMut(&ViewGuard<'_, DeviceMemory>, Atomics) -> Option<Result<(u64, u64)>>,
    ) -> Result<(u64, u64)> {
        let page = at as usize & !(PAGE_SIZE - 1);
        let window = page..page + PAGE_SIZE;
        let view = self.client.view();
        // Where it is in the memory of the device, it can stay.
        let mut operated = None;
        let fault = &mut self.buffers.fault;
        view.fault(
            users,
            window.clone(),
            Access::Write,
            Timeout::Bounded,
            fault,
            |guard| {
                operated = operate(guard, Atomics::OnPage);
            },
        )?;
        if let Some(operated) = operated {
            return operated;
        }
        let mut pending = view.pending_map(window)?;
        let mmap = users.mmap_read_lock();
        match pending.make_exclusive(users, &mmap, page, |guard| operate(guard, Atomics::OnPage)) {
            // A page of a file cannot be made exclusive.
            Err(EOPNOTSUPP) => operate(&view.lock(), Atomics::OnBus),
            operated => operated?.flatten(),
        }
        .unwrap_or(Err(EAGAIN))
    }
}

fn atomic_stop(error: Error, address: u64) -> Stop {
    Stop::Access {
        error,
        access: AccessKind::Atomic,
        address,
    }
}

/// How a device makes atomic operations.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Atomics {
    /// On a page that no CPU reaches meanwhile.
    OnPage,
    /// By a bus that CPUs respect.
    OnBus,
}

/// Makes `times` atomic operations on the word at `at`, if no CPU can come in between: the device
/// has exclusive access to the page, or has it in memory of its own that no CPU reaches, or the bus
/// sees to it. Returns how many, and what the last has found.
fn operate(
    guard: &ViewGuard<'_, DeviceMemory>,
    at: u64,
    op: AtomicOp,
    times: u64,
    atomics: Atomics,
) -> Option<Result<(u64, u64)>> {
    let page = guard.page(usize::try_from(at).ok()?)?;
    let is_own = page.device_index().is_some() && page.pagemap().kind() == Kind::Private;
    let is_alone = match page.access() {
        Access::Read => return None,
        Access::Write => is_own,
        Access::Exclusive => true,
    };
    if !is_alone && atomics == Atomics::OnPage {
        return None;
    }
    // CAST: Below the size of a page.
    let offset = (at % PAGE_SIZE as u64) as usize;
    let width = if op.is_64 { Word::Eight } else { Word::Four };
    let mut found = 0;
    for _ in 0..times {
        let operated = if is_alone {
            page.read_modify_write(offset, width, |word| op.apply(word))
        } else {
            page.bus_atomic(offset, width, |word| op.apply(word))
        };
        match operated {
            Ok(word) => found = word,
            Err(error) => return Some(Err(error)),
        }
    }
    note_use(&page, &mut None);
    Some(Ok((times, found)))
}
