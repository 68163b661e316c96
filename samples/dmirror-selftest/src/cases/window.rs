// SPDX-License-Identifier: GPL-2.0

//! How many pages a CPU's fault brings back, where it may be more than the touched one.

use super::exclusive::{held, take};
use super::failing::touched;
use crate::inject::{Failure, Often, Window};
use crate::prelude::*;

cases! { "window":
    setting = "Each device has a file with the limit.",
    grows = "A program that reads on gets windows that grow: 1, 1, 2, 4 pages and so on.",
    grows_downwards = "One that reads backwards does, too.",
    limited = "No window is larger than the limit; one page is one page.",
    whole_range = "Reading on through 8 MiB brings back all of it, with the right data.",
    jumps = "A program that jumps gets what it touches, and no more.",
    ends_at_the_vma = "Neighbours in another mapping stay.",
    ends_at_another_device = "Neighbours on another device stay, and so does what lies behind them.",
    ends_where_nothing_is = "A window ends at a page that is in system memory.",
    leaves_exclusive_pages = "Pages that are exclusive to the device stay so when a CPU touches their neighbours.",
    neighbour_without_memory = "Where there is memory for the touched page alone, that one comes.",
    neighbour_not_copied = "Where a neighbour cannot be copied, it stays, and the touched page comes.",
    touched_not_copied = "Where the touched page cannot be copied, the program gets SIGBUS, whatever its neighbours do.",
    small_pages_of_huge_memory = "A huge page comes whole, whatever the limit is.",
    parts_of_huge_pages = "Huge pages that were cut on the device come back page by page, with the right data.",
    children = "A window of pages that a child shares brings back the right data for both.",
}

const PAGES: usize = 64;

/// Sets the limit, after which all that the device knows of runs of faults is from this case.
fn limit(context: &Context, bytes: u32) -> Result<Window> {
    for device in [context.open()?, context.open_second()?] {
        let _one_page = Window::of(4096)?;
        let memory = Memory::new(1)?;
        memory.move_out(&device, memory.all())?;
        memory.verify(memory.all())?;
    }
    Window::of(bytes)
}

/// Memory that is on the device, all of it.
fn there(context: &Context, pages: usize) -> Result<Memory> {
    let memory = Memory::new(pages)?;
    memory.move_out(&context.open()?, memory.all())?;
    Ok(memory)
}

fn on_device(memory: &Memory) -> Result<usize> {
    Ok(Survey::of(memory.region.range())?.on_device())
}

/// Touches pages one after the other, and checks how many are back after each.
fn touches(memory: &Memory, steps: &[(usize, usize)]) -> Result<()> {
    let all = on_device(memory)?;
    for &(page, back) in steps {
        memory.verify(page..page + 1)?;
        let now = all - on_device(memory)?;
        equal(&format!("pages back after page {page}"), now, back)?;
    }
    Ok(())
}

fn setting(context: &Context) -> Result<()> {
    let _window = limit(context, Window::LARGEST)?;
    for device in ["hmm_dmirror0", "hmm_dmirror1"] {
        let file = format!("/sys/kernel/debug/{device}/window");
        let text = fs::read_to_string(&file).with_context(|| file.clone())?;
        equal("the limit", text.trim(), "2097152")?;
    }
    Ok(())
}

fn grows(context: &Context) -> Result<()> {
    let _window = limit(context, Window::LARGEST)?;
    let memory = there(context, PAGES)?;
    let steps = [(0, 1), (1, 2), (2, 4), (4, 8), (8, 16), (16, 32)];
    touches(&memory, &steps)?;
    memory.verify(memory.all())
}

fn grows_downwards(context: &Context) -> Result<()> {
    let _window = limit(context, Window::LARGEST)?;
    let memory = there(context, PAGES)?;
    touches(&memory, &[(63, 1), (62, 2), (61, 4), (59, 8), (55, 16)])?;
    memory.verify(memory.all())
}

fn limited(context: &Context) -> Result<()> {
    for (bytes, pages) in [(4096, 1), (8192, 2), (3 * 4096, 2), (0, 1), (16384, 4)] {
        let _window = limit(context, bytes)?;
        let memory = there(context, PAGES)?;
        let mut most = 0;
        for page in memory.all() {
            let before = on_device(&memory)?;
            memory.verify(page..page + 1)?;
            most = most.max(before - on_device(&memory)?);
        }
        equal(&format!("pages at most, with {bytes} bytes"), most, pages)?;
    }
    Ok(())
}

fn whole_range(context: &Context) -> Result<()> {
    let _window = limit(context, Window::LARGEST)?;
    let device = context.open()?;
    let before = Before::of(&device)?;
    let memory = there(context, (8 << 20) / page_size())?;
    memory.verify(memory.all())?;
    memory.expect("all of it", memory.all(), Where::System)?;
    before.nothing_is_left(&device)
}

fn jumps(context: &Context) -> Result<()> {
    let _window = limit(context, Window::LARGEST)?;
    let memory = there(context, 2048)?;
    let all = on_device(&memory)?;
    // Each is further from those before it than one page.
    let pages: Vec<usize> = (0..100).map(|n| (n * 977) % 2048).collect();
    memory.verify_each(pages.iter().copied())?;
    let back = all - on_device(&memory)?;
    ensure!(
        back <= pages.len() + pages.len() / 4,
        "{} touches brought back {back} pages",
        pages.len()
    );
    memory.verify(memory.all())
}

