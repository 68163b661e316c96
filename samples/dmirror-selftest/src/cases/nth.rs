// SPDX-License-Identifier: GPL-2.0

//! Each allocation that a command or a fault makes fails, one at a time: first
//! the first one, then the second one, until it gets through without a failure.
//! The kernel counts them (Documentation/fault-injection of the kernel,
//! `/proc/self/fail-nth`), so this takes one that was built for it.

use std::fmt::Display;
use std::io::ErrorKind;
use std::path::Path;

use dmirror_client::{CallError, Counts};

use super::huge;
use crate::prelude::*;

cases! { "nth":
    migrate_to_device = "Whichever allocation fails while small pages go to the device, each is on one side with its data.",
    migrate_to_device_huge = "The same for a huge page.",
    migrate_to_device_untouched = "The same for memory that was never touched.",
    migrate_to_system = "Whichever allocation fails while small pages come back, each is on one side with its data.",
    migrate_to_system_huge = "The same for a huge page.",
    migrate_to_system_part = "The same for a part of a huge page.",
    release = "Whichever allocation fails in RELEASE, each page is on one side with its data.",
    read = "Whichever allocation fails in READ, the device and the CPU see right data afterwards.",
    read_huge = "The same for a huge page on the device.",
    write = "Whichever allocation fails in WRITE, each page has the old or the new data.",
    write_shared = "The same for pages on the device that fork has shared.",
    snapshot = "Whichever allocation fails in SNAPSHOT, nothing changes.",
    exclusive = "Whichever allocation fails in EXCLUSIVE, the data stay right.",
    exclusive_huge = "The same for a huge page on the device.",
    fault = "Whichever allocation fails while a CPU touches a page on the device, it reads the data at last.",
    fault_huge = "The same for a huge page.",
    open = "Whichever allocation fails in open, it says so, and the next one works.",
}

/// Small pages of these cases.
const PAGES: usize = 12;

/// More allocations than any of these operations makes.
pub(super) const MOST: u32 = 5000;

/// The kernel's failures of allocations, made to hit all of them; as before on drop.
pub(super) struct Failures(Vec<(String, String)>);

impl Failures {
    pub(super) fn of_all() -> Result<Self> {
        if !Path::new("/proc/thread-self/fail-nth").exists() {
            return skip("the kernel has no /proc/self/fail-nth");
        }
        let mut failures = Self(Vec::new());
        for (file, value) in [
            ("failslab/ignore-gfp-wait", "N"),
            ("failslab/verbose", "0"),
            ("fail_page_alloc/ignore-gfp-wait", "N"),
            ("fail_page_alloc/ignore-gfp-highmem", "N"),
            ("fail_page_alloc/min-order", "0"),
            ("fail_page_alloc/verbose", "0"),
        ] {
            let path = format!("/sys/kernel/debug/{file}");
            let before = match fs::read_to_string(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return skip(format!("there is no {path}"));
                }
                before => before.with_context(|| path.clone())?,
            };
            fs::write(&path, value).with_context(|| path.clone())?;
            failures.0.push((path, before.trim().to_owned()));
        }
        Ok(failures)
    }
}

impl Drop for Failures {
    fn drop(&mut self) {
        for (path, before) in self.0.drain(..) {
            if let Err(error) = fs::write(&path, before) {
                println!("cannot write {path}: {error}");
            }
        }
    }
}

/// Runs `body` while allocation `nth` of this thread, counted from 1, fails. Returns
/// what it returns, and whether there was such an allocation.
pub(super) fn with_failure<T>(nth: u32, body: impl FnOnce() -> T) -> Result<(T, bool)> {
    with_failure_of("thread-self", nth, body)
}

