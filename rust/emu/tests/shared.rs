// SPDX-License-Identifier: GPL-2.0

//! Huge pages that other processes may share. To this crate, these are huge pages that the process
//! cannot write to without a fault, so a test needs no second process.

use super::prelude::*;
use kernel::mm::virt::flags::WRITE;

/// Creates a device, and a huge page on it that the process may only read.
fn read_only_there() -> Result<(Pin<KBox<Pagemap>>, UserMemory)> {
    let pagemap = device(1)?;
    let memory = UserMemory::block()?;
    map_over(memory.start, HPAGE_PMD_NR, false)?;
    if move_whole(&pagemap, &memory)? == HPAGE_PMD_NR {
        Ok((pagemap, memory))
    } else {
        Err(EBUSY)
    }
}

#[kunit_tests(emu_shared)]
mod suite {
    use super::*;

    #[test]
    fn on_the_way_out_all_but_those_can_be_split() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::block()?;
        let mut hole = None;
        // A hole is never shared.
        move_block(&pagemap, &memory, |entry| {
            hole = Some((entry.order(), entry.can_split(), entry.split().is_ok()));
            Ok(())
        })?;
        assert_eq!(hole, Some((HPAGE_PMD_ORDER, true, true)));

        fill_ends(&memory, 61)?;
        let mut own = None;
        move_block(&pagemap, &memory, |entry| {
            own = Some((
                entry.is_writable(),
                entry.can_split(),
                entry.split().is_ok(),
            ));
            Ok(())
        })?;
        assert_eq!(own, Some((true, true, true)));
        assert_eq!(holds(&memory, 61), Ok(true));
        Ok(())
    }

    #[test]
    fn on_the_way_out_those_move_whole_or_stay() -> Result {
        let (pagemap, memory) = read_only_there()?;
        assert_eq!(evict(&pagemap, 0), Ok((HPAGE_PMD_NR, 0)));
        let mut seen = None;
        let moved = move_block(&pagemap, &memory, |entry| {
            let is_page = !entry.is_hole();
            seen = Some((
                entry.order(),
                is_page,
                entry.is_writable(),
                entry.can_split(),
            ));
            entry.split().map(drop)
        });
        assert_eq!(moved, Err(EBUSY));
        assert_eq!(seen, Some((HPAGE_PMD_ORDER, true, false, false)));
        assert_eq!(move_whole(&pagemap, &memory), Ok(HPAGE_PMD_NR));
        assert_eq!(holds(&memory, 0), Ok(true));
        Ok(())
    }

    #[test]
    fn an_eviction_brings_those_whole_or_lets_mm_split_them() -> Result {
        for no_large in [0, 1] {
            let (pagemap, memory) = read_only_there()?;
            pagemap.ops().no_large.set(no_large);
            assert_eq!(evict(&pagemap, 0), Ok((HPAGE_PMD_NR, 0)));
            assert_eq!(pagemap.ops().asked_small.get(), no_large * HPAGE_PMD_NR);
            assert_eq!(holds(&memory, 0), Ok(true));
        }
        Ok(())
    }

    #[test]
    fn a_cpu_gets_all_of_it_or_its_page() -> Result {
        for no_large in [0, 1] {
            let (pagemap, memory) = read_only_there()?;
            pagemap.ops().no_large.set(no_large);
            assert_eq!(memory.is_filled(7, 0), Ok(true));
            assert_eq!(pagemap.owned(), no_large * (HPAGE_PMD_NR - 1));
            set_vm_flags(memory.at(0), WRITE)?;
            fill_ends(&memory, 62)?;
            evict(&pagemap, 0)?;
            assert_eq!((pagemap.owned(), holds(&memory, 62)), (0, Ok(true)));
        }
        Ok(())
    }
}
