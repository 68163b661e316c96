// SPDX-License-Identifier: GPL-2.0

//! fork with pages on the device, and of pages that go there later: each process
//! reads what it wrote, and never what the other one did.

use crate::prelude::*;

cases! { "fork":
    child_writes_first = "After a fork with resident pages the child writes first; the parent does not see it.",
    parent_writes_first = "After a fork with resident pages the parent writes first; the child does not see it.",
    both_only_read = "After a fork with resident pages both only read, and both read the data.",
    before_migration = "Pages that were shared by fork go to the device for both, and each side's writes stay its own.",
    device_sees_its_own_side = "After a fork and writes on both sides the device's view is that of the opener.",
    child_exit = "A child that ends, or is killed, leaves its parent's resident pages as they are.",
    parent_exit = "A child keeps the data of resident pages when its parent ends.",
    generations = "Three generations with shared resident pages write and read, each its own.",
    many_children = "Many children share resident pages, and each writes its own data.",
    child_opens_the_device = "A child moves its inherited pages by its own open file.",
    both_ways_twice = "Forked before, while and after they are on the device, all processes keep their own data.",
    children_migrate = "Many children move the pages that they share by opens of their own, and write their own data.",
    while_another_migrates = "Forks in a loop while another process moves the pages give each child the data of its moment.",
    child_of_a_child_on_the_device = "Pages that a child moved and wrote are its own child's, and none of its parent's.",
    device_writes_of_both = "What the device writes for a parent and for its child stays each one's own.",
    child_unmaps = "A child that unmaps the shared resident pages takes nothing from its parent.",
}

const PAGES: usize = 24;

/// Memory on the device.
fn resident(device: &Device) -> Result<Memory> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(device, memory.all())?;
    Ok(memory)
}

fn child_writes_first(device: Device) -> Result<()> {
    let memory = resident(&device)?;
    let written = Gate::new()?;
    let seen = Gate::new()?;
    let child = helper(|| {
        memory.refill(2);
        written.open()?;
        seen.wait()?;
        memory.verify(memory.all())
    })?;
    written.wait()?;
    memory.verify(memory.all())?;
    memory.refill(3);
    seen.open()?;
    child.join()?;
    memory.verify(memory.all())
}

fn parent_writes_first(device: Device) -> Result<()> {
    let memory = resident(&device)?;
    let written = Gate::new()?;
    let child = memory.writing_child(&written, 3)?;
    memory.refill(2);
    written.open()?;
    child.join()?;
    memory.verify(memory.all())
}

fn both_only_read(device: Device) -> Result<()> {
    let memory = resident(&device)?;
    let child = helper(|| {
        memory.expect("in the child, before reading", memory.all(), Where::Device)?;
        memory.verify(memory.all())
    })?;
    child.join()?;
    memory.verify(memory.all())?;
    memory.expect("after reading", memory.all(), Where::System)
}

fn before_migration(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let moved = Gate::new()?;
    let written = Gate::new()?;
    let child = helper(|| {
        moved.wait()?;
        memory.expect(
            "in the child, after the parent moved them",
            memory.all(),
            Where::Device,
        )?;
        memory.verify(0..4)?;
        memory.refill(2);
        written.open()?;
        memory.verify(memory.all())
    })?;
    memory.move_out(&device, memory.all())?;
    moved.open()?;
    written.wait()?;
    memory
        .move_out(&device, memory.all())
        .context("after the child's writes")?;
    memory.refill(3);
    child.join()?;
    memory.verify(memory.all())
}

fn device_sees_its_own_side(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = resident(&device)?;
    let written = Gate::new()?;
    let done = Gate::new()?;
    let child = helper(|| {
        memory.refill(2);
        let own = context.open()?;
        memory.move_out(&own, memory.all())?;
        written.open()?;
        done.wait()?;
        memory.verify(memory.all())
    })?;
    written.wait()?; // what the child touched came back for both
    memory.move_out(&device, memory.all())?;
    memory.refill(3);
    memory.move_out(&device, memory.all())?;
    done.open()?;
    child.join()?;
    memory.verify(memory.all())
}

fn child_exit(device: Device) -> Result<()> {
    let memory = resident(&device)?;
    helper(|| Ok(()))?.join()?;
    memory.expect("after a child ended", memory.all(), Where::Device)?;

    let touched = Gate::new()?;
    let child = helper(|| {
        memory.region.store(0, 0);
        touched.open()?;
        std::thread::park();
        Ok(())
    })?;
    touched.wait()?;
    child.kill()?;
    memory.expect("after a child was killed", 1..PAGES, Where::Device)?;
    memory.verify(memory.all())
}

fn parent_exit(context: &Context) -> Result<()> {
    outlived(
        || {
            let device = context.open()?;
            let memory = resident(&device)?;
            Ok((device, memory))
        },
        |(_, memory)| {
            memory.verify(memory.all())?;
            memory.refill(2);
            memory.verify(memory.all())
        },
    )
}

fn generations(device: Device) -> Result<()> {
    let memory = resident(&device)?;
    descend(&memory, 2, 4)?;
    memory.verify(memory.all())
}

