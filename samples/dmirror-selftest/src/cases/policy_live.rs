// SPDX-License-Identifier: GPL-2.0

//! Policies for pages that CPUs and engines both want: time slices, thrashing; and full fault
//! buffers.

use std::sync::atomic::{AtomicBool, Ordering};

use super::engine::{done_at, words_are};
use super::policy::for_each;
use crate::prelude::*;
use crate::settings::PRESETS;
use crate::worker::open_with_two;

cases! { "policy":
    timeslice = "A CPU does not get what an engine has just fetched before its time slice is over.",
    timeslice_ends = "It gets it then, and after eight times that at the latest, however large the file's number.",
    thrashing = "A granule that a CPU wants back again and again is left alone for a while, then used where it is.",
    pinned_beside_others = "A page that is used where it is does not move with what is missed near it.",
    pinned_for_a_while = "When that time is over it moves again.",
    fight = "CPUs and engines that want one page all make progress under each policy, and lose nothing.",
    small_buffer = "A fault buffer of one entry, in batches of one, serves two engines; what found no room is counted.",
    one_granule_for_two = "Two engines that miss the same granule both go on.",
    changed_meanwhile = "Policies that change under engines at work make no difference to what memory holds.",
    sums = "Counters of faults agree with each other, and pages that moved with where they are."
        => for_each(&PRESETS, sums),
}

/// The time that a busy machine may add to a time that is bounded.
const SLACK: Duration = Duration::from_secs(10);

/// Returns a packet that writes 7 to a word, and so takes the page that it is in.
fn touch(addr: u64) -> Packet {
    Packet::fence(addr, 7)
}

/// Creates a small page that an engine fetches, and a CPU then wants.
fn wanted_page() -> Result<Region> {
    let data = Region::options(1).huge(false).map()?;
    data.store(0, 1);
    Ok(data)
}

/// Makes an engine fetch a page, and reads it with a CPU. Returns whether the page was on the
/// device, and the times until the read was done: since before the job, and since after it.
fn fetched_and_read(worker: &Worker, data: &Region) -> Result<(bool, [Duration; 2])> {
    let start = Instant::now();
    worker.does(&[touch(data.addr())])?;
    let is_there = Survey::of(data.range())?.on_device() == 1;
    let fetched = Instant::now();
    equal("what the engine wrote", data.load(0), 7)?;
    Ok((is_there, [start, fetched].map(|since| since.elapsed())))
}

fn timeslice(context: &Context) -> Result<()> {
    let slice = Duration::from_millis(20);
    let policy = Policy::with("kfd", &[("timeslice_us", 20_000)])?;
    let worker = Worker::new(context)?;
    // The filler keeps the page out of the first block of the device.
    let (_filler, data) = (
        Memory::resident(&worker.device, 2 * hpage_pmd_nr())?,
        wanted_page()?,
    );
    let before = policy.stats()?;
    let [mut all, mut moved] = [0; 2];
    for round in tries(3) {
        // Fetch in time for another slice, or not.
        if round % 2 == 1 {
            thread::sleep(2 * slice);
        }
        // A page that others hold for a moment stays where it is, and has no slice then.
        let (is_there, [took, waited]) = fetched_and_read(&worker, &data)?;
        all += 1;
        moved += u32::from(is_there);
        ensure!(!is_there || took >= slice, "a CPU had it after {took:?}");
        ensure!(waited < 8 * slice + SLACK, "a CPU had it after {waited:?}");
        if round >= 19 && (policy.stats()? - before).timeslices > 0 {
            break;
        }
    }
    ensure!(moved > all / 2, "{moved} of {all} times it was fetched");
    let waited = (policy.stats()? - before).timeslices;
    ensure!(waited > 0, "no CPU has waited for a slice");
    Ok(())
}

fn timeslice_ends(context: &Context) -> Result<()> {
    let policy = Policy::with("kfd", &[("timeslice_us", u32::MAX)])?;
    let (worker, data) = (Worker::new(context)?, wanted_page()?);
    let most = 8 * Duration::from_millis(20) + SLACK;
    for _ in 0..8 {
        let (_, [_, waited]) = fetched_and_read(&worker, &data)?;
        ensure!(waited < most, "a CPU had it after {waited:?}");
    }
    // Without a slice nobody waits.
    policy.set("timeslice_us", 0)?;
    thread::sleep(8 * Duration::from_millis(20));
    let before = policy.stats()?;
    for _ in 0..8 {
        fetched_and_read(&worker, &data)?;
    }
    equal("waits", (policy.stats()? - before).timeslices, 0)
}

/// The settings with which the third miss of a page counts as thrashing, at any time.
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
struct Wanted {
    worker: Worker,
    memory: Memory,
    packets: u64,
}

impl Wanted {
    fn new(context: &Context, neighbours: usize) -> Result<Self> {
        let (worker, memory) = (Worker::new(context)?, Memory::new(1 + neighbours)?);
        // The packet writes the value that is there.
        let value = memory.region.load(1);
        let packets = worker.store(&[Packet::fence(memory.region.addr() + 8, value)]);
        Ok(Self {
            worker,
            memory,
            packets,
        })
    }

    /// Makes the engine take the page, and a CPU take it back. Returns whether the page was on the
    /// device in between.
    fn to_and_fro(&self) -> Result<bool> {
        done_at(&self.worker.queue, self.packets, 1)?;
        let moved = self.memory.expect("", 0..1, Where::Device).is_ok();
        self.memory.verify(0..1)?;
        self.memory.expect("read by a CPU", 0..1, Where::System)?;
        Ok(moved)
    }

