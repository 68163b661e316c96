// SPDX-License-Identifier: GPL-2.0

//! Migration of the memory of a user address space, on every path.

use super::prelude::*;
use kernel::mm::virt::flags::{DONTEXPAND, MERGEABLE};

/// Moves `npages` pages to pages 0, 1, … of the device, those for which `give` returns true;
/// commits if `commit` is true. Returns the number of pages that moved.
fn migrate(
    pagemap: &Pagemap,
    memory: &UserMemory,
    npages: usize,
    commit: bool,
    give: impl Fn(usize) -> bool,
) -> Result<usize> {
    let mut buffer = MigrateBuffer::new(npages)?;
    let task = kernel::current!();
    let mmap = task.mm().ok_or(EINVAL)?.mmap_read_lock();
    let vma = LockedVma::lookup(&mmap, memory.start).ok_or(EFAULT)?;
    let range = memory.start..memory.start + npages * PAGE_SIZE;
    let mut migration = Migration::to_device(vma, range, LargeFolios::Split, pagemap, &mut buffer)?;
    for entry in migration.entries() {
        if !give(entry.index()) {
            continue;
        }
        let folio = pagemap.reserve(DevicePages::new(entry.index(), 0)?, ())?;
        entry.set_dst(folio)?;
    }
    if !commit {
        return Ok(0);
    }
    let moved = migration.copy()?.commit()?.moved();
    Ok(moved)
}

#[kunit_tests(emu_migrate)]
mod suite {
    use super::*;

