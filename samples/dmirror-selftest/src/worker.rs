// SPDX-License-Identifier: GPL-2.0

//! Engines at work: a queue and room for packets, memory of each kind that an engine can meet, and
//! the comparison with the interpreter, byte for byte.

use std::fmt::Display;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use dmirror_client::interpreter::Image;
use dmirror_client::queue::{Access, Options, Outcome};
use dmirror_client::region::Protection;
use dmirror_client::{
    Device, Errno, Packet, Queue, QueueError, Region, hpage_pmd_nr, hpage_pmd_size, interpreter,
    packet, page_size,
};

use crate::check::{equal, needs_ours, skip};
use crate::context::Context;
use crate::memory::Memory;

/// The time limit of a short job.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The time limit of an operation that must not wait for a job of [`LONG`].
pub const SOON: Duration = Duration::from_secs(9);

/// The nanoseconds of a spin that lasts until it is cancelled, or has taken too long.
pub const LONG: u64 = Packet::LONGEST_SPIN;

/// The number of pages for packets.
const CODE: usize = 16;

/// Opens a device with engines, or skips.
pub fn open(context: &Context) -> Result<Device> {
    needs_ours("engines")?;
    context.open()
}

/// Opens a device with at least two engines, or skips.
pub fn open_with_two(context: &Context) -> Result<Device> {
    let device = open(context)?;
    match device.query()?.engines {
        0 | 1 => skip("needs two engines: modprobe with a larger number of them"),
        _ => Ok(device),
    }
}

/// Checks that a command about queues failed with `errno`.
pub fn refused<T>(what: &str, answer: Result<T, QueueError>, errno: Errno) -> Result<()> {
    match answer {
        Ok(_) => bail!("{what}: expected {errno:?}, seen success"),
        Err(error) => equal(what, error.errno, errno),
    }
}

/// Checks that something takes less than [`SOON`].
pub fn soon<T>(what: &str, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let result = body()?;
    let took = start.elapsed();
    ensure!(took < SOON, "{what} took {took:.1?}");
    Ok(result)
}

/// A thread of the kernel that works for a device: an engine, or the handler of faults.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Thread {
    /// The name: `dmirrorN/ENGINE`, or `dmirrorN/f` for the handler of faults.
    pub name: String,
    /// The process ID.
    pub pid: i32,
}

/// Returns the threads that work for devices, by name. They end when the module is unloaded.
pub fn threads() -> Result<Vec<Thread>> {
    let mut threads = Vec::new();
    for process in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|pid| pid.parse().ok())
        else {
            continue;
        };
        // The process may have ended.
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        let name = name.trim_end().to_owned();
        let is_ours = name.strip_prefix("dmirror");
        if is_ours.is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit())) {
            threads.push(Thread { name, pid });
        }
    }
    threads.sort();
    Ok(threads)
}

/// Returns the thread of engine `engine` of the device under test, or with `f` the handler of its
/// faults. An engine has a thread after its first queue.
pub fn thread_of(engine: impl Display) -> Result<Thread> {
    let name = format!("dmirror0/{engine}");
    match threads()?.into_iter().find(|thread| thread.name == name) {
        Some(thread) => Ok(thread),
        None => bail!("there is no thread {name}"),
    }
}

/// A queue, and memory for the packets of its jobs.
#[derive(Debug)]
pub struct Worker {
    /// The open device.
    pub device: Device,
    /// The queue.
    pub queue: Queue,
    /// The packets.
    pub code: Region,
    /// The place for the next packets, counted in packets.
    next: AtomicUsize,
}

impl Worker {
    /// Opens the device, and creates a queue on any engine.
    pub fn new(context: &Context) -> Result<Self> {
        Self::of(open(context)?, Options::new(4))
    }

    /// Opens the device, and creates a queue on engine `engine`.
    pub fn on(context: &Context, engine: u32) -> Result<Self> {
        Self::of(open(context)?, Options::new(4).engine(engine))
    }

    /// Creates a queue with `options`.
    pub fn of(device: Device, options: Options<'_>) -> Result<Self> {
        Ok(Self {
            queue: device.queue(options)?,
            device,
            code: Region::options(CODE).huge(false).map()?,
            next: AtomicUsize::new(0),
        })
    }

    /// Stores packets in the place that was unused for longest, and returns the address of the
    /// first.
    pub fn store(&self, packets: &[Packet]) -> u64 {
        let room = (CODE - 1) * page_size() / Packet::SIZE;
        let count = packets.len();
        let start = |next: usize| match next % room + count <= room {
            true => next,
            false => next.next_multiple_of(room),
        };
        // ORDERING: only the number counts.
        let order = Ordering::Relaxed;
        let taken = self
            .next
            .fetch_update(order, order, |next| Some(start(next) + count));
        let next = start(taken.unwrap_or_else(|next| next)) % room;
        packet::store(&self.code, next * Packet::SIZE, packets)
    }

