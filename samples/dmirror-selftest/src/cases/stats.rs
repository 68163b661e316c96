// SPDX-License-Identifier: GPL-2.0

//! Statistics: each number counts one kind of operation, and their sums agree.

use std::io;
use std::io::Read;

use dmirror_client::{FileStats, Stats};
use nix::unistd::{Uid, seteuid};

use super::evict::{BLOCKS, move_there, pages, with_small_device};
use super::failing::refused_once;
use super::huge;
use super::trace::unmovable;
use crate::inject::{Failure, Often};
use crate::prelude::*;

cases! { "stats":
    request = "Pages that commands move out and back count by request, in bytes and by size."
        => kept(in_system(SMALL), request),
    request_huge = "Huge pages that commands move out and back count as such."
        => kept(|_| huge::huge(2), request_huge),
    split_on_the_way_back = "A huge page that comes back in parts counts in small pages."
        => kept(|_| huge::huge(1), split_on_the_way_back),
    cpu_fault = "Pages that a CPU touches count as its faults, and as pages that came back for them."
        => resident(SMALL, cpu_fault),
    cpu_fault_huge = "A huge page that a CPU touches counts as one fault and as 2 MiB."
        => kept(|_| huge::huge(1), cpu_fault_huge),
    cpu_fault_refused = "A CPU that gets SIGBUS counts as a failure, and no page as back."
        => kept(on_device(SMALL), cpu_fault_refused),
    device_fault = "Faults of the device count, and those that it was not allowed as failures.",
    device_fault_brings_back = "Shared pages that the device writes to count as back for its fault."
        => resident(SMALL, device_fault_brings_back),
    evicted = "Pages that a full device evicts count as evicted, and the pass again as one for room.",
    released = "RELEASE counts the pages that it brings back under its own cause."
        => resident(SMALL, released),
    freed = "Pages that a process drops, or that it leaves behind, count as freed.",
    nothing_moves = "Pages that cannot move count as having stayed.",
    copy_fails = "A migration whose copy fails counts as that."
        => kept(in_system(SMALL), copy_fails),
    invalidated = "Dropped memory counts as an invalidation, and as pages that the device has lost.",
    phases = "Time counts in the phase that it was spent in.",
    second_device = "The operations of one device do not count for another.",
    of_a_file = "A file counts what its own commands and faults have done, and what is mapped for it.",
    blocks = "The pages that move and come back are in use and free again in the blocks that have their frames.",
    unprivileged = "Anybody may read the fdinfo of his own file, and only root that of the device.",
    kept_by_a_reader = "The module stays while somebody has the file open.",
    read_meanwhile = "A reader sees numbers that only grow while pages move, and sums that agree later.",
}

const SMALL: usize = 24;
const PAGES: u64 = SMALL as u64;

/// Returns the number of small pages in a huge page.
fn nr() -> u64 {
    hpage_pmd_nr() as u64
}

/// Returns the statistics of the first device, or skips.
fn stats() -> Result<Stats> {
    stats_of("hmm_dmirror0")
}

fn stats_of(name: &str) -> Result<Stats> {
    needs_ours("statistics")?;
    match Stats::of(name)? {
        Some(stats) => Ok(stats),
        None => skip("needs root, and debugfs"),
    }
}

/// Runs `body`, and returns the change of the statistics. Checks that the sums agree before and
/// afterwards.
fn added(body: impl FnOnce() -> Result<()>) -> Result<Stats> {
    let before = stats()?;
    body()?;
    let after = stats()?;
    for stats in [before, after] {
        equal("sums", stats.disagreements(), Vec::new())?;
    }
    Ok(after - before)
}

/// Creates [`SMALL`] small pages, and fills them.
fn small() -> Result<Memory> {
    Memory::new(SMALL)
}

fn kib(pages: u64) -> u64 {
    pages * page_size() as u64 / 1024
}

fn request(device: &Device, memory: &Memory) -> Result<()> {
    let out = added(|| memory.out(device))?;
    equal("pages out", [out.out_request, out.out_4k], [PAGES; 2])?;
    equal("KiB out", out.out_kb, kib(PAGES))?;
    equal("resident", out.resident, PAGES)?;
    equal("others", [out.out_2m, out.back(), out.freed], [0; 3])?;
    let back = added(|| memory.move_back(device, 4..10, 6))?;
    equal("pages back", back.back_request, 6)?;
    equal("KiB back", [back.back_kb, back.back_4k_kb], [kib(6); 2])?;
    equal("others", [back.back(), back.out(), back.freed], [6, 0, 0])
}

