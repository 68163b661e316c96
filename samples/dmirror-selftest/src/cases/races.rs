// SPDX-License-Identifier: GPL-2.0

//! Several threads at the same pages at the same time. No write may be lost, and no page may have
//! the data of another one. A command may find pages held by someone else, and report it.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::resource::{UsageWho, getrusage};

use super::huge::huge;
use crate::prelude::*;

cases! { "races":
    threads_touch_one_page = "Many threads that touch one page on the device at once all read its data."
        => |device: Device| touch_at_once(&device, &Memory::new(1)?, 40, None),
    threads_touch_one_huge_page = "Threads on both CPUs that touch one huge page there, which they cannot wait for, get its data soon."
        => |device: Device| touch_at_once(&device, &huge(1)?, 20, Some(two_cpus()?)),
    work_on_a_cpu_that_waits = "While a CPU faults again and again at a huge page that another has locked, work on each CPU is done.",
    threads_touch_many_pages = "Many threads that read a range on the device in different orders all read its data.",
    release_meets_touches = "RELEASE takes no page for one of the device's that has just come back to a CPU.",
    writes_during_migration = "Writes by threads while their page goes out and back are never lost.",
    threads_migrate = "Threads that move one range out and back at the same time leave its data right.",
    hole_filled_during_migration = "A page that is first written while the hole in its place is on its way to the device goes there with its data.",
    unmap_during_migration = "Memory that is unmapped while it is being moved does no harm to other memory.",
    huge_page_dropped = "A huge page that is dropped while it comes back harms nobody. DMIRROR_KNOWN=1 runs it on kernels that it crashes.",
}

const THREADS: usize = 6;

/// The times for which something is held. On a busy machine it takes longer until all threads are
/// in their places.
const HELDS: [Duration; 4] = [
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
];

/// The reason not to drop a huge page while it comes back: see Documentation/known-mm-issues.md.
pub(super) const KNOWN_DROP: &str = "it frees a huge page that is dropped while it comes back";

/// Runs `body` in several threads, each with its number, and `main` in this one.
fn together(
    body: impl Fn(usize) -> Result<()> + Sync,
    main: impl FnOnce() -> Result<()>,
) -> Result<()> {
    thread::scope(|scope| {
        let body = &body;
        let spawn = |number| scope.spawn(move || body(number));
        let threads: Vec<_> = (0..THREADS).map(spawn).collect();
        let result = main();
        threads.into_iter().map(joined).fold(result, Result::and)
    })
}

/// Touches a page with several threads at once, each time that it has gone to the device, on `cpus`
/// if those are given.
///
/// A CPU that finds a huge page of the device locked does not wait for it but faults again, at
/// once: see Documentation/known-mm-issues.md. The thread that holds the lock must not depend on
/// that CPU.
fn touch_at_once(
    device: &Device,
    memory: &Memory,
    rounds: u16,
    cpus: Option<[usize; 2]>,
) -> Result<()> {
    const BOUND: Duration = Duration::from_secs(20);
    let (region, data) = (&memory.region, memory.data());
    let (before, after) = (Barrier::new(THREADS + 1), Barrier::new(THREADS + 1));
    together(
        |number| {
            let stays = cpus.map_or(Ok(()), |cpus| stay_on(cpus[number % 2]));
            let mut most = 0;
            let mut touch = || {
                before.wait();
                let faults = faults_of_this_thread();
                let seen = region.load(number);
                let faults = faults_of_this_thread()? - faults?;
                after.wait();
                most = most.max(faults);
                equal("word", seen, data.word(0, number))
            };
            let result = (0..rounds).map(|_| touch()).fold(stays, Result::and);
            println!("thread {number}: at most {most} faults for one touch");
            result
        },
        || {
            let let_touch = || {
                before.wait();
                after.wait();
                Ok(())
            };
            let round = |_| {
                let moved = memory.out(device);
                in_time("a touch", BOUND, let_touch).and(moved)
            };
            (0..rounds).map(round).fold(Ok(()), Result::and)
        },
    )
}

