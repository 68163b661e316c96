// SPDX-License-Identifier: GPL-2.0

//! Each allocation of the commands about queues fails once, and each of an engine that executes a
//! job. An engine is a thread of the kernel, so `/proc/PID/fail-nth` works for it as for any other
//! task.

use std::collections::BTreeSet;

use dmirror_client::interpreter::Image;
use dmirror_client::queue::{Options, Outcome};
use dmirror_client::{QueueError, interpreter, packet};

use super::nth::{Failures, MOST, each_allocation, with_failure, with_failure_of};
use crate::prelude::*;
use crate::reload::with_parameters;
use crate::worker::{Kind, open, refused, same, thread_of, threads};

cases! { "nth":
    queue_create = "Whichever allocation fails in QUEUE_CREATE, there is no queue and no thread too many, and the next one works.",
    queue_commands = "Whichever allocation fails in SUBMIT, WAIT, QUEUE_DESTROY and QUERY, no number is lost.",
    job_where_it_is = "Whichever allocation of an engine fails, the job does what it should or ends with ENOMEM, and the next works."
        => sweeps(&[(
            "test_hmm",
            &[Kind::Small, Kind::Untouched, Kind::Shared, Kind::Resident, Kind::Elsewhere],
        )], work),
    job_moves_pages = "The same for an engine that moves what it misses."
        => sweeps(&[
            ("kfd", &[Kind::Small, Kind::Untouched, Kind::Huge]),
            ("uvm", &[Kind::HalfResident]),
        ], work),
    job_moves_packets = "The same for PREFETCH, both ways."
        => sweeps(&[("test_hmm", &[Kind::Small, Kind::Resident, Kind::ResidentHuge])], moves),
    fault_handler = "The handler of faults does without allocations.",
}

/// Runs a command while allocation `nth` fails. Returns its result, or `None` if the failure made
/// it return ENOMEM. Sets `failed` if there was such an allocation.
fn attempt<T>(
    nth: u32,
    failed: &mut bool,
    command: impl FnOnce() -> Result<T, QueueError>,
) -> Result<Option<T>> {
    let (answer, has_failed) = with_failure(nth, command)?;
    *failed |= has_failed;
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if has_failed && error.errno == Errno::ENOMEM => Ok(None),
        Err(error) => bail!("allocation {nth}, which failed: {has_failed}: {error}"),
    }
}

/// Creates queues of an engine, while one allocation after the other fails, until one is created
/// without a failure. Returns the number of created queues and the number of attempts.
fn create_all(device: &Device, engine: u32) -> Result<[u32; 2]> {
    let (mut nth, mut made, mut tried) = (1, 0, 0);
    let mut running = threads()?;
    while nth < MOST {
        tried += 1;
        let (options, mut failed) = (Options::new(3).engine(engine), false);
        if let Some(queue) = attempt(nth, &mut failed, || device.queue(options))? {
            made += 1;
            queue.abandon();
        }
        if !failed {
            return Ok([made, tried]);
        }
        let now = threads()?;
        let names: BTreeSet<_> = now.iter().map(|thread| &thread.name).collect();
        equal("threads of one name", names.len(), now.len())?;
        for thread in &now {
            let expected = [format!("dmirror0/{engine}"), "dmirror0/f".to_owned()];
            let is_known = expected.contains(&thread.name) || running.contains(thread);
            ensure!(is_known, "allocation {nth}: {thread:?}");
        }
        // The allocations for a thread happen only once: after them begin with the first one again.
        nth = if now == running { nth + 1 } else { 1 };
        running = now;
    }
    bail!("more than {MOST} allocations")
}

fn queue_create(context: &Context) -> Result<()> {
    const MOST_QUEUES: u32 = 64;
    open(context)?; // or skips
    let _failures = Failures::of_all()?;
    // Reload the module, so that there is no thread yet.
    with_parameters(context, &["engines=3"], || {
        equal("threads of a new module", threads()?, vec![])?;
        let device = open(context)?;
        let before = Before::of(&device)?;
        let mut all = 0;
        for engine in 0..3 {
            let [made, tried] = create_all(&device, engine)?;
            println!("engine {engine}: {tried} attempts");
            ensure!(tried > 3, "no allocation has failed");
            all += made;
        }
        equal("threads", threads()?.len(), 4)?;
        // Queues that failed do not count.
        for _ in all..MOST_QUEUES {
            device.queue(Options::new(1))?.abandon();
        }
        let one_more = device.queue(Options::new(1));
        refused("one queue more", one_more, Errno::EMFILE)?;
        for engine in 0..3 {
            Worker::on(context, engine)?.does(&[Packet::spin(0)])?;
        }
        before.nothing_is_left(&device)
    })?;
    equal("threads that outlived their module", threads()?, vec![])
}

