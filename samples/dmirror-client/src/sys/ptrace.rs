// SPDX-License-Identifier: GPL-2.0

//! ptrace, and waiting for traced threads, with the kernel's signal numbers: these include
//! real-time signals, for which nix has no name.

use std::ffi::c_void;
use std::io;
use std::mem::MaybeUninit;
use std::mem::size_of_val;
use std::ptr::null_mut;
use std::ptr::without_provenance_mut;

use nix::errno::Errno;
use nix::libc;

/// The way in which a stopped thread continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Until it has something to report.
    Freely,
    /// Also until the next begin or end of a system call.
    ToSystemCall,
    /// Not at all: it stays in its group stop until that ends.
    Stopped,
}

/// Waits for any traced thread; returns its number, and the status as waitpid defines it.
pub(crate) fn wait() -> io::Result<(i32, i32)> {
    wait_for(-1)
}

/// Waits until a thread stops; returns the status as waitpid defines it. If the thread ends,
/// returns `ESRCH`, and leaves the status to [`wait`].
pub(crate) fn wait_stop(thread: i32) -> io::Result<i32> {
    let peek = libc::WEXITED | libc::WSTOPPED | libc::WNOWAIT | libc::__WALL;
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    loop {
        // SAFETY: The kernel writes to a variable of this function.
        let waited =
            unsafe { libc::waitid(libc::P_PID, thread as libc::id_t, info.as_mut_ptr(), peek) };
        match Errno::result(waited) {
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    // SAFETY: Zeros are valid, and so is what the kernel has written.
    let code = unsafe { info.assume_init() }.si_code;
    match code {
        libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED => Err(Errno::ESRCH.into()),
        _ => wait_for(thread).map(|(_, status)| status),
    }
}

/// Takes the status of a thread that ends or has ended.
pub(crate) fn wait_end(thread: i32) -> io::Result<()> {
    wait_for(thread).map(drop)
}

fn wait_for(thread: i32) -> io::Result<(i32, i32)> {
    let mut status = 0;
    loop {
        // SAFETY: The kernel writes the status to a variable of this function.
        let pid = unsafe { libc::waitpid(thread, &mut status, libc::__WALL) };
        match Errno::result(pid) {
            Ok(pid) => return Ok((pid, status)),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Continues a stopped thread, and delivers a signal to it, or none (0).
pub(crate) fn go_on(thread: i32, way: Way, signal: i32) -> io::Result<()> {
    let request = match way {
        Way::Freely => libc::PTRACE_CONT,
        Way::ToSystemCall => libc::PTRACE_SYSCALL,
        Way::Stopped => libc::PTRACE_LISTEN,
    };
    let signal: *mut c_void = without_provenance_mut(signal as usize);
    // SAFETY: These requests access no memory of this process.
    Errno::result(unsafe { libc::ptrace(request, thread, null_mut::<c_void>(), signal) })?;
    Ok(())
}

/// Replaces the signal mask of a stopped thread, which has one bit for each signal from 1 on;
/// returns the old mask.
pub(crate) fn swap_signal_mask(thread: i32, mut mask: u64) -> io::Result<u64> {
    let mut before = 0_u64;
    let len: *mut c_void = without_provenance_mut(size_of_val(&mask));
    let (get, set) = (libc::PTRACE_GETSIGMASK, libc::PTRACE_SETSIGMASK);
    // SAFETY: The kernel writes as many bytes as `len` says, which the variable has.
    Errno::result(unsafe { libc::ptrace(get, thread, len, &raw mut before) })?;
    // SAFETY: The kernel reads as many bytes as `len` says, which the variable has.
    Errno::result(unsafe { libc::ptrace(set, thread, len, &raw mut mask) })?;
    Ok(before)
}

/// Makes a thread that has stopped at the begin of a system call make another one. The arguments
/// are in its registers.
#[cfg(target_arch = "aarch64")]
pub(crate) fn set_call_number(thread: i32, number: libc::c_long) -> io::Result<()> {
    /// The register set that has the number, an int (`linux/elf.h`).
    const NT_ARM_SYSTEM_CALL: usize = 0x404;
    // CAST: The numbers of system calls are small.
    let mut number = number as libc::c_int;
    let mut set = libc::iovec {
        iov_base: (&raw mut number).cast(),
        iov_len: size_of_val(&number),
    };
    let kind: *mut c_void = without_provenance_mut(NT_ARM_SYSTEM_CALL);
    // SAFETY: The kernel reads the number, and writes to `set` how much it has read.
    let answer = unsafe { libc::ptrace(libc::PTRACE_SETREGSET, thread, kind, &raw mut set) };
    Errno::result(answer)?;
    Ok(())
}

/// Returns whether two threads share an address space.
pub(crate) fn same_memory(one: i32, other: i32) -> io::Result<bool> {
    /// The kind of comparison, from `linux/kcmp.h`.
    const KCMP_VM: libc::c_int = 1;
    // SAFETY: This system call accesses no memory of this process.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_VM, 0, 0) };
    Ok(Errno::result(order)? == 0)
}
