// SPDX-License-Identifier: GPL-2.0

//! Files in debugfs: numbers that root sets, for tests, and text to read.
//!
//! C header: [`include/linux/debugfs.h`](srctree/include/linux/debugfs.h).
//!
//! Not the kernel crate's debugfs: the operations of its files are code of the module that makes
//! them, and do not keep that module loaded while a file is open. Those of a [`DebugfsU32s`] are
//! the core's own; those of a [`DebugfsText`] name their module, which debugfs keeps while one is
//! open.
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

use crate::{bindings, device_file::wait_for_openers};

/// A directory in debugfs, there until drop. Each file in it has an [`Arc`] of it.
///
/// # Invariants
///
/// `dentry`, if there is one, is what `debugfs_create_dir()` has made.
pub struct DebugfsDir {
    dentry: Option<NonNull<bindings::dentry>>,
}

// SAFETY: Any thread may use and remove a directory; C synchronises that.
unsafe impl Send for DebugfsDir {}
// SAFETY: C synchronises what is done in a directory.
unsafe impl Sync for DebugfsDir {}

impl DebugfsDir {
    /// Makes a directory.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]. That debugfs has no room, or a directory of that name, is none.
    pub fn new(name: &CStr) -> Result<Arc<Self>> {
        // SAFETY: The name is a string of C; no parent means the root.
        let dentry = unsafe { bindings::debugfs_create_dir(name.as_char_ptr(), null_mut()) };
        let dentry = from_err_ptr(dentry).ok().and_then(NonNull::new);
        // INVARIANT: The directory was just made. If there is no memory for this, it is dropped.
        Ok(Arc::new(Self { dentry }, GFP_KERNEL)?)
    }

    /// Removes a file, and waits for those who are just reading or writing it.
    fn remove(&self, file: &CStr) {
        if let Some(dentry) = self.dentry {
            // SAFETY: The name is a string of C; the directory is there, by the type invariant.
            unsafe { bindings::debugfs_lookup_and_remove(file.as_char_ptr(), dentry.as_ptr()) };
        }
    }
}

impl Drop for DebugfsDir {
    fn drop(&mut self) {
        if let Some(dentry) = self.dentry {
            // SAFETY: The directory is there, by the type invariant, and is removed once.
            unsafe { bindings::debugfs_remove(dentry.as_ptr()) };
        }
    }
}

/// A file for each of `N` numbers, all of them 0 at first. They are there from initialisation until
/// drop; without debugfs there are just the numbers.
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
    /// Makes the files `files`, of mode 0600.
    ///
    /// May sleep.
    pub fn new(dir: Arc<DebugfsDir>, files: &'static [&'static CStr; N]) -> impl PinInit<Self> {
        let init = move |slot: *mut Self| {
            let dentry = dir.dentry;
            // SAFETY: `slot` is valid for writes; zero is a value of each number.
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
                // layout of an integer; the directory is there, by its type invariant.
                unsafe { bindings::debugfs_create_u32(file.as_char_ptr(), 0o600, dentry, value) };
            }
            Ok(())
        };
        // SAFETY: The closure initialises each field, and what it hands out refers to the pinned
        // place.
        unsafe { pin_init::pin_init_from_closure(init) }
    }

    /// Returns the number in file `index`; 0 when there is no such file.
    ///
    /// Does not sleep.
    pub fn get(&self, index: usize) -> u32 {
        // ORDERING: Relaxed: the number stands for itself.
        self.values
            .get(index)
            .map_or(0, |value| value.load(Relaxed))
    }

    /// Puts a number into file `index`, as root does by writing to it; without such a file,
    /// nothing.
    ///
    /// Does not sleep.
    pub fn put(&self, index: usize, number: u32) {
        if let Some(value) = self.values.get(index) {
            // ORDERING: Relaxed: the number stands for itself.
            value.store(number, Relaxed);
        }
    }

    /// Takes one from the number in file `index`, unless it is 0 or `u32::MAX`, which stands for no
    /// end; returns whether it was not 0.
    ///
    /// Does not sleep.
    pub fn count_down(&self, index: usize) -> bool {
        let Some(value) = self.values.get(index) else {
            return false;
        };
        // ORDERING: Relaxed: the number stands for itself.
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

/// What a [`DebugfsText`] shows.
pub trait Text: Send + Sync + 'static {
    /// The module that the code belongs to; it stays loaded while a file is open. A driver gives
    /// `crate::LocalModule`.
    type OwnerModule: ModuleMetadata;

    /// Writes the text.
    ///
    /// May sleep. Called by any number of tasks at a time, and again with more room if there was
    /// too little.
    fn show(&self, m: &SeqFile);

    /// Whether root may write to the file.
    const IS_WRITABLE: bool = false;

    /// Takes what root has written, without white space around it.
    ///
    /// May sleep. Called by any number of tasks at a time.
    ///
    /// # Errors
    ///
    /// What `write(2)` is to return.
    fn store(&self, text: &[u8]) -> Result {
        let _ = text;
        Err(EPERM)
    }
}

