// SPDX-License-Identifier: GPL-2.0

//! Moving back pages that are on the device, without the driver's involvement.

use super::prelude::*;
use kernel::mm::virt::flags::DONTEXPAND;

/// Moves back the pages at the addresses, with a buffer of the given number of pages.
fn bring_back_by(pagemap: &Pagemap, range: Range<usize>, buffer: usize) -> Result<(usize, Result)> {
    with_mm(|mm| {
        let mmap = mm.mmap_read_lock();
        let vma = LockedVma::lookup(&mmap, range.start).ok_or(EFAULT)?;
        let mut buffer = MigrateBuffer::new(buffer)?;
        Ok(pagemap.bring_back(vma, range, &mut buffer))
    })
}

/// Does the same for pages, with a buffer that is large enough.
fn bring_back(
    pagemap: &Pagemap,
    memory: &UserMemory,
    pages: Range<usize>,
) -> Result<(usize, Result)> {
    bring_back_by(pagemap, memory.range(pages), HPAGE_PMD_NR)
}

/// Returns the numbers of large and small folios of system memory that were requested since the
/// last call.
fn asked(pagemap: &Pagemap) -> (usize, usize) {
    let Probe {
        asked_large,
        asked_small,
        ..
    } = &***pagemap.ops();
    let asked = (asked_large.get(), asked_small.get());
    asked_large.set(0);
    asked_small.set(0);
    asked
}

#[kunit_tests(emu_back)]
mod suite {
    use super::*;

