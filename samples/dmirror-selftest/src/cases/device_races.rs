// SPDX-License-Identifier: GPL-2.0

//! Races between the device's own accesses, migrations, CPUs and other processes.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use dmirror_client::{CallError, Counts};

use super::huge;
use crate::prelude::*;

cases! { "races":
    device_reads_what_was_stored = "While a page goes out and back the device reads what the CPU stored last.",
    device_writes_are_not_lost = "While a page goes out and back no write of the device is lost."
        => |device: Device| counters(&device, &device, &Memory::untouched(PAGES)?.region, 0..PAGES),
    writes_by_another_open = "While a page goes out and back no write of the device through another open file is lost."
        => |context: &Context| {
            let memory = Memory::untouched(PAGES)?;
            counters(&context.open()?, &context.open()?, &memory.region, 0..PAGES)
        },
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

/// The number of small pages in most cases.
const PAGES: usize = 4;

const TIME: Duration = Duration::from_millis(2000);

/// Repeats `body`, and `other` in another thread, until `TIME` is over or one of them fails.
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

/// Moves a range out and back once, except for pages that somebody else holds.
fn round_trip(device: &Device, range: PageRange, view: &mut [u8]) -> Result<()> {
    unless_held(device.migrate_to_device(range, view))?;
    unless_held(device.migrate_to_system(range))
}

/// Makes the device write a range, and repeats this as long as others keep the pages busy for a
/// second; returns the number of failed attempts.
fn write(device: &Device, range: PageRange, bytes: &[u8]) -> Result<u64> {
    for busy in 0..20 {
        let answer = device.write(range, bytes);
        if !answer.as_ref().is_err_and(is_busy) {
            return equal("pages written", answer?.pages, range.pages()).map(|()| busy);
        }
    }
    bail!("the device did not get to write in 20 s")
}

/// Returns whether a command failed because others kept its pages busy.
fn is_busy(error: &CallError) -> bool {
    error.errno == Errno::EBUSY
}

/// Like [`Memory::reads`], but accepts that others keep the pages busy.
fn reads(device: &Device, memory: &Memory) -> Result<()> {
    match memory.reads(device) {
        Err(error) if error.downcast_ref().is_some_and(is_busy) => Ok(()),
        answer => answer,
    }
}

/// Writes a number to the first word of each page.
fn stamp(bytes: &mut [u8], number: u64) {
    for page in bytes.chunks_exact_mut(page_size()) {
        page[..8].copy_from_slice(&number.to_ne_bytes());
    }
}

/// Returns the device's view of the first word of each page.
fn first_words(device: &Device, range: PageRange, view: &mut [u8]) -> Result<Vec<u64>> {
    let mut busy = 0;
    while let Err(error) = device.read(range, view) {
        busy += 1;
        ensure!(error.errno == Errno::EBUSY && busy < 20, error);
    }
    let word = |page: &[u8]| Ok(u64::from_ne_bytes(page[..8].try_into()?));
    view.chunks_exact(page_size()).map(word).collect()
}

fn device_reads_what_was_stored(device: Device) -> Result<()> {
    let region = Memory::untouched(PAGES)?.region;
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

/// Writes counters with the device `writer` to `pages` while `mover` moves the region, and compares
/// them with the data that the device and the CPU read: by turns, or both each time if the region
/// moves as a huge page.
fn counters(writer: &Device, mover: &Device, region: &Region, pages: Range<usize>) -> Result<()> {
    let (part, both) = (region.part(pages.clone()), pages.len() < region.pages());
    let mut out = vec![0; region.len()];
    let (mut bytes, mut busy) = (vec![0; part.bytes() as usize], 0);
    against(
        || round_trip(mover, region.range(), &mut out),
        |round| {
            stamp(&mut bytes, round);
            busy += write(writer, part, &bytes)?;
            let expected = vec![round; pages.len()];
            if both || round % 2 == 0 {
                let words = first_words(writer, part, &mut bytes)?;
                equal("words that the device reads", &words, &expected)?;
            }
            if both || round % 2 == 1 {
                let words = pages.clone().map(|page| region.touch(page)).collect();
                equal("words that the CPU reads", words, expected)?;
            }
            Ok(())
        },
    )?;
    println!("{busy} times busy");
    Ok(())
}

fn device_writes_to_huge_pages(device: Device) -> Result<()> {
    let memory = huge::huge(1)?;
    counters(&device, &device, &memory.region, 300..304)?;
    memory.verify(0..300)?;
    memory.verify(304..hpage_pmd_nr())
}

fn reads_of_dropped_pages(context: &Context) -> Result<()> {
    let device = &context.open()?;
    let region = Memory::untouched(PAGES)?.region;
    let neighbours = Memory::new(PAGES)?;
    let mut seen = vec![0; region.len()];
    against(
        move || {
            // Take pages that have become free, and cause other rounds of invalidations.
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
    memory.out_and_read(&device)
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
            other.intact()
        },
        |_| {
            unless_held(device.migrate_to_device(memory.region.range(), &mut view))?;
            reads(&device, &memory)?;
            memory.verify(0..PAGES / 2)
        },
    )?;
    memory.intact()
}

/// Accepts that others kept a page busy.
fn unless_busy(answer: Result<Counts, CallError>) -> Result<()> {
    unless(answer, &[Errno::EBUSY])
}

fn exclusive_against_cpus(device: Device) -> Result<()> {
    let region = Memory::untouched(PAGES)?.region;
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
                memory.intact()?;
            }
            Ok(())
        },
    )?;
    memory.intact()
}

