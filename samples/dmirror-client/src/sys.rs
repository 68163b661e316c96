// SPDX-License-Identifier: GPL-2.0

//! All unsafe code in user space: memory mappings, ioctl, fork.
//!
//! This module exports only safe functions; the types uphold the requirements of the system calls.
//! Code here has one unsafe operation per block.

#[cfg(target_arch = "x86_64")]
pub(crate) mod compat;
pub(crate) mod memory;
pub(crate) mod playground;
pub(crate) mod ptrace;
pub(crate) mod query;
pub(crate) mod ring;
pub(crate) mod signal;
pub(crate) mod swap;
pub(crate) mod uffd;

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::mem::offset_of;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::MRemapFlags;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::mmap;
use nix::sys::mman::mmap_anonymous;
use nix::sys::mman::mprotect;
use nix::sys::mman::mremap;
use nix::sys::mman::munmap;
use nix::unistd::ForkResult;
use nix::unistd::Pid;

use crate::abi;
use crate::abi::Argument;
use crate::abi::dmirror_cmd;
use crate::mman::Advice;
use crate::mman::Backing;
use crate::mman::Protection;
use crate::range::page_size;

/// Pages of this process's address space that nothing else uses.
///
/// # Invariants
///
/// `outer` and `outer_len` are page aligned, and `outer_len` is not 0. This value alone owns the
/// mapping: no Rust object and no other value lies in it. The usable part is inside, and may be
/// accessed whenever its protection allows.
pub(crate) struct Mapping {
    outer: NonNull<c_void>,
    outer_len: usize,
    /// Number of guard bytes before the usable part.
    lead: usize,
    /// Number of bytes of the usable part.
    len: usize,
}

// SAFETY: A mapping belongs to the process, not to a thread.
unsafe impl Send for Mapping {}

