// SPDX-License-Identifier: GPL-2.0

//! Swap space beside device memory: pages that the kernel swaps out and back in next to pages on
//! the device, and work of the device on pages that were swapped out.

use std::ops::Range;

use dmirror_client::Place;
use dmirror_client::device::prot;
use dmirror_client::place::Usage;

use crate::cgroup::Cgroup;
use crate::prelude::*;
use crate::reload::with_capacity;
use crate::swapping::swap_on;

cases! { "swap":
    neighbours = "Pages beside resident ones are swapped out and in, and the resident ones stay where they are."
        => swapping(PAGES, neighbours),
    pageout_of_resident_pages = "MADV_PAGEOUT over resident pages leaves them on the device."
        => swapping(PAGES, pageout_of_resident_pages),
    swapped_out_stay_out = "Swapped-out pages do not move: ENOENT, all others do, and no data changes."
        => swapping(PAGES, swapped_out_stay_out),
    swapped_in_move = "Pages that were swapped in again go to the device with their data."
        => swapping(PAGES, swapped_in_move),
    in_swap_cache = "Pages that the CPU only read since they were swapped in go to the device, and come back with new data."
        => swapping(PAGES, in_swap_cache),
    device_reads_swapped_out = "The device reads pages that are swapped out."
        => swapping(PAGES, device_reads_swapped_out),
    device_writes_swapped_out = "The device writes pages that are swapped out."
        => swapping(PAGES, device_writes_swapped_out),
    device_writes_reach_swap = "Device writes, to memory on either side, are not lost to an older copy in swap space."
        => swapping(PAGES, device_writes_reach_swap),
    came_back_and_out = "Pages that came back from the device can be swapped out, and keep their data."
        => swapping(PAGES, came_back_and_out),
    swapoff = "swapoff brings back what was swapped out beside resident pages, and leaves those alone.",
    fork_with_both = "A child with pages on the device and in swap space reads and writes its own data."
        => swapping(PAGES, fork_with_both),
    come_back_under_pressure = "Pages come back from the device, with their data, in a cgroup that has to swap.",
    eviction_under_pressure = "A full device evicts pages of a cgroup that has no memory to spare.",
    pageout_during_migration = "Pages that one thread swaps out while another moves them never lose their data."
        => swapping(PAGES, pageout_during_migration),
}

const PAGES: usize = 64;

/// Returns a case with swap space, and with `pages` small, filled pages, which the CPU must find
/// intact in the end.
pub(super) fn swapping(
    pages: usize,
    body: impl Fn(&Device, &Memory) -> Result<()>,
) -> impl Fn(&Context) -> Result<()> {
    move |context| {
        let _swap = swap_on()?;
        let device = context.open()?;
        let memory = Memory::new(pages)?;
        body(&device, &memory)?;
        memory.intact()
    }
}

