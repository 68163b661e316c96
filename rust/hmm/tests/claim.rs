// SPDX-License-Identifier: GPL-2.0

//! Entries after a migration, and exclusive access.

use core::ops::Range;

use kernel::alloc::flags::GFP_KERNEL;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::time::delay::fsleep;
use kernel::time::Delta;

use super::kill;
use super::map_over;
use super::map_shared_over;
use super::mirror;
use super::move_out;
use super::other::change_by_another_task;
use super::other::Other;
use super::other_mm;
use super::revive;
use super::shared_device;
use super::steps;
use super::unmap;
use super::with_mm;
use super::Counter;
use super::Probe;
use super::UserMemory;
use crate::Access;
use crate::Claim;
use crate::DevPagemap;
use crate::DevicePages;
use crate::Huge;
use crate::LockedVma;
use crate::Migration;
use crate::Mirror;
use crate::Step;
use crate::Window;

/// Moves the range to pages 0, 1, … of the device; calls `meanwhile` when the pages have moved, and
/// maps them through the claim. Returns whether that was possible.
fn move_and_map(
    claim: &mut Claim<'_, Probe>,
    pagemap: &Arc<DevPagemap<Probe>>,
    range: Range<usize>,
    meanwhile: impl FnOnce() -> Result,
) -> Result<bool> {
    with_mm(|mm| {
        let mmap = mm.mmap_read_lock();
        let vma = LockedVma::lookup(&mmap, range.start).ok_or(EFAULT)?;
        let mut window = Window::new(range.len() / PAGE_SIZE)?;
        let mut migration = Migration::to_device(vma, range, Huge::Split, pagemap, &mut window)?;
        for slot in migration.slots() {
            let folio = pagemap.take(DevicePages::new(slot.nth(), 0)?)?;
            slot.fill(folio)?;
        }
        let migrated = migration.commit();
        meanwhile()?;
        let mapped = claim.map(&migrated);
        Ok(mapped)
    })
}

fn access(mirror: &Mirror<Probe>, address: usize) -> Option<Access> {
    let guard = mirror.lock();
    let page = guard.page(address)?;
    Some(page.access())
}

/// Makes a page exclusive through a new claim of the range.
fn exclusive(mirror: &Mirror<Probe>, range: Range<usize>, address: usize) -> Result<Option<()>> {
    let mut claim = mirror.claim(range)?;
    with_mm(|mm| {
        let mmap = mm.mmap_read_lock();
        claim.make_exclusive(mm, &mmap, address, |_| ())
    })
}

#[kunit_tests(hmm_claim)]
mod suite {
    use super::*;

    #[test]
    fn pages_are_mapped_where_the_process_has_them() -> Result {
        let pagemap = shared_device(1)?;
        let mirror = mirror(&pagemap)?;
        let memory = UserMemory::in_block(4, 3)?;
        memory.fill(1, 21)?;
        {
            let mut claim = mirror.claim(memory.range(0..3))?;
            let range = memory.range(0..3);
            assert_eq!(
                move_and_map(&mut claim, &pagemap, range, || Ok(())),
                Ok(true)
            );
        }
        let mut byte = [0];
        for nth in 0..3 {
            let guard = mirror.lock();
            let page = guard.page(memory.at(nth)).ok_or(ENOENT)?;
            assert!(page.device_index().is_some());
            page.read(0, &mut byte)?;
            // C does not say of what was a hole that it may be written to.
            let expected = if nth == 1 {
                (21, Access::Write)
            } else {
                (0, Access::Read)
            };
            assert_eq!((byte[0], page.access()), expected);
        }
        assert_eq!(memory.is_filled(1, 21), Ok(true));
        assert_eq!(access(&mirror, memory.at(1)), None);
        Ok(())
    }

    #[test]
    fn pages_that_may_not_be_written_to_are_mapped_so() -> Result {
        let pagemap = shared_device(1)?;
        let mirror = mirror(&pagemap)?;
        let memory = UserMemory::in_block(0, 1)?;
        map_over(memory.at(0), 1, false)?;
        let mut claim = mirror.claim(memory.range(0..1))?;
        let range = memory.range(0..1);
        assert_eq!(
            move_and_map(&mut claim, &pagemap, range, || Ok(())),
            Ok(true)
        );
        assert_eq!(access(&mirror, memory.at(0)), Some(Access::Read));
        Ok(())
    }

