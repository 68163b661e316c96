// SPDX-License-Identifier: GPL-2.0

//! Queues: the jobs that a program has submitted, and their outcome.
//!
//! Locks: that of the jobs, held for bookkeeping only.

use emu::eventfd::Eventfd;
use hmm::compat::{ECANCELED, ETIME};
use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    new_condvar, new_mutex,
    prelude::*,
    sync::{
        atomic::{ordering::Relaxed, Atomic},
        Arc, CondVar, CondVarTimeoutResult, Mutex,
    },
    time::{msecs_to_jiffies, Instant, Monotonic},
};

use crate::{client::Client, uapi};

/// The outcome of a job.
#[derive(Clone, Copy)]
pub(crate) struct Outcome {
    /// Number of packets that were executed completely.
    pub(crate) executed: u64,
    /// The reason why the job ended before its last packet, if it did.
    pub(crate) failure: Option<Failure>,
}

/// The reason why a packet was not executed completely.
#[derive(Clone, Copy)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// The kind of the failed access.
    pub(crate) access: AccessKind,
    /// The lowest address that the packet could not access, or the packet's own address if no
    /// access has failed.
    pub(crate) address: u64,
}

/// The kind of an engine's access to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessKind {
    None,
    Fetch,
    Read,
    Write,
    Atomic,
}

impl AccessKind {
    /// Returns the number of the access kind in the ABI.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::None => uapi::DMIRROR_ACCESS_NONE,
            Self::Fetch => uapi::DMIRROR_ACCESS_FETCH,
            Self::Read => uapi::DMIRROR_ACCESS_READ,
            Self::Write => uapi::DMIRROR_ACCESS_WRITE,
            Self::Atomic => uapi::DMIRROR_ACCESS_ATOMIC,
        }
    }
}

/// A job, as passed to an engine.
#[derive(Clone, Copy)]
pub(crate) struct Job {
    /// Its sequence number in the queue, from 1.
    pub(crate) seqno: u64,
    /// The address of the first packet.
    pub(crate) packets: u64,
    /// Number of packets to execute.
    pub(crate) npackets: u64,
}

/// The slot of a job, which the job `depth` after it reuses.
#[derive(Clone, Copy)]
struct Slot {
    packets: u64,
    npackets: u64,
    outcome: Outcome,
}

struct Jobs {
    /// One slot for each of the last `depth` jobs.
    slots: KVVec<Slot>,
    /// The sequence number of the last submitted job.
    submitted: u64,
    /// The sequence number of the last job that has ended.
    ended: u64,
    is_destroyed: bool,
}

impl Jobs {
    fn slot(&mut self, seqno: u64) -> Result<&mut Slot> {
        let place = seqno.checked_rem(self.slots.len() as u64).ok_or(EINVAL)?;
        // CAST: The value is less than a length.
        self.slots.get_mut(place as usize).ok_or(EINVAL)
    }
}

/// A queue of jobs, for one engine.
#[pin_data]
pub(crate) struct Queue {
    client: Arc<Client>,
    /// The queue's number in its open file.
    number: u32,
    /// The number of the queue's engine.
    engine: usize,
    eventfd: Option<Eventfd>,
    #[pin]
    jobs: Mutex<Jobs>,
    #[pin]
    changed: CondVar,
    /// Jobs up to this sequence number fail, because the engines were reset.
    reset: Atomic<u64>,
    /// Set if the running job must end, because nobody waits for its outcome any more.
    is_cancelled: Atomic<bool>,
}

