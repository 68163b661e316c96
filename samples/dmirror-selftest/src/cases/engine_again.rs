// SPDX-License-Identifier: GPL-2.0

//! A device wants a page that another device does not give yet. It asks by a CPU fault, which is
//! answered "again", and mm asks once more, without checking for signals. So the device that
//! answers must stop answering "again" in bounded time.

use dmirror_client::queue::Options;

use super::huge;
use crate::prelude::*;
use crate::worker::{open, soon};

cases! { "engine":
    other_device_waits = "An engine gets a page that another device has in a time slice when the slice is over.",
    other_device_again = "An engine and READ get a page that another device refuses for a while.",
    other_device_locked = "An engine and READ get what a CPU's fault on another device has locked for a while, small and huge.",
    killed_while_locked = "A process that waits for that can be killed, and a queue ends.",
}

/// The time for which a page is held.
const HELD: Duration = Duration::from_millis(400);

/// The requester of a page of another device.
#[derive(Clone, Copy, Debug)]
enum Asker {
    /// READ.
    Command,
    /// An engine that reads.
    Engine,
    /// An engine that makes atomic operations.
    Atomic,
}

const ASKERS: [Asker; 3] = [Asker::Command, Asker::Engine, Asker::Atomic];

/// Runs `body` for each asker, with memory in small pages and in a huge one.
fn each(mut body: impl FnMut(Asker, bool) -> Result<()>) -> Result<()> {
    ASKERS.into_iter().try_for_each(|asker| {
        [false, true].into_iter().try_for_each(|huge| {
            body(asker, huge).with_context(|| format!("{asker:?}, huge pages: {huge}"))
        })
    })
}

impl Asker {
    /// Gets some of the memory for the second device. This must succeed; for READ the data must be
    /// right.
    fn asks(self, worker: &Worker, memory: &Memory) -> Result<()> {
        let data = memory.region.addr();
        let packet = match self {
            Self::Command => return memory.device_reads(&worker.device, 0..4).map(drop),
            Self::Engine => Packet::sum(worker.result(), data, 4 * page_size() as u64),
            Self::Atomic => Packet::add(Width::Eight, data + page_size() as u64, 0, 1, 0),
        };
        worker.does(&[packet])
    }
}

/// Creates a queue of the second device.
fn second(context: &Context) -> Result<Worker> {
    open(context)?; // or skips
    Worker::of(context.open_second()?, Options::new(4))
}

fn other_device_waits(context: &Context) -> Result<()> {
    let policy = Policy::with("kfd", &[("timeslice_us", 20_000)])?;
    let (first, second) = (Worker::new(context)?, second(context)?);
    let memory = Memory::new(16)?;
    let data = memory.region.addr();
    let fetch = Packet::sum(first.result(), data, 16 * page_size() as u64);
    let before = policy.stats()?;
    for asker in ASKERS {
        for _ in 0..4 {
            first.does(&[fetch])?;
            soon("the page", || asker.asks(&second, &memory))?;
        }
    }
    memory.intact()?;
    let waited = (policy.stats()? - before).timeslices;
    ensure!(waited > 0, "nobody has waited for a slice");
    Ok(())
}

/// Runs `body` while the first device refuses pages to CPUs, again and again for a while.
fn refusing<T>(device: &Device, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let refuse = || -> Result<()> {
        if start.elapsed() < HELD {
            return Ok(device.fail_next_allocation()?);
        }
        device.clear_flags()?;
        thread::sleep(Duration::from_millis(1));
        Ok(())
    };
    // Refuse once at least: on a busy machine the body may end before the thread begins.
    refuse()?;
    let result = beside(&[&refuse], body);
    device.clear_flags()?;
    result
}

fn other_device_again(context: &Context) -> Result<()> {
    let policy = Policy::of("test_hmm")?;
    let (device, second) = (open(context)?, second(context)?);
    second.does(&[Packet::spin(0)])?;
    let before = policy.stats()?;
    each(|asker, huge| {
        let memory = memory_on(&device, huge)?;
        let asks = || refusing(&device, || asker.asks(&second, &memory));
        soon("the page", asks)?;
        memory.intact()
    })?;
    let faults = (policy.stats()? - before).cpu_faults;
    println!("{faults} faults");
    ensure!(faults > 12, "no page was refused: {faults} faults");
    Ok(())
}

/// Runs `body` while a CPU that touches memory of the first device is held with the page locked.
/// Faults of `body` are not held. The argument of `body` is true if the CPU was held in time, which
/// may fail on a busy machine.
fn locked<T>(memory: &Memory, body: impl FnOnce(bool) -> Result<T>) -> Result<T> {
    let delay = Delay::new("fault", HELD.as_micros() as u32)?;
    let (begun, at) = (Gate::new()?, memory.region.addr() + page_size() as u64);
    // Another process touches the memory as a debugger does, and shares no page.
    let file = memory_of(std::process::id())?;
    memory.region.advise(memory.all(), Advice::DontFork)?;
    let toucher = helper(|| {
        let mut word = [0; 8];
        begun.send(std::process::id().into())?;
        Ok(file.read_exact_at(&mut word, at)?)
    })?;
    memory.region.advise(memory.all(), Advice::DoFork)?;
    let is_held = sleeps(begun.receive()?)?;
    drop(delay);
    let result = body(is_held);
    toucher.join()?;
    result
}

/// Waits until a process sleeps in the kernel, in a sleep that no signal ends. Returns false if it
/// ended before it was seen to sleep.
fn sleeps(process: u64) -> Result<bool> {
    let start = Instant::now();
    loop {
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
        if stat.contains(") D ") {
            return Ok(true);
        }
        if stat.contains(") Z ") {
            return Ok(false);
        }
        ensure!(start.elapsed() < PATIENCE, "it is not held: {stat}");
    }
}

/// Creates small pages or a huge one, and moves them to a device.
fn memory_on(device: &Device, huge: bool) -> Result<Memory> {
    let memory = if huge {
        huge::huge(1)?
    } else {
        Memory::new(16)?
    };
    memory.out(device)?;
    Ok(memory)
}

fn other_device_locked(context: &Context) -> Result<()> {
    let (device, second) = (open(context)?, second(context)?);
    second.does(&[Packet::spin(0)])?;
    let mut held = 0;
    each(|asker, huge| {
        let memory = memory_on(&device, huge)?;
        locked(&memory, |is_held| {
            held += u32::from(is_held);
            soon("the page", || asker.asks(&second, &memory))
        })?;
        memory.intact()
    })?;
    ensure!(held > 0, "no page was locked");
    Ok(())
}

fn killed_while_locked(context: &Context, WithEngines(device): WithEngines) -> Result<()> {
    let before = Before::of(&device)?;
    each(|asker, huge| {
        let started = Gate::new()?;
        let child = helper(|| {
            let (device, second) = (context.open()?, second(context)?);
            let memory = memory_on(&device, huge)?;
            locked(&memory, |_| {
                started.open()?;
                asker.asks(&second, &memory)
            })
        })?;
        started.wait()?;
        thread::sleep(HELD / 8);
        soon("the end of a process", || child.kill())?;
        soon("the next job", || second(context)?.does(&[Packet::spin(0)]))?;
        before.nothing_is_left(&device)
    })?;
    let worker = second(context)?;
    let memory = memory_on(&device, true)?;
    let job = locked(&memory, |_| {
        let add = Packet::add(Width::Eight, memory.region.addr(), 0, 1, 0);
        let job = worker.submit(&[add])?;
        thread::sleep(HELD / 8);
        worker.ends()?;
        Ok(job)
    })?;
    equal("number of the job", job, 1)?;
    memory.intact()
}
