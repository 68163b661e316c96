// SPDX-License-Identifier: GPL-2.0

//! Jobs in queues: their order, who waits for them, and how they end when a queue, a file, or a
//! process ends before them.

use std::os::fd::AsFd;

use dmirror_client::EventFd;
use dmirror_client::queue::{Access, Options, Outcome};
use nix::sys::eventfd::EfdFlags;

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

/// Nanoseconds of something short.
const SHORT: u64 = 50_000_000;

/// A job that tells when it ran: it takes a ticket at `desk`, and puts it at `place`.
fn takes_a_ticket(desk: u64, place: u64) -> Packet {
    Packet::add(Width::Eight, desk, 1, 1, place)
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
    let jobs = [
        worker.submit(&[Packet::spin(SHORT)])?,
        worker.submit(&[Packet::spin(0)])?,
    ];
    worker.outcome(jobs[0])?;
    worker.does(&[Packet::spin(0)])
}

fn fifo(context: &Context) -> Result<()> {
    const JOBS: usize = 16;
    let device = open(context)?;
    let depth = device.query()?.max_depth.min(JOBS as u32);
    let worker = Worker::of(device, Options::new(depth))?;
    let data = Region::anonymous(1)?;
    let word = |index: usize| data.addr() + 8 * index as u64;
    let mut jobs = Vec::new();
    for nth in 1..=depth as usize {
        let ticket = takes_a_ticket(word(0), word(nth));
        // Every third one fails when it has its ticket.
        let second = if nth % 3 == 0 {
            Packet::default()
        } else {
            Packet::spin(100_000)
        };
        jobs.push(worker.submit(&[ticket, second])?);
    }
    for (nth, job) in (1..).zip(jobs) {
        let outcome = worker.outcome(job)?;
        let expected = if nth % 3 == 0 { 1 } else { 2 };
        equal(&format!("packets of job {nth}"), outcome.executed, expected)?;
        equal(
            &format!("ticket of job {nth}"),
            data.load(nth),
            nth as u64 - 1,
        )?;
    }
    Ok(())
}

fn timeouts(context: &Context) -> Result<()> {
    let worker = Worker::new(context)?;
    let job = worker.submit(&[Packet::spin(LONG)])?;
    for limit in [0, 1, 30, 200].map(Duration::from_millis) {
        let start = Instant::now();
        let answer = worker.queue.wait(job, Some(limit));
        let took = start.elapsed();
        refused(&format!("WAIT for {limit:?}"), answer, Errno::ETIME)?;
        ensure!(took >= limit, "WAIT for {limit:?} took {took:?}");
        ensure!(
            took < limit + Duration::from_secs(5),
            "WAIT for {limit:?} took {took:?}"
        );
    }
    let worker = Worker::new(context)?;
    for limit in [None, Some(PATIENCE), Some(Duration::MAX)] {
        let start = Instant::now();
        let job = worker.submit(&[Packet::spin(SHORT)])?;
        equal("outcome", worker.queue.wait(job, limit)?, Outcome::done(1))?;
        ensure!(
            start.elapsed() >= Duration::from_nanos(SHORT),
            "it was no {SHORT} ns"
        );
        let again = worker.queue.wait(job, Some(Duration::ZERO))?;
        equal("outcome, without waiting", again, Outcome::done(1))?;
    }
    Ok(())
}

fn eventfd(context: &Context) -> Result<()> {
    const JOBS: u64 = 12;
    let events = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let copy = events.as_fd().try_clone_to_owned()?;
    let options = Options::new(4).eventfd(copy.as_fd());
    let worker = Worker::of(open(context)?, options)?;
    drop(copy);
    for nth in 0..JOBS {
        let packet = if nth % 3 == 0 {
            Packet::default()
        } else {
            Packet::spin(0)
        };
        worker.run(&[packet])?;
    }
    let (mut seen, start) = (0, Instant::now());
    while seen < JOBS && start.elapsed() < PATIENCE {
        match events.read() {
            Ok(more) => seen += more,
            Err(Errno::EAGAIN) => thread::sleep(Duration::from_millis(1)),
            Err(errno) => return Err(errno.into()),
        }
    }
    equal("events", seen, JOBS)?;
    equal("one event more", events.read(), Err(Errno::EAGAIN))?;
    // A queue without one, beside it, adds nothing.
    let other = worker.device.queue(Options::new(1))?;
    let job = other.submit(worker.store(&[Packet::spin(0)]), 1)?;
    other.wait(job, Some(PATIENCE))?;
    equal(
        "an event of another queue",
        events.read(),
        Err(Errno::EAGAIN),
    )
}