impl Queue {
    /// Creates a queue of up to `depth` jobs; `depth` is not 0.
    pub(crate) fn new(
        client: Arc<Client>,
        number: u32,
        engine: usize,
        depth: usize,
        eventfd: Option<Eventfd>,
    ) -> Result<Arc<Self>> {
        let empty = Slot {
            packets: 0,
            npackets: 0,
            outcome: Outcome {
                executed: 0,
                failure: None,
            },
        };
        let jobs = Jobs {
            slots: KVVec::from_elem(empty, depth, GFP_KERNEL_ACCOUNT)?,
            submitted: 0,
            ended: 0,
            is_destroyed: false,
        };
        let queue = pin_init!(Self {
            client,
            number,
            engine,
            eventfd,
            jobs <- new_mutex!(jobs, "Queue::jobs"),
            changed <- new_condvar!("Queue::changed"),
            reset: Atomic::new(0),
            is_cancelled: Atomic::new(false),
        });
        Arc::pin_init(queue, GFP_KERNEL_ACCOUNT)
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn engine(&self) -> usize {
        self.engine
    }

    /// Adds a job, and returns its sequence number. The caller must wake the engine.
    ///
    /// # Errors
    ///
    /// [`EAGAIN`] when the queue already has `depth` jobs that have not ended; [`ENOENT`] when the
    /// queue was destroyed.
    pub(crate) fn submit(&self, packets: u64, npackets: u64) -> Result<u64> {
        let mut jobs = self.jobs.lock();
        if jobs.is_destroyed {
            return Err(ENOENT);
        }
        if jobs.submitted - jobs.ended >= jobs.slots.len() as u64 {
            return Err(EAGAIN);
        }
        let seqno = jobs.submitted + 1;
        let slot = jobs.slot(seqno)?;
        slot.packets = packets;
        slot.npackets = npackets;
        jobs.submitted = seqno;
        Ok(seqno)
    }

    /// Returns the next job that has not ended.
    pub(crate) fn next(&self) -> Option<Job> {
        let mut jobs = self.jobs.lock();
        if jobs.is_destroyed || jobs.ended == jobs.submitted {
            return None;
        }
        let seqno = jobs.ended + 1;
        let slot = *jobs.slot(seqno).ok()?;
        Some(Job {
            seqno,
            packets: slot.packets,
            npackets: slot.npackets,
        })
    }

    /// Records the outcome of the job that [`next`](Self::next) has returned, and wakes the
    /// waiters.
    pub(crate) fn finish(&self, job: &Job, outcome: Outcome) {
        let mut jobs = self.jobs.lock();
        if jobs.is_destroyed {
            return;
        }
        if let Ok(slot) = jobs.slot(job.seqno) {
            slot.outcome = outcome;
        }
        jobs.ended = job.seqno;
        drop(jobs);
        self.changed.notify_all();
        if let Some(eventfd) = &self.eventfd {
            eventfd.signal();
        }
    }

    /// Waits until a job has ended, for at most `timeout_ns` nanoseconds, or without limit if that
    /// is negative.
    ///
    /// # Errors
    ///
    /// As `rust/uapi/dmirror.h` lists them for `WAIT`.
    pub(crate) fn wait(&self, seqno: u64, timeout_ns: i64) -> Result<Outcome> {
        let start = Instant::<Monotonic>::now();
        let mut is_interrupted = false;
        let mut jobs = self.jobs.lock();
        loop {
            if jobs.is_destroyed {
                return Err(ENODEV);
            }
            if seqno == 0 || seqno > jobs.submitted {
                return Err(EINVAL);
            }
            if seqno <= jobs.ended {
                if jobs.submitted - seqno >= jobs.slots.len() as u64 {
                    return Err(ENOENT);
                }
                return Ok(jobs.slot(seqno)?.outcome);
            }
            if is_interrupted {
                return Err(EINTR);
            }
            if timeout_ns < 0 {
                is_interrupted = self.changed.wait_interruptible(&mut jobs);
                continue;
            }
            let left = timeout_ns.saturating_sub(start.elapsed().as_nanos());
            if left <= 0 {
                return Err(ETIME);
            }
            // Rounded up, so as not to wake before the timeout; a timeout that exceeds the bound
            // takes several waits.
            let milliseconds = (left as u64).div_ceil(1_000_000).min(1 << 30);
            // CAST: The value is at most 1 << 30.
            let jiffies = msecs_to_jiffies(milliseconds as u32);
            let woken = self.changed.wait_interruptible_timeout(&mut jobs, jiffies);
            is_interrupted = matches!(woken, CondVarTimeoutResult::Signal { .. });
        }
    }

    /// Fails the jobs that have not ended yet.
    pub(crate) fn reset(&self) {
        let jobs = self.jobs.lock();
        // ORDERING: Relaxed: the engine checks this again after each interrupt, whose lock orders
        // the store.
        self.reset.store(jobs.submitted, Relaxed);
    }

    /// Ends the queue: no further job begins, and the waiters are woken. A running job must end
    /// soon.
    pub(crate) fn destroy(&self) {
        // ORDERING: Relaxed: the engine checks this again after each interrupt, whose lock orders
        // the store.
        self.is_cancelled.store(true, Relaxed);
        self.jobs.lock().is_destroyed = true;
        self.changed.notify_all();
    }

    /// Fails if a job must not continue.
    ///
    /// # Errors
    ///
    /// [`EIO`] when the engines were reset; [`ECANCELED`] when the queue was destroyed.
    pub(crate) fn check(&self, job: &Job) -> Result {
        // ORDERING: Relaxed: the flag orders no other memory access.
        if self.is_cancelled.load(Relaxed) {
            return Err(ECANCELED);
        }
        // ORDERING: Relaxed: the number orders no other memory access.
        if job.seqno <= self.reset.load(Relaxed) {
            return Err(EIO);
        }
        Ok(())
    }
}