    #[test]
    fn the_driver_learns_when_a_page_is_mapped_or_about_to_be() -> Result {
        let pagemap = shared_device(1)?;
        let mirror = mirror(&pagemap)?;
        let memory = UserMemory::in_block(0, 2)?;
        let mut claim = mirror.claim(memory.range(0..1))?;
        let range = memory.range(0..1);
        move_and_map(&mut claim, &pagemap, range, || Ok(()))?;
        drop(claim);
        let out = [Step::OutCollected, Step::OutCopied, Step::OutMoved];
        let mapped = steps(&out) << 4 | steps(&[Step::OutMapped]);
        assert_eq!(pagemap.ops().steps.get(), mapped);
        pagemap.ops().steps.set(0);
        exclusive(&mirror, memory.range(0..2), memory.at(1))?;
        assert_eq!(pagemap.ops().steps.get(), steps(&[Step::Exclusive]));
        Ok(())
    }

    #[test]
    fn a_change_by_another_task_spoils_it() -> Result {
        let pagemap = shared_device(1)?;
        let mirror = mirror(&pagemap)?;
        let memory = UserMemory::in_block(0, 4)?;
        {
            let mut claim = mirror.claim(memory.range(0..4))?;
            let range = memory.range(0..2);
            let meanwhile = || change_by_another_task(&pagemap, memory.at(3));
            assert_eq!(
                move_and_map(&mut claim, &pagemap, range, meanwhile),
                Ok(false)
            );
        }
        for nth in 0..4 {
            assert_eq!(access(&mirror, memory.at(nth)), None);
        }
        // What has moved has moved.
        assert_eq!(pagemap.taken(), 2);
        Ok(())
    }

    #[test]
    fn a_change_before_the_migration_spoils_it_too() -> Result {
        let pagemap = shared_device(1)?;
        let mirror = mirror(&pagemap)?;
        let memory = UserMemory::in_block(0, 2)?;
        let mut claim = mirror.claim(memory.range(0..2))?;
        change_by_another_task(&pagemap, memory.at(0))?;
        let range = memory.range(0..2);
        assert_eq!(
            move_and_map(&mut claim, &pagemap, range, || Ok(())),
            Ok(false)
        );
        assert_eq!(access(&mirror, memory.at(0)), None);
        Ok(())
    }

    #[test]
    fn a_change_elsewhere_or_before_does_not_matter() -> Result {
        let pagemap = shared_device(1)?;
        let mirror = mirror(&pagemap)?;
        let memory = UserMemory::in_block(0, 4)?;
        memory.fill(1, 4)?;
        change_by_another_task(&pagemap, memory.at(1))?;
        let mut claim = mirror.claim(memory.range(1..3))?;
        let meanwhile = || {
            change_by_another_task(&pagemap, memory.at(0))?;
            change_by_another_task(&pagemap, memory.at(3))
        };
        let range = memory.range(1..3);
        assert_eq!(
            move_and_map(&mut claim, &pagemap, range, meanwhile),
            Ok(true)
        );
        assert_eq!(access(&mirror, memory.at(1)), Some(Access::Write));
        Ok(())
    }

    #[test]
    fn changes_of_the_own_task_do_not_spoil_it() -> Result {
        let pagemap = shared_device(1)?;
        let mirror = mirror(&pagemap)?;
        let memory = UserMemory::in_block(0, 2)?;
        memory.fill(1, 3)?;
        let mut claim = mirror.claim(memory.range(0..2))?;
        assert_eq!(move_out(&pagemap, memory.range(1..2)), Ok(1));
        assert_eq!(pagemap.evict(0), Ok((1, 0)));
        let range = memory.range(0..2);
        assert_eq!(
            move_and_map(&mut claim, &pagemap, range, || Ok(())),
            Ok(true)
        );
        assert_eq!(access(&mirror, memory.at(1)), Some(Access::Write));
        Ok(())
    }

