// SPDX-License-Identifier: GPL-2.0

//! Tests of one behaviour each, which the name of the test states.

use std::collections::BTreeSet;

use crate::alloc::Allocator;
use crate::alloc::Block;
use crate::alloc::Eviction;
use crate::alloc::NotInUse;
use crate::pages::BLOCK_ORDER;
use crate::pages::BLOCK_PAGES;

type Device = Allocator<Vec<Block>>;

fn device(blocks: usize) -> Device {
    Allocator::new(vec![Block::default(); blocks])
}

fn alloc_page(device: &mut Device) -> Option<usize> {
    let pages = device.alloc_pages(1)?;
    assert_eq!(pages.len(), 1);
    Some(pages.start)
}

fn alloc_pages(device: &mut Device, count: usize) -> Vec<usize> {
    (0..count).map(|_| alloc_page(device).unwrap()).collect()
}

/// Checks that the allocator refuses to free the page, and does not change.
#[track_caller]
fn refused(device: &mut Device, page: usize, order: u32) {
    let before = format!("{device:?}");
    assert_eq!(device.free(page, order), Err(NotInUse));
    assert_eq!(format!("{device:?}"), before);
}

fn block(page: usize) -> usize {
    page / BLOCK_PAGES
}

/// Returns the blocks in use, from the least to the most recently used one. Touches all of them in
/// turn, so that the order is the same afterwards.
fn order_of_use(device: &mut Device, len: usize) -> Vec<usize> {
    let mut turn = || {
        let oldest = device.victim(Eviction::Lru).unwrap();
        device.touch(oldest);
        oldest
    };
    (0..len).map(|_| turn()).collect()
}

// Taking.

#[test]
fn a_new_allocator_has_everything_free() {
    let device = device(3);
    assert_eq!(device.free_pages(), 3 * BLOCK_PAGES);
    assert_eq!(device.free_blocks(), 3);
    assert_eq!(device.victim(Eviction::Lru), None);
}

#[test]
fn a_new_allocator_forgets_what_its_array_held_before() {
    let mut blocks = [Block::default(); 3];
    let mut before = Allocator::new(&mut blocks[..]);
    before.alloc_block().unwrap();
    before.alloc_pages(1).unwrap();
    before.alloc_block().unwrap();
    let mut device = Allocator::new(&mut blocks[..]);
    assert_eq!(device.free_blocks(), 3);
    assert_eq!(device.victim(Eviction::Lru), None);
    let taken: BTreeSet<_> = (0..3).map(|_| device.alloc_block().unwrap()).collect();
    assert_eq!(taken.len(), 3);
    assert_eq!(device.alloc_block(), None);
}

#[test]
fn a_device_of_no_blocks_has_nothing_to_give() {
    let mut device = device(0);
    assert_eq!((device.free_pages(), device.free_blocks()), (0, 0));
    assert_eq!(alloc_page(&mut device), None);
    assert_eq!(device.alloc_block(), None);
    refused(&mut device, 0, 0);
}

#[test]
fn each_page_is_handed_out_once_and_then_none() {
    let mut device = device(3);
    let pages: BTreeSet<_> = alloc_pages(&mut device, 3 * BLOCK_PAGES)
        .into_iter()
        .collect();
    assert!(pages.into_iter().eq(0..3 * BLOCK_PAGES));
    assert_eq!(alloc_page(&mut device), None);
    assert_eq!(device.free_pages(), 0);
}

#[test]
fn each_block_is_handed_out_once_and_then_none() {
    let mut device = device(3);
    let blocks: BTreeSet<_> = (0..3).map(|_| device.alloc_block().unwrap()).collect();
    assert!(blocks.into_iter().eq([0, BLOCK_PAGES, 2 * BLOCK_PAGES]));
    assert_eq!(device.alloc_block(), None);
    assert_eq!(alloc_page(&mut device), None);
    assert_eq!(device.free_pages(), 0);
}

#[test]
fn no_block_is_taken_out_of_small_pages() {
    let mut device = device(1);
    alloc_page(&mut device).unwrap();
    assert_eq!(device.free_pages(), BLOCK_PAGES - 1);
    assert_eq!(device.alloc_block(), None);
    assert_eq!(device.free_pages(), BLOCK_PAGES - 1);
}

#[test]
fn small_pages_fill_a_block_before_the_next_one_is_broken() {
    let mut device = device(2);
    let pages = alloc_pages(&mut device, BLOCK_PAGES);
    assert!(pages.iter().all(|&page| block(page) == block(pages[0])));
    assert_eq!(device.free_blocks(), 1);
    assert_ne!(block(alloc_page(&mut device).unwrap()), block(pages[0]));
    assert_eq!(device.free_blocks(), 0);
}

