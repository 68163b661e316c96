// SPDX-License-Identifier: GPL-2.0

//! Address spaces, tasks, and references that mm holds to their pages.

use super::prelude::*;
use kernel::mm::virt::flags::WRITE;

#[kunit_tests(emu_process)]
mod suite {
    use super::*;

    #[test]
    fn memory_lies_below_the_end_of_its_address_space() -> Result {
        let memory = UserMemory::new(2)?;
        let end = with_mm(|mm| Ok(task_size(mm)))?;
        assert!(memory.at(2) <= end);
        assert_eq!(end % PAGE_SIZE, 0);
        // No program has the upper half, which is the kernel's.
        assert!(end <= 1 << (usize::BITS - 1));
        Ok(())
    }

    #[test]
    fn a_vma_is_found_by_each_of_its_addresses() -> Result {
        let memory = UserMemory::in_block(1, 3)?;
        unmap(memory.at(1), 1)?;
        with_mm(|mm| {
            let mmap = mm.mmap_read_lock();
            let found = |address| {
                let vma = LockedVma::lookup(&mmap, address)?;
                Some((vma.start(), vma.end(), vma.flags() & WRITE != 0))
            };
            let first = Some((memory.at(0), memory.at(1), true));
            assert_eq!(found(memory.at(0)), first);
            assert_eq!(found(memory.at(1) - 1), first);
            assert_eq!(found(memory.at(1)), None);
            assert_eq!(
                found(memory.at(2)),
                Some((memory.at(2), memory.at(3), true))
            );
            assert_eq!(found(usize::MAX), None);
            Ok(())
        })
    }

    #[test]
    fn there_are_no_anonymous_pages_before_the_first_one() -> Result {
        let memory = UserMemory::in_block(0, 2)?;
        let may_be = || {
            with_mm(|mm| {
                let mmap = mm.mmap_read_lock();
                let vma = LockedVma::lookup(&mmap, memory.start).ok_or(EFAULT)?;
                Ok(vma.may_have_anonymous_pages())
            })
        };
        assert_eq!(may_be(), Ok(false));
        // Reading maps the zero page.
        assert_eq!(memory.is_filled(0, 0), Ok(true));
        assert_eq!(may_be(), Ok(false));
        memory.fill(1, 1)?;
        assert_eq!(may_be(), Ok(true));
        Ok(())
    }

    #[test]
    fn a_signal_that_kills_is_seen_while_it_is_pending() {
        assert!(!fatal_signal_pending());
        kill();
        let seen = fatal_signal_pending();
        revive();
        assert!(seen);
        assert!(!fatal_signal_pending());
    }

    #[test]
    fn a_page_in_a_batch_of_another_cpu_moves_when_that_was_emptied() -> Result {
        // Others may empty the batch first, for example khugepaged.
        const TRIES: usize = 10;
        let pagemap = device(1)?;
        let memory = UserMemory::in_block(0, 1)?;
        for _ in 0..TRIES {
            memory.fill(0, 5)?;
            // A new page gets into a batch of this CPU.
            drain_lru_batches();
            // SAFETY: This runs in a KUnit test, whose address space and thread are its own.
            let used = unsafe { bindings::kunit_use_on_another_cpu(memory.at(0)) };
            if used == ENODEV.to_errno() {
                // With one CPU there is no batch of another one.
                return Ok(());
            }
            assert_eq!(used, 0);
            if move_out(&pagemap, memory.range(0..1)) == Ok(0) {
                drain_lru_batches();
                assert_eq!(move_out(&pagemap, memory.range(0..1)), Ok(1));
                assert_eq!(memory.is_filled(0, 5), Ok(true));
                return Ok(());
            }
        }
        Err(EAGAIN)
    }

    #[test]
    fn random_numbers_differ() {
        let first = random();
        // They are all equal by chance with a probability that is practically 0.
        let differs = (0..8).any(|_| {
            cond_resched();
            random() != first
        });
        assert!(differs);
    }
}