    #[test]
    fn only_a_migration_of_its_pages_and_device_is_mapped() -> Result {
        let pagemap = shared_device(1)?;
        let other = shared_device(1)?;
        let mirror = mirror(&pagemap)?;
        let memory = UserMemory::in_block(0, 4)?;
        let mut claim = mirror.claim(memory.range(1..4))?;
        let range = memory.range(0..1);
        assert_eq!(
            move_and_map(&mut claim, &pagemap, range, || Ok(())),
            Ok(false)
        );
        let range = memory.range(1..2);
        assert_eq!(
            move_and_map(&mut claim, &other, range, || Ok(())),
            Ok(false)
        );
        drop(claim);
        // Beyond its end nobody has watched.
        let mut claim = mirror.claim(memory.range(2..3))?;
        pagemap.evict(0)?;
        let range = memory.range(2..4);
        assert_eq!(
            move_and_map(&mut claim, &pagemap, range, || Ok(())),
            Ok(false)
        );
        for nth in 0..4 {
            assert_eq!(access(&mirror, memory.at(nth)), None);
        }
        Ok(())
    }

    #[test]
    fn a_claim_ends_with_its_drop() -> Result {
        let pagemap = shared_device(1)?;
        let mirror = mirror(&pagemap)?;
        let memory = UserMemory::in_block(0, 2)?;
        for _ in 0..3 {
            drop(mirror.claim(memory.range(0..2))?);
            assert!(mirror.lock().state.claim.is_none());
        }
        // One that is spoiled leaves nothing behind for the next one.
        let claim = mirror.claim(memory.range(0..2))?;
        change_by_another_task(&pagemap, memory.at(0))?;
        let spoiled = |claim: &crate::mirror::ClaimRecord| claim.spoiled;
        assert_eq!(mirror.lock().state.claim.as_ref().map(spoiled), Some(true));
        drop(claim);
        let claim = mirror.claim(memory.range(0..2))?;
        assert_eq!(mirror.lock().state.claim.as_ref().map(spoiled), Some(false));
        drop(claim);
        Ok(())
    }

    #[test]
    fn a_second_claim_waits_for_the_first_one() -> Result {
        let pagemap = shared_device(1)?;
        let mirror = with_mm(|mm| Arc::pin_init(Mirror::new(mm, pagemap), GFP_KERNEL))?;
        let memory = UserMemory::in_block(0, 2)?;
        let step = Arc::new(Counter::default(), GFP_KERNEL)?;
        let claim = mirror.claim(memory.range(0..1))?;
        let (shared, reached) = (mirror.clone(), step.clone());
        let range = memory.range(1..2);
        let other = Other::start(move |_| {
            reached.set(1);
            let claim = shared.claim(range.clone())?;
            reached.set(2);
            drop(claim);
            Ok(())
        })?;
        for _ in 0..1000 {
            fsleep(Delta::from_millis(1));
            if step.get() != 0 {
                break;
            }
        }
        fsleep(Delta::from_millis(5));
        assert_eq!(step.get(), 1);
        drop(claim);
        assert_eq!(other.wait(), Ok(()));
        assert_eq!(step.get(), 2);
        Ok(())
    }

    #[test]
    fn a_page_is_made_exclusive_whether_or_not_it_is_there() -> Result {
        let pagemap = shared_device(1)?;
        let mirror = mirror(&pagemap)?;
        let memory = UserMemory::in_block(0, 3)?;
        memory.fill(1, 8)?;
        memory.fill(2, 9)?;
        assert_eq!(move_out(&pagemap, memory.range(2..3)), Ok(1));
        for nth in 0..3 {
            let made = exclusive(&mirror, memory.range(0..3), memory.at(nth));
            assert_eq!(made, Ok(Some(())));
            assert_eq!(access(&mirror, memory.at(nth)), Some(Access::Exclusive));
        }
        // The one that was on the device came back for it.
        assert_eq!(pagemap.taken(), 0);
        assert_eq!(memory.is_filled(0, 0), Ok(true));
        assert_eq!(memory.is_filled(1, 8), Ok(true));
        assert_eq!(memory.is_filled(2, 9), Ok(true));
        assert_eq!(access(&mirror, memory.at(2)), None);
        Ok(())
    }

