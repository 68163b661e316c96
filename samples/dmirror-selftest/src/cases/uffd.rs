// SPDX-License-Identifier: GPL-2.0

//! userfaultfd: a program that answers faults itself, and pages on the device.

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

/// Creates a userfaultfd, or skips.
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

/// Registers memory, so that the program answers its faults of one kind.
fn answered(memory: Memory, mode: Mode) -> Result<(Uffd, Memory)> {
    let uffd = uffd()?;
    uffd.register(&memory.region, memory.all(), mode)?;
    Ok((uffd, memory))
}

/// Creates filled memory whose pages may be protected, and protects them if `protected` is true.
fn protectable(protected: bool) -> Result<(Uffd, Memory)> {
    let (uffd, memory) = answered(Memory::new(PAGES)?, Mode::WriteProtect)?;
    if protected {
        uffd.protect(&memory.region, memory.all(), true)?;
    }
    Ok((uffd, memory))
}

/// Checks that no fault waits for an answer.
fn no_fault(uffd: &Uffd) -> Result<()> {
    equal("faults", uffd.wait(Duration::ZERO)?, None)
}

/// Writes the first word of a page, with its old value, in another thread. Checks that the write
/// waits for an answer to a fault on a protected page, and answers it.
fn write_is_reported(uffd: &Uffd, memory: &Memory, page: usize) -> Result<()> {
    let (region, value) = (&memory.region, memory.data().word(page, 0));
    let word = page * Region::words_per_page();
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            region.store(word, value);
            anyhow::Ok(())
        });
        let fault = uffd.wait(PATIENCE);
        // The writer must get on, also after an error.
        let waits = !writer.is_finished();
        uffd.protect(region, page..page + 1, false)?;
        joined(writer)?;
        let fault = fault?.with_context(|| format!("a write to page {page} raised no fault"))?;
        ensure!(waits, "the write did not wait for the answer");
        let is_right = fault.protected && fault.write;
        ensure!(is_right, "expected a write to a protected page: {fault:?}");
        equal("address", fault.addr, region.part(page..page + 1).addr())
    })?;
    equal("word written", region.load(word), value)
}

fn holes_stay_holes(device: Device) -> Result<()> {
    let memory = Memory::untouched(PAGES)?;
    memory.fill(4..12);
    let (uffd, memory) = answered(memory, Mode::Missing)?;
    let counts = fails_counted("MIGRATE_TO_DEV", memory.try_out(&device), Errno::ENOENT)?;
    equal("pages moved", counts.pages, 8)?;
    memory.only(4..12, Where::Device, Where::Nowhere)?;
    no_fault(&uffd)?;
    memory.verify(4..12)
}

fn copied(device: Device) -> Result<()> {
    let (uffd, memory) = answered(Memory::untouched(PAGES)?, Mode::Missing)?;
    let copied = uffd.copy(&memory.region, 0, &memory.data().to_bytes(0..PAGES))?;
    equal("pages copied", copied, PAGES)?;
    memory.out(&device)?;
    memory.verify(0..PAGES / 2)?;
    memory.move_back(&device, PAGES / 2..PAGES, PAGES / 2)?;
    no_fault(&uffd)?;
    memory.intact()
}

fn zeroed(device: Device) -> Result<()> {
    let (uffd, memory) = answered(Memory::untouched(PAGES)?, Mode::Missing)?;
    uffd.zero(&memory.region, 0..PAGES)?;
    let mut view = vec![1; memory.region.len()];
    match device.migrate_to_device(memory.region.range(), &mut view) {
        Ok(_) => {
            zeros("the device's view", &view)?;
            memory.expect("after moving out", memory.all(), Where::Device)?;
        }
        // Here the kernel mistakes zero pages for holes.
        Err(error) => {
            equal("answer", error.errno, Errno::ENOENT)?;
            memory.expect("after a refusal", memory.all(), Where::System)?;
        }
    }
    memory.is_zero(0..PAGES)?;
    memory.refill(2);
    no_fault(&uffd)?;
    memory.intact()
}

fn copy_onto_resident(device: Device) -> Result<()> {
    let (uffd, memory) = answered(Memory::new(PAGES)?, Mode::Missing)?;
    memory.out(&device)?;
    let copied = uffd.copy(&memory.region, 3, &vec![0x5a; page_size()]);
    equal("UFFDIO_COPY onto one there", copied, Err(Errno::EEXIST))?;
    let zeroed = uffd.zero(&memory.region, 4..5);
    equal("UFFDIO_ZEROPAGE onto one there", zeroed, Err(Errno::EEXIST))?;
    memory.expect("after both", memory.all(), Where::Device)?;
    memory.intact()
}

