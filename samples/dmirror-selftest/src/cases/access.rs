// SPDX-License-Identifier: GPL-2.0

//! READ and WRITE of what cannot be read or written: the errno of the header,
//! and counts that say exactly how far the device came.

use dmirror_client::device::Buffer;
use dmirror_client::{Command, Pattern};

use crate::prelude::*;

cases! { "access":
    read_without_access = "READ of memory without access is EFAULT, wherever its pages are.",
    read_up_to_no_access = "READ that runs into memory without access is EFAULT; the count says what was read.",
    read_up_to_a_hole = "READ that runs into a hole in the address space is EFAULT; the count says what was read.",
    read_unmapped = "READ and READ_UNLOCKED where nothing is mapped are EFAULT, with a count of 0.",
    read_beyond_memory = "READ of more than there is memory for is no reason to run out of memory.",
    read_to_a_bad_buffer = "READ to a buffer that cannot be written is EFAULT; the count says how far it came.",
    write_read_only = "WRITE to read-only memory is EPERM, and changes nothing.",
    write_read_only_resident = "WRITE to read-only memory on the device is EPERM, and changes nothing.",
    write_up_to_read_only = "WRITE that runs into read-only memory is EPERM; the count says what was written.",
    write_without_access = "WRITE to memory without access is EFAULT, and changes nothing.",
    write_unmapped = "WRITE where nothing is mapped is EFAULT, with a count of 0.",
    write_up_to_a_hole = "WRITE that runs into a hole in the address space is EFAULT; the count says what was written.",
    write_from_a_bad_buffer = "WRITE from a buffer that cannot be read is EFAULT; the count says how far it came.",
    read_only_file = "WRITE to a file that is mapped for reading is EPERM, and the file stays as it is.",
    as_32_bit_program = "A 32-bit program's commands do what those of others do.",
    killed = "A process that is killed while it reads and writes a lot ends at once.",
}

const PAGES: usize = 40;

/// READs a range that cannot be read to its end, and checks that the pages that
/// were counted, and no others, were handed out.
fn reads_up_to(
    device: &Device,
    range: PageRange,
    good: usize,
    data: Pattern,
    errno: Errno,
) -> Result<()> {
    let mut view = vec![0xa5; range.bytes() as usize];
    let counts = fails_counted("READ", device.read(range, &mut view), errno)?;
    ensure!(
        counts.pages <= good as u64,
        "{} pages counted of {good} readable ones",
        counts.pages
    );
    let (read, rest) = view.split_at(counts.pages as usize * page_size());
    data.check_bytes(read, 0)?;
    ensure!(
        rest.iter().all(|byte| *byte == 0xa5),
        "more was handed out than the {} pages counted",
        counts.pages
    );
    Ok(())
}

/// WRITEs a range that cannot be written to its end, and checks by the CPU that
/// the pages that were counted, and no other of the `good` first, were written.
fn writes_up_to(
    device: &Device,
    range: PageRange,
    region: &Region,
    old: Pattern,
    errno: Errno,
) -> Result<()> {
    let new = old.round(9);
    let answer = device.write(range, &new.to_bytes(0..range.pages() as usize));
    let counts = fails_counted("WRITE", answer, errno)?;
    let (written, good) = (counts.pages as usize, region.pages());
    ensure!(
        written <= good,
        "{written} pages counted of {good} writable ones"
    );
    new.check(region, 0..written)?;
    old.check(region, written..good)?;
    Ok(())
}

fn read_without_access(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, 0..PAGES / 2)?;
    memory.device_reads(&device, memory.all())?;
    memory.region.protect(memory.all(), Protection::None)?;
    for pages in [0..PAGES, PAGES / 2..PAGES, 3..4] {
        let range = memory.region.part(pages.clone());
        let mut view = vec![0xa5; pages.len() * page_size()];
        for command in [Command::Read, Command::ReadUnlocked] {
            let buffer = Buffer::Output(&mut view);
            let answer = device.call(command, range.addr(), range.pages(), buffer);
            fails_at_once(&command.to_string(), answer, Errno::EFAULT)?;
        }
        ensure!(view.iter().all(|byte| *byte == 0xa5), "data was handed out");
    }
    memory.region.protect(memory.all(), Protection::Read)?;
    memory.device_reads(&device, memory.all())?;
    memory.verify(memory.all())
}

fn read_up_to_no_access(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, 5..15)?;
    memory.region.protect(25..30, Protection::None)?;
    let range = memory.region.range();
    reads_up_to(&device, range, 25, memory.data(), Errno::EFAULT)?;
    // The same with entries in the device's page table.
    memory.device_reads(&device, 0..25)?;
    reads_up_to(&device, range, 25, memory.data(), Errno::EFAULT)
}

