// SPDX-License-Identifier: GPL-2.0

//! The device for the memory of another program, which knows nothing of it.
//!
//! A device file works on the address space of the process that opened it. So the other process
//! opens it: it is stopped by ptrace, made to call `openat()`, and the descriptor is taken over by
//! `pidfd_getfd()`; the other process does not keep it. The kernel checks what ptrace checks, and
//! that the other process may open the file. Nothing of the program is changed, and it may be
//! static, have threads, fork and exec.
//!
//! What this does not reach: a program that traces others or itself (only one can), one that runs
//! with more rights than the caller, 32-bit programs, and processes for which there is no such
//! path.
//!
//! # Examples
//!
//! ```no_run
//! use dmirror_client::attach;
//! use dmirror_client::attach::Event;
//!
//! // The program stops before it begins, by `attach::stop_and_exec()`.
//! let program = std::process::Command::new("/proc/self/exe").arg("--stopped").spawn()?;
//! let tracer = attach::Tracer::seize(program.id() as i32, "/dev/hmm_dmirror0")?;
//! let exit = tracer.run(|event| match event {
//!     Event::Began { space } => println!("{} runs", space.pid),
//!     Event::Missed { pid, error } => println!("{pid} cannot be reached: {error}"),
//!     Event::Ended { pid } => println!("{pid} has ended"),
//! })?;
//! println!("{exit:?}");
//! # Ok::<(), std::io::Error>(())
//! ```

#[cfg(target_arch = "x86_64")]
mod remote;
#[cfg(not(target_arch = "x86_64"))]
#[path = "attach/no_remote.rs"]
mod remote;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace;
use nix::sys::ptrace::Options;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::sys::signal::raise;
use nix::unistd::Pid;
use rustix::process::PidfdFlags;
use rustix::process::PidfdGetfdFlags;
use rustix::process::pidfd_getfd;
use rustix::process::pidfd_open;

use crate::device::Device;
use crate::range::page_size;
use crate::sys::ptrace::Way;
use crate::sys::ptrace::go_on;
use crate::sys::ptrace::same_memory;
use crate::sys::ptrace::wait;
use remote::Remote;

/// The address space of another process, with a device that works on it.
#[derive(Debug)]
pub struct Space {
    /// The process.
    pub pid: i32,
    /// The device, which the process has opened.
    pub device: Device,
    /// A page that was mapped in it for the packets of engines, if that was asked for: its address.
    pub code: Option<u64>,
    memory: File,
}

impl Space {
    /// Writes to the memory of the process.
    ///
    /// # Errors
    ///
    /// What `/proc/PID/mem` fails with: `EIO` where nothing is mapped, or the process is gone.
    pub fn write(&self, addr: u64, bytes: &[u8]) -> io::Result<()> {
        self.memory.write_all_at(bytes, addr)
    }
}

/// What happens to a program and its descendants.
#[derive(Debug)]
pub enum Event {
    /// A process begins to run with an address space of its own: it was forked, or has replaced
    /// its program. What it had before is gone.
    Began {
        /// The address space.
        space: Space,
    },
    /// Likewise, but the device cannot be opened there.
    Missed {
        /// The process.
        pid: i32,
        /// Why.
        error: io::Error,
    },
    /// A process has ended.
    Ended {
        /// The process.
        pid: i32,
    },
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this status.
    Status(i32),
    /// This signal ended it, by its number.
    Signal(i32),
}

/// Stops this process, until who has started it lets it go on, and becomes another program then.
/// Returns why it could not.
pub fn stop_and_exec(program: &[OsString]) -> io::Error {
    let Some((name, arguments)) = program.split_first() else {
        return Errno::EINVAL.into();
    };
    match raise(Signal::SIGSTOP) {
        Ok(()) => Command::new(name).args(arguments).exec(),
        Err(errno) => errno.into(),
    }
}

