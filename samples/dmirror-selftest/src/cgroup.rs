// SPDX-License-Identifier: GPL-2.0

//! A cgroup with memory limits.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context as _, Result};

use crate::check::skip;
use crate::context::is_root;

/// The mount point of cgroup2.
const ROOT: &str = "/sys/fs/cgroup";

/// A cgroup of one case. Drop kills its processes and removes it.
#[derive(Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// Creates a cgroup with the memory controller, or skips.
    pub fn new(name: &str) -> Result<Self> {
        if !is_root() {
            return skip("needs root");
        }
        let root = Path::new(ROOT);
        let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        if !controllers
            .split_whitespace()
            .any(|controller| controller == "memory")
        {
            return skip("there is no cgroup2 with the memory controller");
        }
        fs::write(root.join("cgroup.subtree_control"), "+memory")
            .context("cannot enable the memory controller")?;
        let path = root.join(format!("dmirror-selftest-{}-{name}", std::process::id()));
        fs::create_dir(&path).context("cannot make a cgroup")?;
        Ok(Self(path))
    }

    /// Moves this process into the cgroup.
    pub fn enter(&self) -> Result<()> {
        self.set("cgroup.procs", "0")
    }

    /// Moves this process to the root cgroup.
    pub fn leave() -> Result<()> {
        fs::write(Path::new(ROOT).join("cgroup.procs"), "0").context("cannot leave the cgroup")
    }

    /// Writes to a file of the cgroup.
    pub fn set(&self, file: &str, value: &str) -> Result<()> {
        fs::write(self.0.join(file), value)
            .with_context(|| format!("cannot write {value} to {file} of a cgroup"))
    }

    /// Reads a file that holds one number.
    pub fn number(&self, file: &str) -> Result<u64> {
        let text = fs::read_to_string(self.0.join(file))?;
        Ok(text.trim().parse()?)
    }

    /// Reads the number called `name` from a file with one number per line.
    pub fn field(&self, file: &str, name: &str) -> Result<u64> {
        let text = fs::read_to_string(self.0.join(file))?;
        let value = text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(key, _)| *key == name)
            .with_context(|| format!("{file} has no {name}"))?;
        Ok(value.1.trim().parse()?)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = Self::leave();
        let _ = self.set("cgroup.kill", "1");
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        println!("cannot remove {}", self.0.display());
    }
}
