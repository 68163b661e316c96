// SPDX-License-Identifier: GPL-2.0

//! An open device file: it stands for the address space of the process that opened it.
//!
//! Locks: the lock of the buffers is held only to take them out and to put them back, never while
//! user memory is accessed, which can wait for as long as user space likes.

use core::mem::size_of;
use core::ops::Range;

use emu::{device_file::DeviceFileOps, fault::FaultBuffer, sched, view::View};
use hmm::{memremap::HPAGE_PMD_NR, migrate::MigrateBuffer, range::Timeout, vma::task_size};
use kernel::alloc::flags::GFP_KERNEL;
use kernel::alloc::flags::GFP_KERNEL_ACCOUNT;
use kernel::alloc::flags::__GFP_ZERO;
use kernel::alloc::KVVec;
use kernel::ioctl::_IOWR;
use kernel::mm::virt::VmaNew;
use kernel::mm::Mm;
use kernel::mm::MmWithUser;
use kernel::new_mutex;
use kernel::page::Page;
use kernel::page::PAGE_SHIFT;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::seq_file::SeqFile;
use kernel::seq_print;
use kernel::sync::aref::ARef;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use kernel::uaccess::UserPtr;
use kernel::uaccess::UserSlice;
use zerocopy::FromBytes;
use zerocopy::IntoBytes;

use crate::access;
use crate::config::BOUNCE_PAGES;
use crate::config::WINDOW_PAGES;
use crate::device::Device;
use crate::device::DeviceMemory;
use crate::migrate;
use crate::request;
use crate::request::UserRange;
use crate::uapi;
use crate::uapi::dmirror_cmd;

// The commands as user space gives them.
pub(crate) const READ: u32 = command(uapi::DMIRROR_NR_READ);
pub(crate) const WRITE: u32 = command(uapi::DMIRROR_NR_WRITE);
pub(crate) const MIGRATE_TO_DEV: u32 = command(uapi::DMIRROR_NR_MIGRATE_TO_DEV);
pub(crate) const MIGRATE_TO_SYS: u32 = command(uapi::DMIRROR_NR_MIGRATE_TO_SYS);
pub(crate) const SNAPSHOT: u32 = command(uapi::DMIRROR_NR_SNAPSHOT);
pub(crate) const EXCLUSIVE: u32 = command(uapi::DMIRROR_NR_EXCLUSIVE);
pub(crate) const CHECK_EXCLUSIVE: u32 = command(uapi::DMIRROR_NR_CHECK_EXCLUSIVE);
pub(crate) const RELEASE: u32 = command(uapi::DMIRROR_NR_RELEASE);
pub(crate) const FLAGS: u32 = command(uapi::DMIRROR_NR_FLAGS);
pub(crate) const READ_UNLOCKED: u32 = command(uapi::DMIRROR_NR_READ_UNLOCKED);

const fn command(nr: u32) -> u32 {
    _IOWR::<dmirror_cmd>(uapi::DMIRROR_IOC_MAGIC as u32, nr)
}

/// What one step of a command works with.
pub(crate) struct Buffers {
    /// The page frame numbers of a migration.
    pub(crate) migrate: MigrateBuffer,
    /// What a device fault or a look at the page tables needs.
    pub(crate) fault: FaultBuffer,
    /// [`BOUNCE_PAGES`] pages on their way to or from user space.
    pub(crate) bounce: KVVec<u8>,
}

impl Buffers {
    fn new() -> Result<Self> {
        Ok(Self {
            migrate: MigrateBuffer::new(WINDOW_PAGES)?,
            fault: FaultBuffer::new()?,
            bounce: KVVec::from_elem(0, BOUNCE_PAGES * PAGE_SIZE, GFP_KERNEL_ACCOUNT)?,
        })
    }
}

/// What a command has done so far, for the caller to see.
#[derive(Default)]
pub(crate) struct Counts {
    /// Pages moved, copied or looked at.
    pub(crate) cpages: u64,
    /// Rounds of device faults.
    pub(crate) faults: u64,
}

/// A command on a range of the process's memory, and what it works with.
pub(crate) struct Call<'c> {
    pub(crate) view: &'c View<DeviceMemory>,
    pub(crate) mm: &'c MmWithUser,
    pub(crate) user_range: UserRange,
    pub(crate) buffers: &'c mut Buffers,
    pub(crate) counts: &'c mut Counts,
}

impl Call<'_> {
    /// The addresses, in bytes, the end exclusive.
    pub(crate) fn range(&self) -> Range<usize> {
        self.user_range.start()..self.user_range.end()
    }
}

/// The part of a range that the step from address `at` on is for: up to the next address that an
/// entry for [`WINDOW_PAGES`] pages begins at.
pub(crate) fn window_at(at: usize, end: usize) -> Range<usize> {
    request::window_at(at, end, WINDOW_PAGES * PAGE_SIZE)
}

/// Between steps: lets others run, and stops when the task was killed.
pub(crate) fn pause_for_others() -> Result {
    sched::cond_resched();
    if sched::fatal_signal_pending() {
        return Err(EINTR);
    }
    Ok(())
}

