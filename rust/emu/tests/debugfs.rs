// SPDX-License-Identifier: GPL-2.0

//! Numbers that root sets.

use super::prelude::*;

fn knobs() -> Result<Pin<KBox<DebugfsU32s<3>>>> {
    KBox::pin_init(
        DebugfsU32s::new(c"hmm-test", &[c"one", c"two", c"three"]),
        GFP_KERNEL,
    )
}

#[kunit_tests(emu_debugfs)]
mod suite {
    use super::*;

    #[test]
    fn all_are_off_at_first_and_apart_from_each_other() -> Result {
        let knobs = knobs()?;
        assert_eq!([0, 1, 2].map(|nth| knobs.get(nth)), [0, 0, 0]);
        knobs.put(1, 7);
        assert_eq!([0, 1, 2].map(|nth| knobs.get(nth)), [0, 7, 0]);
        Ok(())
    }

    #[test]
    fn a_number_is_counted_down_to_nothing() -> Result {
        let knobs = knobs()?;
        assert!(!knobs.count_down(0));
        knobs.put(0, 2);
        assert!(knobs.count_down(0));
        assert!(knobs.count_down(0));
        assert!(!knobs.count_down(0));
        assert_eq!(knobs.get(0), 0);
        Ok(())
    }

    #[test]
    fn the_largest_number_has_no_end() -> Result {
        let knobs = knobs()?;
        knobs.put(2, u32::MAX);
        for _ in 0..100 {
            assert!(knobs.count_down(2));
        }
        assert_eq!(knobs.get(2), u32::MAX);
        knobs.put(2, u32::MAX - 1);
        assert!(knobs.count_down(2));
        assert_eq!(knobs.get(2), u32::MAX - 2);
        Ok(())
    }

    #[test]
    fn there_is_no_number_without_a_file() -> Result {
        let knobs = knobs()?;
        knobs.put(3, 5);
        assert_eq!(knobs.get(3), 0);
        assert_eq!(knobs.get(usize::MAX), 0);
        assert!(!knobs.count_down(3));
        Ok(())
    }

    #[test]
    fn the_directory_goes_with_the_knobs() -> Result {
        // A second one of the same name would be an error that debugfs prints.
        for _ in 0..3 {
            drop(knobs()?);
        }
        Ok(())
    }
}
