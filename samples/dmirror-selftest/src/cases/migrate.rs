// SPDX-License-Identifier: GPL-2.0

//! Migration by command: out and back, counts, the device's view, holes.

use dmirror_client::Place;

use crate::prelude::*;

cases! { "migrate":
    one_page = "A page goes to the device and comes back with its data.",
    many_pages = "Pages that fill several windows go out and come back in one call each.",
    big_range = "16 MiB go out and come back in one call each.",
    odd_windows = "Ranges of any place and length move exactly the pages that they name.",
    holes_become_zero_pages = "Pages that were never touched become zeroed device pages.",
    zero_page = "Pages that were only read, and so are the zero page, become zeroed device pages.",
    resident_pages_stay = "Pages that are on the device stay where they are when asked to go there again.",
    only_resident_pages_come_back = "MIGRATE_TO_SYS counts the pages that were on the device, and no others.",
    nothing_to_bring_back = "MIGRATE_TO_SYS of memory that is not on the device succeeds with no page.",
    several_mappings_in_a_range = "One range may span several mappings of different protection.",
    many_rounds = "Data that changes between round trips is never stale.",
    order_of_return = "Pages may come back in another order than they went.",
    memory_of_the_allocator = "Heap memory of the program goes out and comes back.",
    stack_of_the_caller = "The stack page that the program is running on goes out and comes back.",
}

fn one_page(context: &Context) -> Result<()> {
    round_trip(context, 1)
}

fn many_pages(context: &Context) -> Result<()> {
    round_trip(context, 1500)
}

fn big_range(context: &Context) -> Result<()> {
    round_trip(context, 4096)
}

fn round_trip(context: &Context, pages: usize) -> Result<()> {
    let device = context.open()?;
    let memory = Memory::new(pages)?;
    memory.move_out(&device, memory.all())?;
    memory.move_back(&device, memory.all(), pages)?;
    memory.verify(memory.all())
}

fn odd_windows(context: &Context) -> Result<()> {
    const PAGES: usize = 1100;
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    for (start, len) in [
        (0, 1),
        (511, 2),
        (510, 515),
        (1, 511),
        (1, 512),
        (1, 513),
        (13, 1025),
        (1099, 1),
    ] {
        let end = start + len;
        memory
            .move_out(&device, start..end)
            .with_context(|| format!("pages {start}..{end}"))?;
        for outside in [0..start, end..PAGES] {
            if !outside.is_empty() {
                memory.expect("outside of the range", outside, Where::System)?;
            }
        }
        memory
            .move_back(&device, start..end, len)
            .with_context(|| format!("pages {start}..{end}"))?;
        memory
            .verify(memory.all())
            .with_context(|| format!("pages {start}..{end}"))?;
    }
    Ok(())
}

fn holes_become_zero_pages(context: &Context) -> Result<()> {
    const PAGES: usize = 600;
    let device = context.open()?;
    let memory = Memory::untouched(PAGES)?;
    let touched = |page: &usize| page % 3 == 1;
    for page in (0..PAGES).filter(touched) {
        memory.fill(page..page + 1);
    }
    equal(
        "pages touched so far",
        Survey::of(memory.region.range())?.absent(),
        400,
    )?;

    let view = memory.view(&device, memory.all())?;
    for (page, bytes) in view.chunks_exact(page_size()).enumerate() {
        if touched(&page) {
            memory.data().check_bytes(bytes, page)?;
        } else {
            ensure!(
                bytes.iter().all(|byte| *byte == 0),
                "the device's view of hole {page} is not zero"
            );
        }
    }
    for page in memory.all() {
        if touched(&page) {
            memory.verify(page..page + 1)?;
        } else {
            ensure!(
                memory.region.is_zero(page..page + 1),
                "hole {page} does not read as zero"
            );
        }
    }
    memory.expect("after reading", memory.all(), Where::System)
}

fn zero_page(device: Device) -> Result<()> {
    let memory = Memory::untouched(64)?;
    ensure!(
        memory.region.is_zero(memory.all()),
        "fresh memory is not zero"
    );
    memory.expect("after reading", memory.all(), Where::System)?;

    let view = memory.view(&device, memory.all())?;
    ensure!(
        view.iter().all(|byte| *byte == 0),
        "the device's view is not zero"
    );
    // Half of it comes back by reading, half by writing.
    ensure!(
        memory.region.is_zero(0..32),
        "a former zero page does not read as zero"
    );
    memory.fill(32..64);
    memory.fill(0..32);
    memory.verify(memory.all())
}

