// SPDX-License-Identifier: GPL-2.0

//! Tests of the advice for ranges, `rust/dmirror/attributes.rs`, compared with a model that knows
//! each page.

use std::ops::Range;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

#[path = "../../dmirror/attributes.rs"]
mod attributes;

use attributes::Atomics;
use attributes::AttributeMap;
use attributes::Attributes;
use attributes::Change;
use attributes::Full;
use attributes::Location;
use attributes::Reach;
use attributes::Slot;

type Map = AttributeMap<Vec<Slot>>;

/// Creates a map of `places` places.
fn map(places: usize) -> Map {
    AttributeMap::new(vec![Slot::default(); places], vec![Slot::default(); places])
}

fn reach(reach: Reach) -> Change {
    Change {
        reach: Some(reach),
        ..Change::default()
    }
}

/// Returns all ranges with advice, in order.
fn ranges(map: &Map) -> Vec<(Range<usize>, Attributes)> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < usize::MAX {
        let (attributes, range) = map.at(at);
        assert_eq!(range.start, at);
        if attributes != Attributes::default() {
            ranges.push((range.clone(), attributes));
        }
        at = range.end;
    }
    ranges
}

fn bounds(map: &Map) -> Vec<Range<usize>> {
    ranges(map).into_iter().map(|(range, _)| range).collect()
}

#[test]
fn nothing_is_advised_at_first() {
    let map = map(8);
    assert_eq!(map.len(), 0);
    assert_eq!(map.at(5), (Attributes::default(), 0..usize::MAX));
    assert!(!map.denies());
}

#[test]
fn attributes_are_set_one_by_one() {
    let mut map = map(8);
    map.set(10..20, &reach(Reach::InPlace)).unwrap();
    let granule = Change {
        granule: Some(65536),
        ..Change::default()
    };
    map.set(15..30, &granule).unwrap();
    let both = Attributes {
        reach: Reach::InPlace,
        granule: 65536,
        ..Attributes::default()
    };
    assert_eq!(map.at(16), (both, 15..20));
    assert_eq!(bounds(&map), [10..15, 15..20, 20..30]);
    let back = Change {
        granule: Some(0),
        ..Change::default()
    };
    map.set(0..100, &back).unwrap();
    assert_eq!(bounds(&map), [10..20; 1]);
    map.set(0..100, &reach(Reach::Any)).unwrap();
    assert_eq!(map.len(), 0);
}

#[test]
fn neighbours_become_one() {
    let mut map = map(8);
    for range in [0..10, 20..30, 10..20] {
        map.set(range, &reach(Reach::Denied)).unwrap();
    }
    assert_eq!(bounds(&map), [0..30; 1]);
    assert!(map.denies());
    map.set(10..20, &reach(Reach::Migrate)).unwrap();
    assert_eq!(bounds(&map), [0..10, 10..20, 20..30]);
    map.set(10..20, &reach(Reach::Denied)).unwrap();
    assert_eq!(bounds(&map), [0..30; 1]);
}

#[test]
fn forgetting_trims_splits_and_removes() {
    let mut map = map(8);
    map.set(10..20, &reach(Reach::Denied)).unwrap();
    map.set(30..40, &reach(Reach::Denied)).unwrap();
    assert_eq!(map.forget(0..10), 0);
    assert_eq!(map.forget(20..30), 0);
    assert_eq!(bounds(&map), [10..20, 30..40]);
    assert_eq!(map.forget(13..15), 0);
    assert_eq!(bounds(&map), [10..13, 15..20, 30..40]);
    assert_eq!(map.forget(12..31), 0);
    assert_eq!(bounds(&map), [10..12, 31..40]);
    assert_eq!(map.forget(0..usize::MAX), 0);
    assert!(bounds(&map).is_empty() && !map.denies());
    // An empty range changes nothing.
    map.set(10..20, &reach(Reach::Denied)).unwrap();
    assert_eq!(map.forget(15..15), 0);
    map.set(15..15, &reach(Reach::Any)).unwrap();
    assert_eq!(bounds(&map), [10..20; 1]);
}

#[test]
fn half_of_the_places_can_be_set() {
    let mut map = map(8);
    for nth in 0..4 {
        map.set(nth * 10..nth * 10 + 5, &reach(Reach::Denied))
            .unwrap();
    }
    let before = ranges(&map);
    let one_more = map.set(100..105, &reach(Reach::Denied));
    assert_eq!(one_more, Err(Full));
    // A change in the middle of a range would make two more.
    assert_eq!(map.set(1..2, &reach(Reach::Any)), Err(Full));
    assert_eq!(ranges(&map), before);
    map.set(5..10, &reach(Reach::Denied)).unwrap();
    map.set(100..105, &reach(Reach::Denied)).unwrap();
    assert_eq!(map.len(), 4);
}

