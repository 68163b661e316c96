// SPDX-License-Identifier: GPL-2.0

//! Devices for the memory of another program, which need not know of them.
//!
//! A device file works on the address space of the process that opened it. So the other process
//! must open it: ptrace stops that process and makes it call `openat()`, and `pidfd_getfd()` takes
//! over the descriptor; the other process does not keep it. If other threads run meanwhile, which
//! may fork, a thread that is created for this opens it, with a table of open files of its own: no
//! child inherits the descriptor. The kernel checks what ptrace checks, and that the other process
//! may open the file. The program does not change, except for a page that is mapped in it if
//! engines need one; a system call in which it waits may end early, as by a signal. The program may
//! be static, have threads, fork and exec.
//!
//! This does not work for a program that traces others or itself (only one tracer is possible), one
//! with more rights than the caller, 32-bit programs, and processes in whose view the path does not
//! exist. A sandbox (seccomp) may forbid the calls; one that kills processes for opening a file
//! kills this one, too.
//!
//! If this process is killed by SIGKILL while it works on another one, the other one is killed as
//! well, or continues with wrong registers; other signals wait.
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

#[cfg_attr(target_arch = "aarch64", path = "attach/aarch64.rs")]
#[cfg_attr(target_arch = "x86_64", path = "attach/x86_64.rs")]
mod arch;
mod remote;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace;
use nix::sys::ptrace::Options;
use nix::sys::signal::SigSet;
use nix::sys::signal::SigmaskHow;
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
use crate::sys::ptrace::wait_stop;
use remote::Remote;

/// The address space of another process, with a device that works on it.
#[derive(Debug)]
pub struct Space {
    /// The process.
    pub pid: i32,
    /// The device, which the process has opened.
    pub device: Device,
    /// The address of a page that was mapped in the process for the packets of engines, if
    /// requested.
    pub code: Option<u64>,
    memory: File,
}

impl Space {
    /// Writes to the memory of the process.
    ///
    /// # Errors
    ///
    /// The error of `/proc/PID/mem`: `EIO` if nothing is mapped, or the process is gone.
    pub fn write(&self, addr: u64, bytes: &[u8]) -> io::Result<()> {
        self.memory.write_all_at(bytes, addr)
    }
}

/// An event of a program or its descendants.
#[derive(Debug)]
pub enum Event {
    /// A process begins to run with an address space of its own: it was forked, or has executed
    /// another program. Its earlier address space is gone.
    Began {
        /// The address space.
        space: Space,
    },
    /// The same, but the device cannot be opened there.
    Missed {
        /// The process.
        pid: i32,
        /// The reason why the device cannot be opened.
        error: io::Error,
    },
    /// A process has ended.
    Ended {
        /// The process.
        pid: i32,
    },
}

/// The exit status of a program, or the signal that ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this status.
    Status(i32),
    /// The signal with this number ended it.
    Signal(i32),
}

/// Stops this process until its parent continues it, and then executes another program. Returns
/// only on failure, with the error.
pub fn stop_and_exec(program: &[OsString]) -> io::Error {
    let Some((name, arguments)) = program.split_first() else {
        return Errno::EINVAL.into();
    };
    match raise(Signal::SIGSTOP) {
        Ok(()) => Command::new(name).args(arguments).exec(),
        Err(errno) => errno.into(),
    }
}

/// Opens the device in a running process, and then lets the process continue at once. Signals to
/// this thread wait meanwhile.
///
/// # Errors
///
/// `EPERM` if the process may not be traced, or has another tracer; `ESRCH`; the error of opening
/// the device in that process; `Unsupported` for a program of another architecture.
pub fn open_in(pid: i32, device: &Path) -> io::Result<Space> {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let opened = open_unmasked(pid, device);
    before.thread_set_mask()?;
    opened
}

fn open_unmasked(pid: i32, device: &Path) -> io::Result<Space> {
    let process = Pid::from_raw(pid);
    let options = Options::PTRACE_O_TRACESYSGOOD;
    ptrace::seize(process, options)?;
    ptrace::interrupt(process)?;
    let opened = wait_group(pid).and_then(|way| {
        // Only now, so that the new threads of the process itself are not traced.
        ptrace::setoptions(process, options | Options::PTRACE_O_TRACECLONE)?;
        // The kernel knows by itself whether a process stays stopped when it is detached.
        open_stopped(pid, device, false, way).0
    });
    // If the process is gone, there is nothing to detach from.
    let _ = ptrace::detach(process, None);
    opened
}

