// SPDX-License-Identifier: GPL-2.0

//! Operations of the device that are held between two steps, while the program,
//! or someone else, does something to the same pages. A process of its own holds,
//! by a descriptor that it has inherited, so that the program stays free to fork
//! and to exit.
//!
//! Three defects of test_hmm show here each time they are looked for: that what
//! was found is mapped after it has changed (in `out_moved`, `walked` and
//! `exclusive`), that what the device writes while pages come back is lost
//! (`back_collected`, `back_copied`), and that a second open file keeps pages
//! that a CPU took back (`fault_copied`, `fault_moved`).

use std::mem;

use super::held_movers::Mover;
use super::huge;
use super::races::KNOWN_DROP;
use crate::inject::Window;
use crate::prelude::*;
use crate::worker::Work;

cases! { "held":
    out_collected = "Whatever happens to pages that are collected for the device, data and other sides are right.",
    out_copied = "Whatever happens to pages that were copied to the device, data and other sides are right.",
    out_moved = "Whatever happens to pages that have moved to the device and are not mapped, it sees no old data.",
    out_mapped = "Whatever happens to pages that the device has mapped, and the program not yet, data are right.",
    out_huge = "Whatever happens to a huge page that has moved to the device and is not mapped, data are right.",
    back_collected = "Whatever happens to pages that are collected to come back, no write of the device is lost.",
    back_copied = "Whatever happens to pages that were copied back, no write of the device is lost.",
    back_moved = "Whatever happens to pages that came back and are not mapped, data are right.",
    fault_begun = "Whatever happens to a page that a CPU has touched, and that is still there, data are right.",
    fault_begun_huge = "Whatever happens to a huge page that a CPU has touched, and that is still there, data are right.",
    fault_collected = "Whatever happens to a page that a CPU has touched, data are right.",
    fault_copied = "Whatever happens to a page that was copied back for a CPU, every open file sees right data.",
    fault_moved = "Whatever happens to a page that came back for a CPU, every open file sees right data.",
    fault_huge = "Whatever happens to a huge page that was copied back for a CPU, data are right.",
    release_collected = "Whatever happens to pages that RELEASE has collected, data are right.",
    release_copied = "Whatever happens to pages that RELEASE has copied, data are right.",
    release_huge = "Whatever happens to a huge page that RELEASE has copied, data are right.",
    walked = "Whatever happens to pages that a device fault has found, the device maps nothing that is gone.",
    exclusive = "Whatever happens to a page that was made exclusive, the device maps nothing that is gone.",
}

/// How long an operation is held.
const HELD: Duration = Duration::from_millis(30);

/// How long something may take that meets an operation which is held.
const BOUND: Duration = Duration::from_secs(10);

/// Steps after which nothing is to be seen.
const CHANGE_NOTHING: [&str; 2] = ["fault", "walked"];

/// What is done meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    CpuRead,
    CpuWrite,
    Unmap,
    DontNeed,
    Protect,
    Fork,
    Read,
    Write,
    OwnWrite,
    MoveOut,
    MoveBack,
    Release,
    Exit,
}

const DEEDS: [Deed; 13] = [
    Deed::CpuRead,
    Deed::CpuWrite,
    Deed::Unmap,
    Deed::DontNeed,
    Deed::Protect,
    Deed::Fork,
    Deed::Read,
    Deed::Write,
    Deed::OwnWrite,
    Deed::MoveOut,
    Deed::MoveBack,
    Deed::Release,
    Deed::Exit,
];

/// An operation on `memory`, in another process, that has got to where it is held.
fn start(
    device: &Device,
    memory: &Memory,
    step: &str,
    mover: Mover,
    work: Option<&Work>,
    done: &Gate,
) -> Result<Helper> {
    let opener = std::process::id();
    // The other process shall not share the pages.
    memory.region.advise(memory.all(), Advice::DontFork)?;
    let before = Survey::of(memory.region.range())?;
    let begun = Gate::new()?;
    let process = helper(|| {
        begun.open()?;
        let start = Instant::now();
        mover.act(device, memory, opener, work)?;
        ensure!(
            start.elapsed() < BOUND,
            "{mover:?} took {:?}",
            start.elapsed()
        );
        done.open()
    })?;
    memory.region.advise(memory.all(), Advice::DoFork)?;
    begun.wait()?;
    if CHANGE_NOTHING.contains(&step) {
        thread::sleep(HELD / 4);
        return Ok(process);
    }
    let start = Instant::now();
    while Survey::of(memory.region.range())?.places() == before.places() {
        ensure!(
            start.elapsed() < BOUND,
            "{mover:?} has not begun after {BOUND:?}"
        );
    }
    Ok(process)
}

