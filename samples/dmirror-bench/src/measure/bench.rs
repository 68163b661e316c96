// SPDX-License-Identifier: GPL-2.0

//! Memory, a device and a buffer, and timed operations on them.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use anyhow::Result;
use anyhow::ensure;
use dmirror_client::CallError;
use dmirror_client::Counts;
use dmirror_client::Device;
use dmirror_client::PageRange;
use dmirror_client::Region;
use dmirror_client::device::prot;
use dmirror_client::page_size;
use dmirror_client::region::Advice;

use crate::report::Memory;

/// The size of a huge page in bytes: one PMD entry maps it.
pub const BLOCK: u64 = 2 << 20;

/// Memory, and a device to move it to.
#[derive(Debug)]
pub struct Bench {
    device: Arc<Device>,
    region: Region,
    memory: Memory,
    buffer: Vec<u8>,
}

impl Bench {
    /// Maps and touches `bytes` bytes of memory, and a buffer of the same size.
    ///
    /// # Errors
    ///
    /// If mapping or SNAPSHOT fails, or the pages are not of the requested kind.
    pub fn new(device: Arc<Device>, memory: Memory, bytes: u64) -> Result<Self> {
        let pages = usize::try_from(bytes)? / page_size();
        let region = Region::options(pages)
            .align(BLOCK as usize)
            .huge(memory == Memory::Huge)
            .map()?;
        let bench = Self {
            device,
            region,
            memory,
            // Not zero, so that the kernel has allocated all of its pages.
            buffer: vec![0xa5; pages * page_size()],
        };
        bench.refresh()?;
        Ok(bench)
    }

    /// Returns the number of pages.
    pub fn pages(&self) -> u64 {
        self.region.pages() as u64
    }

    /// Replaces the memory with fresh pages in system memory, all of them touched, and huge if that
    /// is the kind of the memory.
    ///
    /// # Errors
    ///
    /// If madvise or SNAPSHOT fails, or the pages are not of the requested kind.
    pub fn refresh(&self) -> Result<()> {
        let pages = self.region.pages();
        self.region.advise(0..pages, Advice::DontNeed)?;
        for page in 0..pages {
            self.region
                .store(page * Region::words_per_page(), page as u64 + 1);
        }
        let huge = self.device.snapshot(self.region.range())?;
        let huge = huge.iter().filter(|byte| *byte & prot::PMD != 0).count();
        let wanted = if self.memory == Memory::Huge {
            pages
        } else {
            0
        };
        ensure!(
            huge == wanted,
            "{huge} of {pages} pages are in huge pages, not {wanted}"
        );
        Ok(())
    }

    /// Moves all pages to the device with MIGRATE_TO_DEV; returns the time that this took.
    ///
    /// # Errors
    ///
    /// If the command fails, or handles too few pages.
    pub fn move_out(&mut self) -> Result<Duration> {
        self.move_part_out(0..self.region.pages())
    }

    /// Moves some pages to the device with MIGRATE_TO_DEV; returns the time that this took.
    ///
    /// # Errors
    ///
    /// If the command fails, or handles too few pages.
    pub fn move_part_out(&mut self, pages: Range<usize>) -> Result<Duration> {
        let range = self.region.part(pages);
        let (counts, time) = timed(|| self.device.migrate_to_device(range, &mut self.buffer))?;
        all_of(range, counts, "moved")?;
        Ok(time)
    }

    /// Moves all pages, which must be on the device, back with MIGRATE_TO_SYS; returns the time.
    ///
    /// # Errors
    ///
    /// If MIGRATE_TO_SYS or SNAPSHOT fails, or some pages stay on the device.
    pub fn move_back(&self) -> Result<Duration> {
        let (_, time) = timed(|| self.device.migrate_to_system(self.region.range()))?;
        // The count is not usable: test_hmm counts a huge page as one.
        let left = self.on_device(0..self.region.pages())?;
        ensure!(left == 0, "{left} pages stayed on the device");
        Ok(time)
    }

    /// Makes the CPU read a word of each page, in order; returns the time that this took.
    pub fn touch(&self) -> Duration {
        let start = Instant::now();
        for page in 0..self.region.pages() {
            self.region.touch(page);
        }
        start.elapsed()
    }

    /// Reads all pages with READ; returns the counts and the time.
    ///
    /// # Errors
    ///
    /// If the command fails, or handles too few pages.
    pub fn read(&mut self) -> Result<(Counts, Duration)> {
        let range = self.region.range();
        let (counts, time) = timed(|| self.device.read(range, &mut self.buffer))?;
        all_of(range, counts, "read")?;
        Ok((counts, time))
    }

    /// Writes all pages with WRITE; returns the counts and the time.
    ///
    /// # Errors
    ///
    /// If the command fails, or handles too few pages.
    pub fn write(&self) -> Result<(Counts, Duration)> {
        let range = self.region.range();
        let (counts, time) = timed(|| self.device.write(range, &self.buffer))?;
        all_of(range, counts, "written")?;
        Ok((counts, time))
    }

    /// Performs SNAPSHOT of all pages; returns the time that this took.
    ///
    /// # Errors
    ///
    /// The error of SNAPSHOT.
    pub fn snapshot(&self) -> Result<Duration> {
        let (_, time) = timed(|| self.device.snapshot(self.region.range()))?;
        Ok(time)
    }

    /// Returns how many of some pages are on the device.
    ///
    /// # Errors
    ///
    /// The error of SNAPSHOT.
    pub fn on_device(&self, pages: Range<usize>) -> Result<u64> {
        // The places are values of a field, not flags.
        const PLACE: u8 = 0x70;
        let bytes = self.device.snapshot(self.region.part(pages))?;
        let there = |byte: &&u8| **byte != prot::ERROR && **byte & PLACE == prot::PRIVATE_LOCAL;
        Ok(bytes.iter().filter(there).count() as u64)
    }
}

/// Calls `work`; returns its result, and the time that it took.
fn timed<T>(work: impl FnOnce() -> Result<T, CallError>) -> Result<(T, Duration)> {
    let start = Instant::now();
    let answer = work();
    let time = start.elapsed();
    Ok((answer?, time))
}

/// Fails unless a command handled all of its range.
fn all_of(range: PageRange, counts: Counts, what: &str) -> Result<()> {
    ensure!(
        counts.pages == range.pages(),
        "{} of {} pages were {what}",
        counts.pages,
        range.pages()
    );
    Ok(())
}

/// Converts a time to nanoseconds; more than fit would be 584 years.
pub fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
