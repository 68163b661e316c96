// SPDX-License-Identifier: GPL-2.0

//! Engines that access the memory of another process without changing it.

use std::time::Duration;

use dmirror_client::Packet;
use dmirror_client::PageRange;
use dmirror_client::Queue;
use dmirror_client::attach::Space;
use dmirror_client::packet;
use dmirror_client::packet::Width;
use dmirror_client::page_size;
use dmirror_client::queue::Options;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::Touch;

/// The most packets of a job, which all fit in front of the last word of the page.
const MOST: usize = 60;

/// The time for a job before the next process has its turn. The job goes on.
const TURN: Duration = Duration::from_millis(500);

/// An engine's queue for one process, and the address of its packets.
#[derive(Debug)]
pub struct Toucher {
    queue: Queue,
    code: u64,
    /// A job that did not end in its turn.
    late: Option<u64>,
}

impl Toucher {
    /// Creates a queue for a process that has a page for packets. Returns `None` if it has no such
    /// page, or if no queue can be created.
    pub fn new(space: &Space) -> Option<Self> {
        Some(Self {
            code: space.code?,
            queue: space.device.queue(Options::new(2)).ok()?,
            late: None,
        })
    }

    /// Makes an engine access some of `runs`, and waits for a while. Ignores failed jobs: the
    /// program has unmapped their memory.
    pub fn touch(&mut self, space: &Space, runs: &[PageRange], how: Touch, dice: &mut ChaCha8Rng) {
        if let Some(job) = self.late.take() {
            if self.queue.wait(job, Some(TURN)).is_err() {
                self.late = Some(job);
                return;
            }
        }
        let own = self.code..self.code + page_size() as u64;
        let others = runs.iter().filter(|run| !own.contains(&run.addr()));
        let others: Vec<PageRange> = others.copied().collect();
        let result = own.end - 8;
        let mut packets = Vec::new();
        match how {
            Touch::None => {}
            Touch::Stream => packets.extend(
                others
                    .iter()
                    .map(|run| Packet::sum(result, run.addr(), run.bytes())),
            ),
            Touch::Random | Touch::Atomic => {
                for _ in 0..others.len().min(MOST) {
                    let run = others[dice.random_range(0..others.len())];
                    let page = dice.random_range(0..run.pages());
                    let addr = run.addr() + page * page_size() as u64;
                    packets.push(match how {
                        Touch::Atomic => {
                            let word = addr + 8 * dice.random_range(0..page_size() as u64 / 8);
                            Packet::add(Width::Eight, word, 0, 1, 0)
                        }
                        _ => Packet::sum(result, addr, page_size() as u64),
                    });
                }
            }
        }
        for job in packets.chunks(MOST) {
            // The process may have ended.
            if space.write(self.code, &packet::bytes(job)).is_err() {
                return;
            }
            // CAST: At most MOST.
            let Ok(job) = self.queue.submit(self.code, job.len() as u32) else {
                return;
            };
            if self.queue.wait(job, Some(TURN)).is_err() {
                self.late = Some(job);
                return;
            }
        }
    }
}
