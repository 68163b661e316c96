// SPDX-License-Identifier: GPL-2.0

//! Signals that are meant for the program.

use std::io;
use std::thread;

use nix::libc;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::sys::signalfd::SfdFlags;
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;

fn signals() -> SigSet {
    [
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
        Signal::SIGHUP,
    ]
    .into_iter()
    .collect()
}

/// Unblocks the signals, in a process that was started while they were blocked.
///
/// # Errors
///
/// The error of sigprocmask.
pub fn unblock() -> io::Result<()> {
    Ok(signals().thread_unblock()?)
}

/// The signals that would end this process. They are blocked in the thread that created this value,
/// and in the threads that it starts.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks the signals.
    ///
    /// # Errors
    ///
    /// The error of sigprocmask or signalfd.
    pub fn block() -> io::Result<Self> {
        let signals: SigSet = [
            Signal::SIGINT,
            Signal::SIGQUIT,
            Signal::SIGTERM,
            Signal::SIGHUP,
        ]
        .into_iter()
        .collect();
        signals.thread_block()?;
        Ok(Self(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?))
    }

    /// Passes the signals on to the program.
    pub fn pass_on(self, program: i32) {
        thread::spawn(move || {
            while let Ok(Some(arrival)) = self.0.read_signal() {
                // A terminal sends the signal to the program as well.
                let by_terminal = arrival.ssi_code == libc::SI_KERNEL;
                let signal = Signal::try_from(arrival.ssi_signo as i32);
                if let (Ok(signal), false) = (signal, by_terminal) {
                    // The program may have ended.
                    let _ = kill(Pid::from_raw(program), signal);
                }
            }
        });
    }
}
