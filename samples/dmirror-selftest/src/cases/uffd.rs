// SPDX-License-Identifier: GPL-2.0

//! userfaultfd: a program that answers faults itself, and pages on the device.

use anyhow::anyhow;
use dmirror_client::Uffd;
use dmirror_client::uffd::Mode;

use crate::prelude::*;

cases! { "uffd":
    holes_stay_holes = "Holes of a registered range do not become device pages behind the program's back: ENOENT.",
    copied = "Pages that UFFDIO_COPY has filled go to the device and come back.",
    zeroed = "Pages that UFFDIO_ZEROPAGE has filled become zeroed device pages.",
    copy_onto_resident = "UFFDIO_COPY onto a resident page is refused with EEXIST.",
    missing_after_dontneed = "A resident page that was dropped raises a fault that the program answers.",
    protected_on_the_device = "A page that is write-protected while it is on the device raises a fault when the CPU writes it.",
    protection_goes_out_and_back = "Write protection survives the way to the device and back.",
    unprotected_on_the_device = "A page whose write protection is taken off while it is on the device takes writes without a fault.",
    move_of_resident_pages = "UFFDIO_MOVE of resident pages moves them or refuses, and they keep their data.",
    move_of_returned_pages = "UFFDIO_MOVE of pages that were on the device moves them, and they go out again.",
    device_reads_missing = "A thread answers the faults of the device's reading.",
    device_writes_protected = "A thread answers the faults of the device's writing to protected pages.",
}

const PAGES: usize = 32;
const PATIENCE: Duration = Duration::from_secs(20);

/// A userfaultfd, or skips.
pub(super) fn uffd() -> Result<Uffd> {
    match Uffd::new() {
        Ok(uffd) => Ok(uffd),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EPERM) => skip("only root may answer faults of the kernel"),
            Some(Errno::ENOSYS | Errno::EINVAL) => {
                skip("this kernel lacks a feature of userfaultfd")
            }
            _ => Err(error.into()),
        },
    }
}

/// Checks that no fault waits for an answer.
fn no_fault(uffd: &Uffd) -> Result<()> {
    equal("faults", uffd.wait(Duration::ZERO)?, None)
}

/// Writes the first word of a page as it is in another thread; checks that the
/// write waits for an answer to a fault on a protected page, and answers it.
fn write_is_reported(uffd: &Uffd, memory: &Memory, page: usize) -> Result<()> {
    let (region, value) = (&memory.region, memory.data().word(page, 0));
    let word = page * Region::words_per_page();
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            region.store(word, value);
            anyhow::Ok(())
        });
        let fault = uffd.wait(PATIENCE);
        // The writer must get on, whatever is wrong.
        let waits = !writer.is_finished();
        uffd.protect(region, page..page + 1, false)?;
        joined(writer)?;
        let Some(fault) = fault? else {
            return Err(anyhow!("a write to protected page {page} raised no fault"));
        };
        ensure!(waits, "the write did not wait for the answer");
        ensure!(
            fault.protected && fault.write,
            "expected a write to a protected page: {fault:?}"
        );
        equal("address", fault.addr, region.part(page..page + 1).addr())
    })?;
    equal("word written", region.load(word), value)
}

fn holes_stay_holes(device: Device) -> Result<()> {
    let uffd = uffd()?;
    let memory = Memory::untouched(PAGES)?;
    memory.fill(4..12);
    uffd.register(&memory.region, 0..PAGES, Mode::Missing)?;
    let mut view = vec![0; memory.region.len()];
    let counts = fails_counted(
        "MIGRATE_TO_DEV",
        device.migrate_to_device(memory.region.range(), &mut view),
        Errno::ENOENT,
    )?;
    equal("pages moved", counts.pages, 8)?;
    memory.expect("pages", 4..12, Where::Device)?;
    memory.expect("holes before them", 0..4, Where::Nowhere)?;
    memory.expect("holes behind them", 12..PAGES, Where::Nowhere)?;
    no_fault(&uffd)?;
    memory.verify(4..12)
}

fn copied(device: Device) -> Result<()> {
    let uffd = uffd()?;
    let memory = Memory::untouched(PAGES)?;
    uffd.register(&memory.region, 0..PAGES, Mode::Missing)?;
    equal(
        "pages copied",
        uffd.copy(&memory.region, 0, &memory.data().to_bytes(0..PAGES))?,
        PAGES,
    )?;
    memory.move_out(&device, memory.all())?;
    memory.verify(0..PAGES / 2)?;
    memory.move_back(&device, PAGES / 2..PAGES, PAGES / 2)?;
    no_fault(&uffd)?;
    memory.verify(memory.all())
}

