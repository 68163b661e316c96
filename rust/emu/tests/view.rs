// SPDX-License-Identifier: GPL-2.0

//! The device page table: faults, changes that clear entries, and access through it.

use super::{pending::result_of, prelude::*};
use kernel::mm::virt::flags::WRITE;

/// A device, its view of the test's address space, and memory there.
struct Bench {
    view: Pin<KBox<View<Device>>>,
    pagemap: Arc<Pagemap>,
    memory: UserMemory,
}

impl Bench {
    /// Creates it with `npages` pages that were never touched.
    fn new(npages: usize) -> Result<Self> {
        let pagemap = shared_device(1)?;
        Ok(Self {
            view: view(&pagemap)?,
            pagemap,
            memory: UserMemory::in_block(8, npages)?,
        })
    }

    /// Creates it with pages that are filled with 1, 2, ….
    fn filled(npages: usize) -> Result<Self> {
        let this = Self::new(npages)?;
        for nth in 0..npages {
            this.memory.fill(nth, 1 + nth as u8)?;
        }
        Ok(this)
    }

    fn fault_at(&self, range: Range<usize>, access: Access) -> Result {
        let mut buffer = FaultBuffer::new()?;
        with_mm(|mm| {
            self.view
                .fault(mm, range, access, Timeout::Bounded, &mut buffer, |_| ())
        })
    }

    fn fault(&self, pages: Range<usize>, access: Access) -> Result {
        self.fault_at(self.memory.range(pages), access)
    }

    fn look(&self, pages: Range<usize>) -> Result {
        let mut buffer = FaultBuffer::new()?;
        let range = self.memory.range(pages);
        with_mm(|mm| self.view.map_present(mm, range, &mut buffer))
    }

    fn access(&self, nth: usize) -> Option<Access> {
        let guard = self.view.lock();
        let page = guard.page(self.memory.at(nth))?;
        Some(page.access())
    }

    /// Returns the first and the last byte of a page, as the device reads them.
    fn read(&self, nth: usize) -> Result<[u8; 2]> {
        let guard = self.view.lock();
        let page = guard.page(self.memory.at(nth)).ok_or(ENOENT)?;
        let mut bytes = [0; 2];
        page.read(0, &mut bytes[..1])?;
        page.read(PAGE_SIZE - 1, &mut bytes[1..])?;
        Ok(bytes)
    }

    /// Fills a page from the device.
    fn write(&self, nth: usize, byte: u8) -> Result {
        let bytes = KVec::from_elem(byte, PAGE_SIZE, GFP_KERNEL)?;
        let guard = self.view.lock();
        let page = guard.page(self.memory.at(nth)).ok_or(ENOENT)?;
        page.write(0, &bytes)
    }

    fn is_on_device(&self, nth: usize) -> Option<bool> {
        let guard = self.view.lock();
        let page = guard.page(self.memory.at(nth))?;
        Some(page.device_index().is_some())
    }
}

#[kunit_tests(emu_view)]
mod suite {
    use super::*;

    #[test]
    fn a_fault_maps_what_the_process_has() -> Result {
        let bench = Bench::filled(3)?;
        assert_eq!(bench.read(0), Err(ENOENT));
        bench.fault(0..2, Access::Read)?;
        assert_eq!(bench.read(0), Ok([1, 1]));
        assert_eq!(bench.read(1), Ok([2, 2]));
        assert_eq!(bench.read(2), Err(ENOENT));
        assert_eq!(bench.is_on_device(0), Some(false));
        Ok(())
    }

    #[test]
    fn a_fault_for_writing_makes_pages() -> Result {
        let bench = Bench::new(2)?;
        bench.fault(0..2, Access::Write)?;
        assert_eq!(bench.access(1), Some(Access::Write));
        bench.write(1, 42)?;
        assert_eq!(bench.memory.is_filled(0, 0), Ok(true));
        assert_eq!(bench.memory.is_filled(1, 42), Ok(true));
        Ok(())
    }

    #[test]
    fn a_page_that_was_only_read_cannot_be_written_to() -> Result {
        let bench = Bench::new(1)?;
        bench.fault(0..1, Access::Read)?;
        assert_eq!(bench.access(0), Some(Access::Read));
        assert_eq!(bench.read(0), Ok([0, 0]));
        assert_eq!(bench.write(0, 1), Err(EPERM));
        bench.fault(0..1, Access::Write)?;
        assert_eq!(bench.write(0, 1), Ok(()));
        assert_eq!(bench.memory.is_filled(0, 1), Ok(true));
        Ok(())
    }

    #[test]
    fn looking_faults_nothing_in() -> Result {
        let bench = Bench::new(3)?;
        bench.memory.fill(1, 5)?;
        bench.look(0..3)?;
        assert_eq!(bench.access(0), None);
        assert_eq!(bench.access(1), Some(Access::Write));
        assert_eq!(bench.access(2), None);
        Ok(())
    }

