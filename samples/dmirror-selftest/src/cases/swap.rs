// SPDX-License-Identifier: GPL-2.0

//! Swap space beside device memory: what the kernel swaps out and back in next to
//! pages on the device, and what happens to pages that were swapped out.

use std::ops::Range;

use dmirror_client::Place;
use dmirror_client::device::prot;
use dmirror_client::place::Usage;

use crate::cgroup::Cgroup;
use crate::prelude::*;
use crate::reload::with_capacity;
use crate::swapping::swap_on;

cases! { "swap":
    neighbours = "Pages beside resident ones are swapped out and in, and the resident ones stay where they are.",
    pageout_of_resident_pages = "MADV_PAGEOUT over resident pages leaves them on the device.",
    swapped_out_stay_out = "Swapped-out pages do not move: ENOENT, all others do, and no data changes.",
    swapped_in_move = "Pages that were swapped in again go to the device with their data.",
    in_swap_cache = "Pages that the CPU only read since they were swapped in go to the device, and come back with new data.",
    device_reads_swapped_out = "The device reads pages that are swapped out.",
    device_writes_swapped_out = "The device writes pages that are swapped out.",
    device_writes_reach_swap = "What the device wrote, wherever, is not lost to an older copy in swap space.",
    came_back_and_out = "Pages that came back from the device can be swapped out, and keep their data.",
    swapoff = "swapoff brings back what was swapped out beside resident pages, and leaves those alone.",
    fork_with_both = "A child with pages on the device and in swap space reads and writes its own data.",
    come_back_under_pressure = "Pages come back from the device, with their data, in a cgroup that has to swap.",
    eviction_under_pressure = "A full device evicts pages of a cgroup that has no memory to spare.",
    pageout_during_migration = "Pages that one thread swaps out while another moves them never lose their data.",
}

const PAGES: usize = 64;

/// Has the kernel swap pages out, and says how many went. A page that something
/// else holds for a moment stays, as does one that another CPU has just put on a
/// list of its own: hence the pause.
fn swap_out(memory: &Memory, pages: Range<usize>) -> Result<usize> {
    let range = memory.region.part(pages.clone());
    for _ in 0..40 {
        memory.region.advise(pages.clone(), Advice::PageOut)?;
        if swapped(memory, pages.clone())? == pages.len() {
            return Ok(pages.len());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(Survey::of(range)?.count(|place| *place == Place::Swapped))
}

fn swapped(memory: &Memory, pages: Range<usize>) -> Result<usize> {
    let survey = Survey::of(memory.region.part(pages))?;
    Ok(survey.count(|place| *place == Place::Swapped))
}

/// As [`swap_out`], for pages that must all go.
fn all_out(memory: &Memory, pages: Range<usize>) -> Result<()> {
    swap_out(memory, pages.clone())?;
    memory.expect("after MADV_PAGEOUT", pages, Where::Swap)
}

fn neighbours(context: &Context) -> Result<()> {
    let _swap = swap_on()?;
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, 16..32)?;
    all_out(&memory, 0..16)?;
    all_out(&memory, 32..PAGES)?;
    memory.expect("pages between them", 16..32, Where::Device)?;
    let usage = Usage::of(memory.region.range())?;
    equal("Rss", usage.rss, 16 * page_size() as u64)?;
    equal("Swap", usage.swap, (PAGES as u64 - 16) * page_size() as u64)?;
    memory.verify(0..16)?;
    memory.verify(32..PAGES)?;
    memory.expect("after the others came in", 16..32, Where::Device)?;
    memory.verify(memory.all())
}

fn pageout_of_resident_pages(context: &Context) -> Result<()> {
    let _swap = swap_on()?;
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, 8..40)?;
    memory.region.advise(memory.all(), Advice::PageOut)?;
    memory.region.advise(memory.all(), Advice::Cold)?;
    memory.expect("after MADV_PAGEOUT", 8..40, Where::Device)?;
    memory.verify(memory.all())
}