fn takes_turns(context: &Context) -> Result<()> {
    const JOBS: usize = 8;
    let device = open(context)?;
    let depth = device.query()?.max_depth.min(JOBS as u32);
    let worker = Worker::of(device, Options::new(depth).engine(0))?;
    let other = worker.device.queue(Options::new(1).engine(0))?;
    let data = Region::anonymous(1)?;
    let word = |index: usize| data.addr() + 8 * index as u64;
    let mut last = 0;
    for nth in 1..=depth as usize {
        let packets = [Packet::spin(SHORT), takes_a_ticket(word(0), word(nth))];
        last = worker.submit(&packets)?;
    }
    let at = worker.store(&[takes_a_ticket(word(0), word(JOBS + 1))]);
    let job = other.submit(at, 1)?;
    equal(
        "outcome",
        other.wait(job, Some(PATIENCE))?,
        Outcome::done(1),
    )?;
    worker.outcome(last)?;
    let (single, last) = (data.load(JOBS + 1), data.load(depth as usize));
    // It came late, but not behind all that were there.
    ensure!(depth < 4 || single < last, "ticket {single} of {last}");
    Ok(())
}

fn two_engines(context: &Context) -> Result<()> {
    let worker = Worker::of(open_with_two(context)?, Options::new(1).engine(0))?;
    let job = worker.submit(&[Packet::spin(LONG)])?;
    let at = worker.store(&[Packet::spin(0)]);
    // The first goes to an engine that has none.
    for options in [Options::new(1), Options::new(1).engine(1)] {
        let other = worker.device.queue(options)?;
        soon("work of another engine", || {
            let outcome = other.wait(other.submit(at, 1)?, Some(PATIENCE))?;
            equal("outcome", outcome, Outcome::done(1))
        })?;
    }
    let busy = worker.queue.wait(job, Some(Duration::ZERO));
    refused("the long job, meanwhile", busy, Errno::ETIME)
}

fn many_waiters(context: &Context) -> Result<()> {
    let worker = Worker::new(context)?;
    for packets in [
        &[Packet::spin(SHORT)][..],
        &[Packet::spin(SHORT), Packet::default()],
    ] {
        let at = worker.store(packets);
        let job = worker.queue.submit(at, packets.len() as u32)?;
        let expected = match packets.len() {
            1 => Outcome::done(1),
            _ => Outcome::failed(1, Errno::EINVAL, Access::None, at + 64),
        };
        thread::scope(|scope| {
            let waiters: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| worker.outcome(job)))
                .collect();
            for waiter in waiters {
                equal("outcome", joined(waiter)?, expected)?;
            }
            anyhow::Ok(())
        })?;
    }
    Ok(())
}

/// A job that goes on for long, and others behind it that write 1 to the first words of `data`.
fn busy(worker: &Worker, data: &Region) -> Result<Vec<u64>> {
    let mut jobs = vec![worker.submit(&[Packet::spin(LONG), Packet::fence(data.addr(), 1)])?];
    for nth in 1..4 {
        jobs.push(worker.submit(&[Packet::fence(data.addr() + 8 * nth, 1)])?);
    }
    Ok(jobs)
}

/// Checks that nothing of [`busy`] was done, and that an engine is free for others.
fn was_cancelled(context: &Context, data: &Region, engine: u32) -> Result<()> {
    soon("the next job of the engine", || {
        Worker::on(context, engine)?.does(&[Packet::spin(0)])
    })?;
    for index in 0..4 {
        equal("a word of a job that was cancelled", data.load(index), 0)?;
    }
    Ok(())
}

fn destroyed(context: &Context) -> Result<()> {
    let worker = Worker::on(context, 0)?;
    let data = Region::anonymous(1)?;
    let jobs = busy(&worker, &data)?;
    thread::scope(|scope| {
        let queue = &worker.queue;
        let wait = |job| scope.spawn(move || anyhow::Ok(queue.wait(job, Some(PATIENCE))));
        let waiters: Vec<_> = jobs.into_iter().map(wait).collect();
        thread::sleep(Duration::from_millis(200)); // so that they wait
        let ended = worker.device.queue_of_number(queue.number());
        soon("QUEUE_DESTROY", || Ok(ended.destroy()?))?;
        for waiter in waiters {
            match joined(waiter)? {
                Err(error) if matches!(error.errno, Errno::ENODEV | Errno::ENOENT) => {}
                answer => bail!("a waiter got {answer:?}"),
            }
        }
        anyhow::Ok(())
    })?;
    let at = worker.store(&[Packet::spin(0)]);
    refused("SUBMIT then", worker.queue.submit(at, 1), Errno::ENOENT)?;
    was_cancelled(context, &data, 0)
}

fn destroyed_again(context: &Context) -> Result<()> {
    let device = open(context)?;
    let before = Before::of(&device)?;
    let engines = device.query()?.engines;
    let memory = Memory::new(4)?;
    let range = memory.region.range();
    let code = Region::anonymous(1)?;
    let program = [
        Packet::prefetch(range.addr(), range.bytes()),
        Packet::random(code.addr() + 2048, range.addr(), range.bytes(), 1 << 40, 1),
    ];
    let at = dmirror_client::packet::store(&code, 0, &program);
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
    for engine in 0..engines {
        Worker::on(context, engine)?.does(&[Packet::spin(0)])?;
    }
    memory.verify(memory.all())?;
    drop(memory);
    before.nothing_is_left(&device)
}

