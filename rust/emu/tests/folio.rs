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
        // Small pages of what was a large folio, and the large folio again.
        for nth in [0, 1, HPAGE_PMD_NR - 1] {
            drop(pagemap.reserve(DevicePages::new(HPAGE_PMD_NR + nth, 0)?, ())?);
        }
        assert_eq!(pagemap.ops().freed.get(), HPAGE_PMD_NR + 3);
        drop(pagemap.reserve(pages, ())?);
        assert_eq!(pagemap.ops().freed.get(), 2 * HPAGE_PMD_NR + 3);
        Ok(())
    }

    #[test]
    fn halves_come_down_to_pages_and_all_of_them_back() -> Result {
        let pagemap = device(1)?;
        let mut folios = KVec::with_capacity(HPAGE_PMD_NR, GFP_KERNEL)?;
        folios.push(
            pagemap.reserve(DevicePages::new(0, HPAGE_PMD_ORDER)?, ())?,
            GFP_KERNEL,
        )?;
        let mut pages = KVec::with_capacity(HPAGE_PMD_NR, GFP_KERNEL)?;
        while let Some(folio) = folios.pop() {
            if folio.pages().order() == 0 {
                assert_eq!(folio.pages().first(), pages.len());
                pages.push(folio, GFP_KERNEL)?;
                continue;
            }
            let order = folio.pages().order();
            let (low, high) = folio.halve()?;
            assert_eq!(low.pages().order(), order - 1);
            assert_eq!(high.pages().order(), order - 1);
            folios.push(high, GFP_KERNEL)?;
            folios.push(low, GFP_KERNEL)?;
        }
        assert_eq!(pages.len(), HPAGE_PMD_NR);
        // The driver heard of two pieces each time.
        assert_eq!(pagemap.ops().pieces.get(), 2 * (HPAGE_PMD_NR - 1));
        assert_eq!(pagemap.owned(), HPAGE_PMD_NR);
        drop(pages);
        assert_eq!(pagemap.owned(), 0);
        assert_eq!(pagemap.ops().freed.get(), HPAGE_PMD_NR);
        assert!(pagemap
            .reserve(DevicePages::new(0, HPAGE_PMD_ORDER)?, ())
            .is_ok());
        Ok(())
    }

    #[test]
    fn a_page_has_no_halves_and_comes_back() -> Result {
        let pagemap = device(1)?;
        let page = pagemap.reserve(DevicePages::new(1, 0)?, ())?;
        assert_eq!(page.halve().err(), Some(EINVAL));
        assert_eq!(pagemap.owned(), 0);
        assert_eq!(pagemap.ops().freed.get(), 1);
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
