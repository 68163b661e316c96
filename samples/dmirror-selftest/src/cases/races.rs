// SPDX-License-Identifier: GPL-2.0

//! Several threads at the same pages at the same time. In all of it no write may
//! be lost and no data may be another page's; a command may find pages held by
//! someone else, and say so.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::anyhow;
use nix::sys::resource::{UsageWho, getrusage};

use super::huge::huge;
use crate::prelude::*;

cases! { "races":
    threads_touch_one_page = "Many threads that touch one page on the device at once all read its data.",
    threads_touch_one_huge_page = "Threads on both CPUs that touch one huge page there, which they cannot wait for, get its data soon.",
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

/// How long something is held: on a busy machine it takes longer until all have come to where they
/// shall be.
const HELDS: [Duration; 4] = [
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
];

/// Why a huge page is not dropped while it comes back: see Documentation/known-mm-issues.md.
pub(super) const KNOWN_DROP: &str = "it frees a huge page that is dropped while it comes back";

/// Runs `body` in several threads, each with its number, and `main` in this one.
fn together(
    body: impl Fn(usize) -> Result<()> + Sync,
    main: impl FnOnce() -> Result<()>,
) -> Result<()> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|number| {
                let body = &body;
                scope.spawn(move || body(number))
            })
            .collect();
        let mut result = main();
        for thread in threads {
            result = result.and(joined(thread));
        }
        result
    })
}

fn threads_touch_one_page(context: &Context) -> Result<()> {
    const ROUNDS: u16 = 40;
    let device = context.open()?;
    let memory = Memory::new(1)?;
    let (region, data) = (&memory.region, memory.data());
    let (before, after) = (Barrier::new(THREADS + 1), Barrier::new(THREADS + 1));
    together(
        |number| {
            let mut result = Ok(());
            for _ in 0..ROUNDS {
                before.wait();
                let seen = region.load(number);
                result = result.and(equal("word", seen, data.word(0, number)));
                after.wait();
            }
            result
        },
        || {
            let mut result = Ok(());
            for _ in 0..ROUNDS {
                result = result.and(memory.move_out(&device, 0..1));
                before.wait();
                after.wait();
            }
            result
        },
    )
}

/// A CPU that finds a huge page of the device locked does not wait for it but faults again, at once: see
/// Documentation/known-mm-issues.md. Whoever has it locked must not depend on that CPU.
fn threads_touch_one_huge_page(context: &Context) -> Result<()> {
    const ROUNDS: u16 = 20;
    const BOUND: Duration = Duration::from_secs(20);
    let cpus = two_cpus()?;
    let device = context.open()?;
    let memory = huge(1)?;
    let (region, data) = (&memory.region, memory.data());
    let (before, after) = (Barrier::new(THREADS + 1), Barrier::new(THREADS + 1));
    together(
        |number| {
            let mut result = stay_on(cpus[number % 2]);
            let mut most = 0;
            for _ in 0..ROUNDS {
                before.wait();
                let faults = faults_of_this_thread();
                let seen = region.load(number);
                most = most.max(faults_of_this_thread()? - faults?);
                result = result.and(equal("word", seen, data.word(0, number)));
                after.wait();
            }
            println!("thread {number}: at most {most} faults for one touch");
            result
        },
        || {
            let mut result = Ok(());
            for _ in 0..ROUNDS {
                result = result.and(memory.move_out(&device, memory.all()));
                let start = Instant::now();
                before.wait();
                after.wait();
                result = result.and(if start.elapsed() < BOUND {
                    Ok(())
                } else {
                    Err(anyhow!("a touch took {:?}", start.elapsed()))
                });
            }
            result
        },
    )
}

/// The livelock that the faults again and again could be: one that has the page locked waits for work on
/// each CPU (`lru_add_drain_all()`, which is what dropping caches begins with), and a CPU that faults does
/// none. Here a third one waits for it, so that it ends whatever happens.
fn work_on_a_cpu_that_waits(context: &Context) -> Result<()> {
    const BOUND: Duration = Duration::from_secs(60);
    let cpus = two_cpus()?;
    let device = context.open()?;
    let memory = huge(1)?;
    let mut has_worked = false;
    for held in HELDS {
        memory.move_out(&device, memory.all())?;
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
            // Before the page is locked: to make a thread changes the mappings.
            let holder = scope.spawn(|| touch(0, Duration::ZERO));
            let waiter = scope.spawn(|| touch(1, held / 4));
            barrier.wait();
            thread::sleep(held / 2);
            let worked =
                fs::write("/proc/sys/vm/drop_caches", "1").map(|()| start.elapsed() < held);
            joined(holder)?;
            Ok::<_, anyhow::Error>((worked?, joined(waiter)?))
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

fn threads_touch_many_pages(context: &Context) -> Result<()> {
    const PAGES: usize = 127; // a prime, so that any step visits each page
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    for _ in 0..5 {
        memory.move_out(&device, memory.all())?;
        let (region, data) = (&memory.region, memory.data());
        together(
            |number| {
                (0..PAGES).try_for_each(|step| {
                    let page = step * (7 * number + 1) % PAGES;
                    Ok(data.check(region, page..page + 1)?)
                })
            },
            || Ok(()),
        )?;
    }
    memory.verify(memory.all())
}

/// A page that came back is not mapped, and not free before the last reference is put; an eviction that
/// finds it then must not migrate it once more: mm would warn.
fn release_meets_touches(context: &Context) -> Result<()> {
    const PAGES: usize = 128;
    const ROUNDS: usize = 15;
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    let (region, data) = (&memory.region, memory.data());
    for _ in 0..ROUNDS {
        memory.move_out(&device, memory.all())?;
        let barrier = Barrier::new(2);
        thread::scope(|scope| {
            let toucher = scope.spawn(|| {
                barrier.wait();
                (0..PAGES).try_for_each(|page| data.check(region, page..page + 1))
            });
            barrier.wait();
            unless_held(device.release())?;
            joined(toucher)
        })?;
        memory.verify(memory.all())?;
    }
    Ok(())
}

fn writes_during_migration(context: &Context) -> Result<()> {
    const PAGES: usize = 4;
    const TIME: Duration = Duration::from_secs(2);
    let device = context.open()?;
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
            let mut result = Ok(());
            let start = Instant::now();
            while result.is_ok() && start.elapsed() < TIME {
                result = result
                    .and_then(|()| unless_held(device.migrate_to_device(region.range(), &mut view)))
                    .and_then(|()| unless_held(device.migrate_to_system(region.range())));
            }
            // ORDERING: as above.
            stop.store(true, Ordering::Relaxed);
            result
        },
    )
}