fn read_up_to_a_hole(device: Device) -> Result<()> {
    let (memory, whole, _behind) = Memory::before_hole(PAGES / 2, PAGES / 2)?;
    memory.move_out(&device, 5..15)?;
    reads_up_to(&device, whole, PAGES / 2, memory.data(), Errno::EFAULT)?;
    memory.device_reads(&device, memory.all())?;
    reads_up_to(&device, whole, PAGES / 2, memory.data(), Errno::EFAULT)
}

fn read_unmapped(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.device_reads(&device, memory.all())?;
    let range = memory.region.range();
    drop(memory);
    for (addr, pages) in [(range.addr(), range.pages()), (0, 1)] {
        let mut view = vec![0xa5; pages as usize * page_size()];
        for command in [Command::Read, Command::ReadUnlocked] {
            let answer = device.call(command, addr, pages, Buffer::Output(&mut view));
            fails_at_once(&command.to_string(), answer, Errno::EFAULT)?;
        }
    }
    Ok(())
}

fn read_beyond_memory(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    // As far as addresses go. It fails at the first page: the buffer is null.
    let pages = ((1 << 47) - memory.region.addr()) / page_size() as u64 - 1;
    for command in [Command::Read, Command::Write, Command::Snapshot] {
        let answer = device.call(command, memory.region.addr(), pages, Buffer::Null);
        fails_at_once(&command.to_string(), answer, Errno::EFAULT)?;
    }
    memory.verify(memory.all())
}

/// Buffers that are bad from page 0, 0 and `PAGES / 2` on, and how to make them.
fn bad_buffers(good: Protection) -> Result<[(usize, Region); 2]> {
    let (none, half) = (Region::anonymous(PAGES)?, Region::anonymous(PAGES)?);
    let bad = match good {
        Protection::Read => Protection::None,
        _ => Protection::Read,
    };
    none.protect(0..PAGES, Protection::None)?;
    half.protect(PAGES / 2..PAGES, bad)?;
    Ok([(0, none), (PAGES / 2, half)])
}

fn read_to_a_bad_buffer(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, 0..PAGES / 2)?;
    let range = memory.region.range();
    let read = |buffer| device.call(Command::Read, range.addr(), range.pages(), buffer);

    fails_at_once("READ to null", read(Buffer::Null), Errno::EFAULT)?;
    let buffers = bad_buffers(Protection::ReadWrite)?;
    for (good, buffer) in &buffers {
        let good = *good;
        let answer = read(Buffer::Region(buffer));
        let counts = fails_counted("READ", answer, Errno::EFAULT)?;
        ensure!(
            counts.pages <= good as u64,
            "{} pages counted, with room for {good}",
            counts.pages
        );
        let bytes = buffer.to_bytes(0..counts.pages as usize);
        memory.data().check_bytes(&bytes, 0)?;
    }
    memory.expect("pages on the device", 0..PAGES / 2, Where::Device)?;
    memory.device_reads(&device, memory.all()).map(drop)
}

/// Takes the right to write away, and checks that the device cannot write either.
fn cannot_be_written(device: &Device, memory: &Memory) -> Result<()> {
    memory.region.protect(memory.all(), Protection::Read)?;
    let bytes = memory.data().round(9).to_bytes(memory.all());
    for _ in 0..2 {
        let answer = device.write(memory.region.range(), &bytes);
        fails_at_once("WRITE", answer, Errno::EPERM)?;
        memory.device_reads(device, memory.all())?;
    }
    memory.verify(memory.all())
}

fn write_read_only(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.device_refills(&device, 2)?; // it had writable entries
    cannot_be_written(&device, &memory)
}

fn write_read_only_resident(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    memory.device_refills(&device, 2)?;
    cannot_be_written(&device, &memory)
}

fn write_up_to_read_only(device: Device) -> Result<()> {
    for resident in [0..0, 0..PAGES] {
        let mut memory = Memory::new(PAGES)?;
        if !resident.is_empty() {
            memory.move_out(&device, resident)?;
        }
        let (data, whole) = (memory.data(), memory.region.range());
        let tail = memory.region.split_off(PAGES / 2);
        tail.protect(0..10, Protection::Read)?;
        writes_up_to(&device, whole, &memory.region, data, Errno::EPERM)?;
        data.from_page(PAGES / 2).check(&tail, 0..tail.pages())?;
    }
    Ok(())
}

fn write_without_access(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, 0..PAGES / 2)?;
    memory.device_refills(&device, 2)?;
    memory.region.protect(memory.all(), Protection::None)?;
    let bytes = memory.data().round(9).to_bytes(memory.all());
    let answer = device.write(memory.region.range(), &bytes);
    fails_at_once("WRITE", answer, Errno::EFAULT)?;
    memory.region.protect(memory.all(), Protection::ReadWrite)?;
    memory.device_reads(&device, memory.all())?;
    memory.verify(memory.all())
}