    /// Runs [`Self::to_and_fro`] for each expected result, and checks the results.
    fn moves(&self, expected: &[bool]) -> Result<()> {
        let moved = expected.iter().map(|_| self.to_and_fro());
        let moved = moved.collect::<Result<Vec<_>>>()?;
        equal("whether it has moved", &moved[..], expected)
    }
}

fn thrashing(context: &Context) -> Result<()> {
    let policy = Policy::with("uvm", &THRASHING)?;
    let wanted = Wanted::new(context, 0)?;
    let before = policy.stats()?;
    for_all(1..=8_u64, |nth| {
        let moved = wanted.to_and_fro()?;
        let added = policy.stats()? - before;
        let seen = (moved, added.naps, added.pins > 0);
        let expected = (nth <= 4, nth.saturating_sub(2).min(2), nth > 4);
        equal(&format!("has moved, naps, pins: {nth}"), seen, expected)
    })
}

fn pinned_for_a_while(context: &Context) -> Result<()> {
    let policy = Policy::with("uvm", &THRASHING)?;
    policy.set("thrash_pin_ms", 50)?;
    let wanted = Wanted::new(context, 0)?;
    wanted.moves(&[true, true, true, true, false])?;
    thread::sleep(Duration::from_millis(60));
    // A device that has mapped the page in system memory does not miss it.
    wanted.memory.region.advise(0..1, Advice::DontNeed)?;
    wanted.memory.fill(0..1);
    wanted.moves(&[true])
}

fn pinned_beside_others(context: &Context) -> Result<()> {
    let policy = Policy::with("uvm", &THRASHING)?;
    let wanted = Wanted::new(context, 7)?;
    wanted.moves(&[true, true, true, true, false])?;
    // From now on a missed page brings all pages near it.
    policy.set("prefetch", 1)?;
    let memory = &wanted.memory;
    let missed = touch(memory.region.addr() + 4 * page_size() as u64);
    wanted.worker.does(&[missed])?;
    memory.expect("what was missed", 4..5, Where::Device)?;
    memory.expect("what is used where it is", 0..1, Where::System)
}

/// Makes a CPU and two engines write to words of their own in one page, and add to a word that all
/// share.
fn fight_for_a_page(context: &Context, what: &str) -> Result<()> {
    let workers = two(context)?;
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
    let what = format!("{what}: words of all, of each engine, of the CPU");
    let seen = [0, 8, 16, 48].map(|word| data.load(word));
    let expected = [one + other + cpu, 3 * one, 3 * other, cpu - 1];
    equal(&what, seen, expected)
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

/// Makes both engines write to memory, each to one half of it.
fn both_write(workers: &[Worker; 2], memory: &Memory, value: u64) -> Result<()> {
    let half = memory.region.len() as u64 / 2;
    let at = memory.region.addr();
    let write = |worker: &Worker, at| worker.submit(&[Packet::fill(at, half, value)]);
    let jobs = [write(&workers[0], at)?, write(&workers[1], at + half)?];
    for (worker, job) in workers.iter().zip(jobs) {
        equal("failure", worker.outcome(job)?.error, None)?;
    }
    let words = (0..memory.region.len() / 8).step_by(64);
    words_are("a word", &memory.region, words, value)
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
        for round in tries(2) {
            let memory = Memory::new(128)?;
            let added = policy.added(|| both_write(&workers, &memory, round as u64))?;
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
    for round in tries(10) {
        let memory = Memory::new(hpage_pmd_nr())?;
        let added = policy.added(|| both_write(&workers, &memory, round as u64))?;
        merged += added.fault_merged;
        ensure!(added.fault_cancelled == 0, "{added:?}");
        if round >= 9 && merged > 0 {
            break;
        }
    }
    ensure!(merged > 0, "nothing was merged");
    Ok(())
}

fn changed_meanwhile(context: &Context) -> Result<()> {
    let policy = Policy::of("test_hmm")?;
    let workers = two(context)?;
    let memory = Memory::new(hpage_pmd_nr())?;
    let change = || -> Result<()> {
        PRESETS.iter().try_for_each(|preset| {
            policy.store("policy", preset)?;
            thread::sleep(Duration::from_millis(2));
            for (file, value) in [
                ("fault_buffer", 1),
                ("fault_batch", 0),
                ("granule", 4 * page_size() as u32),
            ] {
                policy.set(file, value)?;
            }
            thread::sleep(Duration::from_millis(2));
            Ok(())
        })
    };
    beside(&[&change], || {
        rounds(4).try_for_each(|round| both_write(&workers, &memory, round as u64))
    })
}

fn sums(context: &Context, policy: &Policy, preset: &str) -> Result<()> {
    let (worker, memory) = (Worker::new(context)?, Memory::new(hpage_pmd_nr())?);
    let data = memory.region.addr();
    let added = policy.added(|| {
        worker.does(&[
            Packet::sum(data + 8, data, 100 * page_bytes()),
            Packet::random_write(data, data, memory.region.len() as u64, 300, 3),
            Packet::fill(data + 200 * page_bytes(), 100 * page_bytes(), 1),
        ])
    })?;
    let (posted, merged, batches) = (added.fault_posted, added.fault_merged, added.fault_batches);
    ensure!(posted > 0 && batches > 0, "{added:?}");
    ensure!(posted >= merged + batches, "{added:?}");
    ensure!(added.fault_overflows <= posted, "{added:?}");
    let moves = preset != "test_hmm";
    equal("granules", added.granules > 0, moves)?;
    equal("pages out for faults", added.out_device_fault > 0, moves)?;
    let most = added.granules * hpage_pmd_nr() as u64 + added.prefetched;
    ensure!(added.out_device_fault <= most, "{added:?}");
    Ok(())
}
