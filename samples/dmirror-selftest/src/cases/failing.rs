// SPDX-License-Identifier: GPL-2.0

//! Failures on demand: the errno that the header names, true counts, each page's
//! data on exactly one side, and a device that works as before afterwards.

use std::sync::Barrier;

use dmirror_client::place::Usage;
use dmirror_client::{CallError, Counts, default_signal};

use super::huge;
use crate::inject::{Failure, Often};
use crate::prelude::*;

cases! { "failing":
    device_alloc = "Without device pages small and huge pages stay, or go another way: ENOMEM, true counts, right data.",
    copy_in = "A device that cannot take data leaves small and huge pages where they are: EIO.",
    lock = "Pages that others hold go in another try, or stay: ENOENT.",
    system_alloc_back = "Without system pages those that cannot come back stay on the device: ENOMEM, true counts.",
    system_alloc_fault = "A CPU's touch waits for system memory as long as there is none, and then reads right data.",
    system_alloc_kill = "A process that waits for system memory in a touch can be killed.",
    system_alloc_release = "RELEASE without system pages leaves pages on the device: ENOMEM, true counts.",
    copy_out_back = "Pages that the device cannot give back stay there: EIO, true counts.",
    copy_out_fault = "A CPU that touches what the device cannot give back gets SIGBUS; nobody else does.",
    copy_out_huge_fault = "A CPU that touches a huge page that the device cannot give back gets SIGBUS; nobody else does.",
    shared_huge_page = "The same for a huge page that fork has shared. DMIRROR_KNOWN=1 runs it on kernels that warn of it.",
    copy_out_release = "RELEASE of what the device cannot give back leaves it there: EIO, true counts.",
}

/// Small pages of these cases: a multiple of three.
const PAGES: usize = 24;

/// How long anything may take.
const BOUND: Duration = Duration::from_secs(10);

const OFTEN: [Often; 3] = [Often::Once, Often::EveryThird, Often::Always];

/// What a command came to.
struct Outcome {
    pages: u64,
    errno: Option<Errno>,
}

impl Outcome {
    /// Of an answer that is success or one of `errnos`.
    fn of(answer: Result<Counts, CallError>, errnos: &[Errno]) -> Result<Self> {
        match answer {
            Ok(counts) => Ok(Self {
                pages: counts.pages,
                errno: None,
            }),
            Err(error) if errnos.contains(&error.errno) => Ok(Self {
                pages: error
                    .counts
                    .context("the kernel handed back no counts")?
                    .pages,
                errno: Some(error.errno),
            }),
            Err(error) => Err(error.into()),
        }
    }
}

/// How many pages are on the device; all others must be in system memory.
fn on_device(memory: &Memory) -> Result<usize> {
    let survey = Survey::of(memory.region.range())?;
    let there = survey.on_device();
    equal(
        "pages in system memory",
        survey.in_system(),
        memory.region.pages() - there,
    )?;
    Ok(there)
}

/// Runs `body` for small and for huge pages and for each frequency, with memory
/// that is on the device if `there` says so; checks data and room afterwards.
fn for_each(
    context: &Context,
    there: bool,
    body: impl Fn(&Device, &Memory, bool, Often) -> Result<()>,
) -> Result<()> {
    needs_ours("failures on demand")?;
    let device = context.open()?;
    let before = Before::of(&device)?;
    for huge_pages in [false, true] {
        for often in OFTEN {
            let memory = if huge_pages {
                huge::huge(1)?
            } else {
                Memory::new(PAGES)?
            };
            if there {
                memory.move_out(&device, memory.all())?;
            }
            let start = Instant::now();
            body(&device, &memory, huge_pages, often)
                .and_then(|()| {
                    ensure!(start.elapsed() < BOUND, "it took {:?}", start.elapsed());
                    // Wherever they are: seen by the device, and then by the CPU.
                    memory.device_reads(&device, memory.all())?;
                    memory.verify(memory.all())?;
                    memory.refill(2);
                    memory.move_out(&device, memory.all())?;
                    memory.move_back(&device, memory.all(), memory.region.pages())?;
                    memory.verify(memory.all())?;
                    drop(memory);
                    before.nothing_is_left(&device)
                })
                .with_context(|| format!("{often:?}, huge pages: {huge_pages}"))?;
        }
    }
    Ok(())
}

