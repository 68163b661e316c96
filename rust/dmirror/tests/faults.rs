// SPDX-License-Identifier: GPL-2.0

//! The fault buffer, with test threads in place of engines.

use core::ops::Range;

use emu::{
    kthread::{Kthread, KthreadBody},
    trace::engine::Client,
};
use hmm::compat::ECANCELED;
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        atomic::{ordering::Relaxed, Atomic},
        Arc, Mutex,
    },
    time::{delay::fsleep, Delta},
};

use crate::faults::{FaultBuffer, FaultLimits, Miss, Reason};

/// Waits, within a bound, until `is_so` returns true; returns whether it did.
fn soon(mut is_so: impl FnMut() -> bool) -> bool {
    for _ in 0..5000 {
        if is_so() {
            return true;
        }
        fsleep(Delta::from_millis(1));
    }
    is_so()
}

/// The log of the engines.
#[pin_data]
struct Log {
    /// The handled pages: the engine, the number of the client, and the page numbers.
    #[pin]
    seen: Mutex<KVec<(usize, u64, Range<usize>)>>,
    /// Number of engines that have continued.
    done: Atomic<u32>,
    /// Number of engines whose job was cancelled.
    cancelled: Atomic<u32>,
    /// Set if the jobs of the engines are cancelled.
    is_cancelled: Atomic<bool>,
    /// Set if an engine that handles pages must wait.
    is_held: Atomic<bool>,
}

/// A fault buffer, and the log of its engines; the handler is not started yet.
struct Bench {
    faults: Arc<FaultBuffer>,
    log: Arc<Log>,
}

impl Bench {
    fn new() -> Result<Self> {
        let log = pin_init!(Log {
            seen <- new_mutex!(KVec::new()),
            done: Atomic::new(0),
            cancelled: Atomic::new(0),
            is_cancelled: Atomic::new(false),
            is_held: Atomic::new(false),
        });
        Ok(Self {
            faults: FaultBuffer::new(0, 4)?,
            log: Arc::pin_init(log, GFP_KERNEL)?,
        })
    }

    /// Starts an engine that misses some pages of clients, and waits until the buffer has counted
    /// `posted` entries.
    fn engine(
        &self,
        engine: usize,
        misses: &[(u64, usize)],
        limits: FaultLimits,
        posted: u64,
    ) -> Result<Kthread<Engine>> {
        let mut own = KVec::with_capacity(misses.len(), GFP_KERNEL)?;
        for &(number, page) in misses {
            let client = Client { number, pid: 0 };
            let reason = Reason::Read;
            own.push(
                Miss {
                    client,
                    page,
                    reason,
                },
                GFP_KERNEL,
            )?;
        }
        let body = Engine {
            faults: self.faults.clone(),
            log: self.log.clone(),
            engine,
            misses: own,
            limits,
        };
        let thread = Kthread::new(c"dmirror_kunit", body)?;
        assert!(soon(|| self.faults.stats().posted.get() == posted));
        Ok(thread)
    }

    fn start(&self) -> Result {
        self.faults.start(fmt!("dmirror_kunit_faults"))
    }

    /// Cancels all jobs, and interrupts one engine.
    fn cancel(&self, engine: &Kthread<Engine>) {
        // ORDERING: Relaxed: the flag orders no other memory access.
        self.log.is_cancelled.store(true, Relaxed);
        engine.interrupt();
    }

    fn done(&self) -> u32 {
        // ORDERING: Relaxed: the number orders no other memory access.
        self.log.done.load(Relaxed)
    }

    /// Returns whether exactly that many engines have continued, within a bounded time.
    fn is_done(&self, engines: u32) -> bool {
        soon(|| self.done() == engines)
    }

    /// Returns the handled pages with their engine and client, in the order of clients and pages.
    fn seen(&self) -> KVec<(usize, u64, Range<usize>)> {
        let mut seen = core::mem::take(&mut *self.log.seen.lock());
        seen.sort_unstable_by_key(|(_, client, pages)| (*client, pages.start));
        seen
    }

    /// Returns the numbers of posted and merged entries, of batches, and of cancelled entries.
    fn counts(&self) -> [u64; 4] {
        let stats = self.faults.stats();
        [
            &stats.posted,
            &stats.merged,
            &stats.batches,
            &stats.cancelled,
        ]
        .map(|counter| counter.get())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.faults.stop();
    }
}

struct Engine {
    faults: Arc<FaultBuffer>,
    log: Arc<Log>,
    engine: usize,
    misses: KVec<Miss>,
    limits: FaultLimits,
}

