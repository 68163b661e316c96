// SPDX-License-Identifier: GPL-2.0

//! Huge pages: moved whole, split, evicted, and seen by the device as one.

use core::ops::Range;

use kernel::alloc::flags::GFP_KERNEL;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::Arc;

use super::map_over;
use super::mirror;
use super::move_back_by;
use super::move_out_by;
use super::shared_device;
use super::unmap;
use super::with_mm;
use super::Out;
use super::Probe;
use super::UserMemory;
use crate::Access;
use crate::DevPagemap;
use crate::DevicePages;
use crate::Huge;
use crate::LockedVma;
use crate::Migration;
use crate::PagePlace;
use crate::PageView;
use crate::Patience;
use crate::RangeBuffer;
use crate::Source;
use crate::Window;
use crate::BLOCK_PAGES;
use crate::PMD_ORDER;

/// Collects a block for the device, has `fill` fill the slots, and commits. Returns the number of
/// pages that moved.
pub(super) fn move_block(
    pagemap: &DevPagemap<Probe>,
    memory: &UserMemory,
    fill: impl FnMut(Out<'_, '_>) -> Result,
) -> Result<usize> {
    move_out_by(pagemap, memory.range(0..BLOCK_PAGES), Huge::Keep, fill)
}

/// Moves a block to block 0 of the device as one folio.
pub(super) fn move_whole(pagemap: &DevPagemap<Probe>, memory: &UserMemory) -> Result<usize> {
    move_block(pagemap, memory, |slot| {
        let folio = pagemap.take(DevicePages::new(0, slot.order())?)?;
        slot.fill(folio)
    })
}

/// Splits a block, and gives pages of block 0 of the device to the first `npages` pages of it.
pub(super) fn move_split(
    pagemap: &DevPagemap<Probe>,
    memory: &UserMemory,
    npages: usize,
) -> Result<usize> {
    move_block(pagemap, memory, |slot| {
        let mut small = slot.split()?;
        while let Some(slot) = small.next() {
            if slot.nth() < npages {
                let folio = pagemap.take(DevicePages::new(slot.nth(), 0)?)?;
                slot.fill(folio)?;
            }
        }
        Ok(())
    })
}

/// Moves pages of a block back to system memory; returns how many moved, and the order of the first
/// slot.
fn move_back(
    pagemap: &DevPagemap<Probe>,
    memory: &UserMemory,
    pages: Range<usize>,
) -> Result<(usize, Option<u32>)> {
    let mut order = None;
    let moved = move_back_by(pagemap, memory.range(pages), |slot| {
        order = order.or(Some(slot.order()));
        slot.fill_system()
    })?;
    Ok((moved, order))
}

/// The first and the last page of a block that was filled with `with`.
pub(super) fn holds(memory: &UserMemory, with: u8) -> Result<bool> {
    Ok(memory.is_filled(0, with)? && memory.is_filled(BLOCK_PAGES - 1, with)?)
}

/// Fills the first and the last page of a block: as the block is aligned, that makes a huge page.
pub(super) fn fill_ends(memory: &UserMemory, with: u8) -> Result {
    memory.fill(0, with)?;
    memory.fill(BLOCK_PAGES - 1, with)
}

/// What the device is told of the pages of a block, of which it gives those that are not `view`.
fn others(
    pagemap: &Arc<DevPagemap<Probe>>,
    memory: &UserMemory,
    expected: PageView,
) -> Result<usize> {
    let mirror = mirror(pagemap)?;
    let mut buffer = RangeBuffer::new()?;
    let mut others = 0;
    with_mm(|mm| {
        mirror.snapshot(mm, memory.range(0..BLOCK_PAGES), &mut buffer, |view| {
            others += usize::from(view != expected);
        })
    })?;
    Ok(others)
}

const WHOLE: PageView = PageView::Mapped {
    place: PagePlace::PrivateLocal,
    writable: true,
    order: PMD_ORDER,
};

const SMALL: PageView = PageView::Mapped {
    place: PagePlace::PrivateLocal,
    writable: true,
    order: 0,
};

#[kunit_tests(hmm_huge)]
mod suite {
    use super::*;

