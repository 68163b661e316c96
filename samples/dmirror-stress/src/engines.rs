// SPDX-License-Identifier: GPL-2.0

//! The queues of this process, and the counters that engines and the CPU add to.

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

/// The time limit for a job.
const PATIENCE: Duration = Duration::from_secs(200);

/// The number of pages that hold the counters, in turn.
const PAGES: usize = 2;

/// The queues and the counters.
pub struct Engines {
    queues: [Option<Queue>; QUEUES],
    counters: Region,
    /// The packets of additions, used in turn: at least as many as can be in flight.
    code: Region,
    turn: usize,
}

impl Engines {
    /// Maps counters that are 0, and creates no queue.
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
            // The queues of one handle use several engines.
            let engine = (queue / HANDLES) as u32 % engines.max(1);
            let options = queue::Options::new(DEPTH as u32).engine(engine);
            let made = device.queue(options).map_err(|error| error.errno)?;
            self.queues[queue] = Some(made);
        }
        self.queues[queue].as_ref().ok_or(Errno::ENOENT)
    }

    /// Submits packets to an engine; creates the queue on `device` if there is none.
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

    /// Waits for a job; returns its outcome.
    pub fn wait(&self, queue: usize, job: u64) -> Result<queue::Outcome, Errno> {
        let queue = self.queues[queue].as_ref().ok_or(Errno::ENOENT)?;
        let outcome = queue.wait(job, Some(PATIENCE));
        outcome.map_err(|error| error.errno)
    }

    /// Destroys a queue, if there is one.
    pub fn destroy(&mut self, queue: usize) -> Result<(), Errno> {
        let ended = self.queues[queue].take().map_or(Ok(()), Queue::destroy);
        ended.map_err(|error| error.errno)
    }

    /// Returns the address and the width of a counter.
    fn place(&self, counter: usize) -> (u64, Width) {
        let offset = self.word(counter) * size_of::<u64>();
        let width = match counter < COUNTERS / 2 {
            true => Width::Eight,
            false => Width::Four,
        };
        (self.counters.addr() + offset as u64, width)
    }

    /// Returns the index of the 8-byte word that is a counter, or whose first half is one.
    fn word(&self, counter: usize) -> usize {
        counter % PAGES * Region::words_per_page() + counter / PAGES
    }

    /// Makes an engine add to a counter; returns the job number.
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

    /// Adds to a counter with the CPU, and then moves the pages or makes them exclusive.
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
        // Ignore the answer: only the sum is checked.
        let _ = device.call(command, self.counters.addr(), PAGES as u64, buffer);
    }

    /// Returns the word of a counter: for one of 4 bytes also the 4 bytes behind it.
    pub fn counter(&self, counter: usize) -> u64 {
        self.counters.load(self.word(counter))
    }
}