    /// Returns the address of a page for the results of packets.
    pub fn result(&self) -> u64 {
        self.code.addr() + ((CODE - 1) * page_size()) as u64
    }

    /// Stores packets for another process, which has the queue but not the memory of this process.
    pub fn prepare(self, packets: &[Packet]) -> Work {
        Work {
            packets: self.store(packets),
            count: packets.len() as u32,
            worker: self,
        }
    }

    /// Submits packets for one execution; returns the number of the job.
    pub fn submit(&self, packets: &[Packet]) -> Result<u64> {
        let at = self.store(packets);
        Ok(self.queue.submit(at, packets.len() as u32)?)
    }

    /// Waits for a job, for at most [`PATIENCE`], and returns its outcome.
    pub fn outcome(&self, job: u64) -> Result<Outcome> {
        Ok(self.queue.wait(job, Some(PATIENCE))?)
    }

    /// Submits packets, waits for the job, and returns its outcome.
    pub fn run(&self, packets: &[Packet]) -> Result<Outcome> {
        self.outcome(self.submit(packets)?)
    }

    /// Submits packets, waits for the job, and checks that all succeed.
    pub fn does(&self, packets: &[Packet]) -> Result<()> {
        let expected = Outcome::done(packets.len() as u64);
        equal("what became of a job", self.run(packets)?, expected)
    }

    /// Submits packets again and again, in jobs that loop by a JUMP, until one fails or `enough`
    /// returns true; returns the last outcome. The packets lie at the end of `code`, so that those
    /// of other jobs stay.
    pub fn repeat(&self, packets: &[Packet], enough: impl Fn() -> bool) -> Result<Outcome> {
        let room = CODE * page_size();
        let offset = room - (packets.len() + 1) * Packet::SIZE;
        let start = self.code.addr() + offset as u64;
        let loop_ = [packets, &[Packet::jump(start)]].concat();
        packet::store(&self.code, offset, &loop_);
        // A larger job would delay the next call of `enough`.
        let most = self.device.query()?.max_packets.min(500);
        loop {
            let outcome = self.outcome(self.queue.submit(start, most)?)?;
            if outcome.error.is_some() || enough() {
                return Ok(outcome);
            }
        }
    }

    /// Executes packets with the engine and with the interpreter. Checks that both have the same
    /// outcome and leave the same data in `regions`, of which `image` is a copy. Returns the
    /// outcome.
    pub fn compare(
        &self,
        what: &str,
        image: &mut Image,
        regions: &[&Region],
        packets: &[Packet],
    ) -> Result<Outcome> {
        let at = self.store(packets);
        self.compare_at(what, image, regions, (at, packets))
    }

    /// Like [`compare`](Self::compare), for packets that are already stored at an address.
    pub fn compare_at(
        &self,
        what: &str,
        image: &mut Image,
        regions: &[&Region],
        (at, packets): (u64, &[Packet]),
    ) -> Result<Outcome> {
        image.map(at, &packet::bytes(packets), Protection::Read);
        let expected = interpreter::run(image, at, packets.len() as u64);
        let job = self.queue.submit(at, packets.len() as u32)?;
        let seen = self.outcome(job)?;
        equal(&format!("{what}: outcome"), seen, expected)?;
        same(what, image, regions)?;
        Ok(seen)
    }
}

/// A job that runs until it is stopped, or for minutes if it is not.
#[derive(Debug)]
pub struct Endless<'w> {
    worker: &'w Worker,
    /// The number of the job.
    pub job: u64,
    /// The address of the packet that a CPU changes to end the job.
    last: u64,
}

impl Worker {
    /// Submits packets in a loop, with a pause in each round, until the job is stopped.
    pub fn endless(&self, packets: &[Packet]) -> Result<Endless<'_>> {
        let moment = Packet::spin(5_000_000);
        let places = vec![Packet::default(); packets.len() + 2];
        let start = self.store(&places);
        let loop_ = [packets, &[moment, Packet::jump(start)]].concat();
        packet::store(&self.code, (start - self.code.addr()) as usize, &loop_);
        let most = self.device.query()?.max_packets;
        Ok(Endless {
            worker: self,
            job: self.queue.submit(start, most)?,
            last: start + ((loop_.len() - 1) * Packet::SIZE) as u64,
        })
    }
}

