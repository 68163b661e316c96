// SPDX-License-Identifier: GPL-2.0

//! Several processes, several open files, two devices.

use crate::prelude::*;

cases! { "devices":
    two_processes = "Two processes use one device at the same time, each with its own data.",
    two_opens = "Two open files of one process see the same pages on the device.",
    two_devices = "A program has pages on two devices, and each brings back its own.",
    other_device_keeps_page = "A page on one device is not taken by the other: ENOENT, and it stays.",
    from_one_to_the_other = "A page that came back from one device goes to the other.",
    two_devices_two_processes = "Two processes on two devices move shared pages, and each keeps its data.",
}

const PAGES: usize = 40;

fn churn(device: &Device, rounds: u16) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    for round in 1..=rounds {
        memory.refill(round);
        memory.move_out(device, memory.all())?;
        memory.move_back(device, 0..PAGES / 2, PAGES / 2)?;
        memory
            .verify(memory.all())
            .with_context(|| format!("round {round}"))?;
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

fn two_opens(context: &Context) -> Result<()> {
    let (first, second) = (context.open()?, context.open()?);
    let memory = Memory::new(PAGES)?;
    memory.move_out(&first, 0..PAGES / 2)?;
    memory.move_out(&second, memory.all())?; // half of it is there
    memory.move_out(&first, memory.all())?;
    memory.move_back(&second, 0..10, 10)?;
    memory.refill(2);
    memory.move_out(&first, memory.all())?;
    memory.move_back(&second, memory.all(), PAGES)?;
    memory.verify(memory.all())
}

fn two_devices(first: Device, second: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&first, 0..15)?;
    memory.move_out(&second, 15..PAGES)?;
    let range = memory.region.range();
    equal(
        "pages that the first brings back",
        first.migrate_to_system(range)?.pages,
        15,
    )?;
    memory.expect("pages on the second", 15..PAGES, Where::Device)?;
    memory.move_back(&second, memory.all(), PAGES - 15)?;
    memory.verify(memory.all())
}

fn other_device_keeps_page(first: Device, second: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&first, memory.all())?;
    let mut view = vec![0; memory.region.len()];
    let answer = second.migrate_to_device(memory.region.range(), &mut view);
    fails_at_once("MIGRATE_TO_DEV by the second device", answer, Errno::ENOENT)?;
    memory.expect("after the second device tried", memory.all(), Where::Device)?;
    equal(
        "pages that the second brings back",
        second.migrate_to_system(memory.region.range())?.pages,
        0,
    )?;
    memory.move_back(&first, memory.all(), PAGES)?;
    memory.verify(memory.all())
}

fn from_one_to_the_other(first: Device, second: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    for round in 2..20 {
        let (from, to) = if round % 2 == 0 {
            (&first, &second)
        } else {
            (&second, &first)
        };
        memory.move_out(from, memory.all())?;
        memory.refill(round);
        memory.move_out(to, memory.all())?;
        memory.move_back(to, 0..PAGES / 2, PAGES / 2)?;
        memory.verify(memory.all())?;
    }
    Ok(())
}

fn two_devices_two_processes(context: &Context) -> Result<()> {
    let second = context.open_second()?;
    drop(second);
    let memory = Memory::new(PAGES)?;
    let go = Gate::new()?;
    let child = helper(|| {
        let own = context.open_second()?;
        go.wait()?;
        memory.verify(memory.all())?;
        for round in 20..40 {
            memory.refill(round);
            memory.move_out(&own, memory.all())?;
        }
        memory.verify(memory.all())
    })?;
    let device = context.open()?;
    memory.move_out(&device, memory.all())?; // for both processes
    go.open()?;
    for round in 2..20 {
        memory.refill(round);
        memory.move_out(&device, memory.all())?;
    }
    memory.verify(memory.all())?;
    child.join()
}
