// SPDX-License-Identifier: GPL-2.0

//! Device files that know their device, and that are there all or none.
//!
//! The kernel crate's [`MiscDeviceRegistration`] carries no data, so that `open` cannot tell which
//! of several devices it is for.
//!
//! C header: [`include/linux/miscdevice.h`](srctree/include/linux/miscdevice.h).

use core::{marker::PhantomData, ptr};

use kernel::{
    fs::{File, LocalFile},
    miscdevice::{MiscDevice, MiscDeviceOptions, MiscDeviceRegistration},
    mm::virt::VmaNew,
    prelude::*,
    seq_file::SeqFile,
    sync::{
        atomic::{
            ordering::{Acquire, Relaxed, Release},
            Atomic,
        },
        Arc,
    },
    time::{delay::fsleep, Delta},
    types::ForeignOwnable,
    ModuleMetadata,
};

use crate::bindings;

/// What a driver implements for its device file.
pub trait DeviceFileOps: Sized + 'static {
    /// The module that the code belongs to; it stays loaded while a file is open. A driver gives
    /// `crate::LocalModule`.
    type OwnerModule: ModuleMetadata;

    /// What all files of one device share.
    type Device: Send + Sync;

    /// What one open file has.
    type File: ForeignOwnable + Send + Sync;

    /// Makes the data of a file that is being opened.
    ///
    /// May sleep. Runs under the lock of all misc devices.
    ///
    /// # Errors
    ///
    /// What `open(2)` is to return.
    fn open(device: &Arc<Self::Device>) -> Result<Self::File>;

    /// Handles `ioctl(2)`, from 32-bit programs as well: `arg` must mean the same for both, such as
    /// an address, or a pointer to a structure whose layout is the same. `opened` finds other open
    /// files of the driver.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// What `ioctl(2)` is to return.
    fn ioctl(
        file: <Self::File as ForeignOwnable>::Borrowed<'_>,
        opened: Opened<'_, Self>,
        cmd: u32,
        arg: usize,
    ) -> Result<isize>;

    /// Sets up a mapping of the file; without it, `mmap(2)` is refused.
    ///
    /// May sleep. Called with the `mmap_lock` held for writing.
    ///
    /// # Errors
    ///
    /// What `mmap(2)` is to return.
    fn mmap(file: <Self::File as ForeignOwnable>::Borrowed<'_>, vma: &VmaNew) -> Result {
        let _ = (file, vma);
        Err(ENODEV)
    }

    /// Adds lines to `/proc/PID/fdinfo/FD`.
    ///
    /// May sleep.
    fn show_fdinfo(file: <Self::File as ForeignOwnable>::Borrowed<'_>, m: &SeqFile) {
        let _ = (file, m);
    }
}

/// Device files `/dev/NAME` of mode 0600, there from their making until drop: all of them, or none.
///
/// None can be opened before all are there. A module that cannot make them all fails to load; what
/// had been opened until then would be an open file of a module that is gone. For the same reason
/// their drop waits, in a module that is being loaded, until those that were opened are closed.
pub struct DeviceFiles<T: DeviceFileOps> {
    files: KVec<Pin<KBox<DeviceFile<T>>>>,
    /// Whether files can be opened.
    ready: Arc<Atomic<bool>>,
}

impl<T: DeviceFileOps> DeviceFiles<T> {
    /// Makes a file for each name and device. A driver does this last: when it has returned, they
    /// can be opened.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], and what `misc_register()` returns: [`EEXIST`] for a name that is taken. Then
    /// there is no file, and nobody is in the midst of opening one.
    pub fn new(devices: KVec<(&'static CStr, Arc<T::Device>)>) -> Result<Self> {
        let ready = Arc::new(Atomic::new(false), GFP_KERNEL)?;
        let mut this = Self {
            files: KVec::with_capacity(devices.len(), GFP_KERNEL)?,
            ready,
        };
        for (name, device) in devices {
            let file = DeviceFile::new(name, device, this.ready.clone());
            this.files
                .push(KBox::pin_init(file, GFP_KERNEL)?, GFP_KERNEL)?;
        }
        // ORDERING: Release pairs with the load in `open`, so that an opener sees all of them.
        this.ready.store(true, Release);
        Ok(this)
    }

    /// Returns the number of files. Does not sleep.
    pub fn count(&self) -> usize {
        self.files.len()
    }
}

impl<T: DeviceFileOps> Drop for DeviceFiles<T> {
    fn drop(&mut self) {
        // ORDERING: Relaxed: who sees it too late has opened a file, which is waited for.
        self.ready.store(false, Relaxed);
        self.files.clear();
        wait_for_openers(T::OwnerModule::THIS_MODULE.as_ptr());
    }
}

/// Waits, if a module is being loaded, until nobody has a reference to it but its loader: if it
/// fails now its code is freed. Whoever has just tried to open a file of it, in vain, puts one in a
/// moment; who has opened one puts it on close. A module that was loaded is kept by its files.
pub(crate) fn wait_for_openers(module: *mut bindings::module) {
    if module.is_null() {
        // Code of the kernel itself, which does not go away.
        return;
    }
    // SAFETY: The module is the one whose code this runs for, and a member of one word is read.
    let state = unsafe { (&raw const (*module).state).read_volatile() };
    if state != bindings::module_state_MODULE_STATE_COMING {
        return;
    }
    // SAFETY: The module is the one whose code this runs for.
    while unsafe { bindings::module_refcount(module) } > 1 {
        fsleep(Delta::from_millis(1));
    }
}

/// A device file.
#[pin_data]
#[repr(C)]
struct DeviceFile<T: DeviceFileOps> {
    // First, so that a pointer to the registration is one to the whole as well.
    #[pin]
    registration: MiscDeviceRegistration<Adapter<T>>,
    device: Arc<T::Device>,
    /// Whether files can be opened.
    ready: Arc<Atomic<bool>>,
}

impl<T: DeviceFileOps> DeviceFile<T> {
    fn new(
        name: &'static CStr,
        device: Arc<T::Device>,
        ready: Arc<Atomic<bool>>,
    ) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            // Before the registration, which `open` may find them through.
            device,
            ready,
            registration <- MiscDeviceRegistration::register(MiscDeviceOptions { name }),
        })
    }
}

