// SPDX-License-Identifier: GPL-2.0

//! The device that the program uses: its settings, which are restored afterwards, and its
//! statistics.

use std::io;
use std::path::Path;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use dmirror_client::Device;
use dmirror_client::Module;
use dmirror_client::Policy;
use dmirror_client::Stats;
use dmirror_client::policy::Values;

/// The settings of a device. A drop restores those that were changed.
#[derive(Debug)]
pub struct Settings {
    name: String,
    /// The size of its memory, in bytes.
    memory: u64,
    policy: Option<Policy>,
    before: Option<Values>,
    /// The limit before the run, in MiB, if the run sets one.
    limit: Option<u32>,
}

impl Settings {
    /// Looks at a device, and sets its policy; if `limited`, also saves its limit.
    ///
    /// # Errors
    ///
    /// An error that names the problem, and the remedy if there is one.
    pub fn take(path: &Path, name: &str, policy: Option<&str>, limited: bool) -> Result<Self> {
        let memory = match Device::open(path) {
            Ok(device) => {
                device
                    .query()
                    .context("the device is not dmirror's")?
                    .memory
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && Module::loaded().is_some() => {
                bail!(
                    "there is no {}; dmirror info shows the devices",
                    path.display()
                )
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot open {}", path.display()));
            }
        };
        let files = Policy::of(name)?;
        if (policy.is_some() || limited) && files.is_none() {
            bail!("--policy and --oversubscribe need root, and debugfs at /sys/kernel/debug");
        }
        let mut settings = Self {
            name: name.to_owned(),
            memory,
            policy: files,
            before: None,
            limit: None,
        };
        if let (Some(preset), Some(files)) = (policy, &settings.policy) {
            let before = files.values()?;
            match files.choose(preset) {
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => bail!(
                    "there is no policy {preset}: `cat /sys/kernel/debug/{name}/policy` lists them"
                ),
                chosen => chosen.with_context(|| format!("cannot set the policy {preset}"))?,
            }
            settings.before = Some(before);
        }
        if let (true, Some(files)) = (limited, &settings.policy) {
            settings.limit = Some(files.limit_mib().context("the module has no limit_mib")?);
        }
        Ok(settings)
    }

    /// Limits all programs together to `mib` MiB of the device.
    ///
    /// # Errors
    ///
    /// The error of writing the file.
    pub fn limit_to(&self, mib: u32) -> io::Result<()> {
        match &self.policy {
            Some(files) => files.set_limit_mib(mib),
            None => Ok(()),
        }
    }

    /// Returns the statistics of the device; `None` if this program may not read them.
    ///
    /// # Errors
    ///
    /// The error of reading the file.
    pub fn stats(&self) -> io::Result<Option<Stats>> {
        Stats::of(&self.name)
    }

    /// Returns the name of the device.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the size of its memory, in bytes.
    pub fn memory(&self) -> u64 {
        self.memory
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        let Some(files) = &self.policy else {
            return;
        };
        let put_back = (self
            .before
            .as_ref()
            .map_or(Ok(()), |values| files.put(values)))
        .and(self.limit.map_or(Ok(()), |mib| files.set_limit_mib(mib)));
        if let Err(error) = put_back {
            anstream::eprintln!("dmirror run: cannot put the settings back: {error}");
        }
    }
}