impl Endless<'_> {
    /// Changes the last packet of the job to one that no engine accepts.
    pub fn stop(&self) {
        let code = &self.worker.code;
        code.store((self.last - code.addr()) as usize / size_of::<u64>(), 0);
    }

    /// Checks that an outcome is that of a job which [`Self::stop`] has ended.
    pub fn is_stopped(&self, outcome: Outcome) -> Result<()> {
        let expected = Outcome::failed(outcome.executed, Errno::EINVAL, Access::None, self.last);
        equal("outcome of an endless job", outcome, expected)
    }

    /// Stops the job, waits for it, and checks its outcome.
    pub fn end(self) -> Result<()> {
        self.stop();
        self.is_stopped(self.worker.outcome(self.job)?)
    }
}

/// Stored packets, ready to be executed.
#[derive(Debug)]
pub struct Work {
    /// The worker that has stored the packets.
    pub worker: Worker,
    packets: u64,
    count: u32,
}

impl Work {
    /// Submits the packets, and waits for the job; works in a child process as well.
    pub fn run(&self) -> Result<Outcome> {
        let job = self.worker.queue.submit(self.packets, self.count)?;
        self.worker.outcome(job)
    }
}

/// Checks that memory holds, byte for byte, the data that the interpreter has left.
pub fn same(what: &str, image: &Image, regions: &[&Region]) -> Result<()> {
    for region in regions {
        let seen = region.to_bytes(0..region.pages());
        let Some(expected) = image.bytes(region.addr(), region.len()) else {
            bail!("{what}: there is no copy of {region:?}");
        };
        if let Some(at) = (0..seen.len()).find(|&at| seen[at] != expected[at]) {
            let (seen, expected) = (seen[at], expected[at]);
            bail!("{what}: byte {at:#x} of {region:?} is {seen:#04x}, not {expected:#04x}");
        }
    }
    Ok(())
}

/// The state of memory when an engine accesses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In small pages.
    Small,
    /// In a huge page.
    Huge,
    /// A file in memory, shared.
    Shared,
    /// Never touched.
    Untouched,
    /// On the device, in small pages.
    Resident,
    /// Every other run of pages is on the device.
    HalfResident,
    /// On the device, in a huge page.
    ResidentHuge,
    /// Exclusive to the device.
    Exclusive,
    /// On the other device.
    Elsewhere,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::Small,
        Self::Huge,
        Self::Shared,
        Self::Untouched,
        Self::Resident,
        Self::HalfResident,
        Self::ResidentHuge,
        Self::Exclusive,
        Self::Elsewhere,
    ];

    /// The number of pages of memory without huge pages.
    const PAGES: usize = 16;

    /// Creates memory of this kind, and a copy of it.
    pub fn make(self, context: &Context, device: &Device) -> Result<(Memory, Image)> {
        let huge = matches!(self, Self::Huge | Self::ResidentHuge);
        let pages = if huge { hpage_pmd_nr() } else { Self::PAGES };
        let options = Region::options(pages).align(hpage_pmd_size());
        let memory = Memory::of(match self {
            Self::Shared => options.shared().map()?,
            _ => options.huge(huge).map()?,
        });
        let mut image = Image::default();
        if self == Self::Untouched {
            let zeroes = vec![0; memory.region.len()];
            image.map(memory.region.addr(), &zeroes, Protection::ReadWrite);
            return Ok((memory, image));
        }
        memory.fill(memory.all());
        image.map_region(&memory.region, memory.all(), Protection::ReadWrite);
        match self {
            Self::Resident | Self::ResidentHuge => memory.move_out(device, memory.all())?,
            Self::HalfResident => {
                for page in (0..pages).step_by(4) {
                    memory.move_out(device, page..page + 2)?;
                }
            }
            Self::Exclusive => {
                let mut view = vec![0; memory.region.len()];
                device.exclusive(memory.region.range(), &mut view)?;
            }
            Self::Elsewhere => memory.move_out(&context.open_second()?, memory.all())?,
            Self::Small | Self::Huge | Self::Shared | Self::Untouched => {}
        }
        Ok((memory, image))
    }
}

/// Executes the packets that `packets` makes for an address, with the engine, over memory of each
/// kind, and compares with the interpreter.
pub fn over_each_kind(context: &Context, packets: impl Fn(u64) -> Vec<Packet>) -> Result<()> {
    let worker = Worker::new(context)?;
    for kind in Kind::ALL {
        let (memory, mut image) = kind.make(context, &worker.device)?;
        let packets = packets(memory.region.addr());
        let regions = [&memory.region];
        worker.compare(&format!("{kind:?}"), &mut image, &regions, &packets)?;
    }
    Ok(())
}
