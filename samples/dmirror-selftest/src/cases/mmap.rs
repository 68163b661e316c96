// SPDX-License-Identifier: GPL-2.0

//! mmap() of the device file: memory of the kernel, which never migrates.

use crate::prelude::*;

cases! { "mmap":
    zeroed = "A mapping of the device is there at once, and is zero.",
    cpu_and_device = "CPU and device read and write a mapping of the device.",
    private = "A private mapping of the device is read and written, too.",
    never_migrates = "A mapping of the device is refused with EINVAL by both migrations.",
    not_exclusive = "A mapping of the device cannot be made exclusive: EOPNOTSUPP.",
    fresh_pages = "Each mapping has pages of its own, zeroed again after others were unmapped.",
    outlives_the_file = "A mapping stays after the file was closed.",
    unmapped_part = "Unmapping a part of the mapping leaves the rest of it right.",
    read_only = "The device does not write a mapping that was made read-only: EPERM.",
    fork = "A child sees the mapping of its parent, and what both and the device write.",
    of_another_open = "One open file reads and writes what another one mapped.",
}

const PAGES: usize = 24;

/// Maps the device.
fn map(device: &Device) -> Result<Memory> {
    let region = Region::options(PAGES).shared_file(device.file()?).map()?;
    Ok(Memory::of(region))
}

fn zeroed(device: Device) -> Result<()> {
    let memory = map(&device)?;
    memory.expect("before it is touched", memory.all(), Where::System)?;
    ensure!(memory.region.is_zero(memory.all()));
    Ok(())
}

fn cpu_and_device(device: Device) -> Result<()> {
    let memory = map(&device)?;
    reads_zero(&device, memory.region.range())?;
    memory.fill(memory.all());
    memory.device_reads(&device, memory.all())?;
    memory.device_refills(&device, 2)?;
    memory.verify(memory.all())?;
    memory.refill(3);
    memory.device_reads(&device, memory.all()).map(drop)
}

fn private(device: Device) -> Result<()> {
    let region = Region::options(PAGES).private_file(device.file()?).map()?;
    let memory = Memory::of(region);
    ensure!(memory.region.is_zero(memory.all()));
    memory.fill(0..10);
    memory.device_fills(&device, 10..PAGES)?;
    memory.device_reads(&device, memory.all())?;
    memory.verify(memory.all())
}

fn never_migrates(device: Device) -> Result<()> {
    let memory = map(&device)?;
    memory.fill(memory.all());
    let range = memory.region.range();
    let mut view = vec![0xa5; memory.region.len()];
    let answer = device.migrate_to_device(range, &mut view);
    fails_counted("MIGRATE_TO_DEV", answer, Errno::EINVAL)?;
    let answer = device.migrate_to_system(range);
    fails_counted("MIGRATE_TO_SYS", answer, Errno::EINVAL)?;
    memory.expect("after both", memory.all(), Where::System)?;
    memory.verify(memory.all())
}

fn not_exclusive(device: Device) -> Result<()> {
    let memory = map(&device)?;
    memory.fill(memory.all());
    let mut view = vec![0xa5; memory.region.len()];
    let answer = device.exclusive(memory.region.range(), &mut view);
    fails_counted("EXCLUSIVE", answer, Errno::EOPNOTSUPP)?;
    ensure!(!device.is_exclusive(memory.region.range())?);
    memory.verify(memory.all())
}

fn fresh_pages(device: Device) -> Result<()> {
    let (first, second) = (map(&device)?, map(&device)?);
    first.fill(first.all());
    ensure!(second.region.is_zero(second.all()));
    second.fill(second.all());
    first.verify(first.all())?;
    for _ in 0..20 {
        let memory = map(&device)?;
        ensure!(memory.region.is_zero(memory.all()));
        memory.fill(memory.all());
        memory.device_reads(&device, memory.all())?;
    }
    first.verify(first.all())?;
    second.verify(second.all())
}

fn outlives_the_file(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = map(&device)?;
    memory.fill(memory.all());
    drop(device);
    memory.verify(memory.all())?;
    memory.refill(2);
    let device = context.open()?;
    memory.device_reads(&device, memory.all())?;
    memory.verify(memory.all())
}

fn unmapped_part(device: Device) -> Result<()> {
    let mut head = map(&device)?;
    head.fill(head.all());
    head.device_reads(&device, head.all())?;
    let data = head.data();
    let mut middle = head.region.split_off(8);
    let tail = middle.split_off(8);
    let hole = middle.range();
    drop(middle);
    let mut view = vec![0xa5; 8 * page_size()];
    fails_counted("READ", device.read(hole, &mut view), Errno::EFAULT)?;
    head.device_reads(&device, 0..8)?;
    data.from_page(16).check(&tail, 0..8)?;
    Ok(())
}

fn read_only(device: Device) -> Result<()> {
    let memory = map(&device)?;
    memory.device_fills(&device, memory.all())?;
    memory.region.protect(memory.all(), Protection::Read)?;
    let bytes = memory.data().round(9).to_bytes(memory.all());
    let answer = device.write(memory.region.range(), &bytes);
    fails_counted("WRITE", answer, Errno::EPERM)?;
    memory.device_reads(&device, memory.all())?;
    memory.verify(memory.all())
}

fn fork(device: Device) -> Result<()> {
    let memory = map(&device)?;
    memory.device_fills(&device, memory.all())?;
    helper(|| {
        memory.verify(memory.all())?;
        memory.refill(2);
        Ok(())
    })?
    .join()?;
    memory.expect_round(2);
    memory.device_reads(&device, memory.all())?;
    memory.verify(memory.all())
}

fn of_another_open(context: &Context) -> Result<()> {
    let (first, second) = (context.open()?, context.open()?);
    let memory = map(&first)?;
    memory.device_fills(&second, memory.all())?;
    memory.device_reads(&first, memory.all())?;
    drop(first);
    memory.device_refills(&second, 2)?;
    memory.verify(memory.all())
}