/// Makes a stopped thread stop where the kernel checks for signals; returns how it continues.
fn stop_again(thread: i32) -> io::Result<Way> {
    ptrace::interrupt(Pid::from_raw(thread))?;
    go_on(thread, Way::Freely, 0)?;
    wait_group(thread)
}

/// Waits until an interrupted thread has stopped. Signals that arrive first are delivered. Returns
/// how it continues: not at all if its group has stopped as well.
fn wait_group(thread: i32) -> io::Result<Way> {
    loop {
        let status = wait_stop(thread)?;
        match (status >> 16, libc::WSTOPSIG(status)) {
            (libc::PTRACE_EVENT_STOP, libc::SIGTRAP) => return Ok(Way::Freely),
            (libc::PTRACE_EVENT_STOP, _) => return Ok(Way::Stopped),
            (0, signal) if signal & 0x80 == 0 => go_on(thread, Way::Freely, signal)?,
            _ => go_on(thread, Way::Freely, 0)?,
        }
    }
}

/// Opens the device in a process that has stopped where the kernel checks for signals, and maps a
/// page there if `with_code`. Also returns how the process continues, which is `way` so far.
fn open_stopped(pid: i32, path: &Path, with_code: bool, way: Way) -> (io::Result<Space>, Way) {
    let memory = File::options()
        .read(true)
        .write(true)
        .open(format!("/proc/{pid}/mem"));
    let memory = match memory {
        Ok(memory) => memory,
        Err(error) => return (Err(error), way),
    };
    let mut remote = match Remote::begin(pid, &memory) {
        Ok(remote) => remote,
        Err(error) => return (Err(error), way),
    };
    let opened = open_by(&mut remote, path, with_code);
    let ended = remote.end();
    let way = *ended.as_ref().unwrap_or(&way);
    let space = opened.and_then(|(device, code)| {
        ended?;
        Ok(Space {
            pid,
            device,
            code,
            memory,
        })
    });
    (space, way)
}

fn open_by(
    remote: &mut Remote<'_>,
    path: &Path,
    with_code: bool,
) -> io::Result<(Device, Option<u64>)> {
    let code = match with_code {
        true => Some(remote.map(page_size() as u64)?),
        false => None,
    };
    let threads = fs::read_dir(format!("/proc/{}/task", remote.thread()))?.count();
    let device = if threads == 1 {
        open_through(remote, path)?
    } else {
        let mut created = remote.create()?;
        let device = open_through(&mut created, path);
        let ended = created.exit();
        let device = device?;
        ended?;
        device
    };
    Ok((device, code))
}

/// Opens the device by a thread, and takes it over.
fn open_through(remote: &mut Remote<'_>, path: &Path) -> io::Result<Device> {
    let opened = remote.open(path)?;
    let device = take_over(remote.thread(), opened).and_then(|file| is_the_one(file, path));
    remote.close(opened)?;
    device
}

/// Duplicates a descriptor of a thread of another process, which keeps its own.
fn take_over(thread: i32, descriptor: i32) -> io::Result<OwnedFd> {
    /// For a thread, from `linux/pidfd.h`.
    const PIDFD_THREAD: PidfdFlags = PidfdFlags::from_bits_retain(libc::O_EXCL as u32);
    let thread = rustix::process::Pid::from_raw(thread).ok_or(Errno::ESRCH)?;
    let pidfd = pidfd_open(thread, PIDFD_THREAD)?;
    Ok(pidfd_getfd(pidfd, descriptor, PidfdGetfdFlags::empty())?)
}

/// Makes sure that the path means the same file to another process as to this one.
fn is_the_one(opened: OwnedFd, path: &Path) -> io::Result<Device> {
    let opened = File::from(opened);
    if opened.metadata()?.rdev() == fs::metadata(path)?.rdev() {
        return Ok(Device {
            file: opened.into(),
        });
    }
    Err(io::Error::other(format!(
        "it has something else at {}",
        path.display()
    )))
}

/// Traces a program and all its descendants. Only the thread that created it can use it.
#[derive(Debug)]
pub struct Tracer {
    root: i32,
    device: PathBuf,
    with_code: bool,
    /// Threads after their first stop, and the process of each.
    threads: HashMap<i32, i32>,
    /// ptrace accepts requests from the tracing thread only.
    not_send: PhantomData<*const ()>,
}