#[test]
fn the_one_free_page_of_a_full_block_is_taken_before_a_free_block_is_broken() {
    for hole in [0, 1, 63, 64, BLOCK_PAGES / 2, BLOCK_PAGES - 1] {
        let mut device = device(2);
        let first = block(alloc_pages(&mut device, BLOCK_PAGES)[0]) * BLOCK_PAGES;
        device.free(first + hole, 0).unwrap();
        assert_eq!(alloc_page(&mut device), Some(first + hole));
        assert_eq!(device.free_blocks(), 1);
    }
}

#[test]
fn a_page_of_a_split_block_is_taken_before_a_free_block_is_broken() {
    let mut device = device(2);
    let first = device.alloc_block().unwrap();
    device.split(first);
    device.free(first + 8, 3).unwrap();
    let pages: BTreeSet<_> = alloc_pages(&mut device, 8).into_iter().collect();
    assert!(pages.into_iter().eq(first + 8..first + 16));
    assert_eq!(device.free_blocks(), 1);
}

#[test]
fn a_split_block_that_is_full_does_not_stand_in_the_way_of_a_free_one() {
    let mut device = device(2);
    let first = device.alloc_block().unwrap();
    device.split(first);
    assert_eq!(alloc_page(&mut device).map(block), Some(1 - block(first)));
}

#[test]
fn a_block_that_was_in_use_is_taken_before_one_that_never_was() {
    let mut device = device(3);
    let first = device.alloc_block().unwrap();
    device.free(first, BLOCK_ORDER).unwrap();
    assert_eq!(device.alloc_block(), Some(first));
    device.free(first, BLOCK_ORDER).unwrap();
    assert_eq!(alloc_page(&mut device).map(block), Some(block(first)));
}

// Giving back.

#[test]
fn a_block_given_back_is_free_again() {
    let mut device = device(1);
    let first = device.alloc_block().unwrap();
    assert_eq!(device.free(first, BLOCK_ORDER), Ok(()));
    assert_eq!(
        (device.free_pages(), device.free_blocks()),
        (BLOCK_PAGES, 1)
    );
    assert_eq!(device.alloc_block(), Some(first));
}

#[test]
fn a_block_is_free_again_only_with_the_last_of_its_small_pages() {
    for last in [0, 63, 64, BLOCK_PAGES - 1] {
        let mut device = device(1);
        for page in alloc_pages(&mut device, BLOCK_PAGES) {
            if page != last {
                device.free(page, 0).unwrap();
                assert_eq!((device.free_blocks(), device.alloc_block()), (0, None));
            }
        }
        assert_eq!(device.free_pages(), BLOCK_PAGES - 1);
        device.free(last, 0).unwrap();
        assert_eq!(
            (device.free_pages(), device.free_blocks()),
            (BLOCK_PAGES, 1)
        );
        assert_eq!(device.alloc_block(), Some(0));
    }
}

#[test]
fn a_block_says_how_much_of_it_is_in_use() {
    let mut device = device(3);
    let used = |device: &Device| [0, 1, 2, 3].map(|block| device.used_in(block));
    assert_eq!(used(&device), [0, 0, 0, 0], "the last one does not exist");
    let pages = device.alloc_pages(70).unwrap();
    let whole = device.alloc_block().unwrap();
    let mut expected = [0; 4];
    expected[block(pages.start)] = pages.len();
    expected[block(whole)] = BLOCK_PAGES;
    assert_eq!(used(&device), expected);
    device.free(pages.start + 64, 0).unwrap();
    expected[block(pages.start)] -= 1;
    assert_eq!(used(&device), expected);
}

#[test]
fn a_page_taken_and_given_back_leaves_its_block_free() {
    let mut device = device(1);
    for _ in 0..3 {
        let page = alloc_page(&mut device).unwrap();
        device.free(page, 0).unwrap();
        assert_eq!(
            (device.free_pages(), device.free_blocks()),
            (BLOCK_PAGES, 1)
        );
    }
    assert_eq!(device.alloc_block(), Some(0));
    assert_eq!(alloc_page(&mut device), None);
}

#[test]
fn small_pages_may_come_back_in_pieces_of_any_order() {
    for order in 0..=BLOCK_ORDER {
        let mut device = device(1);
        alloc_pages(&mut device, BLOCK_PAGES);
        for page in (0..BLOCK_PAGES).step_by(1 << order) {
            assert_eq!(
                device.free(page, order),
                Ok(()),
                "order {order}, page {page}"
            );
            assert_eq!(device.free_pages(), page + (1 << order));
        }
        assert_eq!(device.alloc_block(), Some(0), "order {order}");
    }
}

