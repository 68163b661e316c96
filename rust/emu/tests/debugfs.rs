// SPDX-License-Identifier: GPL-2.0

//! Numbers that root sets.

use super::prelude::*;

fn numbers() -> Result<Pin<KBox<DebugfsU32s<3>>>> {
    KBox::pin_init(
        DebugfsU32s::new(DebugfsDir::new(c"hmm-test")?, &[c"one", c"two", c"three"]),
        GFP_KERNEL,
    )
}

#[kunit_tests(emu_debugfs)]
mod suite {
    use super::*;

    #[test]
    fn all_are_off_at_first_and_apart_from_each_other() -> Result {
        let numbers = numbers()?;
        assert_eq!([0, 1, 2].map(|nth| numbers.get(nth)), [0, 0, 0]);
        numbers.put(1, 7);
        assert_eq!([0, 1, 2].map(|nth| numbers.get(nth)), [0, 7, 0]);
        Ok(())
    }

    #[test]
    fn a_number_is_counted_down_to_nothing() -> Result {
        let numbers = numbers()?;
        assert!(!numbers.count_down(0));
        numbers.put(0, 2);
        assert!(numbers.count_down(0));
        assert!(numbers.count_down(0));
        assert!(!numbers.count_down(0));
        assert_eq!(numbers.get(0), 0);
        Ok(())
    }

    #[test]
    fn the_largest_number_has_no_end() -> Result {
        let numbers = numbers()?;
        numbers.put(2, u32::MAX);
        for _ in 0..100 {
            assert!(numbers.count_down(2));
        }
        assert_eq!(numbers.get(2), u32::MAX);
        numbers.put(2, u32::MAX - 1);
        assert!(numbers.count_down(2));
        assert_eq!(numbers.get(2), u32::MAX - 2);
        Ok(())
    }

    #[test]
    fn there_is_no_number_without_a_file() -> Result {
        let numbers = numbers()?;
        numbers.put(3, 5);
        assert_eq!(numbers.get(3), 0);
        assert_eq!(numbers.get(usize::MAX), 0);
        assert!(!numbers.count_down(3));
        Ok(())
    }

    #[test]
    fn the_directory_goes_with_the_numbers() -> Result {
        // A second directory of the same name would be an error that debugfs prints.
        for _ in 0..3 {
            drop(numbers()?);
        }
        Ok(())
    }
}
