// SPDX-License-Identifier: GPL-2.0

//! Operations of the device that are held between two steps, while the program, or someone else,
//! uses the same pages. A separate process performs the operation, by a descriptor that it has
//! inherited, so that the program stays free to fork and to exit.
//!
//! Three defects of test_hmm show here in every run: it maps pages that have changed since it found
//! them (in `out_moved`, `walked` and `exclusive`), it loses writes of the device while pages come
//! back (`back_collected`, `back_copied`), and a second open file keeps pages that a CPU took back
//! (`fault_copied`, `fault_moved`).

use std::mem;

use self::Deed::*;
use super::held_movers::Mover;
use super::huge::huge as huge_page;
use super::races::KNOWN_DROP;
use crate::inject::Window;
use crate::prelude::*;
use crate::worker::Work;

cases! { "held":
    out_collected = "Data and other sides are right, whatever happens to pages that are collected for the device."
        => small("out_collected", Mover::Out),
    out_copied = "Data and other sides are right, whatever happens to pages that were copied to the device."
        => small("out_copied", Mover::Out),
    out_moved = "The device sees no old data, whatever happens to pages that have moved to the device and are not mapped."
        => small("out_moved", Mover::Out),
    out_mapped = "Data are right, whatever happens to pages that the device has mapped, and the program not yet."
        => small("out_mapped", Mover::Out),
    out_huge = "Data are right, whatever happens to a huge page that has moved to the device and is not mapped."
        => huge("out_moved", Mover::Out),
    back_collected = "No write of the device is lost, whatever happens to pages that are collected to come back."
        => small("back_collected", Mover::Back),
    back_copied = "No write of the device is lost, whatever happens to pages that were copied back."
        => small("back_copied", Mover::Back),
    back_moved = "Data are right, whatever happens to pages that came back and are not mapped."
        => small("back_moved", Mover::Back),
    fault_begun = "Data are right, whatever happens to a page that a CPU has touched, and that is still there."
        => small("fault", Mover::Fault),
    fault_begun_huge = "Data are right, whatever happens to a huge page that a CPU has touched, and that is still there."
        => huge("fault", Mover::Fault),
    fault_collected = "Data are right, whatever happens to a page that a CPU has touched."
        => small("back_collected", Mover::Fault),
    fault_copied = "Every open file sees right data, whatever happens to a page that was copied back for a CPU."
        => small("back_copied", Mover::Fault),
    fault_moved = "Every open file sees right data, whatever happens to a page that came back for a CPU."
        => small("back_moved", Mover::Fault),
    fault_huge = "Data are right, whatever happens to a huge page that was copied back for a CPU."
        => huge("back_copied", Mover::Fault),
    release_collected = "Data are right, whatever happens to pages that RELEASE has collected."
        => small("back_collected", Mover::Release),
    release_copied = "Data are right, whatever happens to pages that RELEASE has copied."
        => small("back_copied", Mover::Release),
    release_huge = "Data are right, whatever happens to a huge page that RELEASE has copied."
        => huge("back_copied", Mover::Release),
    walked = "The device maps nothing that is gone, whatever happens to pages that a device fault has found."
        => small("walked", Mover::Read),
    exclusive = "The device maps nothing that is gone, whatever happens to a page that was made exclusive."
        => small("exclusive", Mover::Exclusive),
}

/// The time for which an operation is held.
const HELD: Duration = Duration::from_millis(30);

/// The time limit of everything that meets a held operation.
const BOUND: Duration = Duration::from_secs(10);

/// The steps after which the kernel shows no change of the pages.
const CHANGE_NOTHING: [&str; 2] = ["fault", "walked"];

/// An action while the operation is held.
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
    Quit,
}

const DEEDS: [Deed; 13] = [
    CpuRead, CpuWrite, Unmap, DontNeed, Protect, Fork, Read, Write, OwnWrite, MoveOut, MoveBack,
    Release, Quit,
];

/// Starts an operation on `memory` in another process, and waits until it is held.
fn start(
    device: &Device,
    memory: &Memory,
    step: &str,
    mover: Mover,
    work: Option<&Work>,
    done: &Gate,
) -> Result<Helper> {
    let (opener, what) = (std::process::id(), format!("{mover:?}"));
    // The other process must not share the pages.
    memory.region.advise(memory.all(), Advice::DontFork)?;
    let before = Survey::of(memory.region.range())?;
    let begun = Gate::new()?;
    let process = helper(|| {
        begun.open()?;
        in_time(&what, BOUND, || mover.act(device, memory, opener, work))?;
        done.open()
    })?;
    memory.region.advise(memory.all(), Advice::DoFork)?;
    begun.wait()?;
    if CHANGE_NOTHING.contains(&step) {
        thread::sleep(HELD / 4);
    } else {
        has_begun(&what, memory, &before, BOUND)?;
    }
    Ok(process)
}

/// Waits until the kernel shows that pages are no longer at their place: they are collected. The
/// query itself may have to wait until they have moved, which is fine.
pub(super) fn has_begun(
    what: &str,
    memory: &Memory,
    before: &Survey,
    bound: Duration,
) -> Result<()> {
    let start = Instant::now();
    while Survey::of(memory.region.range())?.places() == before.places() {
        let took = start.elapsed();
        ensure!(took < bound, "{what} has not begun after {took:?}");
    }
    Ok(())
}

