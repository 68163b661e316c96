// SPDX-License-Identifier: GPL-2.0

//! A simulated device: its reaction to pages that an engine misses and to CPU faults, with the
//! decisions in the order of `exec/service.rs`, `exec/memory.rs` and `device.rs` of the module.
//!
//! It has one engine, and one thing happens after the other: while a device naps, the CPU does
//! nothing; while a CPU waits for a time slice, the device does nothing.

use crate::pages::{BLOCK_PAGES, PAGE_SIZE};
use std::cell::Cell;
use std::ops::Range;

use super::Eviction;
use super::cost::Cost;
use super::logic::alloc;
use super::logic::hits::Hits;
use super::logic::hits::Number;
use super::logic::policy::MAX_NAP_US;
use super::logic::policy::MAX_PIN_MS;
use super::logic::policy::MAX_TIMESLICE_US;
use super::logic::policy::Preset;
use super::logic::policy::SETTINGS;
use super::logic::policy::Setting;
use super::logic::policy::dense_part;
use super::logic::policy::granule_order;
use super::logic::slice::MAX_DOUBLED;
use super::logic::slice::Slices;
use super::logic::thrash::Limits;
use super::logic::thrash::Thrashing;
use super::logic::thrash::Verdict;
use super::logic::window::Windows;
use super::memory::Memory;
use super::trace::Access;
use super::trace::By;
use super::trace::Packet;
use super::trace::Shape;

/// The number of the first page of the process: the start of a block, and not 0.
pub const BASE: usize = BLOCK_PAGES;

/// Maximum number of faults that an engine posts at a time.
const LANES: usize = 16;

/// Maximum number of pages that an engine accesses before it looks for a hot block.
const TURN: usize = 64;

/// Maximum time that a CPU waits for a time slice, in nanoseconds.
const MAX_SLICE_NS: u64 = (MAX_TIMESLICE_US as u64 * 1000) << MAX_DOUBLED;

/// Counts of events, except for pages that moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pages that the engine has posted to the fault buffer.
    pub device_faults: u64,
    /// Number of times that it has stalled for them.
    pub stalls: u64,
    /// Faults of the CPU.
    pub cpu_faults: u64,
    /// Pages that were to move together with missed granules.
    pub prefetched: u64,
    /// Number of times that the engine left a granule alone for a while.
    pub naps: u64,
    /// Number of times that it used a granule where it was.
    pub pins: u64,
    /// Blocks that moved because they were used often.
    pub hot_blocks: u64,
    /// Number of times that the CPU waited for a time slice.
    pub slices: u64,
    /// Accesses of the engine to its own memory …
    pub local: u64,
    /// … and over the bus.
    pub remote: u64,
    /// The sum of all values that were read.
    pub sum: u64,
}

/// A device, and the process that uses it.
#[derive(Debug)]
pub struct Device {
    pub memory: Memory,
    pub counts: Counts,
    settings: [u32; SETTINGS],
    /// The time until which a CPU does not get the pages in each block, in nanoseconds.
    kept_until: Vec<u64>,
    /// The latest of those times.
    kept_longest: u64,
    windows: Windows,
    slices: Slices,
    thrashing: Thrashing,
    hits: Hits<Cell<usize>>,
}

impl Number for Cell<usize> {
    fn zero() -> Self {
        Self::new(0)
    }

    fn count(&self) -> usize {
        self.set(self.get() + 1);
        self.get()
    }

    fn get(&self) -> usize {
        self.get()
    }

    fn replace(&self, value: usize) -> usize {
        self.replace(value)
    }
}

impl Device {
    /// Creates a device of `blocks` blocks, and a process of `npages` pages, none of them on the
    /// device. The seed is for random eviction.
    pub fn new(
        blocks: usize,
        npages: usize,
        preset: &Preset,
        eviction: Eviction,
        seed: u64,
    ) -> Self {
        let mut settings = *preset.values();
        settings[Setting::Eviction as usize] = eviction as u32;
        let eviction = alloc::Eviction::from_number(eviction as u32);
        Self {
            memory: Memory::new(blocks, BASE..BASE + npages, eviction, seed),
            counts: Counts::default(),
            settings,
            kept_until: vec![0; blocks],
            kept_longest: 0,
            windows: Windows::default(),
            slices: Slices::default(),
            thrashing: Thrashing::default(),
            hits: Hits::default(),
        }
    }

    /// Performs the accesses of a packet.
    pub fn replay(&mut self, packet: &Packet) {
        match packet.by {
            By::Engine => self.execute(packet),
            By::Cpu => {
                for access in &packet.accesses {
                    self.access_by_cpu(*access, packet.shape);
                }
            }
        }
    }

    fn setting(&self, setting: Setting) -> u32 {
        self.settings[setting as usize]
    }

