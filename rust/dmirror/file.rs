// SPDX-License-Identifier: GPL-2.0

//! An open device file: it stands for the address space of the process that opened it.
//!
//! Locks: the lock of the buffers is held only to take them out and to put them back, never while
//! user memory is accessed, which can wait for as long as user space likes.

use core::mem::size_of;

use hmm::NodeOps;
use hmm::Window;
use kernel::alloc::flags::GFP_KERNEL;
use kernel::alloc::flags::GFP_KERNEL_ACCOUNT;
use kernel::alloc::KVVec;
use kernel::ioctl::_IOWR;
use kernel::mm::Mm;
use kernel::new_mutex;
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

use crate::config::WINDOW_PAGES;
use crate::device::Device;
use crate::migrate;
use crate::request::UserRange;
use crate::uapi;
use crate::uapi::dmirror_cmd;

/// The command as user space gives it.
pub(crate) const MIGRATE_TO_DEV: u32 = command(uapi::DMIRROR_NR_MIGRATE_TO_DEV);
/// The command as user space gives it.
pub(crate) const MIGRATE_TO_SYS: u32 = command(uapi::DMIRROR_NR_MIGRATE_TO_SYS);

const fn command(nr: u32) -> u32 {
    _IOWR::<dmirror_cmd>(uapi::DMIRROR_IOC_MAGIC as u32, nr)
}

/// What one step of a command works with.
pub(crate) struct Buffers {
    /// The page frame numbers of a migration.
    pub(crate) window: Window,
    /// [`WINDOW_PAGES`] pages on their way to user space.
    pub(crate) bounce: KVVec<u8>,
}

impl Buffers {
    fn new() -> Result<Self> {
        Ok(Self {
            window: Window::new(WINDOW_PAGES)?,
            bounce: KVVec::from_elem(0, WINDOW_PAGES * PAGE_SIZE, GFP_KERNEL_ACCOUNT)?,
        })
    }
}

/// What a command has done so far, for the caller to see.
#[derive(Default)]
pub(crate) struct Counts {
    /// Pages moved or copied.
    pub(crate) cpages: u64,
}

/// An open file.
#[pin_data]
pub(crate) struct DmirrorFile {
    device: Arc<Device>,
    /// The address space of the opener, which this keeps from being freed, but not alive.
    mm: ARef<Mm>,
    /// Kept for the next command, so that it need not allocate.
    #[pin]
    buffers: Mutex<Option<Buffers>>,
}

impl NodeOps for DmirrorFile {
    type OwnerModule = crate::LocalModule;
    type Device = Device;
    type File = Pin<KBox<Self>>;

    fn open(device: &Arc<Device>) -> Result<Pin<KBox<Self>>> {
        // A kernel thread has no address space.
        let mm = ARef::<Mm>::from(&**kernel::current!().mm().ok_or(EINVAL)?);
        KBox::try_pin_init(
            try_pin_init!(Self {
                device: device.clone(),
                mm,
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
        let range =
            UserRange::new(words.addr, words.npages, PAGE_SHIFT as u32).map_err(|_| EINVAL)?;

        let mut counts = Counts::default();
        let result = file.run(cmd, range, words.ptr, &mut counts);
        words.cpages = counts.cpages;
        words.faults = 0;
        // The counts are true whatever the outcome; the error of the command goes first.
        let written = user().writer().write_slice(words.as_bytes());
        result.and(written).map(|()| 0)
    }

    /// The memory of the device, in pages and blocks, for tests and for people. Not in debugfs,
    /// whose files do not keep the module loaded while they are open.
    fn show_fdinfo(file: Pin<&Self>, m: &SeqFile) {
        let pagemap = file.device.pagemap();
        let npages = pagemap.region().npages();
        let room = pagemap.ops().pool().room();
        seq_print!(m, "dmirror-pages:\t{npages}\n");
        seq_print!(m, "dmirror-free-pages:\t{}\n", room.pages);
        seq_print!(m, "dmirror-blocks:\t{}\n", npages / hmm::BLOCK_PAGES);
        seq_print!(m, "dmirror-free-blocks:\t{}\n", room.blocks);
    }
}

impl DmirrorFile {
    fn run(&self, cmd: u32, range: UserRange, ptr: u64, counts: &mut Counts) -> Result {
        if !matches!(cmd, MIGRATE_TO_DEV | MIGRATE_TO_SYS) {
            return Err(EINVAL);
        }
        let mm = self.mm.mmget_not_zero().ok_or(EINVAL)?;
        if range.end() > hmm::task_size(&mm) {
            return Err(EINVAL);
        }
        let pagemap = self.device.pagemap();
        let cached = self.buffers.lock().take();
        let mut buffers = match cached {
            Some(buffers) => buffers,
            None => Buffers::new()?,
        };
        let result = match cmd {
            MIGRATE_TO_DEV => {
                let out = UserPtr::from_addr(usize::try_from(ptr).map_err(|_| EFAULT)?);
                migrate::to_device(pagemap, &mm, range, out, &mut buffers, counts)
            }
            _ => migrate::to_system(pagemap, &mm, range, &mut buffers.window, counts),
        };
        *self.buffers.lock() = Some(buffers);
        result
    }
}