    #[test]
    fn access_stays_inside_the_page() -> Result {
        let bench = Bench::filled(1)?;
        bench.fault(0..1, Access::Write)?;
        let guard = bench.view.lock();
        let page = guard.page(bench.memory.at(0)).ok_or(ENOENT)?;
        let mut two = [0; 2];
        for offset in [PAGE_SIZE - 1, PAGE_SIZE, usize::MAX, usize::MAX - 1] {
            assert_eq!(page.read(offset, &mut two), Err(EINVAL));
            assert_eq!(page.write(offset, &two), Err(EINVAL));
        }
        assert_eq!(two, [0; 2]);
        assert_eq!(page.read(PAGE_SIZE, &mut []), Ok(()));
        assert_eq!(page.read(PAGE_SIZE - 2, &mut two), Ok(()));
        assert_eq!(two, [1; 2]);
        Ok(())
    }

    #[test]
    fn unmapping_clears_the_entries() -> Result {
        let bench = Bench::filled(3)?;
        bench.fault(0..3, Access::Write)?;
        unmap(bench.memory.at(1), 1)?;
        assert_eq!(bench.read(0), Ok([1, 1]));
        assert_eq!(bench.read(1), Err(ENOENT));
        assert_eq!(bench.read(2), Ok([3, 3]));
        Ok(())
    }

    #[test]
    fn a_migration_clears_the_entries() -> Result {
        let bench = Bench::filled(3)?;
        bench.fault(0..3, Access::Write)?;
        assert_eq!(move_out(&bench.pagemap, bench.memory.range(1..2)), Ok(1));
        assert_eq!(bench.access(0), Some(Access::Write));
        assert_eq!(bench.access(1), None);
        assert_eq!(bench.access(2), Some(Access::Write));
        Ok(())
    }

    #[test]
    fn a_page_on_the_device_is_accessed_there() -> Result {
        let bench = Bench::filled(2)?;
        assert_eq!(move_out(&bench.pagemap, bench.memory.range(0..2)), Ok(2));
        bench.fault(0..2, Access::Write)?;
        assert_eq!(bench.is_on_device(0), Some(true));
        assert_eq!(bench.read(1), Ok([2, 2]));
        bench.write(1, 77)?;
        assert_eq!(bench.pagemap.owned(), 2);
        assert_eq!(bench.pagemap.ops().faults.get(), 0);
        // A CPU that touches the page takes it away from the device.
        assert_eq!(bench.memory.is_filled(1, 77), Ok(true));
        assert_eq!(bench.pagemap.owned(), 1);
        assert_eq!(bench.access(0), Some(Access::Write));
        assert_eq!(bench.access(1), None);
        Ok(())
    }

    #[test]
    fn eviction_clears_the_entries() -> Result {
        let bench = Bench::filled(2)?;
        assert_eq!(move_out(&bench.pagemap, bench.memory.range(0..2)), Ok(2));
        bench.fault(0..2, Access::Write)?;
        bench.write(0, 55)?;
        assert_eq!(evict(&bench.pagemap, 0), Ok((2, 0)));
        assert_eq!(bench.access(0), None);
        assert_eq!(bench.access(1), None);
        assert_eq!(bench.memory.is_filled(0, 55), Ok(true));
        Ok(())
    }

    #[test]
    fn every_view_of_an_address_space_loses_its_entries() -> Result {
        let bench = Bench::filled(1)?;
        let second = Bench {
            view: view(&bench.pagemap)?,
            pagemap: bench.pagemap.clone(),
            memory: UserMemory {
                start: bench.memory.start,
            },
        };
        bench.fault(0..1, Access::Write)?;
        second.fault(0..1, Access::Write)?;
        bench.write(0, 9)?;
        assert_eq!(second.read(0), Ok([9, 9]));
        unmap(bench.memory.at(0), 1)?;
        assert_eq!(bench.access(0), None);
        assert_eq!(second.access(0), None);
        Ok(())
    }

    #[test]
    fn mapped_pages_are_found_one_after_the_other() -> Result {
        let bench = Bench::filled(6)?;
        bench.fault(1..2, Access::Read)?;
        bench.fault(4..5, Access::Read)?;
        let guard = bench.view.lock();
        let next = |pages: Range<usize>| {
            let (address, _) = guard.next(bench.memory.range(pages))?;
            Some((address - bench.memory.start) / PAGE_SIZE)
        };
        assert_eq!(next(0..6), Some(1));
        assert_eq!(next(1..6), Some(1));
        assert_eq!(next(2..6), Some(4));
        assert_eq!(next(2..4), None);
        assert_eq!(next(5..6), None);
        // One byte of a page represents it.
        let inside = bench.memory.at(4)..bench.memory.at(4) + 1;
        assert!(guard.next(inside).is_some());
        Ok(())
    }