fn write_unmapped(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.device_refills(&device, 2)?;
    let (range, bytes) = (memory.region.range(), memory.data().to_bytes(0..PAGES));
    drop(memory);
    fails_at_once("WRITE", device.write(range, &bytes), Errno::EFAULT)?;
    let answer = device.call(Command::Write, 0, 1, Buffer::Input(&bytes));
    fails("WRITE to page 0", answer, Errno::EFAULT)
}

fn write_up_to_a_hole(device: Device) -> Result<()> {
    let (memory, whole, _behind) = Memory::before_hole(PAGES / 2, PAGES / 2)?;
    memory.move_out(&device, 5..15)?;
    let data = memory.data();
    writes_up_to(&device, whole, &memory.region, data, Errno::EFAULT)?;
    memory.device_refills(&device, 2)?;
    let data = memory.data();
    writes_up_to(&device, whole, &memory.region, data, Errno::EFAULT)
}

fn write_from_a_bad_buffer(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, 0..PAGES / 2)?;
    let range = memory.region.range();
    let write = |buffer| device.call(Command::Write, range.addr(), range.pages(), buffer);

    fails_at_once("WRITE from null", write(Buffer::Null), Errno::EFAULT)?;
    let (old, new) = (memory.data(), memory.data().round(9));
    let buffers = bad_buffers(Protection::Read)?;
    for (good, buffer) in &buffers {
        let good = *good;
        new.fill(buffer, 0..good);
        let answer = write(Buffer::Region(buffer));
        let counts = fails_counted("WRITE", answer, Errno::EFAULT)?;
        let written = counts.pages as usize;
        ensure!(
            written <= good,
            "{written} pages counted, with data for {good}"
        );
        new.check(&memory.region, 0..written)?;
        old.check(&memory.region, written..PAGES)?;
    }
    Ok(())
}

fn read_only_file(device: Device) -> Result<()> {
    let page = page_size() as u64;
    // A constant of the program: a private mapping of its file.
    static CONSTANT: [u8; 3] = *b"abc";
    let range = PageRange::new(CONSTANT.as_ptr() as u64 / page * page, 1)?;
    let bytes = vec![0; page_size()];
    fails_at_once("WRITE", device.write(range, &bytes), Errno::EPERM)?;
    let mut view = vec![0; page_size()];
    equal("pages read", device.read(range, &mut view)?.pages, 1)?;
    let at = CONSTANT.as_ptr() as usize % page_size();
    let shown = view[at..].iter().zip(CONSTANT).all(|(a, b)| *a == b);
    ensure!(shown, "the device read something else");
    Ok(())
}

#[cfg(not(target_arch = "x86_64"))]
fn as_32_bit_program(_: &Context) -> Result<()> {
    crate::check::skip("no way to be a 32-bit program here")
}

#[cfg(target_arch = "x86_64")]
fn as_32_bit_program(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    let range = memory.region.range();
    let send = |pages| device.call_as_32_bit(Command::MigrateToSystem, range.addr(), pages);
    // In a child, which a kernel without such an entry kills.
    let child = helper(|| {
        let refused = send(0);
        let counts = send(range.pages());
        equal("no pages", refused, Err(Errno::EINVAL))?;
        equal(
            "pages moved back",
            counts.map(|counts| counts.pages),
            Ok(PAGES as u64),
        )
    })?;
    match child.exit()? {
        Exit::Status(0) => {}
        Exit::Signal(Signal::SIGSEGV) => {
            return crate::check::skip("this kernel runs no 32-bit programs");
        }
        end => anyhow::bail!("the child ended with {end:?}"),
    }
    memory.expect("after moving back", memory.all(), Where::System)?;
    memory.verify(memory.all())
}

fn killed(context: &Context) -> Result<()> {
    const PAGES: usize = 64 << 20 >> 12;
    for wait in [5, 30, 200] {
        let started = Gate::new()?;
        let child = helper(|| {
            let device = context.open()?;
            let region = Region::options(PAGES).align(HUGE).huge(false).map()?;
            let mut view = vec![0; region.len()];
            started.open()?;
            loop {
                device.read(region.range(), &mut view)?;
                device.write(region.range(), &view)?;
            }
        })?;
        started.wait()?;
        std::thread::sleep(Duration::from_millis(wait));
        let start = Instant::now();
        child.signal(Signal::SIGKILL)?;
        child.was_killed()?;
        println!("ended after {:.1?}", start.elapsed());
        ensure!(
            start.elapsed() < Duration::from_secs(10),
            "it took {:.1?}",
            start.elapsed()
        );
    }
    let device = context.open()?;
    Memory::new(4)?.device_reads(&device, 0..4).map(drop)
}