    #[test]
    fn pages_go_to_the_device_and_come_back_when_touched() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(4, 10)?;
        assert_eq!(migrate(&pagemap, &memory, 4, true, |_| true), Ok(4));
        assert_eq!(pagemap.owned(), 4);
        assert_eq!(memory.is_filled(2, 12), Ok(true));
        assert_eq!(pagemap.owned(), 3);
        assert_eq!(pagemap.ops().faults.get(), 1);
        memory.fill(0, 99)?;
        for (nth, byte) in [(0, 99), (1, 11), (2, 12), (3, 13)] {
            assert_eq!(memory.is_filled(nth, byte), Ok(true));
        }
        assert_eq!(pagemap.owned(), 0);
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
        assert_eq!(pagemap.owned(), 0);
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
        assert_eq!(pagemap.owned(), 2);
        for nth in 0..4 {
            assert_eq!(memory.is_filled(nth, 30 + nth as u8), Ok(true));
        }
        assert_eq!(pagemap.ops().faults.get(), 2);
        Ok(())
    }

    #[test]
    fn a_destination_of_another_order_is_refused() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(1, 40)?;
        let mut buffer = MigrateBuffer::new(1)?;
        {
            let task = kernel::current!();
            let mmap = task.mm().ok_or(EINVAL)?.mmap_read_lock();
            let vma = LockedVma::lookup(&mmap, memory.start).ok_or(EFAULT)?;
            let range = memory.start..memory.start + PAGE_SIZE;
            let mut migration =
                Migration::to_device(vma, range, LargeFolios::Split, &pagemap, &mut buffer)?;
            let entry = migration.entries().next().ok_or(ENOENT)?;
            let large = pagemap.reserve(DevicePages::new(2, 1)?, ())?;
            assert_eq!(entry.set_dst(large).err(), Some(EINVAL));
            assert_eq!(migration.copy()?.commit()?.moved(), 0);
        }
        assert_eq!(pagemap.owned(), 0);
        assert_eq!(memory.is_filled(0, 40), Ok(true));
        Ok(())
    }

    #[test]
    fn ranges_that_do_not_fit_are_refused() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(2, 50)?;
        let mut buffer = MigrateBuffer::new(4)?;
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
            let result = Migration::to_device(vma, range, LargeFolios::Keep, &pagemap, &mut buffer);
            assert_eq!(result.err(), Some(EINVAL));
        }
        Ok(())
    }

    #[test]
    fn a_migration_shows_what_can_move_and_nothing_else() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(2, 60)?;
        assert_eq!(migrate(&pagemap, &memory, 2, true, |nth| nth == 1), Ok(1));
        let mut buffer = MigrateBuffer::new(2)?;
        {
            let task = kernel::current!();
            let mmap = task.mm().ok_or(EINVAL)?.mmap_read_lock();
            let vma = LockedVma::lookup(&mmap, memory.start).ok_or(EFAULT)?;
            let range = memory.start..memory.start + 2 * PAGE_SIZE;
            let mut out = Migration::to_device(
                vma,
                range.clone(),
                LargeFolios::Split,
                &pagemap,
                &mut buffer,
            )?;
            let mut entries = out.entries();
            let entry = entries.next().ok_or(ENOENT)?;
            assert_eq!((entry.index(), entry.is_hole()), (0, false));
            assert!(entries.next().is_none());
        }
        assert_eq!(pagemap.owned(), 1);
        assert_eq!(memory.is_filled(1, 61), Ok(true));
        Ok(())
    }

    #[test]
    fn eviction_brings_pages_back_without_a_fault() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(4, 70)?;
        assert_eq!(migrate(&pagemap, &memory, 4, true, |_| true), Ok(4));
        assert_eq!(evict(&pagemap, 0), Ok((4, 0)));
        for nth in 0..4 {
            assert_eq!(memory.is_filled(nth, 70 + nth as u8), Ok(true));
        }
        assert_eq!(pagemap.ops().faults.get(), 0);
        Ok(())
    }

    #[test]
    fn small_pages_of_a_former_large_folio_are_evicted() -> Result {
        let pagemap = device(1)?;
        drop(pagemap.reserve(DevicePages::new(0, HPAGE_PMD_ORDER)?, ())?);
        let memory = UserMemory::filled(4, 75)?;
        // Not the first page, which was the head of the large folio.
        assert_eq!(migrate(&pagemap, &memory, 4, true, |nth| nth > 1), Ok(2));
        assert_eq!(evict(&pagemap, 0), Ok((2, 0)));
        assert_eq!(memory.is_filled(3, 78), Ok(true));
        Ok(())
    }

    #[test]
    fn eviction_tries_again_what_could_not_be_copied() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(4, 80)?;
        assert_eq!(migrate(&pagemap, &memory, 4, true, |_| true), Ok(4));
        pagemap.ops().bad_copies.set(3);
        assert_eq!(evict(&pagemap, 0), Ok((4, 0)));
        assert_eq!(pagemap.ops().copies.get(), 4 + 3);
        assert_eq!(memory.is_filled(3, 83), Ok(true));
        Ok(())
    }

    #[test]
    fn a_page_that_cannot_be_copied_is_a_bus_error_and_stays() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(1, 90)?;
        assert_eq!(migrate(&pagemap, &memory, 1, true, |_| true), Ok(1));
        // A kernel access may be retried, byte by byte instead of by words.
        pagemap.ops().bad_copies.set(9);
        assert_eq!(memory.is_filled(0, 90), Err(EFAULT));
        assert_eq!(pagemap.owned(), 1);
        pagemap.ops().bad_copies.set(0);
        assert_eq!(memory.is_filled(0, 90), Ok(true));
        Ok(())
    }

    #[test]
    fn eviction_tells_what_it_could_not_copy() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(2, 110)?;
        assert_eq!(migrate(&pagemap, &memory, 2, true, |_| true), Ok(2));
        // Eviction tries four times.
        pagemap.ops().bad_copies.set(4 * 2);
        assert_eq!(evict(&pagemap, 0), Err(EIO));
        pagemap.ops().bad_copies.set(3 * 2 + 1);
        assert_eq!(evict(&pagemap, 0), Ok((1, 1)));
        assert_eq!(pagemap.ops().bad_copies.get(), 0);
        assert_eq!(memory.is_filled(0, 110), Ok(true));
        assert_eq!(memory.is_filled(1, 111), Ok(true));
        Ok(())
    }

    #[test]
    fn memory_of_a_kind_that_never_migrates_is_refused() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::in_block(0, 1)?;
        set_vm_flags(memory.at(0), DONTEXPAND)?;
        let range = memory.range(0..1);
        assert_eq!(move_out(&pagemap, range.clone()), Err(EINVAL));
        set_vm_flags(memory.at(0), MERGEABLE)?;
        assert_eq!(move_out(&pagemap, range), Err(EOPNOTSUPP));
        Ok(())
    }

    #[test]
    fn pages_come_back_for_whoever_maps_them_wherever_they_lie() -> Result {
        let pagemap = device(1)?;
        // Each page is in a VMA of its own; one VMA begins inside a run of device pages.
        let memories = [
            UserMemory::in_block(0, 1)?,
            UserMemory::in_block(7, 3)?,
            UserMemory::in_block(500, 12)?,
        ];
        let mut next = 0;
        for memory in &memories {
            let npages = if memory.at(0) == memories[0].at(0) {
                1
            } else {
                3
            };
            for index in 0..npages {
                memory.fill(index, 140 + index as u8)?;
            }
            let range = memory.range(0..npages);
            let moved = move_out_by(&pagemap, range, LargeFolios::Split, |entry| {
                let page = DevicePages::new(next, 0)?;
                next += 1;
                entry.set_dst(pagemap.reserve(page, ())?)
            });
            assert_eq!(moved, Ok(npages));
        }
        assert_eq!(evict(&pagemap, 0), Ok((7, 0)));
        assert_eq!(pagemap.ops().faults.get(), 0);
        for memory in &memories {
            assert_eq!(memory.is_filled(0, 140), Ok(true));
        }
        Ok(())
    }

    #[test]
    fn an_eviction_waits_for_nobody_who_changes_the_address_space() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(2, 150)?;
        assert_eq!(move_out(&pagemap, memory.range(0..2)), Ok(2));
        // SAFETY: This runs in a KUnit test, whose address space is its own; it is unlocked below.
        unsafe { bindings::kunit_mmap_write_lock() };
        let locked = evict(&pagemap, 0);
        // SAFETY: The lock was taken above.
        unsafe { bindings::kunit_mmap_write_unlock() };
        assert_eq!(locked, Ok((0, 2)));
        assert_eq!(evict(&pagemap, 0), Ok((2, 0)));
        assert_eq!(memory.is_filled(1, 151), Ok(true));
        Ok(())
    }

    #[test]
    fn memory_that_is_not_anonymous_is_not_shown() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::in_block(0, 3)?;
        map_shared_over(memory.at(0), 3)?;
        memory.fill(1, 120)?;
        let range = memory.range(0..3);
        let moved = move_out_by(&pagemap, range, LargeFolios::Keep, |_| Err(EFAULT));
        assert_eq!(moved, Ok(0));
        assert_eq!(memory.is_filled(1, 120), Ok(true));
        Ok(())
    }

    #[test]
    fn what_moved_can_be_told_page_by_page() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(3, 130)?;
        let mut buffer = MigrateBuffer::new(3)?;
        let task = kernel::current!();
        let mmap = task.mm().ok_or(EINVAL)?.mmap_read_lock();
        let vma = LockedVma::lookup(&mmap, memory.start).ok_or(EFAULT)?;
        let range = memory.range(0..3);
        let mut migration =
            Migration::to_device(vma, range, LargeFolios::Split, &pagemap, &mut buffer)?;
        for entry in migration.entries().filter(|entry| entry.index() != 1) {
            let folio = pagemap.reserve(DevicePages::new(entry.index(), 0)?, ())?;
            entry.set_dst(folio)?;
        }
        let migrated = migration.copy()?.commit()?;
        assert_eq!(migrated.moved(), 2);
        let told = [0, 1, 2, 3, usize::MAX].map(|nth| migrated.moved_to(nth).is_some());
        assert_eq!(told, [true, false, true, false, false]);
        Ok(())
    }

    #[test]
    fn the_driver_learns_of_the_steps_in_their_order() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(1, 140)?;
        let out = [
            SyncPoint::ToDeviceCollected,
            SyncPoint::ToDeviceCopied,
            SyncPoint::ToDeviceMoved,
        ];
        let back = [
            SyncPoint::ToSystemCollected,
            SyncPoint::ToSystemCopied,
            SyncPoint::ToSystemMoved,
        ];
        let seen = || {
            let seen = pagemap.ops().steps.get();
            pagemap.ops().steps.set(0);
            seen
        };
        assert_eq!(migrate(&pagemap, &memory, 1, true, |_| true), Ok(1));
        assert_eq!(seen(), steps(&out));
        assert_eq!(memory.is_filled(0, 140), Ok(true));
        assert_eq!(seen(), steps(&[SyncPoint::CpuFault]) << 12 | steps(&back));
        assert_eq!(migrate(&pagemap, &memory, 1, true, |_| true), Ok(1));
        seen();
        assert_eq!(evict(&pagemap, 0), Ok((1, 0)));
        assert_eq!(seen(), steps(&back));
        // A dropped migration does not copy.
        assert_eq!(migrate(&pagemap, &memory, 1, false, |_| true), Ok(0));
        assert_eq!(seen(), 0);
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
