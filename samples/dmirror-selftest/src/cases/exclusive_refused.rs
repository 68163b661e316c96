// SPDX-License-Identifier: GPL-2.0

//! EXCLUSIVE of what cannot be the device's alone: the errno of the header, and
//! counts that say exactly what became exclusive.

use dmirror_client::Command;
use dmirror_client::device::Buffer;

use super::exclusive::{free, held, take};
use super::files;
use crate::prelude::*;

cases! { "exclusive":
    read_only = "Read-only memory is EFAULT, and no page of it becomes exclusive.",
    unmapped_part = "A range that runs into a hole in the address space is EFAULT; the count says what was done.",
    shared_memory = "Shared memory is EOPNOTSUPP.",
    files = "A shared mapping of a file is EOPNOTSUPP; a private one is copied and becomes exclusive.",
    hugetlb = "A huge page of the pool (hugetlbfs) is EOPNOTSUPP.",
    bad_output = "A buffer that cannot be written is EFAULT, and the data stays whole.",
}

const PAGES: usize = 24;

fn read_only(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.region.protect(10..PAGES, Protection::Read)?;
    let mut view = vec![0xa5; memory.region.len()];
    let answer = device.exclusive(memory.region.range(), &mut view);
    let counts = fails_counted("EXCLUSIVE", answer, Errno::EFAULT)?;
    ensure!(counts.pages <= 10, "{} pages counted", counts.pages);
    free(&device, &memory, 10..PAGES)?;
    held(&device, &memory, 0..counts.pages as usize)?;
    memory.verify(memory.all())?;
    memory.device_reads(&device, memory.all()).map(drop)
}

fn unmapped_part(device: Device) -> Result<()> {
    let (memory, whole, _behind) = Memory::before_hole(10, PAGES - 10)?;
    let mut view = vec![0xa5; whole.bytes() as usize];
    let counts = fails_counted(
        "EXCLUSIVE",
        device.exclusive(whole, &mut view),
        Errno::EFAULT,
    )?;
    ensure!(counts.pages <= 10, "{} pages counted", counts.pages);
    let (seen, rest) = view.split_at(counts.pages as usize * page_size());
    memory.data().check_bytes(seen, 0)?;
    ensure!(
        rest.iter().all(|byte| *byte == 0xa5),
        "more was handed out than was counted"
    );
    held(&device, &memory, 0..counts.pages as usize)?;
    memory.verify(0..10)
}

/// Checks that memory cannot become exclusive, and is as it was.
fn refused(device: &Device, memory: &Memory) -> Result<()> {
    let mut view = vec![0xa5; memory.region.len()];
    let answer = device.exclusive(memory.region.range(), &mut view);
    fails_at_once("EXCLUSIVE", answer, Errno::EOPNOTSUPP)?;
    free(device, memory, memory.all())?;
    memory.verify(memory.all())?;
    memory.device_reads(device, memory.all()).map(drop)
}

fn shared_memory(context: &Context) -> Result<()> {
    let memory = Memory::of(Region::options(PAGES).shared().map()?);
    memory.fill(memory.all());
    refused(&context.open()?, &memory)
}

fn files(device: Device) -> Result<()> {
    let file = files::file_of(&vec![0; PAGES * page_size()])?;
    let shared = Memory::of(Region::options(PAGES).shared_file(file).map()?);
    shared.fill(shared.all());
    refused(&device, &shared)?;
    let private = files::mapped_file()?;
    take(&device, &private, private.all())?;
    private.verify(private.all())
}

fn hugetlb(context: &Context) -> Result<()> {
    let memory = Memory::of(files::of_the_pool()?);
    memory.fill(memory.all());
    refused(&context.open()?, &memory)
}

fn bad_output(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let output = Region::anonymous(PAGES)?;
    output.protect(0..PAGES, Protection::Read)?;
    let range = memory.region.range();
    for buffer in [Buffer::Null, Buffer::Region(&output)] {
        let answer = device.call(Command::Exclusive, range.addr(), range.pages(), buffer);
        fails("EXCLUSIVE", answer, Errno::EFAULT)?;
        memory.device_reads(&device, memory.all())?;
        memory.verify(memory.all())?;
    }
    take(&device, &memory, 0..PAGES)
}