    #[test]
    fn an_untouched_block_is_one_hole() -> Result {
        let pagemap = shared_device(1)?;
        let memory = UserMemory::block()?;
        let mut seen = 0;
        let moved = move_block(&pagemap, &memory, |slot| {
            seen += 1;
            let hole = slot.nth() == 0
                && slot.order() == PMD_ORDER
                && matches!(slot.source(), Source::Hole)
                && matches!(slot.source_at(BLOCK_PAGES), Source::Hole);
            slot.fill(pagemap.take(DevicePages::new(0, PMD_ORDER)?)?)?;
            if hole {
                Ok(())
            } else {
                Err(EFAULT)
            }
        });
        assert_eq!((moved, seen), (Ok(BLOCK_PAGES), 1));
        assert_eq!(pagemap.taken(), BLOCK_PAGES);
        assert_eq!(others(&pagemap, &memory, WHOLE), Ok(0));
        // A CPU that touches one page gets all of them back.
        assert_eq!(memory.is_filled(77, 0), Ok(true));
        assert_eq!(pagemap.taken(), 0);
        assert_eq!(pagemap.ops().faults.get(), 1);
        assert_eq!(pagemap.ops().copies.get(), BLOCK_PAGES);
        assert_eq!(pagemap.ops().freed.get(), BLOCK_PAGES);
        Ok(())
    }

