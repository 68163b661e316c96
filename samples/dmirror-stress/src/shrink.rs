// SPDX-License-Identifier: GPL-2.0

//! Makes a failing list shorter: delta debugging, after Zeller and Hildebrandt.

/// Removes the parts that the failure does not need: a part goes if `fails` returns true
/// for the rest. `fails` may also return false because its time is over.
pub fn shrink<T: Clone>(list: &[T], mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut list = list.to_vec();
    let mut parts = 2;
    while list.len() > 1 {
        let size = list.len().div_ceil(parts);
        let mut shorter = None;
        // Remove the latest parts first: most of them come after the cause.
        for start in (0..list.len()).step_by(size).rev() {
            let end = (start + size).min(list.len());
            let rest = [&list[..start], &list[end..]].concat();
            if fails(&rest) {
                shorter = Some(rest);
                break;
            }
        }
        match shorter {
            Some(rest) => {
                list = rest;
                parts = (parts - 1).max(2);
            }
            None if size == 1 => break,
            None => parts = (parts * 2).min(list.len()),
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_what_is_needed() {
        let list: Vec<u32> = (0..500).collect();
        let needs = |list: &[u32]| [3, 77, 499].iter().all(|item| list.contains(item));
        assert_eq!(shrink(&list, needs), [3, 77, 499]);
    }

    #[test]
    fn keeps_the_order() {
        let list: Vec<u32> = (0..100).collect();
        let ordered = |list: &[u32]| {
            let at = |item| list.iter().position(|other| *other == item);
            matches!((at(90), at(10)), (Some(late), Some(early)) if early < late)
        };
        assert_eq!(shrink(&list, ordered), [10, 90]);
    }

    #[test]
    fn stops_when_nothing_can_go() {
        let mut tries = 0;
        let list = [1, 2, 3];
        let all = shrink(&list, |_| {
            tries += 1;
            false
        });
        assert_eq!((all, tries), (vec![1, 2, 3], 5));
    }
}