impl KthreadBody for Engine {
    fn run(self) {
        let Self { log, engine, .. } = &self;
        let check = || {
            // ORDERING: Relaxed: the flag orders no other memory access.
            if log.is_cancelled.load(Relaxed) {
                return Err(ECANCELED);
            }
            Ok(())
        };
        let result = self
            .faults
            .serve(*engine, &self.misses, self.limits, check, |group| {
                let group = (*engine, group.client(), group.pages.clone());
                // A missing log entry fails the test.
                let _ = log.seen.lock().push(group, GFP_KERNEL);
                // ORDERING: Relaxed: the flag orders no other memory access.
                soon(|| !log.is_held.load(Relaxed));
            });
        if result.is_err() {
            // ORDERING: Relaxed: the number orders no other memory access.
            log.cancelled.fetch_add(1_u32, Relaxed);
        }
        // ORDERING: Relaxed: the number orders no other memory access.
        log.done.fetch_add(1_u32, Relaxed);
    }
}

const LIMITS: FaultLimits = FaultLimits {
    granule: 8,
    batch: 64,
    room: 256,
};

#[kunit_tests(dmirror_faults)]
mod cases {
    use super::*;

    #[test]
    fn a_batch_is_sorted_and_merged_by_granule() -> Result {
        let bench = Bench::new()?;
        let zero = [(1, 9), (1, 3), (1, 17), (1, 2)];
        let _zero = bench.engine(0, &zero, LIMITS, 4)?;
        let _one = bench.engine(1, &[(1, 1), (1, 8), (1, 15)], LIMITS, 7)?;
        bench.start()?;
        assert!(bench.is_done(2));
        // Each group goes to the engine that misses its first page.
        let expected = [(1, 1, 1..4), (1, 1, 8..16), (0, 1, 17..18)];
        assert_eq!(bench.seen()[..], expected);
        assert_eq!(bench.counts(), [7, 4, 1, 0]);
        Ok(())
    }

    #[test]
    fn who_came_first_sees_to_a_page_that_several_miss() -> Result {
        let bench = Bench::new()?;
        let _two = bench.engine(2, &[(1, 8)], LIMITS, 1)?;
        let _zero = bench.engine(0, &[(1, 8)], LIMITS, 2)?;
        let _one = bench.engine(1, &[(1, 8)], LIMITS, 3)?;
        bench.start()?;
        assert!(bench.is_done(3));
        assert_eq!(bench.seen()[..], [(2, 1, 8..9)]);
        assert_eq!(bench.counts(), [3, 2, 1, 0]);
        Ok(())
    }

    #[test]
    fn address_spaces_and_granules_are_not_merged() -> Result {
        let bench = Bench::new()?;
        let _zero = bench.engine(0, &[(2, 7), (1, 8)], LIMITS, 2)?;
        let _one = bench.engine(1, &[(1, 7), (2, 8)], LIMITS, 4)?;
        bench.start()?;
        assert!(bench.is_done(2));
        let expected = [(1, 1, 7..8), (0, 1, 8..9), (0, 2, 7..8), (1, 2, 8..9)];
        assert_eq!(bench.seen()[..], expected);
        assert_eq!(bench.counts(), [4, 0, 1, 0]);
        Ok(())
    }

    #[test]
    fn no_batch_is_larger_than_the_limit() -> Result {
        for (batch, batches) in [(0, 5), (1, 5), (2, 3), (4, 2), (5, 1), (6, 1)] {
            let bench = Bench::new()?;
            let limits = FaultLimits { batch, ..LIMITS };
            let misses = [(1, 0), (1, 8), (1, 16), (1, 24), (1, 32)];
            let _zero = bench.engine(0, &misses, limits, 5)?;
            bench.start()?;
            assert!(bench.is_done(1));
            assert_eq!(bench.seen().len(), 5);
            assert_eq!(bench.counts(), [5, 0, batches, 0]);
        }
        Ok(())
    }

    #[test]
    fn pages_of_one_granule_in_two_batches_are_two_groups() -> Result {
        let bench = Bench::new()?;
        let limits = FaultLimits { batch: 2, ..LIMITS };
        let _zero = bench.engine(0, &[(1, 3), (1, 1), (1, 2)], limits, 3)?;
        bench.start()?;
        assert!(bench.is_done(1));
        assert_eq!(bench.seen()[..], [(0, 1, 1..4), (0, 1, 2..3)]);
        assert_eq!(bench.counts(), [3, 1, 2, 0]);
        Ok(())
    }

