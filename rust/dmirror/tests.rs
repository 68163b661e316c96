// SPDX-License-Identifier: GPL-2.0

//! KUnit suites of the driver. The allocator and the requests, which are pure logic, are tested on
//! the host as well, in `rust/host-tests`.

use hmm::Vram;
use kernel::alloc::flags::GFP_KERNEL;
use kernel::prelude::*;

use crate::alloc::BLOCK_PAGES;
use crate::device::Device;
use crate::file;
use crate::pool::Reservation;
use crate::pool::Room;
use crate::pool::WhenFull;

fn device(blocks: usize) -> Result<Pin<KBox<Device>>> {
    KBox::pin_init(Device::new(Vram::lazy(blocks * BLOCK_PAGES)?), GFP_KERNEL)
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
        let reservation = Reservation::new(device.pagemap(), 3, WhenFull::Evict)?;
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
        let mut reservation = Reservation::new(device.pagemap(), 2, WhenFull::Evict)?;
        let folio = reservation.pop().ok_or(ENOENT)?.init();
        drop(reservation);
        assert_eq!(room(&device).pages, BLOCK_PAGES - 1);
        drop(folio);
        assert_eq!(room(&device).pages, BLOCK_PAGES);
        Ok(())
    }

    #[test]
    fn what_is_reserved_cannot_be_evicted() -> Result {
        let device = device(1)?;
        let pagemap = device.pagemap();
        let most = Reservation::new(pagemap, BLOCK_PAGES - 1, WhenFull::Evict)?;
        let two = Reservation::new(pagemap, 2, WhenFull::Evict);
        assert_eq!(two.err(), Some(ENOMEM));
        // Nothing was lost on the way to the error.
        assert_eq!(room(&device).pages, 1);
        drop(most);
        assert!(Reservation::new(pagemap, BLOCK_PAGES, WhenFull::Evict).is_ok());
        Ok(())
    }

    #[test]
    fn without_eviction_there_is_what_is_free() -> Result {
        let device = device(1)?;
        let pagemap = device.pagemap();
        let most = Reservation::new(pagemap, BLOCK_PAGES - 1, WhenFull::Evict)?;
        let mut rest = Reservation::new(pagemap, 2, WhenFull::TakeWhatIsFree)?;
        assert!(rest.pop().is_some());
        assert!(rest.pop().is_none());
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
