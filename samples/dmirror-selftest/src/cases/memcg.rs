// SPDX-License-Identifier: GPL-2.0

//! Memory cgroups: device pages are charged like others.

use std::path::Path;
use std::process;

use crate::cgroup::Cgroup;
use crate::prelude::*;

cases! { "memcg":
    charged = "Pages on the device stay charged to their cgroup, and are charged no more once they are gone."
        => inside("charged", charged),
    holes_are_charged = "Holes that become device pages are charged."
        => inside("holes", holes_are_charged),
    out_and_back_at_the_limit = "A process at its cgroup's limit moves its memory out and back.",
    holes_beyond_the_limit = "Holes that would exceed the limit do not become device pages, or their process is killed.",
    killed_alone = "A process that exceeds its limit is killed alone, and leaves nothing on the device.",
    another_cgroup = "Pages of a process that has gone to another cgroup come back.",
    removed_cgroup = "Pages whose cgroup was removed come back.",
    reclaim = "Proactive reclaim in a cgroup leaves resident pages where they are."
        => inside("reclaim", reclaim),
}

const PAGES: usize = 512;

/// The number of pages that a processor may have charged in advance, or not yet given back.
const SLACK: u64 = 160;

/// Checks that the charge of a cgroup is about `base` bytes plus `pages` pages.
fn about(what: &str, group: &Cgroup, base: u64, pages: usize) -> Result<()> {
    let seen = group.number("memory.current")?;
    let expected = base + (pages * page_size()) as u64;
    let close = seen.abs_diff(expected) <= SLACK * page_size() as u64;
    ensure!(close, "{what}: expected about {expected}, seen {seen}");
    Ok(())
}

/// Returns a case that runs in a child process in a cgroup.
fn inside(
    name: &'static str,
    body: impl Fn(&Cgroup, &Device) -> Result<()>,
) -> impl Fn(&Context) -> Result<()> {
    move |context| {
        let group = Cgroup::new(name)?;
        in_child(|| {
            group.enter()?;
            body(&group, &context.open()?)
        })
    }
}

/// Moves memory to the device, `part` pages at a time, so that the view needs little memory.
fn move_there(device: &Device, memory: &Memory, part: usize) -> Result<()> {
    let mut view = vec![0; part * page_size()];
    for start in (0..memory.region.pages()).step_by(part) {
        device.migrate_to_device(memory.region.part(start..start + part), &mut view)?;
        memory.data().check_bytes(&view, start)?;
    }
    Ok(())
}

/// Brings half of the pages back by CPU, half by command.
fn half_and_half(device: &Device, memory: &Memory) -> Result<()> {
    memory.verify(0..PAGES / 2)?;
    memory.move_back(device, PAGES / 2..PAGES, PAGES / 2)
}

fn charged(group: &Cgroup, device: &Device) -> Result<()> {
    let base = group.number("memory.current")?;
    let memory = Memory::new(PAGES)?;
    about("in system memory", group, base, PAGES)?;
    let mut view = vec![0; memory.region.len()];
    let base = base + view.len() as u64;
    view.fill(1);
    device.migrate_to_device(memory.region.range(), &mut view)?;
    about("on the device", group, base, PAGES)?;
    memory.move_back(device, 0..PAGES / 2, PAGES / 2)?;
    about("half of them back", group, base, PAGES)?;
    memory.intact()?;
    about("all of them back", group, base, PAGES)?;
    device.migrate_to_device(memory.region.range(), &mut view)?;
    drop(memory);
    about("unmapped on the device", group, base, 0)
}

fn holes_are_charged(group: &Cgroup, device: &Device) -> Result<()> {
    let memory = Memory::untouched(PAGES)?;
    let mut view = vec![1; memory.region.len()];
    let base = group.number("memory.current")?;
    device.migrate_to_device(memory.region.range(), &mut view)?;
    about("on the device", group, base, PAGES)?;
    drop(memory);
    about("unmapped", group, base, 0)
}

