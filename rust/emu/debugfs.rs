// SPDX-License-Identifier: GPL-2.0

//! Files in debugfs: numbers that root sets, for tests, and text files.
//!
//! C header: [`include/linux/debugfs.h`](srctree/include/linux/debugfs.h).
//!
//! This does not use the kernel crate's debugfs: there, the operations of a file are code of the
//! module that creates it, and do not keep that module loaded while the file is open. Those of a
//! [`DebugfsU32s`] belong to the core kernel; those of a [`DebugfsText`] name their module, which
//! debugfs keeps loaded while a file is open.
//!
//! Without debugfs there are no files, and nothing fails.

use core::ptr::{null, null_mut, NonNull};

use kernel::{
    error::from_err_ptr,
    ffi::{c_char, c_int, c_void},
    prelude::*,
    seq_file::SeqFile,
    sync::{
        atomic::{ordering::Relaxed, Atomic},
        Arc,
    },
    uaccess::{UserPtr, UserSlice},
    ModuleMetadata,
};

use crate::{bindings, compat, device_file::wait_for_openers};

/// A directory in debugfs, which exists until drop. Each file in it holds an [`Arc`] to it.
///
/// # Invariants
///
/// `dentry`, if there is one, was created by `debugfs_create_dir()`.
pub struct DebugfsDir {
    dentry: Option<NonNull<bindings::dentry>>,
}

// SAFETY: Any thread may use and remove a directory; C synchronises that.
unsafe impl Send for DebugfsDir {}
// SAFETY: C synchronises concurrent operations in a directory.
unsafe impl Sync for DebugfsDir {}

impl DebugfsDir {
    /// Creates a directory.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]. Failure to create the directory in debugfs, for example because the name is
    /// taken, is not an error.
    pub fn new(name: &CStr) -> Result<Arc<Self>> {
        // SAFETY: The name is a C string; a null parent means the root.
        let dentry = unsafe { bindings::debugfs_create_dir(name.as_char_ptr(), null_mut()) };
        let dentry = from_err_ptr(dentry).ok().and_then(NonNull::new);
        // INVARIANT: The directory was just created. If the allocation fails, `Self` is dropped.
        Ok(Arc::new(Self { dentry }, GFP_KERNEL)?)
    }

    /// Removes a file, after waiting for tasks that are reading or writing it.
    fn remove(&self, file: &CStr) {
        if let Some(dentry) = self.dentry {
            // SAFETY: The name is a C string; the directory exists, by the type invariant.
            unsafe { bindings::debugfs_lookup_and_remove(file.as_char_ptr(), dentry.as_ptr()) };
        }
    }
}

impl Drop for DebugfsDir {
    fn drop(&mut self) {
        if let Some(dentry) = self.dentry {
            // SAFETY: The directory exists, by the type invariant, and is removed once.
            unsafe { bindings::debugfs_remove(dentry.as_ptr()) };
        }
    }
}

/// One file for each of `N` numbers, all initially 0. The files exist from initialisation until
/// drop; without debugfs there are only the numbers.
///
/// # Invariants
///
/// The files `files` in `dir` refer to `values`.
#[pin_data(PinnedDrop)]
pub struct DebugfsU32s<const N: usize> {
    values: [Atomic<u32>; N],
    dir: Arc<DebugfsDir>,
    files: &'static [&'static CStr; N],
    #[pin]
    _pin: core::marker::PhantomPinned,
}

