// SPDX-License-Identifier: GPL-2.0

//! Jobs in flight: waiting for them, ending them, and additions to counters.

use std::ops::Range;

use dmirror_client::Errno;
use dmirror_client::queue;

use crate::job::Area;
use crate::model::Access;
use crate::op::COUNTERS;
use crate::op::HANDLES;
use crate::op::QUEUES;
use crate::op::Queue;
use crate::op::handle_of;
use crate::op::node_of;
use crate::runner::Runner;
use crate::runner::SKIPPED;
use crate::world::Add;
use crate::world::Failure;
use crate::world::Outcome;
use crate::world::World;

/// The most jobs of a queue that nobody has waited for.
pub const DEPTH: usize = 8;

/// A job that nobody has waited for.
#[derive(Debug)]
pub(crate) struct Flight {
    pub job: u64,
    pub expected: queue::Outcome,
    pub what: Work,
}

#[derive(Debug)]
pub(crate) enum Work {
    /// Packets on an area.
    Packets {
        area: Area,
        /// Set if the job can get exclusive access to pages.
        is_atomic: bool,
    },
    /// Additions to a counter.
    Count(usize),
}

impl<W: World> Runner<W> {
    /// Waits for the queues in `of`, a bit each, that have jobs on pages of a slot.
    ///
    /// # Errors
    ///
    /// A description of the first violation.
    pub(crate) fn settle(
        &mut self,
        slot: usize,
        range: &Range<usize>,
        of: u8,
    ) -> Result<(), Failure> {
        let pages = self.model.part_mut(slot, range);
        let busy = pages.iter().fold(0, |busy, page| busy | page.busy) & of;
        for queue in (0..QUEUES).filter(|queue| busy & (1 << queue) != 0) {
            self.collect(queue)?;
        }
        Ok(())
    }

    /// Waits for all jobs of a queue, and checks their outcomes; returns that of the last job.
    ///
    /// # Errors
    ///
    /// A description of the first violation.
    pub(crate) fn collect(&mut self, queue: usize) -> Result<Outcome, Failure> {
        self.collect_after(queue, false)
    }

    fn collect_after(&mut self, queue: usize, was_reset: bool) -> Result<Outcome, Failure> {
        let flights = std::mem::take(&mut self.flights[queue]);
        let disturbed = !self.model.alone || self.model.asynchronous;
        let (mut upset, mut outcome) = (false, "ok".to_owned());
        for Flight { job, expected, .. } in &flights {
            let found = self.world.wait(queue, *job);
            let found =
                found.map_err(|errno| format!("WAIT for job {job} of queue {queue}: {errno}"))?;
            outcome = found
                .error
                .map_or("ok".into(), |errno| format!("{errno:?}"));
            if found == *expected || upset {
                continue;
            }
            upset = match found.error {
                Some(Errno::EBUSY | Errno::ENOMEM) => disturbed,
                Some(Errno::EIO) if found.access == queue::Access::None => {
                    was_reset || !self.model.alone
                }
                _ => false,
            };
            if !upset {
                return Err(format!(
                    "job {job} of queue {queue} ended with {found:x?}: expected {expected:x?}"
                ));
            }
        }
        self.land(queue, &flights, upset);
        Ok(outcome)
    }

    /// Records that the jobs of a queue have ended. If they were `upset`, their results are
    /// unknown, so it rewrites the pages that they may have written.
    fn land(&mut self, queue: usize, flights: &[Flight], upset: bool) {
        let (handle, bit) = (handle_of(queue), 1 << queue);
        self.model.flying &= !bit;
        for Flight { what, .. } in flights {
            match what {
                Work::Packets { area, is_atomic } => {
                    for (slot, range) in area {
                        for page in self.model.part_mut(*slot, range) {
                            page.busy &= !bit;
                            page.changing &= !bit;
                            page.devices |= 1 << node_of(handle);
                            page.held |= is_atomic;
                            page.exclusive |= u8::from(*is_atomic) << handle;
                        }
                    }
                }
                Work::Count(counter) if upset => self.model.counters[*counter] = None,
                Work::Count(_) => {}
            }
        }
        if !upset {
            return;
        }
        for Flight { what, .. } in flights {
            let Work::Packets { area, .. } = what else {
                continue;
            };
            for (slot, range) in area {
                for page in range.clone() {
                    if self.model.page((*slot, page)).access == Access::Write {
                        self.refill(*slot, page);
                    }
                }
            }
        }
    }

