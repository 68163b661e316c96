// SPDX-License-Identifier: GPL-2.0

//! A device file that knows its device.
//!
//! The kernel crate's [`MiscDeviceRegistration`] carries no data, so that `open` cannot tell which
//! of several devices it is for. A [`Node`] does.
//!
//! C header: [`include/linux/miscdevice.h`](srctree/include/linux/miscdevice.h).

use core::marker::PhantomData;

use kernel::fs::File;
use kernel::miscdevice::MiscDevice;
use kernel::miscdevice::MiscDeviceOptions;
use kernel::miscdevice::MiscDeviceRegistration;
use kernel::mm::virt::VmaNew;
use kernel::prelude::*;
use kernel::seq_file::SeqFile;
use kernel::sync::Arc;
use kernel::types::ForeignOwnable;
use kernel::ModuleMetadata;

/// What a driver implements for its device file.
pub trait NodeOps: Sized + 'static {
    /// The module that the code belongs to; it stays loaded while a file is open. A driver gives
    /// `crate::LocalModule`.
    type OwnerModule: ModuleMetadata;

    /// What all files of one node share.
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
    /// an address, or a pointer to a structure whose layout is the same.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// What `ioctl(2)` is to return.
    fn ioctl(
        file: <Self::File as ForeignOwnable>::Borrowed<'_>,
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

/// A device file `/dev/NAME` of mode 0600, there from its initialisation until drop.
///
/// It can be opened as soon as it is there, so a driver makes it when everything else is ready.
#[pin_data]
#[repr(C)]
pub struct Node<T: NodeOps> {
    // First, so that a pointer to the registration is one to the whole as well.
    #[pin]
    registration: MiscDeviceRegistration<Adapter<T>>,
    device: Arc<T::Device>,
}

impl<T: NodeOps> Node<T> {
    /// Creates the file; it can be opened at once.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// What `misc_register()` returns, [`EEXIST`] for a name that is taken among them.
    pub fn new(name: &'static CStr, device: Arc<T::Device>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            // Before the registration, which `open` may find it through.
            device,
            registration <- MiscDeviceRegistration::register(MiscDeviceOptions { name }),
        })
    }
}

/// Stands between the kernel crate's trait and ours.
///
/// Private, so that each registration of it is a field of a [`Node`].
struct Adapter<T>(PhantomData<T>);

#[vtable]
impl<T: NodeOps> MiscDevice for Adapter<T> {
    type OwnerModule = T::OwnerModule;
    type Ptr = T::File;

    fn open(_file: &File, misc: &MiscDeviceRegistration<Self>) -> Result<T::File> {
        let node: *const Node<T> = core::ptr::from_ref(misc).cast();
        // SAFETY: Each registration of an `Adapter` is the first field of a `Node`, which is
        // `repr(C)`; its other field was initialised before the registration was made.
        let device = unsafe { &(*node).device };
        T::open(device)
    }

    fn ioctl(
        data: <T::File as ForeignOwnable>::Borrowed<'_>,
        _file: &File,
        cmd: u32,
        arg: usize,
    ) -> Result<isize> {
        T::ioctl(data, cmd, arg)
    }

    fn mmap(data: <T::File as ForeignOwnable>::Borrowed<'_>, _file: &File, vma: &VmaNew) -> Result {
        T::mmap(data, vma)
    }

    fn show_fdinfo(data: <T::File as ForeignOwnable>::Borrowed<'_>, m: &SeqFile, _file: &File) {
        T::show_fdinfo(data, m);
    }
}
