// SPDX-License-Identifier: GPL-2.0

//! Jobs in queues: their order, waits for them, and their end when a queue, a file, or a process
//! ends before them.

use std::os::fd::AsFd;

use dmirror_client::queue::{Access, Options, Outcome};
use dmirror_client::{EventFd, packet};
use nix::sys::eventfd::EfdFlags;

use super::engine::{done_at, words_are};
use crate::prelude::*;
use crate::worker::{LONG, open, open_with_two, refused, soon};

cases! { "queue":
    full = "A queue that holds as many jobs as its depth takes no more until one has ended.",
    fifo = "Jobs of one queue run one after the other, in the order of SUBMIT; a failed one stops none.",
    timeouts = "WAIT ends when its time is over, and not before; with time 0 at once.",
    eventfd = "An eventfd gets 1 for each job that ends, whatever became of it, also after its descriptor was closed.",
    takes_turns = "An engine takes the queues that it has by turns, a job at a time.",
    two_engines = "A queue of one engine does not wait for a job of the other.",
    many_waiters = "Threads that wait for one job all learn what became of it.",
    destroyed = "QUEUE_DESTROY cancels the job that runs, drops those that wait, and sends waiters away.",
    destroyed_again = "A thousand queues that are made and destroyed with work in them leave the engines free.",
    closed = "Closing the file with work in it ends the work, and does not wait.",
    killed = "A process that is killed with work in its queues ends at once, and leaves nothing on the device.",
    inherited = "A child submits to its parent's queue; packets and data are those of the parent.",
    opener_gone = "When the opener has ended, jobs fail at their first packet.",
    as_32_bit_program = "A 32-bit program makes, uses and ends queues as others do.",
    queues_of_threads = "Threads with a queue each, on all engines, all get what they asked for.",
}

/// A short time in nanoseconds.
const SHORT: u64 = 50_000_000;

/// Returns a packet that records the order of jobs: it takes a ticket at the first word of a page,
/// and puts it at word `nth`.
pub fn ticket(desk: &Region, nth: usize) -> Packet {
    let at = desk.addr();
    Packet::add(Width::Eight, at, 1, 1, at + 8 * nth as u64)
}

/// Returns a packet that fails for every third `nth`, and else takes some nanoseconds.
fn third_fails(nth: usize, nanoseconds: u64) -> Packet {
    if nth % 3 == 0 {
        Packet::default()
    } else {
        Packet::spin(nanoseconds)
    }
}

/// Creates a queue that holds `most` jobs, or as many as it can; returns it with their number.
fn deep(context: &Context, most: usize, engine: Option<u32>) -> Result<(Worker, usize)> {
    let device = open(context)?;
    let depth = device.query()?.max_depth.min(most as u32);
    let options = Options::new(depth);
    let options = engine.map_or(options, |engine| options.engine(engine));
    Ok((Worker::of(device, options)?, depth as usize))
}

/// Creates an eventfd that does not block.
pub fn counter() -> Result<EventFd> {
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    Ok(EventFd::from_flags(flags)?)
}

/// Waits for events of an eventfd, and returns their number.
pub fn events(of: &EventFd) -> Result<u64> {
    let start = Instant::now();
    loop {
        match of.read() {
            Err(Errno::EAGAIN) if start.elapsed() < PATIENCE => thread::yield_now(),
            answer => return answer.context("an event"),
        }
    }
}

/// Waits until an eventfd has had `jobs` events, and checks that there are no more.
pub fn told(of: &EventFd, jobs: u64) -> Result<()> {
    let mut seen = 0;
    while seen < jobs {
        let more = events(of).with_context(|| format!("expected {jobs} events, seen {seen}"))?;
        seen += more;
    }
    equal("events", seen, jobs)?;
    equal("one event more", of.read(), Err(Errno::EAGAIN))
}

