// SPDX-License-Identifier: GPL-2.0

//! Mappings with resident pages that are moved, resized and replaced, and memory
//! that no mmap of the program made: its stack and its heap.

use std::hint::black_box;

use crate::prelude::*;

cases! { "mremap":
    grown = "Resident memory that grows keeps its data; what is new is empty, and goes to the device too.",
    shrunk = "Resident memory that shrinks keeps the data of what is left, and gives the rest of the device back.",
    left_mapped = "MREMAP_DONTUNMAP takes resident pages along, and leaves empty memory that can go to the device.",
    far_and_unaligned = "Resident memory moves to an address that lies differently in its 2 MiB, and back.",
    moved_while_migrating = "Memory that is moved while another thread migrates its range keeps its data.",
    replaced = "Mapping something else over resident pages gives their device memory back.",
    stack = "Pages of the stack go to the device and come back when they are used.",
    heap = "Pages of the heap go to the device and come back when they are used.",
}

const PAGES: usize = 48;

fn grown(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    let data = memory.data();
    let region = memory.region.resize(2 * PAGES)?;
    all_at(
        "pages that moved along",
        region.part(0..PAGES),
        Where::Device,
    )?;
    all_at("new pages", region.part(PAGES..2 * PAGES), Where::Nowhere)?;
    let mut view = vec![1; region.len()];
    let counts = device.migrate_to_device(region.range(), &mut view)?;
    equal("pages moved out", counts.pages, 2 * PAGES as u64)?;
    data.check_bytes(&view[..PAGES * page_size()], 0)?;
    ensure!(region.is_zero(PAGES..2 * PAGES), "new pages are not zero");
    data.check(&region, 0..PAGES)?;
    Ok(())
}

fn shrunk(device: Device) -> Result<()> {
    let before = Before::of(&device)?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    let data = memory.data();
    let region = memory.region.resize(PAGES / 3)?;
    all_at("what is left", region.range(), Where::Device)?;
    let counts = device.migrate_to_system(region.range())?;
    equal("pages moved back", counts.pages, (PAGES / 3) as u64)?;
    before.nothing_is_left(&device)?;
    data.check(&region, 0..PAGES / 3)?;
    Ok(())
}

fn left_mapped(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    let taken = match memory.region.take_pages() {
        Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {
            return skip("this kernel has no MREMAP_DONTUNMAP");
        }
        answer => answer?,
    };
    all_at("pages that were taken along", taken.range(), Where::Device)?;
    memory.expect("what they left", memory.all(), Where::Nowhere)?;
    let data = memory.data();
    ensure!(memory.region.is_zero(0..1), "what they left is not zero");
    memory.refill(2);
    memory.move_out(&device, memory.all())?;
    let mut view = vec![0; taken.len()];
    device.migrate_to_device(taken.range(), &mut view)?;
    data.check_bytes(&view, 0)?;
    memory.verify(memory.all())?;
    data.check(&taken, 0..PAGES)?;
    Ok(())
}

fn far_and_unaligned(device: Device) -> Result<()> {
    let pages = HUGE / page_size() + 100;
    let memory = Memory::new(pages)?;
    memory.move_out(&device, 50..pages)?;
    let data = memory.data();
    let region = memory.region.relocate()?;
    all_at("resident pages", region.part(50..pages), Where::Device)?;
    data.check(&region, 0..60)?;
    let region = region.relocate()?;
    all_at("resident pages", region.part(60..pages), Where::Device)?;
    data.check(&region, 0..pages)?;
    Ok(())
}

fn moved_while_migrating(device: Device) -> Result<()> {
    for _ in 0..15 {
        let memory = Memory::new(PAGES)?;
        let (range, data) = (memory.region.range(), memory.data());
        let region = thread::scope(|scope| {
            let mover = scope.spawn(|| migrate_what_is_there(&device, range));
            let region = memory.region.relocate()?;
            joined(mover)?;
            anyhow::Ok(region)
        })?;
        data.check(&region, 0..PAGES)?;
    }
    Ok(())
}

