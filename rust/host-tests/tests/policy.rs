// SPDX-License-Identifier: GPL-2.0

//! Tests of the policy of a device, `rust/dmirror/policy.rs`.

use std::ops::Range;

use proptest::prelude::*;

#[path = "../src/pages.rs"]
mod pages;

#[path = "../../dmirror/policy.rs"]
mod policy;

use policy::{
    dense_part, granule_order, limit_pages, Preset, Setting, LIMIT_FILE, MAX_FAULTS, MAX_NAP_US,
    MAX_PIN_MS, MAX_TIMESLICE_US, PRESETS, SETTINGS,
};

const PAGE: usize = 4096;
const LARGEST: u32 = 2 << 20;
const BLOCK: usize = 512;

#[test]
fn each_setting_has_a_file_of_its_own_in_the_order_of_the_enum() {
    for (setting, file) in Setting::ALL {
        assert_eq!(Setting::FILES[setting as usize], file, "{setting:?}");
        assert_eq!(Setting::FILES.iter().filter(|&&it| it == file).count(), 1);
    }
}

/// Returns the range of the sensible values of a setting.
fn range_of(setting: Setting) -> std::ops::RangeInclusive<u32> {
    match setting {
        Setting::Window | Setting::Granule => 4096..=LARGEST,
        Setting::Migrate | Setting::AtomicsMigrate => 0..=1,
        Setting::Prefetch => 0..=99,
        Setting::AccessCounter => 0..=1 << 20,
        Setting::Timeslice | Setting::AtomicTimeslice => 0..=MAX_TIMESLICE_US,
        Setting::ThrashEvents | Setting::ThrashNaps => 0..=1000,
        Setting::ThrashWindow => 1..=1_000_000,
        Setting::ThrashNap => 0..=MAX_NAP_US,
        Setting::ThrashPin => 1..=MAX_PIN_MS,
        Setting::FaultBatch | Setting::FaultBuffer => 1..=MAX_FAULTS,
        Setting::Eviction => 0..=2,
    }
}

#[test]
fn each_preset_has_values_that_make_sense() {
    for preset in &PRESETS {
        for (setting, _) in Setting::ALL {
            let value = preset.values()[setting as usize];
            assert!(
                range_of(setting).contains(&value),
                "{}: {setting:?} is {value}",
                preset.name
            );
        }
        let size = preset.values()[Setting::Granule as usize];
        assert!(size.is_power_of_two(), "{}: granule", preset.name);
    }
}

#[test]
fn presets_are_told_apart_by_their_values_and_found_by_their_names() {
    let names = PRESETS.iter().map(|preset| preset.name);
    assert!(names.eq(["test_hmm", "xe", "kfd", "uvm"]));
    for (nth, preset) in PRESETS.iter().enumerate() {
        let found = Preset::find(preset.name.as_bytes());
        assert!(found.is_some_and(|found| std::ptr::eq(found, preset)));
        for other in &PRESETS[..nth] {
            assert_ne!(preset.values(), other.values());
        }
    }
    for unknown in [
        "",
        "custom",
        "test_hmm ",
        "[xe]",
        "XE",
        "xe\n",
        "uv",
        "uvmm",
        "\0",
    ] {
        assert!(Preset::find(unknown.as_bytes()).is_none(), "{unknown:?}");
    }
}

#[test]
fn presets_say_what_documentation_says() {
    use Setting::{
        AccessCounter, AtomicTimeslice, AtomicsMigrate, FaultBatch, Granule, Migrate, Prefetch,
        ThrashEvents, Timeslice, Window,
    };
    let (most, page) = (LARGEST, 4096);
    let table = [
        (Window, [most, most, most, page]),
        (Migrate, [0, 1, 1, 1]),
        (Granule, [most, most, most, page]),
        (Prefetch, [0, 0, 0, 51]),
        (AccessCounter, [0, 0, 0, 256]),
        (Timeslice, [0, 5000, 0, 0]),
        (AtomicTimeslice, [0, 5000, 0, 0]),
        (AtomicsMigrate, [0, 1, 1, 1]),
        (ThrashEvents, [0, 0, 0, 3]),
        (Setting::ThrashWindow, [500; 4]),
        (Setting::ThrashNap, [500; 4]),
        (Setting::ThrashNaps, [10; 4]),
        (Setting::ThrashPin, [150; 4]),
        (FaultBatch, [64, 32, 16, 256]),
        (Setting::FaultBuffer, [256; 4]),
        (Setting::Eviction, [0; 4]),
    ];
    assert_eq!(table.len(), SETTINGS);
    for (setting, expected) in table {
        let seen = [0, 1, 2, 3].map(|nth| PRESETS[nth].values()[setting as usize]);
        assert_eq!(seen, expected, "{setting:?}");
    }
}

