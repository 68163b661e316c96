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
    /// As [`call`](Self::call) without a buffer, by the kernel's entry for 32-bit
    /// programs. A kernel without such an entry ends the process with SIGSEGV.
    ///
    /// # Errors
    ///
    /// What the kernel answers, `ENOTTY` if the device knows no such calls.
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

    /// As [`advise`](Self::advise), likewise.
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

    /// As [`advice_at`](Self::advice_at), likewise.
    ///
    /// # Errors
    ///
    /// As for [`advice_at`](Self::advice_at).
    pub fn advice_at_as_32_bit(&self, addr: u64, limit: u64) -> Result<Advised, AdviceError> {
        self.advice_by(compat::ioctl, addr, limit)
    }
}
