// SPDX-License-Identifier: GPL-2.0

//! Page-aligned buffers in the program's heap. The program passes them to system calls, as programs
//! do, also while a device holds their pages.

use std::ops::Range;

use anyhow::{Context as _, Result, ensure};
use dmirror_client::{Device, PageRange, page_size};

use crate::check::{Where, all_at, equal};

/// Page-aligned bytes of the heap.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    inside: Range<usize>,
}

/// Returns the content of round `round`: `pages` pages in which each word depends on its place and
/// on the round.
pub fn content(pages: usize, round: u8) -> Vec<u8> {
    (0..pages * page_size() / 8)
        .map(|word| (word as u64 ^ (u64::from(round) << 56)).wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .flat_map(u64::to_ne_bytes)
        .collect()
}

/// Checks that bytes are the content of a round.
pub fn is_content(what: &str, bytes: &[u8], round: u8) -> Result<()> {
    let expected = content(bytes.len() / page_size(), round);
    let wrong = bytes.iter().zip(&expected).position(|(a, b)| a != b);
    ensure!(
        wrong.is_none() && bytes.len() == expected.len(),
        "{what}: byte {:#x} of {:#x} is not that of round {round}",
        wrong.unwrap_or(expected.len()),
        bytes.len()
    );
    Ok(())
}

impl Buffer {
    /// Creates a buffer of `pages` pages with the content of round `round`.
    pub fn new(pages: usize, round: u8) -> Self {
        let size = page_size();
        let bytes = vec![0; (pages + 1) * size];
        let start = bytes.as_ptr().addr().next_multiple_of(size) - bytes.as_ptr().addr();
        let mut buffer = Self {
            bytes,
            inside: start..start + pages * size,
        };
        buffer.fill(round);
        buffer
    }

    /// Writes the content of another round.
    pub fn fill(&mut self, round: u8) {
        let pages = self.inside.len() / page_size();
        self.bytes_mut().copy_from_slice(&content(pages, round));
    }

    /// Returns the bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.inside.clone()]
    }

    /// Returns the bytes as a mutable slice.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.inside.clone()]
    }

    /// Returns the range of the pages in the address space.
    pub fn range(&self) -> Result<PageRange> {
        range_of(self.bytes())
    }

    /// Moves the pages to the device, and checks that it sees the content of
    /// round `round`.
    pub fn move_out(&self, device: &Device, round: u8) -> Result<()> {
        let range = self.range()?;
        let mut view = vec![0xa5; self.inside.len()];
        let counts = device.migrate_to_device(range, &mut view)?;
        equal("pages moved out", counts.pages, range.pages())?;
        is_content("the device's view", &view, round)?;
        self.expect("after moving out", Where::Device)
    }

    /// Writes the content of another round, and moves the pages to the device.
    pub fn refill_there(&mut self, device: &Device, round: u8) -> Result<()> {
        self.fill(round);
        self.move_out(device, round)
    }

    /// Checks that the kernel reports all pages at `place`.
    pub fn expect(&self, what: &str, place: Where) -> Result<()> {
        all_at(what, self.range()?, place)
    }

    /// Reads every byte with the CPU, and compares it with the content of a round.
    pub fn verify(&self, round: u8) -> Result<()> {
        is_content("memory read by the CPU", self.bytes(), round)
    }
}

/// Returns the range of the whole pages that hold `bytes`.
pub fn range_of(bytes: &[u8]) -> Result<PageRange> {
    let size = page_size();
    let start = bytes.as_ptr().addr() / size * size;
    let end = (bytes.as_ptr().addr() + bytes.len()).next_multiple_of(size);
    PageRange::new(start as u64, ((end - start) / size) as u64).context("bytes of this program")
}