#[test]
fn a_page_given_back_twice_is_refused() {
    let mut device = device(2);
    let pages = alloc_pages(&mut device, 2);
    device.free(pages[0], 0).unwrap();
    refused(&mut device, pages[0], 0);
    device.free(pages[1], 0).unwrap();
    refused(&mut device, pages[1], 0);
}

#[test]
fn a_block_given_back_twice_is_refused() {
    let mut device = device(2);
    let first = device.alloc_block().unwrap();
    device.free(first, BLOCK_ORDER).unwrap();
    refused(&mut device, first, BLOCK_ORDER);
    refused(&mut device, first, 0);
}

#[test]
fn a_piece_with_one_free_page_in_it_is_refused_as_a_whole() {
    for hole in [64, 70, 127] {
        let mut device = device(1);
        alloc_pages(&mut device, BLOCK_PAGES);
        device.free(hole, 0).unwrap();
        refused(&mut device, 64, 6);
        refused(&mut device, 0, BLOCK_ORDER);
    }
}

#[test]
fn a_piece_that_reaches_into_the_next_block_is_refused() {
    let mut device = device(2);
    alloc_pages(&mut device, 2 * BLOCK_PAGES);
    refused(&mut device, BLOCK_PAGES - 1, 1);
    refused(&mut device, 1, BLOCK_ORDER);
    refused(&mut device, 0, BLOCK_ORDER + 1);
}

#[test]
fn a_whole_block_is_refused_in_pieces() {
    let mut device = device(2);
    let first = device.alloc_block().unwrap();
    for order in 0..BLOCK_ORDER {
        refused(&mut device, first, order);
    }
    refused(&mut device, first + 1, 0);
    refused(&mut device, first + 1, BLOCK_ORDER);
    refused(&mut device, first + BLOCK_PAGES - 1, 0);
    refused(&mut device, first, BLOCK_ORDER + 1);
}

#[test]
fn an_order_too_large_for_any_device_is_refused() {
    let mut device = device(1);
    alloc_page(&mut device).unwrap();
    for order in [31, 32, 63, 64, 64 + BLOCK_ORDER, u32::MAX] {
        refused(&mut device, 0, order);
        refused(&mut device, BLOCK_PAGES - 1, order);
    }
}

#[test]
fn a_page_past_the_end_of_the_device_is_refused() {
    let mut device = device(1);
    alloc_pages(&mut device, BLOCK_PAGES);
    // The third one is in block 2^32, whose number would be 0 if truncated.
    for page in [
        BLOCK_PAGES,
        2 * BLOCK_PAGES - 1,
        BLOCK_PAGES << 32,
        usize::MAX,
    ] {
        refused(&mut device, page, 0);
        refused(&mut device, page, BLOCK_ORDER);
    }
}

// Splitting.

#[test]
fn the_pages_of_a_split_block_are_in_use_until_they_come_back() {
    let mut device = device(1);
    let first = device.alloc_block().unwrap();
    device.split(first);
    assert_eq!((device.free_pages(), device.free_blocks()), (0, 0));
    assert_eq!(alloc_page(&mut device), None);
    for page in (first..first + BLOCK_PAGES).rev() {
        assert_eq!(device.free_blocks(), 0);
        assert_eq!(device.free(page, 0), Ok(()));
    }
    assert_eq!(
        (device.free_pages(), device.free_blocks()),
        (BLOCK_PAGES, 1)
    );
    assert_eq!(device.alloc_block(), Some(first));
}

#[test]
fn a_split_block_may_come_back_in_unequal_pieces() {
    let mut device = device(1);
    let first = device.alloc_block().unwrap();
    device.split(first);
    device.free(first, 0).unwrap();
    for order in 0..BLOCK_ORDER {
        assert_eq!(device.free_blocks(), 0);
        assert_eq!(device.free(first + (1 << order), order), Ok(()));
    }
    assert_eq!(
        (device.free_pages(), device.free_blocks()),
        (BLOCK_PAGES, 1)
    );
}

#[test]
fn any_page_of_a_block_names_it_in_a_split() {
    let mut device = device(2);
    device.alloc_block().unwrap();
    let first = device.alloc_block().unwrap();
    device.split(first + BLOCK_PAGES - 1);
    assert_eq!(device.free(first + 5, 0), Ok(()));
}

