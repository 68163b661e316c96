// SPDX-License-Identifier: GPL-2.0

//! Engines at work while CPUs read and write the same memory, while its pages move, and while its
//! mapping changes.

use std::sync::atomic::{AtomicBool, Ordering};

use dmirror_client::interpreter::Image;
use dmirror_client::program::{Dice, Ground};
use dmirror_client::queue::{Access, Outcome};

use crate::prelude::*;
use crate::worker::{Kind, open, same};

cases! { "engine":
    words_are_whole = "A CPU that reads what an engine writes, while the page moves, sees each word whole.",
    fence_after_data = "A CPU that sees the value of a FENCE sees all that the packets before it have written.",
    cpus_and_engines_write = "Engines and CPUs that write words of their own in one page lose none, while it moves.",
    atomic_sums = "Engines and CPUs that add to the same words lose nothing, while the pages move.",
    random_while_pages_move = "Random packets do what the interpreter says while the pages move and CPUs read them.",
    restless_memory = "An engine goes on when memory holds still again, after longer than an ioctl would wait.",
    unmapped_meanwhile = "A job fails where memory is unmapped under it.",
    protected_meanwhile = "A job fails where memory becomes read-only under it, and writes no more when mprotect is back.",
    hidden_meanwhile = "A job fails where memory loses all access under it, and goes on when it has it again.",
    dropped_meanwhile = "Memory that is dropped under a job is there again, with what the job writes.",
    moved_meanwhile = "A job fails where memory is moved away under it, and leaves it at its new place as it is.",
    forked_meanwhile = "A child that is forked under a job has memory of its own, which the job does not change.",
}

const PAGES: usize = 16;

/// Runs `others`, which go on until `body` has ended: they are told by what they are given.
fn beside<T: Send>(
    others: &[&(dyn Fn() -> Result<()> + Sync)],
    body: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let again = |other: &(dyn Fn() -> Result<()> + Sync)| {
            // ORDERING: it may be late.
            while !over.load(Ordering::Relaxed) {
                other()?;
            }
            anyhow::Ok(())
        };
        let others: Vec<_> = others
            .iter()
            .map(|other| scope.spawn(move || again(*other)))
            .collect();
        let result = body();
        // ORDERING: as above.
        over.store(true, Ordering::Relaxed);
        others.into_iter().try_for_each(joined)?;
        result
    })
}

/// Moves all of a region to the device, and half of it back.
fn to_and_fro(device: &Device, region: &Region) -> Result<()> {
    let mut view = vec![0; region.len()];
    unless_held(device.migrate_to_device(region.range(), &mut view))?;
    unless_held(device.migrate_to_system(region.part(0..region.pages().div_ceil(2))))
}

fn words_are_whole(context: &Context) -> Result<()> {
    let worker = Worker::new(context)?;
    let region = Region::options(4).huge(false).map()?;
    let (addr, len) = (region.addr(), region.len() as u64);
    let values = [0, 0x0101_0101_0101_0101, u64::MAX, 0xff00_ff00_ff00_ff00];
    let packets: Vec<Packet> = (values.iter())
        .flat_map(|value| {
            [
                Packet::fill(addr, len, *value),
                Packet::fence(addr + 8, *value),
            ]
        })
        .collect();
    let look = || {
        for index in 0..region.len() / 8 {
            let word = region.load(index);
            ensure!(values.contains(&word), "word {index} is {word:#x}");
        }
        Ok(())
    };
    let device = context.open()?;
    beside(&[&look, &|| to_and_fro(&device, &region)], || {
        for _ in rounds(3) {
            equal("failure", worker.repeat(&packets, || true)?.error, None)?;
        }
        Ok(())
    })
}

fn fence_after_data(context: &Context) -> Result<()> {
    let worker = Worker::new(context)?;
    let (region, fence) = (
        Region::options(32).huge(false).map()?,
        Region::anonymous(1)?,
    );
    let (addr, half) = (region.addr(), region.len() as u64 / 2);
    for round in rounds(20).take(500) {
        let value = round as u64 + 1;
        if round % 4 == 3 {
            to_and_fro(&worker.device, &region)?;
        }
        let job = worker.submit(&[
            Packet::copy(addr + half, addr, half),
            Packet::fill(addr, half, value),
            Packet::fence(fence.addr(), value),
        ])?;
        let start = Instant::now();
        while fence.load(0) != value {
            ensure!(start.elapsed() < PATIENCE, "there is no value of FENCE");
        }
        for index in 0..region.len() / 8 {
            let expected = value - u64::from(index >= region.len() / 16);
            equal("a word written before", region.load(index), expected)?;
        }
        equal("outcome", worker.outcome(job)?, Outcome::done(3))?;
    }
    Ok(())
}