// SAFETY: Access through a shared reference is atomic, or a system call, which the kernel
// serialises.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes, readable and writable, at a multiple of `align`, with a guard page on
    /// either side.
    pub(crate) fn new(backing: &Backing, len: usize, align: usize) -> io::Result<Self> {
        let mapping = Self::reserve(len, align)?;
        mapping.commit(backing, 0, len)?;
        Ok(mapping)
    }

    /// Reserves inaccessible addresses with room for `len` bytes and two guards.
    fn reserve(len: usize, align: usize) -> io::Result<Self> {
        let guard = page_size();
        let outer_len = len
            .checked_add(align + 2 * guard)
            .and_then(NonZeroUsize::new)
            .filter(|_| len > 0 && len % guard == 0 && align.is_power_of_two())
            .ok_or(Errno::EINVAL)?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: Without MAP_FIXED, the kernel picks unused addresses.
        let outer = unsafe { mmap_anonymous(None, outer_len, ProtFlags::PROT_NONE, flags) }?;
        let start = (outer.as_ptr() as usize + guard).next_multiple_of(align);
        Ok(Self {
            outer,
            outer_len: outer_len.get(),
            lead: start - outer.as_ptr() as usize,
            len,
        })
    }

    /// Maps `backing` over `len` bytes of the usable part, from `offset` on.
    pub(crate) fn commit(&self, backing: &Backing, offset: usize, len: usize) -> io::Result<()> {
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let at = NonZeroUsize::new(self.at(offset, len).as_ptr() as usize);
        let len = NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
        let (flags, file) = match backing {
            Backing::Anonymous => (MapFlags::MAP_PRIVATE, None),
            Backing::SharedAnonymous => (MapFlags::MAP_SHARED, None),
            Backing::PrivateFile(file) => (MapFlags::MAP_PRIVATE, Some(file)),
            Backing::SharedFile(file) => (MapFlags::MAP_SHARED, Some(file)),
            Backing::Hugetlb => (MapFlags::MAP_PRIVATE | MapFlags::MAP_HUGETLB, None),
        };
        let flags = flags | MapFlags::MAP_FIXED;
        match file {
            // SAFETY: The replaced addresses belong to this value, by the type invariant, and any
            // content is valid for words that are accessed atomically.
            Some(file) => unsafe { mmap(at, len, prot, flags, file, 0) },
            // SAFETY: The replaced addresses belong to this value, by the type invariant, and any
            // content is valid for words that are accessed atomically.
            None => unsafe { mmap_anonymous(at, len, prot, flags) },
        }?;
        Ok(())
    }

    /// Returns the address of the usable part.
    pub(crate) fn addr(&self) -> usize {
        self.outer.as_ptr() as usize + self.lead
    }

    /// Returns the length of the usable part in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the address `offset` bytes into the usable part. `len` bytes from there on must be
    /// inside.
    fn at(&self, offset: usize, len: usize) -> NonNull<c_void> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        assert!(
            inside,
            "{len} bytes at {offset} are outside of {} bytes",
            self.len
        );
        // SAFETY: The result is inside the mapping, as checked above.
        unsafe { self.outer.byte_add(self.lead + offset) }
    }

    fn word(&self, index: usize) -> NonNull<u64> {
        self.at(index.saturating_mul(size_of::<u64>()), size_of::<u64>())
            .cast()
    }

    pub(crate) fn load(&self, index: usize) -> u64 {
        let word = self.word(index).as_ptr();
        // SAFETY: The word is aligned and inside the mapping, which outlives this function and
        // which Rust code accesses only atomically.
        let word = unsafe { AtomicU64::from_ptr(word) };
        // ORDERING: Relaxed: a word publishes no other data.
        word.load(Ordering::Relaxed)
    }

    pub(crate) fn store(&self, index: usize, value: u64) {
        let word = self.word(index).as_ptr();
        // SAFETY: The word is aligned and inside the mapping, which outlives this function and
        // which Rust code accesses only atomically.
        let word = unsafe { AtomicU64::from_ptr(word) };
        // ORDERING: Relaxed: a word publishes no other data.
        word.store(value, Ordering::Relaxed);
    }

    pub(crate) fn fetch_add(&self, index: usize, number: u64) -> u64 {
        let word = self.word(index).as_ptr();
        // SAFETY: The word is aligned and inside the mapping, which outlives this function and
        // which Rust code accesses only atomically.
        let word = unsafe { AtomicU64::from_ptr(word) };
        // ORDERING: Relaxed: a word publishes no other data.
        word.fetch_add(number, Ordering::Relaxed)
    }

    pub(crate) fn protect(
        &self,
        offset: usize,
        len: usize,
        protection: Protection,
    ) -> io::Result<()> {
        let prot = match protection {
            Protection::None => ProtFlags::PROT_NONE,
            Protection::Read => ProtFlags::PROT_READ,
            Protection::ReadWrite => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        };
        // SAFETY: The pages belong to this value, and no reference into them exists.
        unsafe { mprotect(self.at(offset, len), len, prot) }?;
        Ok(())
    }

    pub(crate) fn advise(&self, offset: usize, len: usize, advice: Advice) -> io::Result<()> {
        let advice = memory::number_of(advice);
        let at = self.at(offset, len).as_ptr();
        // SAFETY: The pages belong to this value, and any content is valid for words that are
        // accessed atomically.
        let answer = unsafe { libc::madvise(at, len, advice) };
        Errno::result(answer)?;
        Ok(())
    }

    /// Splits off the part from byte `offset` on, a multiple of the page size.
    pub(crate) fn split_off(&mut self, offset: usize) -> Self {
        assert_eq!(offset % page_size(), 0, "cut inside a page");
        let tail = Self {
            outer: self.at(offset, 0),
            outer_len: self.outer_len - self.lead - offset,
            lead: 0,
            len: self.len - offset,
        };
        // INVARIANT: The two values divide the old mapping between them.
        self.outer_len = self.lead + offset;
        self.len = offset;
        tail
    }

    /// Moves the usable part to other addresses, where it is `len` bytes long.
    pub(crate) fn relocate(self, len: usize) -> io::Result<Self> {
        let target = Self::reserve(len, page_size())?;
        let flags = MRemapFlags::MREMAP_MAYMOVE | MRemapFlags::MREMAP_FIXED;
        let to = Some(target.at(0, target.len));
        // SAFETY: Both ranges are owned here, and no reference into them exists.
        unsafe { mremap(self.at(0, self.len), self.len, len, flags, to) }?;
        self.unmap_guards()?;
        Ok(target)
    }

    /// Unmaps only the guards, because the usable part has moved away.
    fn unmap_guards(self) -> io::Result<()> {
        let this = ManuallyDrop::new(self);
        let tail = this.lead + this.len;
        if this.lead > 0 {
            // SAFETY: These pages belong to this value, which ends here.
            unsafe { munmap(this.outer, this.lead) }?;
        }
        if this.outer_len > tail {
            let behind = this.at(this.len, 0);
            // SAFETY: These pages belong to this value, which ends here.
            unsafe { munmap(behind, this.outer_len - tail) }?;
        }
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: The whole mapping belongs to this value, and no reference into it exists.
        let answer = unsafe { munmap(self.outer, self.outer_len) };
        debug_assert_eq!(answer, Ok(()));
    }
}