/// Opens the device for a process that runs, and lets it go on at once.
///
/// # Errors
///
/// `EPERM` if the process may not be traced, or is traced by another; `ESRCH`; what opening the
/// device fails with in that process; `EOPNOTSUPP` for a program of another architecture.
pub fn open_in(pid: i32, device: &Path) -> io::Result<Space> {
    let process = Pid::from_raw(pid);
    ptrace::seize(process, Options::PTRACE_O_TRACESYSGOOD)?;
    let interrupted = ptrace::interrupt(process).map_err(io::Error::from);
    let opened = interrupted
        .and_then(|()| wait(Some(pid)))
        .and_then(|(_, status)| match libc::WIFSTOPPED(status) {
            true => open_stopped(pid, device, false),
            false => Err(Errno::ESRCH.into()),
        });
    // If it is gone, there is nothing to let go of.
    let _ = ptrace::detach(process, None);
    opened
}

/// Opens the device in a process that is stopped, and maps a page there if there is to be code.
fn open_stopped(pid: i32, path: &Path, with_code: bool) -> io::Result<Space> {
    let memory = File::options()
        .read(true)
        .write(true)
        .open(format!("/proc/{pid}/mem"))?;
    let mut remote = Remote::begin(pid, &memory)?;
    let opened = open_by(&mut remote, pid, path, with_code);
    remote.end()?;
    let (device, code) = opened?;
    Ok(Space {
        pid,
        device,
        code,
        memory,
    })
}

fn open_by(
    remote: &mut Remote<'_>,
    pid: i32,
    path: &Path,
    with_code: bool,
) -> io::Result<(Device, Option<u64>)> {
    let code = match with_code {
        true => Some(remote.map(page_size() as u64)?),
        false => None,
    };
    let opened = remote.open(path)?;
    let device = take_over(pid, opened);
    remote.close(opened)?;
    Ok((device?.into(), code))
}

/// Takes over a descriptor of another process, which keeps it.
fn take_over(pid: i32, descriptor: i32) -> io::Result<OwnedFd> {
    let process = rustix::process::Pid::from_raw(pid).ok_or(Errno::ESRCH)?;
    let pidfd = pidfd_open(process, PidfdFlags::empty())?;
    Ok(pidfd_getfd(pidfd, descriptor, PidfdGetfdFlags::empty())?)
}

/// Takes over what another process has opened, for its address space.
impl From<OwnedFd> for Device {
    fn from(opened: OwnedFd) -> Self {
        let file = File::from(opened).into();
        Self { file }
    }
}

/// What is known of a thread. Its parent tells of it, and it stops for the first time, in either
/// order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thread {
    /// It has not stopped yet; `parent` has made it.
    Announced {
        /// The thread that has made it.
        parent: i32,
    },
    /// It has stopped, and waits for what its parent tells.
    Early,
    /// It has gone on.
    Running,
}

/// Traces a program and all its descendants, by the thread that has made it.
#[derive(Debug)]
pub struct Tracer {
    root: i32,
    device: PathBuf,
    with_code: bool,
    threads: HashMap<i32, Thread>,
    /// ptrace obeys one thread only.
    not_send: PhantomData<*const ()>,
}

