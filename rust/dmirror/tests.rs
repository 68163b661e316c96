// SPDX-License-Identifier: GPL-2.0

//! KUnit suites of the driver. The allocator and the requests, which are pure logic, are tested on
//! the host as well, in `rust/host-tests`.

use hmm::DeviceRegion;
use hmm::Vram;
use kernel::prelude::*;
use kernel::sync::Arc;

use crate::alloc::BLOCK_PAGES;
use crate::device::Device;
use crate::file;
use crate::inject::Injection;
use crate::pool::Reservation;
use crate::pool::Room;
use crate::pool::WhenFull;

fn device(blocks: usize) -> Result<Device> {
    let vram = Vram::lazy(blocks * BLOCK_PAGES)?;
    let injection = Arc::pin_init(Injection::new(), GFP_KERNEL)?;
    Device::new(DeviceRegion::private(vram, c"dmirror test")?, injection)
}

/// A reservation of `npages` pages.
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
        let folio = reservation.pop_page()?.ok_or(ENOENT)?.init();
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
        // Nothing was lost on the way to the error.
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

#[kunit_tests(dmirror_abi)]
mod abi {
    use super::*;

    #[test]
    fn command_numbers_are_those_of_test_hmm() {
        // _IOWR('H', nr, 40 bytes)
        assert_eq!(file::MIGRATE_TO_DEV, 0xc028_4802);
        assert_eq!(file::MIGRATE_TO_SYS, 0xc028_4803);
        assert_eq!(file::READ, 0xc028_4800);
        assert_eq!(file::WRITE, 0xc028_4801);
        assert_eq!(file::SNAPSHOT, 0xc028_4804);
        assert_eq!(file::EXCLUSIVE, 0xc028_4805);
        assert_eq!(file::CHECK_EXCLUSIVE, 0xc028_4806);
        assert_eq!(file::RELEASE, 0xc028_4807);
        assert_eq!(file::FLAGS, 0xc028_4808);
        assert_eq!(file::READ_UNLOCKED, 0xc028_4809);
    }
}
