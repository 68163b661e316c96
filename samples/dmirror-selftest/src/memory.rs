// SPDX-License-Identifier: GPL-2.0

//! Memory with known content, and the steps that nearly every case takes with
//! it: out to the device, back, and a look at every byte.

use std::cell::Cell;
use std::ops::Range;

use anyhow::{Context as _, Result};
use dmirror_client::place::Usage;
use dmirror_client::{Device, PageRange, Pattern, Region, page_size};

use crate::check::{Where, all_at, equal, unless_held};
use crate::context::{Context, Gate, Helper, helper};

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

    /// Small pages, filled, with a hole of `hole` pages behind them; the range of both;
    /// and the page behind the hole, to be kept as long as the hole is to be one. Without
    /// it the hole would be one with the free addresses above, and what is larger than
    /// the hole, such as a buffer for the whole range, could be mapped over it.
    pub fn before_hole(pages: usize, hole: usize) -> Result<(Self, PageRange, Region)> {
        let mut memory = Self::new(pages + hole + 1)?;
        let whole = memory.region.part(0..pages + hole);
        let mut rest = memory.region.split_off(pages);
        let behind = rest.split_off(hole);
        drop(rest);
        Ok((memory, whole, behind))
    }

    /// Small pages, untouched.
    pub fn untouched(pages: usize) -> Result<Self> {
        Ok(Self::of(Region::options(pages).huge(false).map()?))
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
        self.expect_round(round);
        self.fill(self.all());
    }

    /// From now on it shall hold the pattern of another round.
    pub fn expect_round(&self, round: u16) {
        self.data.set(self.data().round(round));
    }

    /// The device reads pages. Checks the count and each byte; returns the
    /// rounds of faults that it took.
    pub fn device_reads(&self, device: &Device, pages: Range<usize>) -> Result<u64> {
        let mut view = vec![0xa5; pages.len() * page_size()];
        let counts = device.read(self.region.part(pages.clone()), &mut view)?;
        equal("pages read", counts.pages, pages.len() as u64)?;
        self.data()
            .check_bytes(&view, pages.start)
            .context("memory read by the device")?;
        Ok(counts.faults)
    }

    /// The device writes the pattern to pages. Checks the count; returns the
    /// rounds of faults that it took.
    pub fn device_fills(&self, device: &Device, pages: Range<usize>) -> Result<u64> {
        let bytes = self.data().to_bytes(pages.clone());
        let counts = device.write(self.region.part(pages.clone()), &bytes)?;
        equal("pages written", counts.pages, pages.len() as u64)?;
        Ok(counts.faults)
    }

    /// The device writes the pattern of another round to all pages.
    pub fn device_refills(&self, device: &Device, round: u16) -> Result<u64> {
        self.expect_round(round);
        self.device_fills(device, self.all())
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

    /// Checks pages one after the other, each as if there was no other.
    pub fn verify_each(&self, pages: impl IntoIterator<Item = usize>) -> Result<()> {
        pages
            .into_iter()
            .try_for_each(|page| self.verify(page..page + 1))
    }

    /// Forks a child that waits for `go`, reads what this process had at the fork,
    /// and writes a round of its own.
    pub fn writing_child(&self, go: &Gate, round: u16) -> Result<Helper> {
        helper(|| {
            go.wait()?;
            self.verify(self.all())?;
            self.refill(round);
            self.verify(self.all())
        })
    }

    /// Checks, by what the kernel says, that all of it is in huge pages.
    pub fn is_huge(&self) -> Result<()> {
        let bytes = Usage::of(self.region.range())?.huge;
        equal("bytes in huge pages", bytes, self.region.len() as u64)
    }

    /// Checks, by what the kernel says, where pages are.
    pub fn expect(&self, what: &str, pages: Range<usize>, place: Where) -> Result<()> {
        all_at(what, self.region.part(pages), place)
    }
}

/// Moves memory out and back in every way, with data that `of` tells from those of others, four
/// times: something to look on at.
pub fn all_ways(context: &Context, of: u16) -> Result<()> {
    let device = context.open()?;
    let memory = Memory::new(1024)?;
    for round in 0..4 {
        memory.refill(10 * of + round);
        let mut view = vec![0; memory.region.len()];
        unless_held(device.migrate_to_device(memory.region.range(), &mut view))?;
        helper(|| memory.verify(memory.all()))?.join()?;
        memory.device_reads(&device, memory.all())?;
        unless_held(device.migrate_to_system(memory.region.part(100..900)))?;
        memory.verify(memory.all())?;
    }
    Ok(())
}

/// Checks that the device still serves.
pub fn works(device: &Device) -> Result<()> {
    let memory = Memory::new(64)?;
    memory.move_out(device, memory.all())?;
    memory.verify(memory.all())
}