/// Tests for a livelock by repeated faults: the thread that has the page locked could wait for work
/// on each CPU (`lru_add_drain_all()`, the first step of dropping caches), and a CPU that faults
/// does no such work. Here a third thread waits for it, so that the case always ends.
fn work_on_a_cpu_that_waits(context: &Context) -> Result<()> {
    const BOUND: Duration = Duration::from_secs(60);
    let cpus = two_cpus()?;
    let device = context.open()?;
    let memory = huge(1)?;
    let mut has_worked = false;
    for held in HELDS {
        memory.out(&device)?;
        let delay = Delay::new("fault", held.as_micros() as u32)?;
        let (region, data) = (&memory.region, memory.data());
        let barrier = Barrier::new(cpus.len() + 1);
        let touch = |number: usize, after: Duration| {
            let stays = stay_on(cpus[number]);
            barrier.wait();
            stays?;
            thread::sleep(after);
            let before = faults_of_this_thread()?;
            equal("word", region.load(number), data.word(0, number))?;
            faults_of_this_thread().map(|faults| faults - before)
        };
        let start = Instant::now();
        let (worked, faults) = thread::scope(|scope| {
            // Create the threads before the page is locked, since this changes the mappings.
            let holder = scope.spawn(|| touch(0, Duration::ZERO));
            let waiter = scope.spawn(|| touch(1, held / 4));
            barrier.wait();
            thread::sleep(held / 2);
            let done = fs::write("/proc/sys/vm/drop_caches", "1");
            let worked = start.elapsed() < held;
            joined(holder)?;
            anyhow::Ok((done.map(|()| worked)?, joined(waiter)?))
        })?;
        drop(delay);
        ensure!(start.elapsed() < BOUND, "it took {:?}", start.elapsed());
        println!("held for {held:?}: {faults} faults, work was done: {worked}");
        has_worked |= worked;
        if worked && faults > 10 {
            return Ok(());
        }
    }
    ensure!(has_worked, "no work was done while a huge page was locked");
    skip("no CPU faulted again and again")
}

fn faults_of_this_thread() -> Result<i64> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    Ok(usage.minor_page_faults() + usage.major_page_faults())
}

fn threads_touch_many_pages(device: Device) -> Result<()> {
    const PAGES: usize = 127; // a prime, so that any step visits each page
    let memory = Memory::new(PAGES)?;
    for _ in 0..5 {
        memory.out(&device)?;
        let (region, data) = (&memory.region, memory.data());
        let visit = |number| {
            let mut pages = (0..PAGES).map(|step| step * (7 * number + 1) % PAGES);
            pages.try_for_each(|page| Ok(data.check(region, page..page + 1)?))
        };
        together(visit, || Ok(()))?;
    }
    memory.intact()
}

/// Checks that RELEASE does not migrate a page that has just come back. Such a page is not mapped,
/// but not free before the last reference is put. If an eviction migrated it once more, mm would
/// warn.
fn release_meets_touches(device: Device) -> Result<()> {
    const PAGES: usize = 128;
    const ROUNDS: usize = 15;
    let memory = Memory::new(PAGES)?;
    let (region, data) = (&memory.region, memory.data());
    for _ in 0..ROUNDS {
        memory.out(&device)?;
        let mut pages = 0..PAGES;
        at_once(
            || Ok(pages.try_for_each(|page| data.check(region, page..page + 1))?),
            || unless_held(device.release()),
        )?;
        memory.intact()?;
    }
    Ok(())
}

fn writes_during_migration(device: Device) -> Result<()> {
    const PAGES: usize = 4;
    const TIME: Duration = Duration::from_secs(2);
    let memory = Memory::untouched(PAGES)?;
    let region = &memory.region;
    let stop = AtomicBool::new(false);
    let mut view = vec![0; region.len()];
    together(
        |number| {
            // Each thread counts in a word of its own in each page.
            let mut count = 0_u64;
            // ORDERING: the flag carries no data.
            while !stop.load(Ordering::Relaxed) {
                for page in 0..PAGES {
                    let word = page * Region::words_per_page() + number * 8;
                    equal("own word", region.load(word), count)?;
                    region.store(word, count + 1);
                }
                count += 1;
            }
            Ok(())
        },
        || {
            let start = Instant::now();
            let mut rounds = (0..).take_while(|_| start.elapsed() < TIME);
            let result = rounds.try_for_each(|_| {
                unless_held(device.migrate_to_device(region.range(), &mut view))?;
                unless_held(device.migrate_to_system(region.range()))
            });
            // ORDERING: as above.
            stop.store(true, Ordering::Relaxed);
            result
        },
    )
}

