// SPDX-License-Identifier: GPL-2.0

//! Memory with known content, and the steps that nearly every case takes with it: moves to the
//! device and back, and a check of every byte.

use std::cell::Cell;
use std::ops::Range;

use anyhow::{Context as _, Result, ensure};
use dmirror_client::device::Buffer;
use dmirror_client::place::Usage;
use dmirror_client::{
    CallError, Command, Counts, Device, Errno, PageRange, Pattern, Region, Survey, hpage_pmd_size,
    page_size,
};
use nix::unistd::{SysconfVar, sysconf};

use crate::check::{Before, Where, all_at, equal, fails_at_once, skip, unless_held};
use crate::context::{Context, Gate, Helper, helper};

/// Returns the size of a page in bytes, for addresses.
pub fn page_bytes() -> u64 {
    page_size() as u64
}

/// Skips if a test would use more than an eighth of the machine's memory: a huge page may have 512
/// MiB.
pub fn needs_room(bytes: usize) -> Result<()> {
    let pages = sysconf(SysconfVar::_PHYS_PAGES)?.context("the size of memory is unknown")?;
    let all = pages as usize * page_size();
    if bytes > all / 8 {
        let [bytes, all] = [bytes, all].map(|bytes| bytes >> 20);
        return skip(format!(
            "{bytes} MiB are too much for a machine with {all} MiB"
        ));
    }
    Ok(())
}

/// A region and the pattern that it holds.
#[derive(Debug)]
pub struct Memory {
    /// The memory itself.
    pub region: Region,
    data: Cell<Pattern>,
}

impl Memory {
    /// Creates small pages, and fills them. Skips if they are too many for this machine.
    pub fn new(pages: usize) -> Result<Self> {
        needs_room(pages * page_size())?;
        let memory = Self::of(
            Region::options(pages)
                .align(hpage_pmd_size())
                .huge(false)
                .map()?,
        );
        memory.fill(0..pages);
        Ok(memory)
    }

    /// Creates small pages, fills them, and moves them to the device if `resident` is true.
    pub fn placed(device: &Device, pages: usize, resident: bool) -> Result<Self> {
        let memory = Self::new(pages)?;
        if resident {
            memory.move_out(device, memory.all())?;
        }
        Ok(memory)
    }

    /// Creates small pages, and fills them, with a hole of `hole` pages behind them. Returns the
    /// memory, the range of both, and the page behind the hole, which must be kept as long as the
    /// hole is needed. Without that page the hole would join the free addresses above it, and a
    /// mapping larger than the hole, such as a buffer for the whole range, could be placed over it.
    pub fn before_hole(pages: usize, hole: usize) -> Result<(Self, PageRange, Region)> {
        let mut memory = Self::new(pages + hole + 1)?;
        let whole = memory.region.part(0..pages + hole);
        let mut rest = memory.region.split_off(pages);
        let behind = rest.split_off(hole);
        drop(rest);
        Ok((memory, whole, behind))
    }

    /// Creates small pages, and leaves them untouched.
    pub fn untouched(pages: usize) -> Result<Self> {
        Ok(Self::of(Region::options(pages).huge(false).map()?))
    }

    /// Creates small pages, fills them, and moves them to the device.
    pub fn resident(device: &Device, pages: usize) -> Result<Self> {
        let memory = Self::new(pages)?;
        memory.move_out(device, memory.all())?;
        Ok(memory)
    }

    /// Takes a region as it is, and fills it.
    pub fn filled(region: Region) -> Self {
        let memory = Self::of(region);
        memory.fill(memory.all());
        memory
    }

    /// Moves the memory to another address (mremap).
    pub fn relocated(self) -> Result<Self> {
        let (region, data) = (self.region.relocate()?, self.data);
        Ok(Self { region, data })
    }

    /// Moves the memory to another address, where it has `pages` pages (mremap).
    pub fn resized(self, pages: usize) -> Result<Self> {
        let (region, data) = (self.region.resize(pages)?, self.data);
        Ok(Self { region, data })
    }

