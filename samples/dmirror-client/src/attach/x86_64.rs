// SPDX-License-Identifier: GPL-2.0

//! Registers of a thread of another process, on x86-64.
//!
//! The kernel restarts an interrupted system call after ptrace has had its turn. Until then, the
//! registers tell whether the thread is in one, and in which: restoring them restores that.

use std::io;

use nix::libc::user_regs_struct;
use nix::sys::ptrace;
use nix::unistd::Pid;

/// The instruction `syscall`.
pub(super) const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// The alignment of instructions, in bytes.
pub(super) const ALIGNMENT: usize = 1;

/// Number of bytes below the stack pointer that the program may use.
pub(super) const RED_ZONE: u64 = 128;

/// The code segment of 64-bit programs.
const USER_CS: u64 = 0x33;

/// The registers of a stopped thread.
#[derive(Clone, Copy)]
pub(super) struct Registers(user_regs_struct);

impl Registers {
    /// Returns the registers of a stopped thread.
    ///
    /// # Errors
    ///
    /// `Unsupported` for a program of 32 bits.
    pub(super) fn of(thread: Pid) -> io::Result<Self> {
        let registers = ptrace::getregs(thread)?;
        if registers.cs != USER_CS {
            return Err(super::unsupported("it is a program of 32 bits"));
        }
        Ok(Self(registers))
    }

    /// Sets the registers of a stopped thread.
    pub(super) fn set(self, thread: Pid) -> io::Result<()> {
        Ok(ptrace::setregs(thread, self.0)?)
    }

    /// Returns the address of the next instruction.
    pub(super) fn next(self) -> u64 {
        self.0.rip
    }

    /// Returns the stack pointer.
    pub(super) fn stack(self) -> u64 {
        self.0.rsp
    }

    /// Returns the result of a system call; a negative one is an error number.
    pub(super) fn result(self) -> i64 {
        self.0.rax as i64
    }

    /// Returns the registers of the thread for a system call by the instruction at `at`.
    pub(super) fn calling(self, at: u64, number: i64, arguments: [u64; 6]) -> Self {
        let [rdi, rsi, rdx, r10, r8, r9] = arguments;
        Self(user_regs_struct {
            rax: number as u64,
            // It is in no system call that could be restarted.
            orig_rax: u64::MAX,
            rip: at,
            rdi,
            rsi,
            rdx,
            r10,
            r8,
            r9,
            ..self.0
        })
    }

    /// Handles the begin of a system call: does nothing, because the kernel keeps the number.
    pub(super) fn entered(&mut self, _thread: Pid, _number: i64) -> io::Result<()> {
        Ok(())
    }
}