#[test]
fn only_whole_blocks_are_split() {
    let mut device = device(3);
    let small = alloc_page(&mut device).unwrap();
    let first = device.alloc_block().unwrap();
    let before = format!("{device:?}");
    let free = (0..3).find(|&other| other != block(small) && other != block(first));
    device.split(small);
    device.split(free.unwrap() * BLOCK_PAGES);
    device.split(3 * BLOCK_PAGES);
    device.split((BLOCK_PAGES << 32) + first);
    device.split(usize::MAX);
    assert_eq!(format!("{device:?}"), before);
}

// The order of use.

#[test]
fn blocks_are_in_the_order_in_which_they_were_taken() {
    let mut device = device(3);
    let first = device.alloc_block().unwrap();
    let second = block(alloc_page(&mut device).unwrap()) * BLOCK_PAGES;
    let third = device.alloc_block().unwrap();
    assert_eq!(order_of_use(&mut device, 3), [first, second, third]);
}

#[test]
fn a_touch_makes_a_block_the_newest() {
    let mut device = device(3);
    let [first, second, third] = [(); 3].map(|()| device.alloc_block().unwrap());
    device.touch(first);
    assert_eq!(order_of_use(&mut device, 3), [second, third, first]);
    device.touch(third + BLOCK_PAGES - 1);
    assert_eq!(order_of_use(&mut device, 3), [second, first, third]);
    device.touch(third);
    assert_eq!(order_of_use(&mut device, 3), [second, first, third]);
}

#[test]
fn only_blocks_in_use_are_touched() {
    let mut device = device(2);
    let first = device.alloc_block().unwrap();
    let before = format!("{device:?}");
    device.touch(BLOCK_PAGES - first);
    device.touch(2 * BLOCK_PAGES);
    device.touch((BLOCK_PAGES << 32) + first);
    device.touch(usize::MAX);
    assert_eq!(format!("{device:?}"), before);
}

#[test]
fn taking_a_page_makes_its_block_the_newest() {
    let mut device = device(2);
    let small = block(alloc_page(&mut device).unwrap()) * BLOCK_PAGES;
    let whole = device.alloc_block().unwrap();
    assert_eq!(device.victim(Eviction::Lru), Some(small));
    alloc_page(&mut device).unwrap();
    assert_eq!(order_of_use(&mut device, 2), [whole, small]);
}

#[test]
fn giving_back_some_pages_leaves_the_order_as_it_is() {
    let mut device = device(2);
    let pages = alloc_pages(&mut device, BLOCK_PAGES);
    let small = block(pages[0]) * BLOCK_PAGES;
    let whole = device.alloc_block().unwrap();
    device.free(pages[0], 0).unwrap();
    device.free(pages[1], 0).unwrap();
    assert_eq!(order_of_use(&mut device, 2), [small, whole]);
}

#[test]
fn a_split_leaves_the_order_as_it_is() {
    let mut device = device(2);
    let [first, second] = [(); 2].map(|()| device.alloc_block().unwrap());
    device.split(first);
    assert_eq!(order_of_use(&mut device, 2), [first, second]);
}

#[test]
fn a_free_block_is_not_in_the_order() {
    for gone in 0..3 {
        let mut device = device(3);
        let mut blocks = [(); 3].map(|()| device.alloc_block().unwrap()).to_vec();
        device.free(blocks.remove(gone), BLOCK_ORDER).unwrap();
        assert_eq!(order_of_use(&mut device, 2), blocks);
        for first in blocks {
            assert_eq!(device.victim(Eviction::Lru), Some(first));
            device.free(first, BLOCK_ORDER).unwrap();
        }
        assert_eq!(device.victim(Eviction::Lru), None);
    }
}

#[test]
fn pages_are_taken_in_runs_that_end_at_what_is_in_use_or_at_the_block() {
    let mut device = device(2);
    assert_eq!(device.alloc_pages(0), None);
    assert_eq!(device.alloc_pages(100), Some(0..100));
    assert_eq!(device.alloc_pages(1000), Some(100..BLOCK_PAGES));
    for page in [3, 4, 70, BLOCK_PAGES - 1] {
        device.free(page, 0).unwrap();
    }
    assert_eq!(device.alloc_pages(9), Some(3..5));
    assert_eq!(device.alloc_pages(9), Some(70..71));
    assert_eq!(device.alloc_pages(9), Some(BLOCK_PAGES - 1..BLOCK_PAGES));
    assert_eq!(
        device.alloc_pages(usize::MAX),
        Some(BLOCK_PAGES..2 * BLOCK_PAGES)
    );
    assert_eq!(device.alloc_pages(1), None);
    assert_eq!(device.free_pages(), 0);
}
