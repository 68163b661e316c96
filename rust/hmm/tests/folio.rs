// SPDX-License-Identifier: GPL-2.0

//! The states of a folio that a driver owns.

use kernel::alloc::flags::GFP_KERNEL;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;

use super::device;
use super::move_back_by;
use super::move_out;
use super::move_out_by;
use super::UserMemory;
use crate::DevicePages;
use crate::Huge;
use crate::LockedVma;
use crate::Migration;
use crate::Source;
use crate::SystemFolio;
use crate::Window;
use crate::BLOCK_PAGES;
use crate::PMD_ORDER;

#[kunit_tests(hmm_folio)]
mod suite {
    use super::*;

    #[test]
    fn dropping_a_locked_folio_gives_its_page_back() -> Result {
        let pagemap = device(1)?;
        let folio = pagemap.take(DevicePages::new(3, 0)?)?.init();
        assert_eq!(folio.pages().first(), 3);
        assert_eq!(pagemap.taken(), 1);
        drop(folio);
        assert_eq!(pagemap.taken(), 0);
        assert_eq!(pagemap.ops().freed.get(), 1);
        Ok(())
    }

    #[test]
    fn a_large_folio_comes_back_with_its_order() -> Result {
        let pagemap = device(2)?;
        let pages = DevicePages::new(BLOCK_PAGES, PMD_ORDER)?;
        drop(pagemap.take(pages)?.init());
        assert_eq!(pagemap.ops().freed.get(), BLOCK_PAGES);
        assert_eq!(pagemap.taken(), 0);
        // Small pages of what was a large folio, and the large folio again.
        for nth in [0, 1, BLOCK_PAGES - 1] {
            drop(
                pagemap
                    .take(DevicePages::new(BLOCK_PAGES + nth, 0)?)?
                    .init(),
            );
        }
        assert_eq!(pagemap.ops().freed.get(), BLOCK_PAGES + 3);
        drop(pagemap.take(pages)?.init());
        assert_eq!(pagemap.ops().freed.get(), 2 * BLOCK_PAGES + 3);
        Ok(())
    }

    #[test]
    fn a_folio_of_another_device_is_refused() -> Result {
        let pagemap = device(1)?;
        let other = device(1)?;
        let memory = UserMemory::filled(1, 7)?;
        let mut window = Window::new(1)?;
        {
            let task = kernel::current!();
            let mmap = task.mm().ok_or(EINVAL)?.mmap_read_lock();
            let vma = LockedVma::lookup(&mmap, memory.start).ok_or(EFAULT)?;
            let range = memory.start..memory.start + PAGE_SIZE;
            let select = Huge::Split;
            let mut migration = Migration::to_device(vma, range, select, &pagemap, &mut window)?;
            let slot = migration.slots().next().ok_or(ENOENT)?;
            let mut foreign = other.take(DevicePages::new(0, 0)?)?.init();
            foreign.fill_zero()?;
            assert_eq!(slot.give(foreign).err(), Some(EINVAL));
        }
        assert_eq!(other.taken(), 0);
        assert_eq!(memory.is_filled(0, 7), Ok(true));
        Ok(())
    }

    #[test]
    fn a_free_folio_that_was_leaked_does_not_hold_the_pagemap() -> Result {
        let pagemap = device(1)?;
        core::mem::forget(pagemap.take(DevicePages::new(0, 0)?)?);
        drop(pagemap);
        Ok(())
    }