impl<const N: usize> DebugfsU32s<N> {
    /// Creates the files `files`, of mode 0600.
    ///
    /// May sleep.
    pub fn new(dir: Arc<DebugfsDir>, files: &'static [&'static CStr; N]) -> impl PinInit<Self> {
        let init = move |slot: *mut Self| {
            let dentry = dir.dentry;
            // SAFETY: `slot` is valid for writes; zero is a valid value of each number.
            unsafe { (&raw mut (*slot).values).write_bytes(0, 1) };
            // SAFETY: `slot` is valid for writes.
            unsafe { (&raw mut (*slot).dir).write(dir) };
            // SAFETY: `slot` is valid for writes.
            unsafe { (&raw mut (*slot).files).write(files) };
            let Some(dentry) = dentry.map(NonNull::as_ptr) else {
                return Ok(());
            };
            for (index, file) in files.iter().enumerate() {
                // SAFETY: `index` is below the length of the array.
                let value = unsafe { (&raw mut (*slot).values).cast::<u32>().add(index) };
                // SAFETY: The number stays in place until drop has removed the file, and has the
                // layout of a `u32`; the directory exists, by its type invariant.
                unsafe { bindings::debugfs_create_u32(file.as_char_ptr(), 0o600, dentry, value) };
            }
            Ok(())
        };
        // SAFETY: The closure initialises every field, and the files that it creates refer to the
        // pinned place.
        unsafe { pin_init::pin_init_from_closure(init) }
    }

    /// Returns the number in file `index`, or 0 if there is no such file.
    ///
    /// Does not sleep.
    pub fn get(&self, index: usize) -> u32 {
        // ORDERING: Relaxed: the number orders no other memory access.
        self.values
            .get(index)
            .map_or(0, |value| value.load(Relaxed))
    }

    /// Stores a number in file `index`, as root does by writing to it. Does nothing if there is no
    /// such file.
    ///
    /// Does not sleep.
    pub fn put(&self, index: usize, number: u32) {
        if let Some(value) = self.values.get(index) {
            // ORDERING: Relaxed: the number orders no other memory access.
            value.store(number, Relaxed);
        }
    }

    /// Decrements the number in file `index`, unless it is 0 or `u32::MAX`, which means no limit;
    /// returns whether it was not 0.
    ///
    /// Does not sleep.
    pub fn count_down(&self, index: usize) -> bool {
        let Some(value) = self.values.get(index) else {
            return false;
        };
        // ORDERING: Relaxed: the number orders no other memory access.
        let mut old = value.load(Relaxed);
        loop {
            if old == 0 || old == u32::MAX {
                return old != 0;
            }
            match value.cmpxchg(old, old - 1, Relaxed) {
                Ok(_) => return true,
                Err(seen) => old = seen,
            }
        }
    }
}

#[pinned_drop]
impl<const N: usize> PinnedDrop for DebugfsU32s<N> {
    fn drop(self: Pin<&mut Self>) {
        for file in self.files {
            self.dir.remove(file);
        }
    }
}

/// The content of a [`DebugfsText`].
pub trait Text: Send + Sync + 'static {
    /// The module that the code belongs to; it stays loaded while a file is open. A driver uses
    /// `crate::LocalModule`.
    type OwnerModule: ModuleMetadata;

    /// Writes the text.
    ///
    /// May sleep. Several tasks may call this concurrently. It is called again with a larger buffer
    /// if the text did not fit.
    fn show(&self, m: &SeqFile);

    /// True if root may write to the file.
    const IS_WRITABLE: bool = false;

    /// Handles the text that root has written, with surrounding white space removed.
    ///
    /// May sleep. Several tasks may call this concurrently.
    ///
    /// # Errors
    ///
    /// The error that `write(2)` is to return.
    fn store(&self, text: &[u8]) -> Result {
        let _ = text;
        Err(EPERM)
    }
}

/// Maximum number of bytes that can be written to a [`DebugfsText`] at once.
const MAX_WRITTEN: usize = 64;

/// A file with a text that is generated on each read. Everyone may read it; root may write to it if
/// [`Text::IS_WRITABLE`].
///
/// Open files keep the module loaded, but nothing keeps a module that fails to load. So in a module
/// that is being loaded, drop waits until everyone has closed the file.
///
/// # Invariants
///
/// The file `name` in `dir`, if there is one, refers to `text`.
pub struct DebugfsText<T: Text> {
    dir: Arc<DebugfsDir>,
    name: &'static CStr,
    _text: Arc<T>,
}

