// SPDX-License-Identifier: GPL-2.0

//! KUnit suites of the driver. The allocator and the requests, which are pure logic, are tested on
//! the host as well, in `rust/host-tests`.

use emu::debugfs::DebugfsDir;
use emu::memory::Memory;
use hmm::counter::Counter;
use hmm::memremap::SyncPoint;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::time::Instant;
use kernel::time::Monotonic;

use crate::device::Device;
use crate::file::{Command, RangeCommand};
use crate::inject::Injection;
use crate::inject::Site;
use crate::pages::BLOCK_PAGES;
use crate::plan::{Outcome, WhenFull};
use crate::pool::Room;
use crate::reserve::Reservation;
use crate::stats::{new_client, Attempts};

mod faults;
mod packet;

fn device(blocks: usize) -> Result<Device> {
    let memory = Memory::lazy(blocks * BLOCK_PAGES)?;
    let injection = Injection::new(DebugfsDir::new(c"dmirror")?);
    Device::new(memory, Arc::pin_init(injection, GFP_KERNEL)?, 0, 2)
}

/// Creates a reservation of `npages` pages.
fn reserve(device: &Device, npages: usize, when_full: WhenFull) -> Result<Reservation<'_>> {
    let mut reservation = Reservation::new(device.pagemap());
    reservation.add_pages(npages, when_full)?;
    Ok(reservation)
}

fn room(device: &Device) -> Room {
    device.pagemap().ops().pool().room()
}

#[kunit_tests(dmirror_pool)]
mod pool {
    use super::*;

    #[test]
    fn a_reservation_holds_pages_until_it_is_dropped() -> Result {
        let device = device(2)?;
        let all = Room {
            pages: 2 * BLOCK_PAGES,
            blocks: 2,
        };
        assert_eq!(room(&device), all);
        let reservation = reserve(&device, 3, WhenFull::Evict)?;
        let rest = Room {
            pages: 2 * BLOCK_PAGES - 3,
            blocks: 1,
        };
        assert_eq!(room(&device), rest);
        drop(reservation);
        assert_eq!(room(&device), all);
        Ok(())
    }

    #[test]
    fn pages_that_are_popped_come_back_one_by_one() -> Result {
        let device = device(1)?;
        let mut reservation = reserve(&device, 2, WhenFull::Evict)?;
        let folio = reservation.pop_page()?.ok_or(ENOENT)?;
        drop(reservation);
        assert_eq!(room(&device).pages, BLOCK_PAGES - 1);
        drop(folio);
        assert_eq!(room(&device).pages, BLOCK_PAGES);
        Ok(())
    }

    #[test]
    fn what_is_reserved_cannot_be_evicted() -> Result {
        let device = device(1)?;
        let most = reserve(&device, BLOCK_PAGES - 1, WhenFull::Evict)?;
        let two = reserve(&device, 2, WhenFull::Evict);
        assert_eq!(two.err(), Some(ENOMEM));
        // The error path has lost nothing.
        assert_eq!(room(&device).pages, 1);
        drop(most);
        assert!(reserve(&device, BLOCK_PAGES, WhenFull::Evict).is_ok());
        Ok(())
    }

    #[test]
    fn a_block_is_taken_apart_for_pages_and_comes_back_whole() -> Result {
        let device = device(1)?;
        let mut reservation = Reservation::new(device.pagemap());
        assert!(reservation.add_block(WhenFull::TakeWhatIsFree)?);
        assert!(!reservation.add_block(WhenFull::TakeWhatIsFree)?);
        assert_eq!(reservation.npages(), BLOCK_PAGES);
        let page = reservation.pop_page()?.ok_or(ENOENT)?;
        assert_eq!(page.pages().npages(), 1);
        assert!(reservation.pop_block().is_none());
        assert_eq!(reservation.npages(), BLOCK_PAGES - 1);
        drop(reservation);
        assert_eq!(room(&device).pages, BLOCK_PAGES - 1);
        drop(page);
        let whole = Room {
            pages: BLOCK_PAGES,
            blocks: 1,
        };
        assert_eq!(room(&device), whole);
        Ok(())
    }

