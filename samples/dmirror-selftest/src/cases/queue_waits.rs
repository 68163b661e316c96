// SPDX-License-Identifier: GPL-2.0

//! Waits for jobs that signals disturb, and the remains of many queues with jobs in them.

use std::os::fd::AsFd;
use std::sync::Mutex;

use dmirror_client::queue::{Access, Options, Outcome};
use dmirror_client::{EventFd, Queue, Restart, count_signals_as, packet, signals_counted};
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::engine::{done_at, words_are};
use super::queue::{counter, events, ticket, told};
use crate::prelude::*;
use crate::worker::{LONG, open, open_with_two, refused, soon, threads};

cases! { "queue":
    interrupted = "A signal ends WAIT with EINTR, whether it restarts calls or not; the next WAIT gets the outcome.",
    waiters_with_limits = "Of threads that wait for one job those whose time is over get ETIME, and all others the outcome.",
    destroyed_with_signals = "QUEUE_DESTROY returns when the engine touches no memory any more, whatever signals arrive.",
    reset = "RESET fails the jobs of all queues that have not ended with EIO, and what comes then runs.",
    event_after_data = "A program that an eventfd tells of a job sees the job's writes and its outcome.",
    in_order = "Jobs of several queues and engines end once each and in the order of SUBMIT in each queue.",
    ended_in_all_ways = "Queues that end with jobs in them, in all ways, leave no thread, no page, and no fault.",
}

/// Runs `body` while another process sends a signal to this one again and again.
fn disturbed<T>(signal: Signal, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let case = Pid::this();
    let begun = Gate::new()?;
    let disturber = helper(|| {
        begun.open()?;
        loop {
            kill(case, signal)?;
            thread::sleep(Duration::from_millis(2));
        }
    })?;
    begun.wait()?;
    let result = body()?;
    disturber.kill()?;
    Ok(result)
}

fn interrupted(context: &Context) -> Result<()> {
    for_all([Restart::No, Restart::Yes], |restart| {
        let worker = Worker::new(context)?;
        let quick = worker.submit(&[Packet::spin(0)])?;
        worker.outcome(quick)?;
        let job = worker.endless(&[])?;
        count_signals_as(Signal::SIGUSR1, restart)?;
        let answer = disturbed(Signal::SIGUSR1, || {
            for limit in [None, Some(PATIENCE), None, Some(Duration::MAX)] {
                let before = signals_counted();
                let answer = worker.queue.wait(job.job, limit);
                refused(&format!("WAIT for {limit:?}"), answer, Errno::EINTR)?;
                ensure!(signals_counted() > before, "it was no signal");
            }
            // A call that does not have to wait gets an answer.
            Ok(worker.queue.wait(quick, None)?)
        })?;
        equal("a job that has ended", answer, Outcome::done(1))?;
        let answer = worker.queue.wait(job.job, Some(Duration::ZERO));
        refused("WAIT without waiting", answer, Errno::ETIME)?;
        job.end()
    })
}

fn waiters_with_limits(worker: Worker) -> Result<()> {
    let job = worker.endless(&[])?;
    thread::scope(|scope| {
        let wait = |limit| {
            let (queue, job) = (&worker.queue, job.job);
            scope.spawn(move || anyhow::Ok(queue.wait(job, limit)))
        };
        let patient = [None, Some(PATIENCE), Some(Duration::MAX), None, None].map(wait);
        let hasty = [0, 1, 20, 50].map(|limit| wait(Some(Duration::from_millis(limit))));
        for waiter in hasty {
            refused("WAIT for a moment", joined(waiter)?, Errno::ETIME)?;
        }
        let early = patient.iter().any(thread::ScopedJoinHandle::is_finished);
        ensure!(!early, "somebody has an outcome of a job that goes on");
        job.stop();
        let outcome = worker.outcome(job.job)?;
        job.is_stopped(outcome)?;
        (patient.into_iter())
            .try_for_each(|waiter| equal("outcome of another", joined(waiter)??, outcome))
    })
}

fn destroyed_with_signals(context: &Context) -> Result<()> {
    const HELD: Duration = Duration::from_millis(300);
    open(context)?; // or skips
    count_signals_as(Signal::SIGUSR2, Restart::No)?;
    let mut signals = 0;
    for pages in [1, 4, 16] {
        let (worker, memory) = (Worker::on(context, 0)?, Memory::new(pages)?);
        let range = memory.region.range();
        let fill = Packet::fill(range.addr(), range.bytes(), 7);
        let at = worker.store(&[Packet::spin(0), fill]);
        done_at(&worker.queue, at, 1)?;
        // The engine need not look again at memory that fork leaves alone.
        for region in [&worker.code, &memory.region] {
            region.advise(0..region.pages(), Advice::DontFork)?;
        }
        let (delay, counted) = disturbed(Signal::SIGUSR2, || {
            // The engine writes after this delay, and nothing interrupts it before.
            let delay = Delay::new("walked", HELD.as_micros() as u32)?;
            worker.queue.submit(at + Packet::SIZE as u64, 1)?;
            thread::sleep(HELD / 4);
            let before = signals_counted();
            soon("QUEUE_DESTROY", || Ok(worker.queue.destroy()?))?;
            Ok((delay, signals_counted() - before))
        })?;
        signals += counted;
        memory.refill(2);
        drop(delay);
        thread::sleep(HELD);
        memory.intact()?;
    }
    ensure!(signals > 0, "there was no signal");
    Ok(())
}

