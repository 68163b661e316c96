// SPDX-License-Identifier: GPL-2.0

//! Policies where CPUs and engines want the same pages: time slices, thrashing; and fault buffers
//! that are full.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::prelude::*;
use crate::settings::PRESETS;
use crate::worker::open_with_two;

cases! { "policy":
    timeslice = "A CPU does not get what an engine has just fetched before its time slice is over.",
    timeslice_ends = "It gets it then, and after eight times that at the latest, however large the file's number.",
    thrashing = "A granule that a CPU wants back again and again is left alone for a while, then used where it is.",
    pinned_beside_others = "A page that is used where it is does not move with what is missed near it.",
    pinned_for_a_while = "When that time is over it moves again.",
    fight = "Whatever the policy, CPUs and engines that want one page all make progress, and lose nothing.",
    small_buffer = "A fault buffer of one entry, in batches of one, serves two engines; what found no room is counted.",
    one_granule_for_two = "Two engines that miss the same granule both go on.",
    changed_meanwhile = "Policies that change under engines at work make no difference to what memory holds.",
    sums = "Counters of faults agree with each other, and pages that moved with where they are.",
}

const PAGE: u64 = 4096;

/// What may come on top of a time that is bounded, on a busy machine.
const SLACK: Duration = Duration::from_secs(10);

/// Adds 0 to a word, which takes the page that it is in.
fn touch(addr: u64) -> Packet {
    Packet::fence(addr, 7)
}

/// An engine fetches a page, and a CPU reads it: how long that took, from before the job, and from
/// after it.
fn fetched_and_read(worker: &Worker, data: &Region) -> Result<[Duration; 2]> {
    let start = Instant::now();
    worker.does(&[touch(data.addr())])?;
    let fetched = Instant::now();
    equal("what the engine wrote", data.load(0), 7)?;
    Ok([start.elapsed(), fetched.elapsed()])
}

fn timeslice(context: &Context) -> Result<()> {
    let slice = Duration::from_millis(20);
    let policy = Policy::with("kfd", &[("timeslice_us", 20_000)])?;
    let worker = Worker::new(context)?;
    // So that the page does not come into the first block of the device.
    let filler = Memory::new(1024)?;
    filler.move_out(&worker.device, filler.all())?;
    let data = Region::options(1).huge(false).map()?;
    data.store(0, 1);
    let before = policy.stats()?;
    let [mut all, mut moved] = [0; 2];
    for round in rounds(3) {
        // In time for another slice, or not.
        if round % 2 == 1 {
            thread::sleep(2 * slice);
        }
        let start = Instant::now();
        worker.does(&[touch(data.addr())])?;
        // A page that others have for a moment stays where it is, and there is no slice then.
        let is_there = Survey::of(data.range())?.on_device() == 1;
        let fetched = Instant::now();
        equal("what the engine wrote", data.load(0), 7)?;
        let (took, waited) = (start.elapsed(), fetched.elapsed());
        all += 1;
        moved += u32::from(is_there);
        ensure!(!is_there || took >= slice, "a CPU had it after {took:?}");
        ensure!(waited < 8 * slice + SLACK, "a CPU had it after {waited:?}");
    }
    ensure!(moved > all / 2, "{moved} of {all} times it was fetched");
    let waited = (policy.stats()? - before).timeslices;
    ensure!(waited > 0, "no CPU has waited for a slice");
    Ok(())
}

fn timeslice_ends(context: &Context) -> Result<()> {
    let policy = Policy::with("kfd", &[("timeslice_us", u32::MAX)])?;
    let worker = Worker::new(context)?;
    let data = Region::options(1).huge(false).map()?;
    data.store(0, 1);
    let most = 8 * Duration::from_millis(20) + SLACK;
    for _ in 0..8 {
        let [_, waited] = fetched_and_read(&worker, &data)?;
        ensure!(waited < most, "a CPU had it after {waited:?}");
    }
    // Without one nobody waits.
    policy.set("timeslice_us", 0)?;
    thread::sleep(8 * Duration::from_millis(20));
    let before = policy.stats()?;
    for _ in 0..8 {
        fetched_and_read(&worker, &data)?;
    }
    equal("waits", (policy.stats()? - before).timeslices, 0)
}

/// The settings with which the third miss of a page is one too many, whenever it comes.
const THRASHING: [(&str, u32); 7] = [
    ("prefetch", 0),
    ("access_counter", 0),
    ("thrash_events", 3),
    ("thrash_window_us", u32::MAX),
    ("thrash_nap_us", 100),
    ("thrash_naps", 2),
    ("thrash_pin_ms", 10_000),
];

/// A page that the engine of `worker` wants, with packets that are on the device and stay there.
struct Wanted<'w> {
    worker: &'w Worker,
    memory: Memory,
    packets: u64,
}

impl<'w> Wanted<'w> {
    fn new(worker: &'w Worker) -> Result<Self> {
        Self::with_neighbours(worker, 0)
    }