    #[test]
    fn pages_are_handed_out_before_a_block_is_taken_apart() -> Result {
        let device = device(2)?;
        let mut reservation = Reservation::new(device.pagemap());
        assert!(reservation.add_block(WhenFull::Evict)?);
        reservation.add_pages(2, WhenFull::Evict)?;
        assert_eq!(reservation.npages(), BLOCK_PAGES + 2);
        assert_eq!(device.pagemap().ops().pool().reserved(), BLOCK_PAGES + 2);
        let pages = [reservation.pop_page()?, reservation.pop_page()?];
        let block = reservation.pop_block().ok_or(ENOENT)?;
        assert_eq!(block.pages().npages(), BLOCK_PAGES);
        assert_eq!(reservation.npages(), 0);
        assert!(reservation.pop_page()?.is_none());
        assert!(reservation.pop_block().is_none());
        drop((pages, block, reservation));
        assert_eq!(device.pagemap().ops().pool().reserved(), 0);
        assert_eq!(device.pagemap().owned(), 0);
        assert_eq!(room(&device).blocks, 2);
        Ok(())
    }

    #[test]
    fn every_page_of_a_block_can_be_popped_alone() -> Result {
        let device = device(1)?;
        let mut reservation = Reservation::new(device.pagemap());
        assert!(reservation.add_block(WhenFull::TakeWhatIsFree)?);
        let mut pages = KVec::with_capacity(BLOCK_PAGES, GFP_KERNEL)?;
        while let Some(page) = reservation.pop_page()? {
            assert_eq!(page.pages().first(), pages.len());
            pages.push(page, GFP_KERNEL)?;
            assert_eq!(reservation.npages(), BLOCK_PAGES - pages.len());
        }
        assert_eq!(pages.len(), BLOCK_PAGES);
        assert_eq!(room(&device).pages, 0);
        drop(pages);
        assert_eq!(room(&device).blocks, 1);
        Ok(())
    }

    #[test]
    fn there_is_no_block_where_a_page_is_reserved() -> Result {
        let device = device(1)?;
        let page = reserve(&device, 1, WhenFull::Evict)?;
        let mut reservation = Reservation::new(device.pagemap());
        assert!(!reservation.add_block(WhenFull::TakeWhatIsFree)?);
        assert!(!reservation.add_block(WhenFull::Evict)?);
        assert_eq!(reservation.npages(), 0);
        drop(page);
        assert!(reservation.add_block(WhenFull::TakeWhatIsFree)?);
        Ok(())
    }

    #[test]
    fn a_reservation_that_is_told_to_fail_keeps_nothing() -> Result {
        let device = device(1)?;
        let injection = device.pagemap().ops().injection();
        injection.write(c"fail_device_alloc_times", 1)?;
        injection.write(c"fail_device_alloc_interval", 3)?;
        let failed = reserve(&device, 8, WhenFull::Evict);
        assert_eq!(failed.err(), Some(ENOMEM));
        assert_eq!(room(&device).pages, BLOCK_PAGES);
        injection.write(c"fail_device_alloc_times", 1)?;
        let part = reserve(&device, 8, WhenFull::TakeWhatIsFree)?;
        assert_eq!(part.npages(), 2);
        drop(part);
        assert_eq!(reserve(&device, 8, WhenFull::Evict)?.npages(), 8);
        Ok(())
    }

