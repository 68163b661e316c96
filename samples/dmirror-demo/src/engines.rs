// SPDX-License-Identifier: GPL-2.0

//! The second part: a device that works by itself.
//!
//! To learn how a computation is offloaded, read from top to bottom; Documentation/device.md says
//! what the packets do, and rust/uapi/dmirror.h what a program in C calls.
//!
//! | read | to see |
//! | --- | --- |
//! | [`Worker`] | how packets get to an engine, and how a program learns of their end |
//! | [`sum`] | a computation on memory that nobody has moved: the device faults it in |
//! | [`histogram`] | several engines and CPUs that change the same words at once |
//! | [`run_into_hole`] | what a program learns of an access that cannot be made |
//! | [`endless`] | how a program gets rid of a job that does not end |

use std::array::from_fn;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use dmirror_client::Device;
use dmirror_client::Errno;
use dmirror_client::Packet;
use dmirror_client::Place;
use dmirror_client::Policy;
use dmirror_client::Queue;
use dmirror_client::Region;
use dmirror_client::Survey;
use dmirror_client::packet;
use dmirror_client::packet::Width;
use dmirror_client::page_size;
use dmirror_client::program::Dice;
use dmirror_client::queue::Access;
use dmirror_client::queue::Options;
use dmirror_client::queue::Outcome;

use crate::Arguments;
use crate::demo::Memory;
use crate::demo::expect;
use crate::picture;
use crate::transcript::Transcript;

/// The time limit for a job that ends by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// The time limits for the end of a queue, and for a wait for a job that does not end.
const SOON: Duration = Duration::from_secs(5);
const BRIEFLY: Duration = Duration::from_millis(50);

/// A queue on one engine, and memory for the packets of one job.
struct Worker {
    queue: Queue,
    code: Region,
}

impl Worker {
    /// The number of pages for packets.
    const PAGES: usize = 2;
    /// The number of jobs that the queue holds.
    const DEPTH: u32 = 2;

    /// Creates a queue on an engine.
    fn new(device: &Device, engine: u32) -> Result<Self> {
        Ok(Self {
            queue: device.queue(Options::new(Self::DEPTH).engine(engine))?,
            code: Region::options(Self::PAGES).huge(false).map()?,
        })
    }

    /// Writes packets to memory, submits them to the engine, and returns the number of that job.
    ///
    /// The engine fetches each packet when its turn comes, so they must stay until the job ends.
    fn submit(&self, packets: &[Packet]) -> Result<u64> {
        let first = packet::store(&self.code, 0, packets);
        Ok(self.queue.submit(first, packets.len() as u32)?)
    }

    /// Waits for the end of a job. A failed job is no error here: its outcome reports the failure.
    fn wait(&self, job: u64) -> Result<Outcome> {
        Ok(self.queue.wait(job, Some(PATIENCE))?)
    }

    /// Waits until all of `npackets` packets were executed; `job` executes the first of them.
    ///
    /// A job ends with EBUSY where others take a page away all the time. The packets that it
    /// executed count, and a failed atomic operation has no effect; so another job goes on there.
    fn finish(&self, mut job: u64, npackets: usize) -> Result<()> {
        let (start, npackets) = (Instant::now(), npackets as u64);
        let mut executed = 0;
        loop {
            let outcome = self.wait(job)?;
            executed += outcome.executed;
            let is_late = start.elapsed() > PATIENCE;
            match outcome.error {
                None if executed == npackets => return Ok(()),
                Some(Errno::EBUSY) if !is_late => {
                    let next = self.code.addr() + executed * Packet::SIZE as u64;
                    job = self.queue.submit(next, (npackets - executed) as u32)?;
                }
                _ => anyhow::bail!("expected {npackets} packets in all, seen {outcome}"),
            }
        }
    }

    /// Makes the engine execute packets, and waits for their end.
    fn does(&self, packets: &[Packet]) -> Result<()> {
        self.finish(self.submit(packets)?, packets.len())
    }
}

