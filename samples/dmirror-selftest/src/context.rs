// SPDX-License-Identifier: GPL-2.0

//! The tools of the cases: devices, child processes, threads, gates between processes, the module.

use std::fmt::Display;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, OnceLock};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context as _, Result, bail};
use dmirror_client::module::Loader;
use dmirror_client::{Child, Device, Exit, Module, Signal, fork_child};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{geteuid, pipe2};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::check::{equal, skip};

/// The time limit for a wait on another process.
const PATIENCE: Duration = Duration::from_secs(100);

/// The devices and the module under test.
#[derive(Debug)]
pub struct Context {
    device: PathBuf,
    second: PathBuf,
    loader: Option<Loader>,
    module: Module,
}

impl Context {
    /// Creates the context for tests of `device`, with the help of `second`.
    pub fn new(device: PathBuf, second: PathBuf, loader: Option<Loader>) -> Self {
        let module = Module::loaded().unwrap_or_else(|| Module::named("dmirror"));
        Self {
            device,
            second,
            loader,
            module,
        }
    }

    /// Returns notes on this run for a reader of the results.
    pub fn describe(&self) -> Vec<String> {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let (name, parameters) = (self.module.name(), self.module.parameters().join(" "));
        vec![
            format!("device {}, kernel {}", self.device.display(), kernel.trim()),
            format!("module {name} {parameters}").trim_end().to_owned(),
        ]
    }

    /// Opens the device under test.
    pub fn open(&self) -> Result<Device> {
        open(&self.device)
    }

    /// Opens the second device, or skips.
    pub fn open_second(&self) -> Result<Device> {
        if !self.second.exists() {
            return skip(format!("there is no {}", self.second.display()));
        }
        open(&self.second)
    }

    /// Opens coherent device `nth`, 0 or 1, or skips.
    pub fn open_coherent(&self, nth: usize) -> Result<Device> {
        let path = Path::new(["/dev/hmm_dmirror2", "/dev/hmm_dmirror3"][nth]);
        if !path.exists() {
            return skip("there is no coherent device");
        }
        open(path)
    }

    /// Loads the module if its device is missing, and opens the device. Fails if this run has no
    /// loader.
    pub fn ensure_loaded(&self) -> Result<()> {
        if !self.device.exists() {
            match &self.loader {
                Some(loader) => loader
                    .load(&self.module, &[])
                    .context("cannot load the module again")?,
                None => bail!(
                    "there is no {}: load the module first",
                    self.device.display()
                ),
            }
        }
        self.open().map(drop)
    }

    /// Returns the loaded module and a loader for it, or skips.
    pub fn module(&self) -> Result<(Module, &Loader)> {
        if !geteuid().is_root() {
            return skip("needs root");
        }
        let Some(loader) = &self.loader else {
            return skip("needs a way to load the module again: --module PATH");
        };
        if !self.module.is_loaded() {
            return skip("no loadable module offers the device");
        }
        Ok((self.module.clone(), loader))
    }
}

fn open(path: &Path) -> Result<Device> {
    Device::open(path).with_context(|| format!("cannot open {}", path.display()))
}

/// Returns two CPUs that this process may use, or skips.
pub fn two_cpus() -> Result<[usize; 2]> {
    let allowed = sched_getaffinity(None)?;
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu));
    match (cpus.next(), cpus.next()) {
        (Some(one), Some(other)) => Ok([one, other]),
        _ => skip("needs two CPUs"),
    }
}

/// Keeps this thread on a CPU from now on.
pub fn stay_on(cpu: usize) -> Result<()> {
    let mut one = CpuSet::new();
    one.set(cpu);
    Ok(sched_setaffinity(None, &one)?)
}

/// Runs `body` in a thread that stays on a CPU.
pub fn on_cpu(cpu: usize, body: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    let stay = || stay_on(cpu).and_then(|()| body());
    thread::scope(|scope| joined(scope.spawn(stay)))
}

/// Returns the number that follows `name` at the start of a line in a file of the kernel.
pub fn number_in(file: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    let number = number.with_context(|| format!("no {name} in {file}"))?;
    Ok(number.parse()?)
}

/// Returns whether this process runs as root.
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// Opens the memory of a process, given by its number or `self`, for reading and writing.
pub fn memory_of(process: impl Display) -> io::Result<File> {
    read_write(format!("/proc/{process}/mem"))
}

