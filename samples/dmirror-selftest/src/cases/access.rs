// SPDX-License-Identifier: GPL-2.0

//! READ and WRITE of memory that cannot be read or written: the errno of the header, and counts
//! that give the exact progress of the device.

use dmirror_client::device::Buffer;
use dmirror_client::{Command, Pattern};

use crate::prelude::*;
use crate::steps::{ALL, HALF, PAGES, Verb::*, Who::*, small, steps};

cases! { "access":
    read_without_access = "READ of memory without access is EFAULT, wherever its pages are.",
    read_up_to_no_access = "READ that runs into memory without access is EFAULT; the count says what was read.",
    read_up_to_a_hole = "READ that runs into a hole in the address space is EFAULT; the count says what was read.",
    read_unmapped = "READ and READ_UNLOCKED where nothing is mapped are EFAULT, with a count of 0.",
    read_beyond_memory = "READ of more than there is memory for is no reason to run out of memory.",
    read_to_a_bad_buffer = "READ to a buffer that cannot be written is EFAULT; the count says how far it came.",
    write_read_only = "WRITE to read-only memory is EPERM, and changes nothing." => steps(small, [
            (A, Writes), // it had writable entries
            (Cpu, Protects(ALL, Protection::Read)),
            (Cpu, Times(2, vec![(A, Fails(Command::Write, Errno::EPERM)), (A, Reads(ALL))])),
            (Cpu, Reads(ALL)),
        ]),
    write_read_only_resident = "WRITE to read-only memory on the device is EPERM, and changes nothing."
        => steps(small, [
            (A, Out(ALL)), (A, Writes), (Cpu, Protects(ALL, Protection::Read)),
            (Cpu, Times(2, vec![(A, Fails(Command::Write, Errno::EPERM)), (A, Reads(ALL))])),
            (Cpu, Reads(ALL)),
        ]),
    write_up_to_read_only = "WRITE that runs into read-only memory is EPERM; the count says what was written.",
    write_without_access = "WRITE to memory without access is EFAULT, and changes nothing."
        => steps(small, [
            (A, Out(HALF)), (A, Writes), (Cpu, Protects(ALL, Protection::None)),
            (A, Fails(Command::Write, Errno::EFAULT)), (Cpu, Protects(ALL, Protection::ReadWrite)),
            (A, Reads(ALL)), (Cpu, Reads(ALL)),
        ]),
    write_unmapped = "WRITE where nothing is mapped is EFAULT, with a count of 0.",
    write_up_to_a_hole = "WRITE that runs into a hole in the address space is EFAULT; the count says what was written.",
    write_from_a_bad_buffer = "WRITE from a buffer that cannot be read is EFAULT; the count says how far it came.",
    read_only_file = "WRITE to a file that is mapped for reading is EPERM, and the file stays as it is.",
    as_32_bit_program = "A 32-bit program's commands do what those of others do.",
    killed = "A process that is killed while it reads and writes a lot ends at once.",
}

/// READs a range that is not readable to its end, with and without entries for its good part.
/// Checks that READ returned the pages that it counted, and no others.
fn reads_up_to(device: &Device, range: PageRange, good: usize, memory: &Memory) -> Result<()> {
    for mapped in [false, true] {
        if mapped {
            memory.device_reads(device, 0..good)?;
        }
        let mut view = vec![0xa5; range.bytes() as usize];
        let answer = device.read(range, &mut view);
        let pages = fails_counted("READ", answer, Errno::EFAULT)?.pages;
        ensure!(pages <= good as u64, "{pages} pages counted of {good}");
        let (read, rest) = view.split_at(pages as usize * page_size());
        memory.data().check_bytes(read, 0)?;
        let more = rest.iter().any(|byte| *byte != 0xa5);
        ensure!(!more, "more was handed out than {pages} pages");
    }
    Ok(())
}

