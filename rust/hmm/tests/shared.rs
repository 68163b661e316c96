// SPDX-License-Identifier: GPL-2.0

//! Huge pages that other processes may share. To this crate they are those that the process cannot
//! write to without a fault, so that a test needs no second process.

use kernel::mm::virt::flags::WRITE;
use kernel::prelude::*;

use super::device;
use super::huge::fill_ends;
use super::huge::holds;
use super::huge::move_block;
use super::huge::move_whole;
use super::map_over;
use super::move_back_by;
use super::set_vm_flags;
use super::Pagemap;
use super::UserMemory;
use crate::Migration;
use crate::Source;
use crate::Window;
use crate::BLOCK_PAGES;
use crate::PMD_ORDER;

/// A device, and a huge page on it that the process may only read.
fn read_only_there() -> Result<(Pagemap, UserMemory)> {
    let pagemap = device(1)?;
    let memory = UserMemory::block()?;
    map_over(memory.start, BLOCK_PAGES, false)?;
    if move_whole(&pagemap, &memory)? == BLOCK_PAGES {
        Ok((pagemap, memory))
    } else {
        Err(EBUSY)
    }
}

#[kunit_tests(hmm_shared)]
mod suite {
    use super::*;

    #[test]
    fn on_the_way_out_all_but_those_can_be_split() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::block()?;
        let mut hole = None;
        // Nobody shares a hole.
        move_block(&pagemap, &memory, |slot| {
            hole = Some((slot.order(), slot.can_split(), slot.split().is_ok()));
            Ok(())
        })?;
        assert_eq!(hole, Some((PMD_ORDER, true, true)));

        fill_ends(&memory, 61)?;
        let mut own = None;
        move_block(&pagemap, &memory, |slot| {
            own = Some((slot.is_writable(), slot.can_split(), slot.split().is_ok()));
            Ok(())
        })?;
        assert_eq!(own, Some((true, true, true)));
        assert_eq!(holds(&memory, 61), Ok(true));
        Ok(())
    }

    #[test]
    fn on_the_way_out_those_move_whole_or_stay() -> Result {
        let (pagemap, memory) = read_only_there()?;
        assert_eq!(pagemap.evict(0), Ok((BLOCK_PAGES, 0)));
        let mut seen = None;
        let moved = move_block(&pagemap, &memory, |slot| {
            let is_page = matches!(slot.source(), Source::System(_));
            seen = Some((slot.order(), is_page, slot.is_writable(), slot.can_split()));
            slot.split().map(drop)
        });
        assert_eq!(moved, Err(EBUSY));
        assert_eq!(seen, Some((PMD_ORDER, true, false, false)));
        assert_eq!(move_whole(&pagemap, &memory), Ok(BLOCK_PAGES));
        assert_eq!(holds(&memory, 0), Ok(true));
        Ok(())
    }

    #[test]
    fn on_the_way_back_those_come_whole_or_stay() -> Result {
        let (pagemap, memory) = read_only_there()?;
        let block = memory.range(0..BLOCK_PAGES);
        let moved = move_back_by(&pagemap, block.clone(), |slot| {
            assert!(!slot.is_writable() && !slot.can_split());
            slot.split().map(drop)
        });
        assert_eq!(moved, Err(EBUSY));
        pagemap.ops().no_large.set(1);
        let moved = move_back_by(&pagemap, block.clone(), |slot| slot.fill_system());
        assert_eq!(moved, Err(ENOMEM));
        assert_eq!(pagemap.ops().asked_small.get(), 0);
        assert_eq!(pagemap.taken(), BLOCK_PAGES);
        pagemap.ops().no_large.set(0);
        let moved = move_back_by(&pagemap, block, |slot| slot.fill_system());
        assert_eq!(moved, Ok(BLOCK_PAGES));
        assert_eq!(holds(&memory, 0), Ok(true));
        Ok(())
    }

    #[test]
    fn a_cpu_gets_all_of_it_or_its_page() -> Result {
        for no_large in [0, 1] {
            let (pagemap, memory) = read_only_there()?;
            pagemap.ops().no_large.set(no_large);
            assert_eq!(memory.is_filled(7, 0), Ok(true));
            assert_eq!(pagemap.taken(), no_large * (BLOCK_PAGES - 1));
            set_vm_flags(memory.at(0), WRITE)?;
            fill_ends(&memory, 62)?;
            pagemap.evict(0)?;
            assert_eq!((pagemap.taken(), holds(&memory, 62)), (0, Ok(true)));
        }
        Ok(())
    }

    #[test]
    fn an_eviction_splits_nothing() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 63)?;
        assert_eq!(move_whole(&pagemap, &memory), Ok(BLOCK_PAGES));
        {
            let mut window = Window::new(BLOCK_PAGES)?;
            let mut migration = Migration::evict(&pagemap, 0..BLOCK_PAGES, &mut window)?;
            let slot = migration.slots().next().ok_or(ENOENT)?;
            assert_eq!((slot.order(), slot.can_split()), (PMD_ORDER, false));
            assert_eq!(slot.split().err(), Some(EBUSY));
            assert_eq!(migration.commit().moved(), 0);
        }
        assert_eq!(pagemap.taken(), BLOCK_PAGES);
        assert_eq!(holds(&memory, 63), Ok(true));
        Ok(())
    }
}
