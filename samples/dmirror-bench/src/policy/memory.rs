// SPDX-License-Identifier: GPL-2.0

//! The memory of a simulated device, and the pages of a process that move there and back, as in
//! `migrate.rs` and `reserve.rs` of the module, but without anyone else who uses them.

use crate::pages::{BLOCK_ORDER, BLOCK_PAGES};
use std::ops::Range;

use super::cost::Cost;
use super::logic::alloc::Allocator;
use super::logic::alloc::Block;
use super::logic::alloc::Eviction;
use super::logic::plan::Next;
use super::logic::plan::Outcome;
use super::logic::plan::Plan;
use super::logic::plan::ReserveRequest;
use super::logic::plan::WhenFull;

/// Maximum number of blocks that a reservation tries to evict, for each block of the device.
const EVICT_ROUNDS: usize = 2;

/// Time that a migration waits for others, in nanoseconds.
const PAUSE_NS: u64 = 200_000;

/// A page of the process.
#[derive(Clone, Copy, Debug, Default)]
struct Page {
    /// The page of the device that holds it; `None` if it is not on the device.
    frame: Option<usize>,
    /// Set if the device has it mapped, wherever it is.
    is_mapped: bool,
    /// Its content while it is not on the device.
    content: u32,
}

impl Page {
    /// Returns a page to which a CPU has written its number.
    fn new(number: usize) -> Self {
        Self {
            content: number as u32,
            ..Self::default()
        }
    }
}

/// A page of the device.
#[derive(Clone, Copy, Debug, Default)]
struct Frame {
    /// The page of the process that it holds.
    owner: Option<usize>,
    content: u32,
}

/// Numbers of pages that moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Pages that moved to the device.
    pub out: u64,
    /// Pages that CPUs brought back.
    pub back: u64,
    /// Pages that were evicted for others.
    pub evicted: u64,
}

/// The memory of a process and of a device, and the time.
#[derive(Debug)]
pub struct Memory {
    /// Nanoseconds since the simulation began.
    pub now: u64,
    pub moved: Moved,
    /// The numbers of the pages of the process.
    pages: Range<usize>,
    /// Those pages.
    table: Vec<Page>,
    frames: Vec<Frame>,
    allocator: Allocator<Vec<Block>>,
    eviction: Eviction,
}

/// Pages of the device that are reserved for a pass.
#[derive(Debug, Default)]
struct Reservation {
    /// The first page of a block.
    block: Option<usize>,
    pages: Vec<Range<usize>>,
}

impl Memory {
    /// Creates the memory of a device of `blocks` blocks, all free, and of a process with the pages
    /// `pages`, to which a CPU has written their numbers. The seed is for random eviction.
    pub fn new(blocks: usize, pages: Range<usize>, eviction: Eviction, seed: u64) -> Self {
        Self {
            now: 0,
            moved: Moved::default(),
            table: pages.clone().map(Page::new).collect(),
            pages,
            frames: vec![Frame::default(); blocks * BLOCK_PAGES],
            allocator: Allocator::new(vec![Block::default(); blocks]).with_seed(seed),
            eviction,
        }
    }

    /// Returns the numbers of the pages of the process.
    pub fn pages(&self) -> Range<usize> {
        self.pages.clone()
    }

    /// Adds a cost to the time.
    pub fn spend(&mut self, cost: Cost) {
        self.now += cost.ns();
    }

    /// Returns the page of the device that holds a page, if any.
    pub fn frame(&self, page: usize) -> Option<usize> {
        self.page(page).frame
    }

    /// Returns whether the device has a page mapped.
    pub fn is_mapped(&self, page: usize) -> bool {
        self.page(page).is_mapped
    }

    /// Maps the pages of a range wherever they are. Returns how many were not mapped before.
    pub fn map(&mut self, range: Range<usize>) -> usize {
        let mut mapped = 0;
        for page in range {
            let page = self.page_mut(page);
            mapped += usize::from(!page.is_mapped);
            page.is_mapped = true;
        }
        mapped
    }

    /// Returns the content of a page.
    pub fn read(&self, page: usize) -> u32 {
        let page = self.page(page);
        page.frame
            .map_or(page.content, |frame| self.frames[frame].content)
    }

    /// Changes the content of a page.
    pub fn write(&mut self, page: usize) {
        let frame = self.frame(page);
        let content = match frame {
            Some(frame) => &mut self.frames[frame].content,
            None => &mut self.page_mut(page).content,
        };
        *content += 1;
    }

    /// Records that the device has used a page of its own.
    pub fn touch(&mut self, frame: usize) {
        self.allocator.touch(frame);
    }

    /// Moves a range within a window to the device, as far as there is room.
    pub fn move_out(&mut self, range: &Range<usize>) {
        let mut plan = Plan::first(range.len(), true).for_fault();
        while let Some(reservation) = self.reserve(&plan.request) {
            let outcome = self.pass_out(range, reservation);
            self.moved.out += outcome.moved as u64;
            let is_missing = |page: &usize| self.frame(*page).is_none();
            let missing = range.clone().filter(is_missing).count();
            plan = match plan.next(&outcome, missing) {
                Next::Done => return,
                Next::Again(plan) => plan,
                Next::AfterPause { plan, .. } => {
                    self.now += PAUSE_NS;
                    plan
                }
            };
        }
    }