fn resident_pages_stay(device: Device) -> Result<()> {
    let memory = Memory::new(32)?;
    memory.move_out(&device, 8..16)?;
    let before = Survey::of(memory.region.part(8..16))?;
    memory.move_out(&device, memory.all())?;
    let after = Survey::of(memory.region.part(8..16))?;
    if before.frames_shown() {
        equal(
            "places of pages that were on the device",
            after.places(),
            before.places(),
        )?;
    }
    memory.move_back(&device, memory.all(), 32)?;
    memory.verify(memory.all())
}

fn only_resident_pages_come_back(device: Device) -> Result<()> {
    let memory = Memory::new(40)?;
    memory.move_out(&device, 3..10)?;
    memory.move_out(&device, 20..25)?;
    memory.move_back(&device, memory.all(), 12)?;
    memory.verify(memory.all())
}

fn nothing_to_bring_back(device: Device) -> Result<()> {
    let memory = Memory::new(16)?;
    memory.move_back(&device, memory.all(), 0)?;
    memory.verify(memory.all())?;

    let untouched = Region::anonymous(16)?;
    let counts = device.migrate_to_system(untouched.range())?;
    equal("pages moved back of untouched memory", counts.pages, 0)?;
    all_at("untouched memory", untouched.range(), Where::Nowhere)
}

fn several_mappings_in_a_range(device: Device) -> Result<()> {
    let memory = Memory::new(30)?;
    memory.region.protect(10..20, Protection::Read)?;
    memory.move_out(&device, memory.all())?;
    memory.move_back(&device, memory.all(), 30)?;
    memory.verify(memory.all())
}

fn many_rounds(device: Device) -> Result<()> {
    let memory = Memory::new(24)?;
    for round in 1..=60 {
        memory.refill(round);
        memory
            .move_out(&device, memory.all())
            .with_context(|| format!("round {round}"))?;
        if round % 2 == 0 {
            memory.move_back(&device, memory.all(), 24)?;
        }
        memory
            .verify(memory.all())
            .with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

fn order_of_return(context: &Context) -> Result<()> {
    const PAGES: usize = 97; // a prime, so that steps of 31 visit each page
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    for step in 0..PAGES {
        let page = step * 31 % PAGES;
        memory.move_back(&device, page..page + 1, 1)?;
        memory.verify(page..page + 1)?;
    }
    memory.verify(memory.all())
}

/// The whole pages inside `bytes`.
fn pages_inside(bytes: &[u8]) -> Result<(PageRange, usize)> {
    let skip = bytes.as_ptr().align_offset(page_size());
    let pages = (bytes.len() - skip) / page_size();
    Ok((
        PageRange::new(bytes[skip..].as_ptr() as u64, pages as u64)?,
        skip,
    ))
}

fn memory_of_the_allocator(device: Device) -> Result<()> {
    let heap: Vec<u8> = (0..40 * page_size())
        .map(|index| (index / 7 % 251) as u8)
        .collect();
    let copy = heap.clone();
    let (range, skip) = pages_inside(&heap)?;
    let mut view = vec![0; range.bytes() as usize];
    let counts = device.migrate_to_device(range, &mut view)?;
    equal("pages moved out", counts.pages, range.pages())?;
    let end = skip + view.len();
    ensure!(
        view == copy[skip..end],
        "the device's view of the heap differs"
    );
    ensure!(heap == copy, "the heap differs after it came back");
    Ok(())
}

fn stack_of_the_caller(device: Device) -> Result<()> {
    let here = [0x5a_u8; 64];
    let page = page_size() as u64;
    let range = PageRange::new(here.as_ptr() as u64 / page * page, 1)?;
    let mut view = vec![0; page_size()];
    for _ in 0..20 {
        let counts = device.migrate_to_device(range, &mut view)?;
        equal("pages moved out", counts.pages, 1)?;
    }
    let offset = (here.as_ptr() as u64 % page) as usize;
    let len = here.len().min(page_size() - offset);
    ensure!(
        view[offset..offset + len] == here[..len],
        "the device's view of the stack differs"
    );
    let place = Survey::of(range)?.places()[0];
    ensure!(
        matches!(place, Place::System { .. }),
        "a stack in use is at {place:?}"
    );
    Ok(())
}