/// Makes the kernel swap pages out, and checks that all have gone. A page that something else holds
/// for a moment stays, as does one that another CPU has just put on a list of its own: hence the
/// pause.
fn all_out(memory: &Memory, pages: Range<usize>) -> Result<()> {
    for _ in 0..40 {
        memory.region.advise(pages.clone(), Advice::PageOut)?;
        let survey = Survey::of(memory.region.part(pages.clone()))?;
        if survey.count(|place| *place == Place::Swapped) == pages.len() {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    memory.expect("after MADV_PAGEOUT", pages, Where::Swap)
}

/// Makes the kernel swap all pages out, and reads them with the CPU.
fn out_and_in(memory: &Memory) -> Result<()> {
    all_out(memory, memory.all())?;
    memory.intact()
}

fn neighbours(device: &Device, memory: &Memory) -> Result<()> {
    memory.move_out(device, 16..32)?;
    all_out(memory, 0..16)?;
    all_out(memory, 32..PAGES)?;
    memory.expect("pages between them", 16..32, Where::Device)?;
    let usage = Usage::of(memory.region.range())?;
    equal("Rss", usage.rss, 16 * page_size() as u64)?;
    equal("Swap", usage.swap, (PAGES as u64 - 16) * page_size() as u64)?;
    memory.verify(0..16)?;
    memory.verify(32..PAGES)?;
    memory.expect("after the others came in", 16..32, Where::Device)
}

fn pageout_of_resident_pages(device: &Device, memory: &Memory) -> Result<()> {
    memory.move_out(device, 8..40)?;
    memory.region.advise(memory.all(), Advice::PageOut)?;
    memory.region.advise(memory.all(), Advice::Cold)?;
    memory.expect("after MADV_PAGEOUT", 8..40, Where::Device)
}

fn swapped_out_stay_out(device: &Device, memory: &Memory) -> Result<()> {
    all_out(memory, 16..32)?;
    let answer = memory.try_out(device);
    let counts = fails_counted("MIGRATE_TO_DEV", answer, Errno::ENOENT)?;
    equal("pages moved", counts.pages, PAGES as u64 - 16)?;
    memory.only(16..32, Where::Swap, Where::Device)?;
    memory.move_back(device, 0..16, 16)?;
    let counts = device.migrate_to_system(memory.region.part(16..32))?;
    equal("pages back from swap space", counts.pages, 0)?;
    memory.expect("swapped-out pages", 16..32, Where::Swap)
}

fn swapped_in_move(device: &Device, memory: &Memory) -> Result<()> {
    for round in 2..5 {
        all_out(memory, memory.all())?;
        memory.region.advise(memory.all(), Advice::PopulateWrite)?;
        memory.out(device)?;
        memory.verify(0..PAGES / 2)?;
        memory.refill(round);
    }
    memory.intact()
}

fn in_swap_cache(device: &Device, memory: &Memory) -> Result<()> {
    // The pages were read ahead or by the CPU: they are clean, with a copy in swap space.
    out_and_in(memory)?;
    let mut view = vec![0; memory.region.len()];
    match device.migrate_to_device(memory.region.range(), &mut view) {
        Ok(_) => {
            memory.expect("after moving out", memory.all(), Where::Device)?;
            memory.data().check_bytes(&view, 0)?;
        }
        Err(error) => println!("a page in the swap cache did not move: {error}"),
    }
    memory.refill(2);
    memory.out_and_read(device)?;
    out_and_in(memory)
}

fn device_reads_swapped_out(device: &Device, memory: &Memory) -> Result<()> {
    memory.move_out(device, 0..16)?;
    all_out(memory, 16..PAGES)?;
    let snapshot = device.snapshot(memory.region.range())?;
    let nothing = snapshot.iter().filter(|byte| **byte == prot::NONE).count();
    equal("pages of the snapshot not mapped", nothing, PAGES - 16)?;
    memory.reads(device)?;
    memory.only(0..16, Where::Device, Where::System)
}

fn device_writes_swapped_out(device: &Device, memory: &Memory) -> Result<()> {
    all_out(memory, memory.all())?;
    memory.cpu_sees(device, 2)?;
    out_and_in(memory)
}

fn device_writes_reach_swap(device: &Device, memory: &Memory) -> Result<()> {
    // Reads leave pages clean, with a copy in swap space that the kernel could mistake for their
    // data.
    out_and_in(memory)?;
    memory.device_refills(device, 2)?;
    out_and_in(memory).context("written in system memory")?;

    out_and_in(memory)?;
    memory.out(device)?;
    memory.device_refills(device, 3)?;
    memory.move_back(device, memory.all(), PAGES)?;
    out_and_in(memory).context("written on the device")
}

fn came_back_and_out(device: &Device, memory: &Memory) -> Result<()> {
    for round in 2..4 {
        memory.out(device)?;
        memory.verify(0..PAGES / 2)?;
        memory.move_back(device, PAGES / 2..PAGES, PAGES / 2)?;
        out_and_in(memory)?;
        memory.refill(round);
    }
    memory.intact()
}

fn swapoff(context: &Context) -> Result<()> {
    let swap = swap_on()?;
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, 0..PAGES / 2)?;
    all_out(&memory, PAGES / 2..PAGES)?;
    swap.off()?;
    memory.only(0..PAGES / 2, Where::Device, Where::System)?;
    memory.out_and_read(&device)
}

fn fork_with_both(device: &Device, memory: &Memory) -> Result<()> {
    memory.move_out(device, 0..PAGES / 2)?;
    all_out(memory, PAGES / 2..PAGES)?;
    memory.beside_child(3, || {
        memory.refill(2);
        // A page that the child still shares by a swap entry can be in use for a moment.
        moves_unless_in_use(device, memory, memory.all())
    })
}

/// Moves pages to the device, and checks the view; accepts that some cannot move (ENOENT).
fn moves_unless_in_use(device: &Device, memory: &Memory, pages: Range<usize>) -> Result<()> {
    let mut view = vec![0; pages.len() * page_size()];
    match device.migrate_to_device(memory.region.part(pages.clone()), &mut view) {
        Ok(_) => Ok(memory.data().check_bytes(&view, pages.start)?),
        Err(error) => equal("answer", error.errno, Errno::ENOENT),
    }
}

/// The memory limit of a cgroup in these cases, in bytes.
const LIMIT: usize = 3 << 20;

/// Runs `body` in a child process in a cgroup of [`LIMIT`] bytes.
fn in_tight_cgroup(body: impl FnOnce() -> Result<()>) -> Result<()> {
    let group = Cgroup::new("tight")?;
    group.set("memory.max", &LIMIT.to_string())?;
    let answer = in_child(|| {
        group.enter()?;
        body()
    });
    let kills = group.field("memory.events", "oom_kill")?;
    equal("kills for lack of memory", kills, 0)?;
    answer
}

/// Writes round 2 to `memory` and moves it to the device, a part at a time: with little memory, a
/// larger part would be swapped out before it moves.
fn move_in_parts(device: &Device, memory: &Memory) -> Result<()> {
    memory.expect_round(2);
    for start in (0..memory.region.pages()).step_by(16) {
        let pages = start..start + 16;
        memory.fill(pages.clone());
        moves_unless_in_use(device, memory, pages)?;
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
        move_in_parts(&device, &memory)?;
        // The limit counts pages on the device, but only system pages can be swapped out.
        more.refill(2);
        memory.intact()?;
        more.intact()
    })
}

fn eviction_under_pressure(context: &Context) -> Result<()> {
    let _swap = swap_on()?;
    with_capacity(context, hpage_pmd_size() as u64, || {
        in_tight_cgroup(|| {
            let device = context.open()?;
            let memory = Memory::new(LIMIT / page_size() * 5 / 4)?;
            move_in_parts(&device, &memory)?;
            // To read brings pages back, for which the group must swap out others.
            memory.intact()
        })?;
        Memory::new(hpage_pmd_nr())?.out_and_read(&context.open()?)
    })
}

fn pageout_during_migration(device: &Device, memory: &Memory) -> Result<()> {
    let (region, data) = (&memory.region, memory.data());
    thread::scope(|scope| {
        let page_out = || region.advise(0..PAGES, Advice::PageOut);
        let swapper = scope.spawn(move || (0..60).try_for_each(|_| page_out()));
        let read = move |page: usize| data.check(region, page..page + 1);
        let mut pages = (0..20).map(|round| round * 13 % PAGES);
        let reader = scope.spawn(move || pages.try_for_each(read));
        for _ in 0..20 {
            unless_held(memory.try_out(device))?;
            unless_held(device.migrate_to_system(region.range()))?;
        }
        joined(swapper)?;
        joined(reader)
    })
}
