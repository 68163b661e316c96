// SPDX-License-Identifier: GPL-2.0

//! Each allocation that a command or a fault makes fails, one at a time: the first one, then the
//! second one, until a run ends without a failure. The kernel counts them
//! (Documentation/fault-injection of the kernel, `/proc/self/fail-nth`), so these cases need a
//! kernel that was built for it.

use std::fmt::Display;
use std::path::Path;

use dmirror_client::device::Buffer;
use dmirror_client::{CallError, Command, Counts, Pattern};

use super::held::in_pages;
use super::huge;
use crate::prelude::*;

cases! { "nth":
    migrate_to_device = "Whichever allocation fails while small pages go to the device, each is on one side with its data."
        => sweep(Kind::Small, false, false, of_all(Command::MigrateToDevice)),
    migrate_to_device_huge = "The same for a huge page."
        => sweep(Kind::Huge, false, false, of_all(Command::MigrateToDevice)),
    migrate_to_device_untouched = "The same for memory that was never touched.",
    migrate_to_system = "Whichever allocation fails while small pages come back, each is on one side with its data."
        => sweep(Kind::Small, true, false, of_all(Command::MigrateToSystem)),
    migrate_to_system_huge = "The same for a huge page."
        => sweep(Kind::Huge, true, false, of_all(Command::MigrateToSystem)),
    migrate_to_system_part = "The same for a part of a huge page."
        => sweep(Kind::Huge, true, false, |device, memory, _| {
            device.migrate_to_system(memory.region.part(100..108))
        }),
    release = "Whichever allocation fails in RELEASE, each page is on one side with its data."
        => sweep(Kind::Small, true, false, |device, _, _| device.release()),
    read = "Whichever allocation fails in READ, the device and the CPU see right data afterwards."
        => sweep(Kind::Small, false, false, of_all(Command::Read)),
    read_huge = "The same for a huge page on the device."
        => sweep(Kind::Huge, true, false, of_all(Command::Read)),
    write = "Whichever allocation fails in WRITE, each page has the old or the new data."
        => sweep(Kind::Small, false, true, of_all(Command::Write)),
    write_shared = "The same for pages on the device that fork has shared."
        => sweep(Kind::Shared, true, true, of_all(Command::Write)),
    snapshot = "Whichever allocation fails in SNAPSHOT, nothing changes."
        => sweep(Kind::Small, true, false, of_all(Command::Snapshot)),
    exclusive = "Whichever allocation fails in EXCLUSIVE, the data stay right."
        => sweep(Kind::Small, true, false, of_all(Command::Exclusive)),
    exclusive_huge = "The same for a huge page on the device."
        => sweep(Kind::Huge, true, false, |device, memory, view| {
            device.exclusive(memory.region.part(0..4), &mut view[..4 * page_size()])
        }),
    fault = "Whichever allocation fails while a CPU touches a page on the device, it reads the data at last."
        => sweep(Kind::Small, true, false, touch),
    fault_huge = "The same for a huge page." => sweep(Kind::Huge, true, false, touch),
    open = "Whichever allocation fails in open, it says so, and the next one works.",
}

/// The number of small pages in these cases.
const PAGES: usize = 12;

/// An upper bound for the allocations of each of these operations.
pub(super) const MOST: u32 = 5000;

/// The kernel's settings for failures of allocations, changed to hit all of them. Drop restores
/// them.
pub(super) struct Failures {
    _settings: Vec<Setting>,
}

impl Failures {
    pub(super) fn of_all() -> Result<Self> {
        if !Path::new("/proc/thread-self/fail-nth").exists() {
            return skip("the kernel has no /proc/self/fail-nth");
        }
        let settings = [
            ("failslab/ignore-gfp-wait", "N"),
            ("failslab/verbose", "0"),
            ("fail_page_alloc/ignore-gfp-wait", "N"),
            ("fail_page_alloc/ignore-gfp-highmem", "N"),
            ("fail_page_alloc/min-order", "0"),
            ("fail_page_alloc/verbose", "0"),
        ];
        let set = |(file, text)| Setting::new(format!("/sys/kernel/debug/{file}"), text);
        let settings = settings.into_iter().map(set).collect::<Result<_>>();
        settings.map(|_settings| Self { _settings })
    }
}

/// Runs `body` while allocation `nth` of this thread, counted from 1, fails. Returns its result,
/// and whether there was such an allocation.
pub(super) fn with_failure<T>(nth: u32, body: impl FnOnce() -> T) -> Result<(T, bool)> {
    with_failure_of("thread-self", nth, body)
}

/// Like [`with_failure`], for another task, which must be idle when this begins and ends.
pub(super) fn with_failure_of<T>(
    task: impl Display,
    nth: u32,
    body: impl FnOnce() -> T,
) -> Result<(T, bool)> {
    let file = read_write(format!("/proc/{task}/fail-nth"))?;
    let mut left = [0; 16];
    file.write_all_at(nth.to_string().as_bytes(), 0)?;
    let result = body();
    let length = file.read_at(&mut left, 0)?;
    file.write_all_at(b"0", 0)?;
    let left = String::from_utf8_lossy(&left[..length]);
    Ok((result, left.trim() == "0"))
}