fn zeroed(device: Device) -> Result<()> {
    let uffd = uffd()?;
    let memory = Memory::untouched(PAGES)?;
    uffd.register(&memory.region, 0..PAGES, Mode::Missing)?;
    uffd.zero(&memory.region, 0..PAGES)?;
    let mut view = vec![1; memory.region.len()];
    match device.migrate_to_device(memory.region.range(), &mut view) {
        Ok(_) => {
            ensure!(
                view.iter().all(|byte| *byte == 0),
                "the device's view is not zero"
            );
            memory.expect("after moving out", memory.all(), Where::Device)?;
        }
        // The kernel takes zero pages for holes here.
        Err(error) => {
            equal("answer", error.errno, Errno::ENOENT)?;
            memory.expect("after a refusal", memory.all(), Where::System)?;
        }
    }
    ensure!(
        memory.region.is_zero(0..PAGES),
        "memory does not read as zero"
    );
    memory.refill(2);
    no_fault(&uffd)?;
    memory.verify(memory.all())
}

fn copy_onto_resident(device: Device) -> Result<()> {
    let uffd = uffd()?;
    let memory = Memory::new(PAGES)?;
    uffd.register(&memory.region, 0..PAGES, Mode::Missing)?;
    memory.move_out(&device, memory.all())?;
    let other = vec![0x5a; page_size()];
    equal(
        "UFFDIO_COPY onto a resident page",
        uffd.copy(&memory.region, 3, &other),
        Err(Errno::EEXIST),
    )?;
    equal(
        "UFFDIO_ZEROPAGE onto a resident page",
        uffd.zero(&memory.region, 4..5),
        Err(Errno::EEXIST),
    )?;
    memory.expect("after both", memory.all(), Where::Device)?;
    memory.verify(memory.all())
}

fn missing_after_dontneed(device: Device) -> Result<()> {
    let uffd = uffd()?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    uffd.register(&memory.region, 0..PAGES, Mode::Missing)?;
    memory.region.advise(8..16, Advice::DontNeed)?;
    let region = &memory.region;
    let seen = answering(&uffd, &memory, || Ok(region.touch(9)))?;
    equal("word read", seen, memory.data().word(9, 0))?;
    memory.verify(9..10)?;
    memory.expect("resident pages", 0..8, Where::Device)?;
    memory.expect("the other dropped pages", 10..16, Where::Nowhere)
}

/// Runs `body` in another thread, and answers faults until it has ended: missing
/// pages get their content, protected ones lose the protection.
pub(super) fn answering<T: Send>(
    uffd: &Uffd,
    memory: &Memory,
    body: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let region = &memory.region;
    thread::scope(|scope| {
        let body = scope.spawn(body);
        let mut result = Ok(());
        while !body.is_finished() && result.is_ok() {
            let Some(fault) = uffd.wait(Duration::from_millis(20))? else {
                continue;
            };
            let page = ((fault.addr - region.addr()) / page_size() as u64) as usize;
            result = if fault.protected {
                uffd.protect(region, page..page + 1, false)
            } else {
                match uffd.copy(region, page, &memory.data().to_bytes(page..page + 1)) {
                    Err(Errno::EEXIST) | Ok(_) => Ok(()),
                    Err(errno) => Err(errno),
                }
            };
        }
        result?;
        joined(body)
    })
}

fn protected_on_the_device(device: Device) -> Result<()> {
    let uffd = uffd()?;
    let memory = Memory::new(PAGES)?;
    uffd.register(&memory.region, 0..PAGES, Mode::WriteProtect)?;
    memory.move_out(&device, memory.all())?;
    uffd.protect(&memory.region, 0..PAGES, true)?;
    memory.expect("after protection", memory.all(), Where::Device)?;
    write_is_reported(&uffd, &memory, 5)?;
    memory.verify(memory.all())?; // reading needs no answer
    no_fault(&uffd)?;
    write_is_reported(&uffd, &memory, 7)
}

fn protection_goes_out_and_back(device: Device) -> Result<()> {
    let uffd = uffd()?;
    let memory = Memory::new(PAGES)?;
    uffd.register(&memory.region, 0..PAGES, Mode::WriteProtect)?;
    uffd.protect(&memory.region, 0..PAGES, true)?;
    memory.move_out(&device, memory.all())?;
    write_is_reported(&uffd, &memory, 3)?;
    memory.move_back(&device, 8..PAGES, PAGES - 8)?;
    write_is_reported(&uffd, &memory, 9)?;
    memory.move_out(&device, memory.all())?;
    memory.verify(10..12)?;
    write_is_reported(&uffd, &memory, 11)?;
    no_fault(&uffd)?;
    memory.verify(memory.all())
}

