// SPDX-License-Identifier: GPL-2.0

//! An open device file: it represents the address space of the process that opened it.
//!
//! Locks: the lock of the buffers is held only to take them out and to put them back. It is never
//! held while user memory is accessed, which can wait without a bound.

use core::mem::{offset_of, size_of, size_of_val};

use emu::{
    device_file::{DeviceFileOps, Opened},
    trace::Cause,
};
use hmm::{memremap::HPAGE_PMD_NR, range::Timeout, vma::task_size};
use kernel::{
    alloc::flags::{GFP_KERNEL, GFP_KERNEL_ACCOUNT, __GFP_ZERO},
    ioctl::_IOWR,
    mm::virt::VmaNew,
    new_mutex,
    page::{Page, PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    sync::{Arc, Mutex},
    uaccess::{UserPtr, UserSlice},
};

use crate::{
    access, advise,
    call::{resched_or_eintr, Buffers, Call, Counts, IdleBuffers},
    client::Client,
    commands::{self, QueueCommand, Queues},
    device::Device,
    migrate,
    request::UserRange,
    snapshot,
    uapi::{self, dmirror_cmd},
};

/// A command from user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Moves the pages of the device back.
    Release,
    /// Sets the flags of the device.
    Flags,
    /// Works on a range of the address space.
    OnRange(RangeCommand),
}

/// A command on a range of the address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RangeCommand {
    Read,
    ReadUnlocked,
    Write,
    MigrateToDev,
    MigrateToSys,
    Snapshot,
    Exclusive,
    CheckExclusive,
}

impl Command {
    /// Each command, and its number in the ABI.
    pub(crate) const NUMBERS: [(Self, u32); 10] = [
        (Self::OnRange(RangeCommand::Read), uapi::DMIRROR_NR_READ),
        (Self::OnRange(RangeCommand::Write), uapi::DMIRROR_NR_WRITE),
        (
            Self::OnRange(RangeCommand::MigrateToDev),
            uapi::DMIRROR_NR_MIGRATE_TO_DEV,
        ),
        (
            Self::OnRange(RangeCommand::MigrateToSys),
            uapi::DMIRROR_NR_MIGRATE_TO_SYS,
        ),
        (
            Self::OnRange(RangeCommand::Snapshot),
            uapi::DMIRROR_NR_SNAPSHOT,
        ),
        (
            Self::OnRange(RangeCommand::Exclusive),
            uapi::DMIRROR_NR_EXCLUSIVE,
        ),
        (
            Self::OnRange(RangeCommand::CheckExclusive),
            uapi::DMIRROR_NR_CHECK_EXCLUSIVE,
        ),
        (Self::Release, uapi::DMIRROR_NR_RELEASE),
        (Self::Flags, uapi::DMIRROR_NR_FLAGS),
        (
            Self::OnRange(RangeCommand::ReadUnlocked),
            uapi::DMIRROR_NR_READ_UNLOCKED,
        ),
    ];
}

impl TryFrom<u32> for Command {
    type Error = Error;

    fn try_from(cmd: u32) -> Result<Self> {
        /// The commands, indexed by their number within the type; each number is below the length.
        const COMMANDS: [Option<Command>; Command::NUMBERS.len()] = {
            let mut commands = [None; Command::NUMBERS.len()];
            let mut at = 0;
            while at < Command::NUMBERS.len() {
                let (command, nr) = Command::NUMBERS[at];
                commands[nr as usize] = Some(command);
                at += 1;
            }
            commands
        };
        let nr = cmd & kernel::uapi::_IOC_NRMASK;
        match COMMANDS.get(nr as usize) {
            Some(&Some(command)) if cmd == number(nr) => Ok(command),
            _ => Err(EINVAL),
        }
    }
}

impl RangeCommand {
    /// Returns the error for an address space without users: there is no memory for a device to
    /// access, and no range to migrate or to look at.
    fn without_memory(self) -> Error {
        match self {
            Self::Read | Self::ReadUnlocked | Self::Write => EFAULT,
            Self::MigrateToDev
            | Self::MigrateToSys
            | Self::Snapshot
            | Self::Exclusive
            | Self::CheckExclusive => EINVAL,
        }
    }
}

