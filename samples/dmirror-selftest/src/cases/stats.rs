// SPDX-License-Identifier: GPL-2.0

//! Statistics: each number says what was done, and their sums agree.

use std::io;
use std::io::Read;

use dmirror_client::{FileStats, Stats};
use nix::unistd::{Uid, seteuid};

use super::evict::{BLOCKS, move_there, pages, with_small_device};
use super::failing::touched;
use super::huge;
use crate::inject::{Failure, Often};
use crate::prelude::*;

cases! { "stats":
    request = "Pages that commands move out and back count by request, in bytes and by size.",
    request_huge = "Huge pages that commands move out and back count as such.",
    split_on_the_way_back = "A huge page that comes back in parts counts in small pages.",
    cpu_fault = "Pages that a CPU touches count as its faults, and as pages that came back for them.",
    cpu_fault_huge = "A huge page that a CPU touches counts as one fault and as 2 MiB.",
    cpu_fault_refused = "A CPU that gets SIGBUS counts as a failure, and no page as back.",
    device_fault = "Faults of the device count, and those that it was not allowed as failures.",
    device_fault_brings_back = "Shared pages that the device writes to count as back for its fault.",
    evicted = "Pages that a full device evicts count as evicted, and the pass again as one for room.",
    released = "RELEASE counts the pages that it brings back under its own cause.",
    freed = "Pages that a process drops, or that it leaves behind, count as freed.",
    nothing_moves = "Pages that cannot move count as having stayed.",
    copy_fails = "A migration whose copy fails counts as that.",
    invalidated = "Dropped memory counts as an invalidation, and as pages that the device has lost.",
    phases = "Time counts in the phase that it was spent in.",
    second_device = "What one device does does not count for another.",
    of_a_file = "A file counts what its own commands and faults have done, and what is mapped for it.",
    blocks = "The pages that move and come back are in use and free again in the blocks that have their frames.",
    unprivileged = "Anybody may read the fdinfo of his own file, and only root that of the device.",
    kept_by_a_reader = "The module stays while somebody has the file open.",
    read_meanwhile = "Whoever reads while pages move sees numbers that only grow, and sums that agree later.",
}

const PAGES: u64 = 24;
const HUGE: u64 = 512;

/// Statistics of the first device, or a reason to skip.
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

/// What `body` has added, and that the sums agree before and afterwards.
fn added(body: impl FnOnce() -> Result<()>) -> Result<Stats> {
    let before = stats()?;
    body()?;
    let after = stats()?;
    for stats in [before, after] {
        equal("sums", stats.disagreements(), Vec::new())?;
    }
    Ok(after - before)
}

/// Pages of `PAGES`, small ones.
fn small() -> Result<Memory> {
    Memory::new(PAGES as usize)
}

fn kib(pages: u64) -> u64 {
    pages * page_size() as u64 / 1024
}

fn request(device: Device) -> Result<()> {
    let memory = small()?;
    let out = added(|| memory.move_out(&device, memory.all()))?;
    equal("pages out", [out.out_request, out.out_4k], [PAGES; 2])?;
    equal("KiB out", out.out_kb, kib(PAGES))?;
    equal("resident", out.resident, PAGES)?;
    equal("others", [out.out_2m, out.back(), out.freed], [0; 3])?;
    let back = added(|| memory.move_back(&device, 4..10, 6))?;
    equal("pages back", back.back_request, 6)?;
    equal("KiB back", [back.back_kb, back.back_4k_kb], [kib(6); 2])?;
    equal("others", [back.back(), back.out(), back.freed], [6, 0, 0])
}

fn request_huge(device: Device) -> Result<()> {
    let memory = huge::huge(2)?;
    let out = added(|| memory.move_out(&device, memory.all()))?;
    equal("huge pages out", out.out_2m, 2)?;
    equal("KiB out", [out.out_kb, out.out_2m_kb], [kib(2 * HUGE); 2])?;
    equal("small pages out", out.out_4k, 0)?;
    let back = added(|| memory.move_back(&device, memory.all(), 2 * HUGE as usize))?;
    equal("pages back", back.back_request, 2 * HUGE)?;
    equal("KiB back", back.back_2m_kb, kib(2 * HUGE))
}

fn split_on_the_way_back(device: Device) -> Result<()> {
    let memory = huge::huge(1)?;
    memory.move_out(&device, memory.all())?;
    let back = added(|| memory.move_back(&device, 100..300, 200))?;
    equal("pages back", back.back_request, 200)?;
    equal(
        "KiB back",
        [back.back_4k_kb, back.back_2m_kb],
        [kib(200), 0],
    )?;
    let rest = added(|| memory.verify(memory.all()))?;
    equal("pages back", rest.back_cpu_fault, HUGE - 200)
}

