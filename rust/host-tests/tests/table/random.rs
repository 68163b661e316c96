// SPDX-License-Identifier: GPL-2.0

//! Sequences of operations, with right and wrong arguments, compared at each step with the model.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::model::Checked;
use crate::table::Access;
use crate::table::Entry;
use crate::table::END;
use crate::table::FANOUT;
use crate::table::MAX_SPARES;

/// An operation.
#[derive(Clone, Debug)]
enum Op {
    Set {
        page: usize,
        entry: Entry,
        spares: usize,
    },
    SetRun {
        page: usize,
        entry: Entry,
        spares: usize,
    },
    /// Maps the pages of a run one by one, `step` apart.
    Fill {
        page: usize,
        step: usize,
        entry: Entry,
    },
    Clear {
        start: usize,
        end: usize,
    },
    Find {
        start: usize,
        end: usize,
    },
}

/// Generates runs of pages that share nodes of each level with others, and that share none.
fn any_run() -> impl Strategy<Value = usize> {
    let last = END / FANOUT - 1;
    let level = prop_oneof![Just(0_u32), Just(1), Just(2), Just(3)];
    let near = (level, 0..3_usize).prop_map(|(level, add)| FANOUT.pow(level) - 1 + add);
    prop_oneof![
        4 => 0..4_usize,
        4 => near,
        1 => (0..3_usize).prop_map(move |sub| last - sub),
        1 => 0..=last,
    ]
    .prop_map(|run| run * FANOUT)
}

/// Generates pages at the ends of runs and inside of them.
fn any_page() -> impl Strategy<Value = usize> {
    let offset = prop_oneof![
        Just(0),
        Just(1),
        Just(FANOUT / 2),
        Just(FANOUT - 1),
        0..FANOUT
    ];
    prop_oneof![
        16 => (any_run(), offset).prop_map(|(run, offset)| run + offset),
        1 => (0..3_usize).prop_map(|add| END + add),
        1 => (0..3_usize).prop_map(|sub| usize::MAX - sub),
    ]
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let access = prop_oneof![
        Just(Access::Read),
        Just(Access::Write),
        Just(Access::Exclusive)
    ];
    (0..1_usize << 40, access).prop_map(|(pfn, access)| Entry { pfn, access })
}

/// Generates numbers of spares: mostly enough, as in real use.
fn any_spares() -> impl Strategy<Value = usize> {
    prop_oneof![4 => Just(MAX_SPARES), 1 => 0..MAX_SPARES]
}

/// Generates ranges: short ones, whole runs, long ones, and empty ones.
fn any_range() -> impl Strategy<Value = (usize, usize)> {
    let length = prop_oneof![
        0..4_usize,
        Just(FANOUT),
        Just(FANOUT * FANOUT),
        FANOUT - 1..=FANOUT + 1,
        0..4 * FANOUT,
    ];
    prop_oneof![
        6 => (any_page(), length).prop_map(|(page, length)| (page, page.saturating_add(length))),
        2 => (any_run(), any_run()),
        2 => (any_page(), any_page()),
    ]
}

fn any_op() -> impl Strategy<Value = Op> {
    let run = prop_oneof![8 => any_run(), 1 => any_page()];
    prop_oneof![
        6 => (any_page(), any_entry(), any_spares())
            .prop_map(|(page, entry, spares)| Op::Set { page, entry, spares }),
        4 => (run, any_entry(), any_spares())
            .prop_map(|(page, entry, spares)| Op::SetRun { page, entry, spares }),
        1 => (any_run(), 1..64_usize, any_entry())
            .prop_map(|(page, step, entry)| Op::Fill { page, step, entry }),
        5 => any_range().prop_map(|(start, end)| Op::Clear { start, end }),
        3 => any_range().prop_map(|(start, end)| Op::Find { start, end }),
    ]
}

fn run(table: &mut Checked, op: Op) {
    match op {
        Op::Set {
            page,
            entry,
            spares,
        } => table.set(page, false, entry, spares),
        Op::SetRun {
            page,
            entry,
            spares,
        } => table.set(page, true, entry, spares),
        Op::Fill { page, step, entry } => {
            for page in (page..page + FANOUT).step_by(step) {
                table.set(page, false, entry, MAX_SPARES);
            }
        }
        Op::Clear { start, end } => table.clear(start..end),
        Op::Find { start, end } => table.find(start..end.min(END)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 512,
        max_shrink_time: 20_000, // milliseconds
        // The smallest failing case is printed: add it to `directed`, not to a file of seeds.
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_sequence_of_operations_does_what_the_model_does(
        ops in vec(any_op(), 0..60),
        clear in any::<bool>(),
    ) {
        let mut table = Checked::new();
        for op in ops {
            run(&mut table, op);
        }
        table.finish(clear);
    }
}
