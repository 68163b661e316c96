// SPDX-License-Identifier: GPL-2.0

//! Ends of processes and threads with pages on the device: nothing is left there,
//! and nobody hangs. More is in the theme `lifetime`.

use std::os::unix::process::CommandExt;
use std::process;

use super::debugger::dumped;

use crate::prelude::*;

cases! { "death":
    exit = "A process that ends gives its device memory back.",
    killed_while_a_thread_migrates = "A process killed while its threads migrate and fault ends at once, and leaves nothing on the device.",
    exit_while_a_thread_migrates = "A process whose first thread ends it while others migrate leaves nothing on the device."
        => |context: &Context| ends_while_busy(context, 6, || Ok(())),
    exec_while_a_thread_migrates = "A process that executes another program while threads migrate leaves nothing on the device."
        => |context: &Context| ends_while_busy(context, 3, || Err(program().exec().into())),
    thread_ends = "Pages that a thread moved stay on the device when it ends, and are everyone's.",
    spawned_program = "A program that is spawned while pages are on the device leaves them there."
        => kept(on_device(PAGES), spawned_program),
    parent_first = "Pages that a child shares stay when its parent ends, and are free when the child ends too.",
    child_first = "Pages that a parent shares stay when its child is killed, and are free when the parent ends too."
        => leaves_nothing(child_first),
    many_at_once = "Many processes killed at once leave nothing on the device.",
    core_dump = "A core dump of a process has the data of its resident pages.",
    file_closed_by_death = "A process killed inside a command of a descriptor that others hold leaves the descriptor as it is.",
}

const PAGES: usize = 64;
/// Enough pages to keep a command busy for a while.
const MANY: usize = 1024;

fn exit(context: &Context) -> Result<()> {
    let device = context.open()?;
    let before = Before::of(&device)?;
    for pages in [1, PAGES, MANY] {
        in_child(|| Memory::resident(&context.open()?, pages).map(drop))?;
        before.nothing_is_left(&device)?;
    }
    Ok(())
}

/// Moves memory out and back in one thread, and touches it in another, until the process ends;
/// `body` runs in the first thread meanwhile. Call it in a child process.
fn busy(context: &Context, body: impl FnOnce() -> Result<()>) -> Result<()> {
    let device = context.open()?;
    let memory = Memory::untouched(MANY)?;
    let region = &memory.region;
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut view = vec![0; region.len()];
            loop {
                // Pages that the other thread holds may stay.
                let _ = device.migrate_to_device(region.range(), &mut view);
                let _ = device.migrate_to_system(region.part(100..MANY));
            }
        });
        scope.spawn(|| {
            for page in (0..MANY).cycle().step_by(37) {
                region.store(page * Region::words_per_page(), page as u64);
            }
        });
        body()?;
        // The other threads do not end.
        process::exit(0)
    })
}

fn wait_a_little(round: u64) {
    thread::sleep(Duration::from_micros(round * round * 1231 % 30_000));
}

fn killed_while_a_thread_migrates(context: &Context) -> Result<()> {
    let device = context.open()?;
    let before = Before::of(&device)?;
    for round in 0..6 {
        let started = Gate::new()?;
        let wait = || {
            started.open()?;
            loop {
                thread::park();
            }
        };
        let child = helper(|| busy(context, wait))?;
        started.wait()?;
        wait_a_little(round);
        child.signal(Signal::SIGKILL)?;
        child.was_killed()?;
        before.nothing_is_left(&device)?;
    }
    works(&device)
}

/// Runs processes, one after the other, that are busy for a short time and then end by `end`.
fn ends_while_busy(context: &Context, rounds: u64, end: fn() -> Result<()>) -> Result<()> {
    let device = context.open()?;
    let before = Before::of(&device)?;
    for round in 0..rounds {
        let end = || {
            wait_a_little(round);
            end()
        };
        in_child(|| busy(context, end))?;
        before.nothing_is_left(&device)?;
    }
    works(&device)
}

