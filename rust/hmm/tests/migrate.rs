// SPDX-License-Identifier: GPL-2.0

//! Migration of the memory of a user address space, on every path.

use kernel::mm::virt::flags::DONTEXPAND;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;

use super::device;
use super::map_shared_over;
use super::move_back_by;
use super::move_out;
use super::move_out_by;
use super::set_vm_flags;
use super::steps;
use super::Pagemap;
use super::UserMemory;
use crate::DevicePages;
use crate::Huge;
use crate::LockedVma;
use crate::Migration;
use crate::Source;
use crate::Step;
use crate::Window;
use crate::BLOCK_PAGES;
use crate::PMD_ORDER;

/// Moves `npages` pages to pages 0, 1, … of the device, as far as `give` says so for each; commits
/// if `commit` says so. Returns the number of pages that moved.
fn migrate(
    pagemap: &Pagemap,
    memory: &UserMemory,
    npages: usize,
    commit: bool,
    give: impl Fn(usize) -> bool,
) -> Result<usize> {
    let mut window = Window::new(npages)?;
    let task = kernel::current!();
    let mmap = task.mm().ok_or(EINVAL)?.mmap_read_lock();
    let vma = LockedVma::lookup(&mmap, memory.start).ok_or(EFAULT)?;
    let range = memory.start..memory.start + npages * PAGE_SIZE;
    let mut migration = Migration::to_device(vma, range, Huge::Split, pagemap, &mut window)?;
    for slot in migration.slots() {
        if !give(slot.nth()) {
            continue;
        }
        let folio = pagemap.take(DevicePages::new(slot.nth(), 0)?)?;
        slot.fill(folio)?;
    }
    if !commit {
        return Ok(0);
    }
    let moved = migration.commit().moved();
    Ok(moved)
}

#[kunit_tests(hmm_migrate)]
mod suite {
    use super::*;

