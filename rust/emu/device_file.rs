// SPDX-License-Identifier: GPL-2.0

//! Device files that know their device, and that exist either all together or not at all.
//!
//! The kernel crate's [`MiscDeviceRegistration`] carries no data, so `open` cannot tell which of
//! several devices the file belongs to.
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

use crate::{bindings, compat};

/// The driver's side of a device file.
pub trait DeviceFileOps: Sized + 'static {
    /// The module that the code belongs to; it stays loaded while a file is open. A driver uses
    /// `crate::LocalModule`.
    type OwnerModule: ModuleMetadata;

    /// Data that all files of one device share.
    type Device: Send + Sync;

    /// Data of one open file.
    type File: ForeignOwnable + Send + Sync;

    /// Creates the data of a file that is being opened.
    ///
    /// May sleep. Called under the lock of all misc devices.
    ///
    /// # Errors
    ///
    /// The error that `open(2)` is to return.
    fn open(device: &Arc<Self::Device>) -> Result<Self::File>;

    /// Handles `ioctl(2)`, also of 32-bit programs. `arg` must mean the same for both: an address,
    /// for example, or a pointer to a structure with the same layout. `opened` gives access to
    /// other open files of the driver.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// The error that `ioctl(2)` is to return.
    fn ioctl(
        file: <Self::File as ForeignOwnable>::Borrowed<'_>,
        opened: Opened<'_, Self>,
        cmd: u32,
        arg: usize,
    ) -> Result<isize>;

    /// Sets up a mapping of the file; the default refuses `mmap(2)`.
    ///
    /// May sleep. Called with the `mmap_lock` held for writing.
    ///
    /// # Errors
    ///
    /// The error that `mmap(2)` is to return.
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

/// Device files `/dev/NAME` of mode 0600, which exist from creation until drop: all of them, or
/// none.
///
/// No file can be opened before all of them exist. If they cannot all be created, the module fails
/// to load, and a file opened before that would belong to a module that is gone. For the same
/// reason, in a module that is being loaded, drop waits until all opened files are closed.
pub struct DeviceFiles<T: DeviceFileOps> {
    files: KVec<Pin<KBox<DeviceFile<T>>>>,
    /// Set while files can be opened.
    ready: Arc<Atomic<bool>>,
}

impl<T: DeviceFileOps> DeviceFiles<T> {
    /// Creates a file for each name and device. A driver must do this last: once this has returned,
    /// the files can be opened.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], or the error of `misc_register()`: [`EEXIST`] for a name that is taken. After an
    /// error there are no files, and no task is still opening one.
    pub fn new(devices: KVec<(&'static CStr, Arc<T::Device>)>) -> Result<Self> {
        let ready = Arc::new(Atomic::new(false), GFP_KERNEL)?;
        let mut this = Self {
            files: KVec::with_capacity(devices.len(), GFP_KERNEL)?,
            ready,
        };
        for (name, device) in devices {
            let file = DeviceFile::new(name, device, this.ready.clone());
            let file = KBox::pin_init(file, GFP_KERNEL)?;
            compat::keep_module::<T::OwnerModule, _>(&file.registration)?;
            this.files.push(file, GFP_KERNEL)?;
        }
        // ORDERING: Release: pairs with the load in `open`, so that an opener sees all files.
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
        // ORDERING: Relaxed: a task that sees the flag too late has opened a file, and drop waits
        // for it.
        self.ready.store(false, Relaxed);
        self.files.clear();
        wait_for_openers(compat::module_of::<T::OwnerModule>());
    }
}

/// If the module is being loaded, waits until only its loader has a reference to it: if loading
/// fails now, the module's code is freed. A task that has just failed to open a file puts its
/// reference in a moment; a task that has opened one puts it on close. The files of a loaded module
/// keep the module.
pub(crate) fn wait_for_openers(module: *mut bindings::module) {
    if module.is_null() {
        // The code is built into the kernel, which does not go away.
        return;
    }
    // SAFETY: This code runs for the module, which is therefore valid; the member is a single word.
    let state = unsafe { (&raw const (*module).state).read_volatile() };
    if state != bindings::module_state_MODULE_STATE_COMING {
        return;
    }
    // SAFETY: This code runs for the module, which is therefore valid.
    while unsafe { bindings::module_refcount(module) } > 1 {
        fsleep(Delta::from_millis(1));
    }
}

/// A device file.
#[pin_data]
#[repr(C)]
struct DeviceFile<T: DeviceFileOps> {
    // First, so that a pointer to the registration also points to the whole struct.
    #[pin]
    registration: MiscDeviceRegistration<Adapter<T>>,
    device: Arc<T::Device>,
    /// Set while files can be opened.
    ready: Arc<Atomic<bool>>,
}

impl<T: DeviceFileOps> DeviceFile<T> {
    fn new(
        name: &'static CStr,
        device: Arc<T::Device>,
        ready: Arc<Atomic<bool>>,
    ) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            // Initialised before the registration, through which `open` may find them.
            device,
            ready,
            registration <- MiscDeviceRegistration::register(MiscDeviceOptions { name }),
        })
    }
}