    #[test]
    fn an_exclusive_page_survives_what_happens_around_it() -> Result {
        let bench = Bench::filled(3)?;
        {
            let mut pending = bench.view.pending_map(bench.memory.range(0..3))?;
            let made = with_mm(|mm| {
                let mmap = mm.mmap_read_lock();
                result_of(
                    pending.make_exclusive(mm, &mmap, bench.memory.at(1), |guard| {
                        guard.page(bench.memory.at(1)).is_some()
                    }),
                )
            });
            assert_eq!(made, Ok(Some(true)));
        }
        assert_eq!(bench.access(1), Some(Access::Exclusive));
        bench.fault(0..3, Access::Write)?;
        assert_eq!(bench.access(0), Some(Access::Write));
        assert_eq!(bench.access(1), Some(Access::Exclusive));
        assert_eq!(bench.access(2), Some(Access::Write));
        bench.write(1, 99)?;
        assert_eq!(bench.read(1), Ok([99, 99]));
        assert_eq!(bench.memory.is_filled(0, 1), Ok(true));
        assert_eq!(bench.access(1), Some(Access::Exclusive));
        // A CPU that touches the page itself ends the exclusive access.
        assert_eq!(bench.memory.is_filled(1, 99), Ok(true));
        assert_eq!(bench.access(1), None);
        Ok(())
    }

    #[test]
    fn what_is_not_there_or_not_for_writing_cannot_be_faulted() -> Result {
        let bench = Bench::filled(2)?;
        unmap(bench.memory.at(1), 1)?;
        assert_eq!(bench.fault(0..2, Access::Read), Err(EFAULT));
        map_over(bench.memory.at(1), 1, false)?;
        assert_eq!(bench.fault(0..2, Access::Read), Ok(()));
        assert_eq!(bench.fault(1..2, Access::Write), Err(EPERM));
        assert_eq!(bench.write(1, 1), Err(EPERM));
        Ok(())
    }

    #[test]
    fn a_device_page_that_may_be_shared_goes_back_before_it_is_written_to() -> Result {
        let bench = Bench::new(1)?;
        map_over(bench.memory.at(0), 1, false)?;
        assert_eq!(move_out(&bench.pagemap, bench.memory.range(0..1)), Ok(1));
        bench.fault(0..1, Access::Read)?;
        assert_eq!(bench.is_on_device(0), Some(true));
        assert_eq!(bench.access(0), Some(Access::Read));
        assert_eq!(bench.fault(0..1, Access::Write), Err(EPERM));
        assert_eq!(bench.pagemap.owned(), 1);

        set_vm_flags(bench.memory.at(0), WRITE)?;
        bench.fault(0..1, Access::Write)?;
        assert_eq!(bench.is_on_device(0), Some(false));
        assert_eq!(bench.pagemap.owned(), 0);
        assert_eq!(bench.pagemap.ops().faults.get(), 0);
        bench.write(0, 3)?;
        assert_eq!(bench.memory.is_filled(0, 3), Ok(true));
        Ok(())
    }

    #[test]
    fn a_shared_page_that_cannot_be_copied_stays() -> Result {
        let bench = Bench::new(1)?;
        map_over(bench.memory.at(0), 1, false)?;
        assert_eq!(move_out(&bench.pagemap, bench.memory.range(0..1)), Ok(1));
        set_vm_flags(bench.memory.at(0), WRITE)?;
        bench.pagemap.ops().no_small.set(1);
        assert_eq!(bench.fault(0..1, Access::Write), Err(ENOMEM));
        assert_eq!(bench.pagemap.owned(), 1);
        assert_eq!(bench.fault(0..1, Access::Write), Ok(()));
        assert_eq!(bench.pagemap.owned(), 0);
        Ok(())
    }

    #[test]
    fn what_changed_while_it_was_looked_at_is_looked_at_again() -> Result {
        let bench = Bench::filled(1)?;
        bench.pagemap.ops().remap_at.set(bench.memory.at(0));
        bench.pagemap.ops().remap_times.set(2);
        bench.fault(0..1, Access::Read)?;
        assert_eq!(bench.pagemap.ops().walks.get(), 3);
        // The page that the first walk found is gone.
        assert_eq!(bench.read(0), Ok([0, 0]));
        Ok(())
    }

