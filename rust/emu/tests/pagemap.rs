// SPDX-License-Identifier: GPL-2.0

//! Registration and reservation of pages.

use super::prelude::*;
use kernel::sync::Completion;

/// A device that leaves as much as possible to the library, and runs out of system memory.
struct Plain(Arc<Told>);

/// Data that the test shares with the device: its observations, and its instructions.
#[pin_data]
struct Told {
    freed: Counter,
    /// Not 0 while there is no system memory, which lasts until a fault occurs.
    is_short: Counter,
    /// The error that a fault got when it reserved a page.
    refused: Counter,
    #[pin]
    asked: Completion,
}

impl DeviceOps for Plain {
    type FolioData = ();
    type Hooks = Plain;

    fn folio_free(&self, pages: DevicePages, (): ()) {
        self.0.freed.add(pages.npages());
    }

    fn migrate_to_ram(&self, fault: CpuFault<'_, Emulated<Self>>) -> FaultAnswer {
        let page = DevicePages::new(HPAGE_PMD_NR - 1, 0);
        if let Err(error) = page.and_then(|page| fault.pagemap().reserve(page, ()).map(drop)) {
            self.0.refused.set(error.to_errno().unsigned_abs() as usize);
        }
        self.0.is_short.set(0);
        match fault.migrate_to_system() {
            Ok(()) => fault.retry(),
            Err(_) => fault.bus_error(),
        }
    }
}

impl Hooks for Plain {
    fn should_fail_alloc(&self, _order: u32) -> Result {
        self.0.asked.complete_all();
        if self.0.is_short.get() == 0 {
            Ok(())
        } else {
            Err(ENOMEM)
        }
    }
}

fn plain() -> Result<(Arc<Told>, Pin<KBox<crate::device::Pagemap<Plain>>>)> {
    let told = Arc::pin_init(
        pin_init!(Told {
            freed: Counter::default(),
            is_short: Counter::default(),
            refused: Counter::default(),
            asked <- Completion::new(),
        }),
        GFP_KERNEL,
    )?;
    let memory = Memory::lazy(HPAGE_PMD_NR)?;
    memory.populate(0..HPAGE_PMD_NR)?;
    let options = Options {
        owner: Owner::new()?,
        node: Some(0),
        hooks: Plain(told.clone()),
    };
    let driver = Ok::<_, Error>(Plain(told.clone()));
    let pagemap = Emulated::new(memory, c"hmm test", options, driver)?;
    Ok((told, KBox::pin_init(pagemap, GFP_KERNEL)?))
}

#[kunit_tests(emu_pagemap)]
mod suite {
    use super::*;

    #[test]
    fn a_page_has_one_owner_at_a_time() -> Result {
        let pagemap = device(1)?;
        let page = DevicePages::new(5, 0)?;
        let folio = pagemap.reserve(page, ())?;
        assert_eq!(pagemap.reserve(page, ()).err(), Some(EBUSY));
        assert_eq!(
            pagemap
                .reserve(DevicePages::new(0, HPAGE_PMD_ORDER)?, ())
                .err(),
            Some(EBUSY)
        );
        assert_eq!(pagemap.owned(), 1);
        drop(folio);
        assert_eq!(pagemap.owned(), 0);
        assert_eq!(pagemap.ops().freed.get(), 1);
        assert!(pagemap.reserve(page, ()).is_ok());
        Ok(())
    }

    #[test]
    fn only_pages_of_the_device_can_be_reserved() -> Result {
        let pagemap = device(1)?;
        let beyond = DevicePages::new(HPAGE_PMD_NR, 0)?;
        assert_eq!(pagemap.reserve(beyond, ()).err(), Some(EINVAL));
        assert_eq!(pagemap.ops().freed.get(), 0);
        Ok(())
    }

    #[test]
    fn pages_without_memory_cannot_be_copied_to() -> Result {
        let probe = Arc::new(Probe::default(), GFP_KERNEL)?;
        let options = Options {
            owner: Owner::new()?,
            node: None,
            hooks: ProbeHooks(probe.clone()),
        };
        let driver = Ok::<_, Error>(Device(probe));
        let memory = Memory::lazy(HPAGE_PMD_NR)?;
        let pagemap = Emulated::new(memory, c"hmm test", options, driver)?;
        let pagemap: Pin<KBox<Pagemap>> = KBox::pin_init(pagemap, GFP_KERNEL)?;
        let memory = UserMemory::filled(1, 12)?;
        assert_eq!(move_out(&pagemap, memory.range(0..1)), Ok(0));
        pagemap.ops().memory().populate(0..HPAGE_PMD_NR)?;
        assert_eq!(move_out(&pagemap, memory.range(0..1)), Ok(1));
        assert_eq!(memory.is_filled(0, 12), Ok(true));
        Ok(())
    }

    #[test]
    fn a_driver_that_cannot_be_made_leaves_nothing_behind() -> Result {
        let made = || {
            let options = Options {
                owner: Owner::new()?,
                node: None,
                hooks: ProbeHooks(Arc::new(Probe::default(), GFP_KERNEL)?),
            };
            let driver: Result<Device> = Err(ENXIO);
            let memory = Memory::lazy(HPAGE_PMD_NR)?;
            KBox::pin_init(
                Emulated::new(memory, c"hmm test", options, driver)?,
                GFP_KERNEL,
            )
        };
        for _ in 0..3 {
            let made: Result<Pin<KBox<Pagemap>>> = made();
            assert_eq!(made.err(), Some(ENXIO));
        }
        Ok(())
    }

    #[test]
    fn the_library_does_what_a_driver_leaves_to_it() -> Result {
        let (told, pagemap) = plain()?;
        let memory = UserMemory::filled(2, 11)?;
        assert_eq!(move_out(&pagemap, memory.range(0..2)), Ok(2));
        assert_eq!(memory.is_filled(0, 11), Ok(true));
        assert_eq!(told.refused.get(), 0);
        assert_eq!(evict(&pagemap, 0), Ok((1, 0)));
        assert_eq!(memory.is_filled(1, 12), Ok(true));
        // This includes the page that the fault reserved and gave back.
        assert_eq!(told.freed.get(), 3);
        drop(pagemap.reserve(DevicePages::new(0, 1)?, ())?.into_pages());
        assert_eq!(told.freed.get(), 5);
        Ok(())
    }

    #[test]
    fn no_page_can_be_reserved_while_the_pagemap_goes() -> Result {
        let (told, pagemap) = plain()?;
        let memory = UserMemory::filled(1, 13)?;
        assert_eq!(move_out(&pagemap, memory.range(0..1)), Ok(1));
        told.is_short.set(1);
        let (address, going) = (memory.at(0), told.clone());
        let other = Other::start(move |mm| {
            going.asked.wait_for_completion();
            touch(mm, address)
        })?;
        // Drop waits for the page, which only the fault moves back.
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
            assert_eq!(pagemap.owned(), 0);
            let folio = pagemap.reserve(DevicePages::new(round, 0)?, ())?;
            drop(folio);
            assert_eq!(pagemap.ops().freed.get(), 1);
        }
        Ok(())
    }

    #[test]
    fn evicting_a_block_that_does_not_exist_is_refused() -> Result {
        let pagemap = device(2)?;
        assert_eq!(evict(&pagemap, 2).err(), Some(EINVAL));
        assert_eq!(evict(&pagemap, usize::MAX).err(), Some(EINVAL));
        assert_eq!(evict(&pagemap, 1), Ok((0, 0)));
        Ok(())
    }
}
