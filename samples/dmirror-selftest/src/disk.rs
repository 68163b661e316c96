// SPDX-License-Identifier: GPL-2.0

//! RAM disks: one for swap, one for input and output, so that data left on one disk does not block
//! the use of the other.

use std::fs;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::check::skip;
use crate::context::is_root;

/// The arguments of modprobe for the driver, if it is a module: two disks of 32 MiB.
const MODULE: [&str; 4] = ["-q", "brd", "rd_nr=2", "rd_size=32768"];

/// The disk for swap.
pub const SWAP: &str = "/dev/ram0";

/// The disk for input and output.
const SCRATCH: &str = "/dev/ram1";

/// The size of the start of a disk, in bytes, where partitions and file systems begin. It must be
/// empty before use, and is cleared after use.
const START: usize = 1 << 20;

/// Makes sure that the disk `path` exists, or skips.
pub fn find(path: &str) -> Result<()> {
    if !is_root() {
        return skip("needs root");
    }
    if fs::metadata(path).is_err() {
        let silent = Stdio::null;
        let _ = Command::new("modprobe")
            .args(MODULE)
            .stdin(silent())
            .stderr(silent())
            .status();
    }
    if fs::metadata(path).is_err() {
        return skip(format!("there is no {path}"));
    }
    Ok(())
}

/// The disk for input and output. It is empty, and cleared again on drop.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Takes the disk, or skips.
    pub fn new() -> Result<Self> {
        find(SCRATCH)?;
        let mut start = vec![0xa5; START];
        File::open(SCRATCH)
            .and_then(|mut disk| disk.read_exact(&mut start))
            .context(SCRATCH)?;
        if start.iter().any(|byte| *byte != 0) {
            return skip(format!("{SCRATCH} may hold data"));
        }
        Ok(Self(SCRATCH.into()))
    }

    /// Returns the path of the disk.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let wiped = File::options()
            .write(true)
            .open(&self.0)
            .and_then(|disk| disk.write_all_at(&vec![0; START], 0).and(disk.sync_all()));
        if let Err(error) = wiped {
            println!("cannot empty {}: {error}", self.0.display());
        }
    }
}