    /// Splits the memory, and returns the part from `page` on.
    pub fn split_off(&mut self, page: usize) -> Self {
        let data = Cell::new(self.data().from_page(page));
        let region = self.region.split_off(page);
        Self { region, data }
    }

    /// Takes a region as it is, without filling it.
    pub fn of(region: Region) -> Self {
        let data = Cell::new(Pattern::new(&region, 1));
        Self { region, data }
    }

    /// Returns the pattern of the memory.
    pub fn data(&self) -> Pattern {
        self.data.get()
    }

    /// Returns the range of all pages.
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

    /// Sets the round of the expected pattern, without writing to memory.
    pub fn expect_round(&self, round: u16) {
        self.data.set(self.data().round(round));
    }

    /// Makes the device read pages. Checks the count and each byte; returns the number of fault
    /// rounds.
    pub fn device_reads(&self, device: &Device, pages: Range<usize>) -> Result<u64> {
        let mut view = vec![0xa5; pages.len() * page_size()];
        let counts = device.read(self.region.part(pages.clone()), &mut view)?;
        equal("pages read", counts.pages, pages.len() as u64)?;
        self.data()
            .check_bytes(&view, pages.start)
            .context("memory read by the device")?;
        Ok(counts.faults)
    }

    /// Makes the device write the pattern to pages. Checks the count; returns the number of fault
    /// rounds.
    pub fn device_fills(&self, device: &Device, pages: Range<usize>) -> Result<u64> {
        let bytes = self.data().to_bytes(pages.clone());
        let counts = device.write(self.region.part(pages.clone()), &bytes)?;
        equal("pages written", counts.pages, pages.len() as u64)?;
        Ok(counts.faults)
    }

    /// Makes the device write the pattern of another round to all pages; returns the number of
    /// fault rounds.
    pub fn device_refills(&self, device: &Device, round: u16) -> Result<u64> {
        self.expect_round(round);
        self.device_fills(device, self.all())
    }

    /// Makes the device read all pages, and checks them.
    pub fn reads(&self, device: &Device) -> Result<()> {
        self.device_reads(device, self.all()).map(drop)
    }

    /// Makes the device read all pages, and checks that they are at `place` afterwards.
    pub fn reads_at(&self, device: &Device, place: Where) -> Result<()> {
        self.reads(device)?;
        self.expect("after reading", self.all(), place)
    }

    /// Reads all pages with the device, then with the CPU.
    pub fn both_read(&self, device: &Device) -> Result<()> {
        self.reads(device)?;
        self.intact()
    }

    /// Writes another round with the CPU, and reads it with the device.
    pub fn device_sees(&self, device: &Device, round: u16) -> Result<()> {
        self.refill(round);
        self.reads(device)
    }

    /// Writes another round with the device, and reads it with the CPU.
    pub fn cpu_sees(&self, device: &Device, round: u16) -> Result<()> {
        self.device_refills(device, round)?;
        self.intact()
    }

    /// Sends a command for all pages, with a buffer of other data; returns the answer.
    pub fn send(&self, device: &Device, command: Command) -> Result<Counts, CallError> {
        let mut bytes = self.data().round(999).to_bytes(self.all());
        let range = self.region.range();
        let buffer = Buffer::Output(&mut bytes);
        device.call(command, range.addr(), range.pages(), buffer)
    }

    /// Checks that a command for all pages fails, and counts no page.
    pub fn refuses(&self, device: &Device, command: Command, errno: Errno) -> Result<()> {
        fails_at_once(&command.to_string(), self.send(device, command), errno)
    }

    /// Reads every byte of pages with the CPU, and compares it with the pattern.
    pub fn verify(&self, pages: Range<usize>) -> Result<()> {
        self.data()
            .check(&self.region, pages)
            .context("memory read by the CPU")
    }

