// SPDX-License-Identifier: GPL-2.0

//! Commands as a 32-bit program sends them to a 64-bit kernel.

use std::os::fd::AsFd;

use nix::errno::Errno;

use crate::abi::dmirror_cmd;
use crate::advice::AdviceError;
use crate::advice::Advised;
use crate::advice::Change;
use crate::device::Command;
use crate::device::Counts;
use crate::device::Device;
use crate::range::PageRange;
use crate::sys::compat;

impl Device {
    /// Sends a command as [`call`](Self::call) does without a buffer, through the kernel's entry
    /// for 32-bit programs. A kernel without that entry ends the process with SIGSEGV.
    ///
    /// # Errors
    ///
    /// The error of the kernel; `ENOTTY` if the device does not support such calls.
    pub fn call_as_32_bit(&self, command: Command, addr: u64, pages: u64) -> Result<Counts, Errno> {
        let mut cmd = dmirror_cmd {
            addr,
            npages: pages,
            ptr: 0,
            cpages: 0,
            faults: 0,
        };
        compat::ioctl(self.as_fd(), command.number(), &mut cmd)?;
        Ok(Counts {
            pages: cmd.cpages,
            faults: cmd.faults,
        })
    }

    /// Does the same as [`advise`](Self::advise), through the entry for 32-bit programs.
    ///
    /// # Errors
    ///
    /// As for [`advise`](Self::advise).
    pub fn advise_as_32_bit(
        &self,
        range: PageRange,
        change: Change<'_>,
    ) -> Result<(), AdviceError> {
        self.advise_by(compat::ioctl, range, change)
    }

    /// Does the same as [`advice_at`](Self::advice_at), through the entry for 32-bit programs.
    ///
    /// # Errors
    ///
    /// As for [`advice_at`](Self::advice_at).
    pub fn advice_at_as_32_bit(&self, addr: u64, limit: u64) -> Result<Advised, AdviceError> {
        self.advice_by(compat::ioctl, addr, limit)
    }
}