/// An open file.
#[pin_data]
pub(crate) struct DmirrorFile {
    device: Arc<Device>,
    /// The address space of the opener, which this keeps from being freed, but not alive.
    mm: ARef<Mm>,
    #[pin]
    view: View<DeviceMemory>,
    /// Kept for the next command, so that it need not allocate.
    #[pin]
    buffers: Mutex<Option<Buffers>>,
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
                device: device.clone(),
                mm: ARef::<Mm>::from(&**opener),
                view <- View::new(opener, device.pagemap().clone()),
                buffers <- new_mutex!(None),
            }),
            GFP_KERNEL,
        )
    }

    fn ioctl(file: Pin<&Self>, cmd: u32, arg: usize) -> Result<isize> {
        let user = || UserSlice::new(UserPtr::from_addr(arg), size_of::<dmirror_cmd>());
        let mut bytes = [0; size_of::<dmirror_cmd>()];
        user().reader().read_slice(&mut bytes)?;
        let mut words = dmirror_cmd::read_from_bytes(&bytes).map_err(|_| EINVAL)?;

        let mut counts = Counts::default();
        let result = match cmd {
            RELEASE => file.device.release(&mut counts.cpages),
            FLAGS => file.set_flags(words.npages),
            _ => {
                let range = UserRange::new(words.addr, words.npages, PAGE_SHIFT as u32);
                file.run(cmd, range.map_err(|_| EINVAL)?, words.ptr, &mut counts)
            }
        };
        words.cpages = counts.cpages;
        words.faults = counts.faults;
        // The counts are true whatever the outcome; the error of the command goes first.
        let written = user().writer().write_slice(words.as_bytes());
        result.and(written).map(|()| 0)
    }

    fn mmap(_file: Pin<&Self>, vma: &VmaNew) -> Result {
        let mixed = vma.set_mixedmap();
        let mut address = vma.start();
        while address < vma.end() {
            // Charged to the process, which keeps it until it unmaps it.
            let page = Page::alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO)?;
            mixed.vm_insert_page(address, &page)?;
            address += PAGE_SIZE;
            pause_for_others()?;
        }
        Ok(())
    }

    /// The memory of the device, in pages and blocks, for tests and for people. Not in debugfs,
    /// whose files do not keep the module loaded while they are open.
    fn show_fdinfo(file: Pin<&Self>, m: &SeqFile) {
        let pagemap = file.device.pagemap();
        let npages = pagemap.npages();
        let room = pagemap.ops().pool().room();
        seq_print!(m, "dmirror-pages:\t{npages}\n");
        seq_print!(m, "dmirror-free-pages:\t{}\n", room.pages);
        seq_print!(m, "dmirror-blocks:\t{}\n", npages / HPAGE_PMD_NR);
        seq_print!(m, "dmirror-free-blocks:\t{}\n", room.blocks);
    }
}

impl DmirrorFile {
    fn set_flags(&self, flags: u64) -> Result {
        let known = u64::from(uapi::DMIRROR_FLAG_FAIL_ALLOC);
        if flags & !known != 0 {
            return Err(EINVAL);
        }
        self.device.pagemap().hooks().set_fail_next(flags != 0);
        Ok(())
    }

    fn run(&self, cmd: u32, user_range: UserRange, ptr: u64, counts: &mut Counts) -> Result {
        // An address space that is gone: no memory for a device to access, no range to migrate.
        let gone = match cmd {
            READ | READ_UNLOCKED | WRITE => EFAULT,
            MIGRATE_TO_DEV | MIGRATE_TO_SYS | SNAPSHOT | EXCLUSIVE | CHECK_EXCLUSIVE => EINVAL,
            _ => return Err(EINVAL),
        };
        let mm = self.mm.mmget_not_zero().ok_or(gone)?;
        if user_range.end() > task_size(&mm) {
            return Err(gone);
        }
        let cached = self.buffers.lock().take();
        let mut buffers = match cached {
            Some(buffers) => buffers,
            None => Buffers::new()?,
        };
        let mut call = Call {
            view: &self.view,
            mm: &mm,
            user_range,
            buffers: &mut buffers,
            counts,
        };
        let ptr = usize::try_from(ptr)
            .map(UserPtr::from_addr)
            .map_err(|_| EFAULT)?;
        let result = match cmd {
            READ => access::read(&mut call, ptr, Timeout::Bounded),
            READ_UNLOCKED => access::read(&mut call, ptr, Timeout::Never),
            WRITE => access::write(&mut call, ptr),
            MIGRATE_TO_DEV => migrate::to_device(&mut call, ptr),
            MIGRATE_TO_SYS => migrate::to_system(&mut call),
            SNAPSHOT => access::snapshot(&mut call, ptr),
            EXCLUSIVE => access::exclusive(&mut call, ptr),
            _ => access::check_exclusive(&mut call),
        };
        *self.buffers.lock() = Some(buffers);
        result
    }
}