    /// Moves pages to the device. Checks the count, the device's view of each byte, and that the
    /// kernel reports the pages on the device.
    pub fn move_out(&self, device: &Device, pages: Range<usize>) -> Result<()> {
        let view = self.view(device, pages.clone())?;
        self.data()
            .check_bytes(&view, pages.start)
            .context("the device's view")
    }

    /// Moves all pages to the device, with the checks of [`Self::move_out`].
    pub fn out(&self, device: &Device) -> Result<()> {
        self.move_out(device, self.all())
    }

    /// Moves all pages to the device, and reads them with the CPU.
    pub fn out_and_read(&self, device: &Device) -> Result<()> {
        self.out(device)?;
        self.intact()
    }

    /// Moves all pages to the device, back by command, and reads them with the CPU.
    pub fn out_and_back(&self, device: &Device) -> Result<()> {
        self.out(device)?;
        self.move_back(device, self.all(), self.region.pages())?;
        self.intact()
    }

    /// Tries to move all pages to the device; returns the answer, and drops the view.
    pub fn try_out(&self, device: &Device) -> Result<Counts, CallError> {
        let mut view = vec![0xa5; self.region.len()];
        device.migrate_to_device(self.region.range(), &mut view)
    }

    /// Moves pages to the device, checks count and place, and returns the device's view.
    pub fn view(&self, device: &Device, pages: Range<usize>) -> Result<Vec<u8>> {
        let range = self.region.part(pages);
        let view = moved_out(device, range)?;
        all_at("after moving out", range, Where::Device)?;
        Ok(view)
    }

    /// Moves pages back by command. Checks that `expected` pages moved, and that all are in system
    /// memory afterwards.
    pub fn move_back(&self, device: &Device, pages: Range<usize>, expected: usize) -> Result<()> {
        let range = self.region.part(pages);
        let counts = device.migrate_to_system(range)?;
        equal("pages moved back", counts.pages, expected as u64)?;
        all_at("after moving back", range, Where::System)
    }

    /// Checks that the CPU reads zeros from pages.
    pub fn is_zero(&self, pages: Range<usize>) -> Result<()> {
        ensure!(self.region.is_zero(pages), "the CPU reads no zeros");
        Ok(())
    }

    /// Reads every byte with the CPU, and compares it with the pattern.
    pub fn intact(&self) -> Result<()> {
        self.verify(self.all())
    }

    /// Waits until a child has succeeded, and checks that the memory is [`Self::intact`].
    pub fn survives(&self, child: Helper) -> Result<()> {
        child.join()?;
        self.intact()
    }

    /// Writes another round with the CPU, and reads it.
    pub fn rewrite(&self, round: u16) -> Result<()> {
        self.refill(round);
        self.intact()
    }

    /// Verifies pages one by one.
    pub fn verify_each(&self, pages: impl IntoIterator<Item = usize>) -> Result<()> {
        pages
            .into_iter()
            .try_for_each(|page| self.verify(page..page + 1))
    }

    /// Forks a child that waits for `go`, reads the data that this process had at the fork, and
    /// writes round `round`.
    pub fn writing_child(&self, go: &Gate, round: u16) -> Result<Helper> {
        helper(|| {
            go.wait()?;
            self.verify(self.all())?;
            self.refill(round);
            self.verify(self.all())
        })
    }

    /// Runs `body` beside a [`Self::writing_child`], then lets the child go on, and checks that
    /// this memory survives it.
    pub fn beside_child(&self, round: u16, body: impl FnOnce() -> Result<()>) -> Result<()> {
        let go = Gate::new()?;
        let child = self.writing_child(&go, round)?;
        body()?;
        go.open()?;
        self.survives(child)
    }

    /// Checks that the kernel reports all of the memory in huge pages.
    pub fn is_huge(&self) -> Result<()> {
        let bytes = Usage::of(self.region.range())?.huge;
        equal("bytes in huge pages", bytes, self.region.len() as u64)
    }