#[test]
fn a_limit_is_no_setting_of_presets_and_at_least_a_block() {
    assert!(!Setting::FILES.contains(&LIMIT_FILE));
    let device = 256 * BLOCK;
    #[rustfmt::skip]
    let table = [
        // MiB, pages of the device, pages
        (0, device, device),
        (1, device, BLOCK),
        (2, device, BLOCK),
        (3, device, BLOCK + BLOCK / 2),
        (4, device, 2 * BLOCK),
        (511, device, device - BLOCK / 2),
        (512, device, device),
        (513, device, device),
        (u32::MAX, device, device),
        // A device of one block, or without any.
        (1, BLOCK, BLOCK),
        (3, BLOCK, BLOCK),
        (1, 0, 0),
    ];
    for (mib, npages, expected) in table {
        assert_eq!(limit_pages(mib, npages, PAGE, BLOCK), expected, "{mib} MiB");
    }
    // Pages of 64 KiB, and blocks of the size that a page table of them maps.
    assert_eq!(limit_pages(1, 1 << 20, 65536, 8192), 8192);
    assert_eq!(limit_pages(1024, 1 << 20, 65536, 8192), 16384);
}

#[test]
fn a_granule_is_the_largest_that_fits() {
    #[rustfmt::skip]
    let table = [
        // page, bounds, bytes at most, order
        (0, 0..512, LARGEST, 9),
        (511, 0..512, LARGEST, 9),
        (512, 0..512 + 512, LARGEST, 9),
        // A page is missing at either end.
        (0, 0..511, LARGEST, 8),
        (255, 0..511, LARGEST, 8),
        (256, 0..511, LARGEST, 7),
        (510, 0..511, LARGEST, 0),
        (509, 0..511, LARGEST, 1),
        (1, 1..512, LARGEST, 0),
        (2, 1..512, LARGEST, 1),
        (3, 1..512, LARGEST, 1),
        (4, 1..512, LARGEST, 2),
        (256, 1..512, LARGEST, 8),
        // One page, which is the whole range.
        (7, 7..8, LARGEST, 0),
        (usize::MAX >> 12, (usize::MAX >> 12)..(usize::MAX >> 12) + 1, LARGEST, 0),
        // A lower limit; one that is no power of two counts as the next lower power.
        (300, 0..1024, 4096, 0),
        (300, 0..1024, 8191, 0),
        (300, 0..1024, 8192, 1),
        (300, 0..1024, 3 * 4096, 1),
        (300, 0..1024, 65536, 4),
        (300, 0..1024, LARGEST - 1, 8),
        // A limit above the maximum, or below the minimum.
        (300, 0..4096, u32::MAX, 9),
        (300, 0..4096, 0, 0),
        (300, 0..4096, 1, 0),
    ];
    for (page, bounds, most, expected) in table {
        let seen = granule_order(page, &bounds, most, PAGE);
        assert_eq!(seen, expected, "page {page} of {bounds:?}, {most} bytes");
    }
    // Pages of 64 KiB.
    assert_eq!(granule_order(40, &(0..64), LARGEST, 65536), 5);
    assert_eq!(granule_order(40, &(0..64), 4096, 65536), 0);
}

