// SPDX-License-Identifier: GPL-2.0

//! Locked memory, and pages on the device.

use anyhow::anyhow;
use nix::sys::mman::{MlockAllFlags, mlockall, munlockall};

use crate::prelude::*;

cases! { "mlock":
    locked_pages_move = "Locked pages go to the device and come back with their data.",
    brings_back = "mlock brings resident pages back.",
    unlocked_on_the_device = "Pages that are unlocked while they are on the device come back.",
    all_memory = "A process that locks all its memory still moves pages.",
    dropped_on_another_cpu = "Locked pages on the device that another CPU has unmapped, and keeps a note of, are free after RELEASE.",
    counts = "Locked pages that were on the device count as locked no more when they are gone.",
}

const PAGES: usize = 32;

fn locked_pages_move(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.region.lock(memory.all())?;
    for round in 2..4 {
        memory.move_out(&device, memory.all())?;
        memory.verify(0..PAGES / 2)?;
        memory.move_back(&device, PAGES / 2..PAGES, PAGES / 2)?;
        memory.refill(round);
    }
    memory.region.unlock(memory.all())?;
    memory.verify(memory.all())
}

fn brings_back(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    memory.region.lock(8..24)?;
    memory.expect("locked pages", 8..24, Where::System)?;
    memory.expect("the others", 0..8, Where::Device)?;
    memory.verify(memory.all())
}

fn unlocked_on_the_device(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.region.lock(memory.all())?;
    memory.move_out(&device, memory.all())?;
    memory.region.unlock(memory.all())?;
    memory.expect("after munlock", memory.all(), Where::Device)?;
    memory.verify(memory.all())?;
    memory.refill(2);
    memory.move_out(&device, memory.all())?;
    memory.verify(memory.all())
}

fn all_memory(device: Device) -> Result<()> {
    let before = Memory::new(PAGES)?;
    before.move_out(&device, before.all())?;
    match mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE) {
        Err(Errno::ENOMEM | Errno::EPERM) => return skip("this process may not lock its memory"),
        answer => answer?,
    }
    before.expect("after mlockall", before.all(), Where::System)?;
    let after = Memory::new(PAGES)?;
    for memory in [&before, &after] {
        memory.move_out(&device, memory.all())?;
    }
    munlockall()?;
    for memory in [&before, &after] {
        memory.expect("after munlockall", memory.all(), Where::Device)?;
        memory.verify(memory.all())?;
    }
    Ok(())
}

/// Locked memory of the whole system, in KiB.
fn locked_memory() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Mlocked:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number
        .ok_or_else(|| anyhow!("no Mlocked in meminfo"))?
        .parse()?)
}

fn counts(device: Device) -> Result<()> {
    let start = locked_memory()?;
    for back in [false, true] {
        let memory = Memory::new(512)?;
        memory.region.lock(memory.all())?;
        let locked = locked_memory()?;
        memory.move_out(&device, memory.all())?;
        println!(
            "locked: {start} KiB, then {locked}, on the device {}",
            locked_memory()?
        );
        if back {
            memory.verify(memory.all())?;
            memory.region.unlock(memory.all())?;
        }
        drop(memory);
    }
    let end = locked_memory()?;
    // Other processes may lock a little, and counters lag.
    ensure!(
        end.abs_diff(start) <= 1024,
        "{start} KiB were locked before, {end} KiB afterwards"
    );
    Ok(())
}

fn dropped_on_another_cpu(context: &Context) -> Result<()> {
    let [own, other] = two_cpus()?;
    let device = context.open()?;
    let before = Before::of(&device)?;
    stay_on(own)?;
    thread::scope(|scope| {
        joined(scope.spawn(|| {
            stay_on(other)?;
            let memory = Memory::new(8)?;
            memory.region.lock(memory.all())?;
            memory.move_out(&context.open()?, memory.all())
        }))
    })?;
    device.release()?;
    before.nothing_is_left(&device)
}