impl Tracer {
    /// Begins to trace a child of this process, which stops itself with [`stop_and_exec`].
    ///
    /// # Errors
    ///
    /// `EPERM`; `ESRCH` if the child did not stop.
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
            // Without its tracer, nobody would continue it.
            | Options::PTRACE_O_EXITKILL;
        ptrace::seize(pid, options)?;
        kill(pid, Signal::SIGCONT)?;
        Ok(Self {
            root: child,
            device: device.into(),
            with_code: false,
            threads: HashMap::from([(child, child)]),
            not_send: PhantomData,
        })
    }

    /// Maps a page for the packets of engines in each address space.
    #[must_use]
    pub fn with_code(mut self) -> Self {
        self.with_code = true;
        self
    }

    /// Lets the program run until it and all its descendants have ended. `on_event` is called while
    /// the process of the event waits. Returns how the program ended.
    ///
    /// # Errors
    ///
    /// The error of waiting.
    pub fn run(mut self, mut on_event: impl FnMut(Event)) -> io::Result<Exit> {
        let mut exit = None;
        loop {
            let (thread, status) = match wait() {
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
                self.ended(thread, &mut on_event);
                continue;
            }
            match self.stopped(thread, status, &mut on_event) {
                // The thread was killed meanwhile, which is reported next.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                answer => answer?,
            }
        }
        exit.ok_or(Errno::ECHILD.into())
    }

    /// Handles a stopped thread, and continues it.
    fn stopped(
        &mut self,
        thread: i32,
        status: i32,
        on_event: &mut impl FnMut(Event),
    ) -> io::Result<()> {
        let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
        let way = match event {
            // A signal is about to be delivered.
            0 if signal & 0x80 == 0 => return go_on(thread, Way::Freely, signal),
            libc::PTRACE_EVENT_EXEC => {
                self.forget_former(thread)?;
                let way = stop_again(thread)?;
                self.begin(thread, way, on_event)
            }
            libc::PTRACE_EVENT_EXIT => {
                // Detach before it has ended, so that its parent need not wait for us as well: a
                // parent that is notified through a pidfd does not.
                self.ended(thread, on_event);
                ptrace::detach(Pid::from_raw(thread), None)?;
                return Ok(());
            }
            libc::PTRACE_EVENT_STOP if signal != libc::SIGTRAP => Way::Stopped,
            // The first stop of the thread. Otherwise, a group stop ends.
            libc::PTRACE_EVENT_STOP if !self.threads.contains_key(&thread) => {
                self.born(thread, on_event)
            }
            _ => Way::Freely,
        };
        go_on(thread, way, 0)
    }

    /// Forgets the former number of a thread. After exec by a thread that is not the first one, the
    /// process continues with the first thread's number.
    fn forget_former(&mut self, process: i32) -> io::Result<()> {
        // CAST: The kernel reports a thread number.
        let former = ptrace::getevent(Pid::from_raw(process))? as i32;
        self.threads.remove(&former);
        self.threads.insert(process, process);
        Ok(())
    }

    /// Handles a new thread; returns how it continues. Does not wait for the report of its parent:
    /// a parent that is killed reports nothing.
    fn born(&mut self, thread: i32, on_event: &mut impl FnMut(Event)) -> Way {
        let (process, parent) = family(thread).unwrap_or((thread, 0));
        self.threads.insert(thread, process);
        // A process that shares the memory of another is reached through that. If this cannot be
        // determined, the device is opened twice.
        if process != thread || same_memory(parent, thread).unwrap_or(false) {
            return Way::Freely;
        }
        self.begin(thread, Way::Freely, on_event)
    }

    /// Handles the end of a thread, and, with the last one, of its process.
    fn ended(&mut self, thread: i32, on_event: &mut impl FnMut(Event)) {
        let Some(process) = self.threads.remove(&thread) else {
            return;
        };
        if !self.threads.values().any(|other| *other == process) {
            on_event(Event::Ended { pid: process });
        }
    }

    /// Opens the device in a stopped process, and reports it. Returns how the process continues,
    /// which is `way` so far.
    fn begin(&mut self, pid: i32, way: Way, on_event: &mut impl FnMut(Event)) -> Way {
        let (opened, way) = open_stopped(pid, &self.device, self.with_code, way);
        on_event(match opened {
            Ok(space) => Event::Began { space },
            Err(error) => Event::Missed { pid, error },
        });
        way
    }
}

/// Returns the process of a thread, and the parent of that process.
fn family(thread: i32) -> Option<(i32, i32)> {
    let number = |key| of_status(thread, key)?.parse().ok();
    Some((number("Tgid:")?, number("PPid:")?))
}

/// Returns the value in the line of a thread's `/proc/PID/status` that begins with `key`.
fn of_status(thread: i32, key: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.trim().to_owned())
}

fn unsupported(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, why)
}