fn swapped_out_stay_out(context: &Context) -> Result<()> {
    let _swap = swap_on()?;
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    all_out(&memory, 16..32)?;
    let mut view = vec![0; memory.region.len()];
    let counts = fails_counted(
        "MIGRATE_TO_DEV",
        device.migrate_to_device(memory.region.range(), &mut view),
        Errno::ENOENT,
    )?;
    equal("pages moved", counts.pages, PAGES as u64 - 16)?;
    memory.expect("pages before them", 0..16, Where::Device)?;
    memory.expect("swapped-out pages", 16..32, Where::Swap)?;
    memory.expect("pages behind them", 32..PAGES, Where::Device)?;
    memory.move_back(&device, 0..16, 16)?;
    equal(
        "pages that came back of those in swap space",
        device.migrate_to_system(memory.region.part(16..32))?.pages,
        0,
    )?;
    memory.expect("swapped-out pages", 16..32, Where::Swap)?;
    memory.verify(memory.all())
}

fn swapped_in_move(context: &Context) -> Result<()> {
    let _swap = swap_on()?;
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    for round in 2..5 {
        all_out(&memory, memory.all())?;
        memory.region.advise(memory.all(), Advice::PopulateWrite)?;
        memory.move_out(&device, memory.all())?;
        memory.verify(0..PAGES / 2)?;
        memory.refill(round);
    }
    memory.verify(memory.all())
}

fn in_swap_cache(context: &Context) -> Result<()> {
    let _swap = swap_on()?;
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    all_out(&memory, memory.all())?;
    // Read ahead or read by the CPU: clean pages with a copy in swap space.
    memory.verify(memory.all())?;
    let mut view = vec![0; memory.region.len()];
    match device.migrate_to_device(memory.region.range(), &mut view) {
        Ok(_) => {
            memory.expect("after moving out", memory.all(), Where::Device)?;
            memory.data().check_bytes(&view, 0)?;
        }
        Err(error) => println!("a page in the swap cache did not move: {error}"),
    }
    memory.refill(2);
    memory.move_out(&device, memory.all())?;
    memory.verify(memory.all())?;
    all_out(&memory, memory.all())?;
    memory.verify(memory.all())
}

fn device_reads_swapped_out(context: &Context) -> Result<()> {
    let _swap = swap_on()?;
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, 0..16)?;
    all_out(&memory, 16..PAGES)?;
    let range = memory.region.range();
    let snapshot = device.snapshot(range)?;
    equal(
        "bytes of the snapshot that say nothing is mapped",
        snapshot.iter().filter(|byte| **byte == prot::NONE).count(),
        PAGES - 16,
    )?;
    let mut view = vec![0; memory.region.len()];
    equal(
        "pages read",
        device.read(range, &mut view)?.pages,
        PAGES as u64,
    )?;
    memory.data().check_bytes(&view, 0)?;
    memory.expect("resident pages", 0..16, Where::Device)?;
    memory.expect("pages that the device read", 16..PAGES, Where::System)?;
    memory.verify(memory.all())
}

fn device_writes_swapped_out(context: &Context) -> Result<()> {
    let _swap = swap_on()?;
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    all_out(&memory, memory.all())?;
    memory.device_refills(&device, 2)?;
    memory.verify(memory.all())?;
    all_out(&memory, memory.all())?;
    memory.verify(memory.all())
}

fn device_writes_reach_swap(context: &Context) -> Result<()> {
    let _swap = swap_on()?;
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    // Reading leaves pages clean, with a copy in swap space that could be taken
    // for theirs.
    all_out(&memory, memory.all())?;
    memory.verify(memory.all())?;
    memory.device_refills(&device, 2)?;
    all_out(&memory, memory.all())?;
    memory
        .verify(memory.all())
        .context("written in system memory")?;

    all_out(&memory, memory.all())?;
    memory.verify(memory.all())?;
    memory.move_out(&device, memory.all())?;
    memory.device_refills(&device, 3)?;
    memory.move_back(&device, memory.all(), PAGES)?;
    all_out(&memory, memory.all())?;
    memory.verify(memory.all()).context("written on the device")
}

fn came_back_and_out(context: &Context) -> Result<()> {
    let _swap = swap_on()?;
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    for round in 2..4 {
        memory.move_out(&device, memory.all())?;
        memory.verify(0..PAGES / 2)?;
        memory.move_back(&device, PAGES / 2..PAGES, PAGES / 2)?;
        all_out(&memory, memory.all())?;
        memory.verify(memory.all())?;
        memory.refill(round);
    }
    memory.verify(memory.all())
}

fn swapoff(context: &Context) -> Result<()> {
    let swap = swap_on()?;
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, 0..PAGES / 2)?;
    all_out(&memory, PAGES / 2..PAGES)?;
    swap.off()?;
    memory.expect("resident pages", 0..PAGES / 2, Where::Device)?;
    memory.expect(
        "pages that were in swap space",
        PAGES / 2..PAGES,
        Where::System,
    )?;
    memory.move_out(&device, memory.all())?;
    memory.verify(memory.all())
}