fn full(context: &Context) -> Result<()> {
    for depth in [1, 4] {
        let worker = Worker::of(open(context)?, Options::new(depth))?;
        let other = worker.device.queue(Options::new(depth))?;
        let at = worker.store(&[Packet::spin(LONG)]);
        for _ in 0..depth {
            worker.queue.submit(at, 1)?;
        }
        for _ in 0..2 {
            refused("a job too many", worker.queue.submit(at, 1), Errno::EAGAIN)?;
        }
        other.submit(at, 1)?; // that has room of its own
    }
    let worker = Worker::of(open(context)?, Options::new(2))?;
    let first = worker.submit(&[Packet::spin(SHORT)])?;
    worker.submit(&[Packet::spin(0)])?;
    worker.outcome(first)?;
    worker.does(&[Packet::spin(0)])
}

fn fifo(context: &Context) -> Result<()> {
    let (worker, depth) = deep(context, 16, None)?;
    let data = Region::anonymous(1)?;
    let mut jobs = Vec::new();
    for nth in 1..=depth {
        // A job that fails has its ticket by then.
        jobs.push(worker.submit(&[ticket(&data, nth), third_fails(nth, 100_000)])?);
    }
    for_all((1..).zip(jobs), |(nth, job)| {
        let seen = (worker.outcome(job)?.executed, data.load(nth));
        let expected = (if nth % 3 == 0 { 1 } else { 2 }, nth as u64 - 1);
        equal(&format!("packets, ticket of job {nth}"), seen, expected)
    })
}

fn timeouts(context: &Context, worker: Worker) -> Result<()> {
    let job = worker.submit(&[Packet::spin(LONG)])?;
    for limit in [0, 1, 30, 200].map(Duration::from_millis) {
        let start = Instant::now();
        let answer = worker.queue.wait(job, Some(limit));
        let (took, what) = (start.elapsed(), format!("WAIT for {limit:?}"));
        refused(&what, answer, Errno::ETIME)?;
        let bounds = limit..limit + Duration::from_secs(5);
        ensure!(bounds.contains(&took), "{what} took {took:?}");
    }
    let worker = Worker::new(context)?;
    for_all([None, Some(PATIENCE), Some(Duration::MAX)], |limit| {
        let start = Instant::now();
        let job = worker.submit(&[Packet::spin(SHORT)])?;
        equal("outcome", worker.queue.wait(job, limit)?, Outcome::done(1))?;
        let took = start.elapsed();
        ensure!(took >= Duration::from_nanos(SHORT), "a spin took {took:?}");
        let again = worker.queue.wait(job, Some(Duration::ZERO))?;
        equal("outcome, without waiting", again, Outcome::done(1))
    })
}

fn eventfd(context: &Context) -> Result<()> {
    const JOBS: usize = 12;
    let events = counter()?;
    let copy = events.as_fd().try_clone_to_owned()?;
    let worker = Worker::of(open(context)?, Options::new(4).eventfd(copy.as_fd()))?;
    drop(copy);
    for nth in 0..JOBS {
        worker.run(&[third_fails(nth, 0)])?;
    }
    told(&events, JOBS as u64)?;
    // Another queue, without an eventfd, adds nothing.
    let other = worker.device.queue(Options::new(1))?;
    done_at(&other, worker.store(&[Packet::spin(0)]), 1)?;
    equal("an event of another", events.read(), Err(Errno::EAGAIN))
}

fn takes_turns(context: &Context) -> Result<()> {
    const JOBS: usize = 8;
    let (worker, depth) = deep(context, JOBS, Some(0))?;
    let other = worker.device.queue(Options::new(1).engine(0))?;
    let data = Region::anonymous(1)?;
    let mut last = 0;
    for nth in 1..=depth {
        last = worker.submit(&[Packet::spin(SHORT), ticket(&data, nth)])?;
    }
    done_at(&other, worker.store(&[ticket(&data, JOBS + 1)]), 1)?;
    worker.outcome(last)?;
    let (single, last) = (data.load(JOBS + 1), data.load(depth));
    // The job came late, but not behind all that were there.
    ensure!(depth < 4 || single < last, "ticket {single} of {last}");
    Ok(())
}

fn two_engines(context: &Context) -> Result<()> {
    let worker = Worker::of(open_with_two(context)?, Options::new(1).engine(0))?;
    let job = worker.submit(&[Packet::spin(LONG)])?;
    let at = worker.store(&[Packet::spin(0)]);
    // The first queue goes to an engine that has none.
    for options in [Options::new(1), Options::new(1).engine(1)] {
        let other = worker.device.queue(options)?;
        soon("work of another engine", || done_at(&other, at, 1))?;
    }
    let busy = worker.queue.wait(job, Some(Duration::ZERO));
    refused("the long job, meanwhile", busy, Errno::ETIME)
}