/// WRITEs a range that is not writable to its end, and checks with the CPU that the pages that were
/// counted, and no other pages of `memory`, were written.
fn writes_up_to(device: &Device, range: PageRange, memory: &Memory, errno: Errno) -> Result<()> {
    let (old, new) = (memory.data(), memory.data().round(9));
    let answer = device.write(range, &new.to_bytes(0..range.pages() as usize));
    let written = fails_counted("WRITE", answer, errno)?.pages as usize;
    wrote_up_to(&memory.region, [old, new], written, memory.region.pages())
}

/// Checks with the CPU that `written` pages of a region were written, and no others.
fn wrote_up_to(region: &Region, data: [Pattern; 2], written: usize, good: usize) -> Result<()> {
    ensure!(written <= good, "{written} pages counted of {good}");
    data[1].check(region, 0..written)?;
    Ok(data[0].check(region, written..region.pages())?)
}

/// Checks that READ and READ_UNLOCKED of an unreadable range fail, and return no data.
fn reads_nothing(device: &Device, range: PageRange) -> Result<()> {
    let mut view = vec![0xa5; range.bytes() as usize];
    for command in [Command::Read, Command::ReadUnlocked] {
        let buffer = Buffer::Output(&mut view);
        let answer = device.call(command, range.addr(), range.pages(), buffer);
        fails_at_once(&command.to_string(), answer, Errno::EFAULT)?;
    }
    ensure!(view.iter().all(|byte| *byte == 0xa5), "data was handed out");
    Ok(())
}

fn read_without_access(device: Device) -> Result<()> {
    let memory = small()?;
    memory.move_out(&device, HALF)?;
    memory.reads(&device)?;
    memory.region.protect(memory.all(), Protection::None)?;
    for pages in [0..PAGES, PAGES / 2..PAGES, 3..4] {
        reads_nothing(&device, memory.region.part(pages))?;
    }
    memory.region.protect(memory.all(), Protection::Read)?;
    memory.both_read(&device)
}

fn read_up_to_no_access(device: Device) -> Result<()> {
    let memory = small()?;
    memory.move_out(&device, 5..15)?;
    memory.region.protect(25..30, Protection::None)?;
    reads_up_to(&device, memory.region.range(), 25, &memory)
}

fn read_up_to_a_hole(device: Device) -> Result<()> {
    let (memory, whole, _behind) = Memory::before_hole(PAGES / 2, PAGES / 2)?;
    memory.move_out(&device, 5..15)?;
    reads_up_to(&device, whole, PAGES / 2, &memory)
}

fn read_unmapped(device: Device) -> Result<()> {
    let memory = small()?;
    memory.reads(&device)?;
    let range = memory.region.range();
    drop(memory);
    reads_nothing(&device, range)?;
    reads_nothing(&device, PageRange::new(0, 1)?)
}

fn read_beyond_memory(device: Device) -> Result<()> {
    let memory = small()?;
    // The range ends at the last address, near which the kernel has mapped the memory. The command
    // fails at the first page, since the buffer is null.
    let end = memory.region.addr().next_power_of_two();
    let pages = (end - memory.region.addr()) / page_size() as u64 - 1;
    for command in [Command::Read, Command::Write, Command::Snapshot] {
        let answer = device.call(command, memory.region.addr(), pages, Buffer::Null);
        fails_at_once(&command.to_string(), answer, Errno::EFAULT)?;
    }
    memory.intact()
}

/// Checks that a command fails without a buffer, then with buffers of which no page and half of the
/// pages are good; `bad` is the protection of the other half. `done` gets the buffer, the number of
/// counted pages, and the number of good pages.
fn with_bad_buffers(
    device: &Device,
    command: Command,
    memory: &Memory,
    bad: Protection,
    done: impl Fn(&Region, usize, usize) -> Result<()>,
) -> Result<()> {
    let (range, what) = (memory.region.range(), command.to_string());
    let call = |buffer| device.call(command, range.addr(), range.pages(), buffer);
    fails_at_once(&what, call(Buffer::Null), Errno::EFAULT)?;
    let (none, half) = (Region::anonymous(PAGES)?, Region::anonymous(PAGES)?);
    for (buffer, good, bad) in [(&none, 0, Protection::None), (&half, PAGES / 2, bad)] {
        memory.data().round(9).fill(buffer, 0..good);
        buffer.protect(good..PAGES, bad)?;
        let answer = call(Buffer::Region(buffer));
        let counts = fails_counted(&what, answer, Errno::EFAULT)?;
        done(buffer, counts.pages as usize, good)?;
    }
    Ok(())
}

