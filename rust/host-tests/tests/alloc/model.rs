// SPDX-License-Identifier: GPL-2.0

//! A model of the allocator, made of sets, and an allocator that is compared with it at each step.

use std::collections::BTreeSet;

use crate::alloc::Allocator;
use crate::alloc::Block;
use crate::alloc::Eviction;
use crate::alloc::NotInUse;
use crate::pages::BLOCK_ORDER;
use crate::pages::BLOCK_PAGES;

/// The use of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Free,
    Whole,
    /// The pages in use, counted from the start of the device; never none.
    Small(BTreeSet<usize>),
}

/// The expected state of the allocator. Blocks are named by their index.
#[derive(Debug)]
pub(crate) struct Model {
    blocks: Vec<Use>,
    /// Blocks in use, the least recently used one first.
    order: Vec<usize>,
    /// Blocks in use, in the order of allocation, except that each victim that was not evicted has
    /// moved to the end.
    taken: Vec<usize>,
    /// Blocks in use that random choice has not picked.
    untried: BTreeSet<usize>,
    /// Blocks that were in use at some time.
    known: BTreeSet<usize>,
}

impl Model {
    fn new(blocks: usize) -> Self {
        Self {
            blocks: vec![Use::Free; blocks],
            order: Vec::new(),
            taken: Vec::new(),
            untried: BTreeSet::new(),
            known: BTreeSet::new(),
        }
    }

    fn free_pages(&self) -> usize {
        let free = |block: &Use| match block {
            Use::Free => BLOCK_PAGES,
            Use::Whole => 0,
            Use::Small(used) => BLOCK_PAGES - used.len(),
        };
        self.blocks.iter().map(free).sum()
    }

    fn free_blocks(&self) -> Vec<usize> {
        let free = |&block: &usize| self.blocks[block] == Use::Free;
        (0..self.blocks.len()).filter(free).collect()
    }

    /// Returns the blocks in small pages of which some are free.
    fn partial_blocks(&self) -> Vec<usize> {
        let partial = |&block: &usize| match &self.blocks[block] {
            Use::Small(used) => used.len() < BLOCK_PAGES,
            _ => false,
        };
        (0..self.blocks.len()).filter(partial).collect()
    }

    fn touch(&mut self, block: usize) {
        if self.order.contains(&block) {
            self.order.retain(|&other| other != block);
            self.order.push(block);
        }
    }

    /// Puts a free block in use.
    fn take(&mut self, block: usize, how: Use) {
        assert_eq!(self.blocks[block], Use::Free, "block {block} is not free");
        let known = |block: &usize| self.known.contains(block);
        assert!(
            known(&block) || !self.free_blocks().iter().any(known),
            "block {block}, never used before, is taken though a used one is free"
        );
        self.blocks[block] = how;
        self.order.push(block);
        self.taken.push(block);
        self.untried.insert(block);
        self.known.insert(block);
    }

    fn take_page(&mut self, page: usize) {
        let block = page / BLOCK_PAGES;
        let partial = self.partial_blocks();
        if partial.is_empty() {
            self.take(block, Use::Small(BTreeSet::from([page])));
        } else {
            assert!(
                partial.contains(&block),
                "page {page} taken though the blocks {partial:?} have room"
            );
            let Use::Small(used) = &mut self.blocks[block] else {
                unreachable!("a partial block is in small pages")
            };
            assert!(used.insert(page), "page {page} handed out twice");
        }
        self.touch(block);
    }

    /// Returns whether these pages are a whole block, or small pages of one that are all in use.
    fn may_free(&self, page: usize, order: u32) -> bool {
        let (block, first) = (page / BLOCK_PAGES, page % BLOCK_PAGES);
        if order > BLOCK_ORDER || block >= self.blocks.len() {
            return false;
        }
        let count = 1 << order;
        match &self.blocks[block] {
            Use::Free => false,
            Use::Whole => first == 0 && count == BLOCK_PAGES,
            Use::Small(used) => {
                first + count <= BLOCK_PAGES
                    && (page..page + count).all(|page| used.contains(&page))
            }
        }
    }

    fn free(&mut self, page: usize, order: u32) {
        let block = page / BLOCK_PAGES;
        if let Use::Small(used) = &mut self.blocks[block] {
            used.retain(|used| !(page..page + (1 << order)).contains(used));
            if !used.is_empty() {
                return;
            }
        }
        self.blocks[block] = Use::Free;
        self.order.retain(|&other| other != block);
        self.taken.retain(|&other| other != block);
        self.untried.remove(&block);
    }

    /// Returns the blocks of which one must be evicted next.
    fn victims(&self, eviction: Eviction) -> Vec<usize> {
        match eviction {
            Eviction::Lru => self.order.iter().take(1).copied().collect(),
            Eviction::Fifo => self.taken.iter().take(1).copied().collect(),
            Eviction::Random if self.untried.is_empty() => self.order.clone(),
            Eviction::Random => self.untried.iter().copied().collect(),
        }
    }

    /// Records that a block was the victim, but was not evicted.
    fn tried(&mut self, eviction: Eviction, block: usize) {
        match eviction {
            Eviction::Lru => self.touch(block),
            Eviction::Fifo => {
                self.taken.retain(|&other| other != block);
                self.taken.push(block);
            }
            Eviction::Random => {
                if self.untried.is_empty() {
                    self.untried.extend(&self.order);
                }
                self.untried.remove(&block);
            }
        }
    }