    /// Returns a setting of bytes as a number of pages, from 1 to a block.
    fn pages_of(&self, setting: Setting) -> usize {
        (self.setting(setting) as usize / PAGE_SIZE).clamp(1, BLOCK_PAGES)
    }

    fn execute(&mut self, packet: &Packet) {
        let mut left = &packet.accesses[..];
        while !left.is_empty() {
            let mut done = self.access_mapped(left, packet.shape);
            if done == 0 {
                self.service(left, packet.shape);
                self.fault(left, packet.shape);
                done = self.access_mapped(left, packet.shape);
            }
            left = &left[done..];
            self.notice_hot_block();
        }
    }

    /// Performs accesses in order until the device has not mapped a page, but at most [`TURN`]
    /// pages or one word. Returns their number.
    fn access_mapped(&mut self, accesses: &[Access], shape: Shape) -> usize {
        let (most, local, remote) = match shape {
            Shape::Pages => (TURN, Cost::LocalPage, Cost::BusPage),
            Shape::Words | Shape::Chain => (1, Cost::LocalWord, Cost::BusWord),
        };
        let limit = self.setting(Setting::AccessCounter);
        let mut used = None;
        let mut done = 0;
        for access in accesses.iter().take(most) {
            let page = number(*access);
            if !self.memory.is_mapped(page) {
                break;
            }
            let frame = self.memory.frame(page);
            match frame {
                Some(frame) => {
                    self.counts.local += 1;
                    self.memory.spend(local);
                    let block = Some(frame / BLOCK_PAGES);
                    if block != used {
                        self.memory.touch(frame);
                        used = block;
                    }
                }
                None => {
                    self.counts.remote += 1;
                    self.memory.spend(remote);
                    if limit > 0 {
                        self.hits.count(page, limit);
                    }
                }
            }
            self.use_content(page, access.is_write);
            done += 1;
        }
        done
    }

    fn use_content(&mut self, page: usize, is_write: bool) {
        if is_write {
            self.memory.write(page);
        } else {
            self.counts.sum += u64::from(self.memory.read(page));
        }
    }

    /// Posts the page that the first access misses, and the pages that the engine knows it will
    /// miss; then applies the policy to them.
    fn service(&mut self, accesses: &[Access], shape: Shape) {
        let ahead = match shape {
            Shape::Pages => accesses,
            Shape::Words => &accesses[..accesses.len().min(1 + LANES)],
            Shape::Chain => &accesses[..1],
        };
        let mut misses = Vec::with_capacity(LANES);
        for access in ahead {
            let page = number(*access);
            if misses.len() < LANES && !self.memory.is_mapped(page) && !misses.contains(&page) {
                misses.push(page);
            }
            if misses.len() == LANES {
                break;
            }
        }
        self.serve(misses, false);
    }

    /// Handles a block that the device has accessed often enough where it is.
    fn notice_hot_block(&mut self) {
        if let Some(page) = self.hits.take_hot() {
            self.counts.hot_blocks += 1;
            self.serve(vec![page], true);
        }
    }

    /// Handles posted faults in batches; each batch is sorted, and merged by granules.
    fn serve(&mut self, misses: Vec<usize>, is_hot: bool) {
        self.counts.stalls += 1;
        self.counts.device_faults += misses.len() as u64;
        self.memory.spend(Cost::DeviceFault);
        let granule = 1 << self.pages_of(Setting::Granule).ilog2();
        for batch in misses.chunks(self.setting(Setting::FaultBatch).max(1) as usize) {
            let mut batch = batch.to_vec();
            batch.sort_unstable();
            let groups = batch.chunk_by(|one, other| one / granule == other / granule);
            // An engine takes the last group first.
            for group in groups.rev() {
                let (Some(first), Some(last)) = (group.first(), group.last()) else {
                    continue;
                };
                let mut page = *first;
                while page <= *last {
                    page = self.see_to_granule(page, is_hot).max(page + 1);
                }
            }
        }
    }

    /// Applies the policy to the granule of a page; returns the end of the handled pages.
    fn see_to_granule(&mut self, page: usize, is_hot: bool) -> usize {
        if !is_hot && self.setting(Setting::Migrate) == 0 {
            return page + 1;
        }
        let bounds = self.memory.pages();
        let part = if is_hot {
            clip(block_of(page), &bounds)
        } else {
            let most = self.setting(Setting::Granule);
            let order = granule_order(page, &bounds, most, PAGE_SIZE);
            let start = page & !((1 << order) - 1);
            start..start + (1 << order)
        };
        if !is_hot && self.memory.frame(page).is_some() && self.memory.is_mapped(page) {
            // It moved together with another one.
            return page + 1;
        }
        let limits = self.thrash_limits();
        match self.thrashing.missed(part.start, self.memory.now, &limits) {
            Verdict::Move => {}
            Verdict::Nap => {
                self.counts.naps += 1;
                let nap = self.setting(Setting::ThrashNap).min(MAX_NAP_US);
                self.memory.now += u64::from(nap) * 1000;
            }
            Verdict::Pin => {
                self.counts.pins += 1;
                return part.end;
            }
        }
        let whole = match is_hot {
            true => part.clone(),
            false => self.with_dense_rest(&part, &bounds),
        };
        self.counts.prefetched += (whole.len() - part.len()) as u64;
        self.memory.move_out(&whole);
        let _ = self.memory.map(whole);
        self.grant_timeslice(&part);
        part.end
    }