/// Returns the `ioctl(2)` number of a command.
pub(crate) const fn number(nr: u32) -> u32 {
    _IOWR::<dmirror_cmd>(uapi::DMIRROR_IOC_MAGIC as u32, nr)
}

// The counts are the last two members, one behind the other.
const _: () = assert!(
    offset_of!(dmirror_cmd, faults) == offset_of!(dmirror_cmd, cpages) + 8
        && offset_of!(dmirror_cmd, faults) + 8 == size_of::<dmirror_cmd>()
);

/// The members of a `dmirror_cmd`.
type CommandNumbers = [u64; size_of::<dmirror_cmd>() / size_of::<u64>()];

/// Returns the range of a command.
fn user_range(words: &dmirror_cmd) -> Result<UserRange> {
    UserRange::new(words.addr, words.npages, PAGE_SHIFT as u32).map_err(|_| EINVAL)
}

/// An open file.
#[pin_data]
pub(crate) struct DmirrorFile {
    // Declared before the client, so that drop ends its queues first.
    #[pin]
    queues: Mutex<Queues>,
    client: Arc<Client>,
    #[pin]
    buffers: Mutex<IdleBuffers>,
}

impl DeviceFileOps for DmirrorFile {
    type OwnerModule = crate::LocalModule;
    type Device = Device;
    type File = Pin<KBox<Self>>;

    fn open(device: &Arc<Device>) -> Result<Pin<KBox<Self>>> {
        // A kernel thread has no address space.
        let task = kernel::current!();
        let opener = task.mm().ok_or(EINVAL)?;
        KBox::try_pin_init(
            try_pin_init!(Self {
                queues <- new_mutex!(Queues::new(), "DmirrorFile::queues"),
                client: Arc::pin_init(Client::new(device, opener), GFP_KERNEL)?,
                buffers <- new_mutex!(IdleBuffers::default()),
            }),
            GFP_KERNEL,
        )
    }

    fn ioctl(file: Pin<&Self>, opened: Opened<'_, Self>, cmd: u32, arg: usize) -> Result<isize> {
        if let Some(command) = QueueCommand::from_number(cmd) {
            let at = UserPtr::from_addr(arg);
            let device_of =
                |fd| opened.with_fd(fd, |other: Pin<&Self>| advise::number(&other.client));
            return commands::run(command, &file.client, &file.queues, &device_of, at).map(|()| 0);
        }
        // Read as numbers, whose size is known at compile time, so that C skips its check of the
        // object that they lie in.
        let user = UserSlice::new(UserPtr::from_addr(arg), size_of::<dmirror_cmd>());
        let numbers: CommandNumbers = user.reader().read()?;
        let words: dmirror_cmd = zerocopy::transmute!(numbers);

        let mut counts = Counts::default();
        let result = match Command::try_from(cmd) {
            Ok(Command::Release) => file.client.device().release(&mut counts.cpages),
            Ok(Command::Flags) => file.set_flags(words.npages),
            // A struct with a wrong range is not written back: the `?` returns here.
            Ok(Command::OnRange(command)) => {
                file.run(command, user_range(&words)?, words.ptr, &mut counts)
            }
            Err(unknown) => {
                user_range(&words)?;
                Err(unknown)
            }
        };
        file.client.stats.add(&counts);
        // The counts are valid even after an error; the error of the command takes precedence.
        let at = UserPtr::from_addr(arg).wrapping_byte_add(offset_of!(dmirror_cmd, cpages));
        let answer = [counts.cpages, counts.faults];
        let written = UserSlice::new(at, size_of_val(&answer))
            .writer()
            .write(&answer);
        result.and(written).map(|()| 0)
    }