fn request_huge(device: &Device, memory: &Memory) -> Result<()> {
    let out = added(|| memory.out(device))?;
    equal("huge pages out", out.out_2m, 2)?;
    equal("KiB out", [out.out_kb, out.out_2m_kb], [kib(2 * nr()); 2])?;
    equal("small pages out", out.out_4k, 0)?;
    let back = added(|| memory.move_back(device, memory.all(), 2 * hpage_pmd_nr()))?;
    equal("pages back", back.back_request, 2 * nr())?;
    equal("KiB back", back.back_2m_kb, kib(2 * nr()))
}

fn split_on_the_way_back(device: &Device, memory: &Memory) -> Result<()> {
    memory.out(device)?;
    let back = added(|| memory.move_back(device, 100..300, 200))?;
    equal("pages back", back.back_request, 200)?;
    let seen = [back.back_4k_kb, back.back_2m_kb];
    equal("KiB back", seen, [kib(200), 0])?;
    let rest = added(|| memory.intact())?;
    equal("pages back", rest.back_cpu_fault, nr() - 200)
}

fn cpu_fault(_: &Device, memory: &Memory) -> Result<()> {
    let one = added(|| memory.verify(7..8))?;
    equal("faults", one.cpu_faults, 1)?;
    ensure!(one.back_cpu_fault >= 1, "no page came");
    equal("back", one.back(), one.back_cpu_fault)?;
    let rest = added(|| memory.intact())?;
    equal("back", rest.back_cpu_fault, PAGES - one.back_cpu_fault)?;
    ensure!(rest.cpu_faults < PAGES, "{} faults", rest.cpu_faults);
    equal("others", [rest.back_request, rest.freed], [0; 2])
}

fn cpu_fault_huge(device: &Device, memory: &Memory) -> Result<()> {
    memory.out(device)?;
    let fault = added(|| memory.verify(100..101))?;
    equal("faults", fault.cpu_faults, 1)?;
    equal("pages", fault.back_cpu_fault, nr())?;
    equal("KiB", [fault.back_2m_kb, fault.back_kb], [kib(nr()); 2])
}

fn cpu_fault_refused(_: &Device, memory: &Memory) -> Result<()> {
    let fault = added(|| refused_once(memory))?;
    equal("failures", fault.fail_cpu_fault_bus_error, 1)?;
    equal("faults", fault.cpu_faults, 1)
}

fn device_fault(device: Device) -> Result<()> {
    let memory = small()?;
    let read = added(|| memory.reads(&device))?;
    equal("faults", read.device_faults, 1)?;
    memory.region.protect(memory.all(), Protection::Read)?;
    let data = vec![0; memory.region.len()];
    let write = added(|| {
        let answer = device.write(memory.region.range(), &data);
        fails_at_once("a write to read-only memory", answer, Errno::EPERM)
    })?;
    let failures = write.fail_device_fault_no_access;
    ensure!(failures > 0, "no failure");
    equal("failures", failures, write.device_faults)
}

fn device_fault_brings_back(device: &Device, memory: &Memory) -> Result<()> {
    while_shared(|| {
        let before = device.stats()?;
        let write = added(|| memory.device_refills(device, 2).map(drop))?;
        let of_file = device.stats()? - before;
        equal("pages", [write.back_device_fault, write.back()], [PAGES; 2])?;
        equal("pages of the file", of_file.back_device_fault, PAGES)
    })?;
    memory.intact()
}

fn evicted(context: &Context) -> Result<()> {
    stats()?;
    with_small_device(context, || {
        let device = context.open()?;
        let first = Memory::new(pages(BLOCKS))?;
        move_there(&device, &first)?;
        let full = stats()?;
        equal("free", [full.free, full.reserved], [0; 2])?;
        let more = Memory::new(pages(1))?;
        let evicted = added(|| move_there(&device, &more))?;
        equal("pages", evicted.back_eviction, nr())?;
        equal("back", evicted.back(), nr())?;
        equal("blocks", evicted.evictions, 1)?;
        equal("resident", evicted.resident, 0)?;
        ensure!(evicted.retry_no_room > 0, "no pass again");
        ensure!(evicted.out_reserve_us > 0, "an eviction in no time");
        first.intact()?;
        more.intact()
    })
}