    #[test]
    fn halves_come_down_to_pages_and_all_of_them_back() -> Result {
        let pagemap = device(1)?;
        let mut folios = KVec::with_capacity(BLOCK_PAGES, GFP_KERNEL)?;
        folios.push(pagemap.take(DevicePages::new(0, PMD_ORDER)?)?, GFP_KERNEL)?;
        let mut pages = KVec::with_capacity(BLOCK_PAGES, GFP_KERNEL)?;
        while let Some(folio) = folios.pop() {
            assert_eq!(pagemap.unused(), BLOCK_PAGES);
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
        assert_eq!(pages.len(), BLOCK_PAGES);
        // The driver heard of two pieces each time.
        assert_eq!(pagemap.ops().pieces.get(), 2 * (BLOCK_PAGES - 1));
        assert_eq!(pagemap.taken(), BLOCK_PAGES);
        // Some of them used, the others not.
        let used = pages.pop().ok_or(ENOENT)?.init();
        assert_eq!(used.pages().first(), BLOCK_PAGES - 1);
        assert_eq!(pagemap.unused(), BLOCK_PAGES - 1);
        drop(pages);
        assert_eq!((pagemap.taken(), pagemap.unused()), (1, 0));
        drop(used);
        assert_eq!(pagemap.taken(), 0);
        assert_eq!(pagemap.ops().freed.get(), BLOCK_PAGES);
        assert!(pagemap.take(DevicePages::new(0, PMD_ORDER)?).is_ok());
        Ok(())
    }

    #[test]
    fn a_page_has_no_halves_and_comes_back() -> Result {
        let pagemap = device(1)?;
        let page = pagemap.take(DevicePages::new(1, 0)?)?;
        assert_eq!(page.halve().err(), Some(EINVAL));
        assert_eq!((pagemap.taken(), pagemap.unused()), (0, 0));
        assert_eq!(pagemap.ops().freed.get(), 1);
        Ok(())
    }

    #[test]
    fn only_what_was_filled_can_be_read() -> Result {
        let pagemap = device(1)?;
        let mut folio = pagemap.take(DevicePages::new(2, 1)?)?.init();
        let mut bytes = KVec::from_elem(0xa5_u8, PAGE_SIZE, GFP_KERNEL)?;
        assert_eq!(folio.read(0, &mut bytes).err(), Some(EINVAL));
        folio.fill_zero()?;
        assert!(!folio.is_filled());
        folio.read(0, &mut bytes)?;
        assert!(bytes.iter().all(|&byte| byte == 0));
        assert_eq!(folio.read(1, &mut bytes).err(), Some(EINVAL));
        assert_eq!(folio.read(0, &mut bytes[1..]).err(), Some(EINVAL));
        folio.fill_zero()?;
        assert!(folio.is_filled());
        assert_eq!(folio.fill_zero().err(), Some(EINVAL));
        Ok(())
    }

    #[test]
    fn each_page_of_a_folio_is_filled_once() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(1, 8)?;
        let moved = move_out_by(&pagemap, memory.range(0..1), Huge::Split, |slot| {
            let Source::System(page) = slot.source() else {
                return Err(EFAULT);
            };
            let mut folio = pagemap.take(DevicePages::new(9, 0)?)?.init();
            folio.fill_from(&page)?;
            assert_eq!(folio.fill_from(&page), Err(EINVAL));
            let mut bytes = KVec::from_elem(0_u8, PAGE_SIZE, GFP_KERNEL)?;
            folio.read(0, &mut bytes)?;
            assert!(bytes.iter().all(|&byte| byte == 8));
            slot.give(folio)
        });
        assert_eq!(moved, Ok(1));
        assert_eq!(memory.is_filled(0, 8), Ok(true));
        Ok(())
    }

    #[test]
    fn what_comes_back_needs_a_folio_that_is_filled_and_fits() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(1, 9)?;
        assert_eq!(move_out(&pagemap, memory.range(0..1)), Ok(1));
        let back = |order, npages| {
            move_back_by(&pagemap, memory.range(0..1), |slot| {
                let Source::Device(page) = slot.source() else {
                    return Err(EFAULT);
                };
                let mut folio = if order == 0 {
                    slot.alloc()?
                } else {
                    SystemFolio::new(order)?
                };
                assert_eq!(folio.order(), order);
                for _ in 0..npages {
                    assert!(!folio.is_filled());
                    folio.fill_from(&page)?;
                }
                if folio.is_filled() {
                    assert_eq!(folio.fill_from(&page), Err(EINVAL));
                }
                slot.give(folio)
            })
        };
        assert_eq!(back(0, 0), Err(EINVAL));
        assert_eq!(back(1, 1), Err(EINVAL));
        assert_eq!(back(1, 2), Err(EINVAL));
        assert_eq!(pagemap.taken(), 1);
        assert_eq!(back(0, 1), Ok(1));
        assert_eq!(pagemap.ops().faults.get(), 0);
        assert_eq!(memory.is_filled(0, 9), Ok(true));
        Ok(())
    }

    #[test]
    fn a_page_on_the_device_is_read_whole() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(2, 10)?;
        assert_eq!(move_out(&pagemap, memory.range(0..2)), Ok(2));
        let mut bytes = KVec::from_elem(0_u8, PAGE_SIZE, GFP_KERNEL)?;
        let moved = move_back_by(&pagemap, memory.range(0..2), |slot| {
            let Source::Device(page) = slot.source() else {
                return Err(EFAULT);
            };
            assert_eq!(page.index(), slot.nth());
            assert_eq!(page.read(&mut bytes[1..]), Err(EINVAL));
            page.read(&mut bytes)?;
            assert!(bytes.iter().all(|&byte| byte == 10 + slot.nth() as u8));
            Ok(())
        });
        assert_eq!(moved, Ok(0));
        Ok(())
    }
}