#[test]
fn a_part_is_moved_whole_where_more_than_so_much_of_it_is_there() {
    #[rustfmt::skip]
    let table = [
        // missed, bounds, percent, pages there, expected
        (0..1, 0..512, 0, 0..512, 0..1),
        (0..1, 0..512, 51, 0..0, 0..1),
        // One of two is half, but not more.
        (0..1, 0..512, 50, 0..0, 0..1),
        (0..1, 0..512, 49, 0..0, 0..2),
        (1..2, 0..512, 49, 0..0, 0..2),
        // Two, three, four of four.
        (0..1, 0..512, 51, 1..2, 0..2),
        (0..1, 0..512, 51, 1..3, 0..4),
        (3..4, 0..512, 51, 0..3, 0..4),
        (3..4, 0..512, 74, 1..3, 0..4),
        (3..4, 0..512, 75, 1..3, 2..4),
        // The largest part counts, even if one in between is not dense.
        (0..1, 0..512, 51, 250..512, 0..512),
        // The last page makes it more than half.
        (0..1, 0..512, 50, 256..511, 0..1),
        (0..1, 0..512, 50, 256..512, 0..512),
        // Pages outside the bounds do not count, and do not move.
        (4..5, 4..8, 51, 0..4, 4..5),
        (4..5, 4..7, 51, 5..6, 4..7),
        (6..7, 4..7, 60, 0..0, 6..7),
        (510..511, 509..512, 60, 511..512, 509..512),
        (0..1, 0..1, 51, 0..0, 0..1),
        // A granule of several pages.
        (16..32, 0..512, 51, 0..1, 0..32),
        (16..32, 0..512, 51, 0..0, 16..32),
        (0..512, 0..512, 51, 0..0, 0..512),
        // More than 100 percent is impossible.
        (0..1, 0..512, 100, 0..512, 0..1),
        (0..1, 0..512, u32::MAX / 512, 0..512, 0..1),
    ];
    for (missed, bounds, percent, there, expected) in table {
        let is_there = |page| there.contains(&page);
        let seen = dense_part(missed.clone(), &bounds, BLOCK, percent, is_there);
        assert_eq!(
            seen, expected,
            "{missed:?} of {bounds:?}, {percent} %, {there:?}"
        );
    }
}

/// The model: tries all parts, the largest first.
fn naive(
    missed: &Range<usize>,
    bounds: &Range<usize>,
    percent: u32,
    there: &[bool],
) -> Range<usize> {
    let mut size = BLOCK;
    while percent > 0 && size > missed.len() {
        let start = missed.start / size * size;
        let part: Vec<usize> = (start..start + size)
            .filter(|it| bounds.contains(it))
            .collect();
        let count = part
            .iter()
            .filter(|&&it| there[it] || missed.contains(&it))
            .count();
        if count as f64 / part.len() as f64 > f64::from(percent) / 100.0 {
            return part[0]..part[part.len() - 1] + 1;
        }
        size /= 2;
    }
    missed.clone()
}

/// Returns the range between two numbers, which may be equal.
fn between(a: usize, b: usize) -> Range<usize> {
    a.min(b)..a.max(b) + 1
}

proptest! {
    #[test]
    fn the_dense_part_is_that_of_the_model(
        a in 0..BLOCK, b in 0..BLOCK, at in 0..BLOCK, most in 0_u32..8, percent in 0_u32..101,
        there in prop::collection::vec(prop::bool::weighted(0.5), BLOCK),
    ) {
        let bounds = between(a, b);
        let at = bounds.start + at % bounds.len();
        let order = granule_order(at, &bounds, 4096 << most, PAGE);
        let start = at >> order << order;
        let missed = start..start + (1 << order);
        let seen = dense_part(missed.clone(), &bounds, BLOCK, percent, |page| there[page]);
        prop_assert_eq!(&seen, &naive(&missed, &bounds, percent, &there));
        prop_assert!(seen.start <= missed.start && missed.end <= seen.end);
        prop_assert!(bounds.start <= seen.start && seen.end <= bounds.end);
    }

    #[test]
    fn no_larger_granule_would_fit(
        a in 0_usize..2000, b in 0_usize..2000, at in 0_usize..2000, most in 0_u32..12,
    ) {
        let bounds = between(a, b);
        let at = bounds.start + at % bounds.len();
        let fits = |order: u32| {
            let size = 1_usize << order;
            let start = at / size * size;
            start >= bounds.start && start + size <= bounds.end && size <= 1 << most.min(9)
        };
        let expected = (0..10).filter(|&order| fits(order)).max();
        prop_assert_eq!(Some(granule_order(at, &bounds, 4096 << most, PAGE)), expected);
    }
}
