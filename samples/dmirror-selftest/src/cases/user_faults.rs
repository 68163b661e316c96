// SPDX-License-Identifier: GPL-2.0

//! READ and WRITE of memory whose faults another thread of the program answers
//! (userfaultfd).

use dmirror_client::uffd::Mode;
use dmirror_client::{Command, Uffd};

use crate::prelude::*;

cases! { "access":
    unlocked_waits_for_user_space = "READ_UNLOCKED waits, longer than a second, until the program has answered its faults.",
    killed_while_waiting = "A process whose command waits for an answer that never comes can be killed.",
}

const PAGES: usize = 8;

/// Creates untouched memory whose faults are reported, or skips.
fn reported() -> Result<(Memory, Uffd)> {
    let Ok(uffd) = Uffd::new() else {
        return skip("this kernel has no userfaultfd, or not for this user");
    };
    let memory = Memory::untouched(PAGES)?;
    uffd.register(&memory.region, 0..PAGES, Mode::Missing)?;
    Ok((memory, uffd))
}

fn unlocked_waits_for_user_space(device: Device) -> Result<()> {
    let (memory, uffd) = reported()?;
    let (region, data) = (&memory.region, memory.data());
    let mut view = vec![0xa5; region.len()];
    let first = region.addr() / page_size() as u64;
    let counts = thread::scope(|scope| -> Result<_> {
        let answering = scope.spawn(move || -> Result<()> {
            thread::sleep(Duration::from_millis(1500));
            for _ in 0..PAGES {
                let Some(fault) = uffd.wait(Duration::from_secs(20))? else {
                    bail!("the device asked for no page in 20 s");
                };
                let page = (fault.addr / page_size() as u64 - first) as usize;
                ensure!(!fault.write, "reading faulted page {page} for writing");
                uffd.copy(region, page, &data.to_bytes(page..page + 1))?;
            }
            Ok(())
        });
        let counts = device.read_unlocked(region.range(), &mut view);
        joined(answering)?;
        Ok(counts?)
    })?;
    equal("pages read", counts.pages, PAGES as u64)?;
    data.check_bytes(&view, 0)?;
    memory.both_read(&device)
}

fn killed_while_waiting(context: &Context) -> Result<()> {
    [Command::ReadUnlocked, Command::Read, Command::Write]
        .into_iter()
        .try_for_each(|command| killed(context, command))
}

/// Kills a process in a command whose faults nobody answers. Commands other than READ_UNLOCKED may
/// also fail instead of waiting.
fn killed(context: &Context, command: Command) -> Result<()> {
    let started = Gate::new()?;
    let child = helper(|| {
        let device = context.open()?;
        let answer = reported();
        started.send(answer.is_ok().into())?;
        let (memory, _uffd) = answer?;
        match memory.send(&device, command) {
            Ok(_) => bail!("the device did what it cannot have done"),
            Err(error) if error.command == Command::ReadUnlocked => Err(error.into()),
            Err(error) => {
                println!("{error}");
                thread::sleep(Duration::from_secs(20)); // to be killed
                Ok(())
            }
        }
    })?;
    if started.receive()? == 0 {
        return skip("this kernel has no userfaultfd, or not for this user");
    }
    thread::sleep(Duration::from_millis(300));
    child.signal(Signal::SIGKILL)?;
    child.was_killed()?;
    Memory::new(4)?.reads(&context.open()?)
}
