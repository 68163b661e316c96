// SPDX-License-Identifier: GPL-2.0

//! What is no sensible call: the errno of the header, true counts, and memory
//! that is as it was.

use dmirror_client::Command;
use dmirror_client::device::Buffer;

use crate::prelude::*;

cases! { "errors":
    unaligned_address = "An address inside a page is EINVAL, and the struct stays as it was.",
    no_pages = "A range of no pages is EINVAL.",
    wrapping_range = "A range that wraps around is EINVAL.",
    page_count_overflow = "A number of pages whose bytes do not fit into 64 bits is EINVAL, not a small range.",
    outside_of_the_address_space = "A range that leaves the address space is EINVAL.",
    unmapped_range = "A range with nothing mapped is EINVAL.",
    unmapped_hole = "A hole in the range is EINVAL; the count says what had moved by then.",
    bad_output = "A buffer that cannot be written is EFAULT, and the data stays whole.",
    bad_struct = "A struct that cannot be read is EFAULT.",
    read_only_struct = "A struct that cannot be written back is EFAULT, and the data stays whole.",
    unknown_command = "A command that nobody defined is EINVAL.",
    wrong_size = "A known number with a struct of another size is EINVAL.",
    after_errors = "A device that has refused many calls still works.",
}

const BOTH: [Command; 2] = [Command::MigrateToDevice, Command::MigrateToSystem];

/// Checks that both commands refuse a range with EINVAL.
fn refused(device: &Device, addr: u64, pages: u64) -> Result<()> {
    for command in BOTH {
        let what = format!("{command} of {pages:#x} pages at {addr:#x}");
        fails(
            &what,
            device.call(command, addr, pages, Buffer::Null),
            Errno::EINVAL,
        )?;
    }
    Ok(())
}

/// Checks that both commands refuse what is no range, and leave the struct as it
/// was: there are no counts in it.
fn no_range(device: &Device, addr: u64, pages: u64) -> Result<()> {
    refused(device, addr, pages)?;
    for command in BOTH {
        if let Err(error) = device.call(command, addr, pages, Buffer::Null) {
            let what = format!("counts of {command} of {pages:#x} pages at {addr:#x}");
            equal(&what, error.counts.is_some(), false)?;
        }
    }
    Ok(())
}

/// A page that is in use, to build ranges from.
fn used_page() -> Result<Memory> {
    Memory::new(4)
}

fn unaligned_address(device: Device) -> Result<()> {
    let memory = used_page()?;
    for offset in [1, 8, 512, page_size() as u64 - 1] {
        no_range(&device, memory.region.addr() + offset, 1)?;
    }
    memory.expect("the pages", memory.all(), Where::System)
}

fn no_pages(device: Device) -> Result<()> {
    let memory = used_page()?;
    no_range(&device, memory.region.addr(), 0)?;
    no_range(&device, 0, 0)
}

fn wrapping_range(device: Device) -> Result<()> {
    let memory = used_page()?;
    let page = page_size() as u64;
    let (addr, last) = (memory.region.addr(), u64::MAX - page + 1);
    no_range(&device, last, 1)?;
    no_range(&device, last, 2)?;
    // One page more than there are from here to the last address.
    no_range(&device, addr, (u64::MAX - addr) / page + 2)?;
    memory.expect("the pages", memory.all(), Where::System)
}

fn page_count_overflow(device: Device) -> Result<()> {
    let memory = used_page()?;
    let all = u64::MAX / page_size() as u64 + 1; // as many pages as 64 bits can address
    for pages in [all, all + 1, all + 4, 2 * all + 1, u64::MAX] {
        no_range(&device, memory.region.addr(), pages)?;
    }
    memory.expect("the pages", memory.all(), Where::System)
}

fn outside_of_the_address_space(device: Device) -> Result<()> {
    let memory = used_page()?;
    let kernel = 0xffff_8880_0000_0000;
    refused(&device, kernel, 1)?;
    refused(&device, 1 << 63, 1)?;
    refused(&device, memory.region.addr(), 1 << 50)?;
    refused(&device, memory.region.addr(), (1 << 51) - 1)
}

fn unmapped_range(device: Device) -> Result<()> {
    let memory = used_page()?;
    let range = memory.region.range();
    drop(memory);
    refused(&device, range.addr(), range.pages())?;
    refused(&device, 0, 1)
}

