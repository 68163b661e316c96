// SPDX-License-Identifier: GPL-2.0

//! The text for the outcome of a job.

use std::fmt;

use crate::queue::Access;
use crate::queue::Outcome;

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Fetch => f.write_str("fetch"),
            Self::Read => f.write_str("read"),
            Self::Write => f.write_str("write"),
            Self::Atomic => f.write_str("atomic"),
            Self::Unknown(number) => write!(f, "access {number}"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let packets = if self.executed == 1 {
            "packet"
        } else {
            "packets"
        };
        write!(f, "{} {packets} executed", self.executed)?;
        match (self.error, self.access) {
            (None, _) => Ok(()),
            (Some(errno), Access::None) => {
                write!(f, ", then {errno:?} at packet {:#x}", self.fault_addr)
            }
            (Some(errno), access) => {
                write!(f, ", then {errno:?} at {:#x} ({access})", self.fault_addr)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    #[test]
    fn an_outcome_says_how_far_it_came_and_what_failed() {
        assert_eq!(Outcome::done(1).to_string(), "1 packet executed");
        let failed = Outcome::failed(2, Errno::EFAULT, Access::Read, 0x1000);
        assert_eq!(
            failed.to_string(),
            "2 packets executed, then EFAULT at 0x1000 (read)"
        );
        let failed = Outcome::failed(0, Errno::EINVAL, Access::None, 0x40);
        assert_eq!(
            failed.to_string(),
            "0 packets executed, then EINVAL at packet 0x40"
        );
    }
}
