// SPDX-License-Identifier: GPL-2.0

//! Engines with faults that a program answers itself, or does not answer.

use dmirror_client::queue::Options;
use dmirror_client::uffd::Mode;

use super::engine::done_at;
use super::uffd::{answering, uffd};
use crate::prelude::*;
use crate::worker::{open_with_two, refused, soon};

cases! { "engine":
    faults_nobody_answers = "A job whose data nobody provides holds up no other engine, and ends with its queue.",
    packets_nobody_provides = "Neither does one whose packets nobody provides."
        => |context: &Context| stuck(context, None, |worker, _| worker.ends()),
    faults_answered = "A thread answers the faults of an engine, and the job does what it should.",
    destroyed_before_a_fault = "A queue that is destroyed while its engine moves pages ends before a fault that nobody answers.",
    file_closed_in_a_fault = "Closing the file, and being killed, end a job in a fault that nobody answers.",
}

const PAGES: usize = 16;

/// Creates a queue on engine 0 with a job whose fault nobody answers, and a job behind it. The
/// fault is that of the packet that `packet` makes for an address, or the fetch of packets there if
/// `packet` is `None`. `body` gets the number of the first job.
fn stuck(
    context: &Context,
    packet: Option<fn(u64) -> Packet>,
    body: impl FnOnce(Worker, u64) -> Result<()>,
) -> Result<()> {
    let uffd = uffd()?;
    let worker = Worker::of(open_with_two(context)?, Options::new(2).engine(0))?;
    let memory = Memory::untouched(PAGES)?;
    uffd.register(&memory.region, 0..PAGES, Mode::Missing)?;
    let addr = memory.region.addr();
    let job = match packet {
        None => worker.queue.submit(addr, 1)?,
        Some(packet) => worker.submit(&[packet(addr)])?,
    };
    worker.submit(&[Packet::spin(0)])?;
    let answer = worker.queue.wait(job, Some(Duration::from_millis(300)));
    refused("WAIT for it", answer, Errno::ETIME)?;
    Worker::serves(context, 1)?;
    body(worker, job)?;
    Worker::serves(context, 0)
}

/// Returns a packet that misses the memory at an address.
fn fill(at: u64) -> Packet {
    Packet::fill(at, 64, 1)
}

fn faults_nobody_answers(context: &Context) -> Result<()> {
    let sum: fn(u64) -> Packet = |at| Packet::sum(at, at, 64);
    for packet in [fill, sum] {
        stuck(context, Some(packet), |worker, _| worker.ends())?;
    }
    let atomic = |at| Packet::add(Width::Eight, at, 1, 1, 0);
    stuck(context, Some(atomic), |worker, job| {
        let waiter = worker.device.queue_of_number(worker.queue.number());
        thread::scope(|scope| {
            let waiter = scope.spawn(|| anyhow::Ok(waiter.wait(job, Some(PATIENCE))));
            thread::sleep(Duration::from_millis(100));
            worker.ends()?;
            refused("the waiter", joined(waiter)?, Errno::ENODEV)
        })
    })
}

fn destroyed_before_a_fault(context: &Context) -> Result<()> {
    let uffd = uffd()?;
    let policy = Policy::with("xe", &[])?;
    let worker = Worker::of(open_with_two(context)?, Options::new(2).engine(0))?;
    // All pages are in one granule, whatever its size.
    let memory = Memory::of(
        Region::options(PAGES)
            .align(hpage_pmd_size())
            .huge(false)
            .map()?,
    );
    // This page moves before the engine gets to the page that nobody provides.
    memory.region.store(page_size() / size_of::<u64>(), 1);
    uffd.register(&memory.region, 0..PAGES, Mode::Missing)?;
    let at = worker.store(&[Packet::spin(0), fill(memory.region.addr())]);
    // Move the packets to the device before, or else they would be the pages that move.
    done_at(&worker.queue, at, 1)?;
    let delay = Delay::new("out_moved", 500_000)?;
    worker.queue.submit(at + Packet::SIZE as u64, 1)?;
    let start = Instant::now();
    while memory.expect("", 1..2, Where::System).is_ok() {
        ensure!(start.elapsed() < PATIENCE, "nothing moves");
    }
    worker.ends()?;
    drop(delay);
    drop(policy);
    Worker::serves(context, 0)
}

fn faults_answered(context: &Context) -> Result<()> {
    let uffd = uffd()?;
    let (worker, memory) = (Worker::new(context)?, Memory::untouched(PAGES)?);
    uffd.register(&memory.region, 0..PAGES, Mode::Missing)?;
    let result = Region::anonymous(1)?;
    let (addr, len) = (memory.region.addr(), memory.region.len() as u64);
    let packet = Packet::sum(result.addr(), addr, len);
    answering(&uffd, &memory, || worker.does(&[packet]))?;
    memory.intact()?;
    let words = (0..memory.region.len() / 8).map(|index| memory.region.load(index));
    equal("sum", result.load(0), words.fold(0, u64::wrapping_add))
}

fn file_closed_in_a_fault(context: &Context) -> Result<()> {
    stuck(context, Some(fill), |worker, _| worker.closes().map(drop))?;
    for_all(0..3, |_| {
        let started = Gate::new()?;
        let child = helper(|| {
            stuck(context, Some(fill), |_, _| {
                started.open()?;
                loop {
                    thread::park();
                }
            })
        })?;
        started.wait()?;
        soon("the end of a process", || child.kill())?;
        Worker::serves(context, 0)
    })
}
