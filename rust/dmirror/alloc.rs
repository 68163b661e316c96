// SPDX-License-Identifier: GPL-2.0

//! The allocator of a device's pages: pure logic, no kernel calls.
//!
//! The device is a row of blocks. A block is free, or whole (one folio covers it), or split into
//! small pages. When all of its small pages are free, it is one free block again.
//!
//! When the device is full, a block in use is evicted: the [victim](Allocator::victim), which an
//! eviction policy chooses. Blocks in use are on one list from the least to the most recently used
//! one, and on another in the order of their allocation; they also have a slot in the array for
//! random choice. All three are always kept up to date, so that the policy may change at any time.
//!
//! Every operation takes a bounded number of steps. The caller supplies the array and a spinlock.

use crate::pages::BLOCK_PAGES;
use core::ops::{DerefMut, Range};

const BITS: usize = u64::BITS as usize;
const WORDS: usize = BLOCK_PAGES / BITS;

/// The policy that chooses the block to evict when the device is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Eviction {
    /// The least recently used block.
    Lru,
    /// The block that was allocated first: first in, first out.
    Fifo,
    /// A random block, all with the same probability.
    Random,
}

impl Eviction {
    /// Returns the policy for the number in a setting; larger numbers mean the last policy.
    pub(crate) fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Lru,
            1 => Self::Fifo,
            _ => Self::Random,
        }
    }
}

/// The state of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Free,
    Whole,
    /// At least one page is in use.
    Small(Pages),
}

/// The pages of a block that is split into small pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pages {
    /// A set bit means that the page is in use.
    bits: [u64; WORDS],
    /// The number of set bits.
    used: usize,
}

impl Pages {
    const NONE_USED: Self = Self {
        bits: [0; WORDS],
        used: 0,
    };

    const ALL_USED: Self = Self {
        bits: [u64::MAX; WORDS],
        used: BLOCK_PAGES,
    };

    fn is_used(&self, page: usize) -> bool {
        self.bits[page / BITS] & (1 << (page % BITS)) != 0
    }

    /// Changes the state of pages that are all in the opposite state.
    fn flip(&mut self, pages: Range<usize>) {
        for page in pages {
            self.bits[page / BITS] ^= 1 << (page % BITS);
        }
    }
}

/// A block's neighbours in a list; `None` at its ends, and outside of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Link {
    prev: Option<u32>,
    next: Option<u32>,
}

/// A list of blocks, linked through one of the links in each block.
#[derive(Clone, Copy, Debug, Default)]
struct List {
    first: Option<u32>,
    last: Option<u32>,
}

/// The lists.
#[derive(Clone, Copy)]
enum Id {
    /// Free blocks.
    Free,
    /// Blocks split into small pages, of which some are free.
    Partial,
    /// Blocks in use, the least recently used one first.
    Used,
    /// Blocks in use, in the order of their allocation.
    Taken,
}

/// A block of pages, as the allocator sees it. The default is a free one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Block {
    state: State,
    room: Link,
    used: Link,
    taken: Link,
    /// The slot for random choice that holds this block.
    place: u32,
    /// The block in the random slot with this block's number.
    holds: u32,
}

impl Block {
    fn link(&mut self, id: Id) -> &mut Link {
        match id {
            // A block is never on both of these.
            Id::Free | Id::Partial => &mut self.room,
            Id::Used => &mut self.used,
            Id::Taken => &mut self.taken,
        }
    }
}

/// Random choice of blocks. The first `untried` slots hold the blocks in use that may be picked.
/// Those up to `used` hold the ones that were picked but not evicted; they are picked again after
/// all others. The remaining slots hold free blocks.
#[derive(Clone, Copy, Debug, Default)]
struct Chance {
    untried: u32,
    used: u32,
    /// The state of the random number generator.
    state: u64,
}

