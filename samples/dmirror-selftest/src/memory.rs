// SPDX-License-Identifier: GPL-2.0

//! Memory with known content, and the steps that nearly every case takes with
//! it: out to the device, back, and a look at every byte.

use std::cell::Cell;
use std::ops::Range;

use anyhow::Context as _;
use anyhow::Result;
use dmirror_client::Device;
use dmirror_client::Pattern;
use dmirror_client::Region;
use dmirror_client::page_size;

use crate::check::Where;
use crate::check::all_at;
use crate::check::equal;

/// The size of a huge page, to which memory is aligned, in bytes. A bigger
/// alignment than needed does no harm on other architectures.
pub const HUGE: usize = 2 << 20;

/// A region and the pattern that it holds.
#[derive(Debug)]
pub struct Memory {
    /// The memory itself.
    pub region: Region,
    data: Cell<Pattern>,
}

impl Memory {
    /// Small pages, filled.
    pub fn new(pages: usize) -> Result<Self> {
        let memory = Self::of(Region::options(pages).align(HUGE).huge(false).map()?);
        memory.fill(0..pages);
        Ok(memory)
    }

    /// A region as it is, to be filled.
    pub fn of(region: Region) -> Self {
        let data = Cell::new(Pattern::new(&region, 1));
        Self { region, data }
    }

    /// The pattern that it holds.
    pub fn data(&self) -> Pattern {
        self.data.get()
    }

    /// All its pages.
    pub fn all(&self) -> Range<usize> {
        0..self.region.pages()
    }

    /// Writes the pattern to pages.
    pub fn fill(&self, pages: Range<usize>) {
        self.data().fill(&self.region, pages);
    }

    /// Writes the pattern of another round to all pages.
    pub fn refill(&self, round: u16) {
        self.data.set(self.data().round(round));
        self.fill(self.all());
    }

    /// The bytes that pages shall hold.
    pub fn content(&self, pages: Range<usize>) -> Vec<u8> {
        let words = Region::words_per_page();
        (pages.start * words..pages.end * words)
            .flat_map(|index| self.data().word(index / words, index % words).to_ne_bytes())
            .collect()
    }

    /// Has the device write the pattern of another round to all pages.
    pub fn refill_by_device(&self, device: &Device, round: u16) -> Result<()> {
        self.data.set(self.data().round(round));
        let counts = device.write(self.region.range(), &self.content(self.all()))?;
        equal("pages written", counts.pages, self.region.pages() as u64)
    }

    /// Reads every byte of pages by the CPU and compares.
    pub fn verify(&self, pages: Range<usize>) -> Result<()> {
        self.data()
            .check(&self.region, pages)
            .context("memory read by the CPU")
    }

    /// Moves pages to the device and checks the count, the device's view of
    /// each byte, and where the kernel says they are.
    pub fn move_out(&self, device: &Device, pages: Range<usize>) -> Result<()> {
        let view = self.view(device, pages.clone())?;
        self.data()
            .check_bytes(&view, pages.start)
            .context("the device's view")
    }

    /// Moves pages to the device, checks count and place, returns the view.
    pub fn view(&self, device: &Device, pages: Range<usize>) -> Result<Vec<u8>> {
        let range = self.region.part(pages.clone());
        let mut view = vec![0xa5; pages.len() * page_size()];
        let counts = device.migrate_to_device(range, &mut view)?;
        equal("pages moved out", counts.pages, range.pages())?;
        all_at("after moving out", range, Where::Device)?;
        Ok(view)
    }

    /// Moves pages back by command and checks that `expected` came, and where
    /// all are now.
    pub fn move_back(&self, device: &Device, pages: Range<usize>, expected: usize) -> Result<()> {
        let range = self.region.part(pages);
        let counts = device.migrate_to_system(range)?;
        equal("pages moved back", counts.pages, expected as u64)?;
        all_at("after moving back", range, Where::System)
    }

    /// Checks, by what the kernel says, where pages are.
    pub fn expect(&self, what: &str, pages: Range<usize>, place: Where) -> Result<()> {
        all_at(what, self.region.part(pages), place)
    }
}