/// Forks; the child writes half of its pages, becomes a parent itself, and finds
/// its own data when its child has ended.
fn descend(memory: &Memory, round: u16, last: u16) -> Result<()> {
    let child = helper(|| {
        memory.verify(memory.all())?;
        let half = 0..PAGES / 2;
        memory
            .data()
            .round(round)
            .fill(&memory.region, half.clone());
        if round < last {
            // The next generation inherits two rounds of data: make it one.
            memory.refill(round);
            descend(memory, round + 1, last)?;
        }
        memory
            .data()
            .round(round)
            .check(&memory.region, half)
            .context("own writes")?;
        Ok(())
    })?;
    memory.verify(memory.all())?;
    child.join()?;
    memory.verify(memory.all())
}

fn many_children(device: Device) -> Result<()> {
    let memory = resident(&device)?;
    let go = Gate::new()?;
    let children: Vec<Helper> = (2..10)
        .map(|round| memory.writing_child(&go, round))
        .collect::<Result<_>>()?;
    for _ in &children {
        go.open()?;
    }
    memory.verify(memory.all())?;
    for child in children {
        child.join()?;
    }
    memory.verify(memory.all())
}

fn child_opens_the_device(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    let child = helper(|| {
        let own = context.open()?;
        memory.move_out(&own, memory.all())?;
        memory.verify(0..PAGES / 2)?;
        memory.refill(2);
        memory.move_out(&own, memory.all())?;
        memory.verify(memory.all())
    })?;
    child.join()?;
    memory.verify(memory.all())?;
    memory.move_out(&device, memory.all())?;
    memory.verify(memory.all())
}

fn child_unmaps(context: &Context) -> Result<()> {
    let device = context.open()?;
    let mut memory = resident(&device)?;
    let unmapped = memory.region.part(1..PAGES);
    let child = helper(|| {
        drop(memory.region.split_off(1));
        fails(
            "MIGRATE_TO_SYS by an open of the child's own",
            context.open()?.migrate_to_system(unmapped),
            Errno::EINVAL,
        )
    })?;
    child.join()?;
    memory.expect("after the child unmapped them", memory.all(), Where::Device)?;
    memory.verify(memory.all())
}

fn both_ways_twice(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    let go = Gate::new()?;
    let child = |round| {
        let (memory, go) = (&memory, &go);
        helper(move || {
            let own = context.open()?;
            go.wait()?;
            memory.verify(0..PAGES / 2)?;
            memory.refill(round);
            memory.move_out(&own, memory.all())?;
            memory.verify(memory.all())
        })
    };
    let before = child(11)?;
    memory.move_out(&device, memory.all())?;
    let resident = child(12)?;
    memory.move_back(&device, 0..PAGES / 3, PAGES / 3)?;
    let after = child(13)?;
    for _ in 0..3 {
        go.open()?;
    }
    memory.refill(2);
    let moved = memory.move_out(&device, memory.all());
    for child in [before, resident, after] {
        child.join()?;
    }
    // What a child copies at this moment it holds.
    if let Err(error) = moved {
        println!("while the children were at it: {error:#}");
        memory.move_out(&device, memory.all())?;
    }
    memory.verify(memory.all())
}

fn children_migrate(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = resident(&device)?;
    let go = Gate::new()?;
    let children: Vec<Helper> = (2..8)
        .map(|round| {
            helper(|| {
                let own = context.open()?;
                let mut view = vec![0; memory.region.len()];
                go.wait()?;
                for round in [round, round + 10] {
                    // Others hold shared pages now and then.
                    unless_held(own.migrate_to_device(memory.region.range(), &mut view))?;
                    memory.verify(0..PAGES / 2)?;
                    memory.refill(round);
                    unless_held(own.migrate_to_device(memory.region.range(), &mut view))?;
                    memory.verify(memory.all())?;
                }
                Ok(())
            })
        })
        .collect::<Result<_>>()?;
    for _ in &children {
        go.open()?;
    }
    for child in children {
        child.join()?;
    }
    memory.verify(memory.all())
}

fn while_another_migrates(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    // By the descriptor of this process it moves this process's pages.
    let mover = helper(|| {
        let mut view = vec![0; memory.region.len()];
        loop {
            unless_held(device.migrate_to_device(memory.region.range(), &mut view))?;
            unless_held(device.migrate_to_system(memory.region.range()))?;
        }
    })?;
    for round in 2..20 {
        memory.refill(round);
        let child = helper(|| {
            memory.verify(0..PAGES / 2)?;
            memory.refill(round + 100);
            memory.verify(memory.all())
        })?;
        memory.verify(0..PAGES / 4)?;
        child.join()?;
    }
    mover.kill()?;
    memory.verify(memory.all())
}

fn child_of_a_child_on_the_device(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = resident(&device)?;
    helper(|| {
        let own = context.open()?;
        memory.refill(2);
        memory.move_out(&own, memory.all())?;
        helper(|| {
            memory.verify(memory.all())?;
            memory.refill(3);
            memory.move_out(&context.open()?, memory.all())?;
            memory.verify(memory.all())
        })?
        .join()?;
        memory.verify(memory.all())
    })?
    .join()?;
    memory.verify(memory.all())
}

fn device_writes_of_both(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = resident(&device)?;
    let written = Gate::new()?;
    let child = helper(|| {
        let own = context.open()?;
        written.wait()?;
        memory.verify(0..PAGES / 2)?;
        memory.device_refills(&own, 3)?;
        memory.move_out(&own, memory.all())?;
        memory.device_refills(&own, 4)?;
        memory.verify(memory.all())
    })?;
    memory.device_refills(&device, 2)?;
    written.open()?;
    child.join()?;
    memory.verify(memory.all())
}
