// SPDX-License-Identifier: GPL-2.0

//! Input and output with buffers whose pages are on the device.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use dmirror_client::{Ring, Transfer};
use nix::fcntl::{OFlag, SpliceFFlags, vmsplice};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::pipe2;

use super::huge::huge;
use crate::buffer::{Buffer, content, is_content};
use crate::disk::Scratch;
use crate::prelude::*;

cases! { "io":
    file = "write and read of a file work with resident buffers."
        => |device: Device| write_and_read(&device, &memory_file()?),
    pipe = "Resident pages go through a pipe, to resident pages.",
    socket = "Resident pages go through a socket, to resident pages.",
    vmsplice_pages = "Resident pages that vmsplice put in a pipe come out with their data, and stay off the device until then.",
    vmsplice_gift = "Resident pages that were given away by vmsplice come out of the pipe with their data.",
    direct_device = "Direct reads and writes of a block device work with resident buffers."
        => |device: Device| write_and_read(&device, &open_direct(Scratch::new()?.path())?),
    direct_file = "Direct reads and writes of a file on ext4 work with resident buffers."
        => |device: Device| write_and_read(&device, &Mounted::new()?.file()?),
    direct_while_moving = "Direct reads and writes work while their buffers go to the device.",
    ring = "io_uring reads and writes resident buffers."
        => |device: Device| through_ring(&device, &Memory::new(PAGES)?),
    ring_huge = "io_uring reads and writes huge pages that went to the device."
        => |device: Device| through_ring(&device, &huge(1)?),
    ring_fixed = "Registering resident pages with io_uring takes them off the device for as long, and transfers work.",
    ring_fixed_stays = "A registered buffer does not go to the device, and the try costs it no data.",
}

/// The number of pages that fit in a pipe.
const PAGES: usize = 16;

/// The number of pages that are written to files and read.
const MANY: usize = 64;

/// Creates an unlinked file in the temporary folder, which is usually in memory.
fn memory_file() -> Result<File> {
    let path = std::env::temp_dir().join(format!("dmirror-io-{}", std::process::id()));
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)?;
    fs::remove_file(path)?;
    Ok(file)
}

/// Writes a resident buffer to `file`, changes it, and reads it back into
/// resident pages.
fn write_and_read(device: &Device, file: &File) -> Result<()> {
    let mut buffer = Buffer::new(MANY, 1);
    buffer.move_out(device, 1)?;
    file.write_all_at(buffer.bytes(), 0).context("write")?;
    buffer.verify(1)?;
    buffer.refill_there(device, 2)?;
    file.read_exact_at(buffer.bytes_mut(), 0).context("read")?;
    buffer.verify(1)?;
    // Now a part is not resident, and the place is not the start of the file.
    let half = MANY / 2 * page_size();
    buffer.refill_there(device, 3)?;
    is_content("half of it", &buffer.bytes()[..half], 3)?;
    let written = file.write_all_at(buffer.bytes(), half as u64);
    written.context("write behind")?;
    buffer.refill_there(device, 4)?;
    let read = file.read_exact_at(buffer.bytes_mut(), half as u64);
    read.context("read behind")?;
    buffer.verify(3)
}

/// Sends resident pages through a pair of descriptors, and checks both sides.
fn send_and_receive(device: &Device, mut from: impl Read, mut to: impl Write + Send) -> Result<()> {
    let (source, mut target) = (Buffer::new(PAGES, 1), Buffer::new(PAGES, 2));
    for _ in 0..4 {
        source.move_out(device, 1)?;
        target.move_out(device, 2)?;
        thread::scope(|scope| -> Result<()> {
            let writer = scope.spawn(|| to.write_all(source.bytes()));
            from.read_exact(target.bytes_mut())?;
            joined(writer)
        })?;
        target.verify(1)?;
        source.verify(1)?;
        target.fill(2);
    }
    Ok(())
}

fn pipe(device: Device) -> Result<()> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    send_and_receive(&device, File::from(read), File::from(write))
}

