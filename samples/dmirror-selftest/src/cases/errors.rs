// SPDX-License-Identifier: GPL-2.0

//! Invalid calls: the errno of the header, true counts, and unchanged memory.

use dmirror_client::Command;
use dmirror_client::device::Buffer;

use crate::prelude::*;

cases! { "errors":
    unaligned_address = "An address inside a page is EINVAL, and the struct stays as it was."
        => no_ranges(|addr| [1, 8, 512, page_bytes() - 1].map(|offset| (addr + offset, 1)).to_vec()),
    no_pages = "A range of no pages is EINVAL." => no_ranges(|addr| vec![(addr, 0), (0, 0)]),
    wrapping_range = "A range that wraps around is EINVAL." => no_ranges(wrapping),
    page_count_overflow = "A number of pages whose bytes do not fit into 64 bits is EINVAL, not a small range."
        => no_ranges(overflowing),
    outside_of_the_address_space = "A range that leaves the address space is EINVAL.",
    unmapped_range = "A range with nothing mapped is EINVAL.",
    unmapped_hole = "A hole in the range is EINVAL; the count says what had moved by then.",
    bad_output = "A buffer that cannot be written is EFAULT, and the data stays whole.",
    bad_struct = "A struct that cannot be read is EFAULT."
        => |device: Device| bad_struct(&device, Protection::None),
    read_only_struct = "A struct that cannot be written back is EFAULT, and the data stays whole."
        => |device: Device| bad_struct(&device, Protection::Read),
    unknown_command = "A command that nobody defined is EINVAL.",
    wrong_size = "A known number with a struct of another size is EINVAL.",
    after_errors = "A device that has refused many calls still works.",
}

const BOTH: [Command; 2] = [Command::MigrateToDevice, Command::MigrateToSystem];

/// Checks that both commands refuse a range with EINVAL.
fn refused(device: &Device, addr: u64, pages: u64) -> Result<()> {
    for command in BOTH {
        let what = format!("{command} of {pages:#x} pages at {addr:#x}");
        let answer = device.call(command, addr, pages, Buffer::Null);
        fails(&what, answer, Errno::EINVAL)?;
    }
    Ok(())
}

/// Returns a case that checks that both commands refuse invalid ranges, and leave the struct
/// unchanged, without counts. `ranges` makes the ranges from the address of a page in use.
fn no_ranges(ranges: fn(u64) -> Vec<(u64, u64)>) -> impl Fn(Device) -> Result<()> {
    move |device| {
        let memory = Memory::new(4)?;
        for (addr, pages) in ranges(memory.region.addr()) {
            refused(&device, addr, pages)?;
            for command in BOTH {
                let answer = device.call(command, addr, pages, Buffer::Null);
                let counted = answer.is_err_and(|error| error.counts.is_some());
                let what = format!("counts of {command} of {pages:#x} pages at {addr:#x}");
                equal(&what, counted, false)?;
            }
        }
        memory.expect("the pages", memory.all(), Where::System)
    }
}

fn wrapping(addr: u64) -> Vec<(u64, u64)> {
    let last = u64::MAX - page_bytes() + 1;
    // One page more than there are from here to the last address.
    let more = (u64::MAX - addr) / page_bytes() + 2;
    vec![(last, 1), (last, 2), (addr, more)]
}

fn overflowing(addr: u64) -> Vec<(u64, u64)> {
    let all = u64::MAX / page_bytes() + 1; // as many pages as 64 bits can address
    [all, all + 1, all + 4, 2 * all + 1, u64::MAX]
        .map(|pages| (addr, pages))
        .to_vec()
}

fn outside_of_the_address_space(device: Device) -> Result<()> {
    let memory = Memory::new(4)?;
    let (addr, kernel) = (memory.region.addr(), 0xffff_8880_0000_0000);
    refused(&device, kernel, 1)?;
    refused(&device, 1 << 63, 1)?;
    refused(&device, addr, 1 << 50)?;
    refused(&device, addr, (1 << 51) - 1)
}

fn unmapped_range(device: Device) -> Result<()> {
    let memory = Memory::new(4)?;
    let range = memory.region.range();
    drop(memory);
    refused(&device, range.addr(), range.pages())?;
    refused(&device, 0, 1)
}

