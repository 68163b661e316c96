// SPDX-License-Identifier: GPL-2.0

//! Memory that does not migrate to a private device: shared memory, pages of
//! files. It is refused, the counts are true, and nothing happens to its data.

use std::io::Write;

use dmirror_client::secret_file;
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::prelude::*;

cases! { "files":
    shared_memory = "Shared anonymous memory stays, with ENOENT and a count of 0.",
    shared_file = "A shared file mapping stays, with ENOENT and a count of 0.",
    private_file = "Pages of a file that are mapped privately and were not written stay, with ENOENT and a count of 0.",
    private_file_written = "Pages that were written in a private file mapping are the program's own: they go out and come back.",
    among_others = "Pages that cannot move do not keep the others of the range from moving.",
    program_text = "The program's own code stays, with ENOENT.",
    secret_memory = "Memory that not even the kernel can read (memfd_secret) stays, with ENOENT.",
    special_mapping = "A mapping that the kernel manages itself is refused with EINVAL.",
    hugetlb = "A hugetlb mapping is refused with EINVAL.",
}

const PAGES: usize = 24;

/// Tries to move what cannot be moved.
fn stays(context: &Context, memory: &Memory) -> Result<()> {
    let device = context.open()?;
    let range = memory.region.range();
    let mut view = vec![0; memory.region.len()];
    let answer = device.migrate_to_device(range, &mut view);
    fails_at_once("MIGRATE_TO_DEV", answer, Errno::ENOENT)?;
    equal("pages on the device", Survey::of(range)?.on_device(), 0)?;
    equal(
        "pages moved back",
        device.migrate_to_system(range)?.pages,
        0,
    )?;
    memory.verify(memory.all())
}

/// A file in memory that holds the pattern of a region to come.
pub(super) fn file_of(bytes: &[u8]) -> Result<File> {
    let mut file = File::from(memfd_create("dmirror-selftest", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file)
}

fn shared_memory(context: &Context) -> Result<()> {
    let memory = Memory::of(Region::options(PAGES).shared().map()?);
    memory.fill(memory.all());
    stays(context, &memory)
}

fn shared_file(context: &Context) -> Result<()> {
    let file = file_of(&vec![0; PAGES * page_size()])?;
    let memory = Memory::of(Region::options(PAGES).shared_file(file).map()?);
    memory.fill(memory.all());
    stays(context, &memory)
}

/// A private mapping of a file, whose pages have the content of the pattern
/// without having been written through the mapping.
pub(super) fn mapped_file() -> Result<Memory> {
    let file = file_of(&vec![0; PAGES * page_size()])?;
    let writer = Memory::of(
        Region::options(PAGES)
            .shared_file(file.try_clone()?)
            .map()?,
    );
    let memory = Memory::of(Region::options(PAGES).private_file(file).map()?);
    memory.data().fill(&writer.region, 0..PAGES);
    memory.verify(memory.all())?;
    Ok(memory)
}

fn private_file(context: &Context) -> Result<()> {
    stays(context, &mapped_file()?)
}

fn private_file_written(device: Device) -> Result<()> {
    let memory = mapped_file()?;
    memory.fill(4..12);
    memory.move_out(&device, 4..12)?;
    memory.verify(4..8)?;
    memory.move_back(&device, 8..12, 4)?;
    memory.verify(memory.all())
}

fn among_others(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.region.replace_by_shared(8..16)?;
    memory.fill(8..16);

    let mut view = vec![0; memory.region.len()];
    let answer = device.migrate_to_device(memory.region.range(), &mut view);
    let counts = fails_counted("MIGRATE_TO_DEV", answer, Errno::ENOENT)?;
    memory.expect("private pages before", 0..8, Where::Device)?;
    memory.expect("shared pages", 8..16, Where::System)?;
    memory.expect("private pages behind", 16..PAGES, Where::Device)?;
    equal("pages counted", counts.pages, 16)?;
    memory.data().check_bytes(&view[..8 * page_size()], 0)?;
    memory.data().check_bytes(&view[16 * page_size()..], 16)?;
    memory.move_back(&device, memory.all(), 16)?;
    memory.verify(memory.all())
}

fn program_text(device: Device) -> Result<()> {
    let page = page_size() as u64;
    let range = PageRange::new(program_text as usize as u64 / page * page, 1)?;
    let mut view = vec![0; page_size()];
    fails_counted(
        "MIGRATE_TO_DEV",
        device.migrate_to_device(range, &mut view),
        Errno::ENOENT,
    )?;
    all_at("the code", range, Where::System)
}

/// The first page of the first mapping of this process called `name`.
fn mapping_called(name: &str) -> Option<PageRange> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with(name))?;
    let start = u64::from_str_radix(line.split('-').next()?, 16).ok()?;
    PageRange::new(start, 1).ok()
}

fn secret_memory(context: &Context) -> Result<()> {
    let Ok(file) = secret_file() else {
        return skip("this kernel has no memfd_secret");
    };
    file.set_len((PAGES * page_size()) as u64)?;
    let memory = Memory::of(Region::options(PAGES).shared_file(file).map()?);
    memory.fill(memory.all());
    stays(context, &memory)
}

fn special_mapping(device: Device) -> Result<()> {
    let Some(range) = mapping_called("[vvar]") else {
        return skip("this kernel maps no [vvar]");
    };
    let mut view = vec![0; page_size()];
    let answer = device.migrate_to_device(range, &mut view);
    fails("MIGRATE_TO_DEV", answer, Errno::EINVAL)?;
    fails(
        "MIGRATE_TO_SYS",
        device.migrate_to_system(range),
        Errno::EINVAL,
    )
}

/// A page of the pool of huge pages, or skips where there is none to have.
pub(super) fn of_the_pool() -> Result<Region> {
    let pool = "/proc/sys/vm/nr_hugepages";
    let before = fs::read_to_string(pool).unwrap_or_default();
    if before.trim() == "0" {
        let _ = fs::write(pool, "1"); // only root may
    }
    let region = Region::options(HUGE / page_size())
        .align(HUGE)
        .hugetlb()
        .map();
    let _ = fs::write(pool, before); // a page in use goes when it is freed
    region.or_else(|_| skip("no free hugetlb page: set vm.nr_hugepages"))
}

fn hugetlb(context: &Context) -> Result<()> {
    let device = context.open()?;
    let region = of_the_pool()?;
    region.store(0, 77);
    let mut view = vec![0; region.len()];
    let answer = device.migrate_to_device(region.range(), &mut view);
    fails("MIGRATE_TO_DEV", answer, Errno::EINVAL)?;
    fails(
        "MIGRATE_TO_SYS",
        device.migrate_to_system(region.range()),
        Errno::EINVAL,
    )?;
    equal("a word of it", region.load(0), 77)
}
