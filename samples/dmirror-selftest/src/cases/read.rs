// SPDX-License-Identifier: GPL-2.0

//! READ: the device sees what the CPU would, wherever the pages are, and leaves
//! them there; and it never sees what was.

use dmirror_client::Command;
use dmirror_client::device::{Buffer, prot};

use super::{files, huge};
use crate::prelude::*;

cases! { "read":
    system_pages = "The device reads pages in system memory, which stay there.",
    unlocked = "READ_UNLOCKED reads pages in system memory and on the device.",
    resident_pages = "The device reads its own pages, which stay on it.",
    mixed = "The device reads a range of which every third page is on it.",
    second_device = "A device reads pages on another one, which brings them back.",
    second_read = "Reading for the first time takes faults; reading again takes none.",
    neighbours_stay_mapped = "Dropping pages costs the device none of its entries for their neighbours.",
    untouched = "Memory that was never touched reads as zero.",
    untouched_huge = "Memory that may be huge and was never touched reads as zero.",
    written_after_untouched = "What the CPU writes to memory that the device read untouched, the device sees.",
    shared_memory = "The device reads memory that is shared with children.",
    shared_file = "The device reads a shared mapping of a file.",
    private_file = "The device reads a private mapping of a file, and sees it when the program writes its copy.",
    hugetlb = "The device reads a huge page of the pool (hugetlbfs).",
    huge = "The device reads huge pages in system memory, which stay huge.",
    resident_huge = "The device reads huge pages on it, which stay there.",
    several_mappings = "One read spans mappings of different protection and kind.",
    larger_than_any_buffer = "64 MiB are read in one call.",
    read_only_resident = "The device reads its pages after they were made read-only.",
    cpu_writes = "What the CPU writes, the device sees, again and again.",
    migration_in_between = "The device reads the right data before, during and after a stay of the pages on it.",
    mapped_anew = "Memory that was replaced by a new mapping reads as the new one.",
    unmapped_and_mapped = "Memory that was unmapped and mapped again at the same place reads as zero.",
    moved = "Memory that mremap moved is read at its new place, and not at the old one.",
    dontneed = "Memory that MADV_DONTNEED dropped reads as zero, on the device too.",
    after_fork = "After a fork the device reads what its opener wrote, not what the child did.",
}

const PAGES: usize = 40;

fn system_pages(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.device_reads(&device, memory.all())?;
    memory.expect("after reading", memory.all(), Where::System)?;
    memory.device_reads(&device, 7..8)?;
    memory.device_reads(&device, 3..PAGES - 5)?;
    memory.verify(memory.all())
}

fn unlocked(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let mut view = vec![0xa5; memory.region.len()];
    memory.move_out(&device, 5..20)?;
    for _ in 0..2 {
        let counts = device.read_unlocked(memory.region.range(), &mut view)?;
        equal("pages read", counts.pages, PAGES as u64)?;
        memory.data().check_bytes(&view, 0)?;
        memory.expect("pages on the device", 5..20, Where::Device)?;
        memory.expect("pages elsewhere", 20..PAGES, Where::System)?;
        view.fill(0xa5);
    }
    Ok(())
}

fn resident_pages(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    for _ in 0..2 {
        memory.device_reads(&device, memory.all())?;
        memory.expect("after reading", memory.all(), Where::Device)?;
    }
    let local = prot::WRITE | prot::PRIVATE_LOCAL;
    snapshot_is("after reading", &device, memory.region.range(), local)?;
    memory.verify(memory.all())
}

fn mixed(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    for page in memory.all().step_by(3) {
        memory.move_out(&device, page..page + 1)?;
    }
    memory.device_reads(&device, memory.all())?;
    for page in memory.all() {
        let place = if page % 3 == 0 {
            Where::Device
        } else {
            Where::System
        };
        memory.expect("after reading", page..page + 1, place)?;
    }
    Ok(())
}

fn second_device(first: Device, second: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&first, memory.all())?;
    memory.device_reads(&second, memory.all())?;
    memory.expect("after reading", memory.all(), Where::System)?;
    memory.refill(2);
    memory.device_reads(&first, memory.all())?;
    memory.device_reads(&second, memory.all())?;
    memory.verify(memory.all())
}

fn second_read(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let faults = memory.device_reads(&device, memory.all())?;
    ensure!(
        (1..=PAGES as u64).contains(&faults),
        "the first read took {faults} faults"
    );
    equal(
        "faults of the second read",
        memory.device_reads(&device, memory.all())?,
        0,
    )
}

fn neighbours_stay_mapped(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.device_reads(&device, memory.all())?;
    memory.region.advise(10..20, Advice::DontNeed)?;
    equal(
        "faults for the pages before",
        memory.device_reads(&device, 0..10)?,
        0,
    )?;
    equal(
        "faults for the pages behind",
        memory.device_reads(&device, 20..PAGES)?,
        0,
    )?;
    reads_zero(&device, memory.region.part(10..20))
}

