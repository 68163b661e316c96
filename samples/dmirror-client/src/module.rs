// SPDX-License-Identifier: GPL-2.0

//! The kernel module: its state in sysfs, and unloading and loading it.

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

/// The modules that provide `/dev/hmm_dmirror*`: this project's and the kernel's.
const KNOWN: [&str; 2] = [OURS, "test_hmm"];

/// A kernel module, loaded or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    name: String,
}

impl Module {
    /// Returns the module with the name `name`.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// Returns the loaded module that provides `/dev/hmm_dmirror*`, if any.
    pub fn loaded() -> Option<Self> {
        KNOWN.into_iter().map(Self::named).find(Self::is_loaded)
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns whether it is this project's module, which provides more than the ABI of test_hmm:
    /// parameters, counts of free memory, and counts of failed commands.
    pub fn is_ours(&self) -> bool {
        self.name == OURS
    }

    /// Returns its folder in sysfs, which exists while the module is loaded.
    pub fn folder(&self) -> PathBuf {
        Path::new("/sys/module").join(&self.name)
    }

    /// Returns whether it is loaded.
    pub fn is_loaded(&self) -> bool {
        self.folder().join("initstate").exists()
    }

    /// Returns the number of its users; each open device file counts as one.
    ///
    /// # Errors
    ///
    /// The error of reading its `refcnt`: `NotFound` if it is not loaded.
    pub fn users(&self) -> io::Result<u64> {
        let text = fs::read_to_string(self.folder().join("refcnt"))?;
        text.trim().parse().map_err(io::Error::other)
    }

    /// Returns a text that distinguishes its builds, if the kernel shows one: a version, or a
    /// checksum of its source.
    pub fn version(&self) -> Option<String> {
        let read = |file| fs::read_to_string(self.folder().join(file)).ok();
        let text = read("version").or_else(|| read("srcversion"))?;
        Some(text.trim_end().to_owned())
    }

    /// Returns the value of a parameter, if the module has it and shows it.
    pub fn parameter(&self, name: &str) -> Option<String> {
        let text = fs::read_to_string(self.folder().join("parameters").join(name)).ok()?;
        Some(text.trim_end().to_owned())
    }

    /// Returns all parameters that it shows, as `name=value`, sorted.
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

    /// Unloads the module.
    ///
    /// # Errors
    ///
    /// The error of delete_module: `EWOULDBLOCK` if it has users, `EPERM` without CAP_SYS_MODULE,
    /// `ENOENT` if it is not loaded.
    pub fn unload(&self) -> io::Result<()> {
        let name = CString::new(self.name.as_str())?;
        delete_module(&name, DeleteModuleFlags::O_NONBLOCK)?;
        Ok(())
    }
}

/// A way to load a module again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loader {
    /// From a `.ko` file, with these parameters.
    File {
        /// The file.
        path: PathBuf,
        /// The parameters, each as `name=value`.
        parameters: Vec<String>,
    },
    /// With a program. Without arguments, it loads the module as usual; otherwise, it takes the
    /// module's name and parameters.
    Program(PathBuf),
}

impl Loader {
    /// Returns the loader program of this project's guests, if this is a guest.
    pub fn of_guest() -> Option<Self> {
        let path = std::env::var_os("PATH")?;
        let program = std::env::split_paths(&path)
            .map(|folder| folder.join("load-module"))
            .find(|file| file.is_file())?;
        Some(Self::Program(program))
    }

    /// Loads `module`, with `parameters` (each as `name=value`) overriding those with which it is
    /// usually loaded.
    ///
    /// # Errors
    ///
    /// The error of finit_module, or that of the program.
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