/// Calls `body` with the number of one allocation after the other, from 1 on, until it returns
/// false, because there was no such allocation. Returns the number of allocations.
pub(super) fn each_allocation(mut body: impl FnMut(u32) -> Result<bool>) -> Result<u32> {
    for nth in 1..MOST {
        if !body(nth).with_context(|| format!("allocation {nth}"))? {
            println!("{} allocations", nth - 1);
            return Ok(nth - 1);
        }
    }
    bail!("more than {MOST} allocations")
}

/// Checks that a command succeeded, or that it returned ENOMEM because an allocation failed.
fn unless_failed(answer: Result<Counts, CallError>, failed: bool) -> Result<()> {
    let may_be: &[Errno] = if failed { &[Errno::ENOMEM] } else { &[] };
    unless(answer, may_be).with_context(|| format!("failed: {failed}"))
}

/// The memory of a sweep.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Small,
    Huge,
    /// Small pages that a child process shares.
    Shared,
}

/// Returns a case that does `deed` again and again on fresh memory, which is on the device if
/// `there` is true, while one allocation after the other fails. `deed` gets the next round of data,
/// and may write it if `writes` is true.
fn sweep(
    kind: Kind,
    there: bool,
    writes: bool,
    deed: impl Fn(&Device, &Memory, &mut [u8]) -> Result<Counts, CallError>,
) -> impl Fn(&Context) -> Result<()> {
    let once = move |device: &Device, nth: u32| -> Result<bool> {
        let memory = in_pages(kind == Kind::Huge, PAGES)?;
        if there {
            memory.out(device)?;
        }
        let done = Gate::new()?;
        let share = || helper(|| done.wait().and_then(|()| memory.intact()));
        let child = (kind == Kind::Shared).then(share).transpose()?;
        let mut view = memory.data().round(2).to_bytes(memory.all());
        let (answer, failed) = with_failure(nth, || deed(device, &memory, &mut view))?;
        unless_failed(answer, failed)?;
        check(device, &memory, writes).with_context(|| format!("the answer was {answer:?}"))?;
        if let Some(child) = child {
            done.open()?;
            child.join()?;
        }
        Ok(failed)
    };
    move |context| {
        needs_ours("counts of what is free")?;
        let _failures = Failures::of_all()?;
        let device = context.open()?;
        let before = Before::of(&device)?;
        each_allocation(|nth| {
            let failed = once(&device, nth)?;
            before.nothing_is_left(&device).map(|()| failed)
        })
        .map(drop)
    }
}

/// Checks that each page has the old data, or the new data if `writes` is true, and that the device
/// and the CPU see the same.
fn check(device: &Device, memory: &Memory, writes: bool) -> Result<()> {
    let mut view = vec![0xa5; memory.region.len()];
    device.read(memory.region.range(), &mut view)?;
    let (old, new) = (memory.data(), memory.data().round(2));
    for (page, bytes) in view.chunks_exact(page_size()).enumerate() {
        let is = |data: Pattern| data.check_bytes(bytes, page).is_ok();
        let is_new = writes && is(new);
        let is_right = is_new || is(old);
        ensure!(is_right, "page {page} has neither old nor new data");
        let data = if is_new { new } else { old };
        data.check(&memory.region, page..page + 1)?;
    }
    // Everything goes on as usual.
    memory.refill(3);
    memory.out_and_read(device)
}

/// Returns a command for all of the memory, which reads or writes data.
fn of_all(command: Command) -> impl Fn(&Device, &Memory, &mut [u8]) -> Result<Counts, CallError> {
    move |device, memory, data| {
        let buffer = match command {
            Command::Write => Buffer::Input(data),
            Command::Snapshot => Buffer::Bytes(data),
            Command::MigrateToSystem => Buffer::Null,
            _ => Buffer::Output(data),
        };
        let range = memory.region.range();
        device.call(command, range.addr(), range.pages(), buffer)
    }
}

fn touch(_: &Device, memory: &Memory, _: &mut [u8]) -> Result<Counts, CallError> {
    memory.region.touch(1);
    let (pages, faults) = (1, 0);
    Ok(Counts { pages, faults })
}

fn migrate_to_device_untouched(device: Device) -> Result<()> {
    needs_ours("counts of what is free")?;
    let _failures = Failures::of_all()?;
    let before = Before::of(&device)?;
    each_allocation(|nth| {
        let memory = Memory::of(huge::options(1)?.map()?);
        let mut view = vec![0xa5; memory.region.len()];
        let (answer, failed) = with_failure(nth, || {
            device.migrate_to_device(memory.region.range(), &mut view)
        })?;
        unless_failed(answer, failed)?;
        if answer.is_ok() {
            zeros("the view", &view)?;
        }
        memory.is_zero(memory.all())?;
        drop(memory);
        before.nothing_is_left(&device).map(|()| failed)
    })
    .map(drop)
}

fn open(context: &Context) -> Result<()> {
    let _failures = Failures::of_all()?;
    each_allocation(|nth| {
        let (answer, failed) = with_failure(nth, || context.open())?;
        match answer {
            Ok(device) => Memory::new(PAGES)?.out_and_read(&device)?,
            Err(error) => ensure!(failed, "{error:#}"),
        }
        Ok(failed)
    })
    .map(drop)
}
