// SPDX-License-Identifier: GPL-2.0

//! Runs of pages, the map of taken pages, device memory, regions, windows.

use kernel::prelude::*;

use crate::taken::TakenMap;
use crate::DevicePages;
use crate::DeviceRegion;
use crate::Kind;
use crate::Vram;
use crate::Window;
use crate::BLOCK_PAGES;
use crate::PMD_ORDER;

#[kunit_tests(hmm_memory)]
mod suite {
    use super::*;

    #[test]
    fn pages_must_be_aligned_to_their_order() -> Result {
        assert_eq!(
            DevicePages::new(BLOCK_PAGES, PMD_ORDER)?.range().end,
            2 * BLOCK_PAGES
        );
        assert_eq!(DevicePages::new(7, 0)?.npages(), 1);
        assert_eq!(DevicePages::new(4, 3).err(), Some(EINVAL));
        assert_eq!(DevicePages::new(0, PMD_ORDER + 1).err(), Some(EINVAL));
        assert_eq!(DevicePages::new(usize::MAX, 0).err(), Some(EINVAL));
        Ok(())
    }

    #[test]
    fn halves_lie_side_by_side_and_are_all_of_it() -> Result {
        for order in 1..=PMD_ORDER {
            let whole = DevicePages::new(BLOCK_PAGES, order)?;
            let (low, high) = whole.halves().ok_or(ENOENT)?;
            assert_eq!((low.order(), high.order()), (order - 1, order - 1));
            assert_eq!(low.range().start, whole.range().start);
            assert_eq!(low.range().end, high.range().start);
            assert_eq!(high.range().end, whole.range().end);
        }
        assert_eq!(DevicePages::new(3, 0)?.halves(), None);
        Ok(())
    }

    #[test]
    fn taken_pages_cannot_be_taken_again() -> Result {
        let map = TakenMap::new(2 * BLOCK_PAGES)?;
        let page = DevicePages::new(BLOCK_PAGES + 65, 0)?;
        assert!(map.set(page));
        assert!(!map.set(page));
        assert_eq!(map.count(0..2 * BLOCK_PAGES), 1);
        assert_eq!(map.count(BLOCK_PAGES + 66..2 * BLOCK_PAGES), 0);
        map.clear(page);
        assert!(map.set(page));
        Ok(())
    }

    #[test]
    fn a_block_with_a_taken_page_is_refused_and_left_as_it_was() -> Result {
        let map = TakenMap::new(BLOCK_PAGES)?;
        let block = DevicePages::new(0, PMD_ORDER)?;
        // In the last word, so that the words before it must be undone.
        let page = DevicePages::new(BLOCK_PAGES - 1, 0)?;
        assert!(map.set(page));
        assert!(!map.set(block));
        assert_eq!(map.count(0..BLOCK_PAGES), 1);
        map.clear(page);
        assert!(map.set(block));
        assert_eq!(map.count(0..BLOCK_PAGES), BLOCK_PAGES);
        assert_eq!(map.count(10..74), 64);
        Ok(())
    }

    #[test]
    fn pieces_of_a_block_can_be_taken_and_given_back() -> Result {
        let map = TakenMap::new(BLOCK_PAGES)?;
        for order in 0..=PMD_ORDER {
            let upper = DevicePages::new((1 << order) % BLOCK_PAGES, order)?;
            assert!(map.set(upper));
            assert_eq!(map.count(upper.range()), 1 << order);
            assert_eq!(map.count(0..BLOCK_PAGES), 1 << order);
            map.clear(upper);
            assert_eq!(map.count(0..BLOCK_PAGES), 0);
        }
        Ok(())
    }

    #[test]
    fn device_memory_comes_in_whole_blocks() {
        assert_eq!(Vram::lazy(0).err(), Some(EINVAL));
        assert_eq!(Vram::lazy(BLOCK_PAGES + 1).err(), Some(EINVAL));
        assert_eq!(
            Vram::lazy(3 * BLOCK_PAGES).map(|vram| vram.npages()),
            Ok(3 * BLOCK_PAGES)
        );
    }

    #[test]
    fn a_block_has_memory_from_its_first_use_on() -> Result {
        let vram = Vram::lazy(2 * BLOCK_PAGES)?;
        assert!(!vram.is_populated(BLOCK_PAGES));
        vram.populate(1)?;
        let frame = vram.frame(BLOCK_PAGES);
        assert!(frame.is_some());
        vram.populate(1)?;
        assert_eq!(vram.frame(BLOCK_PAGES), frame);
        assert!(!vram.is_populated(0));
        assert!(!vram.is_populated(2 * BLOCK_PAGES));
        assert_eq!(vram.populate(2).err(), Some(EINVAL));
        Ok(())
    }

