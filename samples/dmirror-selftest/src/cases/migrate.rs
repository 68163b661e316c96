// SPDX-License-Identifier: GPL-2.0

//! Migration by command: out and back, counts, the device's view, holes.

use dmirror_client::Place;

use crate::prelude::*;
use crate::steps::{ALL, Verb::*, Who::*, steps};

cases! { "migrate":
    one_page = "A page goes to the device and comes back with its data."
        => |device: Device| Memory::new(1)?.out_and_back(&device),
    many_pages = "Pages that fill several windows go out and come back in one call each."
        => |device: Device| Memory::new(1500)?.out_and_back(&device),
    big_range = "16 MiB go out and come back in one call each."
        => |device: Device| Memory::new(4096)?.out_and_back(&device),
    odd_windows = "Ranges of any place and length move exactly the pages that they name.",
    holes_become_zero_pages = "Pages that were never touched become zeroed device pages.",
    zero_page = "Pages that were only read, and so are the zero page, become zeroed device pages.",
    resident_pages_stay = "Pages that are on the device stay where they are when asked to go there again."
        => kept(in_system(32), resident_pages_stay),
    only_resident_pages_come_back = "MIGRATE_TO_SYS counts the pages that were on the device, and no others."
        => steps(|| Memory::new(40), [
            (A, Out(3..10)), (A, Out(20..25)), (A, Back(ALL, 12)), (Cpu, Reads(ALL)),
        ]),
    nothing_to_bring_back = "MIGRATE_TO_SYS of memory that is not on the device succeeds with no page.",
    several_mappings_in_a_range = "One range may span several mappings of different protection."
        => steps(|| Memory::new(30), [
            (Cpu, Protects(10..20, Protection::Read)), (A, Out(ALL)), (A, Back(ALL, 30)),
            (Cpu, Reads(ALL)),
        ]),
    many_rounds = "Data that changes between round trips is never stale.",
    order_of_return = "Pages may come back in another order than they went."
        => resident(97, order_of_return),
    memory_of_the_allocator = "Heap memory of the program goes out and comes back.",
    stack_of_the_caller = "The stack page that the program is running on goes out and comes back.",
}

fn odd_windows(device: Device) -> Result<()> {
    let memory = Memory::new(1100)?;
    let starts = [0, 511, 510, 1, 1, 1, 13, 1099];
    let lengths = [1, 2, 515, 511, 512, 513, 1025, 1];
    for (start, length) in starts.into_iter().zip(lengths) {
        let pages = start..start + length;
        let out_and_back = || {
            memory.move_out(&device, pages.clone())?;
            memory.only(pages.clone(), Where::Device, Where::System)?;
            memory.move_back(&device, pages.clone(), length)?;
            memory.intact()
        };
        out_and_back().with_context(|| format!("pages {pages:?}"))?;
    }
    Ok(())
}

fn holes_become_zero_pages(device: Device) -> Result<()> {
    let memory = Memory::untouched(600)?;
    let touched = |page: &usize| page % 3 == 1;
    for page in memory.all().filter(touched) {
        memory.fill(page..page + 1);
    }
    let absent = Survey::of(memory.region.range())?.absent();
    equal("pages not touched so far", absent, 400)?;

    let view = memory.view(&device, memory.all())?;
    for (page, bytes) in view.chunks_exact(page_size()).enumerate() {
        match touched(&page) {
            true => memory.data().check_bytes(bytes, page)?,
            false => zeros(&format!("the device's view of hole {page}"), bytes)?,
        }
    }
    for page in memory.all() {
        let pages = page..page + 1;
        match touched(&page) {
            true => memory.verify(pages)?,
            false => zeros(&format!("hole {page}"), &memory.region.to_bytes(pages))?,
        }
    }
    memory.expect("after reading", memory.all(), Where::System)
}

fn zero_page(device: Device) -> Result<()> {
    let memory = Memory::untouched(64)?;
    memory.is_zero(memory.all()).context("fresh memory")?;
    memory.expect("after reading", memory.all(), Where::System)?;
    zeros("the device's view", &memory.view(&device, memory.all())?)?;
    // Half of it comes back by reading, half by writing.
    memory.is_zero(0..32).context("a former zero page")?;
    memory.fill(32..64);
    memory.fill(0..32);
    memory.intact()
}

fn resident_pages_stay(device: &Device, memory: &Memory) -> Result<()> {
    memory.move_out(device, 8..16)?;
    let before = Survey::of(memory.region.part(8..16))?;
    memory.out(device)?;
    let after = Survey::of(memory.region.part(8..16))?;
    if before.frames_shown() {
        equal("resident pages", after.places(), before.places())?;
    }
    memory.move_back(device, memory.all(), 32)
}

fn nothing_to_bring_back(device: Device) -> Result<()> {
    let memory = Memory::new(16)?;
    memory.move_back(&device, memory.all(), 0)?;
    memory.intact()?;

    let untouched = Region::anonymous(16)?;
    let counts = device.migrate_to_system(untouched.range())?;
    equal("pages moved back of untouched memory", counts.pages, 0)?;
    all_at("untouched memory", untouched.range(), Where::Nowhere)
}

fn many_rounds(device: Device) -> Result<()> {
    let memory = Memory::new(24)?;
    for round in 1..=60 {
        memory.refill(round);
        let out_and_back = || match round % 2 {
            0 => memory.out_and_back(&device),
            _ => memory.out_and_read(&device),
        };
        out_and_back().with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

fn order_of_return(device: &Device, memory: &Memory) -> Result<()> {
    let pages = memory.region.pages(); // a prime, so that steps of 31 visit each page
    for page in (0..pages).map(|step| step * 31 % pages) {
        memory.move_back(device, page..page + 1, 1)?;
        memory.verify(page..page + 1)?;
    }
    memory.intact()
}

fn memory_of_the_allocator(device: Device) -> Result<()> {
    let bytes = 0..40 * page_size();
    let heap: Vec<u8> = bytes.map(|index| (index / 7 % 251) as u8).collect();
    let copy = heap.clone();
    let (range, place) = whole_pages(&heap)?;
    let view = moved_out(&device, range)?;
    ensure!(view == copy[place], "the device's view of the heap differs");
    ensure!(heap == copy, "the heap differs after it came back");
    Ok(())
}

fn stack_of_the_caller(device: Device) -> Result<()> {
    let here = [0x5a_u8; 64];
    let offset = here.as_ptr() as usize % page_size();
    let range = PageRange::new((here.as_ptr() as usize - offset) as u64, 1)?;
    let mut view = Vec::new();
    for _ in 0..20 {
        view = moved_out(&device, range)?;
    }
    let len = here.len().min(page_size() - offset);
    let seen = &view[offset..offset + len];
    equal("the device's view of the stack", seen, &here[..len])?;
    let place = Survey::of(range)?.places()[0];
    let in_use = matches!(place, Place::System { .. });
    ensure!(in_use, "a stack in use is at {place:?}");
    Ok(())
}