fn unmapped_hole(device: Device) -> Result<()> {
    let mut head = Memory::new(48)?;
    let data = head.data();
    let mut middle = head.region.split_off(16);
    let tail = middle.split_off(16);
    drop(middle);
    let whole = PageRange::new(head.region.addr(), 48)?;
    let mut view = vec![0; whole.bytes() as usize];

    let answer = device.migrate_to_device(whole, &mut view);
    let counts = fails_counted("MIGRATE_TO_DEV over a hole", answer, Errno::EINVAL)?;
    let moved =
        Survey::of(head.region.range())?.on_device() + Survey::of(tail.range())?.on_device();
    equal(
        "pages counted, and pages on the device",
        counts.pages,
        moved as u64,
    )?;

    let answer = device.migrate_to_system(whole);
    let counts = fails_counted("MIGRATE_TO_SYS over a hole", answer, Errno::EINVAL)?;
    let left = Survey::of(head.region.range())?.on_device() + Survey::of(tail.range())?.on_device();
    equal(
        "pages counted, and pages that came back",
        counts.pages,
        (moved - left) as u64,
    )?;
    data.check(&head.region, 0..16)?;
    data.from_page(32).check(&tail, 0..16)?;
    Ok(())
}

fn bad_output(device: Device) -> Result<()> {
    let memory = Memory::new(16)?;
    let output = Region::anonymous(16)?;
    let range = memory.region.range();
    let send = |output| {
        device.call(
            Command::MigrateToDevice,
            range.addr(),
            range.pages(),
            output,
        )
    };

    fails("null buffer", send(Buffer::Null), Errno::EFAULT)?;
    memory.verify(memory.all())?;
    output.protect(0..16, Protection::None)?;
    fails(
        "buffer without access",
        send(Buffer::Region(&output)),
        Errno::EFAULT,
    )?;
    memory.verify(memory.all())?;
    output.protect(0..16, Protection::Read)?;
    fails(
        "read-only buffer",
        send(Buffer::Region(&output)),
        Errno::EFAULT,
    )?;
    memory.verify(memory.all())?;
    output.protect(0..8, Protection::ReadWrite)?;
    fails(
        "buffer of which half is writable",
        send(Buffer::Region(&output)),
        Errno::EFAULT,
    )?;
    memory.verify(memory.all())?;
    memory.move_out(&device, memory.all())?;
    memory.verify(memory.all())
}

fn bad_struct(device: Device) -> Result<()> {
    let argument = Region::anonymous(1)?;
    argument.protect(0..1, Protection::None)?;
    for command in BOTH {
        let answer = device.call_at(command.number(), Device::STRUCT_SIZE, &argument);
        equal(
            &format!("{command} with an unreadable struct"),
            answer,
            Err(Errno::EFAULT),
        )?;
    }
    Ok(())
}

fn read_only_struct(device: Device) -> Result<()> {
    let memory = Memory::new(8)?;
    for command in BOTH {
        let argument = Region::anonymous(1)?;
        Device::prepare(&argument, memory.region.range());
        argument.protect(0..1, Protection::Read)?;
        let answer = device.call_at(command.number(), Device::STRUCT_SIZE, &argument);
        equal(
            &format!("{command} with a read-only struct"),
            answer,
            Err(Errno::EFAULT),
        )?;
    }
    memory.verify(memory.all())
}

fn unknown_command(device: Device) -> Result<()> {
    let memory = used_page()?;
    let argument = Region::anonymous(1)?;
    Device::prepare(&argument, memory.region.range());
    for number in [0x40, 0x7f, 0xff] {
        let answer = device.call_at(number, Device::STRUCT_SIZE, &argument);
        equal(&format!("command {number:#x}"), answer, Err(Errno::EINVAL))?;
    }
    memory.expect("the pages", memory.all(), Where::System)
}

fn wrong_size(device: Device) -> Result<()> {
    let memory = used_page()?;
    let argument = Region::anonymous(1)?;
    Device::prepare(&argument, memory.region.range());
    for command in BOTH {
        for size in [0, 32, 48] {
            let answer = device.call_at(command.number(), size, &argument);
            equal(
                &format!("{command} with a struct of {size} bytes"),
                answer,
                Err(Errno::EINVAL),
            )?;
        }
    }
    memory.expect("the pages", memory.all(), Where::System)
}

fn after_errors(device: Device) -> Result<()> {
    let memory = Memory::new(64)?;
    for round in 0..50 {
        refused(&device, memory.region.addr() + 1, 1)?;
        refused(&device, 0, 1)?;
        let range = memory.region.range();
        let answer = device.call(
            Command::MigrateToDevice,
            range.addr(),
            range.pages(),
            Buffer::Null,
        );
        fails("null buffer", answer, Errno::EFAULT).with_context(|| format!("round {round}"))?;
    }
    memory.verify(memory.all())?;
    memory.move_out(&device, memory.all())?;
    memory.move_back(&device, memory.all(), 64)?;
    memory.verify(memory.all())
}