fn missing_after_dontneed(device: Device) -> Result<()> {
    let (uffd, memory) = answered(Memory::resident(&device, PAGES)?, Mode::Missing)?;
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
    let (uffd, memory) = protectable(false)?;
    memory.out(&device)?;
    uffd.protect(&memory.region, 0..PAGES, true)?;
    memory.expect("after protection", memory.all(), Where::Device)?;
    write_is_reported(&uffd, &memory, 5)?;
    memory.intact()?; // reading needs no answer
    no_fault(&uffd)?;
    write_is_reported(&uffd, &memory, 7)
}

fn protection_goes_out_and_back(device: Device) -> Result<()> {
    let (uffd, memory) = protectable(true)?;
    memory.out(&device)?;
    write_is_reported(&uffd, &memory, 3)?;
    memory.move_back(&device, 8..PAGES, PAGES - 8)?;
    write_is_reported(&uffd, &memory, 9)?;
    memory.out(&device)?;
    memory.verify(10..12)?;
    write_is_reported(&uffd, &memory, 11)?;
    no_fault(&uffd)?;
    memory.intact()
}

fn unprotected_on_the_device(device: Device) -> Result<()> {
    let (uffd, memory) = protectable(true)?;
    memory.out(&device)?;
    uffd.protect(&memory.region, 0..PAGES, false)?;
    memory.refill(2);
    no_fault(&uffd)?;
    memory.intact()
}

/// Creates memory, and a target of the same size without pages to move it to.
fn with_target() -> Result<(Uffd, Memory, Region)> {
    let (uffd, target) = answered(Memory::untouched(PAGES)?, Mode::Missing)?;
    Ok((uffd, Memory::new(PAGES)?, target.region))
}

fn move_of_resident_pages(device: Device) -> Result<()> {
    let (uffd, memory, target) = with_target()?;
    memory.move_out(&device, 4..PAGES)?;
    // Four pages in system memory, then resident ones.
    match uffd.move_pages(&memory.region, 0..PAGES, &target, 0) {
        Ok(moved) => println!("moved {moved} pages"),
        Err(errno) => println!("refused with {errno}"),
    }
    let there = Survey::of(target.range())?;
    let moved = PAGES - there.absent();
    let there = there.on_device();
    ensure!(moved >= 4, "moved {moved} of those in system memory");
    println!("{moved} pages are at the new place, {there} of them there");
    memory.data().check(&target, 0..moved)?;
    if moved < PAGES {
        memory.verify(moved..PAGES)?;
    }
    memory.expect("where they were", 0..moved, Where::Nowhere)
}

fn move_of_returned_pages(device: Device) -> Result<()> {
    let (uffd, memory, target) = with_target()?;
    memory.out(&device)?;
    memory.move_back(&device, memory.all(), PAGES)?;
    let moved = uffd.move_pages(&memory.region, 0..PAGES, &target, 0);
    equal("UFFDIO_MOVE", moved, Ok(PAGES))?;
    let (data, memory) = (memory.data(), Memory::of(target));
    let mut view = vec![0; memory.region.len()];
    device.migrate_to_device(memory.region.range(), &mut view)?;
    memory.expect("at their new place", memory.all(), Where::Device)?;
    data.check_bytes(&view, 0)?;
    Ok(data.check(&memory.region, 0..PAGES)?)
}

fn device_reads_missing(device: Device) -> Result<()> {
    let memory = Memory::untouched(PAGES)?;
    memory.fill(0..8);
    memory.move_out(&device, 0..4)?;
    let (uffd, memory) = answered(memory, Mode::Missing)?;
    let (range, mut view) = (memory.region.range(), vec![0; memory.region.len()]);
    answering(&uffd, &memory, || {
        Ok(device.read_unlocked(range, &mut view)?)
    })?;
    memory.data().check_bytes(&view, 0)?;
    memory.expect("resident pages", 0..4, Where::Device)?;
    memory.intact()
}

fn device_writes_protected(device: Device) -> Result<()> {
    let (uffd, memory) = protectable(false)?;
    memory.move_out(&device, 0..PAGES / 2)?;
    uffd.protect(&memory.region, 0..PAGES, true)?;
    let fresh = memory.data().round(2);
    let (range, bytes) = (memory.region.range(), fresh.to_bytes(0..PAGES));
    let counts = answering(&uffd, &memory, || Ok(device.write(range, &bytes)?))?;
    equal("pages written", counts.pages, PAGES as u64)?;
    Ok(fresh.check(&memory.region, 0..PAGES)?)
}