/// The same for the allocations of another task, which does nothing when this begins and ends.
pub(super) fn with_failure_of<T>(
    task: impl Display,
    nth: u32,
    body: impl FnOnce() -> T,
) -> Result<(T, bool)> {
    let file = File::options()
        .read(true)
        .write(true)
        .open(format!("/proc/{task}/fail-nth"))?;
    let text = nth.to_string();
    let mut left = [0; 16];
    file.write_all_at(text.as_bytes(), 0)?;
    let result = body();
    let length = file.read_at(&mut left, 0)?;
    file.write_all_at(b"0", 0)?;
    let left = String::from_utf8_lossy(&left[..length]);
    Ok((result, left.trim() == "0"))
}

/// What memory a sweep is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Small,
    Huge,
    /// Small pages that a child process shares.
    Shared,
}

/// Does `deed` again and again on fresh memory, which is on the device if `there`
/// says so, and lets one allocation after the other fail. `deed` gets the next round
/// of data, and may write it if `writes` says so.
fn sweep(
    context: &Context,
    kind: Kind,
    there: bool,
    writes: bool,
    deed: impl Fn(&Device, &Memory, &mut [u8]) -> Result<Counts, CallError>,
) -> Result<()> {
    needs_ours("counts of what is free")?;
    let _failures = Failures::of_all()?;
    let device = context.open()?;
    let before = Before::of(&device)?;
    for nth in 1..MOST {
        let memory = match kind {
            Kind::Small | Kind::Shared => Memory::new(PAGES)?,
            Kind::Huge => huge::huge(1)?,
        };
        if there {
            memory.move_out(&device, memory.all())?;
        }
        let done = Gate::new()?;
        let child = match kind {
            Kind::Shared => Some(helper(|| {
                done.wait()?;
                memory.verify(memory.all())
            })?),
            _ => None,
        };
        let mut view = memory.data().round(2).to_bytes(memory.all());
        let (answer, failed) = with_failure(nth, || deed(&device, &memory, &mut view))?;
        let of_failure = || format!("allocation {nth} failed, and the answer was {answer:?}");
        match &answer {
            Ok(_) => {}
            Err(error) if failed && error.errno == Errno::ENOMEM => {}
            Err(_) => bail!(
                "{}: {}",
                if failed { "failure" } else { "no failure" },
                of_failure()
            ),
        }
        check(&device, &memory, writes).with_context(of_failure)?;
        if let Some(child) = child {
            done.open()?;
            child.join()?;
        }
        drop(memory);
        before.nothing_is_left(&device).with_context(of_failure)?;
        if !failed {
            println!("{} allocations", nth - 1);
            return Ok(());
        }
    }
    bail!("more than {MOST} allocations")
}

/// Each page is somewhere, with the old data, or with the new if something was written; everybody
/// sees the same.
fn check(device: &Device, memory: &Memory, writes: bool) -> Result<()> {
    let pages = memory.region.pages();
    let mut view = vec![0xa5; memory.region.len()];
    device.read(memory.region.range(), &mut view)?;
    let (old, new) = (memory.data(), memory.data().round(2));
    let page_size = dmirror_client::page_size();
    for page in 0..pages {
        let bytes = &view[page * page_size..(page + 1) * page_size];
        let is = |data: dmirror_client::Pattern| data.check_bytes(bytes, page).is_ok();
        let is_new = writes && is(new);
        ensure!(
            is_new || is(old),
            "page {page} has neither old nor new data"
        );
        let data = if is_new { new } else { old };
        data.check(&memory.region, page..page + 1)?;
    }
    // And it goes on as usual.
    memory.refill(3);
    memory.move_out(device, memory.all())?;
    memory.verify(memory.all())
}

fn migrate_to_device(context: &Context) -> Result<()> {
    sweep(
        context,
        Kind::Small,
        false,
        false,
        |device, memory, view| device.migrate_to_device(memory.region.range(), view),
    )
}

fn migrate_to_device_huge(context: &Context) -> Result<()> {
    sweep(context, Kind::Huge, false, false, |device, memory, view| {
        device.migrate_to_device(memory.region.range(), view)
    })
}

