// SPDX-License-Identifier: GPL-2.0

//! Runs of pages, and device memory.

use super::prelude::*;

/// Returns whether a page has memory.
fn is_populated(memory: &Memory, page: usize) -> bool {
    memory.frame(page).is_some()
}

#[kunit_tests(emu_memory)]
mod suite {
    use super::*;

    #[test]
    fn pages_must_be_aligned_to_their_order() -> Result {
        assert_eq!(
            DevicePages::new(HPAGE_PMD_NR, HPAGE_PMD_ORDER)?.range().end,
            2 * HPAGE_PMD_NR
        );
        assert_eq!(DevicePages::new(7, 0)?.npages(), 1);
        assert_eq!(DevicePages::new(4, 3).err(), Some(EINVAL));
        assert_eq!(DevicePages::new(0, HPAGE_PMD_ORDER + 1).err(), Some(EINVAL));
        assert_eq!(DevicePages::new(usize::MAX, 0).err(), Some(EINVAL));
        Ok(())
    }

    #[test]
    fn device_memory_comes_in_whole_blocks() {
        assert_eq!(Memory::lazy(0).err(), Some(EINVAL));
        assert_eq!(Memory::lazy(HPAGE_PMD_NR + 1).err(), Some(EINVAL));
        assert_eq!(
            Memory::lazy(3 * HPAGE_PMD_NR).map(|memory| memory.npages()),
            Ok(3 * HPAGE_PMD_NR)
        );
    }

    #[test]
    fn pages_have_memory_from_their_first_use_on() -> Result {
        const END: usize = 2 * HPAGE_PMD_NR;
        let memory = Memory::lazy(END)?;
        let last = END - CHUNK_PAGES;
        assert!(!is_populated(&memory, last));
        memory.populate(last + 1..last + 2)?;
        let frame = memory.frame(last);
        assert!(frame.is_some());
        memory.populate(last..END)?;
        assert_eq!(memory.frame(last), frame);
        assert!(is_populated(&memory, END - 1));
        for page in [0, last - 1, END] {
            assert!(!is_populated(&memory, page));
        }
        memory.populate(last - 1..last + 1)?;
        assert!(is_populated(&memory, last - 1));
        assert_eq!(memory.frame(last), frame);
        for pages in [END - 1..END + 1, 0..usize::MAX, END + 1..END + 1] {
            assert_eq!(memory.populate(pages).err(), Some(EINVAL));
        }
        Ok(())
    }

    #[test]
    fn memory_of_the_system_is_not_taken_for_a_device() {
        type Make = fn(PhysicalStart, usize, &CStr) -> Result<Memory>;
        let makers: [Make; 2] = [Memory::fixed, Memory::coherent];
        let refused = [
            // The kernel itself starts at 16 MiB.
            (16 << 20, HPAGE_PMD_NR, EBUSY),
            // These addresses are free, as far as is known, but not reserved.
            (1 << 40, HPAGE_PMD_NR, EBUSY),
            (1 << 40, 0, EINVAL),
            (1 << 40, HPAGE_PMD_NR - 1, EINVAL),
            ((16 << 20) + 1, HPAGE_PMD_NR, EINVAL),
            (u64::MAX & !0x1f_ffff, HPAGE_PMD_NR, EINVAL),
        ];
        for make in makers {
            for (start, npages, error) in refused {
                let made = make(PhysicalStart::for_test(start), npages, c"hmm test");
                assert_eq!(made.err(), Some(error));
            }
        }
        // Coherent memory needs whole, aligned blocks of addresses.
        let start = PhysicalStart::for_test((1 << 40) + 0x1000);
        assert_eq!(
            Memory::coherent(start, HPAGE_PMD_NR, c"x").err(),
            Some(EINVAL)
        );
        assert_eq!(
            start.offset(1).map(|next| next.address()),
            Ok((1 << 40) + 0x1001)
        );
        assert_eq!(start.offset(u64::MAX).err(), Some(EINVAL));
    }

    #[test]
    fn addresses_of_pages_do_not_overlap_and_are_given_back() -> Result {
        let made = || PfnRange::private(HPAGE_PMD_NR, c"hmm test");
        let (first, second) = (made()?, made()?);
        assert_eq!(
            (first.npages(), first.kind()),
            (HPAGE_PMD_NR, Kind::Private)
        );
        drop((first, second));
        assert_eq!(PfnRange::private(0, c"hmm test").err(), Some(EINVAL));
        assert_eq!(
            PfnRange::private(usize::MAX, c"hmm test").err(),
            Some(EINVAL)
        );
        Ok(())
    }

    #[test]
    fn a_buffer_bounds_the_pages_of_a_migration() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(3, 1)?;
        assert_eq!(move_out(&pagemap, memory.range(0..3)), Ok(3));
        let back = |npages| {
            with_mm(|mm| {
                let mmap = mm.mmap_read_lock();
                let vma = LockedVma::lookup(&mmap, memory.at(0)).ok_or(EFAULT)?;
                let mut buffer = MigrateBuffer::new(npages)?;
                assert_eq!(buffer.npages(), npages);
                Ok(pagemap.bring_back(vma, memory.range(0..3), &mut buffer))
            })
        };
        assert_eq!(back(2), Ok((0, Err(EINVAL))));
        assert_eq!(back(3), Ok((3, Ok(()))));
        Ok(())
    }
}
