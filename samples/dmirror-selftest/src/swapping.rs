// SPDX-License-Identifier: GPL-2.0

//! A ram disk to swap to.

use std::fs;
use std::io::ErrorKind;
use std::process::Command;
use std::process::Stdio;

use anyhow::Context as _;
use anyhow::Result;
use dmirror_client::SwapArea;

use crate::check::skip;
use crate::context::is_root;

/// How the driver is loaded where it is a module: one disk of 32 MiB.
const MODULE: [&str; 4] = ["-q", "brd", "rd_nr=1", "rd_size=32768"];

/// Switches swap on, or skips: where it is on already, pages could go elsewhere
/// than to memory.
pub fn swap_on() -> Result<SwapArea> {
    if !is_root() {
        return skip("needs root");
    }
    let Ok(swaps) = fs::read_to_string("/proc/swaps") else {
        return skip("this kernel does not swap");
    };
    if swaps.lines().count() > 1 {
        return skip("this system swaps already");
    }
    let disk = "/dev/ram0";
    if fs::metadata(disk).is_err() {
        let silent = Stdio::null;
        let _ = Command::new("modprobe")
            .args(MODULE)
            .stdin(silent())
            .stderr(silent())
            .status();
    }
    match SwapArea::on_blank(disk) {
        Ok(area) => Ok(area),
        Err(error) if error.kind() == ErrorKind::NotFound => skip("there is no ram disk"),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            skip(format!("{disk} may hold data"))
        }
        Err(error) => Err(error).context(format!("cannot swap to {disk}")),
    }
}
