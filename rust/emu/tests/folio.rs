// SPDX-License-Identifier: GPL-2.0

//! The states of a folio that a driver owns.

use super::prelude::*;

#[kunit_tests(emu_folio)]
mod suite {
    use super::*;

    #[test]
    fn a_large_folio_comes_back_with_its_order() -> Result {
        let pagemap = device(2)?;
        let pages = DevicePages::new(HPAGE_PMD_NR, HPAGE_PMD_ORDER)?;
        drop(pagemap.reserve(pages, ())?);
        assert_eq!(pagemap.ops().freed.get(), HPAGE_PMD_NR);
        assert_eq!(pagemap.owned(), 0);
        // Small pages of a former large folio, and then the large folio again.
        for nth in [0, 1, HPAGE_PMD_NR - 1] {
            drop(pagemap.reserve(DevicePages::new(HPAGE_PMD_NR + nth, 0)?, ())?);
        }
        assert_eq!(pagemap.ops().freed.get(), HPAGE_PMD_NR + 3);
        drop(pagemap.reserve(pages, ())?);
        assert_eq!(pagemap.ops().freed.get(), 2 * HPAGE_PMD_NR + 3);
        Ok(())
    }

    #[test]
    fn a_block_in_small_pages_comes_back_page_by_page() -> Result {
        let pagemap = device(1)?;
        let block = DevicePages::new(0, HPAGE_PMD_ORDER)?;
        let mut pages = pagemap.reserve(block, ())?.into_pages();
        let mut taken = KVec::with_capacity(HPAGE_PMD_NR, GFP_KERNEL)?;
        for nth in 0..HPAGE_PMD_NR / 2 {
            let folio = pages.pop().ok_or(ENOENT)?;
            assert_eq!(folio.pages(), DevicePages::new(nth, 0)?);
            taken.push(folio, GFP_KERNEL)?;
        }
        assert_eq!(pages.npages(), HPAGE_PMD_NR / 2);
        assert_eq!(pagemap.owned(), HPAGE_PMD_NR);
        drop(pages);
        assert_eq!(pagemap.owned(), HPAGE_PMD_NR / 2);
        drop(taken);
        assert_eq!(pagemap.owned(), 0);
        assert_eq!(pagemap.ops().freed.get(), HPAGE_PMD_NR);
        assert!(pagemap.reserve(block, ()).is_ok());
        Ok(())
    }

    #[test]
    fn pages_are_reserved_all_or_none() -> Result {
        let pagemap = device(1)?;
        let one = pagemap.reserve(DevicePages::new(100, 0)?, ())?;
        for (pages, error) in [
            (0..101, EBUSY),
            (100..HPAGE_PMD_NR, EBUSY),
            (3..3, EINVAL),
            (3..HPAGE_PMD_NR + 1, EINVAL),
        ] {
            assert_eq!(pagemap.reserve_pages(pages, ()).err(), Some(error));
        }
        assert_eq!(pagemap.owned(), 1);
        let pages = pagemap.reserve_pages(37..100, ())?;
        assert_eq!((pages.npages(), pagemap.owned()), (63, 64));
        drop(one);
        drop(pages);
        assert_eq!((pagemap.owned(), pagemap.ops().freed.get()), (0, 64));
        Ok(())
    }

    #[test]
    fn a_folio_of_another_device_is_refused() -> Result {
        let (pagemap, other) = (device(1)?, device(1)?);
        let memory = UserMemory::filled(1, 7)?;
        let moved = move_out_by(&pagemap, memory.range(0..1), LargeFolios::Split, |entry| {
            entry.set_dst(other.reserve(DevicePages::new(0, 0)?, ())?)
        });
        assert_eq!(moved, Err(EINVAL));
        assert_eq!((other.owned(), pagemap.owned()), (0, 0));
        assert_eq!(memory.is_filled(0, 7), Ok(true));
        Ok(())
    }
}