    #[test]
    fn the_others_of_a_group_wait_until_it_is_done() -> Result {
        let bench = Bench::new()?;
        // ORDERING: Relaxed: the flag orders no other memory access.
        bench.log.is_held.store(true, Relaxed);
        let _zero = bench.engine(0, &[(1, 1)], LIMITS, 1)?;
        let _one = bench.engine(1, &[(1, 2)], LIMITS, 2)?;
        let _two = bench.engine(2, &[(1, 8)], LIMITS, 3)?;
        bench.start()?;
        // Engines 0 and 1 share a group. The third engine has its own, and would continue if it
        // were not held.
        assert!(soon(|| bench.log.seen.lock().len() == 2));
        fsleep(Delta::from_millis(50));
        assert_eq!(bench.done(), 0);
        // ORDERING: Relaxed: the flag orders no other memory access.
        bench.log.is_held.store(false, Relaxed);
        assert!(bench.is_done(3));
        assert_eq!(bench.seen()[..], [(0, 1, 1..3), (2, 1, 8..9)]);
        Ok(())
    }

    #[test]
    fn who_finds_no_room_waits_for_it_and_is_counted() -> Result {
        let bench = Bench::new()?;
        let limits = FaultLimits { room: 2, ..LIMITS };
        let misses = [(1, 0), (1, 8), (1, 16), (1, 24)];
        let _zero = bench.engine(0, &misses, limits, 2)?;
        assert!(soon(|| bench.faults.stats().overflows.get() == 1));
        fsleep(Delta::from_millis(20));
        assert_eq!(bench.counts(), [2, 0, 0, 0]);
        bench.start()?;
        assert!(bench.is_done(1));
        assert_eq!(bench.counts()[0], 4);
        assert_eq!(bench.seen().len(), 4);
        // Each entry counts once, however often the engine checks for room.
        assert!((1..=2).contains(&bench.faults.stats().overflows.get()));
        Ok(())
    }

    #[test]
    fn an_engine_whose_job_is_cancelled_takes_back_what_it_posted() -> Result {
        let bench = Bench::new()?;
        let zero = bench.engine(0, &[(1, 0), (1, 8)], LIMITS, 2)?;
        let _one = bench.engine(1, &[(1, 1)], LIMITS, 3)?;
        bench.cancel(&zero);
        assert!(bench.is_done(1));
        assert_eq!(bench.counts(), [3, 0, 0, 2]);
        bench.start()?;
        assert!(bench.is_done(2));
        assert_eq!(bench.seen()[..], [(1, 1, 1..2)]);
        assert_eq!(bench.counts(), [3, 0, 1, 2]);
        Ok(())
    }

    #[test]
    fn an_interrupt_that_cancels_nothing_changes_nothing() -> Result {
        let bench = Bench::new()?;
        let zero = bench.engine(0, &[(1, 0)], LIMITS, 1)?;
        for _ in 0..3 {
            zero.interrupt();
            fsleep(Delta::from_millis(5));
        }
        bench.start()?;
        assert!(bench.is_done(1));
        assert_eq!(bench.counts(), [1, 0, 1, 0]);
        Ok(())
    }

    #[test]
    fn room_that_a_cancelled_engine_leaves_is_used() -> Result {
        let bench = Bench::new()?;
        let limits = FaultLimits { room: 1, ..LIMITS };
        let zero = bench.engine(0, &[(1, 0)], limits, 1)?;
        let _one = bench.engine(1, &[(1, 8)], limits, 1)?;
        assert!(soon(|| bench.faults.stats().overflows.get() == 1));
        bench.cancel(&zero);
        // No other engine posts, and no handler is running.
        let used = soon(|| bench.counts()[0] == 2);
        bench.start()?;
        assert!(used);
        assert!(bench.is_done(2));
        Ok(())
    }

    #[test]
    fn an_engine_that_is_cancelled_waits_for_who_sees_to_its_page() -> Result {
        let bench = Bench::new()?;
        // ORDERING: Relaxed: the flag orders no other memory access.
        bench.log.is_held.store(true, Relaxed);
        let _zero = bench.engine(0, &[(1, 0)], LIMITS, 1)?;
        let one = bench.engine(1, &[(1, 1)], LIMITS, 2)?;
        bench.start()?;
        assert!(soon(|| bench.log.seen.lock().len() == 1));
        bench.cancel(&one);
        fsleep(Delta::from_millis(20));
        assert_eq!(bench.done(), 0);
        // ORDERING: Relaxed: the flag orders no other memory access.
        bench.log.is_held.store(false, Relaxed);
        assert!(bench.is_done(2));
        // ORDERING: Relaxed: the number orders no other memory access.
        assert_eq!(bench.log.cancelled.load(Relaxed), 1);
        assert_eq!(bench.counts(), [2, 1, 1, 0]);
        Ok(())
    }
}
