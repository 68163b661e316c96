// SPDX-License-Identifier: GPL-2.0

//! Engines whose faults a program answers itself, or does not answer.

use dmirror_client::queue::{Options, Outcome};
use dmirror_client::uffd::Mode;

use super::uffd::{answering, uffd};
use crate::prelude::*;
use crate::worker::{open_with_two, refused, soon};

cases! { "engine":
    faults_nobody_answers = "A job whose data nobody provides holds up no other engine, and ends with its queue.",
    packets_nobody_provides = "Neither does one whose packets nobody provides.",
    faults_answered = "A thread answers the faults of an engine, and the job does what it should.",
    destroyed_before_a_fault = "A queue that is destroyed while its engine moves pages ends before a fault that nobody answers.",
    file_closed_in_a_fault = "Closing the file, and being killed, end a job in a fault that nobody answers.",
}

const PAGES: usize = 16;

/// A queue on engine 0 with a job that waits for an answer that nobody gives, and one behind it;
/// `body` gets the number of the first.
fn stuck(
    context: &Context,
    packets: impl Fn(u64) -> Vec<Packet>,
    body: impl FnOnce(Worker, u64) -> Result<()>,
) -> Result<()> {
    let uffd = uffd()?;
    let worker = Worker::of(open_with_two(context)?, Options::new(2).engine(0))?;
    let memory = Memory::untouched(PAGES)?;
    uffd.register(&memory.region, 0..PAGES, Mode::Missing)?;
    let job = match packets(memory.region.addr()) {
        none if none.is_empty() => worker.queue.submit(memory.region.addr(), 1)?,
        packets => worker.submit(&packets)?,
    };
    worker.submit(&[Packet::spin(0)])?;
    let limit = Duration::from_millis(300);
    refused(
        "WAIT for it",
        worker.queue.wait(job, Some(limit)),
        Errno::ETIME,
    )?;
    soon("work of another engine", || {
        Worker::on(context, 1)?.does(&[Packet::spin(0)])
    })?;
    body(worker, job)?;
    soon("work of the engine, then", || {
        Worker::on(context, 0)?.does(&[Packet::spin(0)])
    })
}

/// Ends a queue soon.
fn ends(worker: Worker) -> Result<()> {
    soon("QUEUE_DESTROY", || Ok(worker.queue.destroy()?))
}

fn faults_nobody_answers(context: &Context) -> Result<()> {
    stuck(
        context,
        |at| vec![Packet::fill(at, 64, 1)],
        |worker, _| ends(worker),
    )?;
    stuck(
        context,
        |at| vec![Packet::sum(at, at, 64)],
        |worker, _| ends(worker),
    )?;
    let atomic = |at| vec![Packet::add(Width::Eight, at, 1, 1, 0)];
    stuck(context, atomic, |worker, job| {
        let waiter = worker.device.queue_of_number(worker.queue.number());
        thread::scope(|scope| {
            let waiter = scope.spawn(|| anyhow::Ok(waiter.wait(job, Some(PATIENCE))));
            thread::sleep(Duration::from_millis(100));
            ends(worker)?;
            refused("the waiter", joined(waiter)?, Errno::ENODEV)
        })
    })
}

fn destroyed_before_a_fault(context: &Context) -> Result<()> {
    let uffd = uffd()?;
    let policy = Policy::with("xe", &[])?;
    let worker = Worker::of(open_with_two(context)?, Options::new(2).engine(0))?;
    // In one granule, however large.
    let memory = Memory::of(Region::options(PAGES).align(HUGE).huge(false).map()?);
    // It is what moves, while the engine is on its way to the page that nobody provides.
    memory.region.store(page_size() / size_of::<u64>(), 1);
    uffd.register(&memory.region, 0..PAGES, Mode::Missing)?;
    let fill = Packet::fill(memory.region.addr(), 64, 1);
    let at = worker.store(&[Packet::spin(0), fill]);
    // The packets are on the device before: else it would be they that move.
    let job = worker.queue.submit(at, 1)?;
    equal("outcome", worker.outcome(job)?, Outcome::done(1))?;
    let delay = Delay::new("out_moved", 500_000)?;
    worker.queue.submit(at + Packet::SIZE as u64, 1)?;
    let start = Instant::now();
    while memory
        .expect("what is to move", 1..2, Where::System)
        .is_ok()
    {
        ensure!(start.elapsed() < PATIENCE, "nothing moves");
    }
    ends(worker)?;
    drop(delay);
    drop(policy);
    soon("work of the engine, then", || {
        Worker::on(context, 0)?.does(&[Packet::spin(0)])
    })
}

fn packets_nobody_provides(context: &Context) -> Result<()> {
    stuck(context, |_| vec![], |worker, _| ends(worker))
}

fn faults_answered(context: &Context) -> Result<()> {
    let uffd = uffd()?;
    let worker = Worker::new(context)?;
    let memory = Memory::untouched(PAGES)?;
    uffd.register(&memory.region, 0..PAGES, Mode::Missing)?;
    let (addr, len) = (memory.region.addr(), memory.region.len() as u64);
    let result = Region::anonymous(1)?;
    let packet = Packet::sum(result.addr(), addr, len);
    answering(&uffd, &memory, || worker.does(&[packet]))?;
    memory.verify(memory.all())?;
    let words = memory.data().to_bytes(0..PAGES);
    let sum = words.chunks_exact(8).fold(0_u64, |sum, word| {
        sum.wrapping_add(u64::from_ne_bytes(word.try_into().unwrap_or_default()))
    });
    equal("sum", result.load(0), sum)
}

fn file_closed_in_a_fault(context: &Context) -> Result<()> {
    let fill = |at| vec![Packet::fill(at, 64, 1)];
    stuck(context, fill, |worker, _| {
        let Worker { device, queue, .. } = worker;
        queue.abandon();
        soon("close", || {
            drop(device);
            Ok(())
        })
    })?;
    for _ in 0..3 {
        let started = Gate::new()?;
        let child = helper(|| {
            stuck(context, fill, |_, _| {
                started.open()?;
                loop {
                    thread::park();
                }
            })
        })?;
        started.wait()?;
        soon("the end of a process", || child.kill())?;
        soon("work of the engine, then", || {
            Worker::on(context, 0)?.does(&[Packet::spin(0)])
        })?;
    }
    Ok(())
}
