// SPDX-License-Identifier: GPL-2.0

//! Failures on demand: the errno of the header, true counts, each page's data on exactly one side,
//! and a device that works as before afterwards.

use std::sync::Barrier;

use dmirror_client::place::Usage;
use dmirror_client::{CallError, Counts, default_signal};

use super::held::in_pages;
use super::huge;
use crate::inject::{Failure, Often};
use crate::prelude::*;

cases! { "failing":
    device_alloc = "Without device pages small and huge pages stay, or go another way: ENOMEM, true counts, right data."
        => out("device_alloc", Errno::ENOMEM, None),
    copy_in = "A device that cannot take data leaves small and huge pages where they are: EIO."
        => out("copy_in", Errno::EIO, Some(Errno::EIO)),
    lock = "Pages that others hold go in another try, or stay: ENOENT."
        => out("lock", Errno::ENOENT, None),
    system_alloc_back = "Without system pages those that cannot come back stay on the device: ENOMEM, true counts."
        => back("system_alloc", Errno::ENOMEM, false),
    system_alloc_fault = "A CPU's touch waits for system memory as long as there is none, and then reads right data.",
    system_alloc_kill = "A process that waits for system memory in a touch can be killed.",
    system_alloc_release = "RELEASE without system pages leaves pages on the device: ENOMEM, true counts."
        => back("system_alloc", Errno::ENOMEM, true),
    copy_out_back = "Pages that the device cannot give back stay there: EIO, true counts."
        => back("copy_out", Errno::EIO, false),
    copy_out_fault = "A CPU that touches what the device cannot give back gets SIGBUS; nobody else does.",
    copy_out_huge_fault = "A CPU that touches a huge page that the device cannot give back gets SIGBUS; nobody else does."
        => |context: &Context| huge_fault(context, |memory, write| {
            refused_from_outside(memory, 77, write)
        }),
    shared_huge_page = "The same for a huge page that fork has shared. DMIRROR_KNOWN=1 runs it on kernels that warn of it.",
    copy_out_release = "RELEASE of what the device cannot give back leaves it there: EIO, true counts."
        => back("copy_out", Errno::EIO, true),
}

/// The number of small pages in these cases: a multiple of three.
const PAGES: usize = 24;

/// The time limit of an operation.
const BOUND: Duration = Duration::from_secs(10);

const OFTEN: [Often; 3] = [Often::Once, Often::EveryThird, Often::Always];

/// Returns the pages of an answer that is success or `errno`, and `Some(errno)` if it failed.
fn outcome(answer: Result<Counts, CallError>, errno: Errno) -> Result<(u64, Option<Errno>)> {
    match answer {
        Ok(counts) => Ok((counts.pages, None)),
        Err(error) if error.errno == errno => {
            let counts = error.counts.context("the kernel handed back no counts")?;
            Ok((counts.pages, Some(errno)))
        }
        Err(error) => Err(error.into()),
    }
}

/// Returns the number of pages on the device; all others must be in system memory.
fn on_device(memory: &Memory) -> Result<usize> {
    let survey = Survey::of(memory.region.range())?;
    let (there, here) = (survey.on_device(), survey.in_system());
    let all = memory.region.pages();
    equal("pages in system memory", here, all - there)?;
    Ok(there)
}

/// Runs `body` for small and for huge pages and for each frequency, with memory on the device if
/// `there` is true. Checks data and room afterwards.
fn for_each(
    context: &Context,
    there: bool,
    body: impl Fn(&Device, &Memory, bool, Often) -> Result<()>,
) -> Result<()> {
    needs_ours("failures on demand")?;
    let device = context.open()?;
    let before = Before::of(&device)?;
    let run = |huge_pages, often| {
        let memory = in_pages(huge_pages, PAGES)?;
        if there {
            memory.out(&device)?;
        }
        in_time("it", BOUND, || body(&device, &memory, huge_pages, often))?;
        // Read all pages, with the device and then with the CPU.
        memory.both_read(&device)?;
        memory.refill(2);
        memory.out_and_back(&device)?;
        drop(memory);
        before.nothing_is_left(&device)
    };
    for huge_pages in [false, true] {
        for often in OFTEN {
            let result = run(huge_pages, often);
            result.with_context(|| format!("{often:?}, huge pages: {huge_pages}"))?;
        }
    }
    Ok(())
}

