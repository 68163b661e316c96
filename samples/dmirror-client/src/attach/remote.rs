// SPDX-License-Identifier: GPL-2.0

//! System calls that another process is made to perform.
//!
//! A stopped thread gets other registers, which lead it to a `syscall` instruction of the vDSO, and
//! it is stopped again when the system call has returned. No code of the program changes, so other
//! threads may run meanwhile. Signals wait.

use std::fs;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::libc;
use nix::libc::user_regs_struct;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::sys::ptrace::Way;
use crate::sys::ptrace::go_on;
use crate::sys::ptrace::swap_signal_mask;
use crate::sys::ptrace::wait_stop;

/// The instruction `syscall`.
const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// Number of bytes below the stack pointer that the program may use: the red zone.
const RED_ZONE: u64 = 128;

/// The code segment of 64-bit programs.
const USER_CS: u64 = 0x33;

/// A stopped thread of another process that makes system calls for us. Call [`end`](Self::end) at
/// the end.
pub(super) struct Remote<'m> {
    pid: Pid,
    memory: &'m File,
    /// The registers with which the thread continues.
    registers: user_regs_struct,
    /// The thread's signal mask.
    mask: u64,
    /// The address of the instruction.
    syscall: u64,
    /// Whether the thread was sent a SIGSTOP, which was withheld.
    is_stopped: bool,
}

impl<'m> Remote<'m> {
    /// Takes over a stopped thread; `memory` is the memory of its process.
    pub(super) fn begin(pid: i32, memory: &'m File) -> io::Result<Self> {
        let thread = Pid::from_raw(pid);
        let registers = ptrace::getregs(thread)?;
        if registers.cs != USER_CS {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "it is a program of 32 bits",
            ));
        }
        let syscall = find_syscall(pid, memory)?;
        let mask = swap_signal_mask(pid, u64::MAX)?;
        Ok(Self {
            pid: thread,
            memory,
            registers,
            mask,
            syscall,
            is_stopped: false,
        })
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
        let at = (self.registers.rsp - RED_ZONE - name.len() as u64) & !15;
        let mut before = vec![0; name.len()];
        self.memory.read_exact_at(&mut before, at)?;
        self.memory.write_all_at(&name, at)?;
        let flags = (libc::O_RDWR | libc::O_CLOEXEC) as u64;
        let here = libc::AT_FDCWD as u64;
        let opened = self.call(libc::SYS_openat, [here, at, flags, 0, 0, 0]);
        self.memory.write_all_at(&before, at)?;
        // CAST: A descriptor is an int.
        opened.map(|descriptor| descriptor as i32)
    }

    /// Closes a descriptor.
    pub(super) fn close(&mut self, descriptor: i32) -> io::Result<()> {
        self.call(libc::SYS_close, [descriptor as u64, 0, 0, 0, 0, 0])
            .map(drop)
    }

    /// Restores the thread, so that it continues where it was as soon as it is resumed.
    ///
    /// The thread is stopped where the kernel checks for signals, so the kernel restarts or ends
    /// the system call that the thread was in, as if nothing had happened.
    pub(super) fn end(self) -> io::Result<()> {
        let thread = self.pid.as_raw();
        ptrace::interrupt(self.pid)?;
        loop {
            go_on(thread, Way::Freely, 0)?;
            if wait_stop(thread)? >> 16 == libc::PTRACE_EVENT_STOP {
                break;
            }
        }
        ptrace::setregs(self.pid, self.registers)?;
        swap_signal_mask(thread, self.mask)?;
        if self.is_stopped {
            kill(self.pid, Signal::SIGSTOP)?;
        }
        Ok(())
    }

    fn call(&mut self, number: i64, arguments: [u64; 6]) -> io::Result<u64> {
        let [rdi, rsi, rdx, r10, r8, r9] = arguments;
        let registers = user_regs_struct {
            rax: number as u64,
            // It is in no system call that could be restarted.
            orig_rax: u64::MAX,
            rip: self.syscall,
            rdi,
            rsi,
            rdx,
            r10,
            r8,
            r9,
            ..self.registers
        };
        ptrace::setregs(self.pid, registers)?;
        let after = self.syscall + SYSCALL.len() as u64;
        loop {
            go_on(self.pid.as_raw(), Way::ToSystemCall, 0)?;
            let status = wait_stop(self.pid.as_raw())?;
            let signal = libc::WSTOPSIG(status);
            // Not the end of a call, but SIGSTOP, the only unmasked signal, or a stop of the
            // thread's group.
            if signal != libc::SIGTRAP | 0x80 {
                self.is_stopped |= signal == libc::SIGSTOP && status >> 16 == 0;
                continue;
            }
            let now = ptrace::getregs(self.pid)?;
            if now.rip != after {
                // The end of the call in which the thread was stopped; its result is now in a
                // register.
                ptrace::setregs(self.pid, registers)?;
                continue;
            }
            if ptrace::syscall_info(self.pid)?.op != libc::PTRACE_SYSCALL_INFO_EXIT {
                continue;
            }
            let result = now.rax as i64;
            return match result {
                // CAST: An errno is small.
                -4095..=-1 => Err(io::Error::from_raw_os_error(-result as i32)),
                result => Ok(result as u64),
            };
        }
    }
}

/// Returns the address of a `syscall` instruction in the vDSO of a process.
fn find_syscall(pid: i32, memory: &File) -> io::Result<u64> {
    let missing = || io::Error::new(io::ErrorKind::Unsupported, "it has no vDSO");
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
    let at = code.windows(SYSCALL.len()).position(|two| two == SYSCALL);
    Ok(start + at.ok_or_else(missing)? as u64)
}