impl Chance {
    /// Returns the next state of the generator, and the slot that it picks.
    fn next(&self) -> Option<(u64, u32)> {
        let places = [self.untried, self.used].into_iter().find(|&it| it > 0)?;
        // A linear congruential generator, whose upper 32 bits are of good quality.
        let state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        // CAST: The result is below `places`.
        let place = (((state >> 32) * u64::from(places)) >> 32) as u32;
        Some((state, place))
    }
}

/// A caller's error: it gave back pages that were not in use, or out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotInUse;

/// The allocator over an array of blocks.
#[derive(Debug)]
pub(crate) struct Allocator<B> {
    blocks: B,
    free: List,
    partial: List,
    used: List,
    taken: List,
    chance: Chance,
    free_pages: usize,
    free_blocks: usize,
}

impl<B: DerefMut<Target = [Block]>> Allocator<B> {
    /// Creates an allocator for the blocks of the array, all free. Uses at most `u32::MAX` of them.
    pub(crate) fn new(blocks: B) -> Self {
        let mut this = Self {
            blocks,
            free: List::default(),
            partial: List::default(),
            used: List::default(),
            taken: List::default(),
            chance: Chance::default(),
            free_pages: 0,
            free_blocks: 0,
        };
        let count = u32::try_from(this.blocks.len()).unwrap_or(u32::MAX);
        for index in 0..count {
            this.set(index, State::Free);
            this.put(index, index);
            this.push_last(Id::Free, index);
        }
        this.free_pages = count as usize * BLOCK_PAGES;
        this.free_blocks = count as usize;
        this
    }

    /// Sets the seed of the random numbers with which [`Eviction::Random`] picks blocks. The same
    /// operations after the same seed give the same blocks.
    pub(crate) fn with_seed(mut self, seed: u64) -> Self {
        self.chance.state = seed;
        self
    }

    /// Returns the number of pages that are not in use.
    pub(crate) fn free_pages(&self) -> usize {
        self.free_pages
    }

    /// Returns the number of blocks that are free as a whole.
    pub(crate) fn free_blocks(&self) -> usize {
        self.free_blocks
    }

    /// Allocates consecutive pages, at least one and at most `most`. Prefers a block that is
    /// already split into small pages and has free ones.
    pub(crate) fn alloc_pages(&mut self, most: usize) -> Option<Range<usize>> {
        if most == 0 {
            return None;
        }
        let index = match self.partial.first {
            Some(index) => index,
            None => {
                let index = self.take_free(State::Small(Pages::NONE_USED))?;
                self.push_last(Id::Partial, index);
                index
            }
        };
        let State::Small(pages) = &mut self.blocks.get_mut(index as usize)?.state else {
            return None;
        };
        let word = pages.bits.iter().position(|&word| word != u64::MAX)?;
        let first = word * BITS + pages.bits[word].trailing_ones() as usize;
        let last = BLOCK_PAGES.min(first.saturating_add(most));
        let is_free = |&page: &usize| !pages.is_used(page);
        let end = (first..last).take_while(is_free).count() + first;
        pages.flip(first..end);
        pages.used += end - first;
        if pages.used == BLOCK_PAGES {
            self.unlink(Id::Partial, index);
        }
        self.free_pages -= end - first;
        self.touch_block(index);
        let base = index as usize * BLOCK_PAGES;
        Some(base + first..base + end)
    }

    /// Allocates a whole block; returns its first page.
    pub(crate) fn alloc_block(&mut self) -> Option<usize> {
        let index = self.take_free(State::Whole)?;
        self.free_pages -= BLOCK_PAGES;
        Some(index as usize * BLOCK_PAGES)
    }

