// SPDX-License-Identifier: GPL-2.0

//! Ram disks: one to swap to, one for input and output, so that what a case
//! leaves on the one does not keep others from the other.

use std::fs;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::check::skip;
use crate::context::is_root;

/// How the driver is loaded where it is a module: two disks of 32 MiB.
const MODULE: [&str; 4] = ["-q", "brd", "rd_nr=2", "rd_size=32768"];

/// The disk to swap to.
pub const SWAP: &str = "/dev/ram0";

/// The disk for input and output.
const SCRATCH: &str = "/dev/ram1";

/// How much of a disk must be empty for it to be taken, and is emptied after
/// use, in bytes: where partitions and file systems begin.
const START: usize = 1 << 20;

/// Makes sure that the disk `path` is there, or skips.
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

/// The disk for input and output, which is empty, and made so again on drop.
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

    /// Where it is.
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
