// SPDX-License-Identifier: GPL-2.0

//! Races between the device's own accesses, migrations, CPUs and other processes.

use std::sync::atomic::{AtomicBool, Ordering};

use dmirror_client::CallError;

use super::huge;
use crate::prelude::*;

cases! { "races":
    device_reads_what_was_stored = "While a page goes out and back the device reads what the CPU stored last.",
    device_writes_are_not_lost = "While a page goes out and back no write of the device is lost.",
    writes_by_another_open = "While a page goes out and back no write of the device through another open file is lost.",
    device_writes_to_huge_pages = "While a huge page goes out and back no write of the device to it is lost.",
    reads_of_dropped_pages = "While a page is dropped and written again the device reads what is there.",
    release_during_migration = "RELEASE while threads migrate and touch pages: all ends, and the data is right.",
    close_during_migration = "Opening, migrating and closing in one thread does not disturb the pages of another.",
    exclusive_against_cpus = "While the device takes pages for itself no CPU's write is lost.",
    exclusive_against_devices = "Two open files that want one page exclusively both get on.",
    writes_during_protection_changes = "The device's writes either happen or are refused while the protection changes.",
    fork_during_device_writes = "A child's memory stands still while the device writes its parent's.",
    snapshot_during_migration = "A snapshot during migrations shows each page as mapped somewhere or in between.",
}

const TIME: Duration = Duration::from_millis(2000);

/// Runs `body` until `TIME` is over or it or `other`, which is repeated in
/// another thread meanwhile, fails.
fn against(
    mut other: impl FnMut() -> Result<()> + Send,
    mut body: impl FnMut(u64) -> Result<()>,
) -> Result<()> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let mut result = Ok(());
            // ORDERING: the flag carries no data.
            while result.is_ok() && !stop.load(Ordering::Relaxed) {
                result = other();
            }
            result
        });
        let (mut result, mut round, start) = (Ok(()), 0, Instant::now());
        while result.is_ok() && start.elapsed() < TIME && !thread.is_finished() {
            round += 1;
            result = body(round);
        }
        // ORDERING: as above.
        stop.store(true, Ordering::Relaxed);
        println!("{round} rounds");
        result.and(joined(thread))
    })
}

/// Moves a range out and back once, as far as nobody else holds its pages.
fn round_trip(device: &Device, range: PageRange, view: &mut [u8]) -> Result<()> {
    unless_held(device.migrate_to_device(range, view))?;
    unless_held(device.migrate_to_system(range))
}

/// The device writes a range, again and again where others do not let it hold
/// still for a second; returns how often that was.
fn write(device: &Device, range: PageRange, bytes: &[u8]) -> Result<u64> {
    for busy in 0..20 {
        match device.write(range, bytes) {
            Ok(counts) => {
                equal("pages written", counts.pages, range.pages())?;
                return Ok(busy);
            }
            Err(error) if error.errno == Errno::EBUSY => {}
            Err(error) => return Err(error.into()),
        }
    }
    bail!("the device did not get to write in 20 s")
}

/// As [`Memory::device_reads`] for all of it, where others may not let it hold
/// still.
fn reads(device: &Device, memory: &Memory) -> Result<()> {
    let busy = |error: &CallError| error.errno == Errno::EBUSY;
    match memory.device_reads(device, memory.all()) {
        Err(error) if error.downcast_ref().is_some_and(busy) => Ok(()),
        answer => answer.map(drop),
    }
}

/// The device's view of the first word of each page.
fn first_words(device: &Device, range: PageRange, view: &mut [u8]) -> Result<Vec<u64>> {
    let mut busy = 0;
    while let Err(error) = device.read(range, view) {
        busy += 1;
        ensure!(error.errno == Errno::EBUSY && busy < 20, error);
    }
    let words = view.chunks_exact(page_size());
    words
        .map(|page| Ok(u64::from_ne_bytes(page[..8].try_into()?)))
        .collect()
}

fn device_reads_what_was_stored(context: &Context) -> Result<()> {
    const PAGES: usize = 4;
    let device = context.open()?;
    let region = Region::options(PAGES).huge(false).map()?;
    let (mut out, mut seen) = (vec![0; region.len()], vec![0; region.len()]);
    against(
        || round_trip(&device, region.range(), &mut out),
        |round| {
            for page in 0..PAGES {
                region.store(page * Region::words_per_page(), round);
            }
            let words = first_words(&device, region.range(), &mut seen)?;
            equal("words that the device read", words, vec![round; PAGES])
        },
    )
}