    /// Frees the `1 << order` pages from `page` on: a whole block, or some small pages of a block.
    pub(crate) fn free(&mut self, page: usize, order: u32) -> Result<(), NotInUse> {
        let (index, first) = locate(page)?;
        let count = 1_usize.checked_shl(order).ok_or(NotInUse)?;
        match &mut self.blocks.get_mut(index as usize).ok_or(NotInUse)?.state {
            State::Whole if count == BLOCK_PAGES && first == 0 => {}
            State::Small(pages) if first + count <= BLOCK_PAGES => {
                if !(first..first + count).all(|page| pages.is_used(page)) {
                    return Err(NotInUse);
                }
                let was_full = pages.used == BLOCK_PAGES;
                pages.flip(first..first + count);
                pages.used -= count;
                if pages.used > 0 {
                    if was_full {
                        self.push_last(Id::Partial, index);
                    }
                    self.free_pages += count;
                    return Ok(());
                }
                if !was_full {
                    self.unlink(Id::Partial, index);
                }
            }
            _ => return Err(NotInUse),
        }
        self.set(index, State::Free);
        self.unlink(Id::Used, index);
        self.unlink(Id::Taken, index);
        self.leave(index);
        // First in the list, so that a block that has memory is reused before one that was never
        // used.
        self.push_first(Id::Free, index);
        self.free_blocks += 1;
        self.free_pages += count;
        Ok(())
    }

    /// Records that the folio that covered the whole block of `page` was split. From now on, its
    /// pages are freed one by one, or in pieces.
    pub(crate) fn split(&mut self, page: usize) {
        let block = self.blocks.get(page / BLOCK_PAGES);
        if block.is_some_and(|block| block.state == State::Whole) {
            self.set((page / BLOCK_PAGES) as u32, State::Small(Pages::ALL_USED));
        }
    }

    /// Records that the block of `page` was just used.
    pub(crate) fn touch(&mut self, page: usize) {
        if !self.is_block_free(page / BLOCK_PAGES) {
            self.touch_block((page / BLOCK_PAGES) as u32);
        }
    }

    /// Returns whether a block is free; a block that does not exist counts as free.
    pub(crate) fn is_block_free(&self, block: usize) -> bool {
        let state = self.blocks.get(block).map(|block| &block.state);
        matches!(state, None | Some(State::Free))
    }

    /// Returns the number of used pages of a block: 0 for a block that does not exist.
    pub(crate) fn used_in(&self, block: usize) -> usize {
        match self.blocks.get(block).map(|block| &block.state) {
            Some(State::Small(pages)) => pages.used,
            Some(State::Whole) => BLOCK_PAGES,
            None | Some(State::Free) => 0,
        }
    }

    /// Returns the first page of the block in use that must be evicted next, or `None` if no block
    /// is in use.
    pub(crate) fn victim(&self, eviction: Eviction) -> Option<usize> {
        let index = match eviction {
            Eviction::Lru => self.used.first?,
            Eviction::Fifo => self.taken.first?,
            Eviction::Random => {
                let (_, place) = self.chance.next()?;
                self.held(place)?
            }
        };
        Some(index as usize * BLOCK_PAGES)
    }

    /// Returns the same as [`victim`](Self::victim), and makes that block the last one to evict, so
    /// that the next call returns another one.
    ///
    /// With N blocks in use, N consecutive calls return each of them with [`Eviction::Lru`] and
    /// [`Eviction::Fifo`]. With [`Eviction::Random`], 2 N - 1 calls do: no block is returned again
    /// before all others were, but some may have been returned before the first of these calls.
    pub(crate) fn next_victim(&mut self, eviction: Eviction) -> Option<usize> {
        let page = self.victim(eviction)?;
        let (index, _) = locate(page).ok()?;
        match eviction {
            Eviction::Lru => self.touch_block(index),
            Eviction::Fifo => {
                self.unlink(Id::Taken, index);
                self.push_last(Id::Taken, index);
            }
            Eviction::Random => {
                let (state, place) = self.chance.next()?;
                self.chance.state = state;
                if self.chance.untried == 0 {
                    self.chance.untried = self.chance.used;
                }
                self.chance.untried -= 1;
                self.swap(place, self.chance.untried);
            }
        }
        Some(page)
    }

    fn set(&mut self, index: u32, state: State) {
        if let Some(block) = self.blocks.get_mut(index as usize) {
            block.state = state;
        }
    }

