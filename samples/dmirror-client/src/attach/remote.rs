// SPDX-License-Identifier: GPL-2.0

//! System calls that another process is made to perform.
//!
//! A stopped thread gets other registers, which lead it to an instruction for system calls: the one
//! that it executes next, or one in the vDSO. It is stopped again when the system call has
//! returned. No code of the program changes, so other threads may run meanwhile. Signals wait.

use std::fs;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace;
use nix::unistd::Pid;

use super::arch::ALIGNMENT;
use super::arch::RED_ZONE;
use super::arch::Registers;
use super::arch::SYSCALL;
use super::of_status;
use super::stop_again;
use super::unsupported;
use crate::sys::ptrace::Way;
use crate::sys::ptrace::go_on;
use crate::sys::ptrace::swap_signal_mask;
use crate::sys::ptrace::wait_end;
use crate::sys::ptrace::wait_stop;

/// The bit of SIGSYS in a set of signals, by which seccomp reports calls that it does not allow. If
/// the signal is masked, the kernel removes its handler.
const SIGSYS: u64 = 1 << (libc::SIGSYS - 1);

/// A stopped thread of another process that makes system calls for us. Call [`end`](Self::end) at
/// the end.
pub(super) struct Remote<'m> {
    pid: Pid,
    memory: &'m File,
    /// The registers with which the thread continues.
    registers: Registers,
    /// The thread's signal mask.
    mask: u64,
    /// The address of the instruction.
    syscall: u64,
    /// A thread that it has created.
    created: Option<i32>,
}

impl<'m> Remote<'m> {
    /// Takes over a thread that has stopped where the kernel checks for signals; `memory` is the
    /// memory of its process.
    pub(super) fn begin(pid: i32, memory: &'m File) -> io::Result<Self> {
        let thread = Pid::from_raw(pid);
        let registers = Registers::of(thread)?;
        let syscall = match is_syscall(memory, registers.next()) {
            true => registers.next(),
            false => find_syscall(pid, memory)?,
        };
        let masked = match of_status(pid, "Seccomp:").as_deref() {
            Some("1") => return Err(unsupported("its sandbox (seccomp) allows nothing")),
            // That signal is about a call of the program itself, so it is too early.
            Some("2") if is_sandbox_signalled(pid) => return Err(Errno::EAGAIN.into()),
            Some("2") => !SIGSYS,
            _ => u64::MAX,
        };
        let mask = swap_signal_mask(pid, masked)?;
        Ok(Self {
            pid: thread,
            memory,
            registers,
            mask,
            syscall,
            created: None,
        })
    }

    /// Returns the number of the thread.
    pub(super) fn thread(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Maps `len` bytes of new memory, and returns their address.
    pub(super) fn map(&mut self, len: u64) -> io::Result<u64> {
        let protection = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
        self.call(libc::SYS_mmap, [0, len, protection, flags, u64::MAX, 0])
    }

    /// Opens a file for reading and writing, and returns the descriptor.
    pub(super) fn open(&mut self, path: &Path) -> io::Result<i32> {
        let mut name = path.as_os_str().as_bytes().to_vec();
        name.push(0);
        // Below the part of the stack that is in use; its content is restored nevertheless.
        let at = (self.registers.stack() - RED_ZONE - name.len() as u64) & !15;
        let mut before = vec![0; name.len()];
        self.memory.read_exact_at(&mut before, at)?;
        self.memory.write_all_at(&name, at)?;
        let flags = (libc::O_RDWR | libc::O_CLOEXEC) as u64;
        let here = libc::AT_FDCWD as u64;
        let opened = loop {
            match self.call(libc::SYS_openat, [here, at, flags, 0, 0, 0]) {
                // A SIGSTOP has arrived.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                opened => break opened,
            }
        };
        let restored = self.memory.write_all_at(&before, at);
        let descriptor = opened?;
        restored?;
        // CAST: A descriptor is an int.
        Ok(descriptor as i32)
    }

    /// Closes a descriptor.
    pub(super) fn close(&mut self, descriptor: i32) -> io::Result<()> {
        self.call(libc::SYS_close, [descriptor as u64, 0, 0, 0, 0, 0])
            .map(drop)
    }

    /// Creates a thread of the process that has a table of open files of its own, a copy. Call
    /// [`exit`](Self::exit) at the end. The tracer must have asked for `PTRACE_O_TRACECLONE`.
    pub(super) fn create(&mut self) -> io::Result<Self> {
        let flags = libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
        // The new thread uses the stack of this one, which is stopped: it returns to no function.
        let flags = (flags | libc::CLONE_SYSVSEM) as u64;
        self.call(libc::SYS_clone, [flags, 0, 0, 0, 0, 0])?;
        let created = self.created.take().ok_or(Errno::ESRCH)?;
        wait_stop(created)?;
        let thread = Pid::from_raw(created);
        Ok(Self {
            pid: thread,
            registers: Registers::of(thread)?,
            created: None,
            ..*self
        })
    }

    /// Ends the thread.
    pub(super) fn exit(mut self) -> io::Result<()> {
        match self.call(libc::SYS_exit, [0; 6]) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => wait_end(self.thread()),
            Err(error) => Err(error),
            Ok(_) => Err(io::Error::other("a thread did not end")),
        }
    }