fn migrate_to_device_untouched(context: &Context) -> Result<()> {
    needs_ours("counts of what is free")?;
    let _failures = Failures::of_all()?;
    let device = context.open()?;
    let before = Before::of(&device)?;
    for nth in 1..MOST {
        let memory = Memory::of(huge::options(1).map()?);
        let mut view = vec![0xa5; memory.region.len()];
        let (answer, failed) = with_failure(nth, || {
            device.migrate_to_device(memory.region.range(), &mut view)
        })?;
        match &answer {
            Ok(_) => ensure!(view.iter().all(|byte| *byte == 0), "the view is not zero"),
            Err(error) => ensure!(
                failed && error.errno == Errno::ENOMEM,
                "allocation {nth}: {answer:?}"
            ),
        }
        ensure!(memory.region.is_zero(memory.all()), "not zero");
        drop(memory);
        before.nothing_is_left(&device)?;
        if !failed {
            return Ok(());
        }
    }
    bail!("more than {MOST} allocations")
}

fn migrate_to_system(context: &Context) -> Result<()> {
    sweep(context, Kind::Small, true, false, |device, memory, _| {
        device.migrate_to_system(memory.region.range())
    })
}

fn migrate_to_system_huge(context: &Context) -> Result<()> {
    sweep(context, Kind::Huge, true, false, |device, memory, _| {
        device.migrate_to_system(memory.region.range())
    })
}

fn migrate_to_system_part(context: &Context) -> Result<()> {
    sweep(context, Kind::Huge, true, false, |device, memory, _| {
        device.migrate_to_system(memory.region.part(100..108))
    })
}

fn release(context: &Context) -> Result<()> {
    sweep(context, Kind::Small, true, false, |device, _, _| {
        device.release()
    })
}

fn read(context: &Context) -> Result<()> {
    sweep(
        context,
        Kind::Small,
        false,
        false,
        |device, memory, view| device.read(memory.region.range(), view),
    )
}

fn read_huge(context: &Context) -> Result<()> {
    sweep(context, Kind::Huge, true, false, |device, memory, view| {
        device.read(memory.region.range(), view)
    })
}

fn write(context: &Context) -> Result<()> {
    sweep(context, Kind::Small, false, true, |device, memory, new| {
        device.write(memory.region.range(), new)
    })
}

fn write_shared(context: &Context) -> Result<()> {
    sweep(context, Kind::Shared, true, true, |device, memory, new| {
        device.write(memory.region.range(), new)
    })
}

fn snapshot(context: &Context) -> Result<()> {
    sweep(context, Kind::Small, true, false, |device, memory, _| {
        device.snapshot(memory.region.range()).map(|bytes| Counts {
            pages: bytes.len() as u64,
            faults: 0,
        })
    })
}

fn exclusive(context: &Context) -> Result<()> {
    sweep(context, Kind::Small, true, false, |device, memory, view| {
        device.exclusive(memory.region.range(), view)
    })
}

fn exclusive_huge(context: &Context) -> Result<()> {
    sweep(context, Kind::Huge, true, false, |device, memory, view| {
        let part = memory.region.part(0..4);
        let len = 4 * dmirror_client::page_size();
        device.exclusive(part, &mut view[..len])
    })
}

fn touch(kind: Kind, context: &Context) -> Result<()> {
    sweep(context, kind, true, false, |_, memory, _| {
        memory.region.touch(1);
        Ok(Counts {
            pages: 1,
            faults: 0,
        })
    })
}

fn fault(context: &Context) -> Result<()> {
    touch(Kind::Small, context)
}

fn fault_huge(context: &Context) -> Result<()> {
    touch(Kind::Huge, context)
}

fn open(context: &Context) -> Result<()> {
    let _failures = Failures::of_all()?;
    for nth in 1..MOST {
        let (answer, failed) = with_failure(nth, || context.open())?;
        match answer {
            Ok(device) => {
                let memory = Memory::new(PAGES)?;
                memory.move_out(&device, memory.all())?;
                memory.verify(memory.all())?;
            }
            Err(error) => ensure!(failed, "allocation {nth}: {error:#}"),
        }
        if !failed {
            return Ok(());
        }
    }
    bail!("more than {MOST} allocations")
}
