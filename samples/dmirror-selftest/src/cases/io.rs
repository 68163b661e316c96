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
    file = "write and read of a file work with resident buffers.",
    pipe = "Resident pages go through a pipe, to resident pages.",
    socket = "Resident pages go through a socket, to resident pages.",
    vmsplice_pages = "Resident pages that vmsplice put in a pipe come out with their data, and stay off the device until then.",
    vmsplice_gift = "Resident pages that were given away by vmsplice come out of the pipe with their data.",
    direct_device = "Direct reads and writes of a block device work with resident buffers.",
    direct_file = "Direct reads and writes of a file on ext4 work with resident buffers.",
    direct_while_moving = "Direct reads and writes work while their buffers go to the device.",
    ring = "io_uring reads and writes resident buffers.",
    ring_huge = "io_uring reads and writes huge pages that went to the device.",
    ring_fixed = "Registering resident pages with io_uring takes them off the device for as long, and transfers work.",
    ring_fixed_stays = "A registered buffer does not go to the device, and the try costs it no data.",
}

/// Pages that fit in a pipe.
const PAGES: usize = 16;

/// A file in memory.
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
fn write_and_read(device: &Device, file: &File, pages: usize) -> Result<()> {
    let mut buffer = Buffer::new(pages, 1);
    buffer.move_out(device, 1)?;
    file.write_all_at(buffer.bytes(), 0).context("write")?;
    buffer.verify(1)?;
    buffer.fill(2);
    buffer.move_out(device, 2)?;
    file.read_exact_at(buffer.bytes_mut(), 0).context("read")?;
    buffer.verify(1)?;
    // Not all of it resident, and from a place that is not the file's start.
    let half = pages / 2 * page_size();
    buffer.fill(3);
    buffer.move_out(device, 3)?;
    is_content("half of it", &buffer.bytes()[..half], 3)?;
    file.write_all_at(buffer.bytes(), half as u64)
        .context("write behind")?;
    buffer.fill(4);
    buffer.move_out(device, 4)?;
    file.read_exact_at(buffer.bytes_mut(), half as u64)
        .context("read behind")?;
    buffer.verify(3)
}

fn file(context: &Context) -> Result<()> {
    write_and_read(&context.open()?, &memory_file()?, 64)
}

/// Sends resident pages through a pair of descriptors.
fn send_and_receive(
    context: &Context,
    mut from: impl Read,
    mut to: impl Write + Send,
) -> Result<()> {
    let device = context.open()?;
    let (source, mut target) = (Buffer::new(PAGES, 1), Buffer::new(PAGES, 2));
    for _ in 0..4 {
        source.move_out(&device, 1)?;
        target.move_out(&device, 2)?;
        thread::scope(|scope| -> Result<()> {
            let writer = scope.spawn(|| to.write_all(source.bytes()));
            from.read_exact(target.bytes_mut())?;
            let answer = writer.join();
            Ok(answer.unwrap_or_else(|_| Err(ErrorKind::Other.into()))?)
        })?;
        target.verify(1)?;
        source.verify(1)?;
        target.fill(2);
    }
    Ok(())
}

fn pipe(context: &Context) -> Result<()> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    send_and_receive(context, File::from(read), File::from(write))
}

fn socket(context: &Context) -> Result<()> {
    let (one, other) = UnixStream::pair()?;
    send_and_receive(context, one, other)
}

/// Puts the pages of `buffer` in a pipe, and returns where they come out.
fn splice(buffer: &Buffer, flags: SpliceFFlags) -> Result<File> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    let sent = vmsplice(&write, &[IoSlice::new(buffer.bytes())], flags)?;
    equal("bytes in the pipe", sent, buffer.bytes().len())?;
    Ok(read.into())
}

fn vmsplice_pages(device: Device) -> Result<()> {
    let buffer = Buffer::new(PAGES, 1);
    buffer.move_out(&device, 1)?;
    let mut pipe = splice(&buffer, SpliceFFlags::empty())?;
    buffer.expect("in the pipe", Where::System)?;
    // The pipe holds the pages: nothing may move them.
    let mut view = vec![0; buffer.bytes().len()];
    let answer = device.migrate_to_device(buffer.range()?, &mut view);
    fails("pages in the pipe", answer, Errno::ENOENT)?;
    let mut bytes = vec![0; buffer.bytes().len()];
    pipe.read_exact(&mut bytes)?;
    is_content("from the pipe", &bytes, 1)?;
    buffer.move_out(&device, 1)?;
    buffer.verify(1)
}