    fn split(&mut self, block: usize) {
        let pages = block * BLOCK_PAGES..(block + 1) * BLOCK_PAGES;
        self.blocks[block] = Use::Small(pages.collect());
    }
}

/// An allocator and its model, which are compared after each operation.
#[derive(Debug)]
pub(crate) struct Checked {
    real: Allocator<Vec<Block>>,
    model: Model,
}

impl Checked {
    pub(crate) fn new(blocks: usize) -> Self {
        let this = Self {
            real: Allocator::new(vec![Block::default(); blocks]),
            model: Model::new(blocks),
        };
        this.check();
        this
    }

    fn check(&self) {
        assert_eq!(self.real.free_pages(), self.model.free_pages());
        assert_eq!(self.real.free_blocks(), self.model.free_blocks().len());
        for eviction in [Eviction::Lru, Eviction::Fifo, Eviction::Random] {
            let victims = self.model.victims(eviction);
            match self.real.victim(eviction) {
                Some(page) => {
                    assert_eq!(page % BLOCK_PAGES, 0, "not the first page of a block");
                    let block = page / BLOCK_PAGES;
                    assert!(victims.contains(&block), "{eviction:?}: {block}");
                }
                None => assert_eq!(victims, [0; 0], "{eviction:?}: nobody has to go"),
            }
        }
    }

    /// Picks the next victim, which is not evicted.
    pub(crate) fn next_victim(&mut self, eviction: Eviction) {
        let announced = self.real.victim(eviction);
        let victim = self.real.next_victim(eviction);
        assert_eq!(victim, announced);
        if let Some(page) = victim {
            self.model.tried(eviction, page / BLOCK_PAGES);
        }
        self.check();
    }

    /// Returns the pages in use: small ones, and the first ones of whole blocks.
    pub(crate) fn in_use(&self) -> Vec<usize> {
        let blocks = self.model.blocks.iter().enumerate();
        let pages = blocks.flat_map(|(block, how)| match how {
            Use::Free => Vec::new(),
            Use::Whole => vec![block * BLOCK_PAGES],
            Use::Small(used) => used.iter().copied().collect(),
        });
        pages.collect()
    }

    /// Returns the use of the block of this page.
    pub(crate) fn block_of(&self, page: usize) -> &Use {
        &self.model.blocks[page / BLOCK_PAGES]
    }

    pub(crate) fn alloc_page(&mut self) -> Option<usize> {
        let page = self.real.alloc_pages(1).map(|pages| pages.start);
        match page {
            Some(page) => self.model.take_page(page),
            None => assert_eq!(self.model.free_pages(), 0, "a page is free, none is given"),
        }
        self.check();
        page
    }

    pub(crate) fn alloc_block(&mut self) -> Option<usize> {
        let page = self.real.alloc_block();
        match page {
            Some(page) => {
                assert_eq!(page % BLOCK_PAGES, 0, "not the first page of a block");
                self.model.take(page / BLOCK_PAGES, Use::Whole);
            }
            None => assert_eq!(self.model.free_blocks(), [0; 0], "none of these is given"),
        }
        self.check();
        page
    }

    /// Frees pages, rightly or wrongly: a wrong request must be refused, and must change nothing.
    pub(crate) fn free(&mut self, page: usize, order: u32) {
        if self.model.may_free(page, order) {
            assert_eq!(self.real.free(page, order), Ok(()));
            self.model.free(page, order);
        } else {
            let refuse =
                |real: &mut Allocator<_>| assert_eq!(real.free(page, order), Err(NotInUse));
            self.without_effect(refuse);
        }
        self.check();
    }

    pub(crate) fn split(&mut self, page: usize) {
        let block = page / BLOCK_PAGES;
        if self.model.blocks.get(block) == Some(&Use::Whole) {
            self.real.split(page);
            self.model.split(block);
        } else {
            self.without_effect(|real| real.split(page));
        }
        self.check();
    }

    pub(crate) fn touch(&mut self, page: usize) {
        let block = page / BLOCK_PAGES;
        if self.model.order.contains(&block) {
            self.real.touch(page);
            self.model.touch(block);
        } else {
            self.without_effect(|real| real.touch(page));
        }
        self.check();
    }

    /// Goes through the whole order of use, which is the same afterwards.
    pub(crate) fn check_order(&mut self) {
        for block in self.model.order.clone() {
            self.touch(block * BLOCK_PAGES);
        }
        for _ in 0..self.model.taken.len() {
            self.next_victim(Eviction::Fifo);
            self.next_victim(Eviction::Random);
        }
    }

    /// Allocates each page that is left, frees everything, and allocates all of it as blocks: this
    /// shows whether the allocator is still consistent.
    pub(crate) fn finish(mut self) {
        self.check_order();
        while self.alloc_page().is_some() {}
        self.check_order();
        for page in self.in_use() {
            match self.block_of(page) {
                Use::Whole => self.free(page, BLOCK_ORDER),
                _ => self.free(page, 0),
            }
        }
        while self.alloc_block().is_some() {}
        self.check_order();
    }

    /// Runs an operation that must not change a single bit of the allocator.
    fn without_effect(&mut self, run: impl FnOnce(&mut Allocator<Vec<Block>>)) {
        let before = format!("{:?}", self.real);
        run(&mut self.real);
        assert_eq!(format!("{:?}", self.real), before);
    }
}