/// MIGRATE_TO_DEV while `site` fails.
fn out(context: &Context, site: &str, errno: Errno, once: Option<Errno>) -> Result<()> {
    for_each(context, false, |device, memory, _, often| {
        let failure = Failure::new(site, often)?;
        let mut view = vec![0xa5; memory.region.len()];
        let answer = device.migrate_to_device(memory.region.range(), &mut view);
        let outcome = Outcome::of(answer, &[errno])?;
        let there = on_device(memory)?;
        equal("pages counted", outcome.pages, there as u64)?;
        match often {
            Often::Always => {
                equal("answer", outcome.errno, Some(errno))?;
                equal("pages on the device", there, 0)
            }
            Often::Once => {
                ensure!(failure.is_over()?, "nothing failed");
                equal("answer", outcome.errno, once)
            }
            Often::EveryThird => Ok(()),
        }
    })
}

fn device_alloc(context: &Context) -> Result<()> {
    out(context, "device_alloc", Errno::ENOMEM, None)
}

fn copy_in(context: &Context) -> Result<()> {
    out(context, "copy_in", Errno::EIO, Some(Errno::EIO))
}

fn lock(context: &Context) -> Result<()> {
    out(context, "lock", Errno::ENOENT, None)
}

/// What comes back by `command` while `site` fails. Checks the counts.
fn back(
    memory: &Memory,
    site: &str,
    errno: Errno,
    often: Often,
    command: impl FnOnce() -> Result<Counts, CallError>,
) -> Result<(Outcome, usize)> {
    let failure = Failure::new(site, often)?;
    let outcome = Outcome::of(command(), &[errno])?;
    let left = on_device(memory)?;
    equal(
        "pages counted",
        outcome.pages,
        (memory.region.pages() - left) as u64,
    )?;
    equal("whether it failed", outcome.errno.is_some(), left > 0)?;
    match often {
        Often::Always => equal("pages left on the device", left, memory.region.pages())?,
        Often::Once => ensure!(failure.is_over()?, "nothing failed"),
        Often::EveryThird => {}
    }
    Ok((outcome, left))
}

fn system_alloc_back(context: &Context) -> Result<()> {
    for_each(context, true, |device, memory, huge_pages, often| {
        let range = memory.region.range();
        let (_, left) = back(memory, "system_alloc", Errno::ENOMEM, often, || {
            device.migrate_to_system(range)
        })?;
        match (often, huge_pages) {
            (Often::Once, true) => {
                equal("pages left", left, 0)?;
                equal("bytes in huge pages", Usage::of(range)?.huge, 0)
            }
            (Often::Once, false) => equal("pages left", left, 1),
            (Often::EveryThird, false) => equal("pages left", left, PAGES / 3),
            _ => Ok(()),
        }
    })
}

fn copy_out_back(context: &Context) -> Result<()> {
    for_each(context, true, |device, memory, huge_pages, often| {
        let range = memory.region.range();
        let (_, left) = back(memory, "copy_out", Errno::EIO, often, || {
            device.migrate_to_system(range)
        })?;
        match (often, huge_pages) {
            (Often::Always, _) => Ok(()),
            (Often::Once, true) => equal("pages left", left, memory.region.pages()),
            // A huge page is one copy, and so not the third.
            (Often::EveryThird, true) => equal("pages left", left, 0),
            (Often::Once, false) => equal("pages left", left, 1),
            (Often::EveryThird, false) => equal("pages left", left, PAGES / 3),
        }
    })
}

fn system_alloc_release(context: &Context) -> Result<()> {
    for_each(context, true, |device, memory, _, often| {
        let command = || device.release();
        back(memory, "system_alloc", Errno::ENOMEM, often, command).map(drop)
    })
}

fn copy_out_release(context: &Context) -> Result<()> {
    for_each(context, true, |device, memory, _, often| {
        let command = || device.release();
        back(memory, "copy_out", Errno::EIO, often, command).map(drop)
    })
}

fn system_alloc_fault(context: &Context) -> Result<()> {
    for_each(context, true, |_, memory, _, often| {
        let failure = Failure::new("system_alloc", often)?;
        if often != Often::Always {
            return memory.verify(memory.all());
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
                // Of its own: see `shared_huge_page`.
                let memory = huge::huge(1)?;
                memory.move_out(&context.open()?, memory.all())?;
                about.open()?;
                return memory.verify(memory.all());
            }
            about.open()?;
            memory.verify(memory.all())
        })?;
        about.wait()?;
        thread::sleep(Duration::from_millis(20));
        child.kill()?;
        drop(failure);
        memory.expect("of the parent", memory.all(), Where::Device)
    })
}

