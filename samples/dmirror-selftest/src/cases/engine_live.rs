// SPDX-License-Identifier: GPL-2.0

//! Engines at work while CPUs read and write the same memory, while its pages move, and while its
//! mapping changes.

use std::sync::atomic::{AtomicBool, Ordering};

use dmirror_client::interpreter::Image;
use dmirror_client::program::{Dice, Ground};
use dmirror_client::queue::{Access, Outcome};

use super::engine::words_are;
use crate::prelude::*;
use crate::worker::{Kind, open, same};

cases! { "engine":
    words_are_whole = "A CPU that reads what an engine writes, while the page moves, sees each word whole.",
    fence_after_data = "A CPU that sees the value of a FENCE sees all that the packets before it have written.",
    cpus_and_engines_write = "Engines and CPUs that write words of their own in one page lose none, while it moves.",
    atomic_sums = "Engines and CPUs that add to the same words lose nothing, while the pages move.",
    random_while_pages_move = "Random packets do what the interpreter says while the pages move and CPUs read them.",
    restless_memory = "An engine goes on when memory holds still again, after longer than an ioctl would wait.",
    unmapped_meanwhile = "A job fails where memory is unmapped under it."
        => meanwhile(Some(Errno::EFAULT), unmapped, |_, _| Ok(())),
    protected_meanwhile = "A job fails where memory becomes read-only under it, and writes no more when mprotect is back."
        => meanwhile(
            Some(Errno::EPERM),
            |rest| resting(protected(rest, Protection::Read)?),
            |_, rest| rests(rest),
        ),
    hidden_meanwhile = "A job fails where memory loses all access under it, and goes on when it has it again."
        => meanwhile(Some(Errno::EFAULT), |rest| protected(rest, Protection::None), shown_again),
    dropped_meanwhile = "Memory that is dropped under a job is there again, with what the job writes."
        => meanwhile(None, dropped, filled),
    moved_meanwhile = "A job fails where memory is moved away under it, and leaves it at its new place as it is."
        => meanwhile(Some(Errno::EFAULT), |rest| resting(rest.relocate()?), |_, rest| rests(rest)),
    forked_meanwhile = "A child that is forked under a job has memory of its own, which the job does not change.",
}

const PAGES: usize = 16;

/// Moves all of a region to the device, and half of it back.
fn to_and_fro(device: &Device, region: &Region) -> Result<()> {
    let mut view = vec![0; region.len()];
    unless_held(device.migrate_to_device(region.range(), &mut view))?;
    unless_held(device.migrate_to_system(region.part(0..region.pages().div_ceil(2))))
}

fn words_are_whole(context: &Context, worker: Worker) -> Result<()> {
    let region = Region::options(4).huge(false).map()?;
    let (addr, len) = (region.addr(), region.len() as u64);
    let values = [0, 0x0101_0101_0101_0101, u64::MAX, 0xff00_ff00_ff00_ff00];
    let fill = |value| Packet::fill(addr, len, value);
    let packets = values.map(|value| [fill(value), Packet::fence(addr + 8, value)]);
    let look = || -> Result<()> {
        for index in 0..region.len() / 8 {
            let word = region.load(index);
            ensure!(values.contains(&word), "word {index} is {word:#x}");
        }
        Ok(())
    };
    let device = context.open()?;
    beside(&[&look, &|| to_and_fro(&device, &region)], || {
        rounds(3).try_for_each(|_| {
            let outcome = worker.repeat(packets.as_flattened(), || true)?;
            equal("failure", outcome.error, None)
        })
    })
}

fn fence_after_data(worker: Worker) -> Result<()> {
    let region = Region::options(32).huge(false).map()?;
    let fence = Region::anonymous(1)?;
    let (addr, half) = (region.addr(), region.len() as u64 / 2);
    let words = region.len() / 8;
    for_all(rounds(20).take(500), |round| {
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
        words_are("a word written before", &region, 0..words / 2, value)?;
        words_are("a word copied before", &region, words / 2..words, value - 1)?;
        equal("outcome", worker.outcome(job)?, Outcome::done(3))
    })
}

