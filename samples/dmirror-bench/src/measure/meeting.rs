// SPDX-License-Identifier: GPL-2.0

//! Workers (threads or processes) that begin together, and record their times.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::atomic::fence;
use std::thread;
use std::time::Instant;

use anyhow::Result;
use anyhow::ensure;
use dmirror_client::Region;

use super::bench::ns;

/// The phase of a worker that has failed, for which nobody waits.
const GONE: u64 = u64::MAX;

/// The data that the workers share, in memory that stays shared after fork.
#[derive(Debug)]
pub struct Meeting {
    words: Region,
    origin: Instant,
    workers: usize,
    samples: usize,
}

impl Meeting {
    /// Creates a meeting of `workers` workers for `samples` samples.
    ///
    /// # Errors
    ///
    /// The error of mmap.
    pub fn new(workers: usize, samples: usize) -> io::Result<Self> {
        let words = workers * (1 + 2 * samples);
        Ok(Self {
            words: Region::options(words.div_ceil(Region::words_per_page()))
                .shared()
                .map()?,
            origin: Instant::now(),
            workers,
            samples,
        })
    }

    /// Calls `work` for worker `worker` once per sample, each time together with all other workers.
    ///
    /// # Errors
    ///
    /// The first error of `work`; the others continue without this worker.
    pub fn attend(&self, worker: usize, mut work: impl FnMut() -> Result<()>) -> Result<()> {
        for sample in 0..self.samples {
            self.wait_for_all(worker, 2 * sample as u64 + 1);
            let start = ns(self.origin.elapsed());
            let answer = work();
            let end = ns(self.origin.elapsed());
            if answer.is_err() {
                self.leave(worker);
                return answer;
            }
            let [at_start, at_end] = self.times(worker, sample);
            self.words.store(at_start, start);
            self.words.store(at_end, end);
            // No worker closes a device while others work: test_hmm would bring back everything
            // that is on it.
            self.wait_for_all(worker, 2 * sample as u64 + 2);
        }
        Ok(())
    }

    /// Makes the others stop waiting for worker `worker`, which cannot continue.
    pub fn leave(&self, worker: usize) {
        self.words.store(worker, GONE);
    }

    /// Returns, for each sample, the time from the start of the first worker to the end of the last
    /// one, in nanoseconds.
    ///
    /// # Errors
    ///
    /// If a worker has not recorded its times.
    pub fn elapsed(&self) -> Result<Vec<u64>> {
        (0..self.samples)
            .map(|sample| {
                let times = (0..self.workers).map(|worker| self.times(worker, sample));
                let times: Vec<[u64; 2]> = times
                    .map(|[start, end]| [self.words.load(start), self.words.load(end)])
                    .collect();
                ensure!(
                    times.iter().all(|[_, end]| *end > 0),
                    "a worker did not end sample {sample}"
                );
                let start = times.iter().map(|[start, _]| *start).min().unwrap_or(0);
                let end = times.iter().map(|[_, end]| *end).max().unwrap_or(0);
                Ok(end - start)
            })
            .collect()
    }

    fn wait_for_all(&self, worker: usize, phase: u64) {
        // ORDERING: what a worker did before it arrived, all others see when they
        // go on; the words themselves are relaxed.
        fence(Ordering::SeqCst);
        self.words.store(worker, phase);
        while (0..self.workers).any(|other| self.words.load(other) < phase) {
            thread::yield_now();
        }
        // ORDERING: as above.
        fence(Ordering::SeqCst);
    }

    /// Returns the words for the start and the end of a sample, which follow those for phases.
    fn times(&self, worker: usize, sample: usize) -> [usize; 2] {
        let first = self.workers + 2 * (worker * self.samples + sample);
        [first, first + 1]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyhow::bail;

    use super::*;

    fn meet(work: impl Fn(usize) -> Result<()> + Sync) -> Result<Vec<u64>> {
        let meeting = Meeting::new(2, 3)?;
        thread::scope(|scope| {
            let others = scope.spawn(|| meeting.attend(1, || work(1)));
            let first = meeting.attend(0, || work(0));
            others.join().unwrap().and(first)
        })?;
        meeting.elapsed()
    }

    #[test]
    fn the_slowest_worker_counts() {
        let times = meet(|worker| {
            thread::sleep(Duration::from_millis(20 * worker as u64));
            Ok(())
        });
        let times = times.unwrap();
        assert_eq!(times.len(), 3);
        assert!(times.iter().all(|time| *time >= 20_000_000));
    }

    #[test]
    fn nobody_waits_for_a_worker_that_failed() {
        let answer = meet(|worker| match worker {
            0 => Ok(()),
            _ => bail!("it broke"),
        });
        assert_eq!(answer.unwrap_err().to_string(), "it broke");
    }
}
