// SPDX-License-Identifier: GPL-2.0

//! Memory cgroups: device pages are charged like others.

use std::process;

use crate::cgroup::Cgroup;
use crate::prelude::*;

cases! { "memcg":
    charged = "Pages on the device stay charged to their cgroup, and are charged no more once they are gone.",
    holes_are_charged = "Holes that become device pages are charged.",
    out_and_back_at_the_limit = "A process at its cgroup's limit moves its memory out and back.",
    holes_beyond_the_limit = "Holes that would exceed the limit do not become device pages, or their process is killed.",
    killed_alone = "A process that exceeds its limit is killed alone, and leaves nothing on the device.",
    another_cgroup = "Pages of a process that has gone to another cgroup come back.",
    removed_cgroup = "Pages whose cgroup was removed come back.",
    reclaim = "Proactive reclaim in a cgroup leaves resident pages where they are.",
}

const PAGES: usize = 512;

/// Pages that a processor may have charged in advance, or not yet given back.
const SLACK: u64 = 160;

/// Checks that a cgroup's charge is `pages` above `base`, bytes, or nearly so.
fn about(what: &str, group: &Cgroup, base: u64, pages: usize) -> Result<()> {
    let seen = group.number("memory.current")?;
    let expected = base + (pages * page_size()) as u64;
    ensure!(
        seen.abs_diff(expected) <= SLACK * page_size() as u64,
        "{what}: expected about {expected} bytes charged, seen {seen}"
    );
    Ok(())
}

fn charged(context: &Context) -> Result<()> {
    let group = Cgroup::new("charged")?;
    helper(|| {
        group.enter()?;
        let device = context.open()?;
        let base = group.number("memory.current")?;
        let memory = Memory::new(PAGES)?;
        about("in system memory", &group, base, PAGES)?;
        let mut view = vec![0; memory.region.len()];
        let base = base + view.len() as u64;
        view.fill(1);
        device.migrate_to_device(memory.region.range(), &mut view)?;
        about("on the device", &group, base, PAGES)?;
        memory.move_back(&device, 0..PAGES / 2, PAGES / 2)?;
        about("half of them back", &group, base, PAGES)?;
        memory.verify(memory.all())?;
        about("all of them back", &group, base, PAGES)?;
        device.migrate_to_device(memory.region.range(), &mut view)?;
        drop(memory);
        about("unmapped on the device", &group, base, 0)
    })?
    .join()
}

fn holes_are_charged(context: &Context) -> Result<()> {
    let group = Cgroup::new("holes")?;
    helper(|| {
        group.enter()?;
        let device = context.open()?;
        let memory = Memory::untouched(PAGES)?;
        let mut view = vec![1; memory.region.len()];
        let base = group.number("memory.current")?;
        device.migrate_to_device(memory.region.range(), &mut view)?;
        about("on the device", &group, base, PAGES)?;
        drop(memory);
        about("unmapped", &group, base, 0)
    })?
    .join()
}

fn out_and_back_at_the_limit(context: &Context) -> Result<()> {
    let group = Cgroup::new("limit")?;
    helper(|| {
        group.enter()?;
        let device = context.open()?;
        let memory = Memory::new(PAGES)?;
        memory.move_out(&device, memory.all())?; // allocates what a call needs
        memory.verify(memory.all())?;
        let limit = group.number("memory.current")? + 64 * page_size() as u64;
        group.set("memory.max", &limit.to_string())?;
        for round in 2..4 {
            let mut view = vec![0; 16 * page_size()];
            for start in (0..PAGES).step_by(16) {
                let part = memory.region.part(start..start + 16);
                device.migrate_to_device(part, &mut view)?;
                memory.data().check_bytes(&view, start)?;
            }
            memory.expect("at the limit", memory.all(), Where::Device)?;
            memory.refill(round);
        }
        memory.verify(memory.all())
    })?
    .join()?;
    equal("kills", group.field("memory.events", "oom_kill")?, 0)
}