    #[test]
    fn memory_of_the_system_is_not_taken_for_a_device() {
        // The kernel itself starts at 16 MiB.
        let ram = Vram::fixed(16 << 20, BLOCK_PAGES, c"hmm test");
        assert_eq!(ram.err(), Some(EBUSY));
        // Free addresses, as far as anybody knows; but nobody said that they are set aside.
        let unknown = Vram::fixed(1 << 40, BLOCK_PAGES, c"hmm test");
        assert_eq!(unknown.err(), Some(EBUSY));
        let unaligned = Vram::fixed((16 << 20) + 1, BLOCK_PAGES, c"hmm test");
        assert_eq!(unaligned.err(), Some(EINVAL));
        let wrapping = Vram::fixed(u64::MAX & !0xfff, BLOCK_PAGES, c"hmm test");
        assert_eq!(wrapping.err(), Some(EINVAL));
    }

    #[test]
    fn regions_do_not_overlap_and_are_given_back() -> Result {
        let first = DeviceRegion::private(Vram::lazy(BLOCK_PAGES)?, c"hmm test")?;
        let second = DeviceRegion::private(Vram::lazy(BLOCK_PAGES)?, c"hmm test")?;
        let (a, b) = (first.range(), second.range());
        assert!(a.end < b.start || b.end < a.start);
        assert_eq!(a.end - a.start + 1, 2 << 20);
        drop(first);
        // The addresses are free again, and the search goes from the top down.
        let third = DeviceRegion::private(Vram::lazy(BLOCK_PAGES)?, c"hmm test")?;
        assert_eq!(third.range().start, a.start);
        Ok(())
    }

    #[test]
    fn a_window_bounds_the_pages_of_a_migration() -> Result {
        assert_eq!(Window::new(0).err(), Some(EINVAL));
        let mut window = Window::new(16)?;
        assert_eq!(window.npages(), 16);
        assert_eq!(window.slots(16).map(|slots| slots.src.len()), Ok(16));
        assert_eq!(window.slots(17).map(|slots| slots.src.len()), Err(EINVAL));
        // One page has arrays of its own.
        let mut one = Window::new(1)?;
        assert_eq!(one.npages(), 1);
        assert_eq!(one.slots(1).map(|slots| slots.dst.len()), Ok(1));
        assert_eq!(one.slots(0).map(|slots| slots.dst.len()), Ok(0));
        assert_eq!(one.slots(2).map(|slots| slots.src.len()), Err(EINVAL));
        Ok(())
    }

    #[test]
    fn coherent_memory_must_have_been_set_aside() -> Result {
        assert_eq!(Vram::coherent(1 << 40, 0).err(), Some(EINVAL));
        assert_eq!(Vram::coherent(1 << 40, BLOCK_PAGES - 1).err(), Some(EINVAL));
        let coherent = |start| {
            let vram = Vram::coherent(start, BLOCK_PAGES)?;
            DeviceRegion::coherent(vram, c"hmm test")
        };
        // The kernel itself; addresses of nobody; no block; the end of all addresses.
        assert_eq!(coherent(16 << 20).err(), Some(EBUSY));
        assert_eq!(coherent(1 << 40).err(), Some(EBUSY));
        assert_eq!(coherent((1 << 40) + 0x1000).err(), Some(EINVAL));
        assert_eq!(coherent(u64::MAX & !0x1f_ffff).err(), Some(EINVAL));
        // Each kind of region wants its own kind of memory.
        let vram = Vram::coherent(1 << 40, BLOCK_PAGES)?;
        assert_eq!(vram.npages(), BLOCK_PAGES);
        assert!(vram.is_populated(BLOCK_PAGES - 1));
        assert!(!vram.is_populated(BLOCK_PAGES));
        assert_eq!(vram.populate(0), Ok(()));
        assert_eq!(vram.populate(1), Err(EINVAL));
        let private = DeviceRegion::private(vram, c"hmm test");
        assert_eq!(private.err(), Some(EINVAL));
        let lazy = Vram::lazy(BLOCK_PAGES)?;
        let wrong = DeviceRegion::coherent(lazy, c"hmm test");
        assert_eq!(wrong.err(), Some(EINVAL));
        let right = DeviceRegion::private(Vram::lazy(BLOCK_PAGES)?, c"hmm test")?;
        assert_eq!(right.kind(), Kind::Private);
        assert_eq!(right.npages(), BLOCK_PAGES);
        Ok(())
    }
}
