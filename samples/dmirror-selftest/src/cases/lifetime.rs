// SPDX-License-Identifier: GPL-2.0

//! The lifetimes of processes, open files, and pages on the device.

use std::os::unix::process::CommandExt;

use crate::prelude::*;
use crate::reload::with_capacity;
use crate::steps::{ALL, Verb::*, Who::*, steps};

cases! { "lifetime":
    close_leaves_pages = "Closing the file leaves the pages on the device, and their data readable."
        => steps(|| Memory::new(PAGES), [
            (A, Out(ALL)), (A, Closes), (Cpu, Finds(ALL, Where::Device)),
            (Cpu, Reads(0..PAGES / 2)), (Cpu, Writes), (Cpu, Reads(ALL)),
        ]),
    close_leaves_other_processes_alone = "Closing a file leaves other processes' pages on the device.",
    open_again = "A file that is opened later brings back pages that an earlier one moved."
        => steps(|| Memory::new(PAGES), [
            (A, Out(ALL)), (A, Closes), (A, Back(ALL, PAGES)), (A, Closes), (Cpu, Reads(ALL)),
            // A file that did not see the pages move still returns the right view.
            (A, Out(ALL)), (A, Closes), (A, Out(ALL)), (A, Closes), (Cpu, Reads(ALL)),
        ]),
    exit_frees_device_memory = "Device memory of processes that ended is used again: their pages add up to more than there is.",
    device_memory_adds_up = "Each page that goes to the device is one free page less; afterwards all blocks are whole again.",
    exec = "A process that executes another program leaves nothing on the device that would disturb.",
    killed_while_migrating = "Processes killed in the middle of migrating leave a device that works.",
    inherited_descriptor = "A descriptor works on the memory of the process that opened it, whoever uses it.",
    descriptor_outlives_opener = "A descriptor whose opener is gone answers EINVAL.",
}

const PAGES: usize = 48;

fn close_leaves_other_processes_alone(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = Memory::resident(&device, PAGES)?;
    in_child(|| {
        let own = context.open()?;
        let other = Memory::resident(&own, PAGES)?;
        drop(own);
        other.intact()
    })?;
    memory.expect("after another's close", memory.all(), Where::Device)?;
    memory.intact()
}

fn exit_frees_device_memory(context: &Context) -> Result<()> {
    const CAPACITY: usize = 16 << 20;
    const CHUNK: usize = 6 << 20;
    with_capacity(context, CAPACITY as u64, || {
        for round in 0..8 {
            let child = in_child(|| {
                // Untouched pages are cheap, and take device memory all the same.
                let memory = Memory::untouched(CHUNK / page_size())?;
                memory.view(&context.open()?, memory.all()).map(drop)
            });
            let (before, all) = ((round * CHUNK) >> 20, CAPACITY >> 20);
            child.with_context(|| format!("after {before} MiB of {all}"))?;
        }
        Ok(())
    })
}

fn device_memory_adds_up(device: Device) -> Result<()> {
    let Some(empty) = device.room()? else {
        return skip("this module does not say what is free");
    };
    let idle = (empty.free_pages, empty.free_blocks);
    equal("what is free at first", idle, (empty.pages, empty.blocks))?;
    let memory = Memory::resident(&device, PAGES)?;
    let room = device.room()?.unwrap_or(empty);
    equal("free pages", room.free_pages, empty.pages - PAGES as u64)?;
    equal("free blocks", room.free_blocks, empty.blocks - 1)?;
    memory.verify(1..PAGES / 2)?;
    memory.move_back(&device, PAGES / 2..PAGES - 1, PAGES / 2 - 1)?;
    drop(memory);
    equal("room at the end", device.room()?, Some(empty))
}

fn exec(context: &Context) -> Result<()> {
    in_child(|| {
        let device = context.open()?;
        let _memory = Memory::resident(&device, PAGES)?;
        Err(program().exec().into())
    })?;
    works(&context.open()?)
}

fn killed_while_migrating(context: &Context) -> Result<()> {
    for round in 0_u64..20 {
        let started = Gate::new()?;
        let child = helper(|| {
            let device = context.open()?;
            let memory = Memory::new(512)?;
            let mut view = vec![0; memory.region.len()];
            started.open()?;
            loop {
                device.migrate_to_device(memory.region.range(), &mut view)?;
                device.migrate_to_system(memory.region.part(100..400))?;
            }
        })?;
        started.wait()?;
        // Each round kills the child at another point.
        thread::sleep(Duration::from_micros(round * round * 97 % 9000));
        child.signal(Signal::SIGKILL)?;
        child.was_killed()?;
    }
    works(&context.open()?)
}

fn inherited_descriptor(device: Device) -> Result<()> {
    let address = Gate::new()?;
    let memory_of_the_child = Memory::new(4)?;
    let parent = std::process::id() as i32;
    let child = helper(|| {
        // The parent mapped the range after the fork: this process has nothing at this address.
        let range = PageRange::new(address.receive()?, PAGES as u64)?;
        let view = moved_out(&device, range)?;
        let survey = Survey::of_process(parent, range)?;
        at("the parent's pages", &survey, Where::Device)?;
        // The view came to the buffer of this process.
        address.send(u64::from_ne_bytes(view[..8].try_into()?))
    })?;
    let memory = Memory::new(PAGES)?;
    address.send(memory.region.addr())?;
    child.join()?;
    let (seen, first) = (address.receive()?, memory.data().word(0, 0));
    equal("first word of the view", seen, first)?;
    memory.expect("after a child moved them", memory.all(), Where::Device)?;
    memory_of_the_child.expect("pages that nobody moved", 0..4, Where::System)?;
    memory.intact()
}

fn descriptor_outlives_opener(context: &Context) -> Result<()> {
    outlived(
        || {
            let device = context.open()?;
            let memory = Memory::resident(&device, PAGES)?;
            Ok((device, memory))
        },
        |(device, memory)| {
            fails("MIGRATE_TO_DEV", memory.try_out(device), Errno::EINVAL)?;
            let answer = device.migrate_to_system(memory.region.range());
            fails("MIGRATE_TO_SYS", answer, Errno::EINVAL)?;
            memory.intact()
        },
    )
}
