// SPDX-License-Identifier: GPL-2.0

//! The queues of this process, and the words that their engines and it add to.

use std::io;
use std::time::Duration;

use dmirror_client::Command;
use dmirror_client::Device;
use dmirror_client::Errno;
use dmirror_client::Packet;
use dmirror_client::Queue;
use dmirror_client::Region;
use dmirror_client::device::Buffer;
use dmirror_client::packet;
use dmirror_client::packet::Width;
use dmirror_client::page_size;
use dmirror_client::queue;

use crate::flight::DEPTH;
use crate::op::COUNTERS;
use crate::op::HANDLES;
use crate::op::QUEUES;
use crate::world::Add;

/// How long a job may take.
const PATIENCE: Duration = Duration::from_secs(200);

/// Pages that counters are on, by turns.
const PAGES: usize = 2;

/// Queues, and counters.
pub struct Engines {
    queues: [Option<Queue>; QUEUES],
    counters: Region,
    /// The packets of additions, by turns: as many as can fly.
    code: Region,
    turn: usize,
}

impl Engines {
    /// No queue, and counters that are 0.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            queues: [const { None }; QUEUES],
            counters: Region::anonymous(PAGES)?,
            code: Region::anonymous(1)?,
            turn: 0,
        })
    }

    fn queue(&mut self, queue: usize, device: &Device) -> Result<&Queue, Errno> {
        if self.queues[queue].is_none() {
            let engines = device.query().map_err(|error| error.errno)?.engines;
            // One handle's queues are on several engines.
            let engine = (queue / HANDLES) as u32 % engines.max(1);
            let options = queue::Options::new(DEPTH as u32).engine(engine);
            let made = device.queue(options).map_err(|error| error.errno)?;
            self.queues[queue] = Some(made);
        }
        self.queues[queue].as_ref().ok_or(Errno::ENOENT)
    }

    /// Has an engine execute packets; makes the queue on `device` if there is none.
    pub fn submit(
        &mut self,
        queue: usize,
        device: &Device,
        packets: u64,
        npackets: u32,
    ) -> Result<u64, Errno> {
        let queue = self.queue(queue, device)?;
        let job = queue.submit(packets, npackets);
        job.map_err(|error| error.errno)
    }

    /// Waits for a job.
    pub fn wait(&self, queue: usize, job: u64) -> Result<queue::Outcome, Errno> {
        let queue = self.queues[queue].as_ref().ok_or(Errno::ENOENT)?;
        let outcome = queue.wait(job, Some(PATIENCE));
        outcome.map_err(|error| error.errno)
    }

    /// Ends a queue, if there is one.
    pub fn destroy(&mut self, queue: usize) -> Result<(), Errno> {
        let ended = self.queues[queue].take().map_or(Ok(()), Queue::destroy);
        ended.map_err(|error| error.errno)
    }

    /// The address of a counter, and how wide it is.
    fn place(&self, counter: usize) -> (u64, Width) {
        let offset = self.word(counter) * size_of::<u64>();
        let width = match counter < COUNTERS / 2 {
            true => Width::Eight,
            false => Width::Four,
        };
        (self.counters.addr() + offset as u64, width)
    }

    /// The word of 8 bytes that a counter is, or the first half of.
    fn word(&self, counter: usize) -> usize {
        counter % PAGES * Region::words_per_page() + counter / PAGES
    }

    /// Has an engine add to a counter.
    pub fn count(
        &mut self,
        queue: usize,
        device: &Device,
        counter: usize,
        add: &Add,
    ) -> Result<u64, Errno> {
        let (word, width) = self.place(counter);
        let packet = Packet::add(width, word, add.value, add.times, 0);
        self.turn = (self.turn + 1) % (page_size() / Packet::SIZE);
        let at = packet::store(&self.code, self.turn * Packet::SIZE, &[packet]);
        self.submit(queue, device, at, 1)
    }

    /// A processor adds to a counter, and then has the pages go elsewhere.
    pub fn add(&self, device: &Device, counter: usize, add: &Add) {
        for _ in 0..add.times {
            self.counters.fetch_add(self.word(counter), add.value);
        }
        let mut view = vec![0; PAGES * page_size()];
        let (command, buffer) = match add.times % 4 {
            0 => (Command::MigrateToSystem, Buffer::Null),
            1 => (Command::Exclusive, Buffer::Output(&mut view)),
            _ => (Command::MigrateToDevice, Buffer::Output(&mut view)),
        };
        // Whatever the answer is: the sum is looked at.
        let _ = device.call(command, self.counters.addr(), PAGES as u64, buffer);
    }

    /// What a counter holds, and perhaps what is behind it.
    pub fn counter(&self, counter: usize) -> u64 {
        self.counters.load(self.word(counter))
    }
}
