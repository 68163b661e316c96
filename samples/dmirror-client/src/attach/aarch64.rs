// SPDX-License-Identifier: GPL-2.0

//! Registers of a thread of another process, on arm64.
//!
//! Before ptrace has its turn, the kernel leads the thread back to the instruction of an
//! interrupted system call, with the registers that it had there. Afterwards, if the thread is
//! still there, and the call is one that continues (such as a sleep), the kernel puts the number of
//! `restart_syscall` in place of the call's. So the first call that the thread makes for us is by
//! that instruction: [`Registers::entered`] sees the number.
//!
//! While a thread is stopped at the begin or end of a system call, x7 says which of the two it is;
//! writes to x7 are lost. No call here has so many arguments, and the thread gets its own x7 back
//! elsewhere.

use std::io;

use nix::libc::user_regs_struct;
use nix::sys::ptrace;
use nix::unistd::Pid;

use crate::sys::ptrace::set_call_number;

/// The instruction `svc #0`.
pub(super) const SYSCALL: [u8; 4] = 0xd400_0001_u32.to_le_bytes();

/// The alignment of instructions, in bytes.
pub(super) const ALIGNMENT: usize = 4;

/// Number of bytes below the stack pointer that the program may use.
pub(super) const RED_ZONE: u64 = 0;

/// `AUDIT_ARCH_AARCH64` of `linux/audit.h`: the architecture of system calls of 64-bit programs.
const NATIVE: u32 = 0xc000_00b7;

/// The bits of `pstate` for the kind of branch by which the thread came. After some kinds, the next
/// instruction must be a landing pad, which `svc` is not.
const BRANCH: u64 = 0b11 << 10;

/// The register for the number of a system call.
const NUMBER: usize = 8;

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
        if ptrace::syscall_info(thread)?.arch != NATIVE {
            return Err(super::unsupported("it is a program of 32 bits"));
        }
        Ok(Self(ptrace::getregs(thread)?))
    }

    /// Sets the registers of a stopped thread.
    pub(super) fn set(self, thread: Pid) -> io::Result<()> {
        Ok(ptrace::setregs(thread, self.0)?)
    }

    /// Returns the address of the next instruction.
    pub(super) fn next(self) -> u64 {
        self.0.pc
    }

    /// Returns the stack pointer.
    pub(super) fn stack(self) -> u64 {
        self.0.sp
    }

    /// Returns the result of a system call; a negative one is an error number.
    pub(super) fn result(self) -> i64 {
        self.0.regs[0] as i64
    }

    /// Returns the registers of the thread for a system call by the instruction at `at`.
    pub(super) fn calling(self, at: u64, number: i64, arguments: [u64; 6]) -> Self {
        let mut registers = self.0;
        registers.regs[..arguments.len()].copy_from_slice(&arguments);
        registers.regs[NUMBER] = number as u64;
        registers.pc = at;
        registers.pstate &= !BRANCH;
        Self(registers)
    }

    /// Handles the begin of a system call, which must be `number`. If it is another one, the kernel
    /// wants to continue the interrupted call: the thread performs `number` now, and the other one
    /// later.
    pub(super) fn entered(&mut self, thread: Pid, number: i64) -> io::Result<()> {
        let begun = ptrace::getregs(thread)?.regs[NUMBER];
        if begun != number as u64 {
            self.0.regs[NUMBER] = begun;
            set_call_number(thread.as_raw(), number)?;
        }
        Ok(())
    }
}
