// SPDX-License-Identifier: GPL-2.0

//! System calls as a 32-bit program makes them.

use std::arch::asm;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::mmap_anonymous;
use nix::sys::mman::munmap;

use crate::abi;
use crate::abi::Argument;

/// The number of ioctl for 32-bit programs (arch/x86/entry/syscalls/syscall_32.tbl).
const IOCTL: libc::c_int = 54;

/// A struct at an address that 32-bit programs can use.
struct Low<T>(NonNull<T>);

impl<T> Low<T> {
    const LEN: NonZeroUsize = NonZeroUsize::new(size_of::<T>()).unwrap();

    fn new() -> Result<Self, Errno> {
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_32BIT;
        // SAFETY: Without MAP_FIXED, the kernel picks unused addresses.
        let at = unsafe { mmap_anonymous(None, Self::LEN, prot, flags) }?;
        Ok(Self(at.cast()))
    }
}

impl<T> Drop for Low<T> {
    fn drop(&mut self) {
        // SAFETY: The page belongs to this value, and no reference into it exists.
        let answer = unsafe { munmap(self.0.cast(), Self::LEN.get()) };
        debug_assert_eq!(answer, Ok(()));
    }
}

/// Sends command `nr` with `argument`, whose pointer must be null, through the entry for 32-bit
/// programs. A kernel without that entry ends the process with SIGSEGV.
pub(crate) fn ioctl<T: Argument>(
    device: BorrowedFd<'_>,
    nr: u32,
    argument: &mut T,
) -> Result<(), Errno> {
    if argument.pointer() != 0 {
        return Err(Errno::EADDRNOTAVAIL);
    }
    let low = Low::new()?;
    // SAFETY: The page is writable, aligned, and used by nobody else.
    unsafe { low.0.write(*argument) };
    let fd = device.as_raw_fd() as u64;
    let answer: libc::c_int;
    // SAFETY: The kernel accesses the struct, and nothing else, since its pointer is null. The
    // registers that the entry may change are declared, and rbx, which the compiler does not allow
    // as an operand, is restored.
    unsafe {
        asm!(
            "xchg rbx, {fd}",
            "int 0x80",
            "xchg rbx, {fd}",
            fd = inout(reg) fd => _,
            inlateout("eax") IOCTL => answer,
            in("rcx") abi::request::<T>(nr),
            in("rdx") low.0.as_ptr(),
            out("r8") _,
            out("r9") _,
            out("r10") _,
            out("r11") _,
        );
    }
    // SAFETY: The page is readable, aligned, and used by nobody else; the kernel has left a struct
    // of numbers there.
    *argument = unsafe { low.0.read() };
    if answer < 0 {
        return Err(Errno::from_raw(-answer));
    }
    Ok(())
}