fn queue_commands(context: &Context) -> Result<()> {
    let _failures = Failures::of_all()?;
    let worker = Worker::new(context)?;
    let at = worker.store(&[Packet::spin(0)]);
    let mut jobs = 0;
    each_allocation(|nth| {
        let mut failed = false;
        if let Some(job) = attempt(nth, &mut failed, || worker.queue.submit(at, 1))? {
            jobs += 1;
            equal("number of a job", job, jobs)?;
            attempt(nth, &mut failed, || worker.queue.wait(job, Some(PATIENCE)))?;
            equal("outcome", worker.outcome(job)?, Outcome::done(1))?;
        }
        attempt(nth, &mut failed, || worker.device.query())?;
        let other = worker.device.queue(Options::new(1))?;
        other.submit(at, 1)?;
        let number = other.number();
        if attempt(nth, &mut failed, || other.destroy())?.is_none() {
            worker.device.queue_of_number(number).destroy()?;
        }
        Ok(failed)
    })
    .map(drop)
}

/// Checks that each word has its old value, or the value that the interpreter has left.
fn old_or_new(region: &Region, old: &Image, new: &Image) -> Result<()> {
    let bytes = |image: &Image| image.bytes(region.addr(), region.len());
    let [old, new] = [bytes(old), bytes(new)].map(|bytes| bytes.context("no copy"));
    let (old, new) = (old?, new?);
    let seen = region.to_bytes(0..region.pages());
    for at in (0..seen.len()).step_by(8) {
        let [seen, old, new] = [&seen, &old, &new].map(|bytes| &bytes[at..at + 8]);
        let is_right = seen == old || seen == new;
        ensure!(is_right, "word {:#x} is neither old nor new", at / 8);
    }
    Ok(())
}

/// Makes an engine execute packets over memory of one kind, while one allocation after the other
/// fails in the thread `thread` of the device. Returns the number of allocations.
fn sweep(
    context: &Context,
    thread: &str,
    kind: Kind,
    packets: impl Fn(u64) -> Vec<Packet>,
) -> Result<u32> {
    let worker = Worker::on(context, 0)?;
    worker.does(&[Packet::spin(0)])?;
    let task = thread_of(thread)?.pid;
    worker.device.migrate_to_system(worker.code.range())?;
    let before = Before::of(&worker.device)?;
    each_allocation(|nth| {
        let (memory, old) = kind.make(context, &worker.device)?;
        let program = packets(memory.region.addr());
        let at = worker.store(&program);
        let mut new = old.clone();
        new.map(at, &packet::bytes(&program), Protection::Read);
        let expected = interpreter::run(&mut new, at, program.len() as u64);
        let (outcome, failed) = with_failure_of(task, nth, || -> Result<Outcome> {
            let job = worker.queue.submit(at, program.len() as u32)?;
            worker.outcome(job)
        })?;
        let outcome = outcome?;
        let of_failure = || format!("{kind:?}, failed: {failed}: {outcome:?}");
        if failed && outcome.error == Some(Errno::ENOMEM) {
            ensure!(outcome.executed < expected.executed, "{}", of_failure());
            old_or_new(&memory.region, &old, &new).with_context(of_failure)?;
        } else {
            equal("outcome", outcome, expected).with_context(of_failure)?;
            same("then", &new, &[&memory.region]).with_context(of_failure)?;
        }
        // Execute the packets again, on the data that this has left.
        worker.does(&program).with_context(of_failure)?;
        drop(memory);
        worker.device.migrate_to_system(worker.code.range())?;
        let left = before.nothing_is_left(&worker.device);
        left.with_context(of_failure).map(|()| failed)
    })
}

/// Returns a case of [`sweep`] by each policy for memory of several kinds. With each policy some
/// allocation must have failed.
fn sweeps(
    kinds_by_preset: &[(&str, &[Kind])],
    packets: impl Fn(u64) -> Vec<Packet>,
) -> impl Fn(&Context) -> Result<()> {
    move |context| {
        let _failures = Failures::of_all()?;
        for (preset, kinds) in kinds_by_preset {
            let _policy = Policy::of(preset)?;
            let mut all = 0;
            for &kind in *kinds {
                println!("{kind:?}:");
                all += sweep(context, "0", kind, &packets)?;
            }
            ensure!(all > 0, "no allocation has failed");
        }
        Ok(())
    }
}

/// Returns packets that read, write, and make atomic operations. They write the same data when they
/// are executed again.
fn work(data: u64) -> Vec<Packet> {
    vec![
        Packet::sum(data, data + page_bytes(), 2 * page_bytes()),
        Packet::fill(data + 4 * page_bytes(), 2 * page_bytes(), 5),
        Packet::add(Width::Eight, data + 8 * page_bytes(), 0, 3, 0),
        Packet::fence(data + 15 * page_bytes(), 9),
    ]
}

/// Returns packets that move pages to the device and back.
fn moves(data: u64) -> Vec<Packet> {
    vec![
        Packet::prefetch(data, 4 * page_bytes()),
        Packet::prefetch_to_system(data + 2 * page_bytes(), 8 * page_bytes()),
    ]
}

fn fault_handler(context: &Context) -> Result<()> {
    let _failures = Failures::of_all()?;
    for preset in ["test_hmm", "uvm"] {
        let _policy = Policy::of(preset)?;
        let count = sweep(context, "f", Kind::Untouched, work)?;
        equal("allocations of the handler", count, 0)?;
    }
    Ok(())
}