    /// Returns a granule with the pages that move together with it.
    fn with_dense_rest(&self, part: &Range<usize>, bounds: &Range<usize>) -> Range<usize> {
        let percent = self.setting(Setting::Prefetch);
        if percent == 0 || part.len() >= BLOCK_PAGES {
            return part.clone();
        }
        let block = block_of(part.start);
        let start = block.start;
        let relative = |range: &Range<usize>| range.start - start..range.end - start;
        let is_there = |nth: usize| self.memory.frame(start + nth).is_some();
        let inside = relative(&clip(block, bounds));
        let dense = dense_part(relative(part), &inside, BLOCK_PAGES, percent, is_there);
        let whole = start + dense.start..start + dense.end;
        match self.thrashing.is_pinned(&whole, self.memory.now) {
            true => part.clone(),
            false => whole,
        }
    }

    fn thrash_limits(&self) -> Limits {
        Limits {
            events: self.setting(Setting::ThrashEvents),
            window_ns: u64::from(self.setting(Setting::ThrashWindow)) * 1000,
            naps: self.setting(Setting::ThrashNaps),
            pin_ns: u64::from(self.setting(Setting::ThrashPin).min(MAX_PIN_MS)) * 1_000_000,
        }
    }

    /// Makes moved pages stay for a time slice before a CPU gets them.
    fn grant_timeslice(&mut self, part: &Range<usize>) {
        let slice = self.setting(Setting::Timeslice).min(MAX_TIMESLICE_US);
        if slice == 0 {
            return;
        }
        let slice = u64::from(slice) * 1000;
        let until = self.slices.grant(part.start, self.memory.now, slice);
        for frame in part.clone().filter_map(|page| self.memory.frame(page)) {
            let kept = &mut self.kept_until[frame / BLOCK_PAGES];
            *kept = until.max(*kept);
        }
        self.kept_longest = until.max(self.kept_longest);
    }

    /// Maps the page that an access still misses where it is, and pages behind it.
    fn fault(&mut self, accesses: &[Access], shape: Shape) {
        let page = number(accesses[0]);
        let ahead = match shape {
            Shape::Pages => accesses.len(),
            Shape::Words | Shape::Chain => 1,
        };
        let most = match self.setting(Setting::Migrate) {
            0 => BLOCK_PAGES,
            _ => LANES,
        };
        let end = block_of(page).end.min(page + ahead.min(most));
        let mapped = self.memory.map(page..end);
        self.memory.now += Cost::Map.ns() * mapped as u64;
    }

    fn access_by_cpu(&mut self, access: Access, shape: Shape) {
        let page = number(access);
        if let Some(frame) = self.memory.frame(page) {
            self.counts.cpu_faults += 1;
            self.memory.spend(Cost::CpuFault);
            self.wait_for_slice(frame);
            let order = self.window_order(page);
            let start = page & !((1 << order) - 1);
            let bounds = self.memory.pages();
            self.memory.spend(Cost::Pass);
            self.memory
                .move_back(clip(start..start + (1 << order), &bounds));
        }
        self.memory.spend(match shape {
            Shape::Pages => Cost::CpuPage,
            Shape::Words | Shape::Chain => Cost::CpuWord,
        });
        self.use_content(page, access.is_write);
    }

    /// Waits until the time slice of a page of the device is over.
    fn wait_for_slice(&mut self, frame: usize) {
        let now = self.memory.now;
        let until = self.kept_until[frame / BLOCK_PAGES].min(now + MAX_SLICE_NS);
        if until > now {
            self.counts.slices += 1;
            self.memory.now = until;
        }
    }

    /// Returns the order of the window that a CPU fault brings back.
    fn window_order(&mut self, page: usize) -> u32 {
        let most = self.pages_of(Setting::Window).ilog2();
        // A neighbour may be in a block whose time slice is not over.
        if self.kept_longest > self.memory.now {
            return 0;
        }
        self.windows.order_for(1, page, most)
    }
}

/// Returns the number of the page of an access in the address space of the process.
fn number(access: Access) -> usize {
    BASE + access.page as usize
}

/// Returns the pages of the block of 2 MiB that contains a page of the process.
fn block_of(page: usize) -> Range<usize> {
    let start = page & !(BLOCK_PAGES - 1);
    start..start + BLOCK_PAGES
}

fn clip(range: Range<usize>, bounds: &Range<usize>) -> Range<usize> {
    range.start.max(bounds.start)..range.end.min(bounds.end)
}