#[test]
fn a_split_without_a_place_keeps_the_longer_part() {
    let mut map = map(4);
    map.set(0..100, &reach(Reach::Denied)).unwrap();
    for at in [80, 60, 40] {
        assert_eq!(map.forget(at..at + 1), 0);
    }
    assert_eq!(bounds(&map), [0..40, 41..60, 61..80, 81..100]);
    assert_eq!(map.forget(10..11), 10);
    assert_eq!(map.forget(90..91), 9);
    assert_eq!(bounds(&map), [11..40, 41..60, 61..80, 81..90]);
    // The ranges above the bound can be changed and removed, but their number cannot grow.
    assert_eq!(map.set(20..21, &reach(Reach::Any)), Err(Full));
    map.set(11..40, &reach(Reach::Migrate)).unwrap();
    map.set(11..60, &reach(Reach::Any)).unwrap();
    assert_eq!(bounds(&map), [61..80, 81..90]);
}

#[derive(Clone, Debug)]
enum Step {
    Set(Range<usize>, Change),
    Forget(Range<usize>),
}

const END: usize = 64;

fn range() -> impl Strategy<Value = Range<usize>> {
    (0..END, 1..END).prop_map(|(start, len)| start..(start + len).min(END))
}

fn change() -> impl Strategy<Value = Change> {
    let locations = [
        Location::Any,
        Location::System,
        Location::Device,
        Location::Peer(1),
    ];
    let reaches = [Reach::Any, Reach::Migrate, Reach::InPlace, Reach::Denied];
    let atomics = [
        Atomics::Any,
        Atomics::Device,
        Atomics::System,
        Atomics::Denied,
    ];
    let one_of = |most: usize| option::of(0..most);
    (one_of(4), one_of(4), one_of(4), one_of(2)).prop_map(move |(a, b, c, d)| Change {
        location: a.map(|n| locations[n]),
        reach: b.map(|n| reaches[n]),
        atomics: c.map(|n| atomics[n]),
        granule: d.map(|n| n as u32 * 4096),
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (range(), change()).prop_map(|(range, change)| Step::Set(range, change)),
        1 => range().prop_map(Step::Forget),
    ]
}

/// Applies a step to the model, which has the attributes of each page.
fn apply(model: &mut [Attributes], step: &Step) {
    match step {
        Step::Set(range, change) => {
            for page in &mut model[range.clone()] {
                *page = Attributes {
                    location: change.location.unwrap_or(page.location),
                    reach: change.reach.unwrap_or(page.reach),
                    atomics: change.atomics.unwrap_or(page.atomics),
                    granule: change.granule.unwrap_or(page.granule),
                };
            }
        }
        Step::Forget(range) => model[range.clone()].fill(Attributes::default()),
    }
}

/// Returns the number of ranges that the pages form.
fn count(model: &[Attributes]) -> usize {
    let chunks = model.chunk_by(|a, b| a == b);
    chunks
        .filter(|chunk| chunk[0] != Attributes::default())
        .count()
}

proptest! {
    #[test]
    fn each_page_has_what_was_advised_last(
        steps in vec(step(), 1..60),
        places in prop_oneof![Just(4_usize), Just(8), Just(256)],
    ) {
        let mut map = map(places);
        let mut model = [Attributes::default(); END];
        for step in &steps {
            let before = model;
            apply(&mut model, step);
            match step {
                Step::Set(range, change) => {
                    let allowed = map.len().max(places / 2);
                    let answer = map.set(range.clone(), change);
                    prop_assert_eq!(answer.is_ok(), count(&model) <= allowed);
                    if answer.is_err() {
                        model = before;
                    }
                }
                Step::Forget(range) => {
                    let lost = map.forget(range.clone());
                    let mut missed = 0;
                    for (page, attributes) in model.iter_mut().enumerate() {
                        if *attributes != map.at(page).0 {
                            prop_assert_eq!(map.at(page).0, Attributes::default());
                            *attributes = Attributes::default();
                            missed += 1;
                        }
                    }
                    prop_assert_eq!(lost, missed);
                    prop_assert!(lost == 0 || map.len() == places);
                    prop_assert!(lost < END / 2);
                }
            }
            for (page, attributes) in model.iter().enumerate() {
                let (seen, range) = map.at(page);
                prop_assert_eq!(seen, *attributes);
                prop_assert!(range.contains(&page));
            }
            prop_assert_eq!(map.len(), count(&model));
            prop_assert_eq!(ranges(&map).len(), map.len());
            let denied = model.iter().any(|page| page.reach == Reach::Denied);
            prop_assert_eq!(map.denies(), denied);
        }
    }
}
