// SPDX-License-Identifier: GPL-2.0

//! Memory that does not migrate to a private device: shared memory, pages of files. The commands
//! refuse it, the counts are true, and its data does not change.

use std::io::Write;

use dmirror_client::secret_file;
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::prelude::*;

cases! { "files":
    shared_memory = "Shared anonymous memory stays, with ENOENT and a count of 0."
        => stays(|| Ok(Memory::filled(Region::options(PAGES).shared().map()?))),
    shared_file = "A shared file mapping stays, with ENOENT and a count of 0."
        => stays(|| shared_mapping(file_of(&vec![0; PAGES * page_size()])?)),
    private_file = "Pages of a file that are mapped privately and were not written stay, with ENOENT and a count of 0."
        => stays(mapped_file),
    private_file_written = "Pages that were written in a private file mapping are the program's own: they go out and come back."
        => kept(|_| mapped_file(), private_file_written),
    among_others = "Pages that cannot move do not keep the others of the range from moving."
        => kept(in_system(PAGES), among_others),
    program_text = "The program's own code stays, with ENOENT.",
    secret_memory = "Memory that not even the kernel can read (memfd_secret) stays, with ENOENT."
        => stays(secret_memory),
    special_mapping = "A mapping that the kernel manages itself is refused with EINVAL."
        => |device: Device| refused(&device, vvar()?),
    hugetlb = "A hugetlb mapping is refused with EINVAL.",
}

const PAGES: usize = 24;

/// Returns a case that tries to move memory that cannot move, and checks that it stays.
fn stays(memory: impl Fn() -> Result<Memory>) -> impl Fn(Device) -> Result<()> {
    move |device| {
        let memory = memory()?;
        fails_at_once("MIGRATE_TO_DEV", memory.try_out(&device), Errno::ENOENT)?;
        equal("pages on the device", memory.on_device()?, 0)?;
        let back = device.migrate_to_system(memory.region.range())?;
        equal("pages moved back", back.pages, 0)?;
        memory.intact()
    }
}

/// Checks that a range does not move, either way.
fn refused(device: &Device, range: PageRange) -> Result<()> {
    let mut view = vec![0; range.bytes() as usize];
    let answer = device.migrate_to_device(range, &mut view);
    fails("MIGRATE_TO_DEV", answer, Errno::EINVAL)?;
    let answer = device.migrate_to_system(range);
    fails("MIGRATE_TO_SYS", answer, Errno::EINVAL)
}

/// Creates a file in memory that holds `bytes`.
pub(super) fn file_of(bytes: &[u8]) -> Result<File> {
    let mut file = File::from(memfd_create("dmirror-selftest", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file)
}

/// Maps a file shared, and fills it.
fn shared_mapping(file: File) -> Result<Memory> {
    let region = Region::options(PAGES).shared_file(file).map()?;
    Ok(Memory::filled(region))
}

/// Creates a private mapping of a file. Its pages have the content of the pattern, but were not
/// written through the mapping.
pub(super) fn mapped_file() -> Result<Memory> {
    let file = file_of(&vec![0; PAGES * page_size()])?;
    let writer = Region::options(PAGES).shared_file(file.try_clone()?);
    let writer = writer.map()?;
    let memory = Memory::of(Region::options(PAGES).private_file(file).map()?);
    memory.data().fill(&writer, 0..PAGES);
    memory.intact()?;
    Ok(memory)
}

fn private_file_written(device: &Device, memory: &Memory) -> Result<()> {
    memory.fill(4..12);
    memory.move_out(device, 4..12)?;
    memory.verify(4..8)?;
    memory.move_back(device, 8..12, 4)
}

fn among_others(device: &Device, memory: &Memory) -> Result<()> {
    memory.region.replace_by_shared(8..16)?;
    memory.fill(8..16);

    let mut view = vec![0; memory.region.len()];
    let answer = device.migrate_to_device(memory.region.range(), &mut view);
    let counts = fails_counted("MIGRATE_TO_DEV", answer, Errno::ENOENT)?;
    memory.only(8..16, Where::System, Where::Device)?;
    equal("pages counted", counts.pages, 16)?;
    memory.data().check_bytes(&view[..8 * page_size()], 0)?;
    memory.data().check_bytes(&view[16 * page_size()..], 16)?;
    memory.move_back(device, memory.all(), 16)
}

fn program_text(device: Device) -> Result<()> {
    let page = page_size() as u64;
    let range = PageRange::new(program_text as usize as u64 / page * page, 1)?;
    let mut view = vec![0; page_size()];
    let answer = device.migrate_to_device(range, &mut view);
    fails_counted("MIGRATE_TO_DEV", answer, Errno::ENOENT)?;
    all_at("the code", range, Where::System)
}

/// Returns the first page of a mapping that the kernel manages itself, or skips.
fn vvar() -> Result<PageRange> {
    let find = || {
        let maps = fs::read_to_string("/proc/self/maps").ok()?;
        let line = maps.lines().find(|line| line.ends_with("[vvar]"))?;
        let start = u64::from_str_radix(line.split('-').next()?, 16).ok()?;
        PageRange::new(start, 1).ok()
    };
    find().map_or_else(|| skip("this kernel maps no [vvar]"), Ok)
}

fn secret_memory() -> Result<Memory> {
    let Ok(file) = secret_file() else {
        return skip("this kernel has no memfd_secret");
    };
    file.set_len((PAGES * page_size()) as u64)?;
    shared_mapping(file)
}

/// Returns a page of the pool of huge pages, or skips if there is none.
pub(super) fn of_the_pool() -> Result<Region> {
    let pool = "/proc/sys/vm/nr_hugepages";
    let before = fs::read_to_string(pool).unwrap_or_default();
    if before.trim() == "0" {
        let _ = fs::write(pool, "1"); // only root may
    }
    needs_room(hpage_pmd_size())?;
    let options = Region::options(hpage_pmd_nr());
    let region = options.align(hpage_pmd_size()).hugetlb().map();
    let _ = fs::write(pool, before); // a page in use goes when it is freed
    region.or_else(|_| skip("no free hugetlb page: set vm.nr_hugepages"))
}

fn hugetlb(device: Device) -> Result<()> {
    let region = of_the_pool()?;
    region.store(0, 77);
    refused(&device, region.range())?;
    equal("a word of it", region.load(0), 77)
}
