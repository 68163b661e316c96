// SPDX-License-Identifier: GPL-2.0

//! Ends of processes and threads with pages on the device: nothing is left there,
//! and nobody hangs. More is in the theme `lifetime`.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::{env, process};

use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use crate::prelude::*;

cases! { "death":
    exit = "A process that ends gives its device memory back.",
    killed_while_a_thread_migrates = "A process killed while its threads migrate and fault ends at once, and leaves nothing on the device.",
    exit_while_a_thread_migrates = "A process whose first thread ends it while others migrate leaves nothing on the device.",
    exec_while_a_thread_migrates = "A process that executes another program while threads migrate leaves nothing on the device.",
    thread_ends = "Pages that a thread moved stay on the device when it ends, and are everyone's.",
    spawned_program = "A program that is spawned while pages are on the device leaves them there.",
    parent_first = "Pages that a child shares stay when its parent ends, and are free when the child ends too.",
    child_first = "Pages that a parent shares stay when its child is killed, and are free when the parent ends too.",
    many_at_once = "Many processes killed at once leave nothing on the device.",
    core_dump = "A core dump of a process has the data of its resident pages.",
    file_closed_by_death = "A process killed inside a command of a descriptor that others hold leaves the descriptor as it is.",
}

const PAGES: usize = 64;
/// Enough for a command to take a while.
const MANY: usize = 1024;

fn exit(context: &Context) -> Result<()> {
    let device = context.open()?;
    let before = Before::of(&device)?;
    for pages in [1, PAGES, MANY] {
        helper(|| {
            let memory = Memory::new(pages)?;
            memory.move_out(&context.open()?, memory.all())
        })?
        .join()?;
        before.nothing_is_left(&device)?;
    }
    Ok(())
}

/// In a child process: moves memory out and back in one thread, and touches it in
/// another, for ever; `body` runs in the first thread meanwhile.
fn busy(context: &Context, body: impl FnOnce() -> Result<()>) -> Result<()> {
    let device = context.open()?;
    let memory = Memory::untouched(MANY)?;
    let region = &memory.region;
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut view = vec![0; region.len()];
            loop {
                // What the other thread holds may stay.
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
        let child = helper(|| {
            busy(context, || {
                started.open()?;
                loop {
                    thread::park();
                }
            })
        })?;
        started.wait()?;
        wait_a_little(round);
        child.signal(Signal::SIGKILL)?;
        child.was_killed()?;
        before.nothing_is_left(&device)?;
    }
    works(&device)
}

fn exit_while_a_thread_migrates(context: &Context) -> Result<()> {
    let device = context.open()?;
    let before = Before::of(&device)?;
    for round in 0..6 {
        helper(|| {
            busy(context, || {
                wait_a_little(round);
                Ok(())
            })
        })?
        .join()?;
        before.nothing_is_left(&device)?;
    }
    works(&device)
}

fn exec_while_a_thread_migrates(context: &Context) -> Result<()> {
    let device = context.open()?;
    let before = Before::of(&device)?;
    for round in 0..3 {
        helper(|| {
            busy(context, || {
                wait_a_little(round);
                Err(program().exec().into())
            })
        })?
        .join()?;
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
            context
                .open()?
                .migrate_to_device(region.range(), &mut view)?;
            data.check_bytes(&view, 0)?;
            anyhow::Ok(())
        });
        joined(mover)
    })?;
    memory.expect("after a thread moved them", memory.all(), Where::Device)?;
    memory.verify(0..PAGES / 2)?;
    memory.move_back(&device, PAGES / 2..PAGES, PAGES / 2)?;
    memory.verify(memory.all())
}

fn spawned_program(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    // Shares the memory of this process until it executes (vfork).
    let status = program().status()?;
    ensure!(status.success(), "the program ended with {status}");
    memory.expect("after another program ran", memory.all(), Where::Device)?;
    memory.verify(memory.all())
}

fn parent_first(context: &Context) -> Result<()> {
    let device = context.open()?;
    let before = Before::of(&device)?;
    let (gone, seen, end) = (Gate::new()?, Gate::new()?, Gate::new()?);
    let parent = || {
        let memory = Memory::new(PAGES)?;
        memory.move_out(&context.open()?, memory.all())?;
        Ok(memory)
    };
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

fn child_first(device: Device) -> Result<()> {
    let before = Before::of(&device)?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
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
    memory.expect("what no one touched", PAGES / 4..PAGES, Where::Device)?;
    drop(memory);
    before.nothing_is_left(&device)
}

fn many_at_once(context: &Context) -> Result<()> {
    let device = context.open()?;
    let before = Before::of(&device)?;
    let started = Gate::new()?;
    let shared = Memory::new(PAGES)?;
    shared.move_out(&device, shared.all())?;
    let children: Vec<Helper> = (0..8)
        .map(|_| {
            helper(|| {
                let device = context.open()?;
                let memory = Memory::new(PAGES)?;
                memory.move_out(&device, memory.all())?;
                shared.refill(2);
                started.open()?;
                let mut view = vec![0; memory.region.len()];
                loop {
                    let _ = device.migrate_to_device(shared.region.range(), &mut view);
                    shared.region.store(0, 0);
                    let _ = device.migrate_to_system(memory.region.range());
                    let _ = device.migrate_to_device(memory.region.range(), &mut view);
                }
            })
        })
        .collect::<Result<_>>()?;
    for _ in &children {
        started.wait()?;
    }
    for child in &children {
        child.signal(Signal::SIGKILL)?;
    }
    for child in children {
        child.was_killed()?;
    }
    shared.verify(shared.all())?;
    drop(shared);
    before.nothing_is_left(&device)?;
    works(&device)
}

/// Where the kernel puts core dumps; as it was, on drop.
struct CorePattern(String);

const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";

impl Drop for CorePattern {
    fn drop(&mut self) {
        let _ = fs::write(CORE_PATTERN, &self.0);
    }
}

fn core_dump(context: &Context) -> Result<()> {
    if !is_root() {
        return skip("needs root");
    }
    let Ok(pattern) = fs::read_to_string(CORE_PATTERN) else {
        return skip("this kernel writes no core dumps");
    };
    let pattern = CorePattern(pattern);
    let file: PathBuf = env::temp_dir().join(format!("dmirror-selftest-{}.core", process::id()));
    fs::write(CORE_PATTERN, file.as_os_str().as_encoded_bytes()).context("core_pattern")?;

    let device = context.open()?;
    let before = Before::of(&device)?;
    let memory = Memory::new(PAGES)?;
    let child = helper(|| {
        setrlimit(Resource::RLIMIT_CORE, RLIM_INFINITY, RLIM_INFINITY)?;
        memory.refill(2);
        memory.move_out(&context.open()?, memory.all())?;
        process::abort()
    })?;
    let exit = child.exit()?;
    drop(pattern);
    let core = fs::read(&file);
    let _ = fs::remove_file(&file);
    equal("end of the child", exit, Exit::Signal(Signal::SIGABRT))?;
    let core = core.context("there is no core dump")?;
    // The content stands in the file as a whole.
    memory.refill(2);
    let expected = memory.data().to_bytes(memory.all());
    let found = core
        .windows(expected.len())
        .step_by(8)
        .any(|bytes| bytes[..8] == expected[..8] && bytes == expected);
    ensure!(
        found,
        "the core dump does not have the data of the resident pages"
    );
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
        memory.move_out(&device, memory.all())?;
        memory.verify(memory.all())?;
        ensure!(
            more.region.is_zero(0..16),
            "memory that was never written is not zero"
        );
    }
    Ok(())
}
