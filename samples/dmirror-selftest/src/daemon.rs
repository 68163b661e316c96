// SPDX-License-Identifier: GPL-2.0

//! Daemons of the kernel that scan memory, controlled by their files in sysfs.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context as _, Result, bail};
use dmirror_client::{Region, hpage_pmd_nr, hpage_pmd_size};

use crate::check::skip;
use crate::context::is_root;

/// The folder in sysfs with the folders of the memory management daemons.
const MM: &str = "/sys/kernel/mm";

/// A running daemon. Drop writes the old values back to its files.
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

    /// Starts khugepaged, the daemon that makes huge pages.
    pub fn khugepaged(files: &[(&'static str, &str)]) -> Result<Self> {
        Self::start("khugepaged", "transparent_hugepage/khugepaged", files)
    }

    /// Waits until the daemon has scanned everything `times` times.
    pub fn wait(&self, times: u64) -> Result<()> {
        let file = self.folder.join("full_scans");
        let scans = || -> Result<u64> { Ok(fs::read_to_string(&file)?.trim().parse()?) };
        // The first scan may have begun before.
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

/// A pause of khugepaged, so that it does no work unless a case asks for it. It would bring back
/// the pages that a case has put on the device, if at most 64 pages of a huge page's range are
/// there, and make a huge page of small ones.
///
/// Drop restores the old settings.
pub struct StillKhugepaged {
    _daemon: Daemon,
    _mm: Region,
}

impl StillKhugepaged {
    /// The sleep of khugepaged during the pause: a day, in milliseconds.
    const SLEEP: &str = "86400000";

    /// The default sleep of khugepaged, in milliseconds.
    const USUAL: &str = "10000";

    /// Puts khugepaged to sleep.
    pub fn start() -> Result<Self> {
        let mut daemon = Daemon::khugepaged(&[("scan_sleep_millisecs", Self::SLEEP)])?;
        for (_, before) in &mut daemon.before {
            // A run that was killed has left this value.
            if before.trim() == Self::SLEEP {
                *before = Self::USUAL.to_owned();
            }
        }
        // Without any address space to scan, khugepaged waits for one, and then scans that of the
        // next case at once. The address space of this process stays.
        let mm = Region::options(hpage_pmd_nr())
            .align(hpage_pmd_size())
            .huge(true)
            .map()?;
        Ok(Self {
            _daemon: daemon,
            _mm: mm,
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        for (file, value) in self.before.iter().rev() {
            let _ = fs::write(self.folder.join(file), value.trim());
        }
    }
}
