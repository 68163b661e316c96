// SPDX-License-Identifier: GPL-2.0

//! EXCLUSIVE of memory that cannot be the device's alone: the errno of the header, and the exact
//! count of pages that became exclusive.

use dmirror_client::Command;
use dmirror_client::device::Buffer;

use super::files;
use crate::exclusive::{free, held, take};
use crate::prelude::*;

cases! { "exclusive":
    read_only = "Read-only memory is EFAULT, and no page of it becomes exclusive.",
    unmapped_part = "A range that runs into a hole in the address space is EFAULT; the count says what was done.",
    shared_memory = "Shared memory is EOPNOTSUPP."
        => |device: Device| refused(&device, Region::options(PAGES).shared().map()?),
    files = "A shared mapping of a file is EOPNOTSUPP; a private one is copied and becomes exclusive.",
    hugetlb = "A huge page of the pool (hugetlbfs) is EOPNOTSUPP."
        => |device: Device| refused(&device, files::of_the_pool()?),
    bad_output = "A buffer that cannot be written is EFAULT, and the data stays whole.",
}

const PAGES: usize = 24;

/// Checks that pages from 10 on of a range cannot become exclusive, that the counted pages are
/// exclusive, and that EXCLUSIVE returned no other pages.
fn up_to_page_10(device: &Device, memory: &Memory, whole: PageRange) -> Result<()> {
    let mut view = vec![0xa5; whole.bytes() as usize];
    let answer = device.exclusive(whole, &mut view);
    let pages = fails_counted("EXCLUSIVE", answer, Errno::EFAULT)?.pages as usize;
    ensure!(pages <= 10, "{pages} pages counted");
    let (seen, rest) = view.split_at(pages * page_size());
    memory.data().check_bytes(seen, 0)?;
    let more = rest.iter().any(|byte| *byte != 0xa5);
    ensure!(!more, "more was handed out than was counted");
    held(device, memory, 0..pages)
}

fn read_only(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.region.protect(10..PAGES, Protection::Read)?;
    up_to_page_10(&device, &memory, memory.region.range())?;
    free(&device, &memory, 10..PAGES)?;
    memory.intact()?;
    memory.reads(&device)
}

fn unmapped_part(device: Device) -> Result<()> {
    let (memory, whole, _behind) = Memory::before_hole(10, PAGES - 10)?;
    up_to_page_10(&device, &memory, whole)?;
    memory.intact()
}

/// Checks that memory cannot become exclusive, and does not change.
fn refused(device: &Device, region: Region) -> Result<()> {
    let memory = Memory::filled(region);
    memory.refuses(device, Command::Exclusive, Errno::EOPNOTSUPP)?;
    free(device, &memory, memory.all())?;
    memory.intact()?;
    memory.reads(device)
}

fn files(device: Device) -> Result<()> {
    let file = files::file_of(&vec![0; PAGES * page_size()])?;
    refused(&device, Region::options(PAGES).shared_file(file).map()?)?;
    let private = files::mapped_file()?;
    take(&device, &private, private.all())?;
    private.intact()
}

fn bad_output(device: Device) -> Result<()> {
    let (memory, output) = (Memory::new(PAGES)?, Region::anonymous(PAGES)?);
    output.protect(0..PAGES, Protection::Read)?;
    let range = memory.region.range();
    for buffer in [Buffer::Null, Buffer::Region(&output)] {
        let answer = device.call(Command::Exclusive, range.addr(), range.pages(), buffer);
        fails("EXCLUSIVE", answer, Errno::EFAULT)?;
        memory.both_read(&device)?;
    }
    take(&device, &memory, 0..PAGES)
}
