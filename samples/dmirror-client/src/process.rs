// SPDX-License-Identifier: GPL-2.0

//! Child processes.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::sys::wait::WaitStatus;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::sys;

/// The exit status of a process, or the signal that ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this status.
    Status(i32),
    /// This signal ended it.
    Signal(Signal),
}

/// A child of this process. Drop kills it if it is still running.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    reaped: bool,
}

/// Forks; `body` runs in the child, which then exits with its result, or with 101 if it panics. The
/// child drops nothing.
///
/// # Errors
///
/// The error of fork; `EDEADLK` if this process has other threads, whose locks the child could
/// never take.
pub fn fork_child(body: impl FnOnce() -> i32) -> io::Result<Child> {
    let pid = sys::fork(body)?;
    let pidfd = sys::pidfd(pid)?;
    Ok(Child {
        pid,
        pidfd,
        reaped: false,
    })
}

impl Child {
    /// Returns its process ID.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// The error of kill.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        kill(self.pid, signal)?;
        Ok(())
    }

    /// Waits until the child ends.
    ///
    /// # Errors
    ///
    /// The error of waitpid.
    pub fn wait(mut self) -> io::Result<Exit> {
        self.reap()
    }

    /// Waits until the child ends, at most for `limit` (with millisecond resolution); returns the
    /// child if it is still running then.
    ///
    /// # Errors
    ///
    /// The error of poll or waitpid.
    pub fn wait_for(mut self, limit: Duration) -> io::Result<Result<Exit, Self>> {
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        let ended = loop {
            match poll(&mut fds, timeout) {
                Err(Errno::EINTR) => {}
                answer => break answer? > 0,
            }
        };
        Ok(if ended { Ok(self.reap()?) } else { Err(self) })
    }

    fn reap(&mut self) -> io::Result<Exit> {
        loop {
            match waitpid(self.pid, None) {
                Ok(WaitStatus::Exited(_, status)) => {
                    self.reaped = true;
                    return Ok(Exit::Status(status));
                }
                Ok(WaitStatus::Signaled(_, signal, _)) => {
                    self.reaped = true;
                    return Ok(Exit::Signal(signal));
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// A descriptor that is readable once the child has ended.
impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped && kill(self.pid, Signal::SIGKILL).is_ok() {
            let _ = self.reap();
        }
    }
}