fn unprotected_on_the_device(device: Device) -> Result<()> {
    let uffd = uffd()?;
    let memory = Memory::new(PAGES)?;
    uffd.register(&memory.region, 0..PAGES, Mode::WriteProtect)?;
    uffd.protect(&memory.region, 0..PAGES, true)?;
    memory.move_out(&device, memory.all())?;
    uffd.protect(&memory.region, 0..PAGES, false)?;
    memory.refill(2);
    no_fault(&uffd)?;
    memory.verify(memory.all())
}

fn move_of_resident_pages(device: Device) -> Result<()> {
    let uffd = uffd()?;
    let memory = Memory::new(PAGES)?;
    let target = Region::options(PAGES).huge(false).map()?;
    uffd.register(&target, 0..PAGES, Mode::Missing)?;
    memory.move_out(&device, 4..PAGES)?;
    // Four pages in system memory, then resident ones.
    match uffd.move_pages(&memory.region, 0..PAGES, &target, 0) {
        Ok(moved) => println!("moved {moved} pages"),
        Err(errno) => println!("refused with {errno}"),
    }
    let there = Survey::of(target.range())?;
    let moved = PAGES - there.absent();
    ensure!(
        moved >= 4,
        "the pages in system memory did not move: {moved}"
    );
    println!(
        "{moved} pages are at the new place, {} of them on the device",
        there.on_device()
    );
    memory.data().check(&target, 0..moved)?;
    if moved < PAGES {
        memory.verify(moved..PAGES)?;
    }
    all_at(
        "where they were",
        memory.region.part(0..moved),
        Where::Nowhere,
    )
}

fn move_of_returned_pages(device: Device) -> Result<()> {
    let uffd = uffd()?;
    let memory = Memory::new(PAGES)?;
    let target = Region::options(PAGES).huge(false).map()?;
    uffd.register(&target, 0..PAGES, Mode::Missing)?;
    memory.move_out(&device, memory.all())?;
    memory.move_back(&device, memory.all(), PAGES)?;
    equal(
        "UFFDIO_MOVE",
        uffd.move_pages(&memory.region, 0..PAGES, &target, 0),
        Ok(PAGES),
    )?;
    let (data, memory) = (memory.data(), Memory::of(target));
    let mut view = vec![0; memory.region.len()];
    device.migrate_to_device(memory.region.range(), &mut view)?;
    memory.expect("at their new place", memory.all(), Where::Device)?;
    data.check_bytes(&view, 0)?;
    data.check(&memory.region, 0..PAGES)?;
    Ok(())
}

fn device_reads_missing(device: Device) -> Result<()> {
    let uffd = uffd()?;
    let memory = Memory::untouched(PAGES)?;
    memory.fill(0..8);
    memory.move_out(&device, 0..4)?;
    uffd.register(&memory.region, 0..PAGES, Mode::Missing)?;
    let range = memory.region.range();
    let read = |device: &Device| {
        let mut view = vec![0; range.bytes() as usize];
        device.read_unlocked(range, &mut view)?;
        Ok(view)
    };
    let view = answering(&uffd, &memory, || read(&device))?;
    memory.data().check_bytes(&view, 0)?;
    memory.expect("resident pages", 0..4, Where::Device)?;
    memory.verify(memory.all())
}

fn device_writes_protected(device: Device) -> Result<()> {
    let uffd = uffd()?;
    let memory = Memory::new(PAGES)?;
    uffd.register(&memory.region, 0..PAGES, Mode::WriteProtect)?;
    memory.move_out(&device, 0..PAGES / 2)?;
    uffd.protect(&memory.region, 0..PAGES, true)?;
    let fresh = memory.data().round(2);
    let source = Memory::untouched(PAGES)?;
    fresh.fill(&source.region, 0..PAGES);
    let (range, bytes) = (memory.region.range(), source.region.to_bytes(0..PAGES));
    let counts = answering(&uffd, &memory, || Ok(device.write(range, &bytes)?))?;
    equal("pages written", counts.pages, PAGES as u64)?;
    fresh.check(&memory.region, 0..PAGES)?;
    Ok(())
}