/// Returns a case of MIGRATE_TO_DEV while `site` fails. The answer is `errno` if the site always
/// fails, and `once` if it fails once.
fn out(site: &'static str, errno: Errno, once: Option<Errno>) -> impl Fn(&Context) -> Result<()> {
    let body = move |device: &Device, memory: &Memory, often: Often| {
        let failure = Failure::new(site, often)?;
        let (count, failed) = outcome(memory.try_out(device), errno)?;
        let there = on_device(memory)?;
        equal("pages counted", count, there as u64)?;
        match often {
            Often::Always => equal("answer, pages there", (failed, there), (Some(errno), 0)),
            Often::Once => {
                ensure!(failure.is_over()?, "nothing failed");
                equal("answer", failed, once)
            }
            Often::EveryThird => Ok(()),
        }
    };
    move |context| {
        for_each(context, false, |device, memory, _, often| {
            body(device, memory, often)
        })
    }
}

/// Returns a case of MIGRATE_TO_SYS, or RELEASE, while `site` fails.
fn back(site: &'static str, errno: Errno, release: bool) -> impl Fn(&Context) -> Result<()> {
    let body = move |device: &Device, memory: &Memory, huge_pages: bool, often: Often| {
        let (range, pages) = (memory.region.range(), memory.region.pages());
        let failure = Failure::new(site, often)?;
        let answer = match release {
            true => device.release(),
            false => device.migrate_to_system(range),
        };
        let (count, failed) = outcome(answer, errno)?;
        let left = on_device(memory)?;
        equal("pages counted", count, (pages - left) as u64)?;
        equal("whether it failed", failed.is_some(), left > 0)?;
        if often == Often::Once {
            ensure!(failure.is_over()?, "nothing failed");
        }
        let in_small_pages = errno == Errno::ENOMEM;
        let expected = match (often, huge_pages) {
            (Often::Always, _) => pages,
            _ if release => return Ok(()),
            (Often::Once, false) => 1,
            (Often::EveryThird, false) => PAGES / 3,
            (Often::Once, true) if in_small_pages => {
                equal("bytes in huge pages", Usage::of(range)?.huge, 0)?;
                0
            }
            (Often::EveryThird, true) if in_small_pages => return Ok(()),
            // A huge page is one copy, so it is not the third copy.
            (Often::Once, true) => pages,
            (Often::EveryThird, true) => 0,
        };
        equal("pages left on the device", left, expected)
    };
    move |context| for_each(context, true, body)
}

fn system_alloc_fault(context: &Context) -> Result<()> {
    for_each(context, true, |_, memory, _, often| {
        let failure = Failure::new("system_alloc", often)?;
        if often != Often::Always {
            return memory.intact();
        }
        let (region, data) = (&memory.region, memory.data());
        let begun = Barrier::new(2);
        thread::scope(|scope| {
            let toucher = scope.spawn(|| {
                begun.wait();
                data.check(region, 0..region.pages())
            });
            begun.wait();
            thread::sleep(Duration::from_millis(50));
            let (too_early, there) = (toucher.is_finished(), on_device(memory));
            drop(failure);
            joined(toucher)?;
            ensure!(!too_early, "the thread has read what could not come");
            equal("pages on the device", there?, region.pages())
        })
    })
}

fn system_alloc_kill(context: &Context) -> Result<()> {
    for_each(context, true, |_, memory, huge_pages, often| {
        if often != Often::Always {
            return Ok(());
        }
        let failure = Failure::new("system_alloc", often)?;
        let about = Gate::new()?;
        let child = helper(|| {
            if huge_pages {
                // The child has its own huge page: see `shared_huge_page`.
                let memory = huge::huge(1)?;
                memory.out(&context.open()?)?;
                about.open()?;
                return memory.intact();
            }
            about.open()?;
            memory.intact()
        })?;
        about.wait()?;
        thread::sleep(Duration::from_millis(20));
        child.kill()?;
        drop(failure);
        memory.expect("of the parent", memory.all(), Where::Device)
    })
}

/// Touches a page in a child, to read or to write, and returns the exit of the child.
pub(super) fn touched(memory: &Memory, page: usize, write: bool) -> Result<Exit> {
    helper(|| {
        default_signal(Signal::SIGBUS)?;
        let (word, offset) = (page * Region::words_per_page(), usize::from(!write));
        let expected = memory.data().word(page, offset);
        equal("a word", memory.region.load(word + offset), expected)?;
        if write {
            memory.region.store(word, 1);
        }
        Ok(())
    })?
    .exit()
}