    /// Writes a page of unknown content with the CPU.
    pub(crate) fn refill(&mut self, slot: usize, nth: usize) {
        let range = nth..nth + 1;
        for stamp in self.model.new_stamps(slot, &range) {
            self.world.store(slot, nth, stamp);
            for page in self.model.part_mut(slot, &range) {
                page.written(stamp);
                page.touched();
            }
        }
    }

    /// Waits for the jobs of a queue, destroys the queue, or resets its device.
    ///
    /// # Errors
    ///
    /// A description of the first violation.
    pub(crate) fn queue(&mut self, what: Queue, queue: usize) -> Result<Outcome, Failure> {
        if self.model.is_child {
            return Ok(SKIPPED.into());
        }
        match what {
            Queue::Wait => self.collect(queue),
            Queue::Destroy => {
                // Prefer a queue with work in flight.
                let mut busy = (queue..QUEUES).filter(|queue| !self.flights[*queue].is_empty());
                let queue = busy.next().unwrap_or(queue);
                self.destroy(queue)
            }
            Queue::Reset => {
                let reset = self.world.reset(handle_of(queue));
                reset.map_err(|errno| format!("RESET: {errno}"))?;
                let node = node_of(handle_of(queue));
                for other in 0..QUEUES {
                    if node_of(handle_of(other)) == node {
                        self.collect_after(other, true)?;
                    }
                }
                Ok("ok".into())
            }
        }
    }

    fn destroy(&mut self, queue: usize) -> Result<Outcome, Failure> {
        let ended = self.world.destroy(queue);
        ended.map_err(|errno| format!("QUEUE_DESTROY of queue {queue}: {errno}"))?;
        let flights = std::mem::take(&mut self.flights[queue]);
        let is_idle = flights.is_empty();
        self.land(queue, &flights, !is_idle);
        Ok(if is_idle { "idle" } else { "at work" }.into())
    }

    /// Destroys the queues of a handle.
    ///
    /// # Errors
    ///
    /// A description of the first violation.
    pub(crate) fn destroy_all_of(&mut self, handle: usize) -> Result<(), Failure> {
        for queue in (handle % HANDLES..QUEUES).step_by(HANDLES) {
            self.destroy(queue)?;
        }
        Ok(())
    }

    /// Makes an engine add to a counter, and adds to an 8-byte one with the CPU meanwhile.
    ///
    /// # Errors
    ///
    /// A description of the first violation.
    pub(crate) fn count(
        &mut self,
        queue: usize,
        counter: usize,
        times: u64,
    ) -> Result<Outcome, Failure> {
        if self.model.is_child {
            return Ok(SKIPPED.into());
        }
        if self.flights[queue].len() >= DEPTH {
            self.collect(queue)?;
        }
        let value = 1 + queue as u64 * 0x1_0001;
        let add = Add {
            value,
            times: 1 + times * 4,
        };
        let submitted = self.world.count(queue, counter, &add);
        let job = submitted.map_err(|errno| format!("SUBMIT to queue {queue}: {errno}"))?;
        self.model.flying |= 1 << queue;
        self.flights[queue].push(Flight {
            job,
            expected: queue::Outcome::done(1),
            what: Work::Count(counter),
        });
        let mut sum = value.wrapping_mul(add.times);
        if counter < COUNTERS / 2 {
            self.world.add(counter, &add);
            sum = sum.wrapping_mul(2);
        }
        let counter = &mut self.model.counters[counter];
        *counter = counter.map(|known| known.wrapping_add(sum));
        Ok("ok".into())
    }

    /// Waits for all jobs, and compares the counters with the model.
    ///
    /// # Errors
    ///
    /// A description of the first violation.
    pub(crate) fn collect_all(&mut self) -> Result<(), Failure> {
        for queue in 0..QUEUES {
            self.collect(queue)?;
        }
        if self.model.is_child {
            return Ok(());
        }
        for counter in 0..self.model.counters.len() {
            let found = self.world.counter(counter);
            let is_long = counter < self.model.counters.len() / 2;
            let mask = if is_long { u64::MAX } else { u32::MAX.into() };
            let known = self.model.counters[counter].unwrap_or(found);
            if (found ^ known) & mask != 0 {
                return Err(format!(
                    "counter {counter} is {found:#x}: expected {:#x}",
                    known & mask
                ));
            }
            self.model.counters[counter] = Some(found);
        }
        Ok(())
    }
}