fn untouched(context: &Context) -> Result<()> {
    let device = context.open()?;
    let region = Region::options(PAGES).huge(false).map()?;
    reads_zero(&device, region.range())?;
    ensure!(region.is_zero(0..PAGES), "the CPU reads something else");
    Ok(())
}

fn untouched_huge(device: Device) -> Result<()> {
    let region = huge::options(1).map()?;
    reads_zero(&device, region.range())?;
    ensure!(
        region.is_zero(0..region.pages()),
        "the CPU reads something else"
    );
    Ok(())
}

fn written_after_untouched(device: Device) -> Result<()> {
    let memory = Memory::untouched(PAGES)?;
    reads_zero(&device, memory.region.range())?;
    memory.fill(0..PAGES / 2);
    memory.device_reads(&device, 0..PAGES / 2)?;
    reads_zero(&device, memory.region.part(PAGES / 2..PAGES))?;
    memory.fill(PAGES / 2..PAGES);
    memory.device_reads(&device, memory.all()).map(drop)
}

fn shared_memory(device: Device) -> Result<()> {
    let memory = Memory::of(Region::options(PAGES).shared().map()?);
    reads_zero(&device, memory.region.range())?;
    memory.fill(memory.all());
    memory.device_reads(&device, memory.all())?;
    helper(|| {
        memory.refill(2);
        Ok(())
    })?
    .join()?;
    memory.expect_round(2);
    memory.device_reads(&device, memory.all()).map(drop)
}

fn shared_file(context: &Context) -> Result<()> {
    let device = context.open()?;
    let file = files::file_of(&vec![0; PAGES * page_size()])?;
    let writer = Region::options(PAGES)
        .shared_file(file.try_clone()?)
        .map()?;
    let memory = Memory::of(Region::options(PAGES).shared_file(file).map()?);
    memory.data().fill(&writer, 0..PAGES);
    memory.device_reads(&device, memory.all())?;
    // Through the other mapping: no page of this one changes, only the data.
    memory.expect_round(2);
    memory.data().fill(&writer, 0..PAGES);
    memory.device_reads(&device, memory.all())?;
    memory.expect("after reading", memory.all(), Where::System)
}

fn private_file(device: Device) -> Result<()> {
    let memory = files::mapped_file()?;
    let all = memory.all();
    memory.device_reads(&device, all.clone())?;
    memory.refill(2);
    memory.device_reads(&device, all.clone())?;
    // The program's own pages may go to the device; it sees them there.
    memory.move_out(&device, all.clone())?;
    memory.device_reads(&device, all).map(drop)
}

fn hugetlb(device: Device) -> Result<()> {
    let memory = Memory::of(files::of_the_pool()?);
    memory.fill(memory.all());
    memory.device_reads(&device, memory.all())?;
    memory.device_reads(&device, 100..200)?;
    memory.refill(2);
    memory.device_reads(&device, memory.all()).map(drop)
}

fn huge(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = huge::huge(2)?;
    memory.device_reads(&device, memory.all())?;
    memory.device_reads(&device, 77..600)?;
    memory.is_huge()?;
    memory.refill(2);
    memory.device_reads(&device, memory.all()).map(drop)
}

fn resident_huge(device: Device) -> Result<()> {
    let memory = huge::huge(2)?;
    memory.move_out(&device, memory.all())?;
    memory.device_reads(&device, memory.all())?;
    memory.device_reads(&device, 300..301)?;
    memory.device_reads(&device, 77..600)?;
    memory.expect("after reading", memory.all(), Where::Device)?;
    memory.verify(memory.all())?;
    memory.refill(2);
    memory.device_reads(&device, memory.all()).map(drop)
}

fn several_mappings(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.region.replace_by_shared(10..20)?;
    memory.fill(10..20);
    memory.move_out(&device, 0..5)?;
    memory.region.protect(3..8, Protection::Read)?;
    memory.region.protect(15..25, Protection::Read)?;
    memory.device_reads(&device, memory.all())?;
    memory.expect("pages on the device", 0..5, Where::Device)?;
    memory.expect("pages elsewhere", 5..PAGES, Where::System)
}

fn larger_than_any_buffer(device: Device) -> Result<()> {
    let memory = Memory::of(huge::options((64 << 20) / HUGE).map()?);
    // Not filled: that is slow under emulation. One word a page tells enough.
    let words = Region::words_per_page();
    for page in memory.all() {
        memory
            .region
            .store(page * words + page % words, page as u64);
    }
    let mut view = vec![0xa5; memory.region.len()];
    let counts = device.read(memory.region.range(), &mut view)?;
    equal("pages read", counts.pages, memory.region.range().pages())?;
    for (page, bytes) in view.chunks_exact(page_size()).enumerate() {
        let at = page % words * size_of::<u64>();
        equal(
            &format!("page {page}"),
            bytes[at..at + 8].try_into().map(u64::from_ne_bytes)?,
            page as u64,
        )?;
    }
    Ok(())
}

