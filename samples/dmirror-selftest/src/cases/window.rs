// SPDX-License-Identifier: GPL-2.0

//! The number of pages that a CPU fault brings back, which may be more than the touched one.

use super::failing::touched;
use super::huge::{huge, huge_out};
use crate::exclusive::{held, take};
use crate::inject::{Failure, Often, Window};
use crate::prelude::{hpage_pmd_nr as nr, *};

cases! { "window":
    setting = "Each device has a file with the limit." => wide(setting),
    grows = "A program that reads on gets windows that grow: 1, 1, 2, 4 pages and so on."
        => wide(kept(on_device(PAGES), |_, memory| {
            touches(memory, &[(0, 1), (1, 2), (2, 4), (4, 8), (8, 16), (16, 32)])
        })),
    grows_downwards = "One that reads backwards does, too."
        => wide(kept(on_device(PAGES), |_, memory| {
            touches(memory, &[(63, 1), (62, 2), (61, 4), (59, 8), (55, 16)])
        })),
    limited = "No window is larger than the limit; one page is one page.",
    whole_range = "Reading on through 8 MiB brings back all of it, with the right data."
        => wide(whole_range),
    jumps = "A program that jumps gets what it touches, and no more."
        => wide(kept(on_device(2048), jumps)),
    ends_at_the_vma = "Neighbours in another mapping stay."
        => wide(kept(on_device(PAGES), ends_at_the_vma)),
    ends_at_another_device = "Neighbours on another device stay, and so does what lies behind them.",
    ends_where_nothing_is = "A window ends at a page that is in system memory."
        => wide(kept(in_system(PAGES), ends_where_nothing_is)),
    leaves_exclusive_pages = "Pages that are exclusive to the device stay so when a CPU touches their neighbours."
        => wide(kept(in_system(PAGES), leaves_exclusive_pages)),
    neighbour_without_memory = "Only the touched page comes if there is memory for no other."
        => wide(neighbour_without_memory),
    neighbour_not_copied = "A neighbour that cannot be copied stays, and the touched page comes."
        => wide(kept(on_device(PAGES), |_, memory| not_copied(memory, Often::EveryThird))),
    touched_not_copied = "The program gets SIGBUS if the touched page cannot be copied, whatever its neighbours do."
        => wide(kept(on_device(PAGES), |_, memory| not_copied(memory, Often::Always))),
    small_pages_of_huge_memory = "A huge page comes whole, whatever the limit is."
        => within(page_size() as u32, kept(|device| huge_out(device, 1), |_, memory| {
            memory.verify(100..101)?;
            memory.expect("all of it", memory.all(), Where::System)
        })),
    parts_of_huge_pages = "Huge pages that were cut on the device come back page by page, with the right data."
        => wide(parts_of_huge_pages),
    children = "A window of pages that a child shares brings back the right data for both."
        => wide(kept(on_device(PAGES), |_, memory| {
            memory.beside_child(3, || memory.verify_each(0..PAGES / 2))
        })),
}

const PAGES: usize = 64;

/// Sets the limit, and makes the devices forget runs of faults of earlier cases.
fn limit(context: &Context, bytes: u32) -> Result<Window> {
    for device in [context.open()?, context.open_second()?] {
        let _one_page = Window::of(page_size() as u32)?;
        Memory::new(1)?.out_and_read(&device)?;
    }
    Window::of(bytes)
}

/// Returns a case with windows of at most `bytes` bytes.
fn within(bytes: u32, body: impl Fn(Device) -> Result<()>) -> impl Fn(&Context) -> Result<()> {
    move |context| {
        let _window = limit(context, bytes)?;
        body(context.open()?)
    }
}

/// Returns a case with the largest windows.
fn wide(body: impl Fn(Device) -> Result<()>) -> impl Fn(&Context) -> Result<()> {
    move |context| {
        let _window = limit(context, Window::largest())?;
        body(context.open()?)
    }
}

/// Touches pages one after the other, and checks the number of pages that are back after each.
fn touches(memory: &Memory, steps: &[(usize, usize)]) -> Result<()> {
    let all = memory.on_device()?;
    for &(page, back) in steps {
        memory.verify(page..page + 1)?;
        let now = all - memory.on_device()?;
        equal(&format!("pages back after page {page}"), now, back)?;
    }
    Ok(())
}

/// Touches `touched` pages from `start` on, one by one. Checks that the `back` pages from `start`
/// on are in system memory then, and no others.
fn ends(memory: &Memory, start: usize, touched: usize, back: usize) -> Result<()> {
    memory.verify_each(start..start + touched)?;
    memory.only(start..start + back, Where::System, Where::Device)
}

fn setting(_: Device) -> Result<()> {
    for device in ["hmm_dmirror0", "hmm_dmirror1"] {
        let file = format!("/sys/kernel/debug/{device}/window");
        let text = fs::read_to_string(&file).with_context(|| file.clone())?;
        equal("the limit", text.trim(), &*hpage_pmd_size().to_string())?;
    }
    Ok(())
}

