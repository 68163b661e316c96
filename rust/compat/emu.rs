// SPDX-License-Identifier: GPL-2.0

//! Replacements for features that a supported kernel may lack in Rust, see `lacks.mk`, for `emu`.

#[cfg(lacks_misc_owner)]
use core::ptr;

use kernel::{
    fs::File,
    miscdevice::{MiscDevice, MiscDeviceRegistration},
    prelude::*,
    ModuleMetadata,
};

#[cfg(lacks_this_module)]
use kernel::types::Opaque;
#[cfg(lacks_misc_owner)]
use kernel::{
    sync::{
        atomic::{ordering::Release, Atomic},
        SetOnce,
    },
    time::{delay::fsleep, Delta},
};

use crate::bindings;

/// Returns the module whose type is `M`, or null for code that is built into the kernel.
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

/// Makes each file of the device that is opened from now on keep the module `M` loaded. The kernel
/// crate does that by itself.
#[cfg(not(lacks_misc_owner))]
#[expect(clippy::extra_unused_type_parameters)]
pub(crate) fn keep_module<M: ModuleMetadata, T: MiscDevice>(
    _: &MiscDeviceRegistration<T>,
) -> Result {
    Ok(())
}

/// Returns whether a file that is being opened keeps the module `M` loaded.
#[cfg(not(lacks_misc_owner))]
#[expect(clippy::extra_unused_type_parameters)]
pub(crate) fn keeps_module<M: ModuleMetadata>(_: &File) -> bool {
    true
}

/// The operations of one kind of files, with a module as their owner.
#[cfg(lacks_misc_owner)]
struct Owned {
    original: *const bindings::file_operations,
    operations: bindings::file_operations,
}

#[cfg(lacks_misc_owner)]
// SAFETY: Nobody changes the operations, and the pointers in them are for all threads.
unsafe impl Send for Owned {}

#[cfg(lacks_misc_owner)]
// SAFETY: Nobody changes the operations, so threads may share references to them.
unsafe impl Sync for Owned {}

/// The operations of each kind of files of this module. They are never dropped: a file may live
/// longer than its device, but not longer than the module, which it keeps.
#[cfg(lacks_misc_owner)]
static OWNED: [SetOnce<Owned>; 8] = [const { SetOnce::new() }; 8];

/// Makes each file of the device that is opened from now on keep the module `M` loaded: the kernel
/// crate names no owner in the operations of a file, so the device gets a copy that has one. Does
/// nothing for code that is built into the kernel.
///
/// May sleep.
///
/// # Errors
///
/// [`ENOMEM`] when the module has more than eight kinds of files.
#[cfg(lacks_misc_owner)]
pub(crate) fn keep_module<M: ModuleMetadata, T: MiscDevice>(
    registration: &MiscDeviceRegistration<T>,
) -> Result {
    let module = module_of::<M>();
    if module.is_null() {
        return Ok(());
    }
    let misc = registration.as_raw();
    // SAFETY: The registration is valid.
    let original = unsafe { (*misc).fops };
    let operations = owned(original, module)?;
    // SAFETY: The registration is valid.
    let member = unsafe { &raw mut (*misc).fops };
    // SAFETY: The member is valid for writes as long as the registration. A task that opens a file
    // reads it once, under the lock of all misc devices; nobody else writes it.
    let member = unsafe { Atomic::from_ptr(member.cast::<*mut bindings::file_operations>()) };
    // ORDERING: Release: who reads the pointer finds the operations that it points to.
    member.store(ptr::from_ref(operations).cast_mut(), Release);
    Ok(())
}

/// Returns the copy of operations that has the owner.
#[cfg(lacks_misc_owner)]
fn owned(
    original: *const bindings::file_operations,
    module: *mut bindings::module,
) -> Result<&'static bindings::file_operations> {
    for slot in &OWNED {
        if slot.as_ref().is_none() {
            // SAFETY: The operations of a registration are a constant.
            let mut operations = unsafe { *original };
            operations.owner = module;
            slot.populate(Owned {
                original,
                operations,
            });
        }
        let owned = loop {
            if let Some(owned) = slot.as_ref() {
                break owned;
            }
            // Another task was faster, and will finish soon.
            fsleep(Delta::from_millis(1));
        };
        if ptr::eq(owned.original, original) {
            return Ok(&owned.operations);
        }
    }
    Err(ENOMEM)
}

/// Returns whether a file that is being opened keeps the module `M` loaded. A file has no owner if
/// its open has found the operations of the kernel crate, just before [`keep_module`]: such an open
/// must fail.
#[cfg(lacks_misc_owner)]
pub(crate) fn keeps_module<M: ModuleMetadata>(file: &File) -> bool {
    // SAFETY: The file is valid, and being opened, so its operations do not change.
    let operations = unsafe { (*file.as_ptr()).f_op };
    // SAFETY: The operations of a file that is being opened are valid.
    let owner = unsafe { (*operations).owner };
    module_of::<M>().is_null() || !owner.is_null()
}