/// Sends command `nr` with `argument` to an open device.
pub(crate) fn ioctl<T: Argument>(
    device: BorrowedFd<'_>,
    nr: u32,
    argument: &mut T,
) -> Result<(), Errno> {
    let request = abi::request::<T>(nr);
    // SAFETY: The request number contains the size of the struct, which is that of `argument`. The
    // kernel writes to the struct and to its buffer, which `Device::call` has taken from memory
    // that it may write to and that is long enough.
    let answer = unsafe { libc::ioctl(device.as_raw_fd(), request, argument) };
    Errno::result(answer).map(drop)
}

/// Sends command `nr` with a struct of `size` bytes at the start of `argument`.
pub(crate) fn ioctl_at(
    device: BorrowedFd<'_>,
    nr: u32,
    size: usize,
    argument: &Mapping,
) -> Result<(), Errno> {
    if size > argument.len() {
        return Err(Errno::E2BIG);
    }
    // If this read fails, the kernel cannot read the struct either.
    let ptr = peek(argument.addr() + offset_of!(dmirror_cmd, ptr)).unwrap_or(0);
    if ptr != 0 && !abi::takes_no_pointer(nr) {
        return Err(Errno::EADDRNOTAVAIL);
    }
    let request = nix::request_code_readwrite!(abi::DMIRROR_IOC_MAGIC, nr, size);
    let at = argument.at(0, size).as_ptr();
    // SAFETY: The kernel accesses `size` bytes of the mapping, which may have any content, or fails
    // if they are not accessible. The struct's pointer is null, as checked above, or the struct has
    // none, so nothing else is written.
    let answer = unsafe { libc::ioctl(device.as_raw_fd(), request, at) };
    Errno::result(answer).map(drop)
}

/// Reads a word of this process, whatever the protection of its page.
fn peek(addr: usize) -> io::Result<u64> {
    let mut word = [0; size_of::<u64>()];
    File::open("/proc/self/mem")?.read_exact_at(&mut word, addr as u64)?;
    Ok(u64::from_ne_bytes(word))
}

/// Returns whether this thread is the only one of the process. A joined thread may be visible a
/// moment longer, so this looks more than once.
fn is_single_threaded() -> bool {
    let threads = || std::fs::read_dir("/proc/self/task").map_or(usize::MAX, Iterator::count);
    (0..50).any(|_| {
        let single = threads() == 1;
        if !single {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        single
    })
}

/// Forks; `body` runs in the child, which exits with its result, or with 101 if it panics.
pub(crate) fn fork(body: impl FnOnce() -> i32) -> Result<Pid, Errno> {
    // The child of a program with several threads must not even allocate.
    if !is_single_threaded() {
        return Err(Errno::EDEADLK);
    }
    // SAFETY: This is the only thread, so the child finds all locks and all data in a consistent
    // state.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let code = catch_unwind(AssertUnwindSafe(body)).unwrap_or(101);
            // SAFETY: Ending the process is always sound; nothing is dropped.
            unsafe { libc::_exit(code) }
        }
    }
}

/// Opens a descriptor that is readable once the child `pid` has ended.
pub(crate) fn pidfd(pid: Pid) -> Result<OwnedFd, Errno> {
    // SAFETY: The system call takes two integers and accesses no memory.
    let answer = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = Errno::result(answer)?;
    // SAFETY: The kernel has just created this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Creates a file whose pages the kernel itself cannot access: `memfd_secret(2)`.
///
/// # Errors
///
/// `ENOSYS` if the kernel does not support it, or the error of the system call.
pub fn secret_file() -> io::Result<File> {
    // SAFETY: The system call takes an integer and accesses no memory.
    let answer = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    let fd = Errno::result(answer)?;
    // SAFETY: The kernel has just created this descriptor for us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    Ok(fd.into())
}