/// An open file of a driver, as passed to its operations.
///
/// # Invariants
///
/// The operations of the file belong to an `Adapter` for this driver.
pub struct Opened<'f, T> {
    file: &'f File,
    _driver: PhantomData<fn() -> T>,
}

impl<T: DeviceFileOps> Opened<'_, T> {
    /// Calls `with` on the data of the open file behind a descriptor of the current task, which may
    /// be any file of this driver.
    ///
    /// May sleep. The file stays open during the call.
    ///
    /// # Errors
    ///
    /// [`EBADF`] when the descriptor is not open; [`EINVAL`] when its file belongs to another
    /// driver.
    pub fn with_fd<R>(
        &self,
        fd: i32,
        with: impl FnOnce(<T::File as ForeignOwnable>::Borrowed<'_>) -> R,
    ) -> Result<R> {
        let other = LocalFile::fget(u32::try_from(fd).map_err(|_| EBADF)?)?;
        // SAFETY: The file is open, and the member does not change after that.
        let own_ops = unsafe { (*self.file.as_ptr()).f_op };
        // SAFETY: The file is open, and the member does not change after that.
        let ops = unsafe { (*other.as_ptr()).f_op };
        if !ptr::eq(ops, own_ops) {
            return Err(EINVAL);
        }
        // SAFETY: The file is open and has a descriptor, so the kernel crate's `open` for `Adapter`
        // has returned: only `Adapter` has these operations, by the type invariant. Nobody changes
        // the member after that.
        let data = unsafe { (*other.as_ptr()).private_data };
        // SAFETY: That `open` has stored a `T::File` in the member. It is taken back when the last
        // reference to the file goes away, and `other` is a reference until this returns.
        Ok(with(unsafe { <T::File as ForeignOwnable>::borrow(data) }))
    }
}

/// Adapts the kernel crate's trait to ours.
///
/// Private, so that each of its registrations is a field of a [`DeviceFile`].
struct Adapter<T>(PhantomData<T>);

#[vtable]
impl<T: DeviceFileOps> MiscDevice for Adapter<T> {
    // This is here and not in `compat`, since `vtable` must see it.
    #[cfg(not(lacks_misc_owner))]
    type OwnerModule = T::OwnerModule;
    type Ptr = T::File;

    fn open(file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<T::File> {
        // SAFETY: The file is valid, and no one else uses it while it is being opened.
        let misc = unsafe { (*file.as_ptr()).private_data };
        // C has stored a pointer to the registration here, which also points to the whole struct.
        // The reference `_misc` covers only the registration.
        let opened: *const DeviceFile<T> = misc.cast_const().cast();
        // SAFETY: Each registration of an `Adapter` is the first field of a `DeviceFile`, which is
        // `repr(C)`; its other fields were initialised before the registration.
        let device = unsafe { &(*opened).device };
        // SAFETY: Each registration of an `Adapter` is the first field of a `DeviceFile`, which is
        // `repr(C)`; its other fields were initialised before the registration.
        let ready = unsafe { &(*opened).ready };
        // ORDERING: Acquire: pairs with the store in `DeviceFiles::new`.
        if !ready.load(Acquire) || !compat::keeps_module::<T::OwnerModule>(file) {
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
        // INVARIANT: C calls this only for files that this adapter has opened.
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