/// The most bytes that can be written to a [`DebugfsText`].
const MAX_WRITTEN: usize = 64;

/// A file that shows a text, which is made when somebody reads it. All may read it; root may write
/// to it if the text says so.
///
/// As the module is kept only by those who have the file open, and one that fails to load is not
/// kept by anybody: the drop waits, in a module that is being loaded, until they have closed it.
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
        owner: T::OwnerModule::THIS_MODULE.as_ptr(),
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

    /// Makes a file.
    ///
    /// May sleep.
    pub fn new(dir: Arc<DebugfsDir>, name: &'static CStr, text: Arc<T>) -> Self {
        if let Some(dentry) = dir.dentry {
            let data: *const T = &*text;
            // SAFETY: The name is a string of C, and the directory is there, by its type invariant.
            // The text is there until drop has removed the file; the operations are constants of
            // the code's module, which debugfs keeps while one has the file open, by `OwnerModule`.
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
        // INVARIANT: The file was just made.
        Self {
            dir,
            name,
            _text: text,
        }
    }

    /// # Safety
    ///
    /// Called by debugfs for a file of this type, which is not removed meanwhile.
    unsafe extern "C" fn open(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: The inode is valid, by the safety requirement; it has what `new` has given.
        let text = unsafe { (*inode).i_private };
        // SAFETY: The file is valid and being opened, by the safety requirement.
        unsafe { bindings::single_open(file, Some(Self::show), text) }
    }

    /// # Safety
    ///
    /// Called by debugfs for an open file of this type, which is not removed meanwhile, with memory
    /// of user space.
    unsafe extern "C" fn write(
        file: *mut bindings::file,
        from: *const c_char,
        len: usize,
        _: *mut bindings::loff_t,
    ) -> isize {
        // SAFETY: The file is valid, by the safety requirement; it has what `single_open()` has
        // made.
        let m: *mut bindings::seq_file = unsafe { (*file).private_data }.cast();
        // SAFETY: The file is valid, by the safety requirement; it has what `open` has given.
        let text = unsafe { (*m).private };
        // SAFETY: By the type invariant, and because debugfs lets nobody write to a file that drop
        // has removed, and waits there for those who do.
        let text = unsafe { &*text.cast::<T>() };
        let mut bytes = [0; MAX_WRITTEN];
        let stored = match bytes.get_mut(..len) {
            Some(bytes) => UserSlice::new(UserPtr::from_ptr(from.cast_mut().cast()), len)
                .reader()
                .read_slice(bytes)
                .and_then(|()| text.store(bytes.trim_ascii())),
            None => Err(EINVAL),
        };
        // CAST: It is at most MAX_WRITTEN; an error number is small.
        stored.map_or_else(|error| error.to_errno() as isize, |()| len as isize)
    }

    /// # Safety
    ///
    /// Called by a read of a file of this type, which is not removed meanwhile.
    unsafe extern "C" fn show(m: *mut bindings::seq_file, _: *mut c_void) -> c_int {
        // SAFETY: The file is valid, by the safety requirement; it has what `open` has given.
        let text = unsafe { (*m).private };
        // SAFETY: By the type invariant, and because debugfs lets nobody read a file that drop has
        // removed, and waits there for those who do.
        let text = unsafe { &*text.cast::<T>() };
        // SAFETY: The file is valid, and this task is the only one that uses it, by the lock of C.
        text.show(unsafe { SeqFile::from_raw(m) });
        0
    }
}

impl<T: Text> Drop for DebugfsText<T> {
    fn drop(&mut self) {
        self.dir.remove(self.name);
        wait_for_openers(T::OwnerModule::THIS_MODULE.as_ptr());
    }
}