    fn with_neighbours(worker: &'w Worker, neighbours: usize) -> Result<Self> {
        let memory = Memory::new(1 + neighbours)?;
        // Writes what is there.
        let value = memory.region.load(1);
        let packets = worker.store(&[Packet::fence(memory.region.addr() + 8, value)]);
        Ok(Self {
            worker,
            memory,
            packets,
        })
    }

    /// The engine takes it, and a CPU takes it back. Returns where it was between.
    fn to_and_fro(&self) -> Result<bool> {
        let job = self.worker.queue.submit(self.packets, 1)?;
        equal("failure", self.worker.outcome(job)?.error, None)?;
        let moved = self.memory.expect("", 0..1, Where::Device).is_ok();
        self.memory.verify(0..1)?;
        self.memory
            .expect("what a CPU has read", 0..1, Where::System)?;
        Ok(moved)
    }
}

fn thrashing(context: &Context) -> Result<()> {
    let policy = Policy::with("uvm", &THRASHING)?;
    let worker = Worker::new(context)?;
    let wanted = Wanted::new(&worker)?;
    let before = policy.stats()?;
    let mut moved = Vec::new();
    for _ in 0..8 {
        moved.push(wanted.to_and_fro()?);
        let (naps, pins) = {
            let added = policy.stats()? - before;
            (added.naps, added.pins)
        };
        equal("naps", naps, moved.len().saturating_sub(2).min(2) as u64)?;
        equal("pins", pins > 0, moved.len() > 4)?;
    }
    equal(
        "whether it has moved",
        moved,
        vec![true, true, true, true, false, false, false, false],
    )
}

fn pinned_for_a_while(context: &Context) -> Result<()> {
    let policy = Policy::with("uvm", &THRASHING)?;
    policy.set("thrash_pin_ms", 50)?;
    let worker = Worker::new(context)?;
    let wanted = Wanted::new(&worker)?;
    for nth in 0..4 {
        equal(&format!("miss {nth}"), wanted.to_and_fro()?, true)?;
    }
    equal("the fifth", wanted.to_and_fro()?, false)?;
    thread::sleep(Duration::from_millis(60));
    // Whoever has it mapped where it is misses nothing.
    wanted.memory.region.advise(0..1, Advice::DontNeed)?;
    wanted.memory.fill(0..1);
    equal("afterwards", wanted.to_and_fro()?, true)
}

fn pinned_beside_others(context: &Context) -> Result<()> {
    let policy = Policy::with("uvm", &THRASHING)?;
    let worker = Worker::new(context)?;
    let wanted = Wanted::with_neighbours(&worker, 7)?;
    let mut moved = Vec::new();
    for _ in 0..5 {
        moved.push(wanted.to_and_fro()?);
    }
    equal(
        "whether it has moved",
        moved,
        vec![true, true, true, true, false],
    )?;
    // From now on what is missed brings all that is near it.
    policy.set("prefetch", 1)?;
    let memory = &wanted.memory;
    worker.does(&[touch(memory.region.addr() + 4 * page_size() as u64)])?;
    memory.expect("what was missed", 4..5, Where::Device)?;
    memory.expect("what is used where it is", 0..1, Where::System)
}

/// CPU threads and two engines add to words of their own in one page, and to one that all share.
fn fight_for_a_page(context: &Context, what: &str) -> Result<()> {
    let workers = [Worker::on(context, 0)?, Worker::on(context, 1)?];
    let data = Region::options(1).huge(false).map()?;
    let over = AtomicBool::new(false);
    // ORDERING: it may be late.
    let is_over = || over.load(Ordering::Relaxed);
    let counts = thread::scope(|scope| {
        let engine = |nth: usize| {
            let (worker, data) = (&workers[nth], &data);
            scope.spawn(move || {
                let own = data.addr() + 64 * (nth as u64 + 1);
                let add = |at, times| Packet::add(Width::Eight, at, 1, times, 0);
                let mut jobs = 0;
                while !is_over() || jobs == 0 {
                    worker.does(&[add(own, 3), add(data.addr(), 1), touch(own + 8)])?;
                    jobs += 1;
                }
                anyhow::Ok(jobs)
            })
        };
        let engines = [engine(0), engine(1)];
        let cpu = scope.spawn(|| {
            let mut times = 0_u64;
            while !is_over() || times == 0 {
                data.fetch_add(0, 1);
                data.store(48, times);
                times += 1;
            }
            anyhow::Ok(times)
        });
        thread::sleep(Duration::from_millis(800));
        // ORDERING: as above.
        over.store(true, Ordering::Relaxed);
        let [one, other] = engines.map(joined);
        anyhow::Ok([one?, other?, joined(cpu)?])
    })?;
    let [one, other, cpu] = counts;
    equal(&format!("{what}: all"), data.load(0), one + other + cpu)?;
    equal(&format!("{what}: one engine"), data.load(8), 3 * one)?;
    equal(&format!("{what}: the other"), data.load(16), 3 * other)?;
    equal(&format!("{what}: the CPU"), data.load(48), cpu - 1)
}

