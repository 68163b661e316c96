// SPDX-License-Identifier: GPL-2.0

//! Statistics of pages that move, and of faults.

use super::prelude::*;
use crate::trace::Cause;

/// Returns the numbers of pages that moved to the device and back, in small folios and in large
/// ones, that were freed, and that are resident. Checks that they are consistent.
fn sums(pagemap: &Pagemap) -> [u64; 6] {
    let Totals {
        to_device: out,
        to_system: back,
        freed,
        resident,
    } = pagemap.totals();
    assert_eq!(out.pages(), back.pages() + freed + resident);
    assert_eq!(resident, pagemap.owned() as u64);
    let (out, back) = (
        [out.small_pages, out.huge_pages],
        [back.small_pages, back.huge_pages],
    );
    [out[0], out[1], back[0], back[1], freed, resident]
}

#[kunit_tests(emu_totals)]
mod suite {
    use super::*;

    const HUGE: u64 = HPAGE_PMD_NR as u64;

    #[test]
    fn what_moves_out_and_back_is_counted() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(6, 1)?;
        assert_eq!(sums(&pagemap), [0; 6]);
        assert_eq!(move_out(&pagemap, memory.range(0..6)), Ok(6));
        assert_eq!(sums(&pagemap), [6, 0, 0, 0, 0, 6]);
        assert_eq!(memory.is_filled(2, 3), Ok(true));
        assert_eq!(memory.is_filled(2, 3), Ok(true));
        assert_eq!(sums(&pagemap), [6, 0, 1, 0, 0, 5]);
        let evicted = evict(&pagemap, 0)?;
        assert_eq!(evicted, (5, 0));
        assert_eq!(sums(&pagemap), [6, 0, 6, 0, 0, 0]);
        Ok(())
    }

    #[test]
    fn what_is_dropped_is_counted_as_freed() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(6, 1)?;
        assert_eq!(move_out(&pagemap, memory.range(0..6)), Ok(6));
        unmap(memory.range(1..4).start, 3)?;
        assert_eq!(sums(&pagemap), [6, 0, 0, 0, 3, 3]);
        unmap(memory.start, 6)?;
        assert_eq!(sums(&pagemap), [6, 0, 0, 0, 6, 0]);
        Ok(())
    }

    #[test]
    fn a_huge_page_is_counted_as_one() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 7)?;
        assert_eq!(move_whole(&pagemap, &memory), Ok(HPAGE_PMD_NR));
        assert_eq!(sums(&pagemap), [0, HUGE, 0, 0, 0, HUGE]);
        assert_eq!(holds(&memory, 7), Ok(true));
        assert_eq!(sums(&pagemap), [0, HUGE, 0, HUGE, 0, 0]);
        Ok(())
    }

    #[test]
    fn a_huge_page_that_is_split_is_counted_in_small_ones() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 7)?;
        assert_eq!(
            move_split(&pagemap, &memory, HPAGE_PMD_NR),
            Ok(HPAGE_PMD_NR)
        );
        assert_eq!(sums(&pagemap), [HUGE, 0, 0, 0, 0, HUGE]);
        Ok(())
    }

    #[test]
    fn what_was_reserved_in_vain_is_not_counted() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(2, 1)?;
        drop(pagemap.reserve(DevicePages::new(0, 0)?, ())?);
        // Each destination is put together with the migration.
        let moved = move_out_by(&pagemap, memory.range(0..2), LargeFolios::Split, |entry| {
            let folio = pagemap.reserve(DevicePages::new(entry.index(), 0)?, ())?;
            entry.set_dst(folio)?;
            Err(EIO)
        });
        assert_eq!(moved, Err(EIO));
        assert_eq!(sums(&pagemap), [0; 6]);
        assert_eq!(pagemap.ops().freed.get(), 2);
        Ok(())
    }

    #[test]
    fn a_large_migration_is_timed() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 7)?;
        assert_eq!(move_whole(&pagemap, &memory), Ok(HPAGE_PMD_NR));
        pagemap.ops().slow.set(20);
        assert_eq!(evict(&pagemap, 0)?.0, HPAGE_PMD_NR);
        let back = pagemap.totals().to_system;
        let phases = [Phase::Collect, Phase::Copy, Phase::Move, Phase::Map];
        let ns: u64 = phases.iter().map(|&phase| back.ns(phase)).sum();
        // The clock may be coarse.
        assert!(ns >= 10_000_000);
        Ok(())
    }

    #[test]
    fn faults_of_both_sides_are_counted() -> Result {
        let pagemap = shared_device(1)?;
        let memory = UserMemory::filled(4, 1)?;
        let view = view(&pagemap)?;
        let mut buffer = FaultBuffer::new()?;
        assert_eq!(move_out(&pagemap, memory.range(0..2)), Ok(2));
        with_mm(|mm| {
            let range = memory.range(0..4);
            view.fault(
                mm,
                range,
                Access::Read,
                Timeout::Bounded,
                &mut buffer,
                |_| (),
            )
        })?;
        let seen = view.stats();
        assert_eq!(
            (seen.faults, seen.mapped_device, seen.mapped_system),
            (1, 2, 2)
        );
        let stats = pagemap.ops().stats();
        assert_eq!((stats.device_faults.get(), stats.cpu_faults.get()), (1, 0));
        assert_eq!(stats.cleared.get(), seen.cleared);
        assert_eq!(memory.is_filled(0, 1), Ok(true));
        assert_eq!(stats.cpu_faults.get(), 1);
        assert_eq!(stats.back(Cause::CpuFault), 1);
        // The fault has also taken the page from the device's page table.
        assert_eq!(view.stats().cleared, seen.cleared + 1);
        assert_eq!(stats.cleared.get(), seen.cleared + 1);
        assert!(view.stats().invalidations > seen.invalidations);
        Ok(())
    }
}