fn socket(device: Device) -> Result<()> {
    let (one, other) = UnixStream::pair()?;
    send_and_receive(&device, one, other)
}

/// Puts the pages of `buffer` in a pipe, and returns the read end of the pipe.
fn splice(buffer: &Buffer, flags: SpliceFFlags) -> Result<File> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    let sent = vmsplice(&write, &[IoSlice::new(buffer.bytes())], flags)?;
    equal("bytes in the pipe", sent, buffer.bytes().len())?;
    Ok(read.into())
}

/// Reads the content of a buffer that was put in a pipe, and checks it.
fn comes_out(pipe: &mut File) -> Result<()> {
    let mut bytes = vec![0; PAGES * page_size()];
    pipe.read_exact(&mut bytes)?;
    is_content("from the pipe", &bytes, 1)
}

fn vmsplice_pages(device: Device) -> Result<()> {
    let buffer = Buffer::new(PAGES, 1);
    buffer.move_out(&device, 1)?;
    let mut pipe = splice(&buffer, SpliceFFlags::empty())?;
    buffer.expect("in the pipe", Where::System)?;
    // The pipe holds the pages, so nothing may move them.
    let mut view = vec![0; buffer.bytes().len()];
    let answer = device.migrate_to_device(buffer.range()?, &mut view);
    fails("pages in the pipe", answer, Errno::ENOENT)?;
    comes_out(&mut pipe)?;
    buffer.move_out(&device, 1)?;
    buffer.verify(1)
}

fn vmsplice_gift(device: Device) -> Result<()> {
    let buffer = Buffer::new(PAGES, 1);
    buffer.move_out(&device, 1)?;
    comes_out(&mut splice(&buffer, SpliceFFlags::SPLICE_F_GIFT)?)?;
    // Pages that were given away and read can be given again.
    buffer.move_out(&device, 1)?;
    let pipe = splice(&buffer, SpliceFFlags::SPLICE_F_GIFT)?;
    drop(buffer);
    let (len, mut bytes) = (PAGES * page_size(), Vec::new());
    pipe.take(len as u64).read_to_end(&mut bytes)?;
    equal("bytes from the pipe", bytes.len(), len)
}

/// Opens `path` for direct input and output.
fn open_direct(path: &Path) -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create(!path.starts_with("/dev"))
        .custom_flags(OFlag::O_DIRECT.bits())
        .open(path)
        .with_context(|| path.display().to_string())
}

/// A mounted file system on the disk. Drop unmounts it and removes it from the disk.
struct Mounted {
    folder: PathBuf,
    _disk: Scratch,
}

impl Mounted {
    fn new() -> Result<Self> {
        let disk = Scratch::new()?;
        let made = Command::new("mke2fs").arg("-F").arg(disk.path()).output();
        match made {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return skip("there is no program mke2fs");
            }
            answer => ensure!(answer?.status.success(), "mke2fs failed"),
        }
        let folder = std::env::temp_dir().join(format!("dmirror-disk-{}", std::process::id()));
        fs::create_dir(&folder)?;
        let (none, ext4) = (None::<&str>, Some("ext4"));
        let mounted = mount(Some(disk.path()), &folder, ext4, MsFlags::empty(), none);
        let here = Self {
            folder,
            _disk: disk,
        };
        match mounted {
            Err(Errno::ENODEV) => skip("the kernel has no ext4"),
            answer => answer.context("mount").map(|()| here),
        }
    }

    fn file(&self) -> Result<File> {
        open_direct(&self.folder.join("file"))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // The file is closed by now: the value that was created last is dropped first.
        if let Err(error) = umount2(&self.folder, MntFlags::empty()) {
            println!("{}: {error}", self.folder.display());
            let _ = umount2(&self.folder, MntFlags::MNT_DETACH);
        }
        let _ = fs::remove_dir(&self.folder);
    }
}