impl<T: Text> DebugfsText<T> {
    const OPERATIONS: bindings::file_operations = bindings::file_operations {
        owner: compat::module_of::<T::OwnerModule>(),
        open: Some(Self::open),
        read: Some(bindings::seq_read),
        write: if T::IS_WRITABLE {
            Some(Self::write)
        } else {
            None
        },
        llseek: Some(bindings::seq_lseek),
        release: Some(bindings::single_release),
        ..pin_init::zeroed()
    };

    /// Creates a file.
    ///
    /// May sleep.
    pub fn new(dir: Arc<DebugfsDir>, name: &'static CStr, text: Arc<T>) -> Self {
        if let Some(dentry) = dir.dentry {
            let data: *const T = &*text;
            // SAFETY: The name is a C string, and the directory exists, by its type invariant. The
            // text lives until drop has removed the file. The operations are constants in the
            // module of `OwnerModule`, which debugfs keeps loaded while the file is open.
            unsafe {
                bindings::debugfs_create_file_full(
                    name.as_char_ptr(),
                    if T::IS_WRITABLE { 0o644 } else { 0o444 },
                    dentry.as_ptr(),
                    data.cast_mut().cast(),
                    null(),
                    &Self::OPERATIONS,
                )
            };
        }
        // INVARIANT: The file was just created.
        Self {
            dir,
            name,
            _text: text,
        }
    }

    /// # Safety
    ///
    /// debugfs calls this for a file of this type, which is not removed during the call.
    unsafe extern "C" fn open(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: The inode is valid, by the safety requirement; its private data was set by `new`.
        let text = unsafe { (*inode).i_private };
        // SAFETY: The file is valid and being opened, by the safety requirement.
        unsafe { bindings::single_open(file, Some(Self::show), text) }
    }

    /// # Safety
    ///
    /// debugfs calls this for an open file of this type, which is not removed during the call, with
    /// a buffer in user memory.
    unsafe extern "C" fn write(
        file: *mut bindings::file,
        from: *const c_char,
        len: usize,
        _: *mut bindings::loff_t,
    ) -> isize {
        // SAFETY: The file is valid, by the safety requirement; `single_open()` has set its private
        // data.
        let m: *mut bindings::seq_file = unsafe { (*file).private_data }.cast();
        // SAFETY: The file is valid, by the safety requirement; `open` has set its private data.
        let text = unsafe { (*m).private };
        // SAFETY: The file refers to `text`, by the type invariant. debugfs lets nobody write to a
        // file that drop has removed, and drop waits for running writes.
        let text = unsafe { &*text.cast::<T>() };
        let mut bytes = [0; MAX_WRITTEN];
        let stored = match bytes.get_mut(..len) {
            Some(bytes) => UserSlice::new(UserPtr::from_ptr(from.cast_mut().cast()), len)
                .reader()
                .read_slice(bytes)
                .and_then(|()| text.store(bytes.trim_ascii())),
            None => Err(EINVAL),
        };
        // CAST: The length is at most MAX_WRITTEN, and an error number is small.
        stored.map_or_else(|error| error.to_errno() as isize, |()| len as isize)
    }

    /// # Safety
    ///
    /// A read calls this for a file of this type, which is not removed during the call.
    unsafe extern "C" fn show(m: *mut bindings::seq_file, _: *mut c_void) -> c_int {
        // SAFETY: The file is valid, by the safety requirement; `open` has set its private data.
        let text = unsafe { (*m).private };
        // SAFETY: The file refers to `text`, by the type invariant. debugfs lets nobody read a file
        // that drop has removed, and drop waits for running reads.
        let text = unsafe { &*text.cast::<T>() };
        // SAFETY: The file is valid, and only this task uses it, because C holds the lock of the
        // seq_file.
        text.show(unsafe { SeqFile::from_raw(m) });
        0
    }
}

impl<T: Text> Drop for DebugfsText<T> {
    fn drop(&mut self) {
        self.dir.remove(self.name);
        wait_for_openers(compat::module_of::<T::OwnerModule>());
    }
}