impl Deed {
    /// Does it, and checks what it does at once.
    fn act(self, device: &Device, other: &Device, memory: &mut Memory) -> Result<()> {
        let range = memory.region.range();
        let pages = memory.region.pages();
        match self {
            Self::CpuRead => memory.verify(memory.all()),
            Self::CpuWrite => {
                memory.refill(2);
                memory.verify(memory.all())
            }
            Self::Unmap => {
                drop(memory.region.split_off(pages / 2));
                memory.verify(memory.all())
            }
            Self::DontNeed => {
                memory.region.advise(0..pages, Advice::DontNeed)?;
                ensure!(
                    memory.region.is_zero(0..pages),
                    "dropped pages are not zero"
                );
                Ok(())
            }
            Self::Protect => {
                memory.region.protect(0..pages, Protection::Read)?;
                let bytes = memory.data().round(7).to_bytes(0..pages);
                fails(
                    "WRITE to what is read-only",
                    device.write(range, &bytes),
                    Errno::EPERM,
                )?;
                memory.verify(memory.all())?;
                Ok(memory.region.protect(0..pages, Protection::ReadWrite)?)
            }
            Self::Fork => {
                let written = Gate::new()?;
                let child = memory.writing_child(&written, 3)?;
                memory.expect_round(2);
                memory.device_fills(device, memory.all())?;
                written.open()?;
                memory.verify(memory.all())?;
                child.join()
            }
            Self::Read => memory.device_reads(other, memory.all()).map(drop),
            Self::Write => memory.device_refills(other, 2).map(drop),
            Self::OwnWrite => memory.device_refills(device, 2).map(drop),
            Self::MoveOut => {
                let mut view = vec![0xa5; memory.region.len()];
                unless_held(other.migrate_to_device(range, &mut view))
            }
            Self::MoveBack => unless_held(other.migrate_to_system(range)),
            Self::Release => unless_held(other.release()),
            Self::Exit => Ok(()),
        }
    }
}

/// Checks that everybody sees the same of the memory, and that it is right.
fn all_see(deed: Deed, device: &Device, other: &Device, memory: &Memory) -> Result<()> {
    if deed == Deed::DontNeed {
        for reader in [device, other] {
            reads_zero(reader, memory.region.range()).context("after pages were dropped")?;
        }
        ensure!(
            memory.region.is_zero(memory.all()),
            "dropped pages are not zero"
        );
        memory.refill(4);
    }
    memory.device_reads(device, memory.all()).context("own")?;
    memory.device_reads(other, memory.all()).context("other")?;
    memory.verify(memory.all())
}

fn new_memory(huge_pages: bool) -> Result<Memory> {
    if huge_pages {
        huge::huge(1)
    } else {
        Memory::new(4)
    }
}

/// One deed while one operation is held.
fn meet(context: &Context, step: &str, mover: Mover, deed: Deed, huge_pages: bool) -> Result<()> {
    let (opened, other) = (context.open()?, context.open()?);
    let mut memory = new_memory(huge_pages)?;
    let work = mover.work(context, &memory)?;
    // An engine works for the file that its queue is of.
    let device = work.as_ref().map_or(&opened, |work| &work.worker.device);
    if mover.begins_there() {
        memory.move_out(device, memory.all())?;
    }
    memory.device_reads(&other, memory.all())?;
    if mover.finds_it_mapped() {
        memory.device_reads(device, memory.all())?;
    }
    let done = Gate::new()?;
    let delay = Delay::new(step, HELD.as_micros() as u32)?;
    let process = start(device, &memory, step, mover, work.as_ref(), &done)?;
    if deed == Deed::Exit {
        mem::forget((delay, process, work)); // they outlive this process
        return Ok(());
    }
    let started = Instant::now();
    deed.act(device, &other, &mut memory)?;
    ensure!(started.elapsed() < BOUND, "it took {:?}", started.elapsed());
    process.join().context("what was held")?;
    drop(delay);
    all_see(deed, device, &other, &memory)?;
    // And it goes on as usual.
    memory.refill(5);
    memory.move_out(device, memory.all())?;
    memory.device_refills(&other, 6)?;
    memory.verify(memory.all())
}

