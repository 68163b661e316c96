// SPDX-License-Identifier: GPL-2.0

//! fork of pages on the device, and of pages that go there later: each process reads its own
//! writes, and never those of the other one.

use crate::prelude::*;

cases! { "fork":
    child_writes_first = "After a fork with resident pages the child writes first; the parent does not see it."
        => resident(PAGES, child_writes_first),
    parent_writes_first = "After a fork with resident pages the parent writes first; the child does not see it."
        => resident(PAGES, parent_writes_first),
    both_only_read = "After a fork with resident pages both only read, and both read the data."
        => resident(PAGES, both_only_read),
    before_migration = "Pages that were shared by fork go to the device for both, and each side's writes stay its own.",
    device_sees_its_own_side = "After a fork and writes on both sides the device's view is that of the opener.",
    child_exit = "A child that ends, or is killed, leaves its parent's resident pages as they are."
        => kept(on_device(PAGES), child_exit),
    parent_exit = "A child keeps the data of resident pages when its parent ends.",
    generations = "Three generations with shared resident pages write and read, each its own."
        => resident(PAGES, |_, memory| {
            descend(memory, 2, 4)?;
            memory.intact()
        }),
    many_children = "Many children share resident pages, and each writes its own data."
        => resident(PAGES, many_children),
    child_opens_the_device = "A child moves its inherited pages by its own open file.",
    both_ways_twice = "Forked before, while and after they are on the device, all processes keep their own data.",
    children_migrate = "Many children move the pages that they share by opens of their own, and write their own data.",
    while_another_migrates = "Forks in a loop while another process moves the pages give each child the data of its moment."
        => kept(in_system(PAGES), while_another_migrates),
    child_of_a_child_on_the_device = "Pages that a child moved and wrote are its own child's, and none of its parent's.",
    device_writes_of_both = "A parent and its child each see only what the device writes for them.",
    child_unmaps = "A child that unmaps the shared resident pages takes nothing from its parent.",
}

const PAGES: usize = 24;

fn child_writes_first(_: &Device, memory: &Memory) -> Result<()> {
    let (written, seen) = (Gate::new()?, Gate::new()?);
    let child = helper(|| {
        memory.refill(2);
        written.open()?;
        seen.wait()?;
        memory.intact()
    })?;
    written.wait()?;
    memory.intact()?;
    memory.refill(3);
    seen.open()?;
    memory.survives(child)
}

fn parent_writes_first(_: &Device, memory: &Memory) -> Result<()> {
    memory.beside_child(3, || {
        memory.refill(2);
        Ok(())
    })
}

fn both_only_read(_: &Device, memory: &Memory) -> Result<()> {
    let child = helper(|| {
        memory.expect("in the child, before reading", memory.all(), Where::Device)?;
        memory.intact()
    })?;
    memory.survives(child)?;
    memory.expect("after reading", memory.all(), Where::System)
}

fn before_migration(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let (moved, written) = (Gate::new()?, Gate::new()?);
    let child = helper(|| {
        moved.wait()?;
        memory.expect("in the child, when moved", memory.all(), Where::Device)?;
        memory.verify(0..4)?;
        memory.refill(2);
        written.open()?;
        memory.intact()
    })?;
    memory.out(&device)?;
    moved.open()?;
    written.wait()?;
    memory.out(&device).context("after the child's writes")?;
    memory.refill(3);
    memory.survives(child)
}

fn device_sees_its_own_side(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = Memory::resident(&device, PAGES)?;
    let (written, done) = (Gate::new()?, Gate::new()?);
    let child = helper(|| {
        memory.refill(2);
        memory.out(&context.open()?)?;
        written.open()?;
        done.wait()?;
        memory.intact()
    })?;
    written.wait()?; // what the child touched came back for both
    memory.out(&device)?;
    memory.refill(3);
    memory.out(&device)?;
    done.open()?;
    memory.survives(child)
}

fn child_exit(_: &Device, memory: &Memory) -> Result<()> {
    in_child(|| Ok(()))?;
    memory.expect("after a child ended", memory.all(), Where::Device)?;

    let touched = Gate::new()?;
    let child = helper(|| {
        memory.region.store(0, 0);
        touched.open()?;
        thread::park();
        Ok(())
    })?;
    touched.wait()?;
    child.kill()?;
    memory.expect("after a child was killed", 1..PAGES, Where::Device)
}

