// SPDX-License-Identifier: GPL-2.0

//! Sequences of operations, with right and wrong arguments, compared at each step with the model.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::alloc::Eviction;
use crate::model::Checked;
use crate::model::Use;
use crate::pages::BLOCK_ORDER;
use crate::pages::BLOCK_PAGES;

/// Number of blocks of the largest device that is tested.
const BLOCKS: usize = 5;

/// An operation. A `pick` chooses among the pages in use when the operation runs.
#[derive(Clone, Debug)]
enum Op {
    AllocPages {
        count: usize,
    },
    AllocBlock,
    /// Frees pages in use: a whole block correctly, small pages in pieces of this order (which is
    /// correct only if the whole piece is in use).
    FreeUsed {
        pick: usize,
        order: u32,
    },
    /// Frees small pages of one block one by one, each `stride` after the last. Since `stride` is
    /// odd, this reaches all of them; `keep` of those in use stay.
    FreeMost {
        pick: usize,
        stride: usize,
        keep: usize,
    },
    FreeAny {
        page: usize,
        order: u32,
    },
    SplitUsed {
        pick: usize,
        offset: usize,
    },
    SplitAny {
        page: usize,
    },
    TouchUsed {
        pick: usize,
        offset: usize,
    },
    TouchAny {
        page: usize,
    },
    NextVictim {
        eviction: u32,
    },
}

/// Generates pages in use, free pages, pages past the end, and numbers too large for any page.
fn any_page() -> impl Strategy<Value = usize> {
    let near = 0..(BLOCKS + 1) * BLOCK_PAGES;
    prop_oneof![
        8 => near.clone(),
        1 => any::<usize>(),
        // The index of the block does not fit in 32 bits: if truncated, it would be valid.
        1 => near.clone().prop_map(|page| (BLOCK_PAGES << 32) + page),
        1 => near.prop_map(|page| usize::MAX - page),
    ]
}

fn any_order() -> impl Strategy<Value = u32> {
    prop_oneof![
        8 => 0..=BLOCK_ORDER + 2,
        1 => 60..=70_u32,
        1 => any::<u32>(),
    ]
}

fn any_op() -> impl Strategy<Value = Op> {
    let pick = any::<usize>;
    let offset = || 0..BLOCK_PAGES;
    let odd = (0..BLOCK_PAGES / 2).prop_map(|half| 2 * half + 1);
    // A few, or about as many as fill a block, or any number.
    let count = prop_oneof![
        1..8_usize,
        BLOCK_PAGES - 1..=BLOCK_PAGES + 1,
        1..=BLOCK_PAGES + BLOCK_PAGES / 2,
    ];
    let keep = prop_oneof![Just(0), 0..4_usize, 0..BLOCK_PAGES];
    prop_oneof![
        4 => count.prop_map(|count| Op::AllocPages { count }),
        4 => Just(Op::AllocBlock),
        5 => (pick(), 0..=BLOCK_ORDER).prop_map(|(pick, order)| Op::FreeUsed { pick, order }),
        4 => (pick(), odd, keep).prop_map(|(pick, stride, keep)| Op::FreeMost { pick, stride, keep }),
        3 => (any_page(), any_order()).prop_map(|(page, order)| Op::FreeAny { page, order }),
        3 => (pick(), offset()).prop_map(|(pick, offset)| Op::SplitUsed { pick, offset }),
        1 => any_page().prop_map(|page| Op::SplitAny { page }),
        3 => (pick(), offset()).prop_map(|(pick, offset)| Op::TouchUsed { pick, offset }),
        1 => any_page().prop_map(|page| Op::TouchAny { page }),
        4 => (0_u32..3).prop_map(|eviction| Op::NextVictim { eviction }),
    ]
}

/// Returns the first page of one of the blocks in use, or of the first block if none is.
fn pick_block(device: &Checked, pick: usize) -> usize {
    let mut blocks: Vec<_> = device.in_use();
    blocks
        .iter_mut()
        .for_each(|page| *page -= *page % BLOCK_PAGES);
    blocks.dedup();
    match blocks.len() {
        0 => 0,
        len => blocks[pick % len],
    }
}

fn run(device: &mut Checked, op: Op) {
    match op {
        Op::AllocPages { count } => {
            for _ in 0..count {
                device.alloc_page();
            }
        }
        Op::AllocBlock => {
            device.alloc_block();
        }
        Op::FreeUsed { pick, order } => {
            let pages = device.in_use();
            if pages.is_empty() {
                return;
            }
            let page = pages[pick % pages.len()];
            match device.block_of(page) {
                Use::Whole => device.free(page, BLOCK_ORDER),
                _ => device.free(page >> order << order, order),
            }
        }
        Op::FreeMost { pick, stride, keep } => {
            let first = pick_block(device, pick);
            let mut pages: Vec<_> = (0..BLOCK_PAGES)
                .map(|step| first + step * stride % BLOCK_PAGES)
                .collect();
            let used = device.in_use();
            pages.retain(|page| used.binary_search(page).is_ok());
            for page in pages.into_iter().skip(keep) {
                device.free(page, 0);
            }
        }
        Op::FreeAny { page, order } => device.free(page, order),
        Op::SplitUsed { pick, offset } => device.split(pick_block(device, pick) + offset),
        Op::SplitAny { page } => device.split(page),
        Op::TouchUsed { pick, offset } => device.touch(pick_block(device, pick) + offset),
        Op::TouchAny { page } => device.touch(page),
        Op::NextVictim { eviction } => device.next_victim(Eviction::from_number(eviction)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        max_shrink_time: 20_000, // milliseconds
        // The smallest failing case is printed: add it to `directed`, not to a file of seeds.
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_sequence_of_operations_does_what_the_model_does(
        blocks in 0..=BLOCKS,
        ops in vec(any_op(), 0..50),
    ) {
        let mut device = Checked::new(blocks);
        for op in ops {
            run(&mut device, op);
        }
        device.finish();
    }
}
