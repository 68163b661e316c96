// SPDX-License-Identifier: GPL-2.0

//! Locked memory, and pages on the device.

use nix::sys::mman::{MlockAllFlags, mlockall, munlockall};

use crate::prelude::*;

cases! { "mlock":
    locked_pages_move = "Locked pages go to the device and come back with their data."
        => kept(in_system(PAGES), locked_pages_move),
    brings_back = "mlock brings resident pages back." => kept(on_device(PAGES), brings_back),
    unlocked_on_the_device = "Pages that are unlocked while they are on the device come back.",
    all_memory = "A process that locks all its memory still moves pages.",
    dropped_on_another_cpu = "Locked pages on the device that another CPU has unmapped, and keeps a note of, are free after RELEASE.",
    counts = "Locked pages that were on the device count as locked no more when they are gone.",
}

const PAGES: usize = 32;

fn locked_pages_move(device: &Device, memory: &Memory) -> Result<()> {
    memory.region.lock(memory.all())?;
    for round in 2..4 {
        memory.out(device)?;
        memory.verify(0..PAGES / 2)?;
        memory.move_back(device, PAGES / 2..PAGES, PAGES / 2)?;
        memory.refill(round);
    }
    Ok(memory.region.unlock(memory.all())?)
}

fn brings_back(_: &Device, memory: &Memory) -> Result<()> {
    memory.region.lock(8..24)?;
    memory.only(8..24, Where::System, Where::Device)
}

fn unlocked_on_the_device(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.region.lock(memory.all())?;
    memory.out(&device)?;
    memory.region.unlock(memory.all())?;
    memory.expect("after munlock", memory.all(), Where::Device)?;
    memory.intact()?;
    memory.refill(2);
    memory.out_and_read(&device)
}

fn all_memory(device: Device) -> Result<()> {
    let before = Memory::resident(&device, PAGES)?;
    match mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE) {
        Err(Errno::ENOMEM | Errno::EPERM) => return skip("this process may not lock its memory"),
        answer => answer?,
    }
    before.expect("after mlockall", before.all(), Where::System)?;
    let after = Memory::new(PAGES)?;
    for memory in [&before, &after] {
        memory.out(&device)?;
    }
    munlockall()?;
    for memory in [&before, &after] {
        memory.expect("after munlockall", memory.all(), Where::Device)?;
        memory.intact()?;
    }
    Ok(())
}

/// Returns the locked memory of the whole system, in KiB.
fn locked_memory() -> Result<u64> {
    number_in("/proc/meminfo", "Mlocked:")
}

fn counts(device: Device) -> Result<()> {
    let start = locked_memory()?;
    for back in [false, true] {
        let memory = Memory::new(512)?;
        memory.region.lock(memory.all())?;
        let locked = locked_memory()?;
        memory.out(&device)?;
        let there = locked_memory()?;
        println!("locked: {start} KiB, then {locked}, on the device {there}");
        if back {
            memory.intact()?;
            memory.region.unlock(memory.all())?;
        }
    }
    let end = locked_memory()?;
    // Other processes may lock a little, and counters lag.
    let close = end.abs_diff(start) <= 1024;
    ensure!(close, "locked before: {start} KiB, afterwards: {end}");
    Ok(())
}

fn dropped_on_another_cpu(context: &Context) -> Result<()> {
    let [own, other] = two_cpus()?;
    let device = context.open()?;
    let before = Before::of(&device)?;
    stay_on(own)?;
    on_cpu(other, || {
        let memory = Memory::new(8)?;
        memory.region.lock(memory.all())?;
        memory.out(&context.open()?)
    })?;
    device.release()?;
    before.nothing_is_left(&device)
}
