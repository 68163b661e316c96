// SPDX-License-Identifier: GPL-2.0

//! Tests of the choice of the block to evict when the device is full.

use std::collections::BTreeSet;

use crate::alloc::Allocator;
use crate::alloc::Block;
use crate::alloc::Eviction;
use crate::pages::BLOCK_ORDER;
use crate::pages::BLOCK_PAGES;

type Device = Allocator<Vec<Block>>;

const ALL: [Eviction; 3] = [Eviction::Lru, Eviction::Fifo, Eviction::Random];

/// Returns a device whose blocks are all in use, and the first page of each in the order of
/// allocation.
fn full(blocks: usize, seed: u64) -> (Device, Vec<usize>) {
    let mut device = Allocator::new(vec![Block::default(); blocks]).with_seed(seed);
    let taken = (0..blocks).map(|_| device.alloc_block().unwrap()).collect();
    (device, taken)
}

/// Returns the next `len` victims, none of which is evicted.
fn victims(device: &mut Device, eviction: Eviction, len: usize) -> Vec<usize> {
    (0..len)
        .map(|_| device.next_victim(eviction).unwrap())
        .collect()
}

/// Evicts the next victim, and allocates it again.
fn replace(device: &mut Device, eviction: Eviction) -> usize {
    let victim = device.next_victim(eviction).unwrap();
    device.free(victim, BLOCK_ORDER).unwrap();
    assert_eq!(device.alloc_block(), Some(victim));
    victim
}

#[test]
fn each_policy_has_a_number_and_what_is_too_large_is_the_last() {
    for (number, eviction) in ALL.into_iter().enumerate() {
        assert_eq!(Eviction::from_number(number as u32), eviction);
    }
    for number in [3, 4, u32::MAX] {
        assert_eq!(Eviction::from_number(number), Eviction::Random);
    }
}

#[test]
fn nobody_has_to_go_where_nothing_is_in_use() {
    for eviction in ALL {
        let (mut device, taken) = full(1, 0);
        device.free(taken[0], BLOCK_ORDER).unwrap();
        assert_eq!(device.victim(eviction), None);
        assert_eq!(device.next_victim(eviction), None);
    }
}

#[test]
fn the_victim_is_announced_and_that_changes_nothing() {
    for eviction in ALL {
        let (mut device, _) = full(5, 1);
        for _ in 0..20 {
            let before = format!("{device:?}");
            let announced = device.victim(eviction);
            assert_eq!(format!("{device:?}"), before);
            assert_eq!(device.next_victim(eviction), announced);
        }
    }
}

#[test]
fn the_least_recently_used_one_is_not_one_that_was_touched() {
    let (mut device, taken) = full(3, 0);
    device.touch(taken[0]);
    let order = victims(&mut device, Eviction::Lru, 3);
    assert_eq!(order, [taken[1], taken[2], taken[0]]);
}

#[test]
fn the_first_in_is_the_first_out_however_it_is_used() {
    let (mut device, taken) = full(3, 0);
    for &page in [&taken[0], &taken[2], &taken[0]] {
        device.touch(page);
        assert_eq!(device.victim(Eviction::Fifo), Some(taken[0]));
    }
    assert_eq!(victims(&mut device, Eviction::Fifo, 3), taken);
}

#[test]
fn a_block_that_more_pages_are_taken_of_keeps_its_turn() {
    let mut device = Allocator::new(vec![Block::default(); 2]);
    let small = device.alloc_pages(1).unwrap().start;
    device.alloc_block().unwrap();
    device.alloc_pages(1).unwrap();
    device.free(small, 0).unwrap();
    let first = small / BLOCK_PAGES * BLOCK_PAGES;
    assert_eq!(device.victim(Eviction::Fifo), Some(first));
}

#[test]
fn a_block_that_was_free_in_between_is_the_last_in() {
    let (mut device, taken) = full(3, 0);
    device.free(taken[0], BLOCK_ORDER).unwrap();
    assert_eq!(device.alloc_block(), Some(taken[0]));
    let order = victims(&mut device, Eviction::Fifo, 3);
    assert_eq!(order, [taken[1], taken[2], taken[0]]);
}

#[test]
fn what_goes_by_turns_goes_before_it_comes_again() {
    for eviction in [Eviction::Lru, Eviction::Fifo] {
        let (mut device, taken) = full(7, 0);
        let gone: Vec<_> = (0..14).map(|_| replace(&mut device, eviction)).collect();
        assert_eq!(gone, [&taken[..], &taken[..]].concat(), "{eviction:?}");
    }
}

#[test]
fn calls_in_a_row_give_each_block_once() {
    for blocks in [1, 2, 3, 100] {
        for eviction in ALL {
            let (mut device, taken) = full(blocks, 3);
            for _ in 0..3 {
                let mut round = victims(&mut device, eviction, blocks);
                round.sort_unstable();
                assert_eq!(round, taken, "{eviction:?}");
            }
        }
    }
}

#[test]
fn chance_reaches_each_block_however_many_it_has_tried_before() {
    const BLOCKS: usize = 16;
    for seed in 0..50 {
        for before in 0..BLOCKS {
            let (mut device, taken) = full(BLOCKS, seed);
            victims(&mut device, Eviction::Random, before);
            let seen = victims(&mut device, Eviction::Random, 2 * BLOCKS - 1);
            let seen: BTreeSet<_> = seen.into_iter().collect();
            assert!(seen.into_iter().eq(taken));
        }
    }
}

#[test]
fn chance_picks_each_block_as_often_as_the_others() {
    const BLOCKS: usize = 8;
    const TIMES: usize = 8000;
    // One generator for all picks, and then another one for each pick.
    let (mut device, _) = full(BLOCKS, 5);
    let one: Vec<_> = (0..TIMES)
        .map(|_| replace(&mut device, Eviction::Random))
        .collect();
    let others: Vec<_> = (0..TIMES)
        .map(|seed| {
            full(BLOCKS, seed as u64)
                .0
                .victim(Eviction::Random)
                .unwrap()
        })
        .collect();
    for picked in [one, others] {
        for block in 0..BLOCKS {
            let times = picked
                .iter()
                .filter(|&&it| it / BLOCK_PAGES == block)
                .count();
            assert!((800..1200).contains(&times), "{block}: {times} of {TIMES}");
        }
    }
}

#[test]
fn chance_may_pick_what_was_just_taken() {
    let (mut device, _) = full(4, 0);
    let gone: Vec<_> = (0..1000)
        .map(|_| replace(&mut device, Eviction::Random))
        .collect();
    let twice = gone.windows(2).filter(|pair| pair[0] == pair[1]).count();
    assert!((150..350).contains(&twice), "{twice} of 999");
}

#[test]
fn the_same_seed_gives_the_same_blocks_and_another_one_others() {
    let of = |seed| victims(&mut full(64, seed).0, Eviction::Random, 100);
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
    assert_ne!(of(0), of(1));
}

#[test]
fn policies_do_not_disturb_each_other() {
    let (mut device, taken) = full(5, 9);
    victims(&mut device, Eviction::Random, 3);
    victims(&mut device, Eviction::Fifo, 2);
    assert_eq!(victims(&mut device, Eviction::Lru, 5), taken);
    let turned = [&taken[2..], &taken[..2]].concat();
    assert_eq!(victims(&mut device, Eviction::Fifo, 5), turned);
    // Random choice has two blocks left in its round.
    let all: BTreeSet<_> = victims(&mut device, Eviction::Random, 9)
        .into_iter()
        .collect();
    assert!(all.into_iter().eq(taken));
}