/// As [`meet`], in a process that exits while its memory is held.
fn meet_exit(context: &Context, step: &str, mover: Mover, huge_pages: bool) -> Result<()> {
    let off = Delay::new(step, 0)?; // for this process to switch off
    let started = Instant::now();
    helper(|| meet(context, step, mover, Deed::Exit, huge_pages))?.join()?;
    ensure!(started.elapsed() < BOUND, "it took {:?}", started.elapsed());
    drop(off);
    Ok(())
}

pub(super) fn all_deeds(
    context: &Context,
    step: &str,
    mover: Mover,
    huge_pages: bool,
) -> Result<()> {
    needs_ours("delays on demand")?;
    let before = Before::of(&context.open()?)?;
    let coming_back = huge_pages && mover.begins_there() && !looks_for_known();
    // A huge page that is in small ones by the time that it is touched, because munmap was first,
    // would have as many faults, each of them held.
    let _window = huge_pages
        .then(|| Window::of(Window::LARGEST))
        .transpose()?;
    for deed in DEEDS {
        if coming_back && drops_entries(deed) {
            continue;
        }
        let result = match deed {
            Deed::Exit => meet_exit(context, step, mover, huge_pages),
            _ => meet(context, step, mover, deed, huge_pages),
        };
        result
            .and_then(|()| before.nothing_is_left(&context.open()?))
            .with_context(|| format!("{deed:?} while {mover:?} is held"))?;
    }
    equal(
        "the delay afterwards",
        Delay::new(step, 0)?.microseconds()?,
        0,
    )?;
    if coming_back {
        // All else has passed. To look for the defect would crash a kernel that has it.
        return known(KNOWN_DROP);
    }
    Ok(())
}

/// Whether a deed takes away the migration entry of a huge page that is coming back, which the
/// kernel takes for one that holds a reference: see Documentation/known-mm-issues.md. A command and
/// a fault hold the `mmap_lock`, so that most of them wait.
fn drops_entries(deed: Deed) -> bool {
    deed == Deed::DontNeed
}

fn out_collected(context: &Context) -> Result<()> {
    all_deeds(context, "out_collected", Mover::Out, false)
}

fn out_copied(context: &Context) -> Result<()> {
    all_deeds(context, "out_copied", Mover::Out, false)
}

fn out_moved(context: &Context) -> Result<()> {
    all_deeds(context, "out_moved", Mover::Out, false)
}

fn out_mapped(context: &Context) -> Result<()> {
    all_deeds(context, "out_mapped", Mover::Out, false)
}

fn out_huge(context: &Context) -> Result<()> {
    all_deeds(context, "out_moved", Mover::Out, true)
}

fn back_collected(context: &Context) -> Result<()> {
    all_deeds(context, "back_collected", Mover::Back, false)
}

fn back_copied(context: &Context) -> Result<()> {
    all_deeds(context, "back_copied", Mover::Back, false)
}

fn back_moved(context: &Context) -> Result<()> {
    all_deeds(context, "back_moved", Mover::Back, false)
}

fn fault_begun(context: &Context) -> Result<()> {
    all_deeds(context, "fault", Mover::Fault, false)
}

fn fault_begun_huge(context: &Context) -> Result<()> {
    all_deeds(context, "fault", Mover::Fault, true)
}

fn fault_collected(context: &Context) -> Result<()> {
    all_deeds(context, "back_collected", Mover::Fault, false)
}

fn fault_copied(context: &Context) -> Result<()> {
    all_deeds(context, "back_copied", Mover::Fault, false)
}

fn fault_moved(context: &Context) -> Result<()> {
    all_deeds(context, "back_moved", Mover::Fault, false)
}

fn fault_huge(context: &Context) -> Result<()> {
    all_deeds(context, "back_copied", Mover::Fault, true)
}

fn release_collected(context: &Context) -> Result<()> {
    all_deeds(context, "back_collected", Mover::Release, false)
}

fn release_copied(context: &Context) -> Result<()> {
    all_deeds(context, "back_copied", Mover::Release, false)
}

fn release_huge(context: &Context) -> Result<()> {
    all_deeds(context, "back_copied", Mover::Release, true)
}

fn walked(context: &Context) -> Result<()> {
    all_deeds(context, "walked", Mover::Read, false)
}

fn exclusive(context: &Context) -> Result<()> {
    all_deeds(context, "exclusive", Mover::Exclusive, false)
}