fn out_and_back_at_the_limit(context: &Context) -> Result<()> {
    let group = Cgroup::new("limit")?;
    in_child(|| {
        group.enter()?;
        let device = context.open()?;
        let memory = Memory::new(PAGES)?;
        memory.out_and_read(&device)?; // allocates what a call needs
        let limit = group.number("memory.current")? + 64 * page_size() as u64;
        group.set("memory.max", &limit.to_string())?;
        for round in 2..4 {
            move_there(&device, &memory, 16)?;
            memory.expect("at the limit", memory.all(), Where::Device)?;
            memory.refill(round);
        }
        memory.intact()
    })?;
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
    let child = helper(|| {
        let memory = Memory::untouched(4 * PAGES)?;
        // The view is charged to the cgroup of the parent, not to the tight one.
        let mut view = vec![1; memory.region.len()];
        group.enter()?;
        let device = context.open()?;
        match device.migrate_to_device(memory.region.range(), &mut view) {
            Ok(_) => bail!("more went to the device than the cgroup may have"),
            answer => unless(answer, &[Errno::ENOENT, Errno::ENOMEM])?,
        }
        let first = memory.is_zero(0..16);
        first.context("a page that went to the device")
    })?;
    let exit = child.exit()?;
    println!("the process ended with {exit:?}");
    let expected = matches!(exit, Exit::Status(0) | Exit::Signal(Signal::SIGKILL));
    ensure!(expected, "expected an error or SIGKILL, seen {exit:?}");
    let peak = group.number("memory.peak")?;
    ensure!(peak <= limit, "{peak} bytes charged of {limit}");
    before.nothing_is_left(&device)
}

fn killed_alone(context: &Context) -> Result<()> {
    let group = Cgroup::new("killed")?;
    let device = context.open()?;
    let before = Before::of(&device)?;
    let bystander = Memory::resident(&device, 16)?;
    let resident = Gate::new()?;
    let child = helper(|| {
        group.enter()?;
        let device = context.open()?;
        let _memory = Memory::resident(&device, PAGES)?;
        resident.open()?;
        loop {
            std::mem::forget(Memory::new(PAGES)?);
        }
    })?;
    resident.wait()?;
    let limit = group.number("memory.current")? + (4 * PAGES * page_size()) as u64;
    // A kernel that does not swap has no such file.
    let _ = group.set("memory.swap.max", "0");
    group.set("memory.max", &limit.to_string())?;
    child.was_killed()?;
    let kills = group.field("memory.events", "oom_kill")?;
    ensure!(kills >= 1, "the cgroup counts no kill");
    bystander.expect("pages of another process", bystander.all(), Where::Device)?;
    bystander.intact()?;
    before.nothing_is_left(&device)
}

fn another_cgroup(context: &Context) -> Result<()> {
    let first = Cgroup::new("first")?;
    let second = Cgroup::new("second")?;
    in_child(|| {
        first.enter()?;
        let device = context.open()?;
        let memory = Memory::new(PAGES)?;
        move_there(&device, &memory, 64)?;
        second.enter()?;
        let charge = first.number("memory.current")?;
        half_and_half(&device, &memory)?;
        about("the first cgroup's charge", &first, charge, 0)?;
        memory.intact()
    })?;
    about("the first cgroup's charge at the end", &first, 0, 0)
}

fn removed_cgroup(context: &Context) -> Result<()> {
    let (moved, removed) = (Gate::new()?, Gate::new()?);
    let group = Cgroup::new("removed")?;
    let child = helper(|| {
        group.enter()?;
        let device = context.open()?;
        let memory = Memory::new(PAGES)?;
        move_there(&device, &memory, 64)?;
        Cgroup::leave()?;
        moved.open()?;
        removed.wait()?;
        half_and_half(&device, &memory)?;
        memory.intact()
    })?;
    moved.wait()?;
    drop(group);
    let folder = format!("/sys/fs/cgroup/dmirror-selftest-{}-removed", process::id());
    ensure!(!Path::new(&folder).exists(), "the cgroup was not removed");
    removed.open()?;
    child.join()
}

fn reclaim(group: &Cgroup, device: &Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    move_there(device, &memory, 64)?;
    // EAGAIN: there was less to reclaim than was asked for.
    let _ = group.set("memory.reclaim", "64M");
    memory.expect("after reclaim", memory.all(), Where::Device)?;
    memory.intact()
}