fn ends_at_the_vma(context: &Context) -> Result<()> {
    let _window = limit(context, Window::LARGEST)?;
    let memory = there(context, PAGES)?;
    memory.region.protect(0..8, Protection::Read)?;
    memory.region.protect(24..PAGES, Protection::Read)?;
    memory.verify_each(8..24)?;
    memory.expect("the VMA before", 0..8, Where::Device)?;
    memory.expect("the touched VMA", 8..24, Where::System)?;
    memory.expect("the VMA behind", 24..PAGES, Where::Device)?;
    memory.verify(memory.all())
}

fn ends_at_another_device(context: &Context) -> Result<()> {
    let _window = limit(context, Window::LARGEST)?;
    let (first, second) = (context.open()?, context.open_second()?);
    let memory = Memory::new(PAGES)?;
    memory.move_out(&first, 0..16)?;
    memory.move_out(&second, 16..20)?;
    memory.move_out(&first, 20..PAGES)?;
    memory.verify_each(0..16)?;
    memory.expect("the touched pages", 0..16, Where::System)?;
    memory.expect("all others", 16..PAGES, Where::Device)?;
    memory.verify(memory.all())
}

fn ends_where_nothing_is(context: &Context) -> Result<()> {
    let _window = limit(context, Window::LARGEST)?;
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, 0..12)?;
    memory.move_out(&device, 13..PAGES)?;
    memory.verify_each(0..12)?;
    memory.expect("the touched pages", 0..13, Where::System)?;
    memory.expect("behind them", 13..PAGES, Where::Device)?;
    memory.verify(memory.all())
}

fn leaves_exclusive_pages(context: &Context) -> Result<()> {
    let _window = limit(context, Window::LARGEST)?;
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, 0..20)?;
    memory.move_out(&device, 24..PAGES)?;
    take(&device, &memory, 20..24)?;
    memory.verify_each((0..20).chain(24..PAGES))?;
    held(&device, &memory, 20..24)?;
    // The device makes its own pages exclusive one by one; each is near the one before.
    memory.move_out(&device, 0..20)?;
    take(&device, &memory, 0..20)?;
    memory.verify(memory.all())
}

fn neighbour_without_memory(context: &Context) -> Result<()> {
    let _window = limit(context, Window::LARGEST)?;
    let memory = there(context, PAGES)?;
    touches(&memory, &[(0, 1), (1, 2)])?;
    // The allocation for page 2 is asked for first, that for page 3 is the one that fails.
    let failure = Failure::new("system_alloc", Often::EveryThird)?;
    touches(&memory, &[(2, 2), (4, 4)])?;
    drop(failure);
    memory.verify(memory.all())?;

    // Nor does a neighbour below the touched page come before that.
    let memory = there(context, PAGES)?;
    touches(&memory, &[(63, 1), (62, 2)])?;
    let failure = Failure::new("system_alloc", Often::EveryThird)?;
    // One allocation far away, one for page 61, and the one for page 60 fails.
    touches(&memory, &[(0, 1), (61, 2)])?;
    drop(failure);
    memory.verify(memory.all())
}

fn neighbour_not_copied(context: &Context) -> Result<()> {
    let _window = limit(context, Window::LARGEST)?;
    let memory = there(context, PAGES)?;
    touches(&memory, &[(0, 1), (1, 2), (2, 4)])?;
    let failure = Failure::new("copy_out", Often::EveryThird)?;
    // Pages 4 to 7, of which one cannot be copied.
    equal("a touch", touched(&memory, 4, false)?, Exit::Status(0))?;
    drop(failure);
    memory.verify(memory.all())
}

fn touched_not_copied(context: &Context) -> Result<()> {
    let _window = limit(context, Window::LARGEST)?;
    let memory = there(context, PAGES)?;
    touches(&memory, &[(0, 1), (1, 2), (2, 4)])?;
    let failure = Failure::new("copy_out", Often::Always)?;
    equal(
        "a touch",
        touched(&memory, 4, false)?,
        Exit::Signal(dmirror_client::Signal::SIGBUS),
    )?;
    memory.expect("the window", 4..8, Where::Device)?;
    drop(failure);
    memory.verify(memory.all())
}

fn small_pages_of_huge_memory(context: &Context) -> Result<()> {
    let _window = limit(context, 4096)?;
    let device = context.open()?;
    let memory = super::huge::huge(1)?;
    memory.move_out(&device, memory.all())?;
    memory.verify(100..101)?;
    memory.expect("all of it", memory.all(), Where::System)?;
    memory.verify(memory.all())
}

fn parts_of_huge_pages(context: &Context) -> Result<()> {
    let _window = limit(context, Window::LARGEST)?;
    let device = context.open()?;
    let before = Before::of(&device)?;
    let memory = super::huge::huge(2)?;
    memory.move_out(&device, memory.all())?;
    // Each keeps its folio, of which all but the last page stays mapped.
    memory.region.protect(511..512, Protection::None)?;
    memory.region.protect(1023..1024, Protection::None)?;
    memory.verify_each((0..511).chain(513..1023).chain([512]))?;
    for page in [511, 1023] {
        memory
            .region
            .protect(page..page + 1, Protection::ReadWrite)?;
    }
    memory.verify(memory.all())?;
    before.nothing_is_left(&device)
}

fn children(context: &Context) -> Result<()> {
    let _window = limit(context, Window::LARGEST)?;
    let memory = there(context, PAGES)?;
    let go = crate::context::Gate::new()?;
    let child = memory.writing_child(&go, 3)?;
    memory.verify_each(0..PAGES / 2)?;
    go.open()?;
    child.join()?;
    memory.verify(memory.all())
}
