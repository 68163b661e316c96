// SPDX-License-Identifier: GPL-2.0

//! The number of times that an operation of the allocator looks into its array. All operations run
//! under a spinlock with interrupts off, so this must not grow with the device.

use std::cell::Cell;
use std::ops::Deref;
use std::ops::DerefMut;

use crate::alloc::Allocator;
use crate::alloc::Block;
use crate::alloc::Eviction;
use crate::pages::BLOCK_ORDER;
use crate::pages::BLOCK_PAGES;

/// Maximum number of looks per operation.
const MOST: usize = 64;

/// An array of blocks that counts the looks into it.
struct Counted<'c> {
    blocks: Vec<Block>,
    looks: &'c Cell<usize>,
}

impl Deref for Counted<'_> {
    type Target = [Block];

    fn deref(&self) -> &[Block] {
        self.looks.set(self.looks.get() + 1);
        &self.blocks
    }
}

impl DerefMut for Counted<'_> {
    fn deref_mut(&mut self) -> &mut [Block] {
        self.looks.set(self.looks.get() + 1);
        &mut self.blocks
    }
}

#[test]
fn each_operation_takes_a_bounded_number_of_steps_however_large_the_device() {
    const BLOCKS: usize = 4096;
    let looks = Cell::new(0);
    let blocks = (0..BLOCKS).map(|_| Block::default()).collect();
    let mut allocator = Allocator::new(Counted {
        blocks,
        looks: &looks,
    });
    let bounded = |what: &str| {
        let steps = looks.replace(0);
        assert!(steps <= MOST, "{what} took {steps} steps");
    };
    looks.set(0);
    // Allocate small pages and blocks by turns, until the device is full.
    let (mut pages, mut whole) = (Vec::new(), Vec::new());
    for nth in 0..BLOCKS {
        if nth % 4 == 0 {
            for _ in 0..BLOCK_PAGES {
                pages.extend(allocator.alloc_pages(1).map(|pages| pages.start));
                bounded("alloc_pages");
            }
        } else {
            whole.extend(allocator.alloc_block());
            bounded("alloc_block");
        }
    }
    assert_eq!(allocator.free_pages(), 0);
    assert_eq!(allocator.alloc_pages(1), None);
    bounded("alloc_pages of a full device");
    for (nth, &page) in whole.iter().enumerate() {
        allocator.touch(page);
        bounded("touch");
        for eviction in [Eviction::Lru, Eviction::Fifo, Eviction::Random] {
            assert!(allocator.victim(eviction).is_some());
            bounded("victim");
            assert!(allocator.next_victim(eviction).is_some());
            bounded("next_victim");
        }
        if nth % 2 == 0 {
            allocator.split(page);
            bounded("split");
            for page in page..page + BLOCK_PAGES {
                assert!(allocator.free(page, 0).is_ok());
                bounded("free of a page");
            }
        } else {
            assert!(allocator.free(page, BLOCK_ORDER).is_ok());
            bounded("free of a block");
        }
    }
    for page in pages {
        assert!(allocator.free(page, 0).is_ok());
        bounded("free of a page");
    }
    assert_eq!(allocator.free_blocks(), BLOCKS);
}
