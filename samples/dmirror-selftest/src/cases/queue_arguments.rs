// SPDX-License-Identifier: GPL-2.0

//! Arguments of the commands about queues: each wrong one returns the errno of the header.

use std::collections::BTreeSet;
use std::os::fd::AsRawFd;

use dmirror_client::Queue;
use dmirror_client::packet::{self, Opcode};
use dmirror_client::queue::{Access, Options, Outcome, Query, Request};

use super::engine::done_at;
use crate::prelude::*;
use crate::worker::{open, refused};

cases! { "queue":
    query = "QUERY says what the device has, and how much of its memory is free.",
    sizes = "A struct may be larger than the module knows, if what is too much is 0; not smaller.",
    request_size = "The size in the number of a request does not count.",
    unused_members = "Flags, and members that are not used, must be 0.",
    bad_struct = "A struct that cannot be accessed is EFAULT.",
    unknown_queue = "A number that is no queue of the open file is ENOENT.",
    create_arguments = "Engines, depths and eventfds that are none are refused.",
    submit_arguments = "No packets, too many, and crooked addresses are refused; nonsense that is none is the job's failure.",
    wait_arguments = "A job that was not submitted is EINVAL, one that is forgotten ENOENT.",
    sixty_four = "An open file has 64 queues, with a number each; then QUEUE_CREATE is EMFILE.",
}

/// Returns the word that holds two members of 4 bytes.
pub fn pair(first: u32, second: u32) -> u64 {
    let [[a, b, c, d], [e, f, g, h]] = [first, second].map(u32::to_ne_bytes);
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// Returns the two members of 4 bytes that a word holds.
fn unpair(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    [[a, b, c, d], [e, f, g, h]].map(u32::from_ne_bytes)
}

/// A valid call of a command, in which a test can make one thing wrong.
struct Call<'a> {
    worker: &'a Worker,
    request: Request,
    argument: Region,
}

impl<'a> Call<'a> {
    /// Creates a call that succeeds. QUEUE_DESTROY has a queue of its own, WAIT a job that has
    /// ended.
    fn good(worker: &'a Worker, request: Request) -> Result<Self> {
        let argument = Region::anonymous(2)?;
        let queue = worker.queue.number();
        let head = |flags| pair(request.size() as u32, flags);
        let words = match request {
            Request::Query => vec![head(0)],
            Request::QueueCreate => vec![head(0), pair(0, 1), pair(u32::MAX, 0)],
            Request::QueueDestroy => {
                let queue = worker.device.queue(Options::new(1))?;
                let number = queue.number();
                queue.abandon();
                vec![head(0), pair(number, 0)]
            }
            Request::Submit => vec![head(0), pair(queue, 1), worker.store(&[Packet::spin(0)])],
            Request::Wait => {
                let job = worker.submit(&[Packet::spin(0)])?;
                worker.outcome(job)?;
                vec![head(0), pair(queue, 0), job]
            }
            Request::Reset => vec![head(0), 0],
        };
        for (index, word) in words.into_iter().enumerate() {
            argument.store(index, word);
        }
        Ok(Self {
            worker,
            request,
            argument,
        })
    }

    fn store(&self, index: usize, word: u64) {
        self.argument.store(index, word);
    }

    /// Stores the size and the flags in the struct. The size is that of the module plus `more`.
    fn head(&self, more: isize, flags: u32) {
        let size = self.request.size().wrapping_add_signed(more);
        self.store(0, pair(size as u32, flags));
    }

    /// Sends the call, with the struct's size in the number of the request. Destroys the queue, or
    /// waits for the job, that it has made.
    fn send(&self) -> Result<(), Errno> {
        self.send_as(self.request.size())
    }

    fn send_as(&self, size: usize) -> Result<(), Errno> {
        let device = &self.worker.device;
        device.call_at(self.request.number(), size, &self.argument)?;
        match self.request {
            Request::QueueCreate => {
                let [_, number] = unpair(self.argument.load(2));
                device.queue_of_number(number).destroy()
            }
            Request::Submit => {
                let job = self.argument.load(3);
                self.worker.queue.wait(job, Some(PATIENCE)).map(drop)
            }
            _ => Ok(()),
        }
        .map_err(|error| error.errno)
    }
}

