// SPDX-License-Identifier: GPL-2.0

//! Huge pages: moved as a whole, split, evicted, and mapped by the device as one.

use super::prelude::*;

/// Collects a block for the device, lets `fill` set the destinations, and commits. Returns the
/// number of pages that moved.
pub(super) fn move_block(
    pagemap: &Pagemap,
    memory: &UserMemory,
    fill: impl FnMut(Out<'_, '_>) -> Result,
) -> Result<usize> {
    move_out_by(
        pagemap,
        memory.range(0..HPAGE_PMD_NR),
        LargeFolios::Keep,
        fill,
    )
}

/// Moves a block to block 0 of the device as one folio.
pub(super) fn move_whole(pagemap: &Pagemap, memory: &UserMemory) -> Result<usize> {
    move_block(pagemap, memory, |entry| {
        let folio = pagemap.reserve(DevicePages::new(0, entry.order())?, ())?;
        entry.set_dst(folio)
    })
}

/// Splits a block, and gives its first `npages` pages destinations in block 0 of the device.
pub(super) fn move_split(pagemap: &Pagemap, memory: &UserMemory, npages: usize) -> Result<usize> {
    move_block(pagemap, memory, |entry| {
        let mut small = entry.split()?;
        while let Some(entry) = small.next() {
            if entry.index() < npages {
                let folio = pagemap.reserve(DevicePages::new(entry.index(), 0)?, ())?;
                entry.set_dst(folio)?;
            }
        }
        Ok(())
    })
}

/// Moves pages of a block back to system memory; returns their number, or the error if none moved.
fn move_back(pagemap: &Pagemap, memory: &UserMemory, pages: Range<usize>) -> Result<usize> {
    with_mm(|mm| {
        let mmap = mm.mmap_read_lock();
        let vma = LockedVma::lookup(&mmap, memory.start).ok_or(EFAULT)?;
        let mut buffer = MigrateBuffer::new(HPAGE_PMD_NR)?;
        match pagemap.bring_back(vma, memory.range(pages), &mut buffer) {
            (0, Err(error)) => Err(error),
            (moved, _) => Ok(moved),
        }
    })
}

/// Returns whether the first and the last page of a block are filled with `with`.
pub(super) fn holds(memory: &UserMemory, with: u8) -> Result<bool> {
    Ok(memory.is_filled(0, with)? && memory.is_filled(HPAGE_PMD_NR - 1, with)?)
}

/// Fills the first and the last page of a block: since the block is aligned, that creates a huge
/// page.
pub(super) fn fill_ends(memory: &UserMemory, with: u8) -> Result {
    memory.fill(0, with)?;
    memory.fill(HPAGE_PMD_NR - 1, with)
}

/// Returns the number of pages of a block that the device does not see as `expected`.
fn others(
    pagemap: &Arc<Pagemap>,
    memory: &UserMemory,
    expected: Option<(PagePlace, bool, u32)>,
) -> Result<usize> {
    let view = view(pagemap)?;
    let mut buffer = FaultBuffer::new()?;
    let mut others = 0;
    with_mm(|mm| {
        view.snapshot(mm, memory.range(0..HPAGE_PMD_NR), buffer.pfns(), |view| {
            others += usize::from(mapped(view) != expected);
        })
    })?;
    Ok(others)
}

const WHOLE: Option<(PagePlace, bool, u32)> =
    Some((PagePlace::PrivateLocal, true, HPAGE_PMD_ORDER));

const SMALL: Option<(PagePlace, bool, u32)> = Some((PagePlace::PrivateLocal, true, 0));

#[kunit_tests(emu_huge)]
mod suite {
    use super::*;

    #[test]
    fn an_untouched_block_is_one_hole() -> Result {
        let pagemap = shared_device(1)?;
        let memory = UserMemory::block()?;
        let mut seen = 0;
        let moved = move_block(&pagemap, &memory, |entry| {
            seen += 1;
            let hole = entry.index() == 0 && entry.order() == HPAGE_PMD_ORDER && entry.is_hole();
            entry.set_dst(pagemap.reserve(DevicePages::new(0, HPAGE_PMD_ORDER)?, ())?)?;
            if hole {
                Ok(())
            } else {
                Err(EFAULT)
            }
        });
        assert_eq!((moved, seen), (Ok(HPAGE_PMD_NR), 1));
        assert_eq!(pagemap.owned(), HPAGE_PMD_NR);
        assert_eq!(others(&pagemap, &memory, WHOLE), Ok(0));
        // A CPU that touches one page gets all pages back.
        assert_eq!(memory.is_filled(77, 0), Ok(true));
        assert_eq!(pagemap.owned(), 0);
        assert_eq!(pagemap.ops().faults.get(), 1);
        assert_eq!(pagemap.ops().copies.get(), 1);
        assert_eq!(pagemap.ops().freed.get(), HPAGE_PMD_NR);
        Ok(())
    }