/// Moves a range out and back that somebody else may have unmapped.
fn migrate_what_is_there(device: &Device, range: PageRange) -> Result<()> {
    let mut view = vec![0; range.bytes() as usize];
    for answer in [
        device.migrate_to_device(range, &mut view),
        device.migrate_to_system(range),
        device.migrate_to_device(range, &mut view),
    ] {
        match answer {
            Err(error) if error.errno == Errno::EINVAL => {}
            answer => unless_held(answer)?,
        }
    }
    Ok(())
}

fn replaced(device: Device) -> Result<()> {
    let before = Before::of(&device)?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    memory.region.replace(16..32)?;
    memory.expect("before it", 0..16, Where::Device)?;
    memory.expect("new memory", 16..32, Where::Nowhere)?;
    memory.expect("behind it", 32..PAGES, Where::Device)?;
    ensure!(memory.region.is_zero(16..32), "new memory is not zero");
    memory.verify(0..16)?;
    memory.verify(32..PAGES)?;
    memory.region.replace(0..PAGES)?;
    before.nothing_is_left(&device)?;
    memory.refill(2);
    memory.move_out(&device, memory.all())?;
    memory.verify(memory.all())
}

/// The whole pages in some bytes, and their place among them.
fn whole_pages(bytes: &[u8]) -> Result<(PageRange, std::ops::Range<usize>)> {
    let page = page_size();
    let start = bytes.as_ptr().align_offset(page);
    let pages = (bytes.len() - start) / page;
    let range = PageRange::new(bytes[start..].as_ptr() as u64, pages as u64)?;
    Ok((range, start..start + pages * page))
}

/// Moves pages of `bytes`, which the program uses in its own way, to the device;
/// then looks at all of them.
fn out_and_used(device: &Device, bytes: &mut [u8]) -> Result<()> {
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = (index / 7 % 251) as u8;
    }
    let (range, place) = whole_pages(bytes)?;
    let mut view = vec![0; place.len()];
    for _ in 0..3 {
        let counts = device.migrate_to_device(range, &mut view)?;
        equal("pages moved out", counts.pages, range.pages())?;
        ensure!(
            view == bytes[place.clone()],
            "the device's view is another one"
        );
        for (index, byte) in bytes.iter_mut().enumerate() {
            ensure!(
                *byte == (index / 7 % 251) as u8,
                "byte {index} is another one"
            );
            *byte = (index / 7 % 251) as u8;
        }
    }
    Ok(())
}

fn stack(device: Device) -> Result<()> {
    let mut bytes = black_box([0_u8; 16 * 4096]);
    out_and_used(&device, &mut bytes).context("the first thread's")?;
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let mut bytes = black_box([0_u8; 16 * 4096]);
            out_and_used(&device, &mut bytes).context("another thread's")
        });
        joined(thread)
    })
}

fn heap(device: Device) -> Result<()> {
    // Less than what malloc makes a mapping for.
    let mut bytes = vec![0_u8; 20 * 4096];
    let addr = bytes.as_ptr() as u64;
    let maps = fs::read_to_string("/proc/self/maps")?;
    let heap = maps.lines().filter(|line| line.ends_with("[heap]"));
    let inside = heap
        .filter_map(|line| line.split_whitespace().next()?.split_once('-'))
        .any(|(start, end)| {
            let number = |text| u64::from_str_radix(text, 16).unwrap_or(0);
            (number(start)..number(end)).contains(&addr)
        });
    if !inside {
        println!("this is not in what the kernel calls the heap");
    }
    out_and_used(&device, &mut bytes)?;
    // Freed pages of the heap may be on the device when it shrinks.
    let (range, _) = whole_pages(&bytes)?;
    let mut view = vec![0; range.bytes() as usize];
    device.migrate_to_device(range, &mut view)?;
    drop(bytes);
    let region = Region::anonymous(1)?;
    region.store(0, 1);
    equal("word", region.load(0), 1)
}
