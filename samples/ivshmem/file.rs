// SPDX-License-Identifier: GPL-2.0

//! `/dev/hmm_ivshmem`, and its commands.

use hmm::{
    migrate::MigrateBuffer,
    vma::{task_size, LockedVma},
};
use kernel::{
    fs::File,
    ioctl::_IOWR,
    miscdevice::{MiscDevice, MiscDeviceRegistration},
    page::PAGE_SIZE,
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    sync::{Arc, ArcBorrow},
    uaccess::{UserPtr, UserSlice},
};

use crate::{
    abi,
    device::{to_device, Account, Device, Mover, Pagemap, STEP_PAGES},
    BOUND,
};

const TO_DEVICE: u32 = _IOWR::<abi::Request>(abi::IOC_TYPE as u32, abi::TO_DEVICE as u32);
const TO_SYSTEM: u32 = _IOWR::<abi::Request>(abi::IOC_TYPE as u32, abi::TO_SYSTEM as u32);

/// The direction of a migration.
#[derive(Clone, Copy)]
enum Direction {
    ToDevice,
    ToSystem,
}

/// An open file. It holds the device data, not the hardware, which may go away at any time.
pub(crate) struct OpenFile {
    device: Arc<Device>,
    account: Arc<Account>,
}

#[vtable]
impl MiscDevice for OpenFile {
    type OwnerModule = crate::LocalModule;
    type Ptr = Arc<Self>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<Arc<Self>> {
        let device = BOUND.lock().clone().ok_or(ENODEV)?;
        device.check()?;
        let account = Account::new()?;
        Ok(Arc::new(Self { device, account }, GFP_KERNEL)?)
    }

    fn ioctl(file: ArcBorrow<'_, Self>, _: &File, cmd: u32, arg: usize) -> Result<isize> {
        match cmd {
            TO_DEVICE => file.migrate(Direction::ToDevice, arg),
            TO_SYSTEM => file.migrate(Direction::ToSystem, arg),
            _ => Err(ENOTTY),
        }
    }

    fn show_fdinfo(file: ArcBorrow<'_, Self>, m: &SeqFile, _: &File) {
        seq_print!(m, "hmm-pages:\t{}\n", file.account.npages());
    }
}

impl OpenFile {
    /// Reads a request, executes it, and writes back the number of pages that moved.
    fn migrate(&self, direction: Direction, arg: usize) -> Result<isize> {
        let slice = UserSlice::new(UserPtr::from_addr(arg), size_of::<abi::Request>());
        let (mut reader, mut writer) = slice.reader_writer();
        let address = reader.read::<u64>()?;
        let npages = reader.read::<u64>()?;
        let mut moved = 0;
        let result = self.migrate_range(direction, address, npages, &mut moved);
        writer.write(&address)?;
        writer.write(&npages)?;
        writer.write(&(moved as u64))?;
        result.map(|()| 0)
    }

    fn migrate_range(
        &self,
        direction: Direction,
        address: u64,
        npages: u64,
        moved: &mut usize,
    ) -> Result {
        let task = kernel::current!();
        let mm = task.mm().ok_or(EINVAL)?;
        let bytes = npages.checked_mul(PAGE_SIZE as u64).ok_or(EFAULT)?;
        let end = address.checked_add(bytes).ok_or(EFAULT)?;
        let (mut at, end) = (address as usize, end as usize);
        if at % PAGE_SIZE != 0 {
            return Err(EINVAL);
        }
        if end > task_size(mm) {
            return Err(EFAULT);
        }
        self.device.check()?;
        let mut buffer = MigrateBuffer::new(STEP_PAGES.min((end - at) / PAGE_SIZE))?;
        let mover = Mover {
            pid: u64::from(task.tgid().unsigned_abs()),
            account: self.account.clone(),
        };
        let mut migrate = |pagemap: &Pagemap, vma: LockedVma<'_>, range| match direction {
            Direction::ToDevice => to_device(pagemap, vma, range, &mover, &mut buffer),
            Direction::ToSystem => Ok(pagemap.bring_back(vma, range, &mut buffer)),
        };
        while at < end {
            if task.signal_pending() {
                return Err(EINTR);
            }
            at = self.device.step(mm, at..end, moved, &mut migrate)?;
        }
        Ok(())
    }
}