    #[test]
    fn a_huge_page_moves_whole_and_keeps_its_content() -> Result {
        let pagemap = shared_device(1)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 31)?;
        assert_eq!(move_whole(&pagemap, &memory), Ok(BLOCK_PAGES));
        assert_eq!(others(&pagemap, &memory, WHOLE), Ok(0));
        assert_eq!(holds(&memory, 31), Ok(true));
        assert_eq!(memory.is_filled(1, 0), Ok(true));
        assert_eq!(pagemap.taken(), 0);
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
            assert_eq!(move_split(&pagemap, &memory, BLOCK_PAGES), Ok(BLOCK_PAGES));
            assert_eq!(others(&pagemap, &memory, SMALL), Ok(0));
            assert_eq!(pagemap.taken(), BLOCK_PAGES);
            assert_eq!(holds(&memory, content), Ok(true));
            assert_eq!(pagemap.taken(), BLOCK_PAGES - 2);
            assert_eq!(pagemap.evict(0), Ok((BLOCK_PAGES - 2, 0)));
        }
        Ok(())
    }

    #[test]
    fn a_split_block_moves_as_a_whole_or_not_at_all() -> Result {
        for touched in [false, true] {
            for npages in [0, 1, BLOCK_PAGES - 1] {
                let pagemap = shared_device(1)?;
                let memory = UserMemory::block()?;
                if touched {
                    fill_ends(&memory, 33)?;
                }
                let content = if touched { 33 } else { 0 };
                assert_eq!(move_split(&pagemap, &memory, npages), Ok(0));
                assert_eq!(pagemap.taken(), 0);
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
        let result = move_block(&pagemap, &memory, |slot| {
            let mut small = slot.split()?;
            for nth in 0..10 {
                let slot = small.next().ok_or(ENOENT)?;
                slot.fill(pagemap.take(DevicePages::new(nth, 0)?)?)?;
            }
            Err(EIO)
        });
        assert_eq!(result, Err(EIO));
        assert_eq!((pagemap.taken(), pagemap.unused()), (0, 0));
        assert_eq!(pagemap.ops().freed.get(), 10);
        assert_eq!(holds(&memory, 34), Ok(true));
        Ok(())
    }

    #[test]
    fn a_destination_has_the_order_of_its_slot() -> Result {
        let pagemap = shared_device(2)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 35)?;
        let moved = move_block(&pagemap, &memory, |slot| {
            let mut small = pagemap.take(DevicePages::new(0, 0)?)?.init();
            small.fill_zero()?;
            slot.give(small)
        });
        assert_eq!(moved, Err(EINVAL));
        let moved = move_block(&pagemap, &memory, |slot| {
            let mut small = slot.split()?;
            let slot = small.next().ok_or(ENOENT)?;
            slot.fill(pagemap.take(DevicePages::new(BLOCK_PAGES, PMD_ORDER)?)?)
        });
        assert_eq!(moved, Err(EINVAL));
        assert_eq!(pagemap.taken(), 0);
        assert_eq!(holds(&memory, 35), Ok(true));
        Ok(())
    }

    #[test]
    fn a_huge_folio_is_evicted_whole() -> Result {
        let pagemap = shared_device(1)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 36)?;
        assert_eq!(move_whole(&pagemap, &memory), Ok(BLOCK_PAGES));
        assert_eq!(pagemap.evict(0), Ok((BLOCK_PAGES, 0)));
        assert_eq!(holds(&memory, 36), Ok(true));
        assert_eq!(pagemap.ops().faults.get(), 0);
        assert_eq!(pagemap.ops().freed.get(), BLOCK_PAGES);
        Ok(())
    }

    #[test]
    fn without_memory_for_it_a_huge_folio_is_not_evicted() -> Result {
        let pagemap = shared_device(1)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 37)?;
        assert_eq!(move_whole(&pagemap, &memory), Ok(BLOCK_PAGES));
        pagemap.ops().no_large.set(1);
        assert_eq!(pagemap.evict(0), Err(ENOMEM));
        assert_eq!(pagemap.taken(), BLOCK_PAGES);
        pagemap.ops().no_large.set(0);
        assert_eq!(pagemap.evict(0), Ok((BLOCK_PAGES, 0)));
        assert_eq!(holds(&memory, 37), Ok(true));
        Ok(())
    }

    #[test]
    fn a_huge_folio_comes_back_in_small_pages_when_memory_is_short() -> Result {
        let pagemap = shared_device(1)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 38)?;
        assert_eq!(move_whole(&pagemap, &memory), Ok(BLOCK_PAGES));
        pagemap.ops().no_large.set(1);
        let back = move_back(&pagemap, &memory, 0..BLOCK_PAGES);
        assert_eq!(back, Ok((BLOCK_PAGES, Some(PMD_ORDER))));
        assert_eq!(pagemap.taken(), 0);
        assert_eq!(pagemap.ops().freed.get(), BLOCK_PAGES);
        assert_eq!(holds(&memory, 38), Ok(true));
        Ok(())
    }

    #[test]
    fn no_page_is_lost_when_memory_runs_out_on_the_way() -> Result {
        let pagemap = shared_device(1)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 38)?;
        assert_eq!(move_whole(&pagemap, &memory), Ok(BLOCK_PAGES));
        pagemap.ops().no_large.set(1);
        pagemap.ops().no_small.set(1);
        let back = move_back(&pagemap, &memory, 0..BLOCK_PAGES);
        assert_eq!(back, Err(ENOMEM));
        assert_eq!(pagemap.taken(), BLOCK_PAGES);
        assert_eq!(others(&pagemap, &memory, WHOLE), Ok(0));
        assert_eq!(holds(&memory, 38), Ok(true));
        Ok(())
    }

    #[test]
    fn a_cpu_gets_its_page_when_memory_is_short() -> Result {
        let pagemap = shared_device(1)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 38)?;
        assert_eq!(move_whole(&pagemap, &memory), Ok(BLOCK_PAGES));
        pagemap.ops().no_large.set(1);
        assert_eq!(holds(&memory, 38), Ok(true));
        // The core does not split a folio that a fault has a reference to, but what maps it; so the
        // pages come one by one, each when it is touched.
        let left = pagemap.taken();
        assert!(left <= BLOCK_PAGES - 2);
        assert_eq!(pagemap.ops().freed.get(), BLOCK_PAGES - left);
        assert_eq!(pagemap.evict(0), Ok((left, 0)));
        assert_eq!(holds(&memory, 38), Ok(true));
        Ok(())
    }

    #[test]
    fn a_range_comes_back_as_it_is() -> Result {
        let pagemap = shared_device(1)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 39)?;
        assert_eq!(move_whole(&pagemap, &memory), Ok(BLOCK_PAGES));
        let back = move_back(&pagemap, &memory, 0..BLOCK_PAGES);
        assert_eq!(back, Ok((BLOCK_PAGES, Some(PMD_ORDER))));
        assert_eq!(pagemap.taken(), 0);
        assert_eq!(holds(&memory, 39), Ok(true));
        Ok(())
    }

    #[test]
    fn a_part_of_a_huge_folio_comes_back_alone() -> Result {
        let pagemap = shared_device(1)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 40)?;
        assert_eq!(move_whole(&pagemap, &memory), Ok(BLOCK_PAGES));
        let back = move_back(&pagemap, &memory, 0..8);
        assert_eq!(back, Ok((8, Some(0))));
        assert_eq!(pagemap.taken(), BLOCK_PAGES - 8);
        // The driver has learnt of each piece.
        assert_eq!(pagemap.ops().pieces.get(), BLOCK_PAGES);
        assert_eq!(pagemap.evict(0), Ok((BLOCK_PAGES - 8, 0)));
        assert_eq!(holds(&memory, 40), Ok(true));
        Ok(())
    }

    #[test]
    fn a_part_that_is_unmapped_takes_only_itself_along() -> Result {
        let pagemap = shared_device(1)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 41)?;
        assert_eq!(move_whole(&pagemap, &memory), Ok(BLOCK_PAGES));
        unmap(memory.at(1), 9)?;
        assert_eq!(holds(&memory, 41), Ok(true));
        assert_eq!(memory.is_filled(5, 0), Err(EFAULT));
        pagemap.evict(0)?;
        assert_eq!(pagemap.taken(), 0);
        Ok(())
    }

    #[test]
    fn a_claim_maps_a_huge_folio_as_one() -> Result {
        let pagemap = shared_device(1)?;
        let mirror = mirror(&pagemap)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 42)?;
        let range = memory.range(0..BLOCK_PAGES);
        {
            let mut claim = mirror.claim(range.clone())?;
            let mapped = with_mm(|mm| {
                let mmap = mm.mmap_read_lock();
                let vma = LockedVma::lookup(&mmap, memory.start).ok_or(EFAULT)?;
                let mut window = Window::new(BLOCK_PAGES)?;
                let mut migration =
                    Migration::to_device(vma, range.clone(), Huge::Keep, &pagemap, &mut window)?;
                for slot in migration.slots() {
                    slot.fill(pagemap.take(DevicePages::new(0, PMD_ORDER)?)?)?;
                }
                let mapped = claim.map(&migration.commit());
                Ok(mapped)
            });
            assert_eq!(mapped, Ok(true));
        }
        let read = |nth: usize| {
            let guard = mirror.lock();
            let page = guard.page(memory.at(nth)).ok_or(ENOENT)?;
            let mut byte = [0];
            page.read(9, &mut byte)?;
            Ok::<_, Error>((byte[0], page.device_index().is_some(), page.access()))
        };
        assert_eq!(read(0), Ok((42, true, Access::Write)));
        assert_eq!(read(1), Ok((0, true, Access::Write)));
        assert_eq!(read(BLOCK_PAGES - 1), Ok((42, true, Access::Write)));
        // A CPU takes one page, and with it all of them.
        assert_eq!(memory.is_filled(0, 42), Ok(true));
        assert_eq!(read(BLOCK_PAGES - 1).err(), Some(ENOENT));
        Ok(())
    }

    #[test]
    fn a_fault_maps_a_huge_page_as_one() -> Result {
        let pagemap = shared_device(1)?;
        let mirror = mirror(&pagemap)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 43)?;
        let range = memory.range(0..BLOCK_PAGES);
        let mut buffer = RangeBuffer::new()?;
        for on_device in [false, true] {
            if on_device {
                assert_eq!(move_whole(&pagemap, &memory), Ok(BLOCK_PAGES));
                assert!(mirror.lock().next(range.clone()).is_none());
            }
            let patience = Patience::Bounded;
            with_mm(|mm| {
                mirror.fault(
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
                let guard = mirror.lock();
                let page = guard.page(memory.at(300)).ok_or(ENOENT)?;
                assert_eq!(page.device_index().is_some(), on_device);
                page.write(0, &bytes)?;
            }
            // A part that is cleared takes all of it along: the device faults it in again.
            unmap(memory.at(3), 1)?;
            assert!(mirror.lock().page(memory.at(300)).is_none());
            map_over(memory.at(3), 1, true)?;
            assert_eq!(memory.is_filled(300, 44), Ok(true));
            // A huge page again, for the second round.
            map_over(memory.start, BLOCK_PAGES, true)?;
            fill_ends(&memory, 43)?;
        }
        Ok(())
    }
}