/// Writes counters by the device `writer` while `mover` moves their pages, and
/// compares them by turns with what the device and the CPU read.
fn counters(writer: &Device, mover: &Device, region: &Region, pages: PageRange) -> Result<()> {
    let mut out = vec![0; pages.bytes() as usize];
    let (mut bytes, mut busy) = (vec![0; pages.bytes() as usize], 0);
    let count = pages.pages() as usize;
    let first = (pages.addr() - region.addr()) as usize / page_size();
    against(
        || round_trip(mover, pages, &mut out),
        |round| {
            for page in bytes.chunks_exact_mut(page_size()) {
                page[..8].copy_from_slice(&round.to_ne_bytes());
            }
            busy += write(writer, pages, &bytes)?;
            let words = if round % 2 == 0 {
                first_words(writer, pages, &mut bytes)?
            } else {
                (first..first + count)
                    .map(|page| region.touch(page))
                    .collect()
            };
            equal("words after the device wrote", words, vec![round; count])
        },
    )?;
    println!("{busy} times busy");
    Ok(())
}

fn device_writes_are_not_lost(device: Device) -> Result<()> {
    let region = Region::options(4).huge(false).map()?;
    counters(&device, &device, &region, region.range())
}

fn writes_by_another_open(context: &Context) -> Result<()> {
    let (writer, mover) = (context.open()?, context.open()?);
    let region = Region::options(4).huge(false).map()?;
    counters(&writer, &mover, &region, region.range())
}

fn device_writes_to_huge_pages(device: Device) -> Result<()> {
    let memory = huge::huge(1)?;
    let region = &memory.region;
    let mut out = vec![0; region.len()];
    let (mut bytes, mut busy) = (vec![0; 4 * page_size()], 0);
    let part = region.part(300..304);
    against(
        || round_trip(&device, region.range(), &mut out),
        |round| {
            for page in bytes.chunks_exact_mut(page_size()) {
                page[..8].copy_from_slice(&round.to_ne_bytes());
            }
            busy += write(&device, part, &bytes)?;
            let words = first_words(&device, part, &mut bytes)?;
            equal("words after the device wrote", words, vec![round; 4])?;
            equal("word that the CPU reads", region.touch(301), round)
        },
    )?;
    println!("{busy} times busy");
    memory.verify(0..300)?;
    memory.verify(304..512)
}

fn reads_of_dropped_pages(context: &Context) -> Result<()> {
    const PAGES: usize = 4;
    let device = &context.open()?;
    let region = Region::options(PAGES).huge(false).map()?;
    let neighbours = Memory::new(PAGES)?;
    let mut seen = vec![0; region.len()];
    against(
        move || {
            // Takes what has become free, and other rounds of invalidations.
            neighbours.region.advise(0..PAGES, Advice::DontNeed)?;
            neighbours.fill(0..PAGES);
            reads(device, &neighbours)
        },
        |round| {
            region.advise(0..PAGES, Advice::DontNeed)?;
            let words = first_words(device, region.range(), &mut seen)?;
            equal("words of dropped pages", words, vec![0; PAGES])?;
            region.store(0, round);
            let words = first_words(device, region.range(), &mut seen)?;
            equal("the word stored", words[0], round)
        },
    )
}

fn release_during_migration(context: &Context) -> Result<()> {
    const PAGES: usize = 64;
    let (device, other) = (context.open()?, context.open()?);
    let memory = Memory::new(PAGES)?;
    let mut view = vec![0; memory.region.len()];
    let range = memory.region.range();
    against(
        || unless_held(other.release()),
        |round| {
            unless_held(device.migrate_to_device(range, &mut view))?;
            let page = round as usize * 7 % PAGES;
            memory.data().check(&memory.region, page..page + 1)?;
            reads(&device, &memory)
        },
    )?;
    memory.move_out(&device, memory.all())?;
    memory.verify(memory.all())
}

fn close_during_migration(context: &Context) -> Result<()> {
    const PAGES: usize = 32;
    let device = context.open()?;
    let (memory, other) = (Memory::new(PAGES)?, Memory::new(PAGES)?);
    let (mut view, mut second) = (vec![0; memory.region.len()], vec![0; other.region.len()]);
    against(
        move || {
            let short = context.open()?;
            unless_held(short.migrate_to_device(other.region.range(), &mut second))?;
            drop(short);
            other.verify(other.all())
        },
        |_| {
            unless_held(device.migrate_to_device(memory.region.range(), &mut view))?;
            reads(&device, &memory)?;
            memory.verify(0..PAGES / 2)
        },
    )?;
    memory.verify(memory.all())
}