/// Changes a valid call of each command, and checks the answer.
fn each(
    context: &Context,
    expected: Result<(), Errno>,
    what: &str,
    change: impl Fn(&Call<'_>),
) -> Result<()> {
    let worker = Worker::new(context)?;
    for request in Request::ALL {
        let call = Call::good(&worker, request)?;
        change(&call);
        equal(&format!("{request} with {what}"), call.send(), expected)?;
    }
    worker.does(&[Packet::spin(0)])
}

fn query(WithEngines(device): WithEngines) -> Result<()> {
    let query = device.query()?;
    let known: u32 = Opcode::ALL.map(|opcode| 1 << opcode as u32).iter().sum();
    equal("opcodes", query.opcodes & known, known)?;
    let most = [query.engines, query.max_depth, query.max_packets];
    ensure!(!most.contains(&0), "engines, depth, packets: {most:?}");
    let as_fdinfo_says = |query: &Query| {
        let room = device.room()?.context("fdinfo says nothing")?;
        let bytes = |pages| pages * page_size() as u64;
        let expected = (bytes(room.pages), bytes(room.free_pages));
        equal("memory, free", (query.memory, query.free_memory), expected)
    };
    as_fdinfo_says(&query)?;
    let (_memory, then) = (Memory::resident(&device, 64)?, device.query()?);
    as_fdinfo_says(&then)?;
    let is_less = then.free_memory < query.free_memory;
    equal("whether less is free then", is_less, true)
}

fn sizes(context: &Context) -> Result<()> {
    let (small, large) = (Err(Errno::EINVAL), Err(Errno::E2BIG));
    each(context, small, "size 0", |call| call.store(0, 0))?;
    each(context, small, "a size too small", |call| call.head(-1, 0))?;
    for size in [8, 16, 1000] {
        each(context, Ok(()), "a larger size", |call| call.head(size, 0))?;
        each(context, large, "something more", |call| {
            call.head(size, 0);
            call.store((call.request.size() + size as usize) / 8 - 1, 1 << 63);
        })?;
    }
    for (what, size, expected) in [
        ("the largest size", 4096, Ok(())),
        ("a size too large", 4104, large),
    ] {
        each(context, expected, what, |call| call.store(0, pair(size, 0)))?;
    }
    Ok(())
}

fn request_size(worker: Worker) -> Result<()> {
    for request in Request::ALL {
        for size in [request.size() + 8, 1000] {
            let call = Call::good(&worker, request)?;
            let what = format!("{request} as one of {size} bytes");
            equal(&what, call.send_as(size), Ok(()))?;
        }
    }
    Ok(())
}

fn unused_members(context: &Context) -> Result<()> {
    let wrong = Err(Errno::EINVAL);
    for flags in [1, 1 << 31, u32::MAX] {
        each(context, wrong, "flags", |call| call.head(0, flags))?;
    }
    let worker = Worker::new(context)?;
    for (request, index) in [
        (Request::QueueDestroy, 1),
        (Request::Wait, 6),
        (Request::Reset, 1),
    ] {
        let call = Call::good(&worker, request)?;
        let [first, _] = unpair(call.argument.load(index));
        call.store(index, pair(first, 1));
        equal(&format!("{request}"), call.send(), wrong)?;
    }
    // Output members may have any value.
    let call = Call::good(&worker, Request::Wait)?;
    for index in [4, 5] {
        call.store(index, u64::MAX);
    }
    equal("WAIT", call.send(), Ok(()))
}

fn bad_struct(worker: Worker) -> Result<()> {
    let bad = |request, protection| -> Result<()> {
        let call = Call::good(&worker, request)?;
        call.argument.protect(0..1, protection)?;
        let what = format!("{request}, its struct with {protection:?}");
        equal(&what, call.send(), Err(Errno::EFAULT))
    };
    Request::ALL
        .into_iter()
        .try_for_each(|request| bad(request, Protection::None))?;
    bad(Request::Query, Protection::Read)?;
    worker.does(&[Packet::spin(0)])
}

/// Checks that all commands for a queue that does not exist return ENOENT.
fn is_unknown(what: &str, device: &Device, number: u32, at: u64) -> Result<()> {
    let (queue, none) = (device.queue_of_number(number), Errno::ENOENT);
    refused(&format!("SUBMIT to {what}"), queue.submit(at, 1), none)?;
    let wait = queue.wait(1, Some(PATIENCE));
    refused(&format!("WAIT for {what}"), wait, none)?;
    refused(&format!("QUEUE_DESTROY of {what}"), queue.destroy(), none)
}

fn unknown_queue(context: &Context, worker: Worker) -> Result<()> {
    let at = worker.store(&[Packet::spin(0)]);
    is_unknown("the last number", &worker.device, u32::MAX, at)?;
    let gone = worker.device.queue(Options::new(1))?;
    let number = gone.number();
    gone.destroy()?;
    is_unknown("one that is gone", &worker.device, number, at)?;
    let (other, number) = (context.open()?, worker.queue.number());
    is_unknown("one of another file", &other, number, at)?;
    worker.does(&[Packet::spin(0)])
}

fn create_arguments(context: &Context, WithEngines(device): WithEngines) -> Result<()> {
    let query = device.query()?;
    let of_engine = |engine| Options::new(1).engine(engine);
    for (what, options) in [
        ("an engine too many", of_engine(query.engines)),
        ("no such engine", of_engine(u32::MAX - 1)),
        ("no depth", Options::new(0)),
        ("a depth too large", Options::new(query.max_depth + 1)),
        ("the largest depth there is", Options::new(u32::MAX)),
    ] {
        refused(what, device.queue(options), Errno::EINVAL)?;
    }
    for engine in 0..query.engines {
        device.queue(of_engine(engine))?;
    }
    device.queue(Options::new(query.max_depth))?;

    let worker = Worker::new(context)?;
    let file = worker.device.file()?;
    for (what, fd, errno) in [
        ("a negative descriptor", -2, Errno::EBADF),
        ("a descriptor that is none", 1 << 20, Errno::EBADF),
        ("a descriptor of a device", file.as_raw_fd(), Errno::EINVAL),
    ] {
        let call = Call::good(&worker, Request::QueueCreate)?;
        call.store(2, pair(fd as u32, 0));
        equal(what, call.send(), Err(errno))?;
    }
    Ok(())
}

fn submit_arguments(worker: Worker) -> Result<()> {
    let most = worker.device.query()?.max_packets;
    let at = worker.store(&[Packet::spin(0), Packet::default()]);
    for (what, at, npackets) in [
        ("no packets", at, 0),
        ("a packet too many", at, most + 1),
        ("as many packets as there are numbers", at, u32::MAX),
        ("an address by 1 off", at + 1, 1),
        ("an address by 8 off", at + 8, 1),
        ("an address by 32 off", at + 32, 1),
    ] {
        refused(what, worker.queue.submit(at, npackets), Errno::EINVAL)?;
    }
    let fault = |at| Outcome::failed(0, Errno::EFAULT, Access::Fetch, at);
    let bad = Outcome::failed(1, Errno::EINVAL, Access::None, at + 64);
    for (at, npackets, expected) in [
        (0, 1, fault(0)),
        (1 << 63, most, fault(1 << 63)),
        (u64::MAX - 63, most, fault(u64::MAX - 63)),
        (at, most, bad),
    ] {
        let job = worker.queue.submit(at, npackets)?;
        equal(&format!("job at {at:#x}"), worker.outcome(job)?, expected)?;
    }
    worker.does(&[Packet::spin(0)])
}

fn wait_arguments(context: &Context) -> Result<()> {
    const DEPTH: u64 = 3;
    let worker = Worker::of(open(context)?, Options::new(DEPTH as u32))?;
    let wait = |job| worker.queue.wait(job, Some(PATIENCE));
    for job in [0, 1, u64::MAX] {
        refused("a job before there is any", wait(job), Errno::EINVAL)?;
    }
    for_all(1..=3 * DEPTH, |number| {
        let job = worker.submit(&[Packet::spin(0)])?;
        equal("number of the job", job, number)?;
        equal("outcome", wait(job)?, Outcome::done(1))?;
        for old in 1..=job {
            let answer = wait(old);
            match job - old < DEPTH {
                true => equal("outcome again", answer?, Outcome::done(1))?,
                false => refused("a job long ago", answer, Errno::ENOENT)?,
            }
        }
        refused("the next job", wait(job + 1), Errno::EINVAL)
    })
}

fn sixty_four(context: &Context) -> Result<()> {
    const MOST: usize = 64;
    let device = open(context)?;
    let create = |device: &Device| device.queue(Options::new(1));
    let queues = (0..MOST).map(|_| create(&device));
    let mut queues = queues.collect::<Result<Vec<_>, _>>()?;
    let numbers: BTreeSet<u32> = queues.iter().map(Queue::number).collect();
    equal("different numbers", numbers.len(), MOST)?;
    for _ in 0..2 {
        refused("one more", create(&device), Errno::EMFILE)?;
        // Another open file has the same limit for itself.
        create(&context.open()?)?;
        drop(queues.pop());
        queues.push(create(&device)?);
    }
    let code = Region::anonymous(1)?;
    let at = packet::store(&code, 0, &[Packet::spin(0)]);
    queues.iter().try_for_each(|queue| {
        done_at(queue, at, 1).with_context(|| format!("queue {}", queue.number()))
    })
}
