// SPDX-License-Identifier: GPL-2.0

//! Delays and failures on demand, controlled by the module's files in debugfs. Each is switched off
//! when its value is dropped.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context as _, Result};
use dmirror_client::{Module, hpage_pmd_size};

use crate::check::{needs_ours, skip};
use crate::context::is_root;

const DEBUGFS: &str = "/sys/kernel/debug";

/// The folder of the files.
pub const FOLDER: &str = "/sys/kernel/debug/dmirror";

/// A file with a value. Drop sets it to 0.
struct Knob(PathBuf);

impl Knob {
    fn set(name: &str, value: u32) -> Result<Self> {
        needs_ours("failures and delays on demand")?;
        if !is_root() {
            return skip("needs root");
        }
        if fs::read_dir(DEBUGFS).map_or(0, Iterator::count) == 0 {
            return skip("there is no debugfs");
        }
        let knob = Self(Path::new(FOLDER).join(name));
        fs::write(&knob.0, value.to_string()).with_context(|| knob.0.display().to_string())?;
        Ok(knob)
    }

    fn get(&self) -> Result<u32> {
        Ok(fs::read_to_string(&self.0)?.trim().parse()?)
    }
}

impl Drop for Knob {
    fn drop(&mut self) {
        match fs::write(&self.0, "0") {
            // The module was unloaded, and its files with it.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => println!("cannot switch {} off: {error}", self.0.display()),
            Ok(()) => {}
        }
    }
}

/// Sets all files to 0, since a case that was killed could not.
pub fn all_off() {
    if !Module::loaded().is_some_and(|module| module.is_ours()) {
        return;
    }
    for file in fs::read_dir(FOLDER).into_iter().flatten().flatten() {
        let _ = fs::write(file.path(), "0");
    }
}

/// The default limit of the bytes that a CPU fault brings back.
static WINDOW: OnceLock<u32> = OnceLock::new();

/// Sets the default limit for this process and the processes that it forks.
pub fn use_window(bytes: u32) {
    let _ = WINDOW.set(bytes);
}

/// Writes the default limit to all devices: before each case, and after a case has loaded the
/// module.
pub fn restore_window() {
    if let Some(&bytes) = WINDOW.get() {
        if let Err(error) = set_windows(bytes) {
            println!("cannot set the window of CPU faults: {error:#}");
        }
    }
}

/// Another limit of the bytes that a CPU fault brings back, on all devices. Drop restores the
/// default.
pub struct Window(());

impl Window {
    /// Returns the largest limit, which is the default of a device.
    pub fn largest() -> u32 {
        hpage_pmd_size() as u32
    }

    /// Limits windows to `bytes` bytes. Skips if the module has no such limit.
    pub fn of(bytes: u32) -> Result<Self> {
        needs_ours("windows of CPU faults")?;
        if windows().is_empty() {
            return skip("needs root and debugfs");
        }
        set_windows(bytes)?;
        Ok(Self(()))
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        restore_window();
    }
}

fn set_windows(bytes: u32) -> Result<()> {
    for file in windows() {
        fs::write(&file, bytes.to_string()).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

/// Returns the files with the limits, one for each device.
fn windows() -> Vec<PathBuf> {
    let devices = fs::read_dir(DEBUGFS).into_iter().flatten().flatten();
    devices
        .filter(|folder| {
            folder
                .file_name()
                .as_encoded_bytes()
                .starts_with(b"hmm_dmirror")
        })
        .map(|folder| folder.path().join("window"))
        .collect()
}

/// A delay after a step of the module.
pub struct Delay(Knob);

impl Delay {
    /// Makes the module wait for `microseconds` after each `step`.
    pub fn new(step: &str, microseconds: u32) -> Result<Self> {
        Knob::set(&format!("delay_{step}_us"), microseconds).map(Self)
    }

    /// Returns the delay in the file, in microseconds.
    pub fn microseconds(&self) -> Result<u32> {
        self.0.get()
    }
}

/// The frequency of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Often {
    /// The next time.
    Once,
    /// Each third time, without end.
    EveryThird,
    /// Each time, without end.
    Always,
}

/// A failure on demand.
pub struct Failure {
    times: Knob,
    _interval: Option<Knob>,
}

impl Failure {
    /// Makes `site` fail, as often as `often` says.
    pub fn new(site: &str, often: Often) -> Result<Self> {
        let interval = match often {
            Often::EveryThird => Some(Knob::set(&format!("fail_{site}_interval"), 3)?),
            _ => None,
        };
        let times = if often == Often::Once { 1 } else { u32::MAX };
        Ok(Self {
            _interval: interval,
            ..Self::next(site, times)?
        })
    }

    /// Makes `site` fail the next `times` times.
    pub fn next(site: &str, times: u32) -> Result<Self> {
        Ok(Self {
            times: Knob::set(&format!("fail_{site}_times"), times)?,
            _interval: None,
        })
    }

    /// Returns whether all failures have happened. Failures without end never have.
    pub fn is_over(&self) -> Result<bool> {
        Ok(self.times.get()? == 0)
    }
}