impl Tracer {
    /// Begins to trace a child of this process, which stops itself by [`stop_and_exec`].
    ///
    /// # Errors
    ///
    /// `EPERM`, `ESRCH` if it did not stop.
    pub fn seize(child: i32, device: impl Into<PathBuf>) -> io::Result<Self> {
        let pid = Pid::from_raw(child);
        let status = nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WUNTRACED))?;
        if !matches!(status, nix::sys::wait::WaitStatus::Stopped(..)) {
            return Err(Errno::ESRCH.into());
        }
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEEXIT
            // Nobody else would let it go on.
            | Options::PTRACE_O_EXITKILL;
        ptrace::seize(pid, options)?;
        kill(pid, Signal::SIGCONT)?;
        Ok(Self {
            root: child,
            device: device.into(),
            with_code: false,
            threads: HashMap::from([(child, Thread::Running)]),
            not_send: PhantomData,
        })
    }

    /// Has each address space get a page for the packets of engines.
    #[must_use]
    pub fn with_code(mut self) -> Self {
        self.with_code = true;
        self
    }

    /// Lets the program run, until it and all its descendants have ended; `on_event` is called
    /// while the process that it tells of waits. Returns how the program ended.
    ///
    /// # Errors
    ///
    /// What waiting fails with.
    pub fn run(mut self, mut on_event: impl FnMut(Event)) -> io::Result<Exit> {
        let mut exit = None;
        loop {
            let (thread, status) = match wait(None) {
                Ok(waited) => waited,
                Err(error) if error.raw_os_error() == Some(libc::ECHILD) => break,
                Err(error) => return Err(error),
            };
            let ended = if libc::WIFEXITED(status) {
                Some(Exit::Status(libc::WEXITSTATUS(status)))
            } else if libc::WIFSIGNALED(status) {
                Some(Exit::Signal(libc::WTERMSIG(status)))
            } else {
                None
            };
            if let Some(ended) = ended {
                if thread == self.root {
                    exit = Some(ended);
                }
                self.threads.remove(&thread);
                on_event(Event::Ended { pid: thread });
                continue;
            }
            match self.stopped(thread, status, &mut on_event) {
                // It was killed meanwhile, which is told next.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                answer => answer?,
            }
        }
        exit.ok_or(Errno::ECHILD.into())
    }

    /// Sees to a thread that has stopped, and has it go on.
    fn stopped(
        &mut self,
        thread: i32,
        status: i32,
        on_event: &mut impl FnMut(Event),
    ) -> io::Result<()> {
        let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
        match event {
            // A signal is about to be delivered.
            0 if signal & 0x80 == 0 => return go_on(thread, Way::Freely, signal),
            libc::PTRACE_EVENT_EXEC => {
                self.forget_former(thread)?;
                self.begin(thread, on_event);
            }
            // It is let go before it has ended, so that its parent need not wait for us as well: one
            // that is told of the end by a pidfd does not.
            libc::PTRACE_EVENT_EXIT => {
                self.threads.remove(&thread);
                on_event(Event::Ended { pid: thread });
                ptrace::detach(Pid::from_raw(thread), None)?;
                return Ok(());
            }
            libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE => {
                self.announce(thread, on_event)?;
            }
            libc::PTRACE_EVENT_STOP if signal != libc::SIGTRAP => {
                return go_on(thread, Way::Stopped, 0);
            }
            libc::PTRACE_EVENT_STOP => match self.threads.get(&thread) {
                Some(Thread::Announced { parent }) => return self.born(thread, *parent, on_event),
                // The end of a group stop.
                Some(Thread::Running) => {}
                Some(Thread::Early) | None => {
                    self.threads.insert(thread, Thread::Early);
                    return Ok(());
                }
            },
            _ => {}
        }
        go_on(thread, Way::Freely, 0)
    }

    /// A process that a thread has replaced by another program goes on with the number of the first
    /// thread.
    fn forget_former(&mut self, process: i32) -> io::Result<()> {
        // CAST: The kernel tells a thread's number.
        let former = ptrace::getevent(Pid::from_raw(process))? as i32;
        if former != process {
            self.threads.remove(&former);
        }
        self.threads.insert(process, Thread::Running);
        Ok(())
    }

    /// Notes that a stopped thread has made another one.
    fn announce(&mut self, parent: i32, on_event: &mut impl FnMut(Event)) -> io::Result<()> {
        // CAST: The kernel tells a thread's number.
        let child = ptrace::getevent(Pid::from_raw(parent))? as i32;
        match self.threads.get(&child) {
            Some(Thread::Early) => match self.born(child, parent, on_event) {
                // Its end is told next.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
                answer => answer,
            },
            _ => {
                self.threads.insert(child, Thread::Announced { parent });
                Ok(())
            }
        }
    }

    /// Sees to a new thread, which has stopped for the first time, and has it go on.
    fn born(
        &mut self,
        thread: i32,
        parent: i32,
        on_event: &mut impl FnMut(Event),
    ) -> io::Result<()> {
        self.threads.insert(thread, Thread::Running);
        // Who uses the memory of another is reached by that. If nobody knows, it is opened twice.
        if !same_memory(parent, thread).unwrap_or(false) {
            self.begin(thread, on_event);
        }
        go_on(thread, Way::Freely, 0)
    }

    fn begin(&mut self, pid: i32, on_event: &mut impl FnMut(Event)) {
        on_event(match open_stopped(pid, &self.device, self.with_code) {
            Ok(space) => Event::Began { space },
            Err(error) => Event::Missed { pid, error },
        });
    }
}