impl Deed {
    /// Performs the deed, and checks its direct effect.
    fn act(self, device: &Device, other: &Device, memory: &mut Memory) -> Result<()> {
        let range = memory.region.range();
        let pages = memory.region.pages();
        match self {
            CpuRead => memory.intact(),
            CpuWrite => memory.rewrite(2),
            Unmap => {
                drop(memory.region.split_off(pages / 2));
                memory.intact()
            }
            DontNeed => {
                memory.region.advise(0..pages, Advice::DontNeed)?;
                memory.is_zero(0..pages)
            }
            Protect => {
                memory.region.protect(0..pages, Protection::Read)?;
                let bytes = memory.data().round(7).to_bytes(0..pages);
                let answer = device.write(range, &bytes);
                fails("WRITE to what is read-only", answer, Errno::EPERM)?;
                memory.intact()?;
                Ok(memory.region.protect(0..pages, Protection::ReadWrite)?)
            }
            Fork => {
                let written = Gate::new()?;
                let child = memory.writing_child(&written, 3)?;
                memory.device_refills(device, 2)?;
                written.open()?;
                memory.intact()?;
                child.join()
            }
            Read => memory.reads(other),
            Write => memory.device_refills(other, 2).map(drop),
            OwnWrite => memory.device_refills(device, 2).map(drop),
            MoveOut => unless_held(memory.try_out(other)),
            MoveBack => unless_held(other.migrate_to_system(range)),
            Release => unless_held(other.release()),
            Quit => Ok(()),
        }
    }
}

/// Checks that the CPU and both open files see the same data, and that it is right.
fn all_see(deed: Deed, device: &Device, other: &Device, memory: &Memory) -> Result<()> {
    if deed == DontNeed {
        for reader in [device, other] {
            reads_zero(reader, memory.region.range()).context("after pages were dropped")?;
        }
        memory.is_zero(memory.all())?;
        memory.refill(4);
    }
    memory.reads(device).context("own")?;
    memory.reads(other).context("other")?;
    memory.intact()
}

/// Creates memory in `small` small pages, or in a huge one.
pub(super) fn in_pages(huge_pages: bool, small: usize) -> Result<Memory> {
    match huge_pages {
        true => huge_page(1),
        false => Memory::new(small),
    }
}

/// Performs one deed while one operation is held.
fn meet(context: &Context, step: &str, mover: Mover, deed: Deed, huge_pages: bool) -> Result<()> {
    let (opened, other) = (context.open()?, context.open()?);
    let mut memory = in_pages(huge_pages, 4)?;
    let work = mover.work(context, &memory)?;
    // An engine works for the open file of its queue.
    let device = work.as_ref().map_or(&opened, |work| &work.worker.device);
    if mover.begins_there() {
        memory.out(device)?;
    }
    memory.reads(&other)?;
    if mover.finds_it_mapped() {
        memory.reads(device)?;
    }
    let done = Gate::new()?;
    let delay = Delay::new(step, HELD.as_micros() as u32)?;
    let process = start(device, &memory, step, mover, work.as_ref(), &done)?;
    if deed == Quit {
        mem::forget((delay, process, work)); // they outlive this process
        return Ok(());
    }
    in_time("it", BOUND, || deed.act(device, &other, &mut memory))?;
    process.join().context("what was held")?;
    drop(delay);
    all_see(deed, device, &other, &memory)?;
    // Everything goes on as usual.
    memory.refill(5);
    memory.out(device)?;
    memory.cpu_sees(&other, 6)
}

/// Like [`meet`], in a process that exits while its memory is held.
fn meet_exit(context: &Context, step: &str, mover: Mover, huge_pages: bool) -> Result<()> {
    let _off = Delay::new(step, 0)?; // for this process to switch off
    let exit = || in_child(|| meet(context, step, mover, Quit, huge_pages));
    in_time("it", BOUND, exit)
}

/// Returns a case of all deeds while an operation on small pages is held after a step.
pub(super) fn small(step: &'static str, mover: Mover) -> impl Fn(&Context) -> Result<()> {
    move |context| all_deeds(context, step, mover, false)
}

/// Returns a case of all deeds while an operation on a huge page is held after a step.
pub(super) fn huge(step: &'static str, mover: Mover) -> impl Fn(&Context) -> Result<()> {
    move |context| all_deeds(context, step, mover, true)
}

fn all_deeds(context: &Context, step: &str, mover: Mover, huge_pages: bool) -> Result<()> {
    needs_ours("delays on demand")?;
    let before = Before::of(&context.open()?)?;
    let coming_back = huge_pages && mover.begins_there() && !looks_for_known();
    // If munmap comes first, the huge page is in small ones when it is touched. Then it would have
    // one fault for each small page, each of them held.
    let largest = || Window::of(Window::largest());
    let _window = huge_pages.then(largest).transpose()?;
    for deed in DEEDS {
        if coming_back && drops_entries(deed) {
            continue;
        }
        let result = match deed {
            Quit => meet_exit(context, step, mover, huge_pages),
            _ => meet(context, step, mover, deed, huge_pages),
        };
        let result = result.and_then(|()| before.nothing_is_left(&context.open()?));
        result.with_context(|| format!("{deed:?} while {mover:?} is held"))?;
    }
    let left = Delay::new(step, 0)?.microseconds()?;
    equal("the delay afterwards", left, 0)?;
    if coming_back {
        // All else has passed. A test for the defect would crash a kernel that has it.
        return known(KNOWN_DROP);
    }
    Ok(())
}

/// Returns whether a deed removes the migration entry of a huge page that is coming back, which the
/// kernel mistakes for one that holds a reference: see Documentation/known-mm-issues.md. A command
/// and a fault hold the `mmap_lock`, so that most deeds wait.
fn drops_entries(deed: Deed) -> bool {
    deed == DontNeed
}
