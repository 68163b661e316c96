// SPDX-License-Identifier: GPL-2.0

//! The reports of a fault, and the answers to it.

use super::prelude::*;
use kernel::mm::virt::flags::DONTEXPAND;

#[kunit_tests(emu_fault)]
mod suite {
    use super::*;

    #[test]
    fn the_page_that_was_touched_is_told() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::in_block(3, 2)?;
        assert_eq!(move_out(&pagemap, memory.range(0..2)), Ok(2));
        assert_eq!(memory.is_filled(1, 0), Ok(true));
        assert_eq!(pagemap.ops().fault_address.get(), memory.at(1));
        assert_eq!(pagemap.ops().fault_index.get(), 0);
        Ok(())
    }

    #[test]
    fn the_page_that_was_touched_of_a_huge_one_is_told() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::block()?;
        for nth in [0, 77, HPAGE_PMD_NR - 1] {
            assert_eq!(move_whole(&pagemap, &memory), Ok(HPAGE_PMD_NR));
            assert_eq!(memory.is_filled(nth, 0), Ok(true));
            assert_eq!(pagemap.ops().fault_address.get(), memory.at(nth));
            assert_eq!(pagemap.ops().fault_index.get(), nth);
        }
        Ok(())
    }

    #[test]
    fn a_page_that_may_not_migrate_any_more_stays() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::in_block(0, 1)?;
        assert_eq!(move_out(&pagemap, memory.range(0..1)), Ok(1));
        set_vm_flags(memory.at(0), DONTEXPAND)?;
        assert_eq!(memory.is_filled(0, 0), Err(EFAULT));
        assert_eq!(pagemap.owned(), 1);
        // Neither does an eviction, which uses the VMA: the page moves back when the VMA is of the
        // old kind again.
        assert_eq!(evict(&pagemap, 0), Err(EINVAL));
        clear_vm_flags(memory.at(0), DONTEXPAND)?;
        assert_eq!(evict(&pagemap, 0), Ok((1, 0)));
        assert_eq!(memory.is_filled(0, 0), Ok(true));
        Ok(())
    }

    #[test]
    fn a_page_that_there_is_no_memory_for_stays() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(1, 72)?;
        assert_eq!(move_out(&pagemap, memory.range(0..1)), Ok(1));
        pagemap.ops().no_small.set(9);
        assert_eq!(memory.is_filled(0, 72), Err(EFAULT));
        assert_eq!((pagemap.owned(), pagemap.ops().copies.get()), (1, 0));
        pagemap.ops().no_small.set(0);
        assert_eq!(memory.is_filled(0, 72), Ok(true));
        Ok(())
    }
}