/// A child that touches a page, to read or to write, and how it ended.
pub(super) fn touched(memory: &Memory, page: usize, write: bool) -> Result<Exit> {
    helper(|| {
        default_signal(Signal::SIGBUS)?;
        let word = page * dmirror_client::Region::words_per_page();
        let seen = memory.region.load(if write { word } else { word + 1 });
        equal(
            "a word",
            seen,
            memory.data().word(page, usize::from(!write)),
        )?;
        if write {
            memory.region.store(word, 1);
        }
        Ok(())
    })?
    .exit()
}

fn copy_out_fault(context: &Context) -> Result<()> {
    const KILLED: Exit = Exit::Signal(Signal::SIGBUS);
    needs_ours("failures on demand")?;
    let device = context.open()?;
    let before = Before::of(&device)?;
    for write in [false, true] {
        let memory = Memory::new(PAGES)?;
        memory.move_out(&device, 2..PAGES)?;

        let failure = Failure::new("copy_out", Often::Once)?;
        equal("the first touch", touched(&memory, 5, write)?, KILLED)?;
        memory.expect("after SIGBUS", 2..PAGES, Where::Device)?;
        equal(
            "the second one",
            touched(&memory, 5, write)?,
            Exit::Status(0),
        )?;
        drop(failure);

        memory.move_out(&device, 2..PAGES)?;
        let failure = Failure::new("copy_out", Often::EveryThird)?;
        let mut killed = 0;
        for page in 6..15 {
            let exit = touched(&memory, page, write)?;
            killed += usize::from(exit == KILLED);
            let place = if exit == KILLED {
                Where::Device
            } else {
                Where::System
            };
            memory.expect("a page that was touched", page..page + 1, place)?;
        }
        equal("touches of nine that ended in SIGBUS", killed, 3)?;
        drop(failure);

        memory.move_out(&device, 2..PAGES)?;
        let failure = Failure::new("copy_out", Often::Always)?;
        for page in [2, 5, PAGES - 1] {
            equal("a touch", touched(&memory, page, write)?, KILLED)?;
        }
        memory.expect("after SIGBUS", 2..PAGES, Where::Device)?;
        equal(
            "one elsewhere",
            touched(&memory, 1, write)?,
            Exit::Status(0),
        )?;
        memory.device_reads(&device, memory.all())?;
        // It may not write what fork has shared: that would have to come back first.
        let bytes = memory.data().to_bytes(2..PAGES);
        let answer = device.write(memory.region.part(2..PAGES), &bytes);
        fails("WRITE", answer, Errno::EIO)?;
        drop(failure);
        memory.device_refills(&device, 2)?;
        memory.verify(memory.all())?;
    }
    before.nothing_is_left(&device)
}

/// A touch of a huge page, to read or to write, as a debugger does it: it gets an errno for a
/// signal, and it does not share the page with another process.
fn touched_from_outside(memory: &Memory, page: usize, write: bool) -> Result<Option<Errno>> {
    let file = memory_of("self")?;
    let at = memory.region.addr() + (page * page_size()) as u64;
    let mut word = memory.data().word(page, 0).to_ne_bytes();
    let answer = if write {
        file.write_all_at(&word, at)
    } else {
        file.read_exact_at(&mut word, at)
    };
    match answer {
        Ok(()) => {
            let seen = u64::from_ne_bytes(word);
            equal("a word", seen, memory.data().word(page, 0))?;
            Ok(None)
        }
        Err(error) => Ok(Some(Errno::from_raw(
            error.raw_os_error().context("no errno")?,
        ))),
    }
}

fn copy_out_huge_fault(context: &Context) -> Result<()> {
    huge_fault(context, |memory, write| {
        Ok(touched_from_outside(memory, 77, write)? == Some(Errno::EIO))
    })
}

fn shared_huge_page(context: &Context) -> Result<()> {
    if !looks_for_known() {
        return known("it warns of a shared huge page that cannot come back");
    }
    huge_fault(context, |memory, write| {
        Ok(touched(memory, 77, write)? == Exit::Signal(Signal::SIGBUS))
    })
}

/// `touch` tells whether a huge page that the device does not give back was refused.
fn huge_fault(context: &Context, touch: impl Fn(&Memory, bool) -> Result<bool>) -> Result<()> {
    for_each(context, true, |device, memory, huge_pages, often| {
        // A huge page is one copy: of those, every third would be no part of it.
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
        memory.device_reads(device, memory.all())?;
        drop(failure);
        // Each gets what it should have, the other one's writes apart.
        equal("a touch", touched(memory, 77, true)?, Exit::Status(0))
    })
}