fn thread_ends(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    let (region, data) = (&memory.region, memory.data());
    thread::scope(|scope| {
        let mover = scope.spawn(|| {
            let mut view = vec![0; region.len()];
            let device = context.open()?;
            device.migrate_to_device(region.range(), &mut view)?;
            data.check_bytes(&view, 0)?;
            anyhow::Ok(())
        });
        joined(mover)
    })?;
    memory.expect("after a thread moved them", memory.all(), Where::Device)?;
    memory.verify(0..PAGES / 2)?;
    memory.move_back(&device, PAGES / 2..PAGES, PAGES / 2)?;
    memory.intact()
}

fn spawned_program(_: &Device, memory: &Memory) -> Result<()> {
    // The child shares the memory of this process until it executes (vfork).
    let status = program().status()?;
    ensure!(status.success(), "the program ended with {status}");
    memory.expect("after another program ran", memory.all(), Where::Device)
}

fn parent_first(context: &Context) -> Result<()> {
    let device = context.open()?;
    let before = Before::of(&device)?;
    let (gone, seen, end) = (Gate::new()?, Gate::new()?, Gate::new()?);
    let parent = || Memory::resident(&context.open()?, PAGES);
    orphaned(parent, |memory| {
        gone.wait()?;
        memory.expect("after the parent's end", memory.all(), Where::Device)?;
        memory.verify(0..PAGES / 2)?;
        seen.open()?;
        end.wait()
    })?;
    gone.open()?;
    seen.wait()?;
    end.open()?;
    before.nothing_is_left(&device)
}

fn child_first(device: &Device) -> Result<()> {
    let memory = Memory::resident(device, PAGES)?;
    let touched = Gate::new()?;
    let child = helper(|| {
        memory.verify(0..PAGES / 4)?;
        touched.open()?;
        loop {
            thread::park();
        }
    })?;
    touched.wait()?;
    child.kill()?;
    memory.expect("what no one touched", PAGES / 4..PAGES, Where::Device)
}

fn many_at_once(context: &Context) -> Result<()> {
    let device = context.open()?;
    let before = Before::of(&device)?;
    let started = Gate::new()?;
    let shared = Memory::resident(&device, PAGES)?;
    let move_on = || {
        let device = context.open()?;
        let memory = Memory::resident(&device, PAGES)?;
        shared.refill(2);
        started.open()?;
        loop {
            let _ = shared.try_out(&device);
            shared.region.store(0, 0);
            let _ = device.migrate_to_system(memory.region.range());
            let _ = memory.try_out(&device);
        }
    };
    let children = (0..8).map(|_| helper(move_on));
    let children = children.collect::<Result<Vec<Helper>>>()?;
    for _ in &children {
        started.wait()?;
    }
    for child in &children {
        child.signal(Signal::SIGKILL)?;
    }
    for child in children {
        child.was_killed()?;
    }
    shared.intact()?;
    drop(shared);
    before.nothing_is_left(&device)?;
    works(&device)
}

fn core_dump(context: &Context) -> Result<()> {
    let device = context.open()?;
    let before = Before::of(&device)?;
    let signal = Signal::SIGABRT;
    dumped(context, PAGES, "aborted-core", signal, str::to_owned)?;
    before.nothing_is_left(&device)
}

fn file_closed_by_death(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let more = Memory::untouched(MANY)?;
    for round in 0..6 {
        let started = Gate::new()?;
        // The child's commands work on this process's memory.
        let child = helper(|| {
            let mut view = vec![0; more.region.len()];
            started.open()?;
            loop {
                let _ = device.migrate_to_device(more.region.range(), &mut view);
                let _ = device.migrate_to_system(more.region.range());
            }
        })?;
        started.wait()?;
        wait_a_little(round);
        child.kill()?;
        memory.out_and_read(&device)?;
        more.is_zero(0..16)?;
    }
    Ok(())
}