fn cpus_and_engines_write(context: &Context) -> Result<()> {
    let worker = Worker::new(context)?;
    let region = Region::options(4).huge(false).map()?;
    let words = region.len() / 8;
    let device = context.open()?;
    let mut count = 0;
    beside(&[&|| to_and_fro(&device, &region)], || {
        for round in rounds(20) {
            // The engine writes some of the even words.
            let even: Vec<Packet> = (0..words as u64)
                .step_by(2)
                .skip(round % 16)
                .step_by(16)
                .map(|index| Packet::fence(region.addr() + 8 * index, round as u64 + 1))
                .collect();
            let job = worker.submit(&even)?;
            for index in (1..words).step_by(2) {
                region.store(index, round as u64 + 1);
            }
            equal(
                "outcome",
                worker.outcome(job)?,
                Outcome::done(even.len() as u64),
            )?;
            for index in (1..words).step_by(2) {
                equal("a CPU's word", region.load(index), round as u64 + 1)?;
            }
            for packet in &even {
                let index = (packet.dst - region.addr()) as usize / 8;
                equal("an engine's word", region.load(index), round as u64 + 1)?;
            }
            count += 1;
        }
        Ok(())
    })?;
    println!("{count} rounds");
    Ok(())
}

fn atomic_sums(context: &Context) -> Result<()> {
    const ADDS: u64 = 2000;
    let device = open(context)?;
    let engines = u64::from(device.query()?.engines.min(4));
    let region = Region::options(2).huge(false).map()?;
    // One word in each page, which all use, and one beside it of 4 bytes for engines alone.
    let word = |page: usize| region.addr() + (page * page_size()) as u64;
    let [mut all, mut by_engines] = [0; 2];
    let mover = context.open()?;
    for _ in rounds(3).take(10) {
        let over = AtomicBool::new(false);
        // As long as engines add: they begin late, and take longer.
        let add = || {
            let mut added = 0;
            // ORDERING: it may be late.
            while added < ADDS || !over.load(Ordering::Relaxed) {
                region.fetch_add(0, 1);
                region.fetch_add(Region::words_per_page(), 1);
                added += 1;
            }
            anyhow::Ok(added)
        };
        let by_cpus = thread::scope(|scope| {
            let cpus = [scope.spawn(add), scope.spawn(add)];
            let work = |engine| {
                let worker = Worker::on(context, engine as u32)?;
                let packets: Vec<Packet> = (0..2)
                    .flat_map(|page| {
                        [
                            Packet::add(Width::Eight, word(page), 1, ADDS, 0),
                            Packet::add(Width::Four, word(page) + 12, 1, ADDS, 0),
                        ]
                    })
                    .collect();
                worker.does(&packets)
            };
            let jobs: Vec<_> = (0..engines)
                .map(|engine| scope.spawn(move || work(engine)))
                .collect();
            let mut moved = Ok(());
            while moved.is_ok() && !jobs.iter().all(thread::ScopedJoinHandle::is_finished) {
                // Now and then, so that they meet on a page that stays as well.
                thread::sleep(Duration::from_millis(5));
                moved = to_and_fro(&mover, &region);
            }
            let ended = jobs.into_iter().try_for_each(joined);
            // ORDERING: as above.
            over.store(true, Ordering::Relaxed);
            let cpus = cpus.map(joined);
            moved.and(ended)?;
            cpus.into_iter().sum::<Result<u64>>()
        })?;
        all += by_cpus + ADDS * engines;
        by_engines += ADDS * engines;
        for page in 0..2 {
            let first = page * Region::words_per_page();
            equal("sum of all", region.load(first), all)?;
            equal("sum of engines", region.load(first + 1), by_engines << 32)?;
        }
    }
    Ok(())
}