    /// Restores the thread, so that it continues where it was as soon as it is resumed; returns how
    /// to resume it.
    ///
    /// The thread is stopped where the kernel checks for signals, so the kernel restarts or ends
    /// the system call that the thread was in, as if nothing had happened.
    pub(super) fn end(self) -> io::Result<Way> {
        let mut way = stop_again(self.thread())?;
        self.registers.set(self.pid)?;
        // A system call that the thread is about to make may be one that was interrupted. A signal
        // that has arrived meanwhile shall find the thread in it, and end it.
        if way != Way::Stopped && self.syscall == self.registers.next() {
            way = self.enter()?;
        }
        swap_signal_mask(self.thread(), self.mask)?;
        Ok(way)
    }

    /// Lets the thread begin the system call that it is about to make, unless its group stops.
    fn enter(&self) -> io::Result<Way> {
        let mut signal = 0;
        loop {
            let status = self.step(signal)?;
            if is_system_call(status) {
                return Ok(Way::Freely);
            }
            if is_group_stop(status) {
                return Ok(Way::Stopped);
            }
            signal = passed_on(status);
        }
    }

    fn call(&mut self, number: i64, arguments: [u64; 6]) -> io::Result<u64> {
        let registers = self.registers.calling(self.syscall, number, arguments);
        loop {
            registers.set(self.pid)?;
            self.finish(number)?;
            match Registers::of(self.pid)?.result() {
                // A SIGSTOP has arrived. The kernel would begin the call again; programs do not see
                // these numbers.
                -516..=-512 => {}
                // CAST: An errno is small.
                result @ -4095..=-1 => {
                    return Err(io::Error::from_raw_os_error(-result as i32));
                }
                result => return Ok(result as u64),
            }
        }
    }

    /// Lets the thread begin and end a system call, which shall be `number`.
    fn finish(&mut self, number: i64) -> io::Result<()> {
        let mut signal = 0;
        loop {
            let status = self.step(signal)?;
            signal = passed_on(status);
            if status >> 16 == libc::PTRACE_EVENT_CLONE {
                // CAST: The kernel reports a thread number.
                self.created = Some(ptrace::getevent(self.pid)? as i32);
            }
            if !is_system_call(status) {
                continue;
            }
            if ptrace::syscall_info(self.pid)?.op == libc::PTRACE_SYSCALL_INFO_EXIT {
                return self.check_sandbox();
            }
            self.registers.entered(self.pid, number)?;
        }
    }

    /// Continues the thread until it stops, at the latest at the begin or end of a system call.
    fn step(&self, signal: i32) -> io::Result<i32> {
        go_on(self.thread(), Way::ToSystemCall, signal)?;
        wait_stop(self.thread())
    }

    /// Returns an error if a sandbox has answered a system call by a signal: then the call was not
    /// made, and the registers have no result. The signal, which is about our call, is discarded.
    fn check_sandbox(&self) -> io::Result<()> {
        if !is_sandbox_signalled(self.thread()) {
            return Ok(());
        }
        loop {
            match self.step(0) {
                Ok(status) if libc::WSTOPSIG(status) == libc::SIGSYS => break,
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
                    return Err(io::Error::other(
                        "its sandbox (seccomp) has killed it for that",
                    ));
                }
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "its sandbox (seccomp) does not allow it",
        ))
    }
}

/// Returns whether a thread has stopped at the begin or end of a system call.
fn is_system_call(status: i32) -> bool {
    libc::WSTOPSIG(status) == libc::SIGTRAP | 0x80
}

/// Returns whether a thread has stopped with its group.
fn is_group_stop(status: i32) -> bool {
    status >> 16 == libc::PTRACE_EVENT_STOP && libc::WSTOPSIG(status) != libc::SIGTRAP
}

/// Returns the signal to deliver to a thread that works for us: SIGSTOP, which cannot be masked,
/// and by which the kernel notes that the group is to stop. The thread does so when it is done.
fn passed_on(status: i32) -> i32 {
    match (status >> 16, libc::WSTOPSIG(status)) {
        (0, libc::SIGSTOP) => libc::SIGSTOP,
        _ => 0,
    }
}

/// Returns whether SIGSYS is pending for a thread.
fn is_sandbox_signalled(thread: i32) -> bool {
    let waiting = of_status(thread, "SigPnd:");
    let waiting = waiting.and_then(|signals| u64::from_str_radix(&signals, 16).ok());
    waiting.is_some_and(|signals| signals & SIGSYS != 0)
}

/// Returns whether the instruction at `at` makes a system call.
fn is_syscall(memory: &File, at: u64) -> bool {
    let mut code = SYSCALL;
    memory.read_exact_at(&mut code, at).is_ok() && code == SYSCALL
}

/// Returns the address of an instruction in the vDSO of a process that makes a system call.
fn find_syscall(pid: i32, memory: &File) -> io::Result<u64> {
    let missing = || unsupported("it has no vDSO");
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let line = maps.lines().find(|line| line.ends_with("[vdso]"));
    let range = line
        .and_then(|line| line.split_once(' '))
        .ok_or_else(missing)?;
    let (start, end) = range.0.split_once('-').ok_or_else(missing)?;
    let hex = |text| u64::from_str_radix(text, 16).map_err(|_| missing());
    let (start, end) = (hex(start)?, hex(end)?);
    let mut code = vec![0; (end - start) as usize];
    memory.read_exact_at(&mut code, start)?;
    let places = (0..code.len()).step_by(ALIGNMENT);
    let mut found = places.filter(|&at| code[at..].starts_with(&SYSCALL));
    Ok(start + found.next().ok_or_else(missing)? as u64)
}