fn read_to_a_bad_buffer(device: Device) -> Result<()> {
    let memory = small()?;
    memory.move_out(&device, HALF)?;
    let read = |buffer: &Region, pages: usize, good: usize| {
        ensure!(pages <= good, "{pages} pages counted, with room for {good}");
        Ok(memory.data().check_bytes(&buffer.to_bytes(0..pages), 0)?)
    };
    with_bad_buffers(&device, Command::Read, &memory, Protection::Read, read)?;
    memory.expect("pages on the device", HALF, Where::Device)?;
    memory.reads(&device)
}

fn write_up_to_read_only(device: Device) -> Result<()> {
    for resident in [false, true] {
        let mut memory = Memory::placed(&device, PAGES, resident)?;
        let whole = memory.region.range();
        let tail = memory.region.split_off(PAGES / 2);
        tail.protect(0..10, Protection::Read)?;
        writes_up_to(&device, whole, &memory, Errno::EPERM)?;
        let data = memory.data().from_page(PAGES / 2);
        data.check(&tail, 0..tail.pages())?;
    }
    Ok(())
}

fn write_unmapped(device: Device) -> Result<()> {
    let memory = small()?;
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
    writes_up_to(&device, whole, &memory, Errno::EFAULT)?;
    memory.device_refills(&device, 2)?;
    writes_up_to(&device, whole, &memory, Errno::EFAULT)
}

fn write_from_a_bad_buffer(device: Device) -> Result<()> {
    let memory = small()?;
    memory.move_out(&device, HALF)?;
    let data = [memory.data(), memory.data().round(9)];
    let wrote = |_: &Region, pages, good| wrote_up_to(&memory.region, data, pages, good);
    with_bad_buffers(&device, Command::Write, &memory, Protection::None, wrote)
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
    skip("no way to be a 32-bit program here")
}

#[cfg(target_arch = "x86_64")]
fn as_32_bit_program(device: Device) -> Result<()> {
    let memory = Memory::resident(&device, PAGES)?;
    let range = memory.region.range();
    let send = |pages| device.call_as_32_bit(Command::MigrateToSystem, range.addr(), pages);
    as_32_bit(|| {
        let (refused, counts) = (send(0), send(range.pages()));
        equal("no pages", refused, Err(Errno::EINVAL))?;
        let pages = counts.map(|counts| counts.pages);
        equal("pages moved back", pages, Ok(PAGES as u64))
    })?;
    memory.expect("after moving back", memory.all(), Where::System)?;
    memory.intact()
}

fn killed(context: &Context) -> Result<()> {
    const PAGES: usize = 64 << 20 >> 12;
    for wait in [5, 30, 200] {
        let started = Gate::new()?;
        let child = helper(|| {
            let device = context.open()?;
            let region = Region::options(PAGES)
                .align(hpage_pmd_size())
                .huge(false)
                .map()?;
            let mut view = vec![0; region.len()];
            started.open()?;
            loop {
                device.read(region.range(), &mut view)?;
                device.write(region.range(), &view)?;
            }
        })?;
        started.wait()?;
        thread::sleep(Duration::from_millis(wait));
        let start = Instant::now();
        child.signal(Signal::SIGKILL)?;
        child.was_killed()?;
        let took = start.elapsed();
        println!("ended after {took:.1?}");
        ensure!(took < Duration::from_secs(10), "it took {took:.1?}");
    }
    Memory::new(4)?.reads(&context.open()?)
}