fn random_while_pages_move(context: &Context) -> Result<()> {
    for seed in rounds(5) {
        let worker = Worker::new(context)?;
        let mut dice = Dice::new(seed as u64);
        let (first, mut image) = Kind::HalfResident.make(context, &worker.device)?;
        let (second, more) = Kind::Shared.make(context, &worker.device)?;
        image.join(more);
        let regions = [&first.region, &second.region];
        let code = Region::anonymous(1)?;
        let ground = Ground {
            data: regions.iter().map(|region| region.range()).collect(),
            code: code.addr()..code.addr() + 4096,
        };
        let mover = context.open()?;
        let touch = || {
            for page in 0..PAGES {
                first.region.touch(page);
                thread::yield_now();
            }
            Ok(())
        };
        beside(
            &[&touch, &|| to_and_fro(&mover, &first.region), &|| {
                to_and_fro(&mover, &code)
            }],
            || {
                for job in 0..10 {
                    let program = ground.program(&mut dice);
                    dmirror_client::packet::store(&code, 0, &program);
                    let what = format!("seed {seed}, job {job}");
                    worker.compare_at(&what, &mut image, &[], (code.addr(), &program))?;
                }
                Ok(())
            },
        )?;
        same(&format!("seed {seed}"), &image, &regions)?;
    }
    Ok(())
}

fn restless_memory(context: &Context) -> Result<()> {
    // An ioctl gives up after a second.
    const RESTLESS: Duration = Duration::from_secs(3);
    let worker = Worker::new(context)?;
    let memory = Memory::new(1)?;
    memory.fill(memory.all());
    let mut image = Image::default();
    image.map_region(&memory.region, memory.all(), Protection::ReadWrite);
    let word = memory.region.addr();
    let packets = [
        Packet::sum(word + 8, word, 4096),
        Packet::add(Width::Eight, word, 1, 10, 0),
    ];
    let elsewhere = Region::anonymous(1)?;
    elsewhere.store(0, 1);
    // Each look of the device at memory takes so long that there was an invalidation meanwhile.
    let delay = Delay::new("walked", 400_000)?;
    thread::scope(|scope| {
        let restless = scope.spawn(move || {
            let start = Instant::now();
            while start.elapsed() < RESTLESS {
                elsewhere.protect(0..1, Protection::Read)?;
                elsewhere.protect(0..1, Protection::ReadWrite)?;
                thread::sleep(Duration::from_millis(10));
            }
            drop(delay);
            anyhow::Ok(())
        });
        let outcome = worker.compare("restless", &mut image, &[&memory.region], &packets);
        joined(restless)?;
        outcome.map(drop)
    })
}

/// Has an engine fill memory again and again with 1 and 2, and changes the part from page
/// `PAGES / 2` on by `change` meanwhile. The job must then fail in that part, if it is to fail.
fn changed_meanwhile<T>(
    context: &Context,
    failure: Option<Errno>,
    change: impl Fn(Region) -> Result<T>,
    check: impl Fn(&Worker, &T) -> Result<()>,
) -> Result<()> {
    for (round, resident) in [false, true, false, true].into_iter().enumerate() {
        let worker = Worker::new(context)?;
        let mut memory = Memory::new(PAGES)?;
        if resident {
            memory.move_out(&worker.device, memory.all())?;
        }
        let (range, rest) = (memory.region.range(), memory.region.split_off(PAGES / 2));
        let border = rest.addr();
        let packets = [1, 2].map(|value| Packet::fill(range.addr(), range.bytes(), value));
        let over = AtomicBool::new(false);
        let (outcome, changed) = thread::scope(|scope| {
            // ORDERING: it may be late.
            let enough = || failure.is_none() && over.load(Ordering::Relaxed);
            let (worker, packets) = (&worker, &packets);
            let job = scope.spawn(move || worker.repeat(packets, enough));
            thread::sleep(Duration::from_millis(20 + 7 * round as u64));
            let changed = change(rest);
            // ORDERING: as above.
            over.store(true, Ordering::Relaxed);
            anyhow::Ok((joined(job)?, changed?))
        })?;
        if let Some(errno) = failure {
            equal("failure", outcome.error, Some(errno))?;
            equal("access", outcome.access, Access::Write)?;
            let inside = (border..range.end()).contains(&outcome.fault_addr);
            ensure!(inside, "address {:#x} of {range:x?}", outcome.fault_addr);
            equal("address in its page", outcome.fault_addr % 4096, 0)?;
        }
        check(&worker, &changed)?;
        let words = memory.region.to_bytes(0..PAGES / 2);
        ensure!(
            words.chunks(8).all(|word| word[0] == 1 || word[0] == 2),
            "some other word"
        );
    }
    Ok(())
}

