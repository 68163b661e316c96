// SPDX-License-Identifier: GPL-2.0

//! Registration, and taking pages.

use kernel::prelude::*;

use super::device;
use super::Pagemap;
use super::Probe;
use crate::DevPagemap;
use crate::DevicePages;
use crate::DeviceRegion;
use crate::Vram;
use crate::BLOCK_PAGES;
use crate::PMD_ORDER;

#[kunit_tests(hmm_pagemap)]
mod suite {
    use super::*;

    #[test]
    fn a_page_has_one_owner_at_a_time() -> Result {
        let pagemap = device(1)?;
        let page = DevicePages::new(5, 0)?;
        let folio = pagemap.take(page)?;
        assert_eq!(pagemap.take(page).err(), Some(EBUSY));
        assert_eq!(
            pagemap.take(DevicePages::new(0, PMD_ORDER)?).err(),
            Some(EBUSY)
        );
        assert_eq!(pagemap.taken(), 1);
        drop(folio);
        assert_eq!(pagemap.taken(), 0);
        assert_eq!(pagemap.ops().freed.get(), 1);
        assert!(pagemap.take(page).is_ok());
        Ok(())
    }

    #[test]
    fn only_pages_of_the_region_can_be_taken() -> Result {
        let pagemap = device(1)?;
        let beyond = DevicePages::new(BLOCK_PAGES, 0)?;
        assert_eq!(pagemap.take(beyond).err(), Some(EINVAL));
        assert_eq!(pagemap.ops().freed.get(), 0);
        Ok(())
    }

    #[test]
    fn pages_without_memory_cannot_be_taken() -> Result {
        let region = DeviceRegion::private(Vram::lazy(BLOCK_PAGES)?, c"hmm test")?;
        let pagemap: Pagemap =
            KBox::pin_init(DevPagemap::new(region, Probe::default()), GFP_KERNEL)?;
        let page = DevicePages::new(0, 0)?;
        assert_eq!(pagemap.take(page).err(), Some(ENOMEM));
        pagemap.region().vram().populate(0)?;
        assert!(pagemap.take(page).is_ok());
        Ok(())
    }

    #[test]
    fn registering_again_and_again_leaves_nothing_behind() -> Result {
        for round in 0..5 {
            let pagemap = device(1)?;
            assert_eq!(pagemap.taken(), 0);
            let folio = pagemap.take(DevicePages::new(round, 0)?)?.init();
            drop(folio);
            assert_eq!(pagemap.ops().freed.get(), 1);
        }
        Ok(())
    }

    #[test]
    fn evicting_a_block_that_does_not_exist_is_refused() -> Result {
        let pagemap = device(2)?;
        assert_eq!(pagemap.evict(2).err(), Some(EINVAL));
        assert_eq!(pagemap.evict(usize::MAX).err(), Some(EINVAL));
        assert_eq!(pagemap.evict(1), Ok((0, 0)));
        Ok(())
    }
}