/// Touches page 3 in a child, and checks that it gets SIGBUS, because the device does not give the
/// page back.
pub(super) fn refused_once(memory: &Memory) -> Result<()> {
    let _failure = Failure::new("copy_out", Often::Once)?;
    let end = touched(memory, 3, false)?;
    equal("end of the child", end, Exit::Signal(Signal::SIGBUS))
}

fn copy_out_fault(context: &Context) -> Result<()> {
    const KILLED: Exit = Exit::Signal(Signal::SIGBUS);
    needs_ours("failures on demand")?;
    let device = context.open()?;
    let before = Before::of(&device)?;
    for write in [false, true] {
        let memory = Memory::new(PAGES)?;
        let touch = |page| touched(&memory, page, write);
        memory.move_out(&device, 2..PAGES)?;

        let failure = Failure::new("copy_out", Often::Once)?;
        equal("the first touch", touch(5)?, KILLED)?;
        memory.expect("after SIGBUS", 2..PAGES, Where::Device)?;
        equal("the second one", touch(5)?, Exit::Status(0))?;
        drop(failure);

        memory.move_out(&device, 2..PAGES)?;
        let failure = Failure::new("copy_out", Often::EveryThird)?;
        let mut killed = 0;
        for page in 6..15 {
            let place = match touch(page)? {
                KILLED => Where::Device,
                _ => Where::System,
            };
            killed += usize::from(place == Where::Device);
            memory.expect("a page that was touched", page..page + 1, place)?;
        }
        equal("touches of nine that ended in SIGBUS", killed, 3)?;
        drop(failure);

        memory.move_out(&device, 2..PAGES)?;
        let failure = Failure::new("copy_out", Often::Always)?;
        for page in [2, 5, PAGES - 1] {
            equal("a touch", touch(page)?, KILLED)?;
        }
        memory.expect("after SIGBUS", 2..PAGES, Where::Device)?;
        equal("one elsewhere", touch(1)?, Exit::Status(0))?;
        memory.reads(&device)?;
        // The device cannot write pages that fork has shared, unless they come back first.
        let bytes = memory.data().to_bytes(2..PAGES);
        let answer = device.write(memory.region.part(2..PAGES), &bytes);
        fails("WRITE", answer, Errno::EIO)?;
        drop(failure);
        memory.cpu_sees(&device, 2)?;
    }
    before.nothing_is_left(&device)
}

/// Returns whether a touch of a huge page, to read or to write, is refused with EIO. It touches the
/// page as a debugger does, which gets an errno for a signal, and does not share the page with
/// another process.
fn refused_from_outside(memory: &Memory, page: usize, write: bool) -> Result<bool> {
    let file = memory_of("self")?;
    let at = memory.region.addr() + (page * page_size()) as u64;
    let expected = memory.data().word(page, 0);
    let mut word = expected.to_ne_bytes();
    let answer = match write {
        true => file.write_all_at(&word, at),
        false => file.read_exact_at(&mut word, at),
    };
    match answer {
        Ok(()) => equal("a word", u64::from_ne_bytes(word), expected).map(|()| false),
        Err(error) => {
            let errno = error.raw_os_error().context("no errno")?;
            Ok(Errno::from_raw(errno) == Errno::EIO)
        }
    }
}

fn shared_huge_page(context: &Context) -> Result<()> {
    if !looks_for_known() {
        return known("it warns of a shared huge page that cannot come back");
    }
    huge_fault(context, |memory, write| {
        Ok(touched(memory, 77, write)? == Exit::Signal(Signal::SIGBUS))
    })
}

/// Checks faults on a huge page that the device does not give back. `touch` returns whether the
/// fault was refused.
fn huge_fault(context: &Context, touch: impl Fn(&Memory, bool) -> Result<bool>) -> Result<()> {
    for_each(context, true, |device, memory, huge_pages, often| {
        // A huge page is one copy, so no part of it could be the third copy.
        if !huge_pages || often == Often::EveryThird {
            return Ok(());
        }
        let failure = Failure::new("copy_out", often)?;
        for write in [false, true] {
            ensure!(touch(memory, write)?, "a touch went through");
            memory.expect("after the touch", memory.all(), Where::Device)?;
            if often == Often::Once {
                break;
            }
        }
        memory.reads(device)?;
        drop(failure);
        // Each process sees its own data, without the writes of the other one.
        equal("a touch", touched(memory, 77, true)?, Exit::Status(0))
    })
}