    #[test]
    fn those_pages_of_a_range_come_back_that_are_on_the_device() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(6, 1)?;
        assert_eq!(bring_back(&pagemap, &memory, 0..6), Ok((0, Ok(()))));
        assert_eq!(move_out(&pagemap, memory.range(1..5)), Ok(4));
        assert_eq!(bring_back(&pagemap, &memory, 0..3), Ok((2, Ok(()))));
        assert_eq!(pagemap.owned(), 2);
        for nth in 0..6 {
            assert_eq!(memory.is_filled(nth, 1 + nth as u8), Ok(true));
        }
        // Two moved back by faults.
        assert_eq!(pagemap.ops().faults.get(), 2);
        assert_eq!(asked(&pagemap), (0, 4));
        Ok(())
    }

    #[test]
    fn a_huge_page_comes_back_whole() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 51)?;
        assert_eq!(move_whole(&pagemap, &memory), Ok(HPAGE_PMD_NR));
        let back = bring_back(&pagemap, &memory, 0..HPAGE_PMD_NR);
        assert_eq!(back, Ok((HPAGE_PMD_NR, Ok(()))));
        // The folio that was allocated before was used.
        assert_eq!(asked(&pagemap), (1, 0));
        assert_eq!((pagemap.owned(), pagemap.ops().pieces.get()), (0, 0));
        assert_eq!(holds(&memory, 51), Ok(true));
        assert_eq!(pagemap.ops().faults.get(), 0);
        Ok(())
    }

    #[test]
    fn without_memory_for_it_a_huge_page_comes_back_in_small_ones() -> Result {
        for writable in [true, false] {
            let pagemap = device(1)?;
            let memory = UserMemory::block()?;
            // A page that cannot be written to may be shared with other processes.
            map_over(memory.start, HPAGE_PMD_NR, writable)?;
            assert_eq!(move_whole(&pagemap, &memory), Ok(HPAGE_PMD_NR));
            pagemap.ops().no_large.set(1);
            let back = bring_back(&pagemap, &memory, 0..HPAGE_PMD_NR);
            assert_eq!(back, Ok((HPAGE_PMD_NR, Ok(()))));
            assert_eq!(asked(&pagemap), (1, HPAGE_PMD_NR));
            assert_eq!(pagemap.owned(), 0);
            assert_eq!(pagemap.ops().pieces.get(), HPAGE_PMD_NR);
            assert_eq!(holds(&memory, 0), Ok(true));
        }
        Ok(())
    }

    #[test]
    fn a_huge_page_that_may_be_shared_comes_back_whole() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::block()?;
        map_over(memory.start, HPAGE_PMD_NR, false)?;
        assert_eq!(move_whole(&pagemap, &memory), Ok(HPAGE_PMD_NR));
        let back = bring_back(&pagemap, &memory, 0..HPAGE_PMD_NR);
        assert_eq!(back, Ok((HPAGE_PMD_NR, Ok(()))));
        assert_eq!(asked(&pagemap), (1, 0));
        assert_eq!(holds(&memory, 0), Ok(true));
        Ok(())
    }

    #[test]
    fn small_pages_of_a_whole_block_come_back_one_by_one() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 52)?;
        assert_eq!(
            move_split(&pagemap, &memory, HPAGE_PMD_NR),
            Ok(HPAGE_PMD_NR)
        );
        let back = bring_back(&pagemap, &memory, 0..HPAGE_PMD_NR);
        assert_eq!(back, Ok((HPAGE_PMD_NR, Ok(()))));
        // A huge folio is requested only where a huge page is mapped.
        assert_eq!(asked(&pagemap), (0, HPAGE_PMD_NR));
        assert_eq!(holds(&memory, 52), Ok(true));
        let back = bring_back(&pagemap, &memory, 0..HPAGE_PMD_NR);
        assert_eq!(back, Ok((0, Ok(()))));
        assert_eq!(asked(&pagemap), (0, 0));
        Ok(())
    }

    #[test]
    fn a_part_of_a_huge_page_comes_back_alone() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 53)?;
        assert_eq!(move_whole(&pagemap, &memory), Ok(HPAGE_PMD_NR));
        let back = bring_back(&pagemap, &memory, 5..HPAGE_PMD_NR);
        assert_eq!(back, Ok((HPAGE_PMD_NR - 5, Ok(()))));
        assert_eq!(asked(&pagemap), (0, HPAGE_PMD_NR - 5));
        assert_eq!(pagemap.owned(), 5);
        assert_eq!(holds(&memory, 53), Ok(true));
        Ok(())
    }

    #[test]
    fn a_range_is_worked_through_block_by_block() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::blocks(3)?;
        let middle = memory.from(HPAGE_PMD_NR);
        fill_ends(&middle, 54)?;
        assert_eq!(move_whole(&pagemap, &middle), Ok(HPAGE_PMD_NR));
        // Parts of the first and of the last block.
        let range = HPAGE_PMD_NR - 1..2 * HPAGE_PMD_NR + 1;
        let back = bring_back(&pagemap, &memory, range);
        assert_eq!(back, Ok((HPAGE_PMD_NR, Ok(()))));
        assert_eq!(asked(&pagemap), (1, 0));
        assert_eq!(holds(&middle, 54), Ok(true));
        Ok(())
    }

    #[test]
    fn pages_that_cannot_be_copied_stay_and_others_come() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::blocks(2)?;
        // In two blocks, so that the first one fails and the second one does not.
        let border = HPAGE_PMD_NR - 2..HPAGE_PMD_NR + 2;
        for nth in border.clone() {
            memory.fill(nth, 55)?;
        }
        assert_eq!(move_out(&pagemap, memory.range(border.clone())), Ok(4));
        pagemap.ops().bad_copies.set(2);
        let back = bring_back(&pagemap, &memory, border.clone());
        assert_eq!(back, Ok((2, Err(EIO))));
        let back = bring_back(&pagemap, &memory, border.clone());
        assert_eq!(back, Ok((2, Ok(()))));
        for nth in border {
            assert_eq!(memory.is_filled(nth, 55), Ok(true));
        }
        Ok(())
    }

    #[test]
    fn without_memory_no_further_block_is_tried() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::blocks(2)?;
        let border = HPAGE_PMD_NR - 2..HPAGE_PMD_NR + 2;
        for nth in border.clone() {
            memory.fill(nth, 56)?;
        }
        assert_eq!(move_out(&pagemap, memory.range(border.clone())), Ok(4));
        pagemap.ops().no_small.set(1);
        let back = bring_back(&pagemap, &memory, border.clone());
        // The other page of the first block moved back.
        assert_eq!(back, Ok((1, Err(ENOMEM))));
        assert_eq!(pagemap.owned(), 3);
        let back = bring_back(&pagemap, &memory, border.clone());
        assert_eq!(back, Ok((3, Ok(()))));
        for nth in border {
            assert_eq!(memory.is_filled(nth, 56), Ok(true));
        }
        Ok(())
    }

    #[test]
    fn ranges_that_do_not_fit_are_refused_and_an_empty_one_is_nothing() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::block()?;
        assert_eq!(move_whole(&pagemap, &memory), Ok(HPAGE_PMD_NR));
        let Range { start, end } = memory.range(0..HPAGE_PMD_NR);
        let refused = Ok((0, Err(EINVAL)));
        for range in [
            start + 1..start + PAGE_SIZE,
            start + 1..start + 1 + PAGE_SIZE,
            start..start + PAGE_SIZE + 8,
        ] {
            assert_eq!(bring_back_by(&pagemap, range, HPAGE_PMD_NR), refused);
        }
        // The buffer is too small.
        assert_eq!(bring_back_by(&pagemap, start..end, 1), refused);
        assert_eq!(asked(&pagemap), (1, 0));
        let nothing = Ok((0, Ok(())));
        assert_eq!(bring_back_by(&pagemap, start..start, 1), nothing);
        // The VMA is only a part of the block.
        unmap(memory.at(HPAGE_PMD_NR - 1), 1)?;
        assert_eq!(bring_back_by(&pagemap, start..end, HPAGE_PMD_NR), refused);
        assert_eq!(asked(&pagemap), (0, 0));
        // The VMA is of a kind that never migrates.
        set_vm_flags(start, DONTEXPAND)?;
        assert_eq!(bring_back(&pagemap, &memory, 0..1), refused);
        // The device cannot be dropped before its pages can move.
        clear_vm_flags(start, DONTEXPAND)?;
        Ok(())
    }
}