fn many_waiters(worker: Worker) -> Result<()> {
    let at = worker.store(&[Packet::spin(SHORT), Packet::default()]);
    let failed = Outcome::failed(1, Errno::EINVAL, Access::None, at + 64);
    for (packets, expected) in [(1, Outcome::done(1)), (2, failed)] {
        let job = worker.queue.submit(at, packets)?;
        thread::scope(|scope| {
            let wait = |_| scope.spawn(|| worker.outcome(job));
            let waiters: Vec<_> = (0..8).map(wait).collect();
            (waiters.into_iter()).try_for_each(|waiter| equal("outcome", joined(waiter)?, expected))
        })?;
    }
    Ok(())
}

/// Submits a job that runs for long, and others behind it that write 1 to the first words of
/// `data`.
fn busy(worker: &Worker, data: &Region) -> Result<Vec<u64>> {
    let mut jobs = vec![worker.submit(&[Packet::spin(LONG), Packet::fence(data.addr(), 1)])?];
    for nth in 1..4 {
        jobs.push(worker.submit(&[Packet::fence(data.addr() + 8 * nth, 1)])?);
    }
    Ok(jobs)
}

/// Checks that nothing of [`busy`] was done, and that an engine is free for others.
fn was_cancelled(context: &Context, data: &Region, engine: u32) -> Result<()> {
    Worker::serves(context, engine)?;
    words_are("a word of a job that was cancelled", data, 0..4, 0)
}

fn destroyed(context: &Context) -> Result<()> {
    let (worker, data) = (Worker::on(context, 0)?, Region::anonymous(1)?);
    let jobs = busy(&worker, &data)?;
    thread::scope(|scope| {
        let queue = &worker.queue;
        let wait = |job| scope.spawn(move || anyhow::Ok(queue.wait(job, Some(PATIENCE))));
        let waiters: Vec<_> = jobs.into_iter().map(wait).collect();
        thread::sleep(Duration::from_millis(200)); // so that they wait
        let ended = worker.device.queue_of_number(queue.number());
        soon("QUEUE_DESTROY", || Ok(ended.destroy()?))?;
        waiters
            .into_iter()
            .try_for_each(|waiter| match joined(waiter)? {
                Err(error) if matches!(error.errno, Errno::ENODEV | Errno::ENOENT) => Ok(()),
                answer => bail!("a waiter got {answer:?}"),
            })
    })?;
    let at = worker.store(&[Packet::spin(0)]);
    refused("SUBMIT then", worker.queue.submit(at, 1), Errno::ENOENT)?;
    was_cancelled(context, &data, 0)
}

fn destroyed_again(context: &Context, WithEngines(device): WithEngines) -> Result<()> {
    let before = Before::of(&device)?;
    let engines = device.query()?.engines;
    let memory = Memory::new(4)?;
    let range = memory.region.range();
    let code = Region::anonymous(1)?;
    let program = [
        Packet::prefetch(range.addr(), range.bytes()),
        Packet::random(code.addr() + 2048, range.addr(), range.bytes(), 1 << 40, 1),
    ];
    let at = packet::store(&code, 0, &program);
    for round in 0..1000 {
        let queue = device.queue(Options::new(4).engine(round % engines))?;
        for _ in 0..round % 5 {
            // The fifth job would be one too many.
            queue.submit(at, 2)?;
        }
        match round % 3 {
            0 => drop(queue),
            _ => queue.destroy()?,
        }
    }
    (0..engines).try_for_each(|engine| Worker::on(context, engine)?.does(&[Packet::spin(0)]))?;
    memory.intact()?;
    drop(memory);
    before.nothing_is_left(&device)
}

fn closed(context: &Context) -> Result<()> {
    let data = Region::anonymous(1)?;
    for_all(0..open(context)?.query()?.engines, |engine| {
        let worker = Worker::on(context, engine)?;
        busy(&worker, &data)?;
        let _code = worker.closes()?;
        was_cancelled(context, &data, engine)
    })
}