fn holes_beyond_the_limit(context: &Context) -> Result<()> {
    let group = Cgroup::new("beyond")?;
    let limit = (2 * PAGES * page_size()) as u64;
    group.set("memory.max", &limit.to_string())?;
    if group.set("memory.swap.max", "0").is_err() {
        println!("this kernel does not swap");
    }
    let device = context.open()?;
    let before = Before::of(&device)?;
    let exit = helper(|| {
        let memory = Memory::untouched(4 * PAGES)?;
        // Charged to the cgroup of the parent, not to the tight one.
        let mut view = vec![1; memory.region.len()];
        group.enter()?;
        let device = context.open()?;
        match device.migrate_to_device(memory.region.range(), &mut view) {
            Ok(_) => ensure!(false, "more went to the device than the cgroup may have"),
            Err(error) => ensure!(
                matches!(error.errno, Errno::ENOENT | Errno::ENOMEM),
                "{error}"
            ),
        }
        ensure!(
            memory.region.is_zero(0..16),
            "a page that went to the device is not zero"
        );
        Ok(())
    })?
    .exit()?;
    println!("the process ended with {exit:?}");
    ensure!(
        matches!(exit, Exit::Status(0) | Exit::Signal(Signal::SIGKILL)),
        "expected an error or SIGKILL, seen {exit:?}"
    );
    let peak = group.number("memory.peak")?;
    ensure!(
        peak <= limit,
        "{peak} bytes were charged, the limit is {limit}"
    );
    before.nothing_is_left(&device)
}

fn killed_alone(context: &Context) -> Result<()> {
    let group = Cgroup::new("killed")?;
    let device = context.open()?;
    let before = Before::of(&device)?;
    let bystander = Memory::new(16)?;
    bystander.move_out(&device, bystander.all())?;
    let resident = Gate::new()?;
    let child = helper(|| {
        group.enter()?;
        let device = context.open()?;
        let memory = Memory::new(PAGES)?;
        memory.move_out(&device, memory.all())?;
        resident.open()?;
        loop {
            std::mem::forget(Memory::new(PAGES)?);
        }
    })?;
    resident.wait()?;
    let limit = group.number("memory.current")? + (4 * PAGES * page_size()) as u64;
    // Where the kernel does not swap there is no such file.
    let _ = group.set("memory.swap.max", "0");
    group.set("memory.max", &limit.to_string())?;
    child.was_killed()?;
    ensure!(
        group.field("memory.events", "oom_kill")? >= 1,
        "the cgroup counts no kill"
    );
    bystander.expect("pages of another process", bystander.all(), Where::Device)?;
    bystander.verify(bystander.all())?;
    before.nothing_is_left(&device)
}

fn another_cgroup(context: &Context) -> Result<()> {
    let first = Cgroup::new("first")?;
    let second = Cgroup::new("second")?;
    helper(|| {
        first.enter()?;
        let device = context.open()?;
        let memory = Memory::new(PAGES)?;
        move_there(&device, &memory)?;
        second.enter()?;
        let charge = first.number("memory.current")?;
        memory.verify(0..PAGES / 2)?;
        memory.move_back(&device, PAGES / 2..PAGES, PAGES / 2)?;
        about("the first cgroup's charge", &first, charge, 0)?;
        memory.verify(memory.all())
    })?
    .join()?;
    about("the first cgroup's charge at the end", &first, 0, 0)
}

/// Moves memory to the device without much memory for the view.
fn move_there(device: &Device, memory: &Memory) -> Result<()> {
    let mut view = vec![0; 64 * page_size()];
    for start in (0..memory.region.pages()).step_by(64) {
        device.migrate_to_device(memory.region.part(start..start + 64), &mut view)?;
        memory.data().check_bytes(&view, start)?;
    }
    Ok(())
}

fn removed_cgroup(context: &Context) -> Result<()> {
    let (moved, removed) = (Gate::new()?, Gate::new()?);
    let group = Cgroup::new("removed")?;
    let child = helper(|| {
        group.enter()?;
        let device = context.open()?;
        let memory = Memory::new(PAGES)?;
        move_there(&device, &memory)?;
        Cgroup::leave()?;
        moved.open()?;
        removed.wait()?;
        memory.verify(0..PAGES / 2)?;
        memory.move_back(&device, PAGES / 2..PAGES, PAGES / 2)?;
        memory.verify(memory.all())
    })?;
    moved.wait()?;
    drop(group);
    let names = fs::read_dir("/sys/fs/cgroup")?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .any(|name| name == format!("dmirror-selftest-{}-removed", process::id()));
    ensure!(!names, "the cgroup was not removed");
    removed.open()?;
    child.join()
}

fn reclaim(context: &Context) -> Result<()> {
    let group = Cgroup::new("reclaim")?;
    helper(|| {
        group.enter()?;
        let device = context.open()?;
        let memory = Memory::new(PAGES)?;
        move_there(&device, &memory)?;
        // EAGAIN: there was less to reclaim than was asked for.
        let _ = group.set("memory.reclaim", "64M");
        memory.expect("after reclaim", memory.all(), Where::Device)?;
        memory.verify(memory.all())
    })?
    .join()
}
