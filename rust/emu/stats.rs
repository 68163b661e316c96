// SPDX-License-Identifier: GPL-2.0

//! What an emulated device has done: why pages moved, and the faults of both sides.
//!
//! [`DevPagemap::totals`](hmm::memremap::DevPagemap::totals) has the other half: what moved by
//! size, and what was freed. Each counts once a pass, a fault or an invalidation, not once a page.

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

/// Causes for which pages move.
const CAUSES: usize = Cause::ALL.len();

/// What a device has done, see [`Emulated::stats`](crate::device::Emulated::stats).
#[derive(Default)]
pub struct Stats {
    /// Pages that moved to the device.
    out: [Counter; CAUSES],
    /// Pages that came back.
    back: [Counter; CAUSES],
    /// Windows of up to 512 pages that the device has faulted in, or tried to.
    pub device_faults: Counter,
    /// Why it could not.
    pub device_fault_failures: Failures,
    /// How often a device fault waited, because a page that it had to bring back first stayed.
    pub device_fault_retries: Counter,
    /// Faults of CPUs on pages of the device.
    pub cpu_faults: Counter,
    /// Those that nothing came back for, not even a neighbour, and that were answered with "again".
    pub cpu_fault_retries: Counter,
    /// Those for which there was no memory.
    pub cpu_faults_out_of_memory: Counter,
    /// Those that ended in `SIGBUS`.
    pub cpu_fault_bus_errors: Counter,
    /// Changes to the page tables of processes, as far as the device had to look.
    pub invalidations: Counter,
    /// Pages that it had mapped and lost by them.
    pub cleared: Counter,
}

impl Stats {
    /// Counts pages that moved to the device. Does not sleep.
    pub fn went_out(&self, cause: Cause, pages: usize) {
        count(&self.out[cause as usize], pages);
    }

    /// Counts pages that came back. Does not sleep.
    pub fn came_back(&self, cause: Cause, pages: usize) {
        count(&self.back[cause as usize], pages);
    }

    /// Returns the number of pages that moved to the device. Does not sleep.
    pub fn out(&self, cause: Cause) -> u64 {
        self.out[cause as usize].get()
    }

    /// Returns the number of pages that came back. Does not sleep.
    pub fn back(&self, cause: Cause) -> u64 {
        self.back[cause as usize].get()
    }

    /// Counts a fault of a CPU.
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

/// Why something failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There was no memory, of the system or the device.
    NoMemory,
    /// It was not copied.
    Io,
    /// Others had what it took, for too long.
    Busy,
    /// The memory is not there, or not for this.
    NoAccess,
    /// The task was killed.
    Interrupted,
    /// Anything else.
    Other,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::NoMemory,
        Self::Io,
        Self::Busy,
        Self::NoAccess,
        Self::Interrupted,
        Self::Other,
    ];

    /// Returns the reason that an error stands for.
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

/// How often something failed, by reason.
#[derive(Default)]
pub struct Failures([Counter; Reason::ALL.len()]);

impl Failures {
    /// Counts a failure. Does not sleep.
    pub fn note(&self, error: Error) {
        self.0[Reason::of(error) as usize].add(1);
    }

    /// Returns how often it was that. Does not sleep.
    pub fn get(&self, reason: Reason) -> u64 {
        self.0[reason as usize].get()
    }
}

/// What a [`View`] has done, and what it maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ViewStats {
    /// Windows of up to 512 pages that the device has faulted in, or tried to.
    pub faults: u64,
    /// Pages that went back to system memory for that.
    pub brought_back: u64,
    /// Changes to the page tables of the process, as far as the device had to look.
    pub invalidations: u64,
    /// Pages that it had mapped and lost by them.
    pub cleared: u64,
    /// Pages in its own memory that the device has mapped.
    pub mapped_device: u64,
    /// Pages elsewhere that it has mapped.
    pub mapped_system: u64,
}

impl<T: DeviceOps> View<T> {
    /// Returns what the view has done, and how much it maps.
    ///
    /// May sleep; takes as long as there are runs of pages that follow one another.
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
            // In steps, so that the lock is not held for long.
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
