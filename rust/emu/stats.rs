// SPDX-License-Identifier: GPL-2.0

//! Statistics of an emulated device: the causes of moves, and the faults of both sides.
//!
//! [`DevPagemap::totals`](hmm::memremap::DevPagemap::totals) has the other half: the pages that
//! moved, by size, and those that were freed. Each counter is updated once per migration, fault or
//! invalidation, not once per page.

use hmm::{
    counter::Counter,
    memremap::{Answer, FaultAnswer},
};
use kernel::{
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
};

use crate::{
    device::DeviceOps,
    sched::cond_resched,
    table::{END, FANOUT},
    trace::Cause,
    view::View,
};

/// Number of causes for which pages move.
const CAUSES: usize = Cause::ALL.len();

/// Statistics of a device; see [`Emulated::stats`](crate::device::Emulated::stats).
#[derive(Default)]
pub struct Stats {
    /// Number of pages that moved to the device, by cause.
    out: [Counter; CAUSES],
    /// Number of pages that moved back, by cause.
    back: [Counter; CAUSES],
    /// Number of windows of up to a huge page that the device has faulted in, or tried to.
    pub device_faults: Counter,
    /// Device faults that failed, by reason.
    pub device_fault_failures: Failures,
    /// Number of waits of device faults for a page that had to move back first, but stayed.
    pub device_fault_retries: Counter,
    /// Number of CPU faults on pages of the device.
    pub cpu_faults: Counter,
    /// Number of CPU faults for which no page moved back, not even a neighbour, and that were
    /// answered with "retry".
    pub cpu_fault_retries: Counter,
    /// Number of CPU faults for which there was no memory.
    pub cpu_faults_out_of_memory: Counter,
    /// Number of CPU faults that ended in `SIGBUS`.
    pub cpu_fault_bus_errors: Counter,
    /// Number of changes to the page tables of processes for which the device had to act.
    pub invalidations: Counter,
    /// Number of pages that the device had mapped and lost through invalidations.
    pub cleared: Counter,
}

impl Stats {
    /// Counts pages that moved to the device. Does not sleep.
    pub fn went_out(&self, cause: Cause, pages: usize) {
        count(&self.out[cause as usize], pages);
    }

    /// Counts pages that moved back. Does not sleep.
    pub fn came_back(&self, cause: Cause, pages: usize) {
        count(&self.back[cause as usize], pages);
    }

    /// Returns the number of pages that moved to the device. Does not sleep.
    pub fn out(&self, cause: Cause) -> u64 {
        self.out[cause as usize].get()
    }

    /// Returns the number of pages that moved back. Does not sleep.
    pub fn back(&self, cause: Cause) -> u64 {
        self.back[cause as usize].get()
    }

    /// Counts a CPU fault.
    pub(crate) fn answered(&self, answer: &FaultAnswer) {
        self.cpu_faults.add(1);
        self.came_back(Cause::CpuFault, answer.moved());
        match answer.kind() {
            Answer::Retry if answer.moved() > 0 => {}
            Answer::Retry => self.cpu_fault_retries.add(1),
            Answer::OutOfMemory => self.cpu_faults_out_of_memory.add(1),
            Answer::BusError => self.cpu_fault_bus_errors.add(1),
        }
    }
}

fn count(counter: &Counter, pages: usize) {
    if pages > 0 {
        counter.add(pages as u64);
    }
}

/// A reason for a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Not enough memory, of the system or of the device.
    NoMemory,
    /// The copy failed.
    Io,
    /// Others used a needed resource for too long.
    Busy,
    /// The memory is not mapped, or not for this access.
    NoAccess,
    /// A fatal signal arrived.
    Interrupted,
    /// Any other reason.
    Other,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 6] = [
        Self::NoMemory,
        Self::Io,
        Self::Busy,
        Self::NoAccess,
        Self::Interrupted,
        Self::Other,
    ];

    /// Returns the reason for an error.
    fn of(error: Error) -> Self {
        match error {
            ENOMEM => Self::NoMemory,
            EIO => Self::Io,
            EBUSY | EAGAIN => Self::Busy,
            EFAULT | EPERM | EINVAL => Self::NoAccess,
            EINTR => Self::Interrupted,
            _ => Self::Other,
        }
    }
}

/// Number of failures, by reason.
#[derive(Default)]
pub struct Failures([Counter; Reason::ALL.len()]);

impl Failures {
    /// Counts a failure. Does not sleep.
    pub fn note(&self, error: Error) {
        self.0[Reason::of(error) as usize].add(1);
    }

    /// Returns the number of failures for a reason. Does not sleep.
    pub fn get(&self, reason: Reason) -> u64 {
        self.0[reason as usize].get()
    }
}

/// Statistics of a [`View`], and of the pages that it maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ViewStats {
    /// Number of windows of up to a huge page that the device has faulted in, or tried to.
    pub faults: u64,
    /// Number of pages that moved back to system memory for device faults.
    pub brought_back: u64,
    /// Number of changes to the page tables of the process for which the device had to act.
    pub invalidations: u64,
    /// Number of pages that the device had mapped and lost through invalidations.
    pub cleared: u64,
    /// Number of mapped pages that are in the device's own memory.
    pub mapped_device: u64,
    /// Number of mapped pages that are elsewhere.
    pub mapped_system: u64,
}

impl<T: DeviceOps> View<T> {
    /// Returns the statistics of the view, and the numbers of pages that it maps.
    ///
    /// May sleep. The time is proportional to the number of runs of consecutive pages.
    pub fn stats(&self) -> ViewStats {
        let mut stats = ViewStats {
            faults: self.faults.get(),
            brought_back: self.brought_back.get(),
            ..ViewStats::default()
        };
        let mut at = 0;
        loop {
            let guard = self.lock();
            stats.invalidations = guard.state.invalidations;
            stats.cleared = guard.state.cleared;
            // Work in steps, so that the lock is not held for long.
            for _ in 0..FANOUT {
                let Some((address, _)) = guard.next(at..END << PAGE_SHIFT) else {
                    return stats;
                };
                let Some(run) = guard.runs(address, FANOUT).next() else {
                    return stats;
                };
                let npages = run.npages() as u64;
                match run.device_index() {
                    Some(_) => stats.mapped_device += npages,
                    None => stats.mapped_system += npages,
                }
                at = address + run.npages() * PAGE_SIZE;
            }
            drop(guard);
            cond_resched();
        }
    }
}
