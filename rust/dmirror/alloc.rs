// SPDX-License-Identifier: GPL-2.0

//! The allocator of a device's pages: pure logic, no kernel calls.
//!
//! The device is a row of blocks. A block is free, or whole (one folio covers it), or in small
//! pages, some of which are free. The small pages of a block are one free block again when all of
//! them are free. Blocks in use are on a list from the least to the most recently used one, so
//! that eviction can begin with the block that was left alone for longest.
//!
//! Every operation takes a bounded number of steps, so that it can run under a spinlock. The
//! caller supplies the array of blocks and the lock.

use core::ops::{DerefMut, Range};

/// Pages in a block.
pub(crate) const BLOCK_PAGES: usize = 1 << BLOCK_ORDER;

/// Order of a folio that covers a whole block.
pub(crate) const BLOCK_ORDER: u32 = 9;

const BITS: usize = u64::BITS as usize;
const WORDS: usize = BLOCK_PAGES / BITS;

/// The state of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Whole,
    /// Bit set: the page is in use. Never without a bit set.
    Small([u64; WORDS]),
}

/// Neighbours in a list, `None` at its ends and outside of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Link {
    prev: Option<u32>,
    next: Option<u32>,
}

/// A list of blocks, threaded through one of the links that each block has.
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
    /// Blocks in small pages that have free ones.
    Partial,
    /// Blocks in use, the least recently used one first.
    Used,
}

/// A block of pages, as the allocator sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    state: State,
    room: Link,
    used: Link,
}

impl Block {
    /// A free block.
    pub(crate) const fn new() -> Self {
        Self {
            state: State::Free,
            room: Link {
                prev: None,
                next: None,
            },
            used: Link {
                prev: None,
                next: None,
            },
        }
    }

    fn link(&mut self, id: Id) -> &mut Link {
        match id {
            // A block is never on both of these.
            Id::Free | Id::Partial => &mut self.room,
            Id::Used => &mut self.used,
        }
    }
}

/// What a caller did that cannot be: pages given back that were not in use, or out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotInUse;

/// The allocator over an array of blocks.
#[derive(Debug)]
pub(crate) struct Allocator<B> {
    blocks: B,
    free: List,
    partial: List,
    used: List,
    free_pages: usize,
    free_blocks: usize,
}

impl<B: DerefMut<Target = [Block]>> Allocator<B> {
    /// An allocator for the blocks of the array, all of them free. At most `u32::MAX` are used.
    pub(crate) fn new(blocks: B) -> Self {
        let mut this = Self {
            blocks,
            free: List::default(),
            partial: List::default(),
            used: List::default(),
            free_pages: 0,
            free_blocks: 0,
        };
        let count = u32::try_from(this.blocks.len()).unwrap_or(u32::MAX);
        for index in 0..count {
            this.set(index, State::Free);
            this.push_last(Id::Free, index);
        }
        this.free_pages = count as usize * BLOCK_PAGES;
        this.free_blocks = count as usize;
        this
    }

    /// The number of pages that are not in use.
    pub(crate) fn free_pages(&self) -> usize {
        self.free_pages
    }

    /// The number of blocks that are free as a whole.
    pub(crate) fn free_blocks(&self) -> usize {
        self.free_blocks
    }

    /// Takes pages that follow one another, at least one and at most `most`: from a block that is
    /// in small pages already, if there is one with room.
    pub(crate) fn alloc_pages(&mut self, most: usize) -> Option<Range<usize>> {
        if most == 0 {
            return None;
        }
        let index = match self.partial.first {
            Some(index) => index,
            None => {
                let index = self.take_free()?;
                self.set(index, State::Small([0; WORDS]));
                self.push_last(Id::Partial, index);
                self.push_last(Id::Used, index);
                index
            }
        };
        let bits = self.small(index)?;
        let is_free = |page: &usize| bits[page / BITS] & (1 << (page % BITS)) == 0;
        let word = bits.iter().position(|&word| word != u64::MAX)?;
        let first = word * BITS + bits[word].trailing_ones() as usize;
        let last = BLOCK_PAGES.min(first.saturating_add(most));
        let end = (first..last).take_while(is_free).count() + first;
        for page in first..end {
            bits[page / BITS] |= 1 << (page % BITS);
        }
        if *bits == [u64::MAX; WORDS] {
            self.unlink(Id::Partial, index);
        }
        self.free_pages -= end - first;
        self.touch_block(index);
        let base = index as usize * BLOCK_PAGES;
        Some(base + first..base + end)
    }