/// Runs the steps of this part, on a device of our module.
pub fn run(arguments: &Arguments, out: &mut Transcript) -> Result<()> {
    out.step("A device that works by itself: its engines execute packets, in kernel threads");
    let device = Device::open(&arguments.device)?;
    let engines = match device.query() {
        Ok(query) => query.engines,
        Err(error) if matches!(error.errno, Errno::ENOTTY | Errno::EINVAL) => {
            out.fact("skipped", "this module has no engines; dmirror has");
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    out.check(
        "engines",
        Ok(format!(
            "{engines}, none of which runs before there is a queue"
        )),
    );

    let name = (arguments.device.file_name()).map_or("".into(), |name| name.to_string_lossy());
    match Policy::of(&name).context("cannot look for the policy")? {
        Some(policy) => {
            let before = policy.values()?;
            let steps = under_policies(&device, &policy, arguments, engines, out);
            policy.put(&before).context("cannot set the policy back")?;
            steps?;
        }
        None => {
            sum(&device, arguments, None, out)?;
            histogram(&device, engines, Bins::InSystem, out)?;
            histogram(&device, engines, Bins::OnDevice, out)?;
        }
    }
    run_into_hole(&device, out)?;
    endless(&device, engines, out)
}

/// Runs the steps that depend on the policy for pages that the device misses.
fn under_policies(
    device: &Device,
    policy: &Policy,
    arguments: &Arguments,
    engines: u32,
    out: &mut Transcript,
) -> Result<()> {
    for (preset, end) in [("test_hmm", End::Stay), ("xe", End::Move)] {
        policy.choose(preset)?;
        sum(device, arguments, Some((preset, end)), out)?;
    }
    policy.choose("test_hmm")?;
    histogram(device, engines, Bins::InSystem, out)?;
    histogram(device, engines, Bins::OnDevice, out)
}

/// The effect of a policy on pages that an engine has read.
#[derive(Clone, Copy)]
enum End {
    Stay,
    Move,
}

/// Sums an array that the program has written and nobody has moved.
fn sum(
    device: &Device,
    arguments: &Arguments,
    policy: Option<(&str, End)>,
    out: &mut Transcript,
) -> Result<()> {
    const PARTS: usize = 4;
    out.step(match policy {
        Some((preset, End::Stay)) => {
            format!("An engine sums an array; policy {preset}: it maps pages where they are")
        }
        Some((preset, End::Move)) => {
            format!("The same; policy {preset}: pages that it misses move to the device")
        }
        None => "An engine sums an array".into(),
    });
    let array = Memory::new(arguments.pages())?;
    array.data.fill(&array.region, 0..arguments.pages());
    let by_cpu = (0..array.region.len() / 8)
        .map(|word| array.region.load(word))
        .fold(0, u64::wrapping_add);

    // Four packets in one job, each with a quarter of the array and a word for its result. No
    // command moves the array, and none tells the device of it.
    let results = Region::options(1).huge(false).map()?;
    let bytes = (array.region.len() / PARTS) as u64;
    let packets: [Packet; PARTS] = from_fn(|part| {
        let part = part as u64;
        Packet::sum(
            results.addr() + 8 * part,
            array.region.addr() + bytes * part,
            bytes,
        )
    });
    let worker = Worker::new(device, 0)?;
    let start = Instant::now();
    let job = worker.submit(&packets)?;
    let outcome = worker.wait(job)?;
    let time = start.elapsed().as_secs_f64() * 1e3;
    out.check(
        "job",
        came_to(outcome, Outcome::done(4), &format!(" in {time:.1} ms")),
    );

    match policy {
        Some((_, End::Stay)) => array.show(out, "where", 0)?,
        Some((_, End::Move)) => array.show(out, "where", array.region.pages())?,
        None => out.fact(
            "skipped",
            "where pages are by policy, which root sets in debugfs",
        ),
    }
    let sum = (0..PARTS)
        .map(|part| results.load(part))
        .fold(0, u64::wrapping_add);
    out.check(
        "sum",
        expect(format!("{sum:#018x}, equal to the CPU's sum"), sum, by_cpu),
    );
    Ok(())
}

/// The place of the bins of a histogram when an engine adds to them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bins {
    InSystem,
    OnDevice,
}

/// The number of bins, each the first word of a page, so that a picture has a character for each.
const BINS: usize = 64;

/// Adds samples to bins, with queues on all engines and with CPUs at once.
fn histogram(device: &Device, engines: u32, bins: Bins, out: &mut Transcript) -> Result<()> {
    const QUEUES: u32 = 4;
    const CPUS: u64 = 2;
    const JOBS: usize = 2;
    /// The number of samples of one job, each of which is a packet.
    const SAMPLES: usize = 64;
    /// The number of samples that a CPU adds before it pauses.
    const BURST: usize = 32;
    const PAUSE: Duration = Duration::from_micros(500);

    out.step(match bins {
        Bins::InSystem => {
            "Engines and CPUs add to one histogram, by atomics: bins in system memory"
        }
        Bins::OnDevice => "The same, with bins that each job brings to the device first",
    });
    let memory = Region::options(BINS).huge(false).map()?;
    (0..BINS).for_each(|bin| memory.store(bin * Region::words_per_page(), 0));
    let packets_of = |samples: &[usize]| {
        let add = |bin: &usize| {
            let word = memory.addr() + (bin * page_size()) as u64;
            Packet::add(Width::Eight, word, 1, 1, 0)
        };
        let prefetch = Packet::prefetch(memory.addr(), memory.len() as u64);
        let first = (bins == Bins::OnDevice).then_some(prefetch);
        first
            .into_iter()
            .chain(samples.iter().map(add))
            .collect::<Vec<_>>()
    };

    // Each CPU counts its own additions separately, until the engines have ended.
    let over = AtomicBool::new(false);
    let by_cpu = |seed| {
        let (mut dice, mut counts) = (Dice::new(seed), [0u64; BINS]);
        // ORDERING: It may be seen late.
        while !over.load(Ordering::Relaxed) {
            for _ in 0..BURST {
                let bin = sample(&mut dice);
                memory.fetch_add(bin * Region::words_per_page(), 1);
                counts[bin] += 1;
            }
            // Leave the CPUs to the engines, where there are few CPUs.
            thread::sleep(PAUSE);
        }
        counts
    };
    let by_engines = |counts: &mut [u64; BINS]| {
        let mut dice = Dice::new(0);
        let workers: Vec<Worker> = (0..QUEUES)
            .map(|queue| Worker::new(device, queue % engines))
            .collect::<Result<_>>()?;
        for _ in 0..JOBS {
            let mut jobs = Vec::new();
            for worker in &workers {
                let samples: [usize; SAMPLES] = from_fn(|_| sample(&mut dice));
                samples.iter().for_each(|bin| counts[*bin] += 1);
                let packets = packets_of(&samples);
                jobs.push((worker, worker.submit(&packets)?, packets.len()));
            }
            for (worker, job, npackets) in jobs {
                worker.finish(job, npackets)?;
            }
        }
        anyhow::Ok(())
    };
    let mut counts = [0; BINS];
    let (engines_ended, cpus) = thread::scope(|scope| {
        let cpus: Vec<_> = (1..=CPUS)
            .map(|seed| scope.spawn(move || by_cpu(seed)))
            .collect();
        let ended = by_engines(&mut counts);
        // ORDERING: As above.
        over.store(true, Ordering::Relaxed);
        let cpus: Vec<_> = cpus.into_iter().filter_map(|cpu| cpu.join().ok()).collect();
        (ended, cpus)
    });
    engines_ended?;
    let of_engines: u64 = counts.iter().sum();
    for cpu in &cpus {
        (counts.iter_mut().zip(cpu)).for_each(|(count, more)| *count += more);
    }
    let total: u64 = counts.iter().sum();
    out.fact("bins", picture::bars(&counts));
    let who = format!(
        "{of_engines} added by {QUEUES} queues on {engines} engines, {} by {} CPU threads: none lost",
        total - of_engines,
        cpus.len()
    );
    out.check("sums", compare(&memory, &counts, who));

    // Now an engine adds alone, so that the pages stay as it leaves them.
    let samples: [usize; SAMPLES] = from_fn(|nth| BINS / 4 + nth % (BINS / 2));
    samples.iter().for_each(|bin| counts[*bin] += 1);
    Worker::new(device, 0)?.does(&packets_of(&samples))?;
    let survey = Survey::of(memory.range())?;
    if bins == Bins::OnDevice || survey.frames_shown() {
        out.fact("where", picture::draw(&survey));
        let (seen, expected, what) = match bins {
            Bins::InSystem => (
                survey.count(|place| *place == Place::Held),
                BINS / 2,
                "in system memory, exclusive to the device",
            ),
            Bins::OnDevice => (survey.on_device(), BINS, picture::there(&survey)),
        };
        let found = format!("an engine alone added {SAMPLES} more: {seen} pages {what}");
        out.check("", expect(found, seen, expected));
    }
    out.check(
        "sums",
        compare(
            &memory,
            &counts,
            "right again: the CPU has got them back".into(),
        ),
    );
    Ok(())
}

/// Draws a bin: the number of heads among 64 coins.
fn sample(dice: &mut Dice) -> usize {
    (dice.any().count_ones() as usize).min(BINS - 1)
}

/// Compares bins, as the CPU reads them, with the expected counts.
fn compare(memory: &Region, counts: &[u64; BINS], found: String) -> Result<String, String> {
    let seen: [u64; BINS] = from_fn(|bin| memory.load(bin * Region::words_per_page()));
    match (0..BINS).find(|bin| seen[*bin] != counts[*bin]) {
        None => Ok(found),
        Some(bin) => Err(format!(
            "bin {bin}: expected {}, seen {}",
            counts[bin], seen[bin]
        )),
    }
}

/// Makes an engine read a range with a hole in its middle.
fn run_into_hole(device: &Device, out: &mut Transcript) -> Result<()> {
    out.step("A packet runs into a hole: the job fails there, and the queue goes on");
    let mut before = Region::anonymous(3)?;
    let mut hole = before.split_off(1);
    let _after = hole.split_off(1);
    let (start, hole_at) = (before.addr(), hole.addr());
    drop(hole);
    let result = Region::anonymous(1)?;
    let worker = Worker::new(device, 0)?;
    let job = worker.submit(&[
        Packet::fence(result.addr() + 8, 1),
        Packet::sum(result.addr(), start, 3 * page_size() as u64),
        Packet::fence(result.addr() + 8, 2),
    ])?;
    let expected = Outcome::failed(1, Errno::EFAULT, Access::Read, hole_at);
    out.check(
        "job",
        came_to(worker.wait(job)?, expected, ", where nothing is mapped"),
    );
    out.check(
        "memory",
        expect(
            "the packet before it was done, none behind it".into(),
            result.load(1),
            1,
        ),
    );
    let job = worker.submit(&[Packet::fence(result.addr() + 8, 3)])?;
    out.check("next job", came_to(worker.wait(job)?, Outcome::done(1), ""));
    Ok(())
}

/// Makes an engine spin for days, and destroys the queue.
fn endless(device: &Device, engines: u32, out: &mut Transcript) -> Result<()> {
    out.step("A job that never ends: the others go on, and it ends with its queue");
    let word = Region::anonymous(1)?;
    let worker = Worker::new(device, 0)?;
    let (first, most) = (worker.code.addr(), device.query()?.max_packets);
    packet::store(
        &worker.code,
        0,
        &[Packet::spin(Packet::LONGEST_SPIN), Packet::jump(first)],
    );
    let job = worker.queue.submit(first, most)?;
    let late = match worker.queue.wait(job, Some(BRIEFLY)) {
        Err(error) if error.errno == Errno::ETIME => Ok(format!(
            "{most} packets, SPIN and JUMP by turns: not ended after {BRIEFLY:?}"
        )),
        Err(error) => Err(error.to_string()),
        Ok(outcome) => Err(format!("it has ended: {outcome}")),
    };
    out.check("job", late);
    if engines > 1 {
        Worker::new(device, 1)?.does(&[Packet::fence(word.addr(), 1)])?;
        out.check(
            "engine 1",
            expect("does another job meanwhile".into(), word.load(0), 1),
        );
    }
    let (number, start) = (worker.queue.number(), Instant::now());
    worker.queue.destroy()?;
    let took = start.elapsed();
    let found = format!(
        "destroyed in {:.1} ms, and the job with it",
        took.as_secs_f64() * 1e3
    );
    out.check(
        "queue",
        if took < SOON {
            Ok(found)
        } else {
            Err(format!("took {took:.1?}"))
        },
    );
    let gone = device.queue_of_number(number).wait(job, Some(BRIEFLY));
    anyhow::ensure!(gone.is_err(), "the queue is still there");
    Worker::new(device, 0)?.does(&[Packet::fence(word.addr(), 2)])?;
    out.check(
        "engine 0",
        expect("is free for the next queue".into(), word.load(0), 2),
    );
    Ok(())
}

/// Compares the outcome of a job with the expected one.
fn came_to(outcome: Outcome, expected: Outcome, how: &str) -> Result<String, String> {
    if outcome == expected {
        Ok(format!("{outcome}{how}"))
    } else {
        Err(format!("expected {expected}, seen {outcome}"))
    }
}