    fn touch_block(&mut self, index: u32) {
        self.unlink(Id::Used, index);
        self.push_last(Id::Used, index);
    }

    /// Takes a free block, which is in use from now on.
    fn take_free(&mut self, state: State) -> Option<u32> {
        let index = self.list(Id::Free).first?;
        self.unlink(Id::Free, index);
        self.set(index, state);
        self.free_blocks -= 1;
        self.push_last(Id::Used, index);
        self.push_last(Id::Taken, index);
        self.enter(index);
        Some(index)
    }

    /// Adds a block to those for random choice.
    fn enter(&mut self, index: u32) {
        let place = self.place(index);
        let Chance { untried, used, .. } = self.chance;
        self.swap(place, used);
        self.swap(used, untried);
        self.chance.used += 1;
        self.chance.untried += 1;
    }

    /// Removes a block from those for random choice.
    fn leave(&mut self, index: u32) {
        let mut place = self.place(index);
        if place < self.chance.untried {
            self.chance.untried -= 1;
            self.swap(place, self.chance.untried);
            place = self.chance.untried;
        }
        self.chance.used -= 1;
        self.swap(place, self.chance.used);
    }

    /// Returns the slot for random choice that holds a block.
    fn place(&self, index: u32) -> u32 {
        let block = self.blocks.get(index as usize);
        block.map_or(index, |block| block.place)
    }

    /// Returns the block in a slot for random choice.
    fn held(&self, place: u32) -> Option<u32> {
        Some(self.blocks.get(place as usize)?.holds)
    }

    fn put(&mut self, place: u32, index: u32) {
        if let Some(block) = self.blocks.get_mut(place as usize) {
            block.holds = index;
        }
        if let Some(block) = self.blocks.get_mut(index as usize) {
            block.place = place;
        }
    }

    fn swap(&mut self, one: u32, other: u32) {
        if let (Some(first), Some(second)) = (self.held(one), self.held(other)) {
            self.put(one, second);
            self.put(other, first);
        }
    }

    fn list(&mut self, id: Id) -> &mut List {
        match id {
            Id::Free => &mut self.free,
            Id::Partial => &mut self.partial,
            Id::Used => &mut self.used,
            Id::Taken => &mut self.taken,
        }
    }

    fn push_first(&mut self, id: Id, index: u32) {
        let old = self.list(id).first.replace(index);
        self.set_link(id, index, None, old);
        match old {
            Some(old) => self.update_link(id, old, |link| link.prev = Some(index)),
            None => self.list(id).last = Some(index),
        }
    }

    fn push_last(&mut self, id: Id, index: u32) {
        let old = self.list(id).last.replace(index);
        self.set_link(id, index, old, None);
        match old {
            Some(old) => self.update_link(id, old, |link| link.next = Some(index)),
            None => self.list(id).first = Some(index),
        }
    }

    fn unlink(&mut self, id: Id, index: u32) {
        let Some(block) = self.blocks.get_mut(index as usize) else {
            return;
        };
        let Link { prev, next } = core::mem::take(block.link(id));
        match prev {
            Some(prev) => self.update_link(id, prev, |link| link.next = next),
            None => self.list(id).first = next,
        }
        match next {
            Some(next) => self.update_link(id, next, |link| link.prev = prev),
            None => self.list(id).last = prev,
        }
    }

    fn set_link(&mut self, id: Id, index: u32, prev: Option<u32>, next: Option<u32>) {
        self.update_link(id, index, |link| *link = Link { prev, next });
    }

    fn update_link(&mut self, id: Id, index: u32, change: impl FnOnce(&mut Link)) {
        if let Some(block) = self.blocks.get_mut(index as usize) {
            change(block.link(id));
        }
    }
}

/// Returns the block of a page, and the page's index in it.
fn locate(page: usize) -> Result<(u32, usize), NotInUse> {
    let index = u32::try_from(page / BLOCK_PAGES).map_err(|_| NotInUse)?;
    Ok((index, page % BLOCK_PAGES))
}
