// SPDX-License-Identifier: GPL-2.0

//! What outlives what: processes, open files, and pages on the device.

use std::os::unix::process::CommandExt;

use crate::prelude::*;
use crate::reload::with_capacity;

cases! { "lifetime":
    close_leaves_pages = "Closing the file leaves the pages on the device, and their data readable.",
    close_leaves_other_processes_alone = "Closing a file leaves other processes' pages on the device.",
    open_again = "A file that is opened later brings back pages that an earlier one moved.",
    exit_frees_device_memory = "Device memory of processes that ended is used again: their pages add up to more than there is.",
    device_memory_adds_up = "Each page that goes to the device is one free page less; afterwards all blocks are whole again.",
    exec = "A process that executes another program leaves nothing on the device that would disturb.",
    killed_while_migrating = "Processes killed in the middle of migrating leave a device that works.",
    inherited_descriptor = "A descriptor works on the memory of the process that opened it, whoever uses it.",
    descriptor_outlives_opener = "A descriptor whose opener is gone answers EINVAL.",
}

const PAGES: usize = 48;

fn close_leaves_pages(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    drop(device);
    memory.expect("after close", memory.all(), Where::Device)?;
    memory.verify(0..PAGES / 2)?;
    memory.refill(2);
    memory.verify(memory.all())
}

fn close_leaves_other_processes_alone(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    helper(|| {
        let own = context.open()?;
        let other = Memory::new(PAGES)?;
        other.move_out(&own, other.all())?;
        drop(own);
        other.verify(other.all())
    })?
    .join()?;
    memory.expect(
        "after another process closed its file",
        memory.all(),
        Where::Device,
    )?;
    memory.verify(memory.all())
}

fn open_again(context: &Context) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&context.open()?, memory.all())?;
    memory.move_back(&context.open()?, memory.all(), PAGES)?;
    memory.verify(memory.all())?;
    // A file that saw none of the pages go still hands out the right view.
    memory.move_out(&context.open()?, memory.all())?;
    memory.move_out(&context.open()?, memory.all())?;
    memory.verify(memory.all())
}

fn exit_frees_device_memory(context: &Context) -> Result<()> {
    const CAPACITY: usize = 16 << 20;
    const CHUNK: usize = 6 << 20;
    with_capacity(context, CAPACITY as u64, || {
        for round in 0..8 {
            helper(|| {
                // Untouched pages: cheap, and device memory all the same.
                let device = context.open()?;
                let memory = Memory::untouched(CHUNK / page_size())?;
                memory.view(&device, memory.all()).map(drop)
            })?
            .join()
            .with_context(|| {
                format!("after {} MiB of {}", (round * CHUNK) >> 20, CAPACITY >> 20)
            })?;
        }
        Ok(())
    })
}

fn device_memory_adds_up(device: Device) -> Result<()> {
    let Some(empty) = device.room()? else {
        return skip("this module does not say what is free");
    };
    equal(
        "free pages of an idle device",
        empty.free_pages,
        empty.pages,
    )?;
    equal(
        "free blocks of an idle device",
        empty.free_blocks,
        empty.blocks,
    )?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    let room = device.room()?.unwrap_or(empty);
    equal("free pages", room.free_pages, empty.pages - PAGES as u64)?;
    equal("free blocks", room.free_blocks, empty.blocks - 1)?;
    memory.verify(1..PAGES / 2)?;
    memory.move_back(&device, PAGES / 2..PAGES - 1, PAGES / 2 - 1)?;
    drop(memory);
    equal("room at the end", device.room()?, Some(empty))
}

fn exec(context: &Context) -> Result<()> {
    let child = helper(|| {
        let device = context.open()?;
        let memory = Memory::new(PAGES)?;
        memory.move_out(&device, memory.all())?;
        Err(program().exec().into())
    })?;
    child.join()?;
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
        // Each round hits another place.
        std::thread::sleep(Duration::from_micros(round * round * 97 % 9000));
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
        // Mapped by the parent after the fork: here is nothing at this address.
        let range = PageRange::new(address.receive()?, PAGES as u64)?;
        let mut view = vec![0; range.bytes() as usize];
        let counts = device.migrate_to_device(range, &mut view)?;
        equal("pages moved out", counts.pages, range.pages())?;
        at(
            "the parent's pages",
            &Survey::of_process(parent, range)?,
            Where::Device,
        )?;
        // The view came to the buffer of the caller.
        address.send(u64::from_ne_bytes(view[..8].try_into()?))
    })?;
    let memory = Memory::new(PAGES)?;
    address.send(memory.region.addr())?;
    child.join()?;
    equal(
        "first word of the view",
        address.receive()?,
        memory.data().word(0, 0),
    )?;
    memory.expect("after a child moved them", memory.all(), Where::Device)?;
    memory_of_the_child.expect("pages that nobody moved", 0..4, Where::System)?;
    memory.verify(memory.all())
}

fn descriptor_outlives_opener(context: &Context) -> Result<()> {
    outlived(
        || {
            let device = context.open()?;
            let memory = Memory::new(PAGES)?;
            memory.move_out(&device, memory.all())?;
            Ok((device, memory))
        },
        |(device, memory)| {
            let mut view = vec![0; memory.region.len()];
            let range = memory.region.range();
            let answer = device.migrate_to_device(range, &mut view);
            fails("MIGRATE_TO_DEV", answer, Errno::EINVAL)?;
            let answer = device.migrate_to_system(range);
            fails("MIGRATE_TO_SYS", answer, Errno::EINVAL)?;
            memory.verify(memory.all())
        },
    )
}