fn reset(context: &Context) -> Result<()> {
    let device = open_with_two(context)?;
    let workers = [Worker::on(context, 0)?, Worker::on(context, 1)?];
    let ended = workers[0].submit(&[Packet::spin(0)])?;
    workers[0].outcome(ended)?;
    let before = device.query()?.generation;
    let mut jobs = Vec::new();
    for worker in &workers {
        let first = worker.submit(&[Packet::spin(0), Packet::spin(LONG)])?;
        let second = worker.store(&[Packet::spin(0)]);
        jobs.push((first, worker.queue.submit(second, 1)?, second));
    }
    thread::sleep(Duration::from_millis(100));
    soon("RESET", || Ok(device.reset()?))?;
    let failed = |executed, at| Outcome::failed(executed, Errno::EIO, Access::None, at);
    for (worker, &(first, second, at)) in workers.iter().zip(&jobs) {
        let outcome = soon("a job that ran", || worker.outcome(first))?;
        // The job may not have begun.
        let expected = failed(outcome.executed, outcome.fault_addr);
        equal("outcome of a job that ran", outcome, expected)?;
        ensure!(outcome.executed <= 1, "{outcome:?}");
        equal("the next", worker.outcome(second)?, failed(0, at))?;
        worker.does(&[Packet::spin(0)])?;
    }
    let old = workers[0].outcome(ended)?;
    equal("outcome of an older job", old, Outcome::done(1))?;
    equal("generation", device.query()?.generation, before + 1)
}

fn event_after_data(context: &Context) -> Result<()> {
    let eventfd = counter()?;
    let worker = Worker::of(open(context)?, Options::new(2).eventfd(eventfd.as_fd()))?;
    let data = Memory::new(2)?;
    for_all(rounds(20).take(500), |round| {
        let (addr, value) = (data.region.addr(), round as u64 + 1);
        let job = worker.submit(&[Packet::spin(1000), Packet::fill(addr, 8192, value)])?;
        equal("events", events(&eventfd)?, 1)?;
        words_are("a word", &data.region, 0..data.region.len() / 8, value)?;
        let outcome = worker.queue.wait(job, Some(Duration::ZERO))?;
        equal("outcome", outcome, Outcome::done(2))
    })
}

/// A queue that counts its jobs in memory.
struct Counted {
    queue: Queue,
    events: EventFd,
    /// The packets, one for each job; `data` holds the words that they write to.
    code: Region,
    data: Region,
}

impl Counted {
    const JOBS: usize = 48;
    const DEPTH: u32 = 64;

    fn new(device: &Device, engine: u32) -> Result<Self> {
        let events = counter()?;
        let options = Options::new(Self::DEPTH).engine(engine);
        let queue = device.queue(options.eventfd(events.as_fd()))?;
        let (code, data) = (Region::anonymous(1)?, Region::anonymous(1)?);
        // Each packet counts, and stores the count before it.
        let packets: Vec<Packet> = (1..=Self::JOBS).map(|job| ticket(&data, job)).collect();
        packet::store(&code, 0, &packets);
        Ok(Self {
            queue,
            events,
            code,
            data,
        })
    }

    fn submit(&self, job: usize) -> Result<()> {
        let at = self.code.addr() + ((job - 1) * Packet::SIZE) as u64;
        equal("number", self.queue.submit(at, 1)?, job as u64)
    }

    /// Returns the number of jobs that have ended, and checks that these are the first ones.
    fn ended(&self) -> Result<usize> {
        let has_ended = |job| match self.queue.wait(job as u64, Some(Duration::ZERO)) {
            Ok(outcome) => equal("outcome", outcome, Outcome::done(1)).map(|()| true),
            // The job goes on, or is not submitted yet.
            Err(error) if [Errno::ETIME, Errno::EINVAL].contains(&error.errno) => Ok(false),
            Err(error) => Err(error.into()),
        };
        // Begin with the last job: then a job that ends meanwhile makes no gap.
        let mut ended = None;
        for job in (1..=Self::JOBS).rev() {
            let has_ended = has_ended(job)?;
            match ended {
                None if has_ended => ended = Some(job),
                Some(last) => ensure!(has_ended, "job {last} has ended before job {job}"),
                None => {}
            }
        }
        Ok(ended.unwrap_or(0))
    }