    #[test]
    fn what_cannot_be_exclusive_is_refused() -> Result {
        let pagemap = shared_device(1)?;
        let mirror = mirror(&pagemap)?;
        let memory = UserMemory::in_block(0, 4)?;
        map_over(memory.at(1), 1, false)?;
        unmap(memory.at(2), 1)?;
        let claimed = memory.range(0..3);
        let made = |address| exclusive(&mirror, claimed.clone(), address);
        assert_eq!(made(memory.at(1)), Err(EFAULT));
        assert_eq!(made(memory.at(2)), Err(EFAULT));
        assert_eq!(made(memory.at(0) + 1), Err(EINVAL));
        // Not one of the claim.
        assert_eq!(made(memory.at(3)), Err(EINVAL));
        assert_eq!(made(memory.at(0)), Ok(Some(())));
        Ok(())
    }

    #[test]
    fn nothing_is_exclusive_through_a_spoiled_claim() -> Result {
        let pagemap = shared_device(1)?;
        let mirror = mirror(&pagemap)?;
        let memory = UserMemory::in_block(0, 2)?;
        let mut claim = mirror.claim(memory.range(0..2))?;
        change_by_another_task(&pagemap, memory.at(1))?;
        let mut called = false;
        let made = with_mm(|mm| {
            let mmap = mm.mmap_read_lock();
            claim.make_exclusive(mm, &mmap, memory.at(0), |_| called = true)
        });
        assert_eq!(made, Ok(None));
        assert!(!called);
        drop(claim);
        assert_eq!(access(&mirror, memory.at(0)), None);
        assert_eq!(memory.is_filled(0, 0), Ok(true));
        Ok(())
    }

    #[test]
    fn memory_that_is_not_anonymous_cannot_be_exclusive() -> Result {
        let pagemap = shared_device(1)?;
        let mirror = mirror(&pagemap)?;
        let memory = UserMemory::in_block(0, 1)?;
        map_shared_over(memory.at(0), 1)?;
        let made = exclusive(&mirror, memory.range(0..1), memory.at(0));
        assert_eq!(made, Err(EOPNOTSUPP));
        assert_eq!(access(&mirror, memory.at(0)), None);
        Ok(())
    }

    #[test]
    fn a_task_that_is_killed_makes_nothing_exclusive() -> Result {
        let pagemap = shared_device(1)?;
        let mirror = mirror(&pagemap)?;
        let memory = UserMemory::in_block(0, 1)?;
        kill();
        let made = exclusive(&mirror, memory.range(0..1), memory.at(0));
        revive();
        assert_eq!(made, Err(EINTR));
        assert_eq!(access(&mirror, memory.at(0)), None);
        Ok(())
    }

    #[test]
    fn a_claim_is_one_of_its_own_address_space() -> Result {
        let pagemap = shared_device(1)?;
        let other = other_mm()?;
        let mirror = KBox::pin_init(Mirror::new(&other, pagemap.clone()), GFP_KERNEL)?;
        let memory = UserMemory::in_block(0, 2)?;
        let mut claim = mirror.claim(memory.range(0..1))?;
        let range = memory.range(0..1);
        assert_eq!(
            move_and_map(&mut claim, &pagemap, range, || Ok(())),
            Ok(false)
        );
        let made = with_mm(|mm| {
            let mmap = mm.mmap_read_lock();
            let made = claim.make_exclusive(mm, &mmap, memory.at(0), |_| ());
            // The lock is that of another address space than the one that is named.
            let named = claim.make_exclusive(&other, &mmap, memory.at(0), |_| ());
            Ok((made, named))
        });
        assert_eq!(made, Ok((Err(EINVAL), Err(EINVAL))));
        drop(claim);
        assert_eq!(access(&mirror, memory.at(0)), None);
        Ok(())
    }

    #[test]
    fn another_task_ends_exclusive_access() -> Result {
        let pagemap = shared_device(1)?;
        let mirror = mirror(&pagemap)?;
        let memory = UserMemory::in_block(0, 2)?;
        assert_eq!(
            exclusive(&mirror, memory.range(0..2), memory.at(0)),
            Ok(Some(()))
        );
        unmap(memory.at(0), 1)?;
        assert_eq!(access(&mirror, memory.at(0)), None);
        Ok(())
    }
}