fn read_only_resident(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    memory.region.protect(memory.all(), Protection::Read)?;
    memory.device_reads(&device, memory.all())?;
    memory.expect("after reading", memory.all(), Where::Device)?;
    memory.verify(memory.all())?;
    memory.device_reads(&device, memory.all()).map(drop)
}

fn cpu_writes(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    for round in 2..20 {
        memory.device_reads(&device, memory.all())?;
        memory.refill(round);
    }
    memory.device_reads(&device, memory.all()).map(drop)
}

fn migration_in_between(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    for round in 2..12 {
        memory.device_reads(&device, memory.all())?;
        memory.move_out(&device, memory.all())?;
        memory.device_reads(&device, memory.all())?;
        memory.verify(0..PAGES / 2)?; // come back by faults
        memory.device_reads(&device, memory.all())?;
        memory.move_back(&device, memory.all(), PAGES / 2)?;
        memory.device_reads(&device, memory.all())?;
        memory.refill(round);
    }
    memory.device_reads(&device, memory.all()).map(drop)
}

fn mapped_anew(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, 0..PAGES / 2)?;
    memory.device_reads(&device, memory.all())?;
    memory.region.replace_by_shared(5..PAGES - 5)?;
    reads_zero(&device, memory.region.part(5..PAGES - 5))?;
    memory.device_reads(&device, 0..5)?;
    memory.device_reads(&device, PAGES - 5..PAGES)?;
    memory.fill(memory.all());
    memory.device_reads(&device, memory.all()).map(drop)
}

fn unmapped_and_mapped(device: Device) -> Result<()> {
    let mut reused = 0;
    for round in 0..20 {
        let memory = Memory::new(PAGES)?;
        if round % 2 == 0 {
            memory.move_out(&device, memory.all())?;
        }
        memory.device_reads(&device, memory.all())?;
        let before = memory.region.addr();
        drop(memory);
        // The kernel gives the addresses that were freed last.
        let fresh = Region::options(PAGES).align(HUGE).huge(false).map()?;
        reused += usize::from(fresh.addr() == before);
        reads_zero(&device, fresh.range())?;
    }
    ensure!(reused > 0, "no address was used again");
    Ok(())
}

fn moved(device: Device) -> Result<()> {
    for resident in [false, true] {
        let memory = Memory::new(PAGES)?;
        let (data, before) = (memory.data(), memory.region.range());
        if resident {
            memory.move_out(&device, memory.all())?;
        }
        memory.device_reads(&device, memory.all())?;
        let region = memory.region.relocate()?;
        let mut view = vec![0xa5; region.len()];
        fails(
            "READ at the old place",
            device.read(before, &mut view),
            Errno::EFAULT,
        )?;
        let counts = device.read(region.range(), &mut view)?;
        equal("pages read", counts.pages, PAGES as u64)?;
        data.check_bytes(&view, 0)?;
        equal(
            "pages on the device",
            Survey::of(region.range())?.on_device(),
            if resident { PAGES } else { 0 },
        )?;
        data.check(&region, 0..PAGES)?;
    }
    Ok(())
}

fn dontneed(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, 0..PAGES / 2)?;
    memory.device_reads(&device, memory.all())?;
    memory.region.advise(5..PAGES - 5, Advice::DontNeed)?;
    reads_zero(&device, memory.region.part(5..PAGES - 5))?;
    memory.device_reads(&device, 0..5)?;
    memory.device_reads(&device, PAGES - 5..PAGES)?;
    memory.expect("pages that were not dropped", 0..5, Where::Device)
}

fn after_fork(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, 0..PAGES / 2)?;
    memory.device_reads(&device, memory.all())?;
    let (written, seen) = (Gate::new()?, Gate::new()?);
    let child = helper(|| {
        memory.refill(2);
        written.open()?;
        seen.wait()?;
        memory.verify(memory.all())?;
        // The descriptor is about the opener's memory, whoever uses it.
        let range = PageRange::new(memory.region.addr(), PAGES as u64)?;
        let mut view = vec![0xa5; memory.region.len()];
        device.call(
            Command::Read,
            range.addr(),
            range.pages(),
            Buffer::Output(&mut view),
        )?;
        Ok(memory.data().round(3).check_bytes(&view, 0)?)
    })?;
    written.wait()?;
    memory.device_reads(&device, memory.all())?;
    memory.refill(3);
    memory.device_reads(&device, memory.all())?;
    seen.open()?;
    child.join()?;
    memory.device_reads(&device, memory.all()).map(drop)
}