    #[test]
    fn pages_go_to_the_device_and_come_back_when_touched() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(4, 10)?;
        assert_eq!(migrate(&pagemap, &memory, 4, true, |_| true), Ok(4));
        assert_eq!(pagemap.taken(), 4);
        assert_eq!(memory.is_filled(2, 12), Ok(true));
        assert_eq!(pagemap.taken(), 3);
        assert_eq!(pagemap.ops().faults.get(), 1);
        memory.fill(0, 99)?;
        for (nth, byte) in [(0, 99), (1, 11), (2, 12), (3, 13)] {
            assert_eq!(memory.is_filled(nth, byte), Ok(true));
        }
        assert_eq!(pagemap.taken(), 0);
        assert_eq!(pagemap.ops().freed.get(), 4);
        Ok(())
    }

    #[test]
    fn holes_become_zeroed_device_pages() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::new(2)?;
        assert_eq!(migrate(&pagemap, &memory, 2, true, |_| true), Ok(2));
        assert_eq!(memory.is_filled(0, 0), Ok(true));
        assert_eq!(memory.is_filled(1, 0), Ok(true));
        assert_eq!(pagemap.ops().faults.get(), 2);
        Ok(())
    }

    #[test]
    fn what_is_not_committed_stays_where_it_was() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(3, 20)?;
        assert_eq!(migrate(&pagemap, &memory, 3, false, |_| true), Ok(0));
        assert_eq!(pagemap.taken(), 0);
        assert_eq!(pagemap.ops().freed.get(), 3);
        for nth in 0..3 {
            assert_eq!(memory.is_filled(nth, 20 + nth as u8), Ok(true));
        }
        assert_eq!(pagemap.ops().faults.get(), 0);
        Ok(())
    }

    #[test]
    fn pages_without_a_destination_stay_where_they_were() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(4, 30)?;
        assert_eq!(
            migrate(&pagemap, &memory, 4, true, |nth| nth % 2 == 1),
            Ok(2)
        );
        assert_eq!(pagemap.taken(), 2);
        for nth in 0..4 {
            assert_eq!(memory.is_filled(nth, 30 + nth as u8), Ok(true));
        }
        assert_eq!(pagemap.ops().faults.get(), 2);
        Ok(())
    }

    #[test]
    fn a_destination_that_was_not_filled_is_refused() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(1, 40)?;
        let mut window = Window::new(1)?;
        {
            let task = kernel::current!();
            let mmap = task.mm().ok_or(EINVAL)?.mmap_read_lock();
            let vma = LockedVma::lookup(&mmap, memory.start).ok_or(EFAULT)?;
            let range = memory.start..memory.start + PAGE_SIZE;
            let mut migration =
                Migration::to_device(vma, range, Huge::Split, &pagemap, &mut window)?;
            let slot = migration.slots().next().ok_or(ENOENT)?;
            let empty = pagemap.take(DevicePages::new(0, 0)?)?.init();
            assert_eq!(slot.give(empty).err(), Some(EINVAL));
            let slot = migration.slots().next().ok_or(ENOENT)?;
            let mut large = pagemap.take(DevicePages::new(2, 1)?)?.init();
            large.fill_zero()?;
            large.fill_zero()?;
            assert_eq!(slot.give(large).err(), Some(EINVAL));
            assert_eq!(migration.commit().moved(), 0);
        }
        assert_eq!(pagemap.taken(), 0);
        assert_eq!(memory.is_filled(0, 40), Ok(true));
        Ok(())
    }

    #[test]
    fn ranges_that_do_not_fit_are_refused() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(2, 50)?;
        let mut window = Window::new(4)?;
        let task = kernel::current!();
        let mmap = task.mm().ok_or(EINVAL)?.mmap_read_lock();
        let vma = LockedVma::lookup(&mmap, memory.start).ok_or(EFAULT)?;
        let start = memory.start;
        for range in [
            start..start,
            start + 1..start + 1 + PAGE_SIZE,
            start..vma.end() + PAGE_SIZE,
            start - PAGE_SIZE..start,
            start..start + 5 * PAGE_SIZE,
        ] {
            let out = range.clone();
            let result = Migration::to_device(vma, out, Huge::Keep, &pagemap, &mut window);
            assert_eq!(result.err(), Some(EINVAL));
            let result = Migration::to_system(vma, range, Huge::Keep, &pagemap, &mut window);
            assert_eq!(result.err(), Some(EINVAL));
        }
        Ok(())
    }

    #[test]
    fn a_migration_shows_what_can_move_and_nothing_else() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(2, 60)?;
        assert_eq!(migrate(&pagemap, &memory, 2, true, |nth| nth == 1), Ok(1));
        let mut window = Window::new(2)?;
        {
            let task = kernel::current!();
            let mmap = task.mm().ok_or(EINVAL)?.mmap_read_lock();
            let vma = LockedVma::lookup(&mmap, memory.start).ok_or(EFAULT)?;
            let range = memory.start..memory.start + 2 * PAGE_SIZE;
            let mut out =
                Migration::to_device(vma, range.clone(), Huge::Split, &pagemap, &mut window)?;
            let mut slots = out.slots();
            let slot = slots.next().ok_or(ENOENT)?;
            assert_eq!(slot.nth(), 0);
            assert!(matches!(slot.source(), Source::System(_)));
            assert!(slots.next().is_none());
            drop(out);

            let mut back = Migration::to_system(vma, range, Huge::Keep, &pagemap, &mut window)?;
            let mut slots = back.slots();
            let slot = slots.next().ok_or(ENOENT)?;
            assert_eq!(slot.nth(), 1);
            let Source::Device(page) = slot.source() else {
                return Err(EFAULT);
            };
            let mut bytes = KVec::from_elem(0_u8, PAGE_SIZE, GFP_KERNEL)?;
            page.read(&mut bytes)?;
            assert!(bytes.iter().all(|&byte| byte == 61));
            assert!(slots.next().is_none());
            assert_eq!(back.commit().moved(), 0);
        }
        assert_eq!(pagemap.taken(), 1);
        assert_eq!(memory.is_filled(1, 61), Ok(true));
        Ok(())
    }

    #[test]
    fn eviction_brings_pages_back_without_a_fault() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(4, 70)?;
        assert_eq!(migrate(&pagemap, &memory, 4, true, |_| true), Ok(4));
        assert_eq!(pagemap.evict(0), Ok((4, 0)));
        for nth in 0..4 {
            assert_eq!(memory.is_filled(nth, 70 + nth as u8), Ok(true));
        }
        assert_eq!(pagemap.ops().faults.get(), 0);
        Ok(())
    }

    #[test]
    fn small_pages_of_a_former_large_folio_are_evicted() -> Result {
        let pagemap = device(1)?;
        drop(pagemap.take(DevicePages::new(0, PMD_ORDER)?)?.init());
        let memory = UserMemory::filled(4, 75)?;
        // Not the first page, where the head of the large folio was.
        assert_eq!(migrate(&pagemap, &memory, 4, true, |nth| nth > 1), Ok(2));
        assert_eq!(pagemap.evict(0), Ok((2, 0)));
        assert_eq!(memory.is_filled(3, 78), Ok(true));
        Ok(())
    }

    #[test]
    fn eviction_tries_again_what_could_not_be_copied() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(4, 80)?;
        assert_eq!(migrate(&pagemap, &memory, 4, true, |_| true), Ok(4));
        pagemap.ops().bad_copies.set(3);
        assert_eq!(pagemap.evict(0), Ok((4, 0)));
        assert_eq!(pagemap.ops().copies.get(), 4 + 3);
        assert_eq!(memory.is_filled(3, 83), Ok(true));
        Ok(())
    }

    #[test]
    fn a_page_that_cannot_be_copied_is_a_bus_error_and_stays() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(1, 90)?;
        assert_eq!(migrate(&pagemap, &memory, 1, true, |_| true), Ok(1));
        // An access from the kernel may be tried again, by bytes for words.
        pagemap.ops().bad_copies.set(9);
        assert_eq!(memory.is_filled(0, 90), Err(EFAULT));
        assert_eq!(pagemap.taken(), 1);
        pagemap.ops().bad_copies.set(0);
        assert_eq!(memory.is_filled(0, 90), Ok(true));
        Ok(())
    }

    #[test]
    fn a_way_back_that_is_given_up_leaves_pages_on_the_device() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(3, 105)?;
        assert_eq!(migrate(&pagemap, &memory, 3, true, |_| true), Ok(3));
        let moved = move_back_by(&pagemap, memory.range(0..3), |slot| match slot.nth() {
            2 => Err(EIO),
            _ => slot.fill_system(),
        });
        assert_eq!(moved, Err(EIO));
        {
            let mut window = Window::new(3)?;
            let mut migration = Migration::evict(&pagemap, 0..3, &mut window)?;
            let slot = migration.slots().next().ok_or(ENOENT)?;
            slot.fill_system()?;
        }
        assert_eq!((pagemap.taken(), pagemap.ops().copies.get()), (3, 3));
        for nth in 0..3 {
            assert_eq!(memory.is_filled(nth, 105 + nth as u8), Ok(true));
        }
        assert_eq!(pagemap.ops().faults.get(), 3);
        Ok(())
    }

    #[test]
    fn eviction_tells_what_it_could_not_copy() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(2, 110)?;
        assert_eq!(migrate(&pagemap, &memory, 2, true, |_| true), Ok(2));
        // It tries four times.
        pagemap.ops().bad_copies.set(4 * 2);
        assert_eq!(pagemap.evict(0), Err(EIO));
        pagemap.ops().bad_copies.set(3 * 2 + 1);
        assert_eq!(pagemap.evict(0), Ok((1, 1)));
        assert_eq!(pagemap.ops().bad_copies.get(), 0);
        assert_eq!(memory.is_filled(0, 110), Ok(true));
        assert_eq!(memory.is_filled(1, 111), Ok(true));
        Ok(())
    }

    #[test]
    fn only_pages_of_the_region_and_the_window_can_be_evicted() -> Result {
        let pagemap = device(1)?;
        let mut window = Window::new(2)?;
        for pages in [
            BLOCK_PAGES - 1..BLOCK_PAGES + 1,
            usize::MAX - 1..usize::MAX,
            0..3,
        ] {
            let result = Migration::evict(&pagemap, pages, &mut window);
            assert_eq!(result.err(), Some(EINVAL));
        }
        // Free pages are left out.
        let mut migration = Migration::evict(&pagemap, 0..2, &mut window)?;
        assert!(migration.slots().next().is_none());
        Ok(())
    }

    #[test]
    fn memory_of_a_kind_that_never_migrates_is_refused() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::in_block(0, 1)?;
        set_vm_flags(memory.at(0), DONTEXPAND)?;
        let range = memory.range(0..1);
        assert_eq!(move_out(&pagemap, range.clone()), Err(EINVAL));
        assert_eq!(move_back_by(&pagemap, range, |_| Ok(())), Err(EINVAL));
        Ok(())
    }

    #[test]
    fn memory_that_is_not_anonymous_is_not_shown() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::in_block(0, 3)?;
        map_shared_over(memory.at(0), 3)?;
        memory.fill(1, 120)?;
        let range = memory.range(0..3);
        let moved = move_out_by(&pagemap, range, Huge::Keep, |_| Err(EFAULT));
        assert_eq!(moved, Ok(0));
        assert_eq!(memory.is_filled(1, 120), Ok(true));
        Ok(())
    }

    #[test]
    fn what_moved_can_be_told_page_by_page() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(3, 130)?;
        let mut window = Window::new(3)?;
        let task = kernel::current!();
        let mmap = task.mm().ok_or(EINVAL)?.mmap_read_lock();
        let vma = LockedVma::lookup(&mmap, memory.start).ok_or(EFAULT)?;
        let range = memory.range(0..3);
        let mut migration = Migration::to_device(vma, range, Huge::Split, &pagemap, &mut window)?;
        for slot in migration.slots().filter(|slot| slot.nth() != 1) {
            let folio = pagemap.take(DevicePages::new(slot.nth(), 0)?)?;
            slot.fill(folio)?;
        }
        let migrated = migration.commit();
        assert_eq!(migrated.moved(), 2);
        let told = [0, 1, 2, 3, usize::MAX].map(|nth| migrated.has_moved(nth));
        assert_eq!(told, [true, false, true, false, false]);
        Ok(())
    }

    #[test]
    fn the_driver_learns_of_the_steps_in_their_order() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(1, 140)?;
        let out = [Step::OutCollected, Step::OutCopied, Step::OutMoved];
        let back = [Step::BackCollected, Step::BackCopied, Step::BackMoved];
        let seen = || {
            let seen = pagemap.ops().steps.get();
            pagemap.ops().steps.set(0);
            seen
        };
        assert_eq!(migrate(&pagemap, &memory, 1, true, |_| true), Ok(1));
        assert_eq!(seen(), steps(&out));
        assert_eq!(memory.is_filled(0, 140), Ok(true));
        assert_eq!(seen(), steps(&[Step::Fault]) << 12 | steps(&back));
        assert_eq!(migrate(&pagemap, &memory, 1, true, |_| true), Ok(1));
        seen();
        assert_eq!(pagemap.evict(0), Ok((1, 0)));
        assert_eq!(seen(), steps(&back));
        // What is dropped has not been copied.
        assert_eq!(migrate(&pagemap, &memory, 1, false, |_| true), Ok(0));
        assert_eq!(seen(), steps(&out[..1]));
        Ok(())
    }

    #[test]
    fn dropping_the_pagemap_brings_pages_back() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(4, 100)?;
        assert_eq!(migrate(&pagemap, &memory, 4, true, |_| true), Ok(4));
        drop(pagemap);
        for nth in 0..4 {
            assert_eq!(memory.is_filled(nth, 100 + nth as u8), Ok(true));
        }
        Ok(())
    }
}