    /// Moves those pages of a range back that are on the device.
    pub fn move_back(&mut self, range: Range<usize>) {
        let frames: Vec<usize> = range.filter_map(|page| self.frame(page)).collect();
        self.moved.back += self.bring_back(frames);
    }

    /// Returns the number of pages on the device.
    pub fn resident(&self) -> usize {
        let has_owner = |frame: &&Frame| frame.owner.is_some();
        self.frames.iter().filter(has_owner).count()
    }

    /// Panics if a page is in two places, or a page of the device is neither free nor owned.
    #[cfg(test)]
    pub fn check(&self) {
        for page in self.pages() {
            let owner = self.frame(page).map(|frame| self.frames[frame].owner);
            assert!(owner.is_none_or(|owner| owner == Some(page)), "page {page}");
        }
        let on_device = self.pages().filter(|page| self.frame(*page).is_some());
        assert_eq!(on_device.count(), self.resident());
        assert_eq!(
            self.resident() + self.allocator.free_pages(),
            self.frames.len()
        );
    }

    /// Executes one pass to the device.
    fn pass_out(&mut self, range: &Range<usize>, mut reservation: Reservation) -> Outcome {
        self.spend(Cost::Pass);
        let mut outcome = Outcome::default();
        for page in range.clone() {
            if self.frame(page).is_some() {
                continue;
            }
            let Some(frame) = self.pop(&mut reservation) else {
                outcome.lacking += 1;
                continue;
            };
            self.frames[frame] = Frame {
                owner: Some(page),
                content: self.page(page).content,
            };
            let page = self.page_mut(page);
            page.frame = Some(frame);
            page.is_mapped = false;
            self.spend(Cost::Move);
            outcome.moved += 1;
        }
        self.put(reservation);
        outcome
    }

    /// Moves pages of the device back; returns the number of moved pages.
    fn bring_back(&mut self, frames: Vec<usize>) -> u64 {
        let mut moved = 0;
        for frame in frames {
            let Frame { owner, content } = std::mem::take(&mut self.frames[frame]);
            let Some(owner) = owner else { continue };
            let page = self.page_mut(owner);
            page.frame = None;
            page.is_mapped = false;
            page.content = content;
            self.give(frame, 0);
            self.spend(Cost::Move);
            moved += 1;
        }
        moved
    }

    /// Reserves the pages that a pass requests; returns `None` if eviction cannot free enough.
    fn reserve(&mut self, request: &ReserveRequest) -> Option<Reservation> {
        let mut reservation = Reservation::default();
        let mut rounds = self.frames.len() / BLOCK_PAGES * EVICT_ROUNDS;
        let mut missing = request.pages;
        if request.block {
            let block = self.take(request.when_full, &mut rounds, |allocator| {
                allocator.alloc_block()
            });
            if block.is_none() {
                missing = BLOCK_PAGES;
            }
            reservation.block = block;
        }
        while missing > 0 {
            let pages = self.take(request.when_full, &mut rounds, |allocator| {
                allocator.alloc_pages(missing)
            });
            match pages {
                Some(pages) => {
                    missing -= pages.len();
                    reservation.pages.push(pages);
                }
                None if request.when_full == WhenFull::TakeWhatIsFree => break,
                None => {
                    self.put(reservation);
                    return None;
                }
            }
        }
        Some(reservation)
    }

    /// Takes pages from the allocator, and evicts others if the pass requests that.
    fn take<T>(
        &mut self,
        when_full: WhenFull,
        rounds: &mut usize,
        mut alloc: impl FnMut(&mut Allocator<Vec<Block>>) -> Option<T>,
    ) -> Option<T> {
        loop {
            let taken = alloc(&mut self.allocator);
            if taken.is_some() || when_full == WhenFull::TakeWhatIsFree || *rounds == 0 {
                return taken;
            }
            *rounds -= 1;
            let victim = self.allocator.next_victim(self.eviction)?;
            self.spend(Cost::Pass);
            self.moved.evicted += self.bring_back((victim..victim + BLOCK_PAGES).collect());
        }
    }

    /// Takes a page from a reservation.
    fn pop(&mut self, reservation: &mut Reservation) -> Option<usize> {
        loop {
            if let Some(pages) = reservation.pages.last_mut() {
                if let Some(page) = pages.next() {
                    return Some(page);
                }
                reservation.pages.pop();
            } else {
                let block = reservation.block.take()?;
                self.allocator.split(block);
                reservation.pages.push(block..block + BLOCK_PAGES);
            }
        }
    }

    /// Frees the rest of a reservation.
    fn put(&mut self, reservation: Reservation) {
        if let Some(block) = reservation.block {
            self.give(block, BLOCK_ORDER);
        }
        for page in reservation.pages.into_iter().flatten() {
            self.give(page, 0);
        }
    }

    fn give(&mut self, frame: usize, order: u32) {
        let freed = self.allocator.free(frame, order);
        debug_assert!(freed.is_ok());
    }

    fn page(&self, page: usize) -> &Page {
        &self.table[page - self.pages.start]
    }

    fn page_mut(&mut self, page: usize) -> &mut Page {
        &mut self.table[page - self.pages.start]
    }
}
