// SPDX-License-Identifier: GPL-2.0

//! mmap() of the device file: memory of the kernel, which never migrates.

use dmirror_client::Command;

use crate::prelude::*;
use crate::steps::{ALL, Verb::*, Who::*, steps_with};

cases! { "mmap":
    zeroed = "A mapping of the device is there at once, and is zero.",
    cpu_and_device = "CPU and device read and write a mapping of the device." => steps_with(map, [
            (A, ReadsZeros(ALL)), (Cpu, Fills(ALL)), (A, Reads(ALL)), (A, Writes),
            (Cpu, Reads(ALL)), (Cpu, Writes), (A, Reads(ALL)),
        ]),
    private = "A private mapping of the device is read and written, too."
        => steps_with(map_privately, [
            (Cpu, ReadsZeros(ALL)), (Cpu, Fills(0..10)), (A, Fills(10..PAGES)), (A, Reads(ALL)),
            (Cpu, Reads(ALL)),
        ]),
    never_migrates = "A mapping of the device is refused with EINVAL by both migrations.",
    not_exclusive = "A mapping of the device cannot be made exclusive: EOPNOTSUPP.",
    fresh_pages = "Each mapping has pages of its own, zeroed again after others were unmapped.",
    outlives_the_file = "A mapping stays after the file was closed." => steps_with(map, [
            (Cpu, Fills(ALL)), (A, Closes), (Cpu, Reads(ALL)), (Cpu, Writes), (A, Reads(ALL)),
            (Cpu, Reads(ALL)),
        ]),
    unmapped_part = "Unmapping a part of the mapping leaves the rest of it right.",
    read_only = "The device does not write a mapping that was made read-only: EPERM."
        => steps_with(map, [
            (A, Fills(ALL)), (Cpu, Protects(ALL, Protection::Read)),
            (A, Fails(Command::Write, Errno::EPERM)), (A, Reads(ALL)), (Cpu, Reads(ALL)),
        ]),
    fork = "A child sees the mapping of its parent, and what both and the device write.",
    of_another_open = "One open file reads and writes what another one mapped." => steps_with(map, [
            (B, Fills(ALL)), (A, Reads(ALL)), (A, Closes), (B, Writes), (Cpu, Reads(ALL)),
        ]),
}

const PAGES: usize = 24;

/// Maps the device.
fn map(device: &Device) -> Result<Memory> {
    let region = Region::options(PAGES).shared_file(device.file()?).map()?;
    Ok(Memory::of(region))
}

fn map_privately(device: &Device) -> Result<Memory> {
    let region = Region::options(PAGES).private_file(device.file()?).map()?;
    Ok(Memory::of(region))
}

fn zeroed(device: Device) -> Result<()> {
    let memory = map(&device)?;
    memory.expect("before it is touched", memory.all(), Where::System)?;
    memory.is_zero(memory.all())
}

/// Checks that commands for a mapping of the device fail, and do not change it.
fn refused(device: &Device, commands: &[Command], errno: Errno) -> Result<()> {
    let memory = map(device)?;
    memory.fill(memory.all());
    for command in commands {
        let answer = memory.send(device, *command);
        fails_counted(&command.to_string(), answer, errno)?;
    }
    memory.expect("afterwards", memory.all(), Where::System)?;
    ensure!(!device.is_exclusive(memory.region.range())?);
    memory.intact()
}

fn never_migrates(device: Device) -> Result<()> {
    let both = [Command::MigrateToDevice, Command::MigrateToSystem];
    refused(&device, &both, Errno::EINVAL)
}

fn not_exclusive(device: Device) -> Result<()> {
    refused(&device, &[Command::Exclusive], Errno::EOPNOTSUPP)
}

fn fresh_pages(device: Device) -> Result<()> {
    let (first, second) = (map(&device)?, map(&device)?);
    first.fill(first.all());
    second.is_zero(second.all())?;
    second.fill(second.all());
    first.intact()?;
    for _ in 0..20 {
        let memory = map(&device)?;
        memory.is_zero(memory.all())?;
        memory.device_sees(&device, 1)?;
    }
    first.intact()?;
    second.intact()
}

fn unmapped_part(device: Device) -> Result<()> {
    let mut head = map(&device)?;
    head.device_sees(&device, 1)?;
    let data = head.data();
    let mut middle = head.region.split_off(8);
    let tail = middle.split_off(8);
    let hole = middle.range();
    drop(middle);
    let answer = device.read(hole, &mut vec![0xa5; 8 * page_size()]);
    fails_counted("READ", answer, Errno::EFAULT)?;
    head.device_reads(&device, 0..8)?;
    Ok(data.from_page(16).check(&tail, 0..8)?)
}

fn fork(device: Device) -> Result<()> {
    let memory = map(&device)?;
    memory.device_fills(&device, memory.all())?;
    in_child(|| {
        memory.intact()?;
        memory.rewrite(2)
    })?;
    memory.expect_round(2);
    memory.both_read(&device)
}