    /// Returns the ranges before and behind `pages`, without empty ones.
    pub fn around(&self, pages: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        let rest = [0..pages.start, pages.end..self.region.pages()];
        rest.into_iter().filter(|pages| !pages.is_empty())
    }

    /// Checks that the kernel reports `pages` at `place`, and all other pages at `others`.
    pub fn only(&self, pages: Range<usize>, place: Where, others: Where) -> Result<()> {
        for rest in self.around(&pages) {
            self.expect(&format!("all but pages {pages:?}"), rest, others)?;
        }
        self.expect(&format!("pages {pages:?}"), pages, place)
    }

    /// Returns the number of pages that the kernel reports on a device.
    pub fn on_device(&self) -> Result<usize> {
        Ok(Survey::of(self.region.range())?.on_device())
    }

    /// Checks that the kernel reports pages at `place`.
    pub fn expect(&self, what: &str, pages: Range<usize>, place: Where) -> Result<()> {
        all_at(what, self.region.part(pages), place)
    }
}

/// Moves a range to the device, and checks the count; returns the device's view.
pub fn moved_out(device: &Device, range: PageRange) -> Result<Vec<u8>> {
    let mut view = vec![0xa5; range.bytes() as usize];
    let counts = device.migrate_to_device(range, &mut view)?;
    equal("pages moved out", counts.pages, range.pages())?;
    Ok(view)
}

/// Returns the range of the whole pages in some bytes, and the indices of their bytes.
pub fn whole_pages(bytes: &[u8]) -> Result<(PageRange, Range<usize>)> {
    let page = page_size();
    let start = bytes.as_ptr().align_offset(page);
    let pages = (bytes.len() - start) / page;
    let range = PageRange::new(bytes[start..].as_ptr() as u64, pages as u64)?;
    Ok((range, start..start + pages * page))
}

/// Returns a case with `pages` small, filled pages on the device.
pub fn resident(
    pages: usize,
    body: impl Fn(&Device, &Memory) -> Result<()>,
) -> impl Fn(Device) -> Result<()> {
    move |device| body(&device, &Memory::resident(&device, pages)?)
}

/// Returns a case with memory from `make`, which the CPU must find intact in the end.
pub fn kept(
    make: impl Fn(&Device) -> Result<Memory>,
    body: impl Fn(&Device, &Memory) -> Result<()>,
) -> impl Fn(Device) -> Result<()> {
    move |device| {
        let memory = make(&device)?;
        body(&device, &memory)?;
        memory.intact()
    }
}

/// Returns, for [`kept`], a function that creates small, filled pages in system memory.
pub fn in_system(pages: usize) -> impl Fn(&Device) -> Result<Memory> {
    move |_| Memory::new(pages)
}

/// Returns, for [`kept`], a function that creates small, filled pages on the device.
pub fn on_device(pages: usize) -> impl Fn(&Device) -> Result<Memory> {
    move |device| Memory::resident(device, pages)
}

/// Returns a case that checks that `body` leaves no new page on the device.
pub fn leaves_nothing(body: impl Fn(&Device) -> Result<()>) -> impl Fn(Device) -> Result<()> {
    move |device| {
        let before = Before::of(&device)?;
        body(&device)?;
        before.nothing_is_left(&device)
    }
}

/// Moves memory out and back in every way, four times, while others look on. `of` makes the data
/// differ from that of other callers.
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

/// Runs [`all_ways`] in two processes at a time.
pub fn all_ways_twice(context: &Context) -> Result<()> {
    let start = Gate::new()?;
    let child = helper(|| {
        start.wait()?;
        all_ways(context, 2)
    })?;
    start.open()?;
    all_ways(context, 1)?;
    child.join()
}

/// Checks that the device still works.
pub fn works(device: &Device) -> Result<()> {
    let memory = Memory::new(64)?;
    memory.move_out(device, memory.all())?;
    memory.verify(memory.all())
}