fn fight(context: &Context) -> Result<()> {
    open_with_two(context)?; // or skips
    for preset in PRESETS {
        let _policy = Policy::of(preset)?;
        fight_for_a_page(context, preset)?;
    }
    let mut settings = THRASHING.to_vec();
    settings.extend([("thrash_pin_ms", 1), ("timeslice_us", 500)]);
    let _policy = Policy::with("uvm", &settings)?;
    fight_for_a_page(context, "thrashing")
}

/// Both engines write to memory, each to what `parts` says of the pages.
fn both_write(
    workers: &[Worker; 2],
    memory: &Memory,
    parts: [Range<usize>; 2],
    value: u64,
) -> Result<()> {
    let submit = |(worker, part): (&Worker, &Range<usize>)| {
        let range = memory.region.part(part.clone());
        worker.submit(&[Packet::fill(range.addr(), range.bytes(), value)])
    };
    let jobs = [
        submit((&workers[0], &parts[0]))?,
        submit((&workers[1], &parts[1]))?,
    ];
    for (worker, job) in workers.iter().zip(jobs) {
        equal("failure", worker.outcome(job)?.error, None)?;
    }
    for part in parts {
        for word in (part.start * 512..part.end * 512).step_by(64) {
            equal("word", memory.region.load(word), value)?;
        }
    }
    Ok(())
}

fn two(context: &Context) -> Result<[Worker; 2]> {
    open_with_two(context)?; // or skips
    Ok([Worker::on(context, 0)?, Worker::on(context, 1)?])
}

fn small_buffer(context: &Context) -> Result<()> {
    for preset in ["test_hmm", "kfd", "uvm"] {
        let settings = [("fault_buffer", 1), ("fault_batch", 1)];
        let policy = Policy::with(preset, &settings)?;
        let workers = two(context)?;
        let mut overflows = 0;
        for round in rounds(2) {
            let memory = Memory::new(128)?;
            let added =
                policy.added(|| both_write(&workers, &memory, [0..64, 64..128], round as u64))?;
            equal("merged", added.fault_merged, 0)?;
            equal("batches", added.fault_batches, added.fault_posted)?;
            overflows += added.fault_overflows;
            if round >= 1 && overflows > 0 {
                break;
            }
        }
        ensure!(overflows > 0, "there was always room");
    }
    Ok(())
}

fn one_granule_for_two(context: &Context) -> Result<()> {
    let policy = Policy::of("kfd")?;
    let workers = two(context)?;
    let mut merged = 0;
    for round in rounds(10) {
        let memory = Memory::new(512)?;
        let added =
            policy.added(|| both_write(&workers, &memory, [0..256, 256..512], round as u64))?;
        merged += added.fault_merged;
        ensure!(added.fault_cancelled == 0, "{added:?}");
    }
    ensure!(merged > 0, "nothing was merged");
    Ok(())
}

fn changed_meanwhile(context: &Context) -> Result<()> {
    let policy = Policy::of("test_hmm")?;
    let workers = two(context)?;
    let memory = Memory::new(512)?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let changes = scope.spawn(|| {
            // ORDERING: it may be late.
            while !over.load(Ordering::Relaxed) {
                for preset in PRESETS {
                    policy.store("policy", preset)?;
                    thread::sleep(Duration::from_millis(2));
                    policy.set("fault_buffer", 1)?;
                    policy.set("fault_batch", 0)?;
                    policy.set("granule", 16384)?;
                    thread::sleep(Duration::from_millis(2));
                }
            }
            anyhow::Ok(())
        });
        let result = rounds(4)
            .try_for_each(|round| both_write(&workers, &memory, [0..256, 256..512], round as u64));
        // ORDERING: as above.
        over.store(true, Ordering::Relaxed);
        joined(changes)?;
        result
    })
}

fn sums(context: &Context) -> Result<()> {
    for preset in PRESETS {
        let policy = Policy::of(preset)?;
        let worker = Worker::new(context)?;
        let memory = Memory::new(512)?;
        let data = memory.region.addr();
        let added = policy.added(|| {
            worker.does(&[
                Packet::sum(data + 8, data, 100 * PAGE),
                Packet::random_write(data, data, 512 * PAGE, 300, 3),
                Packet::fill(data + 200 * PAGE, 100 * PAGE, 1),
            ])
        })?;
        ensure!(added.fault_posted > 0, "{preset}: {added:?}");
        ensure!(added.fault_batches > 0, "{preset}: {added:?}");
        ensure!(
            added.fault_posted >= added.fault_merged + added.fault_batches,
            "{preset}: {added:?}"
        );
        ensure!(added.fault_overflows <= added.fault_posted, "{added:?}");
        let moves = preset != "test_hmm";
        equal("granules", added.granules > 0, moves)?;
        equal("pages out for faults", added.out_device_fault > 0, moves)?;
        ensure!(
            added.out_device_fault <= added.granules * 512 + added.prefetched,
            "{preset}: {added:?}"
        );
    }
    Ok(())
}