/// Opens an existing file for reading and writing.
pub fn read_write(path: impl AsRef<Path>) -> io::Result<File> {
    File::options().read(true).write(true).open(path)
}

/// A changed file of the kernel. Drop writes the old text back.
pub struct Setting {
    path: String,
    before: String,
}

impl Setting {
    /// Writes `text` to the file, or skips if there is no such file.
    pub fn new(path: impl Into<String>, text: &str) -> Result<Self> {
        let path = path.into();
        let before = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return skip(format!("there is no {path}"));
            }
            before => before.with_context(|| path.clone())?,
        };
        fs::write(&path, text).with_context(|| path.clone())?;
        Ok(Self { path, before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.path, self.before.trim()) {
            println!("cannot write {} again: {error}", self.path);
        }
    }
}

/// The subcommand before the arguments on the command line of this program, if any.
static SUBCOMMAND: OnceLock<Option<&'static str>> = OnceLock::new();

/// Sets the subcommand before the arguments on the command line. Only the first call counts.
pub fn set_subcommand(subcommand: Option<&'static str>) {
    SUBCOMMAND.get_or_init(|| subcommand);
}

/// Returns another program to execute: this one, which lists its cases to /dev/null.
pub fn program() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(SUBCOMMAND.get().copied().flatten());
    command.arg("--list").stdout(Stdio::null());
    command
}

/// A child process of a case. Its output goes to the output of the case.
pub struct Helper(Child);

/// Runs `body` in a child process.
pub fn helper(body: impl FnOnce() -> Result<()>) -> Result<Helper> {
    let child = fork_child(|| match body() {
        Ok(()) => 0,
        Err(error) => {
            println!("in process {}: {error:#}", std::process::id());
            1
        }
    })?;
    Ok(Helper(child))
}

impl Helper {
    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(self.0.signal(signal)?)
    }

    /// Waits until the process ends, and checks that it succeeded.
    pub fn join(self) -> Result<()> {
        match self.exit()? {
            Exit::Status(0) => Ok(()),
            Exit::Status(status) => bail!("a child process failed (status {status})"),
            Exit::Signal(signal) => bail!("a child process was killed by {signal}"),
        }
    }

    /// Waits until the process ends, and returns its exit status or signal.
    pub fn exit(self) -> Result<Exit> {
        match self.0.wait_for(PATIENCE)? {
            Ok(exit) => Ok(exit),
            Err(child) => bail!(
                "process {} did not end in {} s",
                child.pid(),
                PATIENCE.as_secs()
            ),
        }
    }

    /// Waits until the process ends, and checks that SIGKILL ended it.
    pub fn was_killed(self) -> Result<()> {
        let end = self.exit()?;
        equal("end of the child", end, Exit::Signal(Signal::SIGKILL))
    }

    /// Kills the process, and waits until it is gone.
    pub fn kill(self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.exit().map(drop)
    }
}

/// Runs `body` in a child process, and waits until it has succeeded.
pub fn in_child(body: impl FnOnce() -> Result<()>) -> Result<()> {
    helper(body)?.join()
}

/// Starts children that all wait for `go`, and opens it for each of them.
pub fn started(go: &Gate, children: impl Iterator<Item = Result<Helper>>) -> Result<Vec<Helper>> {
    let children: Vec<Helper> = children.collect::<Result<_>>()?;
    children.iter().try_for_each(|_| go.open())?;
    Ok(children)
}

/// Runs `body` while a child process shares the memory of this one.
pub fn while_shared<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    let (made, done) = (Gate::new()?, Gate::new()?);
    let child = helper(|| {
        made.open()?;
        done.wait()
    })?;
    made.wait()?;
    let result = body()?;
    done.open()?;
    child.join().map(|()| result)
}

/// Checks that SIGSEGV ends a child process that does `access`.
pub fn segfaults(access: impl FnOnce()) -> Result<()> {
    let child = helper(|| {
        access();
        bail!("the access was not refused")
    })?;
    let end = child.exit()?;
    equal("end of the child", end, Exit::Signal(Signal::SIGSEGV))
}

/// Runs `body`, which acts as a 32-bit program, in a child process. Skips the case if the kernel
/// kills the child, because it runs no 32-bit programs.
#[cfg(target_arch = "x86_64")]
pub fn as_32_bit(body: impl FnOnce() -> Result<()>) -> Result<()> {
    match helper(body)?.exit()? {
        Exit::Status(0) => Ok(()),
        Exit::Signal(Signal::SIGSEGV) => skip("this kernel runs no 32-bit programs"),
        end => bail!("the child ended with {end:?}"),
    }
}

