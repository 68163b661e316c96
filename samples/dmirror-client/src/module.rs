// SPDX-License-Identifier: GPL-2.0

//! The kernel module: its state in sysfs, unloading it, loading it again.

use std::ffi::CString;
use std::fs;
use std::fs::File;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use nix::errno::Errno;
use nix::kmod::DeleteModuleFlags;
use nix::kmod::ModuleInitFlags;
use nix::kmod::delete_module;
use nix::kmod::finit_module;

/// This project's module.
const OURS: &str = "dmirror";

/// The modules that offer `/dev/hmm_dmirror*`: this project's and the kernel's.
const KNOWN: [&str; 2] = [OURS, "test_hmm"];

/// A kernel module, loaded or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    name: String,
}

impl Module {
    /// The module called `name`.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// The loaded module that offers `/dev/hmm_dmirror*`.
    pub fn loaded() -> Option<Self> {
        KNOWN.into_iter().map(Self::named).find(Self::is_loaded)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is this project's, which has more than the ABI: parameters,
    /// counts of what is free, counts of commands that failed.
    pub fn is_ours(&self) -> bool {
        self.name == OURS
    }

    /// Its folder in sysfs, which is there while it is loaded.
    pub fn folder(&self) -> PathBuf {
        Path::new("/sys/module").join(&self.name)
    }

    /// Whether it is loaded.
    pub fn is_loaded(&self) -> bool {
        self.folder().join("initstate").exists()
    }

    /// How many users it has; each open device file is one.
    ///
    /// # Errors
    ///
    /// What reading its `refcnt` fails with: `NotFound` if it is not loaded.
    pub fn users(&self) -> io::Result<u64> {
        let text = fs::read_to_string(self.folder().join("refcnt"))?;
        text.trim().parse().map_err(io::Error::other)
    }

    /// What tells one build of it from another, if the kernel shows that: a version, or a number
    /// made from its source.
    pub fn version(&self) -> Option<String> {
        let read = |file| fs::read_to_string(self.folder().join(file)).ok();
        let text = read("version").or_else(|| read("srcversion"))?;
        Some(text.trim_end().to_owned())
    }

    /// The value of a parameter, if the module has it and shows it.
    pub fn parameter(&self, name: &str) -> Option<String> {
        let text = fs::read_to_string(self.folder().join("parameters").join(name)).ok()?;
        Some(text.trim_end().to_owned())
    }

    /// All parameters that it shows, as `name=value`, sorted.
    pub fn parameters(&self) -> Vec<String> {
        let folder = fs::read_dir(self.folder().join("parameters"));
        let names = folder
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok());
        let mut all: Vec<String> = names
            .filter_map(|name| Some(format!("{name}={}", self.parameter(&name)?)))
            .collect();
        all.sort_unstable();
        all
    }

    /// Unloads it.
    ///
    /// # Errors
    ///
    /// What delete_module fails with: `EWOULDBLOCK` if it has users, `EPERM`
    /// without CAP_SYS_MODULE, `ENOENT` if it is not loaded.
    pub fn unload(&self) -> io::Result<()> {
        let name = CString::new(self.name.as_str())?;
        delete_module(&name, DeleteModuleFlags::O_NONBLOCK)?;
        Ok(())
    }
}

/// How a module is loaded again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loader {
    /// From a `.ko` file, with these parameters.
    File {
        /// The file.
        path: PathBuf,
        /// `name=value` each.
        parameters: Vec<String>,
    },
    /// By a program that loads it as usual without arguments, and otherwise
    /// takes its name and parameters.
    Program(PathBuf),
}

impl Loader {
    /// The program that the guests of this project have for it, if this is one.
    pub fn of_guest() -> Option<Self> {
        let path = std::env::var_os("PATH")?;
        let program = std::env::split_paths(&path)
            .map(|folder| folder.join("load-module"))
            .find(|file| file.is_file())?;
        Some(Self::Program(program))
    }

    /// Loads `module`, with `parameters` (`name=value` each) over those that it
    /// is loaded with otherwise.
    ///
    /// # Errors
    ///
    /// What finit_module fails with, or that the program failed.
    pub fn load(&self, module: &Module, parameters: &[&str]) -> io::Result<()> {
        match self {
            Self::File {
                path,
                parameters: usual,
            } => {
                let usual = usual.iter().map(String::as_str);
                let all: Vec<&str> = usual.chain(parameters.iter().copied()).collect();
                let file = File::open(path)?;
                match finit_module(
                    file,
                    &CString::new(all.join(" "))?,
                    ModuleInitFlags::empty(),
                ) {
                    Err(Errno::EEXIST) | Ok(()) => Ok(()),
                    Err(errno) => Err(errno.into()),
                }
            }
            Self::Program(program) => {
                let mut command = Command::new(program);
                if !parameters.is_empty() {
                    command.arg(&module.name).args(parameters);
                }
                let status = command.stdin(Stdio::null()).status()?;
                let failed = || io::Error::other(format!("{}: {status}", program.display()));
                status.success().then_some(()).ok_or_else(failed)
            }
        }
    }
}
