// SPDX-License-Identifier: GPL-2.0

//! Entries after a migration, and exclusive access.

use hmm::exclusive::ExclusivePage;

use super::prelude::*;

/// Moves the pages of a pending map to pages 0, 1, … of the device; calls `meanwhile` when they
/// have been copied, before they move. Returns the number of pages that moved.
fn move_and_map(
    pending: PendingMap<'_, Device>,
    range: Range<usize>,
    meanwhile: impl FnOnce(LockedVma<'_>) -> Result,
) -> Result<usize> {
    with_mm(|mm| {
        let pagemap = pending.pagemap();
        let mmap = mm.mmap_read_lock();
        let vma = LockedVma::lookup(&mmap, range.start).ok_or(EFAULT)?;
        let mut buffer = MigrateBuffer::new(range.len() / PAGE_SIZE)?;
        let mut migration = pending.migrate(vma, LargeFolios::Split, &mut buffer)?;
        for entry in migration.entries() {
            let folio = pagemap.reserve(DevicePages::new(entry.index(), 0)?, ())?;
            entry.set_dst(folio)?;
        }
        let copying = migration.copy()?;
        meanwhile(vma)?;
        let moved = copying.commit()?.moved();
        Ok(moved)
    })
}

fn access(view: &View<Device>, address: usize) -> Option<Access> {
    let guard = view.lock();
    let page = guard.page(address)?;
    Some(page.access())
}

/// Drops the page, and returns the rest.
pub(super) fn result_of<R>(made: Result<Option<(R, ExclusivePage)>>) -> Result<Option<R>> {
    Ok(made?.map(|(result, _page)| result))
}

/// Makes a page exclusive through a new pending map of the range.
fn exclusive(view: &View<Device>, range: Range<usize>, address: usize) -> Result<Option<()>> {
    let mut pending = view.pending_map(range)?;
    with_mm(|mm| {
        let mmap = mm.mmap_read_lock();
        result_of(pending.make_exclusive(mm, &mmap, address, |_| ()))
    })
}

#[kunit_tests(emu_pending)]
mod suite {
    use super::*;

    #[test]
    fn pages_are_mapped_where_the_process_has_them() -> Result {
        let pagemap = shared_device(1)?;
        let view = view(&pagemap)?;
        let memory = UserMemory::in_block(4, 3)?;
        memory.fill(1, 21)?;
        let range = memory.range(0..3);
        let pending = view.pending_map(range.clone())?;
        assert_eq!(move_and_map(pending, range, |_| Ok(())), Ok(3));
        let mut byte = [0];
        for index in 0..3 {
            let guard = view.lock();
            let page = guard.page(memory.at(index)).ok_or(ENOENT)?;
            assert!(page.device_index().is_some());
            page.read(0, &mut byte)?;
            // C does not report a former hole as writable.
            let expected = if index == 1 {
                (21, Access::Write)
            } else {
                (0, Access::Read)
            };
            assert_eq!((byte[0], page.access()), expected);
        }
        assert_eq!(memory.is_filled(1, 21), Ok(true));
        assert_eq!(access(&view, memory.at(1)), None);
        Ok(())
    }

    #[test]
    fn pages_that_may_not_be_written_to_are_mapped_so() -> Result {
        let pagemap = shared_device(1)?;
        let view = view(&pagemap)?;
        let memory = UserMemory::in_block(0, 1)?;
        map_over(memory.at(0), 1, false)?;
        let range = memory.range(0..1);
        let pending = view.pending_map(range.clone())?;
        assert_eq!(move_and_map(pending, range, |_| Ok(())), Ok(1));
        assert_eq!(access(&view, memory.at(0)), Some(Access::Read));
        Ok(())
    }

    #[test]
    fn the_driver_learns_when_a_page_is_mapped_or_about_to_be() -> Result {
        let pagemap = shared_device(1)?;
        let view = view(&pagemap)?;
        let memory = UserMemory::in_block(0, 2)?;
        let range = memory.range(0..1);
        move_and_map(view.pending_map(range.clone())?, range, |_| Ok(()))?;
        let out = [
            SyncPoint::ToDeviceCollected,
            SyncPoint::ToDeviceCopied,
            SyncPoint::ToDeviceMoved,
            SyncPoint::ToDeviceMapped,
        ];
        assert_eq!(pagemap.ops().steps.get(), steps(&out));
        pagemap.ops().steps.set(0);
        exclusive(&view, memory.range(0..2), memory.at(1))?;
        assert_eq!(pagemap.ops().steps.get(), steps(&[SyncPoint::Exclusive]));
        Ok(())
    }

    #[test]
    fn a_change_by_another_task_invalidates_it() -> Result {
        // Before the pages are collected, and afterwards.
        for early in [true, false] {
            let pagemap = shared_device(1)?;
            let view = view(&pagemap)?;
            let memory = UserMemory::in_block(0, 4)?;
            unmap(memory.at(2), 1)?;
            let pending = view.pending_map(memory.range(0..4))?;
            let change = || change_by_another_task(&pagemap, memory.at(3));
            if early {
                change()?;
            }
            let moved = move_and_map(pending, memory.range(0..4), |_| match early {
                true => Ok(()),
                false => change(),
            });
            // The migration itself has succeeded.
            assert_eq!(moved, Ok(2));
            for index in 0..4 {
                assert_eq!(access(&view, memory.at(index)), None);
            }
        }
        Ok(())
    }

    #[test]
    fn a_change_elsewhere_or_before_does_not_matter() -> Result {
        let pagemap = shared_device(1)?;
        let view = view(&pagemap)?;
        let memory = UserMemory::in_block(0, 4)?;
        memory.fill(1, 4)?;
        change_by_another_task(&pagemap, memory.at(1))?;
        let range = memory.range(1..3);
        let pending = view.pending_map(range.clone())?;
        let moved = move_and_map(pending, range, |_| {
            change_by_another_task(&pagemap, memory.at(0))?;
            change_by_another_task(&pagemap, memory.at(3))
        });
        assert_eq!(moved, Ok(2));
        assert_eq!(access(&view, memory.at(1)), Some(Access::Write));
        Ok(())
    }

    #[test]
    fn what_the_own_task_changes_before_the_migration_does_not_matter() -> Result {
        let pagemap = shared_device(1)?;
        let view = view(&pagemap)?;
        let memory = UserMemory::in_block(0, 2)?;
        memory.fill(1, 3)?;
        let range = memory.range(0..2);
        let pending = view.pending_map(range.clone())?;
        assert_eq!(move_out(&pagemap, memory.range(1..2)), Ok(1));
        assert_eq!(evict(&pagemap, 0), Ok((1, 0)));
        assert_eq!(move_and_map(pending, range, |_| Ok(())), Ok(2));
        assert_eq!(access(&view, memory.at(1)), Some(Access::Write));
        Ok(())
    }

    #[test]
    fn pages_that_the_own_task_drops_are_not_mapped() -> Result {
        let pagemap = shared_device(1)?;
        let view = view(&pagemap)?;
        let memory = UserMemory::in_block(0, 2)?;
        memory.fill(0, 3)?;
        memory.fill(1, 4)?;
        let range = memory.range(0..2);
        let pending = view.pending_map(range.clone())?;
        // The folios are collected; a change that takes them from the process is not part of the
        // migration.
        let moved = move_and_map(pending, range, |vma| {
            vma.zap_vma_range(memory.at(0), PAGE_SIZE);
            Ok(())
        });
        assert!(moved.is_ok());
        assert_eq!(access(&view, memory.at(0)), None);
        assert_eq!(access(&view, memory.at(1)), None);
        assert_eq!(memory.is_filled(0, 0), Ok(true));
        assert_eq!(memory.is_filled(1, 4), Ok(true));
        Ok(())
    }

    #[test]
    fn several_may_be_pending_and_each_ends_with_its_drop() -> Result {
        let pagemap = shared_device(1)?;
        let view = view(&pagemap)?;
        let memory = UserMemory::in_block(0, 3)?;
        let first = view.pending_map(memory.range(0..1))?;
        let second = view.pending_map(memory.range(1..2))?;
        let third = view.pending_map(memory.range(2..3))?;
        let is_none = || view.pending.lock().is_empty();
        assert!(!is_none());
        drop(second);
        assert_eq!(move_and_map(third, memory.range(2..3), |_| Ok(())), Ok(1));
        assert_eq!(evict(&pagemap, 0), Ok((1, 0)));
        assert_eq!(move_and_map(first, memory.range(0..1), |_| Ok(())), Ok(1));
        assert!(is_none());
        assert_eq!(access(&view, memory.at(0)), Some(Access::Read));
        Ok(())
    }

    #[test]
    fn it_is_for_the_vma_that_its_range_begins_in() -> Result {
        let pagemap = shared_device(1)?;
        let view = view(&pagemap)?;
        let memory = UserMemory::in_block(0, 4)?;
        unmap(memory.at(2), 1)?;
        let pending = view.pending_map(memory.range(0..4))?;
        assert_eq!(move_and_map(pending, memory.range(0..4), |_| Ok(())), Ok(2));
        let pending = view.pending_map(memory.range(0..4))?;
        let refused = move_and_map(pending, memory.range(3..4), |_| Ok(()));
        assert_eq!(refused, Err(EINVAL));
        Ok(())
    }

    #[test]
    fn a_page_is_made_exclusive_whether_or_not_it_is_there() -> Result {
        let pagemap = shared_device(1)?;
        let view = view(&pagemap)?;
        let memory = UserMemory::in_block(0, 3)?;
        memory.fill(1, 8)?;
        memory.fill(2, 9)?;
        assert_eq!(move_out(&pagemap, memory.range(2..3)), Ok(1));
        for nth in 0..3 {
            let made = exclusive(&view, memory.range(0..3), memory.at(nth));
            assert_eq!(made, Ok(Some(())));
            assert_eq!(access(&view, memory.at(nth)), Some(Access::Exclusive));
        }
        // The page that was on the device moved back for the exclusive access.
        assert_eq!(pagemap.owned(), 0);
        assert_eq!(memory.is_filled(0, 0), Ok(true));
        assert_eq!(memory.is_filled(1, 8), Ok(true));
        assert_eq!(memory.is_filled(2, 9), Ok(true));
        assert_eq!(access(&view, memory.at(2)), None);
        Ok(())
    }

    #[test]
    fn what_cannot_be_exclusive_is_refused() -> Result {
        let pagemap = shared_device(1)?;
        let view = view(&pagemap)?;
        let memory = UserMemory::in_block(0, 4)?;
        map_over(memory.at(1), 1, false)?;
        unmap(memory.at(2), 1)?;
        let claimed = memory.range(0..3);
        let made = |address| exclusive(&view, claimed.clone(), address);
        assert_eq!(made(memory.at(1)), Err(EFAULT));
        assert_eq!(made(memory.at(2)), Err(EFAULT));
        assert_eq!(made(memory.at(0) + 1), Err(EINVAL));
        // A page outside the range.
        assert_eq!(made(memory.at(3)), Err(EINVAL));
        assert_eq!(made(memory.at(0)), Ok(Some(())));
        Ok(())
    }

    #[test]
    fn nothing_is_exclusive_after_a_change() -> Result {
        let pagemap = shared_device(1)?;
        let view = view(&pagemap)?;
        let memory = UserMemory::in_block(0, 2)?;
        let mut pending = view.pending_map(memory.range(0..2))?;
        change_by_another_task(&pagemap, memory.at(1))?;
        let mut called = false;
        let made = with_mm(|mm| {
            let mmap = mm.mmap_read_lock();
            result_of(pending.make_exclusive(mm, &mmap, memory.at(0), |_| called = true))
        });
        assert_eq!(made, Ok(None));
        assert!(!called);
        drop(pending);
        assert_eq!(access(&view, memory.at(0)), None);
        assert_eq!(memory.is_filled(0, 0), Ok(true));
        Ok(())
    }

    #[test]
    fn memory_that_is_not_anonymous_cannot_be_exclusive() -> Result {
        let pagemap = shared_device(1)?;
        let view = view(&pagemap)?;
        let memory = UserMemory::in_block(0, 1)?;
        map_shared_over(memory.at(0), 1)?;
        let made = exclusive(&view, memory.range(0..1), memory.at(0));
        assert_eq!(made, Err(EOPNOTSUPP));
        assert_eq!(access(&view, memory.at(0)), None);
        Ok(())
    }

    #[test]
    fn a_task_that_is_killed_makes_nothing_exclusive() -> Result {
        let pagemap = shared_device(1)?;
        let view = view(&pagemap)?;
        let memory = UserMemory::in_block(0, 1)?;
        kill();
        let made = exclusive(&view, memory.range(0..1), memory.at(0));
        revive();
        assert_eq!(made, Err(EINTR));
        assert_eq!(access(&view, memory.at(0)), None);
        Ok(())
    }

    #[test]
    fn a_pending_map_is_one_of_its_own_address_space() -> Result {
        let pagemap = shared_device(1)?;
        let other = other_mm()?;
        let view = KBox::pin_init(View::new(&other, pagemap.clone(), None), GFP_KERNEL)?;
        let memory = UserMemory::in_block(0, 2)?;
        let range = memory.range(0..1);
        let pending = view.pending_map(range.clone())?;
        assert_eq!(
            move_and_map(pending, range.clone(), |_| Ok(())),
            Err(EINVAL)
        );
        let mut pending = view.pending_map(range)?;
        let made = with_mm(|mm| {
            let mmap = mm.mmap_read_lock();
            let made = result_of(pending.make_exclusive(mm, &mmap, memory.at(0), |_| ()));
            // The lock belongs to another address space than the given one.
            let named = pending.make_exclusive(&other, &mmap, memory.at(0), |_| ());
            let named = result_of(named);
            Ok((made, named))
        });
        assert_eq!(made, Ok((Err(EINVAL), Err(EINVAL))));
        drop(pending);
        assert_eq!(access(&view, memory.at(0)), None);
        Ok(())
    }

    #[test]
    fn another_task_ends_exclusive_access() -> Result {
        let pagemap = shared_device(1)?;
        let view = view(&pagemap)?;
        let memory = UserMemory::in_block(0, 2)?;
        assert_eq!(
            exclusive(&view, memory.range(0..2), memory.at(0)),
            Ok(Some(()))
        );
        unmap(memory.at(0), 1)?;
        assert_eq!(access(&view, memory.at(0)), None);
        Ok(())
    }
}
