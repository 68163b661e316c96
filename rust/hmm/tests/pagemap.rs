// SPDX-License-Identifier: GPL-2.0

//! Registration, and taking pages.

use kernel::alloc::flags::GFP_KERNEL;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::Completion;
use kernel::time::delay::fsleep;
use kernel::time::Delta;

use super::answer;
use super::device;
use super::move_out;
use super::other::touch;
use super::other::Other;
use super::region;
use super::shared_device;
use super::Counter;
use super::Pagemap;
use super::Probe;
use super::UserMemory;
use crate::CpuFault;
use crate::DevPagemap;
use crate::DevPagemapOps;
use crate::DevicePages;
use crate::DeviceRegion;
use crate::FaultAnswer;
use crate::Vram;
use crate::BLOCK_PAGES;
use crate::PMD_ORDER;

/// A device that leaves to the library what it may, and runs short of system memory.
struct Plain(Arc<Told>);

/// What it has learnt, and what it is told to do.
#[pin_data]
struct Told {
    freed: Counter,
    /// There is no system memory until a fault.
    is_short: Counter,
    /// The error that a fault got when it took a page.
    refused: Counter,
    #[pin]
    asked: Completion,
}

impl DevPagemapOps for Plain {
    fn folio_free(&self, pages: DevicePages) {
        self.0.freed.add(pages.npages());
    }

    fn migrate_to_ram(&self, fault: CpuFault<'_, Self>) -> FaultAnswer {
        let page = DevicePages::new(BLOCK_PAGES - 1, 0);
        if let Err(error) = page.and_then(|page| fault.pagemap().take(page).map(drop)) {
            self.0.refused.set(error.to_errno().unsigned_abs() as usize);
        }
        self.0.is_short.set(0);
        let npages = fault.npages();
        answer(fault, npages)
    }

    fn before_system_alloc(&self, _order: u32) -> Result {
        self.0.asked.complete_all();
        if self.0.is_short.get() == 0 {
            Ok(())
        } else {
            Err(ENOMEM)
        }
    }
}

fn plain() -> Result<(Arc<Told>, Pin<KBox<DevPagemap<Plain>>>)> {
    let told = Arc::pin_init(
        pin_init!(Told {
            freed: Counter::default(),
            is_short: Counter::default(),
            refused: Counter::default(),
            asked <- Completion::new(),
        }),
        GFP_KERNEL,
    )?;
    let pagemap = DevPagemap::new(region(1)?, Plain(told.clone()));
    Ok((told, KBox::pin_init(pagemap, GFP_KERNEL)?))
}

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
    fn taken_pages_are_counted_block_by_block() -> Result {
        let pagemap = device(2)?;
        let first = pagemap.take(DevicePages::new(BLOCK_PAGES - 1, 0)?)?;
        let second = pagemap.take(DevicePages::new(BLOCK_PAGES, 2)?)?.init();
        let taken = || [0, 1, 2, usize::MAX].map(|block| pagemap.taken_in(block));
        assert_eq!(taken(), [1, 4, 0, 0]);
        assert_eq!((pagemap.taken(), pagemap.unused()), (5, 1));
        drop(first);
        assert_eq!(taken(), [0, 4, 0, 0]);
        drop(second);
        assert_eq!(taken(), [0; 4]);
        Ok(())
    }

    #[test]
    fn what_cannot_be_registered_gives_its_addresses_back() -> Result {
        let addresses = region(1)?;
        let start = addresses.range().start;
        let nothing: Result<Probe> = Err(ENXIO);
        let pagemap: Result<Pagemap> =
            KBox::pin_init(DevPagemap::new(addresses, nothing), GFP_KERNEL);
        assert_eq!(pagemap.err(), Some(ENXIO));
        assert_eq!(region(1)?.range().start, start);
        Ok(())
    }

    #[test]
    fn who_waits_for_an_eviction_finds_its_pages_unlocked() -> Result {
        let pagemap = shared_device(1)?;
        // There is none.
        pagemap.wait_for_eviction();
        let memory = UserMemory::filled(2, 1)?;
        assert_eq!(move_out(&pagemap, memory.range(0..2)), Ok(2));
        pagemap.ops().steps.set(0);
        pagemap.ops().slow.set(30);
        let evicted = pagemap.clone();
        let other = Other::start(move |_| evicted.evict(0).map(drop))?;
        for _ in 0..1000 {
            if pagemap.ops().steps.get() != 0 {
                break;
            }
            fsleep(Delta::from_millis(1));
        }
        pagemap.wait_for_eviction();
        assert_eq!(pagemap.taken(), 0);
        assert_eq!(other.wait(), Ok(()));
        Ok(())
    }

    #[test]
    fn the_library_does_what_a_driver_leaves_to_it() -> Result {
        let (told, pagemap) = plain()?;
        let memory = UserMemory::filled(2, 11)?;
        assert_eq!(move_out(&pagemap, memory.range(0..2)), Ok(2));
        assert_eq!(memory.is_filled(0, 11), Ok(true));
        assert_eq!(told.refused.get(), 0);
        assert_eq!(pagemap.evict(0), Ok((1, 0)));
        assert_eq!(memory.is_filled(1, 12), Ok(true));
        // With the page that the fault took, and gave back.
        assert_eq!(told.freed.get(), 3);
        let (low, high) = pagemap.take(DevicePages::new(0, 1)?)?.halve()?;
        drop((low.init(), high));
        assert_eq!(told.freed.get(), 5);
        Ok(())
    }

    #[test]
    fn no_page_can_be_taken_while_the_pagemap_goes() -> Result {
        let (told, pagemap) = plain()?;
        let memory = UserMemory::filled(1, 13)?;
        assert_eq!(move_out(&pagemap, memory.range(0..1)), Ok(1));
        told.is_short.set(1);
        let (address, going) = (memory.at(0), told.clone());
        let other = Other::start(move |mm| {
            going.asked.wait_for_completion();
            touch(mm, address)
        })?;
        // It waits for the page, which only the fault brings back.
        drop(pagemap);
        assert_eq!(
            told.refused.get(),
            ENODEV.to_errno().unsigned_abs() as usize
        );
        assert_eq!(other.wait(), Ok(()));
        assert_eq!(memory.is_filled(0, 13), Ok(true));
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
