// SPDX-License-Identifier: GPL-2.0

//! What a supported kernel may lack on the Rust side, see `lacks.mk`, for `emu` alone.

use core::marker::PhantomData;
#[cfg(lacks_misc_owner)]
use core::ptr;

use kernel::{
    fs::File,
    miscdevice::{MiscDevice, MiscDeviceRegistration},
    prelude::*,
    ModuleMetadata,
};

#[cfg(lacks_misc_owner)]
use kernel::sync::atomic::{ordering::Release, Atomic};
#[cfg(lacks_this_module)]
use kernel::types::Opaque;

use crate::bindings;

/// Returns the module that `M` is the type of, or null for code that is built into the kernel.
#[cfg(not(lacks_this_module))]
pub(crate) const fn module_of<M: ModuleMetadata>() -> *mut bindings::module {
    M::THIS_MODULE.as_ptr()
}

/// Returns the module that this crate is linked into, as each module has a copy of its own.
#[cfg(lacks_this_module)]
#[expect(clippy::extra_unused_type_parameters)]
pub(crate) const fn module_of<M: ModuleMetadata>() -> *mut bindings::module {
    // C never looks into it through this declaration.
    #[expect(improper_ctypes)]
    extern "C" {
        static __this_module: Opaque<bindings::module>;
    }
    // SAFETY: The kernel creates the module when it loads it. Taking its address reads nothing.
    unsafe { __this_module.get() }
}

/// Defines the constant `ModuleMetadata::THIS_MODULE` in an implementation of that trait by hand.
#[cfg(all(CONFIG_KUNIT = "y", not(lacks_this_module)))]
macro_rules! this_module {
    ($module:expr) => {
        const THIS_MODULE: kernel::ThisModule = $module;
    };
}
#[cfg(all(CONFIG_KUNIT = "y", lacks_this_module))]
macro_rules! this_module {
    ($module:expr) => {};
}
#[cfg(CONFIG_KUNIT = "y")]
pub(crate) use this_module;

/// Keeps the module of misc devices loaded while their files are open. The kernel crate does that
/// by itself.
#[cfg(not(lacks_misc_owner))]
pub(crate) struct FileOwner<T>(PhantomData<fn() -> T>);

#[cfg(not(lacks_misc_owner))]
impl<T: MiscDevice> FileOwner<T> {
    pub(crate) fn new(_module: *mut bindings::module) -> Self {
        Self(PhantomData)
    }

    /// # Safety
    ///
    /// As below, where this does something.
    pub(crate) unsafe fn keep(&mut self, _: &MiscDeviceRegistration<T>) -> Result {
        Ok(())
    }

    /// Returns whether a file that is being opened keeps its module loaded.
    pub(crate) fn is_kept(_: &File) -> bool {
        true
    }
}

/// Keeps the module of misc devices loaded while their files are open. The kernel crate names no
/// owner in the operations of a file, so the devices get a copy that has one.
#[cfg(lacks_misc_owner)]
pub(crate) struct FileOwner<T> {
    module: *mut bindings::module,
    operations: Option<KBox<bindings::file_operations>>,
    _device: PhantomData<fn() -> T>,
}

#[cfg(lacks_misc_owner)]
// SAFETY: The module is valid as long as its code runs, and nobody changes the operations.
unsafe impl<T> Send for FileOwner<T> {}

#[cfg(lacks_misc_owner)]
// SAFETY: A shared reference gives access to nothing.
unsafe impl<T> Sync for FileOwner<T> {}

#[cfg(lacks_misc_owner)]
impl<T: MiscDevice> FileOwner<T> {
    pub(crate) fn new(module: *mut bindings::module) -> Self {
        Self {
            module,
            operations: None,
            _device: PhantomData,
        }
    }

    /// From now on, a file of the device that is opened keeps the module.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    ///
    /// # Safety
    ///
    /// `self` must live until the registration and all files opened through it are gone.
    pub(crate) unsafe fn keep(&mut self, registration: &MiscDeviceRegistration<T>) -> Result {
        let misc = registration.as_raw();
        if self.operations.is_none() {
            // SAFETY: The registration is valid, and its operations are a constant.
            let mut operations = unsafe { *(*misc).fops };
            operations.owner = self.module;
            self.operations = Some(KBox::new(operations, GFP_KERNEL)?);
        }
        let operations: *mut _ = self
            .operations
            .as_deref_mut()
            .map_or(ptr::null_mut(), |ops| ops);
        // SAFETY: The registration is valid.
        let member = unsafe { &raw mut (*misc).fops };
        // SAFETY: The member is valid for writes as long as the registration. A task that opens a
        // file reads it once, under the lock of all misc devices; nobody else writes it.
        let member = unsafe { Atomic::from_ptr(member.cast::<*mut bindings::file_operations>()) };
        // ORDERING: Release: who reads the pointer finds the operations that it points to. They
        // live as long as the files, by the contract of this function.
        member.store(operations, Release);
        Ok(())
    }

    /// Returns whether a file that is being opened keeps its module loaded. Without an owner are
    /// the files whose open has found the operations of the kernel crate, just before
    /// [`keep`](Self::keep): such an open must fail.
    pub(crate) fn is_kept(file: &File) -> bool {
        // SAFETY: The file is valid, and being opened, so its operations do not change.
        let operations = unsafe { (*file.as_ptr()).f_op };
        // SAFETY: The operations of a file that is being opened are valid.
        !unsafe { (*operations).owner }.is_null()
    }
}