fn killed(context: &Context, WithEngines(device): WithEngines) -> Result<()> {
    let before = Before::of(&device)?;
    for_all(rounds(4).take(20), |round| {
        let started = Gate::new()?;
        let child = helper(|| {
            let worker = Worker::on(context, 0)?;
            let memory = Memory::resident(&worker.device, 64)?;
            let (addr, len) = (memory.region.addr(), memory.region.len() as u64);
            let packets = [Packet::fill(addr, len, 7), Packet::prefetch(addr, len)];
            started.open()?;
            match round % 2 {
                0 => worker.outcome(busy(&worker, &memory.region)?[3])?,
                _ => worker.repeat(&packets, || false)?,
            };
            bail!("the work has ended")
        })?;
        started.wait()?;
        thread::sleep(Duration::from_millis(10 * (round as u64 % 7)));
        soon("the end of a process", || child.kill())?;
        Worker::serves(context, 0)?;
        before.nothing_is_left(&device)
    })
}

fn inherited(worker: Worker) -> Result<()> {
    let data = Memory::new(2)?;
    let packet = Packet::fill(data.region.addr(), 4096, 7);
    let at = worker.store(&[packet]);
    in_child(|| {
        // The engine does not see the child's own packets.
        packet::store(&worker.code, 0, &[Packet::default()]);
        done_at(&worker.queue, at, 1)?;
        data.intact()
    })?;
    equal("the parent's word", data.region.load(511), 7)?;
    data.verify(1..2)?;
    worker.does(&[packet])
}

fn opener_gone(context: &Context) -> Result<()> {
    let parent = || {
        let worker = Worker::new(context)?;
        worker.does(&[Packet::spin(0)])?;
        Ok(worker)
    };
    outlived(parent, no_fetch)
}

/// Checks that a job fails at its first packet, since its memory is gone.
pub fn no_fetch(worker: &Worker) -> Result<()> {
    let at = worker.store(&[Packet::spin(0)]);
    let outcome = worker.outcome(worker.queue.submit(at, 1)?)?;
    let expected = Outcome::failed(0, Errno::EFAULT, Access::Fetch, at);
    equal("outcome", outcome, expected)
}

#[cfg(not(target_arch = "x86_64"))]
fn as_32_bit_program(_: &Context) -> Result<()> {
    skip("no way to be a 32-bit program here")
}

#[cfg(target_arch = "x86_64")]
fn as_32_bit_program(context: &Context, WithEngines(device): WithEngines) -> Result<()> {
    as_32_bit(|| {
        // QUERY changes nothing, so both answers are the same except for the free memory.
        let seen = [device.query_as_32_bit()?, device.query()?];
        let [seen, expected] = seen.map(|query| (query.engines, query.memory));
        equal("QUERY", seen, expected)?;
        let worker = Worker::of(context.open()?, Options::new(2).as_32_bit())?;
        let data = Memory::new(1)?;
        worker.does(&[Packet::fence(data.region.addr(), 3)])?;
        equal("word", data.region.load(0), 3)?;
        let expected = Outcome::failed(0, Errno::EFAULT, Access::Write, 16);
        equal("a failure", worker.run(&[Packet::fence(16, 1)])?, expected)?;
        Ok(worker.queue.destroy()?)
    })
}

fn queues_of_threads(WithEngines(device): WithEngines) -> Result<()> {
    let work = |nth: u64| -> Result<()> {
        let queue = device.queue(Options::new(2))?;
        let (code, data) = (Region::anonymous(1)?, Region::anonymous(4)?);
        let (addr, len) = (data.addr(), data.len() as u64);
        for round in rounds(10).take(200) {
            let value = (nth << 32) | round as u64;
            let sum = Packet::sum(code.addr() + 1024, addr, len);
            let at = packet::store(&code, 0, &[Packet::fill(addr, len, value), sum]);
            done_at(&queue, at, 2)?;
            equal("sum", code.load(128), value.wrapping_mul(len / 8))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let work = &work;
        let spawn = |nth| scope.spawn(move || work(nth));
        let threads: Vec<_> = (0..6).map(spawn).collect();
        threads.into_iter().try_for_each(joined)
    })
}