fn limited(context: &Context) -> Result<()> {
    for (limit_pages, pages) in [(1, 1), (2, 2), (3, 2), (0, 1), (4, 4)] {
        let bytes = limit_pages * page_size() as u32;
        let _window = limit(context, bytes)?;
        let memory = Memory::resident(&context.open()?, PAGES)?;
        let mut most = 0;
        for page in memory.all() {
            let before = memory.on_device()?;
            memory.verify(page..page + 1)?;
            most = most.max(before - memory.on_device()?);
        }
        equal(&format!("pages at most, with {bytes} bytes"), most, pages)?;
    }
    Ok(())
}

fn whole_range(device: Device) -> Result<()> {
    let before = Before::of(&device)?;
    let memory = Memory::resident(&device, (8 << 20) / page_size())?;
    memory.intact()?;
    memory.expect("all of it", memory.all(), Where::System)?;
    before.nothing_is_left(&device)
}

fn jumps(_: &Device, memory: &Memory) -> Result<()> {
    let all = memory.on_device()?;
    // Each page is further from those before it than one page.
    memory.verify_each((0..100).map(|n| (n * 977) % 2048))?;
    let back = all - memory.on_device()?;
    ensure!(back <= 125, "100 touches brought back {back} pages");
    Ok(())
}

fn ends_at_the_vma(_: &Device, memory: &Memory) -> Result<()> {
    memory.region.protect(0..8, Protection::Read)?;
    memory.region.protect(24..PAGES, Protection::Read)?;
    ends(memory, 8, 16, 16)
}

fn ends_at_another_device(context: &Context) -> Result<()> {
    let _window = limit(context, Window::largest())?;
    let (first, second) = (context.open()?, context.open_second()?);
    let memory = Memory::new(PAGES)?;
    memory.move_out(&first, 0..16)?;
    memory.move_out(&second, 16..20)?;
    memory.move_out(&first, 20..PAGES)?;
    ends(&memory, 0, 16, 16)?;
    memory.intact()
}

fn ends_where_nothing_is(device: &Device, memory: &Memory) -> Result<()> {
    memory.move_out(device, 0..12)?;
    memory.move_out(device, 13..PAGES)?;
    ends(memory, 0, 12, 13)
}

fn leaves_exclusive_pages(device: &Device, memory: &Memory) -> Result<()> {
    memory.move_out(device, 0..20)?;
    memory.move_out(device, 24..PAGES)?;
    take(device, memory, 20..24)?;
    memory.verify_each((0..20).chain(24..PAGES))?;
    held(device, memory, 20..24)?;
    // The device makes its own pages exclusive one by one; each is near the one before.
    memory.move_out(device, 0..20)?;
    take(device, memory, 0..20)
}

fn neighbour_without_memory(device: Device) -> Result<()> {
    // Keep the memories: in another memory at the same place a run of faults would go on.
    let mut all = Vec::new();
    for (before, then) in [
        // The allocation for page 2 comes first, and the one for page 3 fails.
        ([(0, 1), (1, 2)], [(2, 2), (4, 4)]),
        // A neighbour below the touched page does not come first, either. One allocation is far
        // away, one is for page 61, and the one for page 60 fails.
        ([(63, 1), (62, 2)], [(0, 1), (61, 2)]),
    ] {
        let memory = Memory::resident(&device, PAGES)?;
        touches(&memory, &before)?;
        let failure = Failure::new("system_alloc", Often::EveryThird)?;
        touches(&memory, &then)?;
        drop(failure);
        memory.intact()?;
        all.push(memory);
    }
    Ok(())
}

fn not_copied(memory: &Memory, often: Often) -> Result<()> {
    touches(memory, &[(0, 1), (1, 2), (2, 4)])?;
    let _failure = Failure::new("copy_out", often)?;
    // The window is pages 4 to 7, of which one, or each, cannot be copied.
    let end = touched(memory, 4, false)?;
    if often == Often::Always {
        equal("a touch", end, Exit::Signal(Signal::SIGBUS))?;
        memory.expect("the window", 4..8, Where::Device)
    } else {
        equal("a touch", end, Exit::Status(0))
    }
}

fn parts_of_huge_pages(device: Device) -> Result<()> {
    let before = Before::of(&device)?;
    let memory = huge(2)?;
    memory.out(&device)?;
    // Each huge page keeps its folio, of which all pages but the last stay mapped.
    let last = [nr() - 1..nr(), 2 * nr() - 1..2 * nr()];
    for page in last.clone() {
        memory.region.protect(page, Protection::None)?;
    }
    memory.verify_each((0..nr() - 1).chain(nr() + 1..2 * nr() - 1).chain([nr()]))?;
    for page in last {
        memory.region.protect(page, Protection::ReadWrite)?;
    }
    memory.intact()?;
    before.nothing_is_left(&device)
}
