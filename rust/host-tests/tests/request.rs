// SPDX-License-Identifier: GPL-2.0

//! Tests of the checks of requests, `rust/dmirror/request.rs`.

#[path = "../../dmirror/request.rs"]
mod request;

use proptest::prelude::*;

use request::window_at;
use request::BadRange;
use request::UserRange;

const SHIFT: u32 = 12;
const PAGE: u64 = 1 << SHIFT;

/// The start of the last page of a 64-bit address space.
const LAST: u64 = u64::MAX - (PAGE - 1);

fn range(addr: u64, npages: u64) -> Result<(usize, usize), BadRange> {
    UserRange::new(addr, npages, SHIFT)
        .map(|range| (range.start(), (range.end() - range.start()) >> SHIFT))
}

#[test]
fn a_range_keeps_its_start_and_length() {
    assert_eq!(range(0x7000, 3), Ok((0x7000, 3)));
}

#[test]
fn a_range_may_begin_at_address_zero() {
    assert_eq!(range(0, 1), Ok((0, 1)));
}

#[test]
fn a_range_of_no_pages_is_refused() {
    assert_eq!(range(0x7000, 0), Err(BadRange));
    assert_eq!(range(0, 0), Err(BadRange));
    assert_eq!(range(LAST, 0), Err(BadRange));
}

#[test]
fn an_unaligned_start_is_refused() {
    for bit in 0..SHIFT {
        assert_eq!(range(0x7000 + (1 << bit), 1), Err(BadRange), "bit {bit}");
    }
    assert_eq!(range(0x7fff, 1), Err(BadRange));
    assert_eq!(range(u64::MAX, 1), Err(BadRange));
}

#[test]
fn alignment_is_to_the_page_size_given() {
    for shift in [12, 14, 16] {
        let page = 1 << shift;
        assert!(UserRange::new(page, 1, shift).is_ok(), "shift {shift}");
        assert_eq!(
            UserRange::new(page / 2, 1, shift),
            Err(BadRange),
            "shift {shift}"
        );
    }
}

#[test]
fn the_largest_range_ends_before_the_last_page() {
    assert_eq!(range(0, LAST / PAGE), Ok((0, (LAST / PAGE) as usize)));
    assert_eq!(
        range(PAGE, LAST / PAGE - 1),
        Ok((PAGE as usize, (LAST / PAGE - 1) as usize))
    );
    assert_eq!(range(LAST - PAGE, 1), Ok(((LAST - PAGE) as usize, 1)));
}

#[test]
fn a_range_whose_end_is_no_address_is_refused() {
    assert_eq!(range(LAST, 1), Err(BadRange));
    assert_eq!(range(0, LAST / PAGE + 1), Err(BadRange));
    assert_eq!(range(PAGE, LAST / PAGE), Err(BadRange));
}

#[test]
fn a_range_that_wraps_around_is_refused() {
    assert_eq!(range(LAST, 2), Err(BadRange));
    assert_eq!(range(LAST - PAGE, 3), Err(BadRange));
}

#[test]
fn a_length_whose_bytes_wrap_around_is_refused() {
    // 2^52 pages are 0 bytes modulo 2^64, and one page more would be one page.
    assert_eq!(range(0x7000, 1 << 52), Err(BadRange));
    assert_eq!(range(0x7000, (1 << 52) + 1), Err(BadRange));
    assert_eq!(range(0x7000, 1 << 63), Err(BadRange));
    assert_eq!(range(0x7000, u64::MAX), Err(BadRange));
}

/// Generates numbers near the bounds and away from them.
fn any_number() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (0..64_u32, 0..4_u64).prop_map(|(bit, add)| (1_u64 << bit).wrapping_add(add)),
        (0..64_u32, 0..4_u64).prop_map(|(bit, sub)| (1_u64 << bit).wrapping_sub(sub)),
        (0..4_u64).prop_map(|sub| u64::MAX - sub),
    ]
}

/// Generates addresses, most of them aligned.
fn any_address(shift: u32) -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => any_number().prop_map(move |addr| addr >> shift << shift),
        4 => (0..8_u64).prop_map(move |page| (u64::MAX >> shift << shift) - (page << shift)),
        1 => any_number(),
    ]
}

fn any_request() -> impl Strategy<Value = (u32, u64, u64)> {
    let shift = prop_oneof![Just(12_u32), Just(14), Just(16)];
    shift.prop_flat_map(|shift| {
        let npages = prop_oneof![any_number(), 0..8_u64];
        (Just(shift), any_address(shift), npages)
    })
}

const WINDOW: usize = 2 << 20;

#[test]
fn a_window_ends_at_a_border_or_with_the_range() {
    let window = |at, end| window_at(at, end, WINDOW);
    assert_eq!(window(0, 1 << 30), 0..WINDOW);
    assert_eq!(window(WINDOW - 0x1000, 1 << 30), WINDOW - 0x1000..WINDOW);
    assert_eq!(window(WINDOW, 1 << 30), WINDOW..2 * WINDOW);
    assert_eq!(window(0x1000, 0x2000), 0x1000..0x2000);
    assert_eq!(window(0x1000, WINDOW), 0x1000..WINDOW);
    assert_eq!(window(0x1000, WINDOW + 0x1000), 0x1000..WINDOW);
}

#[test]
fn the_last_window_of_all_addresses_does_not_wrap() {
    let end = usize::MAX & !0xfff;
    assert_eq!(window_at(end - 0x3000, end, WINDOW), end - 0x3000..end);
    assert_eq!(window_at(end - WINDOW, end, WINDOW).end % WINDOW, 0);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4096,
        // The smallest failing case is printed: it belongs in a test of its own.
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn windows_are_side_by_side_and_make_up_the_range(
        first in 0..1_usize << 40,
        pages in 1..5000_usize,
    ) {
        let (start, end) = (first << SHIFT, (first + pages) << SHIFT);
        let mut at = start;
        while at < end {
            let window = window_at(at, end, WINDOW);
            prop_assert_eq!(window.start, at);
            prop_assert!(window.end > at && window.end <= end);
            prop_assert_eq!(window.start / WINDOW, (window.end - 1) / WINDOW);
            prop_assert!(window.end == end || window.end % WINDOW == 0);
            at = window.end;
        }
        prop_assert_eq!(at, end);
    }

    #[test]
    fn a_range_is_good_if_it_is_so_in_wider_arithmetic((shift, addr, npages) in any_request()) {
        let end = u128::from(addr) + (u128::from(npages) << shift);
        let good = npages > 0 && addr % (1 << shift) == 0 && end <= u128::from(u64::MAX);
        let range = UserRange::new(addr, npages, shift);
        prop_assert_eq!(range.is_ok(), good);
        if let Ok(range) = range {
            prop_assert_eq!(range.start() as u64, addr);
            prop_assert_eq!(((range.end() - range.start()) >> shift) as u64, npages);
            prop_assert_eq!(range.end() as u128, end);
        }
    }
}