fn cpu_fault(device: Device) -> Result<()> {
    let memory = small()?;
    memory.move_out(&device, memory.all())?;
    let one = added(|| memory.verify(7..8))?;
    equal("faults", one.cpu_faults, 1)?;
    ensure!(one.back_cpu_fault >= 1, "no page came");
    equal("back", one.back(), one.back_cpu_fault)?;
    let rest = added(|| memory.verify(memory.all()))?;
    equal("back", rest.back_cpu_fault, PAGES - one.back_cpu_fault)?;
    ensure!(rest.cpu_faults < PAGES, "{} faults", rest.cpu_faults);
    equal("others", [rest.back_request, rest.freed], [0; 2])
}

fn cpu_fault_huge(device: Device) -> Result<()> {
    let memory = huge::huge(1)?;
    memory.move_out(&device, memory.all())?;
    let fault = added(|| memory.verify(100..101))?;
    equal("faults", fault.cpu_faults, 1)?;
    equal("pages", fault.back_cpu_fault, HUGE)?;
    equal("KiB", [fault.back_2m_kb, fault.back_kb], [kib(HUGE); 2])
}

fn cpu_fault_refused(device: Device) -> Result<()> {
    let memory = small()?;
    memory.move_out(&device, memory.all())?;
    let failure = Failure::new("copy_out", Often::Once)?;
    let fault = added(|| {
        let end = touched(&memory, 3, false)?;
        equal("end of the child", end, Exit::Signal(Signal::SIGBUS))
    })?;
    drop(failure);
    equal("failures", fault.fail_cpu_fault_bus_error, 1)?;
    equal("faults", fault.cpu_faults, 1)?;
    memory.verify(memory.all())
}

fn device_fault(device: Device) -> Result<()> {
    let memory = small()?;
    let read = added(|| memory.device_reads(&device, memory.all()).map(drop))?;
    equal("faults", read.device_faults, 1)?;
    memory.region.protect(memory.all(), Protection::Read)?;
    let data = vec![0; memory.region.len()];
    let write = added(|| {
        let answer = device.write(memory.region.range(), &data);
        fails_at_once("a write to read-only memory", answer, Errno::EPERM)
    })?;
    ensure!(write.fail_device_fault_no_access > 0, "no failure");
    equal(
        "failures",
        write.fail_device_fault_no_access,
        write.device_faults,
    )
}

fn device_fault_brings_back(device: Device) -> Result<()> {
    let memory = small()?;
    memory.move_out(&device, memory.all())?;
    let (made, done) = (Gate::new()?, Gate::new()?);
    let child = helper(|| {
        made.open()?;
        done.wait()
    })?;
    made.wait()?;
    let before = device.stats()?;
    let write = added(|| memory.device_refills(&device, 2).map(drop))?;
    equal("pages", write.back_device_fault, PAGES)?;
    equal("back", write.back(), PAGES)?;
    let of_file = device.stats()? - before;
    equal("pages of the file", of_file.back_device_fault, PAGES)?;
    done.open()?;
    child.join()?;
    memory.verify(memory.all())
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
        equal("pages", evicted.back_eviction, HUGE)?;
        equal("back", evicted.back(), HUGE)?;
        equal("blocks", evicted.evictions, 1)?;
        equal("resident", evicted.resident, 0)?;
        ensure!(evicted.retry_no_room > 0, "no pass again");
        ensure!(evicted.out_reserve_us > 0, "an eviction in no time");
        first.verify(first.all())?;
        more.verify(more.all())
    })
}

fn released(device: Device) -> Result<()> {
    let memory = small()?;
    memory.move_out(&device, memory.all())?;
    let mut count = 0;
    let release = added(|| {
        count = device.release()?.pages;
        Ok(())
    })?;
    equal("pages", release.back_release, count)?;
    ensure!(count >= PAGES, "{count} pages came");
    memory.verify(memory.all())
}

fn freed(device: Device) -> Result<()> {
    let memory = small()?;
    memory.move_out(&device, memory.all())?;
    let dropped = added(|| Ok(memory.region.advise(3..10, Advice::DontNeed)?))?;
    equal("pages", [dropped.freed, dropped.back()], [7, 0])?;
    equal("resident", dropped.resident, 7_u64.wrapping_neg())?;
    let unmapped = added(|| {
        drop(memory);
        Ok(())
    })?;
    equal("pages", unmapped.freed, PAGES - 7)?;
    let huge = huge::huge(1)?;
    huge.move_out(&device, huge.all())?;
    let unmapped = added(|| {
        drop(huge);
        Ok(())
    })?;
    equal("pages", unmapped.freed, HUGE)
}

fn nothing_moves(device: Device) -> Result<()> {
    let memory = small()?;
    memory.region.replace_by_shared(memory.all())?;
    memory.fill(memory.all());
    let mut view = vec![0; memory.region.len()];
    let tried = added(|| {
        let answer = device.migrate_to_device(memory.region.range(), &mut view);
        ensure!(answer.is_err(), "pages of a file moved");
        Ok(())
    })?;
    equal("pages", [tried.stayed, tried.out()], [PAGES, 0])?;
    ensure!(tried.retry_busy > 0, "no pass again");
    Ok(())
}