fn vmsplice_gift(device: Device) -> Result<()> {
    let buffer = Buffer::new(PAGES, 1);
    buffer.move_out(&device, 1)?;
    let mut pipe = splice(&buffer, SpliceFFlags::SPLICE_F_GIFT)?;
    let mut bytes = vec![0; buffer.bytes().len()];
    pipe.read_exact(&mut bytes)?;
    is_content("from the pipe", &bytes, 1)?;
    // What was given away and read can be given again.
    buffer.move_out(&device, 1)?;
    let pipe = splice(&buffer, SpliceFFlags::SPLICE_F_GIFT)?;
    drop(buffer);
    let mut bytes = Vec::new();
    pipe.take((PAGES * page_size()) as u64)
        .read_to_end(&mut bytes)?;
    equal("bytes from the pipe", bytes.len(), PAGES * page_size())
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

fn direct_device(context: &Context) -> Result<()> {
    let disk = Scratch::new()?;
    let device = context.open()?;
    write_and_read(&device, &open_direct(disk.path())?, 64)
}

/// A file system on the disk, unmounted on drop, and then gone from the disk.
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
        let mounted = mount(
            Some(disk.path()),
            &folder,
            Some("ext4"),
            MsFlags::empty(),
            None::<&str>,
        );
        let mounted_here = Self {
            folder,
            _disk: disk,
        };
        match mounted {
            Err(Errno::ENODEV) => skip("the kernel has no ext4"),
            answer => {
                answer.context("mount")?;
                Ok(mounted_here)
            }
        }
    }

    fn file(&self) -> Result<File> {
        open_direct(&self.folder.join("file"))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // The file is closed by now: see the order of the variables.
        if let Err(error) = umount2(&self.folder, MntFlags::empty()) {
            println!("{}: {error}", self.folder.display());
            let _ = umount2(&self.folder, MntFlags::MNT_DETACH);
        }
        let _ = fs::remove_dir(&self.folder);
    }
}

fn direct_file(context: &Context) -> Result<()> {
    let mounted = Mounted::new()?;
    let device = context.open()?;
    let file = mounted.file()?;
    write_and_read(&device, &file, 64)
}

fn direct_while_moving(context: &Context) -> Result<()> {
    let mounted = Mounted::new()?;
    let file = mounted.file()?;
    let device = context.open()?;
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

/// A ring, or skips.
fn make_ring() -> Result<Ring> {
    match Ring::new() {
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::Unsupported | ErrorKind::PermissionDenied
            ) =>
        {
            skip(format!("no io_uring here: {error}"))
        }
        answer => Ok(answer?),
    }
}

/// Writes resident memory to a file and reads it back into resident memory.
fn through_ring(
    ring: &mut Ring,
    memory: &Memory,
    before: impl Fn() -> Result<()>,
    write: Transfer,
    read: Transfer,
) -> Result<()> {
    let file = memory_file()?;
    let bytes = memory.region.len();
    before()?;
    let done = ring.transfer(write, file.as_fd(), &memory.region, memory.all(), 0)?;
    equal("bytes written", done, bytes)?;
    let mut written = vec![0; bytes];
    file.read_exact_at(&mut written, 0)?;
    memory
        .data()
        .check_bytes(&written, 0)
        .context("in the file")?;
    memory.verify(memory.all())?;

    let first = memory.data();
    memory.refill(2);
    before()?;
    let done = ring.transfer(read, file.as_fd(), &memory.region, memory.all(), 0)?;
    equal("bytes read", done, bytes)?;
    first
        .check(&memory.region, memory.all())
        .context("read from the file")
}

fn ring(context: &Context) -> Result<()> {
    let mut ring = make_ring()?;
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    let move_out = || memory.move_out(&device, memory.all());
    through_ring(
        &mut ring,
        &memory,
        move_out,
        Transfer::Write,
        Transfer::Read,
    )
}

fn ring_huge(device: Device) -> Result<()> {
    let memory = huge(1)?;
    let move_out = || memory.move_out(&device, memory.all());
    through_ring(
        &mut make_ring()?,
        &memory,
        move_out,
        Transfer::Write,
        Transfer::Read,
    )
}

fn ring_fixed(context: &Context) -> Result<()> {
    let mut ring = make_ring()?;
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    ring.register(&memory.region)?;
    memory.expect("registered", memory.all(), Where::System)?;
    memory.verify(memory.all())?;
    through_ring(
        &mut ring,
        &memory,
        || Ok(()),
        Transfer::WriteFixed,
        Transfer::ReadFixed,
    )?;
    ring.unregister()?;
    memory.refill(3);
    // The kernel lets the pages go soon, not at once.
    let mut view = vec![0; memory.region.len()];
    for _ in 0..100 {
        if device
            .migrate_to_device(memory.region.range(), &mut view)
            .is_ok()
        {
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    memory.move_out(&device, memory.all())?;
    memory.verify(memory.all())
}

fn ring_fixed_stays(context: &Context) -> Result<()> {
    let mut ring = make_ring()?;
    let device = context.open()?;
    let memory = Memory::untouched(2 * PAGES)?;
    memory.fill(memory.all());
    ring.register(&memory.region)?;
    let range = memory.region.range();
    let mut view = vec![0; memory.region.len()];
    let answer = device.migrate_to_device(range, &mut view);
    fails("registered pages", answer, Errno::ENOENT)?;
    equal("pages on the device", Survey::of(range)?.on_device(), 0)?;
    memory.verify(memory.all())?;
    // What the program writes, the registered pages have.
    memory.refill(2);
    let file = memory_file()?;
    ring.transfer(
        Transfer::WriteFixed,
        file.as_fd(),
        &memory.region,
        memory.all(),
        0,
    )?;
    let mut written = vec![0; memory.region.len()];
    file.read_exact_at(&mut written, 0)?;
    memory.data().check_bytes(&written, 0)?;
    // And the other way round.
    file.write_all_at(&content(2 * PAGES, 5), 0)?;
    ring.transfer(
        Transfer::ReadFixed,
        file.as_fd(),
        &memory.region,
        memory.all(),
        0,
    )?;
    is_content("read", &memory.region.to_bytes(memory.all()), 5)
}