fn parent_exit(context: &Context) -> Result<()> {
    outlived(
        || {
            let device = context.open()?;
            let memory = Memory::resident(&device, PAGES)?;
            Ok((device, memory))
        },
        |(_, memory)| {
            memory.intact()?;
            memory.rewrite(2)
        },
    )
}

/// Forks a child that writes half of its pages, becomes a parent itself, and finds its own data
/// when its child has ended.
fn descend(memory: &Memory, round: u16, last: u16) -> Result<()> {
    let child = helper(|| {
        memory.intact()?;
        let (own, half) = (memory.data().round(round), 0..PAGES / 2);
        own.fill(&memory.region, half.clone());
        if round < last {
            // The next generation would inherit two rounds of data: make it one.
            memory.refill(round);
            descend(memory, round + 1, last)?;
        }
        own.check(&memory.region, half).context("own writes")
    })?;
    memory.intact()?;
    memory.survives(child)
}

fn many_children(_: &Device, memory: &Memory) -> Result<()> {
    let go = Gate::new()?;
    let children = started(&go, (2..10).map(|round| memory.writing_child(&go, round)))?;
    memory.intact()?;
    let each = |child| memory.survives(child);
    children.into_iter().try_for_each(each)
}

fn child_opens_the_device(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    let child = helper(|| {
        let own = context.open()?;
        memory.out(&own)?;
        memory.verify(0..PAGES / 2)?;
        memory.refill(2);
        memory.out_and_read(&own)
    })?;
    memory.survives(child)?;
    memory.out_and_read(&device)
}

fn child_unmaps(context: &Context) -> Result<()> {
    let device = context.open()?;
    let mut memory = Memory::resident(&device, PAGES)?;
    let unmapped = memory.region.part(1..PAGES);
    in_child(|| {
        drop(memory.region.split_off(1));
        let answer = context.open()?.migrate_to_system(unmapped);
        fails("MIGRATE_TO_SYS in the child", answer, Errno::EINVAL)
    })?;
    memory.expect("after the child unmapped them", memory.all(), Where::Device)?;
    memory.intact()
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
            memory.out_and_read(&own)
        })
    };
    let before = child(11)?;
    memory.out(&device)?;
    let resident = child(12)?;
    memory.move_back(&device, 0..PAGES / 3, PAGES / 3)?;
    let children = started(&go, [Ok(before), Ok(resident), child(13)].into_iter())?;
    memory.refill(2);
    let moved = memory.out(&device);
    children.into_iter().try_for_each(Helper::join)?;
    // A child holds the page that it copies at this moment.
    if let Err(error) = moved {
        println!("while the children were at it: {error:#}");
        memory.out(&device)?;
    }
    memory.intact()
}

fn children_migrate(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = Memory::resident(&device, PAGES)?;
    let go = Gate::new()?;
    let child = |round| {
        helper(|| {
            let own = context.open()?;
            go.wait()?;
            for round in [round, round + 10] {
                // Others hold shared pages now and then.
                unless_held(memory.try_out(&own))?;
                memory.verify(0..PAGES / 2)?;
                memory.refill(round);
                unless_held(memory.try_out(&own))?;
                memory.intact()?;
            }
            Ok(())
        })
    };
    let children = started(&go, (2..8).map(child))?;
    children.into_iter().try_for_each(Helper::join)?;
    memory.intact()
}

fn while_another_migrates(device: &Device, memory: &Memory) -> Result<()> {
    // The child moves the pages of this process by the descriptor of this process.
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
            memory.rewrite(round + 100)
        })?;
        memory.verify(0..PAGES / 4)?;
        child.join()?;
    }
    mover.kill()
}

fn child_of_a_child_on_the_device(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = Memory::resident(&device, PAGES)?;
    let child = helper(|| {
        let own = context.open()?;
        memory.refill(2);
        memory.out(&own)?;
        memory.survives(helper(|| {
            memory.intact()?;
            memory.refill(3);
            memory.out_and_read(&context.open()?)
        })?)
    })?;
    memory.survives(child)
}

fn device_writes_of_both(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = Memory::resident(&device, PAGES)?;
    let written = Gate::new()?;
    let child = helper(|| {
        let own = context.open()?;
        written.wait()?;
        memory.verify(0..PAGES / 2)?;
        memory.device_refills(&own, 3)?;
        memory.out(&own)?;
        memory.cpu_sees(&own, 4)
    })?;
    memory.device_refills(&device, 2)?;
    written.open()?;
    memory.survives(child)
}
