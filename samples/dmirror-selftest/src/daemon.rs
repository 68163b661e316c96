// SPDX-License-Identifier: GPL-2.0

//! Daemons of the kernel that scan memory, by their files in sysfs.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;

use crate::check::skip;
use crate::context::is_root;

/// Where the daemons of memory management have their folders.
const MM: &str = "/sys/kernel/mm";

/// A daemon at work; its files are as they were, on drop.
pub struct Daemon {
    name: &'static str,
    folder: PathBuf,
    before: Vec<(&'static str, String)>,
}

impl Daemon {
    /// Writes `files` of the daemon's folder in their order, or skips.
    pub fn start(name: &'static str, folder: &str, files: &[(&'static str, &str)]) -> Result<Self> {
        if !is_root() {
            return skip("needs root");
        }
        let folder = Path::new(MM).join(folder);
        if !folder.exists() {
            return skip(format!("this kernel has no {name}"));
        }
        let mut daemon = Self {
            name,
            folder,
            before: Vec::new(),
        };
        for (file, value) in files {
            let path = daemon.folder.join(file);
            daemon.before.push((file, fs::read_to_string(&path)?));
            fs::write(&path, value).with_context(|| path.display().to_string())?;
        }
        Ok(daemon)
    }

    /// Waits until it has looked at everything `times` times.
    pub fn wait(&self, times: u64) -> Result<()> {
        let file = self.folder.join("full_scans");
        let scans = || -> Result<u64> { Ok(fs::read_to_string(&file)?.trim().parse()?) };
        // The first one may have begun before.
        let goal = scans()? + times + 1;
        let start = Instant::now();
        while scans()? < goal {
            if start.elapsed() > Duration::from_secs(30) {
                bail!("{} did not scan {times} times in 30 s", self.name);
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        for (file, value) in self.before.iter().rev() {
            let _ = fs::write(self.folder.join(file), value.trim());
        }
    }
}