    #[test]
    fn no_more_is_reserved_than_the_limit_says() -> Result {
        let device = device(4)?;
        let pool = device.pagemap().ops().pool();
        // One and a half blocks.
        pool.set_limit(3);
        let most = reserve(&device, 4 * BLOCK_PAGES, WhenFull::TakeWhatIsFree)?;
        assert_eq!(most.npages(), BLOCK_PAGES + BLOCK_PAGES / 2);
        assert_eq!(room(&device).pages, 2 * BLOCK_PAGES + BLOCK_PAGES / 2);
        assert_eq!(reserve(&device, 1, WhenFull::Evict).err(), Some(ENOMEM));
        drop(most);
        let mut reservation = Reservation::new(device.pagemap());
        assert!(reservation.add_block(WhenFull::TakeWhatIsFree)?);
        reservation.add_pages(1, WhenFull::Evict)?;
        // Half a block is left below the limit, so a whole block cannot be reserved.
        let mut other = Reservation::new(device.pagemap());
        assert!(!other.add_block(WhenFull::Evict)?);
        Ok(())
    }

    #[test]
    fn a_limit_holds_for_what_is_reserved_after_it() -> Result {
        let device = device(4)?;
        let pool = device.pagemap().ops().pool();
        let two = reserve(&device, 2 * BLOCK_PAGES, WhenFull::Evict)?;
        pool.set_limit(2);
        assert_eq!(two.npages(), 2 * BLOCK_PAGES);
        assert_eq!(reserve(&device, 1, WhenFull::Evict).err(), Some(ENOMEM));
        pool.set_limit(5);
        assert_eq!(reserve(&device, 7, WhenFull::Evict)?.npages(), 7);
        // No limit, or one above the size of the device.
        for none in [0, 8, 9, u32::MAX] {
            pool.set_limit(none);
            let rest = reserve(&device, 2 * BLOCK_PAGES, WhenFull::Evict)?;
            assert_eq!(room(&device).pages, 0);
            drop(rest);
        }
        Ok(())
    }

    #[test]
    fn without_eviction_there_is_what_is_free() -> Result {
        let device = device(1)?;
        let most = reserve(&device, BLOCK_PAGES - 1, WhenFull::Evict)?;
        let mut rest = reserve(&device, 2, WhenFull::TakeWhatIsFree)?;
        assert!(rest.pop_page()?.is_some());
        assert!(rest.pop_page()?.is_none());
        drop(most);
        Ok(())
    }
}

#[kunit_tests(dmirror_stats)]
mod stats {
    use super::*;

    #[test]
    fn a_pass_is_counted_by_what_the_one_before_came_to() {
        let attempts = Attempts::default();
        let shared = Outcome {
            is_shared: true,
            lacking: 3,
            ..Outcome::default()
        };
        let lacking = Outcome {
            lacking: 3,
            ..Outcome::default()
        };
        let lacks_block = Outcome {
            lacks_block: true,
            ..Outcome::default()
        };
        for outcome in [shared, lacking, lacks_block, Outcome::default()] {
            attempts.again_after(&outcome);
        }
        let Attempts {
            shared,
            no_room,
            busy,
            ..
        } = &attempts;
        assert_eq!([shared, no_room, busy].map(Counter::get), [1, 2, 1]);
    }

    #[test]
    fn each_client_has_a_number_of_its_own() {
        let first = new_client();
        assert!(first > 0 && new_client() > first);
    }
}

/// Returns for each of the next `N` tries of a site whether it fails.
fn failures<const N: usize>(injection: &Injection, site: Site) -> [bool; N] {
    [(); N].map(|()| injection.fails(site))
}

#[kunit_tests(dmirror_inject)]
mod inject {
    use super::*;

    fn injection() -> Result<Arc<Injection>> {
        Arc::pin_init(Injection::new(DebugfsDir::new(c"dmirror")?), GFP_KERNEL)
    }

    const SITES: [(Site, &CStr); 5] = [
        (Site::DeviceAlloc, c"fail_device_alloc_times"),
        (Site::SystemAlloc, c"fail_system_alloc_times"),
        (Site::CopyIn, c"fail_copy_in_times"),
        (Site::CopyOut, c"fail_copy_out_times"),
        (Site::Lock, c"fail_lock_times"),
    ];