    fn check(&self) -> Result<()> {
        for job in 1..=Self::JOBS {
            let outcome = self.queue.wait(job as u64, Some(PATIENCE))?;
            equal("outcome", outcome, Outcome::done(1))?;
            equal("jobs before it", self.data.load(job), job as u64 - 1)?;
        }
        equal("jobs", self.data.load(0), Self::JOBS as u64)?;
        // The event of the last job may come a moment later.
        told(&self.events, Self::JOBS as u64)
    }
}

fn in_order(context: &Context) -> Result<()> {
    let device = open_with_two(context)?;
    let other = context.open()?;
    let queues = [
        Counted::new(&device, 0)?,
        Counted::new(&device, 1)?,
        Counted::new(&other, 1)?,
        Counted::new(&other, 0)?,
    ];
    let seen = Mutex::new([0; 4]);
    let watch = || {
        // No other thread looks at it.
        let mut seen = seen.lock().unwrap_or_else(|error| error.into_inner());
        for (queue, seen) in queues.iter().zip(&mut *seen) {
            let ended = queue.ended()?;
            ensure!(ended >= *seen, "job {seen} had ended, and has not any more");
            *seen = ended;
        }
        Ok(())
    };
    beside(&[&watch], || {
        (1..=Counted::JOBS)
            .try_for_each(|job| queues.iter().try_for_each(|queue| queue.submit(job)))?;
        queues.iter().try_for_each(Counted::check)
    })
}

/// The way in which a queue ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// QUEUE_DESTROY, which waits for the engine.
    Destroy,
    /// QUEUE_DESTROY while a thread waits for the job; that thread is sent away.
    SendAway,
    /// Close of the file, which does not wait.
    Close,
    /// The process exits, or is killed.
    Exit,
    Kill,
}

const ENDS: [End; 8] = {
    use End::{Close, Destroy, Exit, Kill, SendAway};
    [Destroy, Close, Exit, Close, SendAway, Destroy, Close, Kill]
};

/// Creates a queue with jobs that go on for long, and ends it as `end` says.
fn begin_and_end(context: &Context, engine: u32, jobs: u32, end: End) -> Result<()> {
    let (device, memory) = (context.open()?, Memory::new(4)?);
    let range = memory.region.range();
    let code = Region::anonymous(1)?;
    let program = [
        Packet::prefetch(range.addr(), range.bytes()),
        Packet::random_write(code.addr() + 2048, range.addr(), range.bytes(), 1 << 40, 1),
    ];
    let at = packet::store(&code, 0, &program);
    let queue = device.queue(Options::new(4).engine(engine))?;
    for _ in 0..jobs {
        queue.submit(at, 2)?;
    }
    match end {
        End::Destroy => queue.destroy()?,
        End::Close | End::Exit => queue.abandon(),
        End::Kill => {
            queue.abandon();
            kill(Pid::this(), Signal::SIGKILL)?;
        }
        End::SendAway => {
            let waiter = device.queue_of_number(queue.number());
            thread::scope(|scope| {
                let waiter = scope.spawn(move || anyhow::Ok(waiter.wait(1, Some(PATIENCE))));
                queue.destroy()?;
                match joined(waiter)? {
                    Err(error) if [Errno::ENODEV, Errno::ENOENT].contains(&error.errno) => Ok(()),
                    // There was no such job.
                    Err(error) if jobs == 0 && error.errno == Errno::EINVAL => Ok(()),
                    answer => bail!("a waiter got {answer:?}"),
                }
            })?;
        }
    }
    Ok(())
}

fn ended_in_all_ways(context: &Context) -> Result<()> {
    let device = open_with_two(context)?;
    let policy = Policy::with("kfd", &[("fault_buffer", 20)])?;
    for engine in 0..2 {
        Worker::on(context, engine)?.does(&[Packet::spin(0)])?;
    }
    let (running, before) = (threads()?, Before::of(&device)?);
    let mut count = 0;
    let added = policy.added(|| {
        for round in rounds(50).take(1000) {
            let end = ENDS[round % ENDS.len()];
            let (engine, jobs) = (round as u32 / 8 % 2, round as u32 % 5);
            let run = || begin_and_end(context, engine, jobs, end);
            match end {
                End::Exit => in_child(run)?,
                End::Kill => helper(run)?.was_killed()?,
                _ => run()?,
            }
            count += 1;
        }
        Ok(())
    })?;
    println!("{count} queues");
    ensure!(added.fault_posted > 0, "no engine has missed a page");
    before.nothing_is_left(&device)?;
    equal("threads", threads()?, running)?;
    // An entry that stayed in the fault buffer would leave no room.
    policy.set("fault_buffer", 1)?;
    let memory = Memory::new(64)?;
    let range = memory.region.range();
    for engine in 0..2 {
        let worker = Worker::on(context, engine)?;
        worker.does(&[Packet::sum(worker.result(), range.addr(), range.bytes())])?;
        memory.region.advise(memory.all(), Advice::DontNeed)?;
        memory.fill(memory.all());
    }
    Ok(())
}