fn released(device: &Device, memory: &Memory) -> Result<()> {
    let mut count = 0;
    let release = added(|| {
        count = device.release()?.pages;
        Ok(())
    })?;
    equal("pages", release.back_release, count)?;
    ensure!(count >= PAGES, "{count} pages came");
    memory.intact()
}

fn freed(device: Device) -> Result<()> {
    let memory = small()?;
    memory.out(&device)?;
    let dropped = added(|| Ok(memory.region.advise(3..10, Advice::DontNeed)?))?;
    equal("pages", [dropped.freed, dropped.back()], [7, 0])?;
    equal("resident", dropped.resident, 7_u64.wrapping_neg())?;
    let unmapped = |memory: Memory| {
        added(|| {
            drop(memory);
            Ok(())
        })
    };
    equal("pages", unmapped(memory)?.freed, PAGES - 7)?;
    let huge = huge::huge(1)?;
    huge.out(&device)?;
    equal("pages", unmapped(huge)?.freed, nr())
}

/// Returns the change of the statistics by a failed attempt to move memory out.
fn tried(device: &Device, memory: &Memory) -> Result<Stats> {
    added(|| {
        ensure!(memory.try_out(device).is_err(), "pages moved");
        Ok(())
    })
}

fn nothing_moves(device: Device) -> Result<()> {
    let memory = unmovable(SMALL)?;
    let tried = tried(&device, &memory)?;
    equal("pages", [tried.stayed, tried.out()], [PAGES, 0])?;
    ensure!(tried.retry_busy > 0, "no pass again");
    Ok(())
}

fn copy_fails(device: &Device, memory: &Memory) -> Result<()> {
    let failure = Failure::new("copy_in", Often::Once)?;
    let tried = tried(device, memory)?;
    drop(failure);
    equal("failures", tried.fail_io, 1)?;
    equal("pages", [tried.out(), tried.resident], [0; 2])
}

fn invalidated(device: Device) -> Result<()> {
    let memory = small()?;
    memory.device_reads(&device, 0..20)?;
    let before = device.stats()?;
    let dropped = added(|| Ok(memory.region.advise(memory.all(), Advice::DontNeed)?))?;
    let of_file = device.stats()? - before;
    let pages = [dropped.invalidated, of_file.invalidated];
    equal("pages, those of the file", pages, [20; 2])?;
    ensure!(dropped.invalidations >= 1);
    ensure!(of_file.invalidations >= 1);
    Ok(())
}

fn phases(device: Device) -> Result<()> {
    const LONG: u32 = 50_000;
    let memory = Memory::new(hpage_pmd_nr())?;
    // The delay after a step is a part of the next phase.
    let took = |step: &str, phase: fn(&Stats) -> u64| -> Result<()> {
        let delay = Delay::new(step, LONG)?;
        let times = added(|| {
            memory.out(&device)?;
            memory.move_back(&device, memory.all(), hpage_pmd_nr())
        })?;
        drop(delay);
        let us = phase(&times);
        // The clock may advance in ticks.
        ensure!(us >= u64::from(LONG) / 2, "{step}: {us} us");
        Ok(())
    };
    took("out_collected", |times| times.out_copy_us)?;
    took("out_copied", |times| times.out_move_us)?;
    took("out_moved", |times| times.out_map_us)?;
    took("out_mapped", |times| times.out_map_us)?;
    took("back_collected", |times| times.back_copy_us)?;
    took("back_copied", |times| times.back_move_us)?;
    took("back_moved", |times| times.back_map_us)
}

fn second_device(context: &Context) -> Result<()> {
    let second = context.open_second()?;
    let memory = small()?;
    let before = stats_of("hmm_dmirror1")?;
    let first = added(|| memory.out(&second))?;
    let out = stats_of("hmm_dmirror1")? - before;
    equal("pages of both", [first.out(), out.out()], [0, PAGES])
}

