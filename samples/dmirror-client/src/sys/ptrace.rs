// SPDX-License-Identifier: GPL-2.0

//! ptrace, and waiting for who is traced, with the numbers of signals as the
//! kernel has them: real-time signals are among them, for which nix has no name.

use std::ffi::c_void;
use std::io;
use std::mem::MaybeUninit;
use std::mem::size_of_val;
use std::ptr::null_mut;
use std::ptr::without_provenance_mut;

use nix::errno::Errno;
use nix::libc;

/// How a stopped thread goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Until it has something to report.
    Freely,
    /// Until the next end of a system call, too.
    ToSystemCall,
    /// Not at all: it stays in its group stop, until that ends.
    Stopped,
}

/// Waits for any thread that is traced; returns which one, and the status as waitpid has it.
pub(crate) fn wait() -> io::Result<(i32, i32)> {
    wait_for(-1)
}

/// Waits until a thread stops; returns the status as waitpid has it. If it ends, that is `ESRCH`, and
/// left for [`wait`].
pub(crate) fn wait_stop(thread: i32) -> io::Result<i32> {
    let peek = libc::WEXITED | libc::WSTOPPED | libc::WNOWAIT | libc::__WALL;
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    loop {
        // SAFETY: the kernel writes to a variable of this function.
        let waited =
            unsafe { libc::waitid(libc::P_PID, thread as libc::id_t, info.as_mut_ptr(), peek) };
        match Errno::result(waited) {
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    // SAFETY: zeroes are valid, and so is what the kernel has written.
    let code = unsafe { info.assume_init() }.si_code;
    match code {
        libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED => Err(Errno::ESRCH.into()),
        _ => wait_for(thread).map(|(_, status)| status),
    }
}

fn wait_for(thread: i32) -> io::Result<(i32, i32)> {
    let mut status = 0;
    loop {
        // SAFETY: the status is written to a variable of this function.
        let pid = unsafe { libc::waitpid(thread, &mut status, libc::__WALL) };
        match Errno::result(pid) {
            Ok(pid) => return Ok((pid, status)),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Has a stopped thread go on, and delivers a signal to it, or none (0).
pub(crate) fn go_on(thread: i32, way: Way, signal: i32) -> io::Result<()> {
    let request = match way {
        Way::Freely => libc::PTRACE_CONT,
        Way::ToSystemCall => libc::PTRACE_SYSCALL,
        Way::Stopped => libc::PTRACE_LISTEN,
    };
    let signal: *mut c_void = without_provenance_mut(signal as usize);
    // SAFETY: these requests access no memory of this process.
    Errno::result(unsafe { libc::ptrace(request, thread, null_mut::<c_void>(), signal) })?;
    Ok(())
}

/// Replaces the signal mask of a stopped thread, a bit for each signal from 1 on; returns the one
/// before.
pub(crate) fn swap_signal_mask(thread: i32, mut mask: u64) -> io::Result<u64> {
    let mut before = 0_u64;
    let len: *mut c_void = without_provenance_mut(size_of_val(&mask));
    let (get, set) = (libc::PTRACE_GETSIGMASK, libc::PTRACE_SETSIGMASK);
    // SAFETY: the kernel writes as many bytes as `len` says, which the variable has.
    Errno::result(unsafe { libc::ptrace(get, thread, len, &raw mut before) })?;
    // SAFETY: the kernel reads as many bytes as `len` says, which the variable has.
    Errno::result(unsafe { libc::ptrace(set, thread, len, &raw mut mask) })?;
    Ok(before)
}

/// Whether two threads have one address space.
pub(crate) fn same_memory(one: i32, other: i32) -> io::Result<bool> {
    /// What is compared, of `linux/kcmp.h`.
    const KCMP_VM: libc::c_int = 1;
    // SAFETY: this system call accesses no memory of this process.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_VM, 0, 0) };
    Ok(Errno::result(order)? == 0)
}
