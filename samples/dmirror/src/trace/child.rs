// SPDX-License-Identifier: GPL-2.0

//! The program that is traced.
//!
//! The standard library's `Command` would let it inherit the signal mask of this process, which
//! blocks the signals that end a trace before there is a trace buffer to remove.

use std::ffi::CString;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::ffi::OsStringExt as _;

use anyhow::Context as _;
use anyhow::Result;
use nix::spawn::PosixSpawnAttr;
use nix::spawn::PosixSpawnFileActions;
use nix::spawn::PosixSpawnFlags;
use nix::spawn::posix_spawnp;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;
use rustix::process::Pid;
use rustix::process::WaitOptions;
use rustix::process::waitpid;

/// A child that runs a program.
pub struct Program(Pid);

impl Program {
    /// Starts a program with the environment of this process and with `mask` as the signals that
    /// are blocked.
    ///
    /// # Errors
    ///
    /// If the program cannot be run; the error contains its name.
    pub fn start(words: &[OsString], mask: &SigSet) -> Result<Self> {
        let about = || format!("cannot run {}", words[0].to_string_lossy());
        let arguments = words.iter().map(|word| CString::new(word.as_bytes()));
        let arguments = arguments
            .collect::<Result<Vec<_>, _>>()
            .with_context(about)?;
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            let entry = [name.as_bytes(), value.as_bytes()].join(&b'=');
            CString::new(OsString::from_vec(entry).into_vec()).ok()
        });
        let mut attributes = PosixSpawnAttr::init()?;
        attributes.set_flags(
            PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF,
        )?;
        attributes.set_sigmask(mask)?;
        // The standard library ignores it in this process.
        attributes.set_sigdefault(&SigSet::from(Signal::SIGPIPE))?;
        let child = posix_spawnp(
            &arguments[0],
            &PosixSpawnFileActions::init()?,
            &attributes,
            &arguments,
            &environment.collect::<Vec<_>>(),
        );
        let pid = Pid::from_raw(child.with_context(about)?.as_raw());
        Ok(Self(pid.context("a child without a number")?))
    }

    /// Returns its process ID.
    pub fn pid(&self) -> i32 {
        self.0.as_raw_pid()
    }

    /// Returns its exit status as shells report it: the status, or 128 plus its signal; `None` if
    /// it has not ended. Does not wait.
    ///
    /// # Errors
    ///
    /// The error of waitpid(2).
    pub fn status(&self) -> Result<Option<u8>> {
        let ended = waitpid(Some(self.0), WaitOptions::NOHANG);
        let ended = ended.context("cannot wait for the program")?;
        Ok(ended.and_then(|(_, status)| {
            let signal = || status.terminating_signal().map(|signal| 128 + signal);
            u8::try_from(status.exit_status().or_else(signal)?).ok()
        }))
    }
}