    #[test]
    fn a_huge_page_moves_whole_and_keeps_its_content() -> Result {
        let pagemap = shared_device(1)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 31)?;
        assert_eq!(move_whole(&pagemap, &memory), Ok(HPAGE_PMD_NR));
        assert_eq!(others(&pagemap, &memory, WHOLE), Ok(0));
        assert_eq!(holds(&memory, 31), Ok(true));
        assert_eq!(memory.is_filled(1, 0), Ok(true));
        assert_eq!(pagemap.owned(), 0);
        Ok(())
    }

    #[test]
    fn a_split_block_moves_as_small_pages() -> Result {
        for touched in [false, true] {
            let pagemap = shared_device(1)?;
            let memory = UserMemory::block()?;
            if touched {
                fill_ends(&memory, 32)?;
            }
            let content = if touched { 32 } else { 0 };
            assert_eq!(
                move_split(&pagemap, &memory, HPAGE_PMD_NR),
                Ok(HPAGE_PMD_NR)
            );
            assert_eq!(others(&pagemap, &memory, SMALL), Ok(0));
            assert_eq!(pagemap.owned(), HPAGE_PMD_NR);
            assert_eq!(holds(&memory, content), Ok(true));
            assert_eq!(pagemap.owned(), HPAGE_PMD_NR - 2);
            assert_eq!(evict(&pagemap, 0), Ok((HPAGE_PMD_NR - 2, 0)));
        }
        Ok(())
    }

    #[test]
    fn a_split_block_moves_as_a_whole_or_not_at_all() -> Result {
        for touched in [false, true] {
            for npages in [0, 1, HPAGE_PMD_NR - 1] {
                let pagemap = shared_device(1)?;
                let memory = UserMemory::block()?;
                if touched {
                    fill_ends(&memory, 33)?;
                }
                let content = if touched { 33 } else { 0 };
                assert_eq!(move_split(&pagemap, &memory, npages), Ok(0));
                assert_eq!(pagemap.owned(), 0);
                assert_eq!(pagemap.ops().freed.get(), npages);
                assert_eq!(holds(&memory, content), Ok(true));
                assert_eq!(pagemap.ops().faults.get(), 0);
            }
        }
        Ok(())
    }

    #[test]
    fn an_error_in_a_split_leaks_nothing() -> Result {
        let pagemap = shared_device(1)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 34)?;
        let result = move_block(&pagemap, &memory, |entry| {
            let mut small = entry.split()?;
            for nth in 0..10 {
                let entry = small.next().ok_or(ENOENT)?;
                entry.set_dst(pagemap.reserve(DevicePages::new(nth, 0)?, ())?)?;
            }
            Err(EIO)
        });
        assert_eq!(result, Err(EIO));
        assert_eq!(pagemap.owned(), 0);
        assert_eq!(pagemap.ops().freed.get(), 10);
        assert_eq!(holds(&memory, 34), Ok(true));
        Ok(())
    }

    #[test]
    fn a_destination_has_the_order_of_its_entry() -> Result {
        let pagemap = shared_device(2)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 35)?;
        let moved = move_block(&pagemap, &memory, |entry| {
            entry.set_dst(pagemap.reserve(DevicePages::new(0, 0)?, ())?)
        });
        assert_eq!(moved, Err(EINVAL));
        let moved = move_block(&pagemap, &memory, |entry| {
            let mut small = entry.split()?;
            let entry = small.next().ok_or(ENOENT)?;
            entry.set_dst(pagemap.reserve(DevicePages::new(HPAGE_PMD_NR, HPAGE_PMD_ORDER)?, ())?)
        });
        assert_eq!(moved, Err(EINVAL));
        assert_eq!(pagemap.owned(), 0);
        assert_eq!(holds(&memory, 35), Ok(true));
        Ok(())
    }

    #[test]
    fn a_huge_folio_is_evicted_whole() -> Result {
        let pagemap = shared_device(1)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 36)?;
        assert_eq!(move_whole(&pagemap, &memory), Ok(HPAGE_PMD_NR));
        assert_eq!(evict(&pagemap, 0), Ok((HPAGE_PMD_NR, 0)));
        assert_eq!(holds(&memory, 36), Ok(true));
        assert_eq!(pagemap.ops().faults.get(), 0);
        assert_eq!(pagemap.ops().freed.get(), HPAGE_PMD_NR);
        Ok(())
    }

    #[test]
    fn without_memory_for_it_a_huge_folio_is_evicted_in_small_pages() -> Result {
        let pagemap = shared_device(1)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 37)?;
        assert_eq!(move_whole(&pagemap, &memory), Ok(HPAGE_PMD_NR));
        pagemap.ops().no_large.set(1);
        assert_eq!(evict(&pagemap, 0), Ok((HPAGE_PMD_NR, 0)));
        assert_eq!(holds(&memory, 37), Ok(true));
        Ok(())
    }

    #[test]
    fn a_huge_folio_comes_back_in_small_pages_when_memory_is_short() -> Result {
        let pagemap = shared_device(1)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 38)?;
        assert_eq!(move_whole(&pagemap, &memory), Ok(HPAGE_PMD_NR));
        pagemap.ops().no_large.set(1);
        let back = move_back(&pagemap, &memory, 0..HPAGE_PMD_NR);
        assert_eq!(back, Ok(HPAGE_PMD_NR));
        assert_eq!(pagemap.owned(), 0);
        assert_eq!(pagemap.ops().freed.get(), HPAGE_PMD_NR);
        assert_eq!(holds(&memory, 38), Ok(true));
        Ok(())
    }

    #[test]
    fn no_page_is_lost_when_memory_runs_out_on_the_way() -> Result {
        let pagemap = shared_device(1)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 38)?;
        assert_eq!(move_whole(&pagemap, &memory), Ok(HPAGE_PMD_NR));
        pagemap.ops().no_large.set(1);
        pagemap.ops().no_small.set(1);
        // mm has split the folio, and there was no memory for one of the pages.
        let back = move_back(&pagemap, &memory, 0..HPAGE_PMD_NR);
        assert_eq!(back, Ok(HPAGE_PMD_NR - 1));
        assert_eq!(pagemap.owned(), 1);
        assert_eq!(holds(&memory, 38), Ok(true));
        assert_eq!(pagemap.owned(), 0);
        Ok(())
    }

    #[test]
    fn a_cpu_gets_its_page_when_memory_is_short() -> Result {
        let pagemap = shared_device(1)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 38)?;
        assert_eq!(move_whole(&pagemap, &memory), Ok(HPAGE_PMD_NR));
        pagemap.ops().no_large.set(1);
        assert_eq!(holds(&memory, 38), Ok(true));
        // The core does not split a folio that a fault has a reference to, only the entry that maps
        // it; so the pages move back one by one, each when it is touched.
        let left = pagemap.owned();
        assert!(left <= HPAGE_PMD_NR - 2);
        assert_eq!(pagemap.ops().freed.get(), HPAGE_PMD_NR - left);
        assert_eq!(evict(&pagemap, 0), Ok((left, 0)));
        assert_eq!(holds(&memory, 38), Ok(true));
        Ok(())
    }

    #[test]
    fn a_range_comes_back_as_it_is() -> Result {
        let pagemap = shared_device(1)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 39)?;
        assert_eq!(move_whole(&pagemap, &memory), Ok(HPAGE_PMD_NR));
        let back = move_back(&pagemap, &memory, 0..HPAGE_PMD_NR);
        assert_eq!(back, Ok(HPAGE_PMD_NR));
        assert_eq!(pagemap.owned(), 0);
        assert_eq!(holds(&memory, 39), Ok(true));
        Ok(())
    }

    #[test]
    fn a_part_of_a_huge_folio_comes_back_alone() -> Result {
        let pagemap = shared_device(1)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 40)?;
        assert_eq!(move_whole(&pagemap, &memory), Ok(HPAGE_PMD_NR));
        let back = move_back(&pagemap, &memory, 0..8);
        assert_eq!(back, Ok(8));
        assert_eq!(pagemap.owned(), HPAGE_PMD_NR - 8);
        // The driver was notified of each piece.
        assert_eq!(pagemap.ops().pieces.get(), HPAGE_PMD_NR);
        assert_eq!(evict(&pagemap, 0), Ok((HPAGE_PMD_NR - 8, 0)));
        assert_eq!(holds(&memory, 40), Ok(true));
        Ok(())
    }

    #[test]
    fn a_part_that_is_unmapped_takes_only_itself_along() -> Result {
        let pagemap = shared_device(1)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 41)?;
        assert_eq!(move_whole(&pagemap, &memory), Ok(HPAGE_PMD_NR));
        unmap(memory.at(1), 9)?;
        assert_eq!(holds(&memory, 41), Ok(true));
        assert_eq!(memory.is_filled(5, 0), Err(EFAULT));
        evict(&pagemap, 0)?;
        assert_eq!(pagemap.owned(), 0);
        Ok(())
    }

    #[test]
    fn a_commit_maps_a_huge_folio_as_one() -> Result {
        let pagemap = shared_device(1)?;
        let view = view(&pagemap)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 42)?;
        let range = memory.range(0..HPAGE_PMD_NR);
        {
            let pending = view.pending_map(range.clone())?;
            let mapped = with_mm(|mm| {
                let mmap = mm.mmap_read_lock();
                let vma = LockedVma::lookup(&mmap, memory.start).ok_or(EFAULT)?;
                let mut buffer = MigrateBuffer::new(HPAGE_PMD_NR)?;
                let mut migration = pending.migrate(vma, LargeFolios::Keep, &mut buffer)?;
                for entry in migration.entries() {
                    let block = DevicePages::new(0, HPAGE_PMD_ORDER)?;
                    entry.set_dst(pagemap.reserve(block, ())?)?;
                }
                let moved = migration.copy()?.commit()?.moved();
                Ok(moved == HPAGE_PMD_NR)
            });
            assert_eq!(mapped, Ok(true));
        }
        let read = |nth: usize| {
            let guard = view.lock();
            let page = guard.page(memory.at(nth)).ok_or(ENOENT)?;
            let mut byte = [0];
            page.read(9, &mut byte)?;
            Ok::<_, Error>((byte[0], page.device_index().is_some(), page.access()))
        };
        assert_eq!(read(0), Ok((42, true, Access::Write)));
        assert_eq!(read(1), Ok((0, true, Access::Write)));
        assert_eq!(read(HPAGE_PMD_NR - 1), Ok((42, true, Access::Write)));
        // A CPU takes one page back, and with it all pages.
        assert_eq!(memory.is_filled(0, 42), Ok(true));
        assert_eq!(read(HPAGE_PMD_NR - 1).err(), Some(ENOENT));
        Ok(())
    }

    #[test]
    fn a_fault_maps_a_huge_page_as_one() -> Result {
        let pagemap = shared_device(1)?;
        let view = view(&pagemap)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 43)?;
        let range = memory.range(0..HPAGE_PMD_NR);
        let mut buffer = FaultBuffer::new()?;
        for on_device in [false, true] {
            if on_device {
                assert_eq!(move_whole(&pagemap, &memory), Ok(HPAGE_PMD_NR));
                assert!(view.lock().next(range.clone()).is_none());
            }
            let patience = Timeout::Bounded;
            with_mm(|mm| {
                view.fault(
                    mm,
                    range.clone(),
                    Access::Write,
                    patience,
                    &mut buffer,
                    |_| (),
                )
            })?;
            let bytes = KVec::from_elem(44, PAGE_SIZE, GFP_KERNEL)?;
            {
                let guard = view.lock();
                let page = guard.page(memory.at(300)).ok_or(ENOENT)?;
                assert_eq!(page.device_index().is_some(), on_device);
                page.write(0, &bytes)?;
            }
            // Clearing a part clears the whole entry: the device faults the rest in again.
            unmap(memory.at(3), 1)?;
            assert!(view.lock().page(memory.at(300)).is_none());
            map_over(memory.at(3), 1, true)?;
            assert_eq!(memory.is_filled(300, 44), Ok(true));
            // A huge page again, for the second round.
            map_over(memory.start, HPAGE_PMD_NR, true)?;
            fill_ends(&memory, 43)?;
        }
        Ok(())
    }
}
