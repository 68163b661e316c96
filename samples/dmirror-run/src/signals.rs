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

/// Passes signals that would end this process on to the program, from now on. Call this before
/// other threads are started, and after the program is.
///
/// # Errors
///
/// What sigprocmask and signalfd fail with.
pub fn pass_on(program: i32) -> io::Result<()> {
    let signals: SigSet = [
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
        Signal::SIGHUP,
    ]
    .into_iter()
    .collect();
    signals.thread_block()?;
    let arrivals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?;
    thread::spawn(move || {
        while let Ok(Some(arrival)) = arrivals.read_signal() {
            // A terminal sends it to the program as well.
            let by_terminal = arrival.ssi_code == libc::SI_KERNEL;
            let signal = Signal::try_from(arrival.ssi_signo as i32);
            if let (Ok(signal), false) = (signal, by_terminal) {
                // It may have ended.
                let _ = kill(Pid::from_raw(program), signal);
            }
        }
    });
    Ok(())
}