/// An open file of a driver, as its operations see it.
///
/// # Invariants
///
/// The operations of the file are those of an `Adapter` for this driver.
pub struct Opened<'f, T> {
    file: &'f File,
    _driver: PhantomData<fn() -> T>,
}

impl<T: DeviceFileOps> Opened<'_, T> {
    /// Calls `with` on what the open file has that a descriptor of the current task is for: any of
    /// this driver.
    ///
    /// May sleep. The file stays open meanwhile.
    ///
    /// # Errors
    ///
    /// [`EBADF`] when it is no open file; [`EINVAL`] when that is one of others.
    pub fn with_fd<R>(
        &self,
        fd: i32,
        with: impl FnOnce(<T::File as ForeignOwnable>::Borrowed<'_>) -> R,
    ) -> Result<R> {
        let other = LocalFile::fget(u32::try_from(fd).map_err(|_| EBADF)?)?;
        // SAFETY: The file is open; the member does not change after that.
        let own_ops = unsafe { (*self.file.as_ptr()).f_op };
        // SAFETY: The file is open; the member does not change after that.
        let ops = unsafe { (*other.as_ptr()).f_op };
        if !ptr::eq(ops, own_ops) {
            return Err(EINVAL);
        }
        // SAFETY: The file is open, and has a descriptor, so the kernel crate's `open` for
        // `Adapter` has returned, which alone has these operations, by the type invariant; nobody
        // changes the member after that.
        let data = unsafe { (*other.as_ptr()).private_data };
        // SAFETY: That `open` has put a `T::File` there, which is taken back when the last
        // reference to the file goes; there is one until this returns.
        Ok(with(unsafe { <T::File as ForeignOwnable>::borrow(data) }))
    }
}

/// Stands between the kernel crate's trait and ours.
///
/// Private, so that each registration of it is a field of a [`DeviceFile`].
struct Adapter<T>(PhantomData<T>);

#[vtable]
impl<T: DeviceFileOps> MiscDevice for Adapter<T> {
    type OwnerModule = T::OwnerModule;
    type Ptr = T::File;

    fn open(file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<T::File> {
        // SAFETY: The file is valid, and nobody else uses it while it is being opened.
        let misc = unsafe { (*file.as_ptr()).private_data };
        // C has put the registration there. Its pointer is one to the whole; the reference to the
        // registration is for that field alone.
        let file: *const DeviceFile<T> = misc.cast_const().cast();
        // SAFETY: Each registration of an `Adapter` is the first field of a `DeviceFile`, which is
        // `repr(C)`; its other fields were initialised before the registration was made.
        let device = unsafe { &(*file).device };
        // SAFETY: Each registration of an `Adapter` is the first field of a `DeviceFile`, which is
        // `repr(C)`; its other fields were initialised before the registration was made.
        let ready = unsafe { &(*file).ready };
        // ORDERING: Acquire pairs with the store in `DeviceFiles::new`.
        if !ready.load(Acquire) {
            return Err(ENXIO);
        }
        T::open(device)
    }

    fn ioctl(
        data: <T::File as ForeignOwnable>::Borrowed<'_>,
        file: &File,
        cmd: u32,
        arg: usize,
    ) -> Result<isize> {
        // INVARIANT: C calls this for a file that was opened by this adapter.
        let opened = Opened {
            file,
            _driver: PhantomData,
        };
        T::ioctl(data, opened, cmd, arg)
    }

    fn mmap(data: <T::File as ForeignOwnable>::Borrowed<'_>, _file: &File, vma: &VmaNew) -> Result {
        T::mmap(data, vma)
    }

    fn show_fdinfo(data: <T::File as ForeignOwnable>::Borrowed<'_>, m: &SeqFile, _file: &File) {
        T::show_fdinfo(data, m);
    }
}