    #[test]
    fn nothing_fails_unless_it_is_told_to() -> Result {
        let injection = injection()?;
        for (site, _) in SITES {
            assert_eq!(failures(&injection, site), [false; 3]);
        }
        assert_eq!(injection.write(c"fail_nothing", 1), Err(ENOENT));
        Ok(())
    }

    #[test]
    fn each_site_has_its_own_files() -> Result {
        for (told, file) in SITES {
            let injection = injection()?;
            injection.write(file, 1)?;
            for (site, _) in SITES {
                let expected = site as usize == told as usize;
                assert_eq!(failures(&injection, site), [expected, false]);
            }
        }
        Ok(())
    }

    #[test]
    fn a_site_fails_so_many_times() -> Result {
        let injection = injection()?;
        injection.write(c"fail_copy_in_times", 2)?;
        assert_eq!(
            failures(&injection, Site::CopyIn),
            [true, true, false, false]
        );
        injection.write(c"fail_copy_in_times", u32::MAX)?;
        assert_eq!(failures(&injection, Site::CopyIn), [true; 9]);
        injection.write(c"fail_copy_in_times", 0)?;
        assert_eq!(failures(&injection, Site::CopyIn), [false; 2]);
        Ok(())
    }

    #[test]
    fn only_every_nth_try_fails() -> Result {
        let injection = injection()?;
        injection.write(c"fail_lock_interval", 3)?;
        assert_eq!(failures(&injection, Site::Lock), [false; 4]);
        injection.write(c"fail_lock_times", 2)?;
        let expected = [false, false, true, false, false, true, false, false, false];
        assert_eq!(failures(&injection, Site::Lock), expected);
        for interval in [0, 1] {
            injection.write(c"fail_lock_interval", interval)?;
            injection.write(c"fail_lock_times", 1)?;
            assert_eq!(failures(&injection, Site::Lock), [true, false]);
        }
        Ok(())
    }

    #[test]
    fn a_hundred_percent_and_none_are_no_matter_of_chance() -> Result {
        let injection = injection()?;
        injection.write(c"fail_copy_out_times", u32::MAX)?;
        for percent in [0, 100, 101, u32::MAX] {
            injection.write(c"fail_copy_out_percent", percent)?;
            assert_eq!(failures(&injection, Site::CopyOut), [true; 32]);
        }
        // With so many tries, the test almost certainly detects a mistake.
        injection.write(c"fail_copy_out_percent", 50)?;
        let failed = (0..1000).filter(|_| injection.fails(Site::CopyOut)).count();
        assert!((300..700).contains(&failed));
        Ok(())
    }

    #[test]
    fn a_step_takes_as_long_as_was_said() -> Result {
        let injection = injection()?;
        injection.write(c"delay_walked_us", 5000)?;
        let start = Instant::<Monotonic>::now();
        injection.delay(SyncPoint::RangeWalked);
        assert!(start.elapsed().as_micros_ceil() >= 5000);
        Ok(())
    }
}

#[kunit_tests(dmirror_abi)]
mod abi {
    use super::*;

    #[test]
    fn command_numbers_are_those_of_test_hmm() {
        // _IOWR('H', nr, 40 bytes)
        for (nr, command) in [
            Command::OnRange(RangeCommand::Read),
            Command::OnRange(RangeCommand::Write),
            Command::OnRange(RangeCommand::MigrateToDev),
            Command::OnRange(RangeCommand::MigrateToSys),
            Command::OnRange(RangeCommand::Snapshot),
            Command::OnRange(RangeCommand::Exclusive),
            Command::OnRange(RangeCommand::CheckExclusive),
            Command::Release,
            Command::Flags,
            Command::OnRange(RangeCommand::ReadUnlocked),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(Command::try_from(0xc028_4800 + nr as u32), Ok(command));
        }
        for unknown in [0, 0xc028_480a, 0xc028_4700, 0x4028_4800, u32::MAX] {
            assert_eq!(Command::try_from(unknown), Err(EINVAL));
        }
    }
}
