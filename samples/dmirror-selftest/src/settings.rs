// SPDX-License-Identifier: GPL-2.0

//! The policy of a device, controlled by its files in debugfs. Each case begins with the policy of
//! test_hmm and the window that the runner sets.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use dmirror_client::Stats;
use dmirror_client::policy::Values;

use crate::check::{equal, needs_ours, skip};
use crate::inject;

const DEBUGFS: &str = "/sys/kernel/debug";

/// The name of the device under test.
const DEVICE: &str = "hmm_dmirror0";

/// The maximum number of devices of the module.
const DEVICES: usize = 4;

/// The preset of a new device.
const FIRST: &str = "test_hmm";

/// All presets.
pub const PRESETS: [&str; 4] = [FIRST, "xe", "kfd", "uvm"];

/// Gives all devices the settings that cases begin with, and removes their limits.
pub fn restore() {
    for folder in fs::read_dir(DEBUGFS).into_iter().flatten().flatten() {
        let is_device = folder
            .file_name()
            .as_encoded_bytes()
            .starts_with(b"hmm_dmirror");
        for (file, text) in [("policy", FIRST), ("limit_mib", "0")] {
            let file = folder.path().join(file);
            if is_device && file.exists() {
                if let Err(error) = fs::write(&file, text) {
                    println!("cannot restore {}: {error}", file.display());
                }
            }
        }
    }
    inject::restore_window();
}

/// The settings and limits of all devices. Drop restores them, at the end of a run.
pub struct Kept(Vec<(dmirror_client::Policy, Values, u32)>);

impl Kept {
    /// Reads the settings of all devices that this program may see.
    pub fn now() -> io::Result<Self> {
        let mut kept = Vec::new();
        for device in 0..DEVICES {
            if let Some(policy) = dmirror_client::Policy::of(&format!("hmm_dmirror{device}"))? {
                let (values, limit) = (policy.values()?, policy.limit_mib()?);
                kept.push((policy, values, limit));
            }
        }
        Ok(Self(kept))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        for (policy, values, limit) in &self.0 {
            for put in [policy.put(values), policy.set_limit_mib(*limit)] {
                match put {
                    // The module was unloaded, and the settings with it.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => eprintln!("cannot put the settings of a device back: {error}"),
                    Ok(()) => {}
                }
            }
        }
    }
}

/// The settings of the first device. Drop restores them.
#[derive(Debug)]
pub struct Policy(PathBuf);

impl Policy {
    /// Gives the device the settings of a preset, or skips.
    pub fn of(preset: &str) -> Result<Self> {
        needs_ours("policies")?;
        let policy = Self(Path::new(DEBUGFS).join(DEVICE));
        if fs::metadata(policy.0.join("policy")).is_err() {
            return skip("needs root and debugfs");
        }
        policy.store("policy", preset)?;
        Ok(policy)
    }

    /// Like [`of`](Self::of), with other values in some of the files.
    pub fn with(preset: &str, settings: &[(&str, u32)]) -> Result<Self> {
        let policy = Self::of(preset)?;
        for &(file, value) in settings {
            policy.set(file, value)?;
        }
        Ok(policy)
    }

    /// Writes a text to a file.
    pub fn store(&self, file: &str, text: &str) -> Result<()> {
        let path = self.0.join(file);
        fs::write(&path, text).with_context(|| format!("{text:?} to {}", path.display()))
    }

    /// Writes a number to a file, and checks that the file has it then.
    pub fn set(&self, file: &str, value: u32) -> Result<()> {
        self.store(file, &value.to_string())?;
        equal(file, self.get(file)?, value)
    }

    /// Returns the text of a file, without white space at its end.
    pub fn show(&self, file: &str) -> Result<String> {
        let path = self.0.join(file);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(text.trim_end().to_owned())
    }

    /// Returns the number in a file.
    pub fn get(&self, file: &str) -> Result<u32> {
        Ok(self.show(file)?.parse()?)
    }

    /// Checks that a text is refused with EINVAL.
    pub fn refuses(&self, file: &str, text: &str) -> Result<()> {
        match fs::write(self.0.join(file), text) {
            Ok(()) => bail!("{file} accepted {text:?}"),
            Err(error) => equal(text, error.kind(), ErrorKind::InvalidInput),
        }
    }

    /// Returns the statistics of the device.
    pub fn stats(&self) -> Result<Stats> {
        match Stats::of(DEVICE)? {
            Some(stats) => Ok(stats),
            None => bail!("{DEVICE} has no statistics"),
        }
    }

    /// Runs `body`, and returns the change of the statistics. Checks that the sums agree before and
    /// afterwards.
    pub fn added(&self, body: impl FnOnce() -> Result<()>) -> Result<Stats> {
        let before = self.stats()?;
        body()?;
        let after = self.stats()?;
        for stats in [before, after] {
            equal("sums", stats.disagreements(), Vec::new())?;
        }
        Ok(after - before)
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        restore();
    }
}
