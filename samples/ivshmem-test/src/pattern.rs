// SPDX-License-Identifier: GPL-2.0

//! Data that encodes its owner and its address.

use anyhow::Result;
use anyhow::ensure;
use dmirror_client::Region;
use dmirror_client::page_size;

const WORD: usize = size_of::<u64>();

/// Returns the word that a process keeps at an address (in bytes).
pub(crate) fn word(pid: u64, address: u64) -> u64 {
    (pid << 32) | ((address / WORD as u64) & 0xffff_ffff)
}

/// Fills a region with the pattern of a process.
pub(crate) fn fill(region: &Region, pid: u64) {
    for index in 0..region.len() / WORD {
        region.store(index, word(pid, region.addr() + (index * WORD) as u64));
    }
}

/// Checks that a region holds the pattern of a process.
pub(crate) fn check(region: &Region, pid: u64) -> Result<()> {
    for index in 0..region.len() / WORD {
        let (seen, expected) = (
            region.load(index),
            word(pid, region.addr() + (index * WORD) as u64),
        );
        ensure!(
            seen == expected,
            "page {}, byte {:#x}: {seen:#018x}, not {expected:#018x}",
            index * WORD / page_size(),
            index * WORD % page_size()
        );
    }
    Ok(())
}

/// Returns whether a page holds the pattern of a process for the page at an address.
pub(crate) fn is_pattern(page: &[u8], pid: u64, address: u64) -> bool {
    page.chunks_exact(WORD)
        .zip((address..).step_by(WORD))
        .all(|(bytes, address)| bytes == word(pid, address).to_le_bytes())
}