    #[test]
    fn time_runs_out_when_a_range_does_not_hold_still() -> Result {
        let bench = Bench::filled(1)?;
        bench.pagemap.ops().remap_at.set(bench.memory.at(0));
        bench.pagemap.ops().remap_times.set(usize::MAX);
        assert_eq!(bench.fault(0..1, Access::Read), Err(EBUSY));
        bench.pagemap.ops().remap_times.set(0);
        assert_eq!(bench.access(0), None);
        assert_eq!(bench.fault(0..1, Access::Read), Ok(()));
        Ok(())
    }

    #[test]
    #[expect(clippy::reversed_empty_ranges, reason = "a range of no page")]
    fn a_range_is_made_of_pages_inside_a_block() -> Result {
        let bench = Bench::filled(2)?;
        let start = bench.memory.start;
        let border = start.next_multiple_of(HPAGE_PMD_NR * PAGE_SIZE);
        let mut buffer = FaultBuffer::new()?;
        for range in [
            start..start,
            start + PAGE_SIZE..start,
            start + 1..start + PAGE_SIZE,
            start..start + PAGE_SIZE + 8,
            border - PAGE_SIZE..border + PAGE_SIZE,
            border - HPAGE_PMD_NR * PAGE_SIZE..border + PAGE_SIZE,
        ] {
            assert_eq!(bench.fault_at(range.clone(), Access::Read), Err(EINVAL));
            let looked = with_mm(|mm| bench.view.map_present(mm, range.clone(), &mut buffer));
            assert_eq!(looked, Err(EINVAL));
            let told = with_mm(|mm| {
                bench
                    .view
                    .snapshot(mm, range.clone(), buffer.pfns(), |_| ())
            });
            assert_eq!(told, Err(EINVAL));
            assert_eq!(bench.view.pending_map(range).err(), Some(EINVAL));
        }
        Ok(())
    }

    #[test]
    fn endless_waiting_ends_when_the_task_is_killed() -> Result {
        let bench = Bench::filled(1)?;
        let ops = bench.pagemap.ops();
        ops.remap_at.set(bench.memory.at(0));
        ops.remap_times.set(usize::MAX);
        ops.kill_in.set(20);
        let range = bench.memory.range(0..1);
        let timeout = Timeout::Never;
        let mut buffer = FaultBuffer::new()?;
        let result = with_mm(|mm| {
            let view = &bench.view;
            view.fault(mm, range, Access::Read, timeout, &mut buffer, |_| ())
        });
        revive();
        ops.remap_times.set(0);
        assert_eq!(result, Err(EINTR));
        assert_eq!(ops.walks.get(), 20);
        assert_eq!(bench.access(0), None);
        Ok(())
    }

    #[test]
    fn a_view_shows_its_own_address_space() -> Result {
        let bench = Bench::filled(1)?;
        let other = other_mm()?;
        let range = bench.memory.range(0..1);
        let mut buffer = FaultBuffer::new()?;
        let looked = bench.view.map_present(&other, range.clone(), &mut buffer);
        assert_eq!(looked, Err(EINVAL));
        let told = bench
            .view
            .snapshot(&other, range.clone(), buffer.pfns(), |_| ());
        assert_eq!(told, Err(EINVAL));
        let timeout = Timeout::Bounded;
        let faulted = bench
            .view
            .fault(&other, range, Access::Read, timeout, &mut buffer, |_| ());
        assert_eq!(faulted, Err(EINVAL));
        assert_eq!(bench.access(0), None);
        Ok(())
    }

    #[test]
    fn a_view_outlives_its_address_space() -> Result {
        let pagemap = shared_device(1)?;
        let other = other_mm()?;
        let view = KBox::pin_init(View::new(&other, pagemap, None), GFP_KERNEL)?;
        drop(other);
        assert!(view.lock().next(0..usize::MAX).is_none());
        Ok(())
    }

    #[test]
    fn a_view_and_its_pages_know_their_device() -> Result {
        let bench = Bench::filled(1)?;
        bench.fault(0..1, Access::Read)?;
        assert!(core::ptr::eq(bench.view.pagemap(), &*bench.pagemap));
        let guard = bench.view.lock();
        let page = guard.page(bench.memory.at(0)).ok_or(ENOENT)?;
        assert!(core::ptr::eq(page.pagemap(), &*bench.pagemap));
        Ok(())
    }

    #[test]
    fn pages_outlive_the_view_that_saw_them() -> Result {
        let bench = Bench::filled(2)?;
        assert_eq!(move_out(&bench.pagemap, bench.memory.range(0..2)), Ok(2));
        bench.fault(0..2, Access::Write)?;
        let Bench {
            view,
            pagemap,
            memory,
        } = bench;
        drop(view);
        assert_eq!(pagemap.owned(), 2);
        assert_eq!(memory.is_filled(0, 1), Ok(true));
        drop(pagemap);
        assert_eq!(memory.is_filled(1, 2), Ok(true));
        Ok(())
    }
}