fn writes_during_protection_changes(device: Device) -> Result<()> {
    let region = Memory::untouched(PAGES)?.region;
    let mut bytes = vec![0; region.len()];
    let (mut seen, mut written, mut refused) = (vec![0; region.len()], 0, 0);
    against(
        || {
            region.protect(0..PAGES, Protection::Read)?;
            thread::yield_now();
            Ok(region.protect(0..PAGES, Protection::ReadWrite)?)
        },
        |round| {
            stamp(&mut bytes, round);
            let mut expected = first_words(&device, region.range(), &mut seen)?;
            let pages = match device.write(region.range(), &bytes) {
                Ok(counts) => counts.pages,
                Err(error) if matches!(error.errno, Errno::EPERM | Errno::EBUSY) => {
                    refused += 1;
                    error.counts.map_or(0, |counts| counts.pages)
                }
                Err(error) => return Err(error.into()),
            };
            written += pages;
            expected[..pages as usize].fill(round);
            let words = first_words(&device, region.range(), &mut seen)?;
            equal("words after a write", words, expected)
        },
    )?;
    println!("{written} pages written, {refused} times refused");
    Ok(())
}

fn fork_during_device_writes(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    // The descriptor refers to the memory of this process. Another process makes the device write,
    // so that this process has a single thread and can fork.
    let writer = helper(|| {
        let mut bytes = vec![0; memory.region.len()];
        for round in 1_u64.. {
            let words = bytes.chunks_exact_mut(8);
            words.for_each(|word| word.copy_from_slice(&round.to_ne_bytes()));
            unless_busy(device.write(memory.region.range(), &bytes))?;
        }
        Ok(())
    })?;
    let (start, mut round) = (Instant::now(), 0);
    while start.elapsed() < TIME {
        if round % 2 == 0 {
            unless_held(memory.try_out(&device))?;
        }
        in_child(|| {
            let before = memory.region.to_bytes(0..PAGES);
            thread::sleep(Duration::from_millis(5));
            let stands = memory.region.to_bytes(0..PAGES) == before;
            ensure!(stands, "the memory of a child changed under its eyes");
            Ok(())
        })?;
        round += 1;
    }
    println!("{round} rounds");
    writer.kill()
}

fn snapshot_during_migration(device: Device) -> Result<()> {
    use dmirror_client::device::prot;
    const PAGES: usize = 64;
    let memory = Memory::new(PAGES)?;
    let mut view = vec![0; memory.region.len()];
    let range = memory.region.range();
    against(
        || round_trip(&device, range, &mut view),
        |_| {
            let allowed = [prot::NONE, prot::WRITE, prot::WRITE | prot::PRIVATE_LOCAL];
            let answer = device.snapshot(range);
            if answer.as_ref().is_err_and(is_busy) {
                return Ok(());
            }
            let bytes = answer?;
            let odd = bytes.iter().find(|byte| !allowed.contains(byte));
            equal("a byte that cannot be", odd, None)
        },
    )?;
    memory.intact()
}
