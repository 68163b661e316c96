// SPDX-License-Identifier: GPL-2.0

//! Memory with known content, and the steps that nearly every case takes with
//! it: out to the device, back, and a look at every byte.

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

/// The size of a page in bytes, for addresses.
pub fn page_bytes() -> u64 {
    page_size() as u64
}

/// Skips where a test would use more than an eighth of the machine's memory: a huge page
/// may have 512 MiB.
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
    /// Small pages, filled. Skips where that is too much for this machine.
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

    /// Small pages, filled, and then on the device if `resident` says so.
    pub fn placed(device: &Device, pages: usize, resident: bool) -> Result<Self> {
        let memory = Self::new(pages)?;
        if resident {
            memory.move_out(device, memory.all())?;
        }
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

    /// Small pages, filled, that are on a device.
    pub fn resident(device: &Device, pages: usize) -> Result<Self> {
        let memory = Self::new(pages)?;
        memory.move_out(device, memory.all())?;
        Ok(memory)
    }

    /// A region as it is, filled.
    pub fn filled(region: Region) -> Self {
        let memory = Self::of(region);
        memory.fill(memory.all());
        memory
    }

    /// The same, moved to another address (mremap).
    pub fn relocated(self) -> Result<Self> {
        let (region, data) = (self.region.relocate()?, self.data);
        Ok(Self { region, data })
    }

    /// The same, moved to another address, where it has `pages` pages (mremap).
    pub fn resized(self, pages: usize) -> Result<Self> {
        let (region, data) = (self.region.resize(pages)?, self.data);
        Ok(Self { region, data })
    }

    /// Splits it, and returns what lies from `page` on.
    pub fn split_off(&mut self, page: usize) -> Self {
        let data = Cell::new(self.data().from_page(page));
        let region = self.region.split_off(page);
        Self { region, data }
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

    /// The device reads all of it.
    pub fn reads(&self, device: &Device) -> Result<()> {
        self.device_reads(device, self.all()).map(drop)
    }

    /// The device reads all of it, and leaves it where it is to be.
    pub fn reads_at(&self, device: &Device, place: Where) -> Result<()> {
        self.reads(device)?;
        self.expect("after reading", self.all(), place)
    }

    /// The device reads all of it, then the CPU.
    pub fn both_read(&self, device: &Device) -> Result<()> {
        self.reads(device)?;
        self.intact()
    }

    /// The CPU writes another round, and the device reads it.
    pub fn device_sees(&self, device: &Device, round: u16) -> Result<()> {
        self.refill(round);
        self.reads(device)
    }

    /// The device writes another round, and the CPU reads it.
    pub fn cpu_sees(&self, device: &Device, round: u16) -> Result<()> {
        self.device_refills(device, round)?;
        self.intact()
    }

    /// Sends a command for all of it, with a buffer of other data; returns the answer.
    pub fn send(&self, device: &Device, command: Command) -> Result<Counts, CallError> {
        let mut bytes = self.data().round(999).to_bytes(self.all());
        let range = self.region.range();
        let buffer = Buffer::Output(&mut bytes);
        device.call(command, range.addr(), range.pages(), buffer)
    }

    /// Checks that a command for all of it fails, and counts no page.
    pub fn refuses(&self, device: &Device, command: Command, errno: Errno) -> Result<()> {
        fails_at_once(&command.to_string(), self.send(device, command), errno)
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

    /// Moves all of it to the device, as [`Self::move_out`].
    pub fn out(&self, device: &Device) -> Result<()> {
        self.move_out(device, self.all())
    }

    /// Moves all of it to the device, and reads it by the CPU.
    pub fn out_and_read(&self, device: &Device) -> Result<()> {
        self.out(device)?;
        self.intact()
    }

    /// Moves all of it to the device, back by command, and reads it by the CPU.
    pub fn out_and_back(&self, device: &Device) -> Result<()> {
        self.out(device)?;
        self.move_back(device, self.all(), self.region.pages())?;
        self.intact()
    }

    /// Tries to move all of it to the device; returns the answer, and drops the view.
    pub fn try_out(&self, device: &Device) -> Result<Counts, CallError> {
        let mut view = vec![0xa5; self.region.len()];
        device.migrate_to_device(self.region.range(), &mut view)
    }

    /// Moves pages to the device, checks count and place, returns the view.
    pub fn view(&self, device: &Device, pages: Range<usize>) -> Result<Vec<u8>> {
        let range = self.region.part(pages);
        let view = moved_out(device, range)?;
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

    /// Checks that pages read as zeros by the CPU.
    pub fn is_zero(&self, pages: Range<usize>) -> Result<()> {
        ensure!(self.region.is_zero(pages), "the CPU reads no zeros");
        Ok(())
    }

    /// Reads every byte by the CPU and compares.
    pub fn intact(&self) -> Result<()> {
        self.verify(self.all())
    }

    /// Waits until a child has succeeded; then it must be [`Self::intact`].
    pub fn survives(&self, child: Helper) -> Result<()> {
        child.join()?;
        self.intact()
    }

    /// Writes another round by the CPU, and reads it.
    pub fn rewrite(&self, round: u16) -> Result<()> {
        self.refill(round);
        self.intact()
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

    /// Runs `body` beside a [`Self::writing_child`], which may go on then. This must survive it.
    pub fn beside_child(&self, round: u16, body: impl FnOnce() -> Result<()>) -> Result<()> {
        let go = Gate::new()?;
        let child = self.writing_child(&go, round)?;
        body()?;
        go.open()?;
        self.survives(child)
    }

    /// Checks, by what the kernel says, that all of it is in huge pages.
    pub fn is_huge(&self) -> Result<()> {
        let bytes = Usage::of(self.region.range())?.huge;
        equal("bytes in huge pages", bytes, self.region.len() as u64)
    }

    /// What there is of it before and behind pages.
    pub fn around(&self, pages: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        let rest = [0..pages.start, pages.end..self.region.pages()];
        rest.into_iter().filter(|pages| !pages.is_empty())
    }

    /// Checks, by what the kernel says, that pages are at one place, and all others at another.
    pub fn only(&self, pages: Range<usize>, place: Where, others: Where) -> Result<()> {
        for rest in self.around(&pages) {
            self.expect(&format!("all but pages {pages:?}"), rest, others)?;
        }
        self.expect(&format!("pages {pages:?}"), pages, place)
    }

    /// How many of its pages are on a device, by what the kernel says.
    pub fn on_device(&self) -> Result<usize> {
        Ok(Survey::of(self.region.range())?.on_device())
    }

    /// Checks, by what the kernel says, where pages are.
    pub fn expect(&self, what: &str, pages: Range<usize>, place: Where) -> Result<()> {
        all_at(what, self.region.part(pages), place)
    }
}

/// Moves a range to the device and checks the count; returns the view.
pub fn moved_out(device: &Device, range: PageRange) -> Result<Vec<u8>> {
    let mut view = vec![0xa5; range.bytes() as usize];
    let counts = device.migrate_to_device(range, &mut view)?;
    equal("pages moved out", counts.pages, range.pages())?;
    Ok(view)
}

/// The whole pages in some bytes, and their place among them.
pub fn whole_pages(bytes: &[u8]) -> Result<(PageRange, Range<usize>)> {
    let page = page_size();
    let start = bytes.as_ptr().align_offset(page);
    let pages = (bytes.len() - start) / page;
    let range = PageRange::new(bytes[start..].as_ptr() as u64, pages as u64)?;
    Ok((range, start..start + pages * page))
}

/// A case with `pages` small pages, filled, that are on the device.
pub fn resident(
    pages: usize,
    body: impl Fn(&Device, &Memory) -> Result<()>,
) -> impl Fn(Device) -> Result<()> {
    move |device| body(&device, &Memory::resident(&device, pages)?)
}

/// A case with memory that `make` makes, which the CPU must find intact in the end.
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

/// For [`kept`]: small pages, filled, in system memory.
pub fn in_system(pages: usize) -> impl Fn(&Device) -> Result<Memory> {
    move |_| Memory::new(pages)
}

/// For [`kept`]: small pages, filled, on the device.
pub fn on_device(pages: usize) -> impl Fn(&Device) -> Result<Memory> {
    move |device| Memory::resident(device, pages)
}

/// A case after which there is nothing on the device that was not there before.
pub fn leaves_nothing(body: impl Fn(&Device) -> Result<()>) -> impl Fn(Device) -> Result<()> {
    move |device| {
        let before = Before::of(&device)?;
        body(&device)?;
        before.nothing_is_left(&device)
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

/// The same in two processes at a time.
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

/// Checks that the device still serves.
pub fn works(device: &Device) -> Result<()> {
    let memory = Memory::new(64)?;
    memory.move_out(device, memory.all())?;
    memory.verify(memory.all())
}