/// Lets pass that a page did not hold still.
fn unless_busy<T>(answer: Result<T, CallError>) -> Result<()> {
    match answer {
        Ok(_) => Ok(()),
        Err(error) if error.errno == Errno::EBUSY => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn exclusive_against_cpus(context: &Context) -> Result<()> {
    const PAGES: usize = 4;
    let device = context.open()?;
    let region = Region::options(PAGES).huge(false).map()?;
    let mut view = vec![0; region.len()];
    against(
        || {
            unless_busy(device.exclusive(region.range(), &mut view))?;
            unless_busy(device.read(region.range(), &mut view))
        },
        |round| {
            for page in 0..PAGES {
                let word = page * Region::words_per_page() + page;
                equal("own word", region.load(word), round - 1)?;
                region.store(word, round);
            }
            Ok(())
        },
    )
}

fn exclusive_against_devices(context: &Context) -> Result<()> {
    const PAGES: usize = 4;
    let (first, second) = (context.open()?, context.open()?);
    let memory = Memory::new(PAGES)?;
    let (mut one, mut two) = (vec![0; memory.region.len()], vec![0; memory.region.len()]);
    let range = memory.region.range();
    against(
        || unless_busy(second.exclusive(range, &mut two)),
        |round| {
            unless_busy(first.exclusive(range, &mut one))?;
            if round % 8 == 0 {
                reads(&first, &memory)?;
                memory.verify(memory.all())?;
            }
            Ok(())
        },
    )?;
    memory.verify(memory.all())
}

fn writes_during_protection_changes(context: &Context) -> Result<()> {
    const PAGES: usize = 4;
    let device = context.open()?;
    let region = Region::options(PAGES).huge(false).map()?;
    let mut bytes = vec![0; region.len()];
    let (mut seen, mut written, mut refused) = (vec![0; region.len()], 0, 0);
    against(
        || {
            region.protect(0..PAGES, Protection::Read)?;
            thread::yield_now();
            region.protect(0..PAGES, Protection::ReadWrite)?;
            Ok(())
        },
        |round| {
            for page in bytes.chunks_exact_mut(page_size()) {
                page[..8].copy_from_slice(&round.to_ne_bytes());
            }
            let before = first_words(&device, region.range(), &mut seen)?;
            let pages = match device.write(region.range(), &bytes) {
                Ok(counts) => counts.pages,
                Err(error) if matches!(error.errno, Errno::EPERM | Errno::EBUSY) => {
                    refused += 1;
                    error.counts.map_or(0, |counts| counts.pages)
                }
                Err(error) => return Err(error.into()),
            };
            written += pages;
            let mut expected = before;
            expected[..pages as usize].fill(round);
            let words = first_words(&device, region.range(), &mut seen)?;
            equal("words after a write", words, expected)
        },
    )?;
    println!("{written} pages written, {refused} times refused");
    Ok(())
}

fn fork_during_device_writes(context: &Context) -> Result<()> {
    const PAGES: usize = 4;
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    let range = memory.region.range();
    let mut view = vec![0; memory.region.len()];
    // The descriptor is about this process's memory: another process has the
    // device write it, so that this one has a single thread and can fork.
    let writer = helper(|| {
        let mut bytes = vec![0; memory.region.len()];
        for round in 1_u64.. {
            bytes.chunks_exact_mut(8).for_each(|word| {
                word.copy_from_slice(&round.to_ne_bytes());
            });
            unless_busy(device.write(range, &bytes))?;
        }
        Ok(())
    })?;
    let start = Instant::now();
    let mut round = 0;
    while start.elapsed() < TIME {
        if round % 2 == 0 {
            unless_held(device.migrate_to_device(range, &mut view))?;
        }
        helper(|| {
            let before = memory.region.to_bytes(0..PAGES);
            thread::sleep(Duration::from_millis(5));
            ensure!(
                memory.region.to_bytes(0..PAGES) == before,
                "the memory of a child changed under its eyes"
            );
            Ok(())
        })?
        .join()?;
        round += 1;
    }
    println!("{round} rounds");
    writer.kill()
}

fn snapshot_during_migration(context: &Context) -> Result<()> {
    use dmirror_client::device::prot;
    const PAGES: usize = 64;
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    let mut view = vec![0; memory.region.len()];
    let range = memory.region.range();
    against(
        || round_trip(&device, range, &mut view),
        |_| {
            let allowed = [prot::NONE, prot::WRITE, prot::WRITE | prot::PRIVATE_LOCAL];
            let bytes = match device.snapshot(range) {
                Err(error) if error.errno == Errno::EBUSY => return Ok(()),
                answer => answer?,
            };
            let odd = bytes.iter().find(|byte| !allowed.contains(byte));
            equal("a byte that cannot be", odd, None)
        },
    )?;
    memory.verify(memory.all())
}