fn unmapped_meanwhile(context: &Context) -> Result<()> {
    let nothing = |_: &Worker, _: &()| Ok(());
    let unmap = |rest: Region| {
        drop(rest);
        Ok(())
    };
    changed_meanwhile(context, Some(Errno::EFAULT), unmap, nothing)
}

/// Checks that nobody writes to memory any more.
fn rests(region: &Region) -> Result<()> {
    let before = region.to_bytes(0..region.pages());
    thread::sleep(Duration::from_millis(50));
    equal(
        "whether memory rests",
        region.to_bytes(0..region.pages()) == before,
        true,
    )
}

fn protected_meanwhile(context: &Context) -> Result<()> {
    let protect = |rest: Region| {
        rest.protect(0..PAGES / 2, Protection::Read)?;
        rests(&rest)?;
        Ok(rest)
    };
    changed_meanwhile(context, Some(Errno::EPERM), protect, |_, rest| rests(rest))
}

fn hidden_meanwhile(context: &Context) -> Result<()> {
    let hide = |rest: Region| {
        rest.protect(0..PAGES / 2, Protection::None)?;
        Ok(rest)
    };
    changed_meanwhile(context, Some(Errno::EFAULT), hide, |worker, rest| {
        rest.protect(0..PAGES / 2, Protection::ReadWrite)?;
        rests(rest)?;
        worker.does(&[Packet::fill(rest.addr(), rest.len() as u64, 3)])?;
        equal("last word", rest.load(rest.len() / 8 - 1), 3)
    })
}

fn dropped_meanwhile(context: &Context) -> Result<()> {
    let discard = |rest: Region| {
        for _ in 0..50 {
            rest.advise(0..PAGES / 2, Advice::DontNeed)?;
            thread::sleep(Duration::from_millis(1));
        }
        Ok(rest)
    };
    changed_meanwhile(context, None, discard, |worker, rest| {
        worker.does(&[Packet::fill(rest.addr(), rest.len() as u64, 3)])?;
        let bytes = rest.to_bytes(0..PAGES / 2);
        equal(
            "whether all is filled",
            bytes.chunks(8).all(|word| word[0] == 3),
            true,
        )
    })
}

fn moved_meanwhile(context: &Context) -> Result<()> {
    let relocate = |rest: Region| {
        let rest = rest.relocate()?;
        rests(&rest)?;
        Ok(rest)
    };
    changed_meanwhile(context, Some(Errno::EFAULT), relocate, |_, rest| {
        rests(rest)
    })
}

fn forked_meanwhile(context: &Context) -> Result<()> {
    for resident in [false, true] {
        let worker = Worker::new(context)?;
        let memory = Memory::new(PAGES)?;
        if resident {
            memory.move_out(&worker.device, memory.all())?;
        }
        let region = &memory.region;
        // Half a second of work, as one job, since a child is forked by a single thread.
        let mut packets = Vec::new();
        for value in 1..=50 {
            packets.push(Packet::fill(region.addr(), region.len() as u64, value));
            packets.push(Packet::spin(10_000_000));
        }
        let job = worker.submit(&packets)?;
        thread::sleep(Duration::from_millis(35));
        let done = Gate::new()?;
        let child = helper(|| {
            let before = region.to_bytes(0..PAGES);
            done.wait()?;
            let after = region.to_bytes(0..PAGES);
            equal("whether the child's memory rests", before == after, true)
        })?;
        equal(
            "outcome",
            worker.outcome(job)?,
            Outcome::done(packets.len() as u64),
        )?;
        done.open()?;
        child.join()?;
        let bytes = region.to_bytes(0..PAGES);
        let last = bytes.chunks(8).all(|word| word[0] == 50);
        equal("whether the parent has what was last written", last, true)?;
    }
    Ok(())
}