/// Runs `parent` in a child process, and `orphan` in a child of that process, with the value that
/// `parent` returned. Returns when the parent has ended, and does not wait for the orphan.
pub fn orphaned<T>(
    parent: impl FnOnce() -> Result<T>,
    orphan: impl FnOnce(&T) -> Result<()>,
) -> Result<()> {
    helper(|| {
        let inherited = parent()?;
        // The orphan outlives this process, so the end of this process must not destroy a queue.
        std::mem::forget((helper(|| orphan(&inherited))?, inherited));
        Ok(())
    })?
    .join()
}

/// Runs `parent` in a child process and, when that process has ended, `orphan` in a child of it,
/// with the value that `parent` returned.
pub fn outlived<T>(
    parent: impl FnOnce() -> Result<T>,
    orphan: impl FnOnce(&T) -> Result<()>,
) -> Result<()> {
    let (gone, verdict) = (Gate::new()?, Gate::new()?);
    orphaned(parent, |inherited| {
        gone.wait()?;
        let answer = orphan(inherited);
        if let Err(error) = &answer {
            println!("{error:#}");
        }
        verdict.send(answer.is_ok().into())
    })?;
    gone.open()?;
    equal("whether the orphan succeeded", verdict.receive()?, 1)
}

/// Waits for a thread, and returns its result.
pub fn joined<T, E: Into<anyhow::Error>>(thread: ScopedJoinHandle<'_, Result<T, E>>) -> Result<T> {
    match thread.join() {
        Ok(result) => result.map_err(Into::into),
        Err(_) => bail!("a thread panicked"),
    }
}

/// Runs each of `others` in its own thread, again and again until `body` has ended. If both fail,
/// returns the error of `body`.
pub fn beside<T>(
    others: &[&(dyn Fn() -> Result<()> + Sync)],
    body: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let over = AtomicBool::new(false);
    let again = |other: &(dyn Fn() -> Result<()> + Sync)| -> Result<()> {
        loop {
            other()?;
            // ORDERING: it may be late.
            if over.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
    };
    thread::scope(|scope| {
        let others: Vec<_> = (others.iter())
            .map(|other| scope.spawn(move || again(*other)))
            .collect();
        let result = body();
        // ORDERING: as above.
        over.store(true, Ordering::Relaxed);
        let others = others.into_iter().try_for_each(joined);
        let result = result?;
        others.map(|()| result)
    })
}

/// Runs `other` in a new thread and `main` in this one. Both begin at the same time.
pub fn at_once<T: Send, U>(
    other: impl FnOnce() -> Result<T> + Send,
    main: impl FnOnce() -> Result<U>,
) -> Result<(T, U)> {
    let both = Barrier::new(2);
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            both.wait();
            other()
        });
        both.wait();
        let (result, other) = (main(), joined(other));
        let result = result?;
        Ok((other?, result))
    })
}

/// A gate on which one process waits for another: one sends numbers, the other receives them.
/// Create it before the fork.
pub struct Gate {
    read: File,
    write: File,
}

impl Gate {
    /// Creates a gate with nothing sent.
    pub fn new() -> Result<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        Ok(Self {
            read: read.into(),
            write: write.into(),
        })
    }

    /// Sends a number.
    pub fn send(&self, number: u64) -> Result<()> {
        (&self.write).write_all(&number.to_ne_bytes())?;
        Ok(())
    }

    /// Ends one [`Self::wait`] of the other side.
    pub fn open(&self) -> Result<()> {
        self.send(0)
    }

    /// Returns whether the other side has sent something that was not received.
    pub fn is_open(&self) -> Result<bool> {
        let mut fds = [PollFd::new(self.read.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut fds, PollTimeout::ZERO)? > 0)
    }

    /// Waits for a number that the other side sends.
    pub fn receive(&self) -> Result<u64> {
        let mut fds = [PollFd::new(self.read.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::try_from(PATIENCE)?)? == 0 {
            bail!("the other process gave no sign in {} s", PATIENCE.as_secs());
        }
        let mut number = [0; 8];
        (&self.read).read_exact(&mut number)?;
        Ok(u64::from_ne_bytes(number))
    }

    /// Waits until the other side opens the gate.
    pub fn wait(&self) -> Result<()> {
        self.receive().map(drop)
    }
}
