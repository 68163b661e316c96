// SPDX-License-Identifier: GPL-2.0

//! A device's snapshots of the mappings of a process.

use super::prelude::*;

/// Returns the first `npages` pages as a device sees them.
fn snapshot(pagemap: &Arc<Pagemap>, memory: &UserMemory, npages: usize) -> Result<KVec<PageView>> {
    let view = view(pagemap)?;
    let mut buffer = FaultBuffer::new()?;
    let mut views = KVec::with_capacity(npages, GFP_KERNEL)?;
    with_mm(|mm| {
        view.snapshot(mm, memory.range(0..npages), buffer.pfns(), |view| {
            // The buffer has room for exactly that many pages.
            let _ = views.push_within_capacity(view);
        })
    })?;
    Ok(views)
}

fn small(place: PagePlace, is_writable: bool) -> Option<(PagePlace, bool, u32)> {
    Some((place, is_writable, 0))
}

#[kunit_tests(emu_snapshot)]
mod suite {
    use super::*;

    #[test]
    fn each_kind_of_page_is_told_apart() -> Result {
        let pagemap = shared_device(1)?;
        let other = shared_device(1)?;
        let memory = UserMemory::in_block(0, 7)?;
        // 0: never touched. 1: read only so far. 2: written.
        assert_eq!(memory.is_filled(1, 0), Ok(true));
        memory.fill(2, 2)?;
        // 3: on this device. 4: on another device. 5: not writable. 6: not mapped.
        memory.fill(3, 3)?;
        assert_eq!(move_out(&pagemap, memory.range(3..4)), Ok(1));
        memory.fill(4, 4)?;
        assert_eq!(move_out(&other, memory.range(4..5)), Ok(1));
        map_over(memory.at(5), 1, false)?;
        assert_eq!(memory.is_filled(5, 0), Ok(true));
        unmap(memory.at(6), 1)?;

        let views = snapshot(&pagemap, &memory, 7)?;
        assert_eq!(views[0], PageView::None);
        assert_eq!(mapped(views[1]), small(PagePlace::Zero, false));
        assert_eq!(mapped(views[2]), small(PagePlace::System, true));
        assert_eq!(mapped(views[3]), small(PagePlace::PrivateLocal, true));
        assert_eq!(views[4], PageView::None);
        assert_eq!(mapped(views[5]), small(PagePlace::Zero, false));
        assert_eq!(views[6], PageView::Error);
        assert_eq!(views.len(), 7);
        // The snapshot has moved no page.
        assert_eq!((pagemap.owned(), other.owned()), (1, 1));
        assert_eq!(pagemap.ops().faults.get() + other.ops().faults.get(), 0);

        let views = snapshot(&other, &memory, 5)?;
        assert_eq!(views[3], PageView::None);
        assert_eq!(mapped(views[4]), small(PagePlace::PrivateLocal, true));
        Ok(())
    }

    #[test]
    fn a_page_of_read_only_memory_is_read_only_on_the_device() -> Result {
        let pagemap = shared_device(1)?;
        let memory = UserMemory::in_block(0, 1)?;
        map_over(memory.at(0), 1, false)?;
        assert_eq!(move_out(&pagemap, memory.range(0..1)), Ok(1));
        let views = snapshot(&pagemap, &memory, 1)?;
        assert_eq!(mapped(views[0]), small(PagePlace::PrivateLocal, false));
        Ok(())
    }

    #[test]
    fn an_untouched_block_is_nothing_at_all() -> Result {
        let pagemap = shared_device(1)?;
        let memory = UserMemory::block()?;
        let views = snapshot(&pagemap, &memory, HPAGE_PMD_NR)?;
        assert!(views.iter().all(|&view| view == PageView::None));
        assert_eq!(views.len(), HPAGE_PMD_NR);
        Ok(())
    }
}