    /// Takes a whole block; returns its first page.
    pub(crate) fn alloc_block(&mut self) -> Option<usize> {
        let index = self.take_free()?;
        self.set(index, State::Whole);
        self.push_last(Id::Used, index);
        self.free_pages -= BLOCK_PAGES;
        Some(index as usize * BLOCK_PAGES)
    }

    /// Gives back the `1 << order` pages from `page` on: a whole block, or some small pages of one.
    pub(crate) fn free(&mut self, page: usize, order: u32) -> Result<(), NotInUse> {
        let (index, first) = locate(page)?;
        let count = 1_usize.checked_shl(order).ok_or(NotInUse)?;
        match &mut self.blocks.get_mut(index as usize).ok_or(NotInUse)?.state {
            State::Whole if count == BLOCK_PAGES && first == 0 => {}
            State::Small(bits) if first + count <= BLOCK_PAGES => {
                let is_used = |page: usize| bits[page / BITS] & (1 << (page % BITS)) != 0;
                if !(first..first + count).all(is_used) {
                    return Err(NotInUse);
                }
                let was_full = *bits == [u64::MAX; WORDS];
                for page in first..first + count {
                    bits[page / BITS] &= !(1 << (page % BITS));
                }
                if *bits != [0; WORDS] {
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
        // First, so that a block that has memory behind it is used again before one that never
        // was.
        self.push_first(Id::Free, index);
        self.free_blocks += 1;
        self.free_pages += count;
        Ok(())
    }

    /// Notes that the folio that covered the whole block of `page` was split. From now on its
    /// pages come back one by one, or in what pieces there are.
    pub(crate) fn split(&mut self, page: usize) {
        let Ok((index, _)) = locate(page) else {
            return;
        };
        if self.state(index) == Some(State::Whole) {
            self.set(index, State::Small([u64::MAX; WORDS]));
        }
    }

    /// Notes that the block of `page` was used just now.
    pub(crate) fn touch(&mut self, page: usize) {
        let Ok((index, _)) = locate(page) else {
            return;
        };
        if !matches!(self.state(index), None | Some(State::Free)) {
            self.touch_block(index);
        }
    }

    /// Whether a block is free; one that does not exist is.
    pub(crate) fn is_block_free(&self, block: usize) -> bool {
        self.blocks
            .get(block)
            .is_none_or(|block| block.state == State::Free)
    }

    /// The first page of the least recently used block.
    pub(crate) fn oldest(&self) -> Option<usize> {
        Some(self.used.first? as usize * BLOCK_PAGES)
    }

    fn state(&self, index: u32) -> Option<State> {
        Some(self.blocks.get(index as usize)?.state)
    }

    /// The pages of a block in small pages that are in use.
    fn small(&mut self, index: u32) -> Option<&mut [u64; WORDS]> {
        match &mut self.blocks.get_mut(index as usize)?.state {
            State::Small(bits) => Some(bits),
            State::Free | State::Whole => None,
        }
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

    fn take_free(&mut self) -> Option<u32> {
        let index = self.list(Id::Free).first?;
        self.unlink(Id::Free, index);
        self.free_blocks -= 1;
        Some(index)
    }

    fn list(&mut self, id: Id) -> &mut List {
        match id {
            Id::Free => &mut self.free,
            Id::Partial => &mut self.partial,
            Id::Used => &mut self.used,
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

/// The block of a page, and where in the block it is.
fn locate(page: usize) -> Result<(u32, usize), NotInUse> {
    let index = u32::try_from(page / BLOCK_PAGES).map_err(|_| NotInUse)?;
    Ok((index, page % BLOCK_PAGES))
}