    fn mmap(_file: Pin<&Self>, vma: &VmaNew) -> Result {
        let mixed = vma.set_mixedmap();
        let mut address = vma.start();
        while address < vma.end() {
            // The page is charged to the process, which keeps it until it unmaps it.
            let page = Page::alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO)?;
            mixed.vm_insert_page(address, &page)?;
            address += PAGE_SIZE;
            resched_or_eintr()?;
        }
        Ok(())
    }

    /// Shows the memory of the device, the device's mappings for this file, and the statistics of
    /// the file. Anyone who may inspect the process may read this; the statistics of the whole
    /// device are in debugfs.
    fn show_fdinfo(file: Pin<&Self>, m: &SeqFile) {
        let client = &*file.client;
        let pagemap = client.device().pagemap();
        let npages = pagemap.npages();
        let room = pagemap.ops().pool().room();
        seq_print!(m, "dmirror-pages:\t{npages}\n");
        seq_print!(m, "dmirror-free-pages:\t{}\n", room.pages);
        seq_print!(m, "dmirror-blocks:\t{}\n", npages / HPAGE_PMD_NR);
        seq_print!(m, "dmirror-free-blocks:\t{}\n", room.blocks);
        let view = client.view().stats();
        seq_print!(m, "drm-driver:\tdmirror\n");
        seq_print!(m, "drm-client-id:\t{}\n", client.number());
        seq_print!(m, "dmirror-opener:\t{}\n", client.traced().pid);
        for (region, pages) in [
            ("memory", view.mapped_system),
            ("vram0", view.mapped_device),
        ] {
            // The device has no other memory that it could map, so total and resident are equal.
            for key in ["total", "resident"] {
                let kib = pages * (PAGE_SIZE as u64 / 1024);
                seq_print!(m, "drm-{key}-{region}:\t{kib} KiB\n");
            }
        }
        for (number, busy) in client
            .busy_ns
            .iter()
            .take(client.device().engines())
            .enumerate()
        {
            seq_print!(m, "drm-engine-engine{number}:\t{} ns\n", busy.get());
        }
        seq_print!(m, "dmirror-queues:\t{}\n", file.queues.lock().len());
        let (advised, lost) = client.advice().counts();
        seq_print!(m, "dmirror-advised-ranges:\t{advised}\n");
        seq_print!(m, "dmirror-advice-lost-pages:\t{lost}\n");
        client.stats.show(m);
        for (key, value) in [
            ("device-fault-pages", view.brought_back),
            ("device-faults", view.faults),
            ("invalidations", view.invalidations),
            ("invalidated-pages", view.cleared),
        ] {
            seq_print!(m, "dmirror-{key}:\t{value}\n");
        }
    }
}

impl DmirrorFile {
    fn set_flags(&self, flags: u64) -> Result {
        let known = u64::from(uapi::DMIRROR_FLAG_FAIL_ALLOC);
        if flags & !known != 0 {
            return Err(EINVAL);
        }
        self.client
            .device()
            .pagemap()
            .hooks()
            .set_fail_next(flags != 0);
        Ok(())
    }

    fn run(
        &self,
        command: RangeCommand,
        user_range: UserRange,
        ptr: u64,
        counts: &mut Counts,
    ) -> Result {
        let gone = command.without_memory();
        let mm = self.client.users().ok_or(gone)?;
        if user_range.end() > task_size(&mm) {
            return Err(gone);
        }
        let ptr = usize::try_from(ptr)
            .map(UserPtr::from_addr)
            .map_err(|_| EFAULT)?;
        if command == RangeCommand::Snapshot && snapshot::are_few(&user_range) {
            let cpages = &mut counts.cpages;
            return snapshot::snapshot_few(self.client.view(), &mm, user_range, ptr, cpages);
        }
        let cached = self.buffers.lock().take();
        let mut buffers = match cached {
            Some(buffers) => buffers,
            None => KBox::new(Buffers::new()?, GFP_KERNEL)?,
        };
        let mut call = Call {
            view: self.client.view(),
            mm: &mm,
            user_range,
            buffers: &mut buffers,
            counts,
            cause: Cause::Request,
        };
        let result = match command {
            RangeCommand::Read => access::read(&mut call, ptr, Timeout::Bounded),
            RangeCommand::ReadUnlocked => access::read(&mut call, ptr, Timeout::Never),
            RangeCommand::Write => access::write(&mut call, ptr),
            RangeCommand::MigrateToDev => migrate::to_device(&mut call, ptr),
            RangeCommand::MigrateToSys => migrate::to_system(&mut call),
            RangeCommand::Snapshot => snapshot::snapshot(&mut call, ptr),
            RangeCommand::Exclusive => access::exclusive(&mut call, ptr),
            RangeCommand::CheckExclusive => access::check_exclusive(&mut call),
        };
        let surplus = self.buffers.lock().keep(buffers);
        // Freed without the lock held.
        drop(surplus);
        result
    }
}