fn threads_migrate(context: &Context) -> Result<()> {
    const PAGES: usize = 64;
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    let (region, data) = (&memory.region, memory.data());
    together(
        |number| {
            let mut view = vec![0; region.len()];
            for round in 0..6 {
                let part = region.part(number..PAGES - number);
                if (round + number) % 2 == 0 {
                    unless_held(device.migrate_to_device(part, &mut view))?;
                } else {
                    unless_held(device.migrate_to_system(part))?;
                }
                let page = (round * 11 + number) % PAGES;
                data.check(region, page..page + 1)?;
            }
            Ok(())
        },
        || Ok(()),
    )?;
    memory.verify(memory.all())?;
    memory.move_out(&device, memory.all())?;
    memory.verify(memory.all())
}

/// Of all that is collected, a hole is not locked: it has a destination and does not move.
fn hole_filled_during_migration(context: &Context) -> Result<()> {
    const PAGES: usize = 8;
    const ENOUGH: usize = 2;
    let device = context.open()?;
    let mut in_time = 0;
    for held in HELDS {
        let memory = Memory::untouched(PAGES)?;
        let (range, filled) = (memory.region.range(), 3..4);
        let mut view = vec![0xa5; memory.region.len()];
        let delay = Delay::new("out_collected", held.as_micros() as u32)?;
        let barrier = Barrier::new(2);
        let (counts, took) = thread::scope(|scope| {
            let mover = scope.spawn(|| {
                barrier.wait();
                device.migrate_to_device(range, &mut view)
            });
            barrier.wait();
            let start = Instant::now();
            thread::sleep(held / 3);
            memory.fill(filled.clone());
            let took = start.elapsed();
            joined(mover).map(|counts| (counts, took))
        })?;
        drop(delay);
        memory.device_reads(&device, filled.clone())?;
        if took < held {
            equal("pages that moved", counts.pages, PAGES as u64)?;
            memory.expect("all of it", memory.all(), Where::Device)?;
            in_time += 1;
        }
        memory.verify(filled)?;
        let rest = 4..PAGES;
        ensure!(memory.region.is_zero(rest), "what nobody wrote is not zero");
        if in_time == ENOUGH {
            return Ok(());
        }
    }
    bail!("a page was written too late each time")
}

fn unmap_during_migration(context: &Context) -> Result<()> {
    const PAGES: usize = 64;
    let device = context.open()?;
    let keeper = Memory::new(PAGES)?;
    for _ in 0..30 {
        let victim = Memory::new(PAGES)?;
        let range = victim.region.range();
        thread::scope(|scope| {
            let mover = scope.spawn(|| {
                let mut view = vec![0; PAGES * dmirror_client::page_size()];
                match device.migrate_to_device(range, &mut view) {
                    // Unmapped already, or between its migration and the look at it.
                    Err(error) if matches!(error.errno, Errno::EINVAL | Errno::EFAULT) => Ok(()),
                    answer => unless_held(answer),
                }
            });
            keeper.move_out(&device, 0..PAGES / 2)?;
            drop(victim);
            joined(mover)
        })?;
        keeper.verify(keeper.all())?;
    }
    Ok(())
}

fn huge_page_dropped(context: &Context) -> Result<()> {
    const TIME: Duration = Duration::from_secs(20);
    if !looks_for_known() {
        return known(KNOWN_DROP);
    }
    let device = context.open()?;
    let memory = huge(1)?;
    let region = &memory.region;
    let mut view = vec![0; region.len()];
    let start = Instant::now();
    for round in 0_u32.. {
        if start.elapsed() > TIME {
            break;
        }
        memory.fill(memory.all());
        unless_held(device.migrate_to_device(region.range(), &mut view))?;
        thread::scope(|scope| {
            let toucher = scope.spawn(|| anyhow::Ok(region.load(0)));
            thread::sleep(Duration::from_micros(u64::from(round % 50) * 200));
            let dropped = region.advise(memory.all(), Advice::DontNeed);
            let seen = joined(toucher)?;
            ensure!(
                seen == 0 || seen == memory.data().word(0, 0),
                "word: seen {seen:#x}, which is neither the data nor zero"
            );
            Ok(dropped?)
        })?;
    }
    Ok(())
}