fn unmapped_hole(device: Device) -> Result<()> {
    let mut head = Memory::new(48)?;
    let (data, whole) = (head.data(), head.region.range());
    let mut middle = head.region.split_off(16);
    let tail = middle.split_off(16);
    drop(middle);
    let there =
        || -> Result<usize> { Ok(head.on_device()? + Survey::of(tail.range())?.on_device()) };

    let mut view = vec![0; whole.bytes() as usize];
    let answer = device.migrate_to_device(whole, &mut view);
    let counts = fails_counted("MIGRATE_TO_DEV over a hole", answer, Errno::EINVAL)?;
    let moved = there()?;
    equal("pages counted to be there", counts.pages, moved as u64)?;

    let answer = device.migrate_to_system(whole);
    let counts = fails_counted("MIGRATE_TO_SYS over a hole", answer, Errno::EINVAL)?;
    let back = moved - there()?;
    equal("pages counted to be back", counts.pages, back as u64)?;
    data.check(&head.region, 0..16)?;
    Ok(data.from_page(32).check(&tail, 0..16)?)
}

/// Sends MIGRATE_TO_DEV for all pages, with a buffer that is not writable; checks for EFAULT.
fn to_bad_output(device: &Device, memory: &Memory, output: Buffer<'_>) -> Result<()> {
    let (range, command) = (memory.region.range(), Command::MigrateToDevice);
    let answer = device.call(command, range.addr(), range.pages(), output);
    fails("a bad buffer", answer, Errno::EFAULT)
}

fn bad_output(device: Device) -> Result<()> {
    let (memory, output) = (Memory::new(16)?, Region::anonymous(16)?);
    to_bad_output(&device, &memory, Buffer::Null)?;
    memory.intact()?;
    for (pages, protection) in [
        (0..16, Protection::None),
        (0..16, Protection::Read),
        (0..8, Protection::ReadWrite), // half of it is writable
    ] {
        output.protect(pages, protection)?;
        to_bad_output(&device, &memory, Buffer::Region(&output))
            .with_context(|| format!("{protection:?}"))?;
        memory.intact()?;
    }
    memory.out_and_read(&device)
}

/// Sends both commands with a struct to which the program has `access`; checks for EFAULT.
fn bad_struct(device: &Device, access: Protection) -> Result<()> {
    let (memory, argument) = (Memory::new(8)?, Region::anonymous(1)?);
    Device::prepare(&argument, memory.region.range());
    argument.protect(0..1, access)?;
    for command in BOTH {
        let answer = device.call_at(command.number(), Device::STRUCT_SIZE, &argument);
        equal(&command.to_string(), answer, Err(Errno::EFAULT))?;
    }
    memory.intact()
}

/// Sends commands by number and size of the struct, which is a good one; checks for EINVAL.
fn unknown(device: &Device, calls: impl IntoIterator<Item = (u32, usize)>) -> Result<()> {
    let (memory, argument) = (Memory::new(4)?, Region::anonymous(1)?);
    Device::prepare(&argument, memory.region.range());
    for (number, size) in calls {
        let answer = device.call_at(number, size, &argument);
        let what = format!("command {number:#x} with {size} bytes");
        equal(&what, answer, Err(Errno::EINVAL))?;
    }
    memory.expect("the pages", memory.all(), Where::System)
}

fn unknown_command(device: Device) -> Result<()> {
    let size = Device::STRUCT_SIZE;
    unknown(&device, [(0x40, size), (0x7f, size), (0xff, size)])
}

fn wrong_size(device: Device) -> Result<()> {
    let sizes = |command: Command| [0, 32, 48].map(|size| (command.number(), size));
    unknown(&device, BOTH.into_iter().flat_map(sizes))
}

fn after_errors(device: Device) -> Result<()> {
    let memory = Memory::new(64)?;
    for round in 0..50 {
        refused(&device, memory.region.addr() + 1, 1)?;
        refused(&device, 0, 1)?;
        to_bad_output(&device, &memory, Buffer::Null).with_context(|| format!("round {round}"))?;
    }
    memory.intact()?;
    memory.out_and_back(&device)
}