fn of_a_file(context: &Context) -> Result<()> {
    needs_ours("statistics")?;
    let (device, other) = (context.open()?, context.open()?);
    let memory = small()?;
    let (first, second) = (device.stats()?, other.stats()?);
    ensure!(first.client != second.client, "two files, one number");
    memory.out(&device)?;
    let mapped = |stats: &FileStats| [stats.mapped_device_kib, stats.mapped_system_kib];
    let seen = device.stats()?;
    equal("pages out", seen.out, PAGES)?;
    equal("mapped there, elsewhere", mapped(&seen), [kib(PAGES), 0])?;
    memory.move_back(&device, 0..6, 6)?;
    memory.device_reads(&device, 0..2)?;
    let seen = device.stats()?;
    let did = [seen.back, seen.device_faults];
    equal("pages back, faults", did, [6, 1])?;
    let expected = [kib(PAGES - 6), kib(2)];
    equal("mapped there, elsewhere", mapped(&seen), expected)?;
    let quiet = |stats: FileStats| FileStats {
        invalidations: 0,
        ..stats
    };
    equal("the other file", quiet(other.stats()?), quiet(second))
}

fn blocks(context: &Context) -> Result<()> {
    let room = stats()?;
    let device = context.open()?;
    let before = Before::of(&device)?;
    let used = || Stats::blocks_of("hmm_dmirror0")?.context("there is no file blocks");
    let at_first = used()?;
    let sum = at_first.iter().sum::<u64>();
    equal("pages in use of all blocks", sum, room.pages - room.free)?;
    let (huge, small) = (huge::huge(1)?, small()?);
    huge.out(&device)?;
    small.out(&device)?;
    let more = used()?;
    let more = more.iter().zip(&at_first).map(|(now, then)| now - then);
    let more: Vec<u64> = more.filter(|more| *more > 0).collect();
    equal("pages more in use", more.iter().sum(), nr() + PAGES)?;
    equal("blocks for the huge page", more.contains(&nr()), true)?;
    huge.move_back(&device, huge.all(), hpage_pmd_nr())?;
    small.intact()?;
    before.nothing_is_left(&device)?;
    equal("pages in use of each block", used()?, at_first)
}

fn unprivileged(device: Device) -> Result<()> {
    if !is_root() {
        return skip("needs root, to be another user");
    }
    stats()?;
    let _memory = Memory::resident(&device, SMALL)?;
    in_child(|| {
        seteuid(Uid::from_raw(65534))?;
        // The child has inherited the file of the parent, which still refers to the memory of the
        // parent.
        equal("pages out", device.stats()?.out, PAGES)?;
        ensure!(Stats::of("hmm_dmirror0")?.is_none(), "anybody may read it");
        Ok(())
    })
}

fn kept_by_a_reader(context: &Context) -> Result<()> {
    let (module, loader) = context.module()?;
    stats()?;
    let path = "/sys/kernel/debug/hmm_dmirror0/stats";
    let mut file = File::open(path)?;
    let users = module.users()?;
    ensure!(users >= 1, "{users} users");
    let unloaded = module.unload().map_err(|error| error.kind());
    equal("unloading", unloaded, Err(io::ErrorKind::WouldBlock))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    ensure!(Stats::parse(&text).is_ok());
    drop(file);
    module.unload().context("after it was closed")?;
    ensure!(File::open(path).is_err(), "the file is still there");
    loader.load(&module, &[])?;
    stats().map(drop)
}

fn read_meanwhile(context: &Context) -> Result<()> {
    let first = stats()?;
    let reader = helper(|| {
        let device = context.open()?;
        let mut before = stats()?;
        for _ in 0..200 {
            let now = stats()?;
            let grown = now - before;
            for pages in [grown.out(), grown.back(), grown.freed, grown.cpu_faults] {
                ensure!(pages < 1 << 40, "a number has become less");
            }
            ensure!(now.back() + now.freed <= now.out(), "more back than out");
            device.stats()?;
            before = now;
        }
        Ok(())
    })?;
    all_ways_twice(context)?;
    reader.join()?;
    let last = agreed()?;
    ensure!((last - first).out() >= nr(), "nothing has moved");
    Ok(())
}

/// Returns the statistics, once the memory of processes that have ended is gone and the sums agree.
fn agreed() -> Result<Stats> {
    let mut seen = stats()?;
    for _ in 0..100 {
        if seen.disagreements().is_empty() {
            break;
        }
        thread::sleep(Duration::from_millis(10));
        seen = stats()?;
    }
    equal("sums", seen.disagreements(), Vec::new())?;
    Ok(seen)
}
