// SPDX-License-Identifier: GPL-2.0

//! Several processes, several open files, two devices.

use crate::prelude::*;
use crate::steps::{ALL, HALF, PAGES, Verb::*, Who::*, small, steps};

cases! { "devices":
    two_processes = "Two processes use one device at the same time, each with its own data.",
    two_opens = "Two open files of one process see the same pages on the device." => steps(small, [
            (A, Out(HALF)),
            (B, Out(ALL)), // half of it is there
            (A, Out(ALL)), (B, Back(0..10, 10)), (Cpu, Writes), (A, Out(ALL)),
            (B, Back(ALL, PAGES)), (Cpu, Reads(ALL)),
        ]),
    two_devices = "A program has pages on two devices, and each brings back its own.",
    other_device_keeps_page = "A page on one device is not taken by the other: ENOENT, and it stays.",
    from_one_to_the_other = "A page that came back from one device goes to the other."
        => steps(small, [(Cpu, Times(9, vec![
            (A, Out(ALL)), (Cpu, Writes), (Second, Out(ALL)), (Second, Back(HALF, PAGES / 2)),
            (Cpu, Reads(ALL)),
            (Second, Out(ALL)), (Cpu, Writes), (A, Out(ALL)), (A, Back(HALF, PAGES / 2)),
            (Cpu, Reads(ALL)),
        ]))]),
    two_devices_two_processes = "Two processes on two devices move shared pages, and each keeps its data.",
}

fn churn(device: &Device, rounds: u16) -> Result<()> {
    let memory = small()?;
    for round in 1..=rounds {
        memory.refill(round);
        memory.out(device)?;
        memory.move_back(device, HALF, PAGES / 2)?;
        memory.intact().with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

fn two_processes(context: &Context) -> Result<()> {
    let go = Gate::new()?;
    let child = helper(|| {
        go.wait()?;
        churn(&context.open()?, 30)
    })?;
    let device = context.open()?;
    go.open()?;
    churn(&device, 30)?;
    child.join()
}

/// Checks that a device brings back `pages` pages: only its own.
fn brings_back(device: &Device, memory: &Memory, pages: u64) -> Result<()> {
    let counts = device.migrate_to_system(memory.region.range())?;
    equal("pages that one of two brings back", counts.pages, pages)
}

fn two_devices(first: Device, second: Device) -> Result<()> {
    let memory = small()?;
    memory.move_out(&first, 0..15)?;
    memory.move_out(&second, 15..PAGES)?;
    brings_back(&first, &memory, 15)?;
    memory.expect("pages on the second", 15..PAGES, Where::Device)?;
    memory.move_back(&second, memory.all(), PAGES - 15)?;
    memory.intact()
}

fn other_device_keeps_page(first: Device, second: Device) -> Result<()> {
    let memory = Memory::resident(&first, PAGES)?;
    let answer = memory.try_out(&second);
    fails_at_once("MIGRATE_TO_DEV by the second", answer, Errno::ENOENT)?;
    memory.expect("after the second tried", memory.all(), Where::Device)?;
    brings_back(&second, &memory, 0)?;
    memory.move_back(&first, memory.all(), PAGES)?;
    memory.intact()
}

fn two_devices_two_processes(context: &Context) -> Result<()> {
    drop(context.open_second()?);
    let (memory, go) = (small()?, Gate::new()?);
    let churn = |device: &Device, rounds: std::ops::Range<u16>| {
        for round in rounds {
            memory.refill(round);
            memory.out(device)?;
        }
        memory.intact()
    };
    let child = helper(|| {
        let own = context.open_second()?;
        go.wait()?;
        memory.intact()?;
        churn(&own, 20..40)
    })?;
    let device = context.open()?;
    memory.out(&device)?; // for both processes
    go.open()?;
    churn(&device, 2..20)?;
    child.join()
}