fn threads_migrate(device: Device) -> Result<()> {
    const PAGES: usize = 64;
    let memory = Memory::new(PAGES)?;
    let (region, data) = (&memory.region, memory.data());
    let migrate = |number| {
        let mut view = vec![0; region.len()];
        for round in 0..6 {
            let part = region.part(number..PAGES - number);
            unless_held(match (round + number) % 2 {
                0 => device.migrate_to_device(part, &mut view),
                _ => device.migrate_to_system(part),
            })?;
            let page = (round * 11 + number) % PAGES;
            data.check(region, page..page + 1)?;
        }
        Ok(())
    };
    together(migrate, || Ok(()))?;
    memory.intact()?;
    memory.out_and_read(&device)
}

/// Fills a hole during a migration. Of all that is collected, only a hole is not locked: it has a
/// destination and does not move.
fn hole_filled_during_migration(device: Device) -> Result<()> {
    const PAGES: usize = 8;
    const ENOUGH: usize = 2;
    let mut in_time = 0;
    for held in HELDS {
        let memory = Memory::untouched(PAGES)?;
        let (range, filled) = (memory.region.range(), 3..4);
        let mut view = vec![0xa5; memory.region.len()];
        let delay = Delay::new("out_collected", held.as_micros() as u32)?;
        let fill = || {
            let start = Instant::now();
            thread::sleep(held / 3);
            memory.fill(filled.clone());
            Ok(start.elapsed())
        };
        let out = || Ok(device.migrate_to_device(range, &mut view)?);
        let (counts, took) = at_once(out, fill)?;
        drop(delay);
        memory.device_reads(&device, filled.clone())?;
        if took < held {
            equal("pages that moved", counts.pages, PAGES as u64)?;
            memory.expect("all of it", memory.all(), Where::Device)?;
            in_time += 1;
        }
        memory.verify(filled)?;
        memory.is_zero(4..PAGES).context("what nobody wrote")?;
        if in_time == ENOUGH {
            return Ok(());
        }
    }
    bail!("a page was written too late each time")
}

fn unmap_during_migration(device: Device) -> Result<()> {
    const PAGES: usize = 64;
    let keeper = Memory::new(PAGES)?;
    for _ in 0..30 {
        let victim = Memory::new(PAGES)?;
        let range = victim.region.range();
        let out = || {
            let mut view = vec![0; PAGES * page_size()];
            let answer = device.migrate_to_device(range, &mut view);
            // The pages may be held, or unmapped: before the migration, or between it and the read
            // of them.
            let may_be = [Errno::ENOENT, Errno::EBUSY, Errno::EINVAL, Errno::EFAULT];
            unless(answer, &may_be)
        };
        at_once(out, || {
            keeper.move_out(&device, 0..PAGES / 2)?;
            drop(victim);
            Ok(())
        })?;
        keeper.intact()?;
    }
    Ok(())
}

fn huge_page_dropped(device: Device) -> Result<()> {
    const TIME: Duration = Duration::from_secs(20);
    if !looks_for_known() {
        return known(KNOWN_DROP);
    }
    let memory = huge(1)?;
    let (region, start) = (&memory.region, Instant::now());
    for round in (0_u32..).take_while(|_| start.elapsed() <= TIME) {
        memory.fill(memory.all());
        unless_held(memory.try_out(&device))?;
        let drop_it = || {
            thread::sleep(Duration::from_micros(u64::from(round % 50) * 200));
            Ok(region.advise(memory.all(), Advice::DontNeed)?)
        };
        let (seen, ()) = at_once(|| Ok(region.load(0)), drop_it)?;
        let is_right = seen == 0 || seen == memory.data().word(0, 0);
        ensure!(is_right, "seen {seen:#x}, neither the data nor zero");
    }
    Ok(())
}