fn cpus_and_engines_write(context: &Context, worker: Worker) -> Result<()> {
    let region = Region::options(4).huge(false).map()?;
    let odd = || (1..region.len() / 8).step_by(2);
    let device = context.open()?;
    let mut count = 0;
    beside(&[&|| to_and_fro(&device, &region)], || {
        for round in rounds(20) {
            let value = round as u64 + 1;
            // The engine writes some of the even words.
            let even = (0..region.len() / 8).step_by(2);
            let even: Vec<usize> = even.skip(round % 16).step_by(16).collect();
            let fence = |index: &usize| Packet::fence(region.addr() + 8 * *index as u64, value);
            let job = worker.submit(&even.iter().map(fence).collect::<Vec<_>>())?;
            odd().for_each(|index| region.store(index, value));
            let expected = Outcome::done(even.len() as u64);
            equal("outcome", worker.outcome(job)?, expected)?;
            words_are("a CPU's word", &region, odd(), value)?;
            words_are("an engine's word", &region, even, value)?;
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
    // Each page has one word that all use, and beside it one of 4 bytes for engines alone.
    let word = |page: usize| region.addr() + (page * page_size()) as u64;
    let [mut all, mut by_engines] = [0; 2];
    let mover = context.open()?;
    for _ in rounds(3).take(10) {
        let over = AtomicBool::new(false);
        // Add as long as engines add: they begin later, and take longer.
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
            let packets = [word(0), word(1)].map(|word| {
                let add = |width, word| Packet::add(width, word, 1, ADDS, 0);
                [add(Width::Eight, word), add(Width::Four, word + 12)]
            });
            let work =
                move |engine| Worker::on(context, engine as u32)?.does(packets.as_flattened());
            let spawn = |engine| scope.spawn(move || work(engine));
            let jobs: Vec<_> = (0..engines).map(spawn).collect();
            let mut moved = Ok(());
            while moved.is_ok() && !jobs.iter().all(thread::ScopedJoinHandle::is_finished) {
                // Move only now and then, so that they meet on a page that stays as well.
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
    for_all(rounds(5), |seed| {
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
        let data_moves = || to_and_fro(&mover, &first.region);
        let code_moves = || to_and_fro(&mover, &code);
        beside(&[&touch, &data_moves, &code_moves], || {
            (0..10).try_for_each(|job| {
                let program = ground.program(&mut dice);
                dmirror_client::packet::store(&code, 0, &program);
                let what = format!("seed {seed}, job {job}");
                let at = (code.addr(), &program[..]);
                worker.compare_at(&what, &mut image, &[], at).map(drop)
            })
        })?;
        same(&format!("seed {seed}"), &image, &regions)
    })
}

fn restless_memory(context: &Context) -> Result<()> {
    // An ioctl gives up after a second.
    const RESTLESS: Duration = Duration::from_secs(3);
    let (worker, memory) = (Worker::new(context)?, Memory::new(1)?);
    let mut image = Image::default();
    image.map_region(&memory.region, memory.all(), Protection::ReadWrite);
    let word = memory.region.addr();
    let packets = [
        Packet::sum(word + 8, word, 4096),
        Packet::add(Width::Eight, word, 1, 10, 0),
    ];
    let elsewhere = Region::anonymous(1)?;
    elsewhere.store(0, 1);
    // Each walk of the device takes so long that an invalidation comes meanwhile.
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

/// Returns a case in which an engine fills memory again and again with 1 and 2, while `change`
/// changes the part from page `PAGES / 2` on. With a `failure` the job must fail in that part.
fn meanwhile<T>(
    failure: Option<Errno>,
    change: impl Fn(Region) -> Result<T>,
    check: impl Fn(&Worker, &T) -> Result<()>,
) -> impl Fn(&Context) -> Result<()> {
    move |context| {
        for (round, resident) in [false, true, false, true].into_iter().enumerate() {
            let worker = Worker::new(context)?;
            let mut memory = Memory::placed(&worker.device, PAGES, resident)?;
            let (range, rest) = (memory.region.range(), memory.region.split_off(PAGES / 2));
            let border = rest.addr();
            let packets = [1, 2].map(|value| Packet::fill(range.addr(), range.bytes(), value));
            let over = AtomicBool::new(false);
            let (outcome, changed) = thread::scope(|scope| {
                let job = scope.spawn(|| {
                    // ORDERING: it may be late.
                    worker.repeat(&packets, || {
                        failure.is_none() && over.load(Ordering::Relaxed)
                    })
                });
                thread::sleep(Duration::from_millis(20 + 7 * round as u64));
                let changed = change(rest);
                // ORDERING: as above.
                over.store(true, Ordering::Relaxed);
                anyhow::Ok((joined(job)?, changed?))
            })?;
            if failure.is_some() {
                let seen = (outcome.error, outcome.access);
                equal("failure, access", seen, (failure, Access::Write))?;
                let inside = (border..range.end()).contains(&outcome.fault_addr);
                ensure!(inside, "address {:#x} of {range:x?}", outcome.fault_addr);
                equal("address in its page", outcome.fault_addr % 4096, 0)?;
            }
            check(&worker, &changed)?;
            filled_with(&memory.region, &[1, 2])?;
        }
        Ok(())
    }
}

/// Checks that the first byte of each word of a region is one of `values`.
fn filled_with(region: &Region, values: &[u8]) -> Result<()> {
    let bytes = region.to_bytes(0..region.pages());
    let odd = bytes.chunks(8).find(|word| !values.contains(&word[0]));
    equal(&format!("a word other than {values:?}"), odd, None)
}

fn unmapped(region: Region) -> Result<()> {
    drop(region);
    Ok(())
}

/// Checks that nobody writes to memory any more.
fn rests(region: &Region) -> Result<()> {
    let bytes = || region.to_bytes(0..region.pages());
    let before = bytes();
    thread::sleep(Duration::from_millis(50));
    equal("whether memory rests", bytes() == before, true)
}

/// Checks that nobody writes to memory any more, and returns the memory.
fn resting(region: Region) -> Result<Region> {
    rests(&region)?;
    Ok(region)
}

fn protected(region: Region, protection: Protection) -> Result<Region> {
    region.protect(0..region.pages(), protection)?;
    Ok(region)
}

/// Fills memory with an engine, and checks the result.
fn filled(worker: &Worker, region: &Region) -> Result<()> {
    worker.does(&[Packet::fill(region.addr(), region.len() as u64, 3)])?;
    filled_with(region, &[3])
}

/// Gives access again. Checks that the old job has ended, and that another one works.
fn shown_again(worker: &Worker, region: &Region) -> Result<()> {
    region.protect(0..region.pages(), Protection::ReadWrite)?;
    rests(region)?;
    filled(worker, region)
}

/// Drops the pages of memory again and again.
fn dropped(region: Region) -> Result<Region> {
    for _ in 0..50 {
        region.advise(0..region.pages(), Advice::DontNeed)?;
        thread::sleep(Duration::from_millis(1));
    }
    Ok(region)
}

fn forked_meanwhile(context: &Context) -> Result<()> {
    for_all([false, true], |resident| {
        let worker = Worker::new(context)?;
        let memory = Memory::placed(&worker.device, PAGES, resident)?;
        let region = &memory.region;
        // Half a second of work is one job, since this process must have a single thread to fork.
        let fill = |value| Packet::fill(region.addr(), region.len() as u64, value);
        let packets = (1..=50).flat_map(|value| [fill(value), Packet::spin(10_000_000)]);
        let job = worker.submit(&packets.collect::<Vec<_>>())?;
        thread::sleep(Duration::from_millis(35));
        let done = Gate::new()?;
        let child = helper(|| {
            let before = region.to_bytes(0..PAGES);
            done.wait()?;
            let after = region.to_bytes(0..PAGES);
            equal("whether the child's memory rests", before == after, true)
        })?;
        equal("outcome", worker.outcome(job)?, Outcome::done(100))?;
        done.open()?;
        child.join()?;
        filled_with(region, &[50])
    })
}
