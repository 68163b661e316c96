// SPDX-License-Identifier: GPL-2.0

//! A RAM disk for swap.

use std::fs;
use std::io::ErrorKind;

use anyhow::{Context as _, Result};
use dmirror_client::SwapArea;

use crate::check::skip;
use crate::disk;

/// Switches swap on, or skips. Skips also if swap is on already, since pages could then go
/// elsewhere than to memory.
pub fn swap_on() -> Result<SwapArea> {
    disk::find(disk::SWAP)?;
    let Ok(swaps) = fs::read_to_string("/proc/swaps") else {
        return skip("this kernel does not swap");
    };
    if swaps.lines().count() > 1 {
        return skip("this system swaps already");
    }
    match SwapArea::on_blank(disk::SWAP) {
        Ok(area) => Ok(area),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            skip(format!("{} may hold data", disk::SWAP))
        }
        Err(error) => Err(error).with_context(|| format!("cannot swap to {}", disk::SWAP)),
    }
}