fn fork_with_both(context: &Context) -> Result<()> {
    let _swap = swap_on()?;
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, 0..PAGES / 2)?;
    all_out(&memory, PAGES / 2..PAGES)?;
    let written = Gate::new()?;
    let child = memory.writing_child(&written, 3)?;
    memory.refill(2);
    let mut view = vec![0; memory.region.len()];
    // What the child still shares by a swap entry can be in use for a moment.
    match device.migrate_to_device(memory.region.range(), &mut view) {
        Ok(_) => memory.data().check_bytes(&view, 0)?,
        Err(error) => equal("answer", error.errno, Errno::ENOENT)?,
    }
    written.open()?;
    child.join()?;
    memory.verify(memory.all())
}

/// Bytes that a cgroup of these cases may use.
const LIMIT: usize = 3 << 20;

/// Runs `body` in a child process in a cgroup of [`LIMIT`] bytes.
fn in_tight_cgroup(body: impl FnOnce() -> Result<()>) -> Result<()> {
    let group = Cgroup::new("tight")?;
    group.set("memory.max", &LIMIT.to_string())?;
    let answer = helper(|| {
        group.enter()?;
        body()
    })?
    .join();
    equal(
        "kills for lack of memory",
        group.field("memory.events", "oom_kill")?,
        0,
    )?;
    answer
}

/// Moves what there is of `memory` in system memory to the device, a part at a
/// time: where memory is tight, more would be swapped out before it moves.
fn move_in_parts(device: &Device, memory: &Memory, round: u16) -> Result<()> {
    const PART: usize = 16;
    let mut view = vec![0; PART * page_size()];
    for start in (0..memory.region.pages()).step_by(PART) {
        let pages = start..start + PART;
        memory
            .data()
            .round(round)
            .fill(&memory.region, pages.clone());
        match device.migrate_to_device(memory.region.part(pages), &mut view) {
            Ok(_) => memory.data().round(round).check_bytes(&view, start)?,
            Err(error) => equal("answer", error.errno, Errno::ENOENT)?,
        }
    }
    Ok(())
}

fn come_back_under_pressure(context: &Context) -> Result<()> {
    let _swap = swap_on()?;
    in_tight_cgroup(|| {
        let device = context.open()?;
        let memory = Memory::new(LIMIT / page_size() / 2)?;
        let more = Memory::new(LIMIT / page_size() * 3 / 4)?;
        memory.region.advise(memory.all(), Advice::PopulateWrite)?;
        move_in_parts(&device, &memory, 2)?;
        // The limit counts pages on the device, but only system pages can go.
        more.refill(2);
        memory.data().round(2).check(&memory.region, memory.all())?;
        more.verify(more.all())
    })
}

fn eviction_under_pressure(context: &Context) -> Result<()> {
    let _swap = swap_on()?;
    with_capacity(context, HUGE as u64, || {
        in_tight_cgroup(|| {
            let device = context.open()?;
            let memory = Memory::new(LIMIT / page_size() * 5 / 4)?;
            move_in_parts(&device, &memory, 2)?;
            // Another process's need evicts them.
            memory.data().round(2).check(&memory.region, memory.all())?;
            Ok(())
        })?;
        let device = context.open()?;
        let memory = Memory::new(HUGE / page_size())?;
        memory.move_out(&device, memory.all())?;
        memory.verify(memory.all())
    })
}

fn pageout_during_migration(context: &Context) -> Result<()> {
    let _swap = swap_on()?;
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    let (region, data) = (&memory.region, memory.data());
    thread::scope(|scope| {
        let swapper =
            scope.spawn(|| (0..60).try_for_each(|_| region.advise(0..PAGES, Advice::PageOut)));
        let reader = scope.spawn(|| {
            (0..20).try_for_each(|round| {
                let page = round * 13 % PAGES;
                data.check(region, page..page + 1)
            })
        });
        let mut view = vec![0; region.len()];
        for _ in 0..20 {
            unless_held(device.migrate_to_device(region.range(), &mut view))?;
            unless_held(device.migrate_to_system(region.range()))?;
        }
        joined(swapper)?;
        joined(reader)
    })?;
    memory.verify(memory.all())
}