fn copy_fails(device: Device) -> Result<()> {
    let memory = small()?;
    let mut view = vec![0; memory.region.len()];
    let failure = Failure::new("copy_in", Often::Once)?;
    let tried = added(|| {
        let answer = device.migrate_to_device(memory.region.range(), &mut view);
        ensure!(answer.is_err(), "a copy that fails moved pages");
        Ok(())
    })?;
    drop(failure);
    equal("failures", tried.fail_io, 1)?;
    equal("pages", [tried.out(), tried.resident], [0; 2])?;
    memory.verify(memory.all())
}

fn invalidated(device: Device) -> Result<()> {
    let memory = small()?;
    memory.device_reads(&device, 0..20)?;
    let before = device.stats()?;
    let dropped = added(|| Ok(memory.region.advise(memory.all(), Advice::DontNeed)?))?;
    equal("pages", dropped.invalidated, 20)?;
    ensure!(dropped.invalidations >= 1);
    let of_file = device.stats()? - before;
    equal("pages of the file", of_file.invalidated, 20)?;
    ensure!(of_file.invalidations >= 1);
    Ok(())
}

fn phases(context: &Context) -> Result<()> {
    const LONG: u32 = 50_000;
    let device = context.open()?;
    let memory = Memory::new(HUGE as usize)?;
    // What a step waits for is a part of the phase that comes after it.
    let took = |step: &str, phase: fn(&Stats) -> u64| -> Result<()> {
        let delay = Delay::new(step, LONG)?;
        let times = added(|| {
            memory.move_out(&device, memory.all())?;
            memory.move_back(&device, memory.all(), HUGE as usize)
        })?;
        drop(delay);
        let us = phase(&times);
        // The clock may go in ticks.
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
    let first = added(|| memory.move_out(&second, memory.all()))?;
    equal("pages of the first", first.out(), 0)?;
    let out = stats_of("hmm_dmirror1")? - before;
    equal("pages of the second", out.out(), PAGES)
}

fn of_a_file(context: &Context) -> Result<()> {
    needs_ours("statistics")?;
    let device = context.open()?;
    let other = context.open()?;
    let memory = small()?;
    let (first, second) = (device.stats()?, other.stats()?);
    ensure!(first.client != second.client, "two files, one number");
    memory.move_out(&device, memory.all())?;
    let seen = device.stats()?;
    equal("pages out", seen.out, PAGES)?;
    equal("mapped", seen.mapped_device_kib, kib(PAGES))?;
    equal("mapped elsewhere", seen.mapped_system_kib, 0)?;
    memory.move_back(&device, 0..6, 6)?;
    memory.device_reads(&device, 0..2)?;
    let seen = device.stats()?;
    equal("pages back", seen.back, 6)?;
    equal("faults", seen.device_faults, 1)?;
    equal("mapped", seen.mapped_device_kib, kib(PAGES - 6))?;
    equal("mapped elsewhere", seen.mapped_system_kib, kib(2))?;
    let quiet = FileStats {
        invalidations: 0,
        ..other.stats()?
    };
    let expected = FileStats {
        invalidations: 0,
        ..second
    };
    equal("the other file", quiet, expected)
}

fn blocks(context: &Context) -> Result<()> {
    let room = stats()?;
    let device = context.open()?;
    let before = Before::of(&device)?;
    let used = || Stats::blocks_of("hmm_dmirror0")?.context("there is no file blocks");
    let at_first = used()?;
    equal(
        "pages in use of all blocks",
        at_first.iter().sum::<u64>(),
        room.pages - room.free,
    )?;
    let (huge, small) = (huge::huge(1)?, small()?);
    huge.move_out(&device, huge.all())?;
    small.move_out(&device, small.all())?;
    let more = used()?;
    let more = more.iter().zip(&at_first).map(|(now, then)| now - then);
    let more: Vec<u64> = more.filter(|more| *more > 0).collect();
    equal("pages more in use", more.iter().sum(), HUGE + PAGES)?;
    equal("blocks for the huge page", more.contains(&HUGE), true)?;
    huge.move_back(&device, huge.all(), HUGE as usize)?;
    small.verify(small.all())?;
    before.nothing_is_left(&device)?;
    equal("pages in use of each block", used()?, at_first)
}

fn unprivileged(context: &Context) -> Result<()> {
    if !is_root() {
        return skip("needs root, to be another user");
    }
    stats()?;
    let device = context.open()?;
    let memory = small()?;
    memory.move_out(&device, memory.all())?;
    helper(|| {
        seteuid(Uid::from_raw(65534))?;
        // The file of the parent was inherited; it is still about the parent's memory.
        equal("pages out", device.stats()?.out, PAGES)?;
        ensure!(Stats::of("hmm_dmirror0")?.is_none(), "anybody may read it");
        Ok(())
    })?
    .join()
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
    let start = Gate::new()?;
    let child = helper(|| {
        start.wait()?;
        all_ways(context, 2)
    })?;
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
    start.open()?;
    all_ways(context, 1)?;
    child.join()?;
    reader.join()?;
    let last = agreed()?;
    ensure!((last - first).out() >= HUGE, "nothing has moved");
    Ok(())
}

/// What was counted, once the memory of processes that have ended is gone.
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