fn direct_while_moving(device: Device) -> Result<()> {
    let mounted = Mounted::new()?;
    let file = mounted.file()?;
    let mut buffer = Buffer::new(PAGES, 1);
    let range = buffer.range()?;
    for round in 1..30 {
        buffer.fill(round);
        thread::scope(|scope| -> Result<()> {
            let mover = scope.spawn(|| {
                let mut view = vec![0; range.bytes() as usize];
                for _ in 0..3 {
                    // Pages that the other side works on stay.
                    let _ = device.migrate_to_device(range, &mut view);
                }
            });
            file.write_all_at(buffer.bytes(), 0)?;
            is_content("while it was written", buffer.bytes(), round)?;
            buffer.bytes_mut().fill(0);
            file.read_exact_at(buffer.bytes_mut(), 0)?;
            let result = buffer.verify(round);
            let _ = mover.join();
            result
        })?;
    }
    Ok(())
}

/// Creates a ring, or skips.
fn make_ring() -> Result<Ring> {
    use ErrorKind::{PermissionDenied, Unsupported};
    match Ring::new() {
        Err(error) if matches!(error.kind(), Unsupported | PermissionDenied) => {
            skip(format!("no io_uring here: {error}"))
        }
        answer => Ok(answer?),
    }
}

/// Writes all of the memory to the start of a file, or reads it from there.
fn transfer(ring: &mut Ring, how: Transfer, file: &File, memory: &Memory) -> Result<()> {
    let done = ring.transfer(how, file.as_fd(), &memory.region, memory.all(), 0)?;
    equal("bytes transferred", done, memory.region.len())
}

/// Writes memory to a file and reads it back, each time after a call of `before`.
fn write_and_read_by(
    ring: &mut Ring,
    memory: &Memory,
    before: impl Fn() -> Result<()>,
    [write, read]: [Transfer; 2],
) -> Result<()> {
    let file = memory_file()?;
    before()?;
    transfer(ring, write, &file, memory).context("write")?;
    let mut written = vec![0; memory.region.len()];
    file.read_exact_at(&mut written, 0)?;
    let first = memory.data();
    first.check_bytes(&written, 0).context("in the file")?;
    memory.intact()?;

    memory.refill(2);
    before()?;
    transfer(ring, read, &file, memory).context("read")?;
    let seen = first.check(&memory.region, memory.all());
    seen.context("read from the file")
}

/// Writes resident memory to a file and reads it back into resident memory.
fn through_ring(device: &Device, memory: &Memory) -> Result<()> {
    let kinds = [Transfer::Write, Transfer::Read];
    write_and_read_by(&mut make_ring()?, memory, || memory.out(device), kinds)
}

fn ring_fixed(device: Device) -> Result<()> {
    let mut ring = make_ring()?;
    let memory = Memory::resident(&device, PAGES)?;
    ring.register(&memory.region)?;
    memory.expect("registered", memory.all(), Where::System)?;
    memory.intact()?;
    let kinds = [Transfer::WriteFixed, Transfer::ReadFixed];
    write_and_read_by(&mut ring, &memory, || Ok(()), kinds)?;
    ring.unregister()?;
    memory.refill(3);
    // The kernel releases the pages soon, not at once.
    for _ in 0..100 {
        if memory.try_out(&device).is_ok() {
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    memory.out_and_read(&device)
}

fn ring_fixed_stays(device: Device) -> Result<()> {
    let mut ring = make_ring()?;
    let memory = Memory::untouched(2 * PAGES)?;
    memory.fill(memory.all());
    ring.register(&memory.region)?;
    fails("registered pages", memory.try_out(&device), Errno::ENOENT)?;
    equal("pages on the device", memory.on_device()?, 0)?;
    memory.intact()?;
    // The registered pages hold the writes of the program.
    memory.refill(2);
    let file = memory_file()?;
    transfer(&mut ring, Transfer::WriteFixed, &file, &memory)?;
    let mut written = vec![0; memory.region.len()];
    file.read_exact_at(&mut written, 0)?;
    memory.data().check_bytes(&written, 0)?;
    // And the other way round.
    file.write_all_at(&content(2 * PAGES, 5), 0)?;
    transfer(&mut ring, Transfer::ReadFixed, &file, &memory)?;
    is_content("read", &memory.region.to_bytes(memory.all()), 5)
}