fn closed(context: &Context) -> Result<()> {
    let data = Region::anonymous(1)?;
    for engine in 0..open(context)?.query()?.engines {
        let worker = Worker::on(context, engine)?;
        busy(&worker, &data)?;
        let Worker { device, queue, .. } = worker;
        queue.abandon();
        soon("close", || {
            drop(device);
            Ok(())
        })?;
        was_cancelled(context, &data, engine)?;
    }
    Ok(())
}

fn killed(context: &Context) -> Result<()> {
    let device = open(context)?;
    let before = Before::of(&device)?;
    for round in rounds(4).take(20) {
        let started = Gate::new()?;
        let child = helper(|| {
            let worker = Worker::on(context, 0)?;
            let memory = Memory::new(64)?;
            memory.move_out(&worker.device, memory.all())?;
            let range = memory.region.range();
            let fill = Packet::fill(range.addr(), range.bytes(), 7);
            started.open()?;
            match round % 2 {
                0 => worker.outcome(busy(&worker, &memory.region)?[3])?,
                _ => worker.repeat(
                    &[fill, Packet::prefetch(range.addr(), range.bytes())],
                    || false,
                )?,
            };
            bail!("the work has ended")
        })?;
        started.wait()?;
        thread::sleep(Duration::from_millis(10 * (round as u64 % 7)));
        soon("the end of a process", || child.kill())?;
        soon("the next job of the engine", || {
            Worker::on(context, 0)?.does(&[Packet::spin(0)])
        })?;
        before.nothing_is_left(&device)?;
    }
    Ok(())
}

fn inherited(context: &Context) -> Result<()> {
    let worker = Worker::new(context)?;
    let data = Memory::new(2)?;
    let packet = Packet::fill(data.region.addr(), 4096, 7);
    let at = worker.store(&[packet]);
    helper(|| {
        // The child's own packets are not those that the engine sees.
        dmirror_client::packet::store(&worker.code, 0, &[Packet::default()]);
        let job = worker.queue.submit(at, 1)?;
        equal("outcome", worker.outcome(job)?, Outcome::done(1))?;
        data.verify(data.all())
    })?
    .join()?;
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
    outlived(parent, |worker| {
        let at = worker.store(&[Packet::spin(0)]);
        let outcome = worker.outcome(worker.queue.submit(at, 1)?)?;
        let expected = Outcome::failed(0, Errno::EFAULT, Access::Fetch, at);
        equal("outcome", outcome, expected)
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn as_32_bit_program(_: &Context) -> Result<()> {
    crate::check::skip("no way to be a 32-bit program here")
}

#[cfg(target_arch = "x86_64")]
fn as_32_bit_program(context: &Context) -> Result<()> {
    use dmirror_client::Exit;
    use dmirror_client::Signal;

    let device = open(context)?;
    // In a child, which a kernel without such an entry kills.
    let child = helper(|| {
        // QUERY changes nothing: all that it says is the same but for what is free.
        let (seen, expected) = (device.query_as_32_bit()?, device.query()?);
        equal(
            "QUERY",
            (seen.engines, seen.memory),
            (expected.engines, expected.memory),
        )?;
        let worker = Worker::of(context.open()?, Options::new(2).as_32_bit())?;
        let data = Memory::new(1)?;
        worker.does(&[Packet::fence(data.region.addr(), 3)])?;
        equal("word", data.region.load(0), 3)?;
        let outcome = worker.run(&[Packet::fence(16, 1)])?;
        equal(
            "a failure",
            outcome,
            Outcome::failed(0, Errno::EFAULT, Access::Write, 16),
        )?;
        Ok(worker.queue.destroy()?)
    })?;
    match child.exit()? {
        Exit::Status(0) => Ok(()),
        Exit::Signal(Signal::SIGSEGV) => crate::check::skip("this kernel runs no 32-bit programs"),
        end => bail!("the child ended with {end:?}"),
    }
}

fn queues_of_threads(context: &Context) -> Result<()> {
    const THREADS: usize = 6;
    let device = open(context)?;
    thread::scope(|scope| {
        let work = |nth: usize| {
            let device = &device;
            scope.spawn(move || {
                let queue = device.queue(Options::new(2))?;
                let (code, data) = (Region::anonymous(1)?, Region::anonymous(4)?);
                for round in rounds(10).take(200) {
                    let value = ((nth << 32) | round) as u64;
                    let program = [
                        Packet::fill(data.addr(), data.len() as u64, value),
                        Packet::sum(code.addr() + 1024, data.addr(), data.len() as u64),
                    ];
                    let at = dmirror_client::packet::store(&code, 0, &program);
                    let job = queue.submit(at, 2)?;
                    equal(
                        "outcome",
                        queue.wait(job, Some(PATIENCE))?,
                        Outcome::done(2),
                    )?;
                    let words = data.len() as u64 / 8;
                    equal("sum", code.load(128), value.wrapping_mul(words))?;
                }
                anyhow::Ok(())
            })
        };
        let threads: Vec<_> = (0..THREADS).map(work).collect();
        threads.into_iter().try_for_each(joined)
    })
}
