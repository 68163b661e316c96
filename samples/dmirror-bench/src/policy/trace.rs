// SPDX-License-Identifier: GPL-2.0

//! Patterns of accesses, as papers on oversubscribed memory compare them.

use crate::pages::BLOCK_PAGES;
use std::ops::Range;

use clap::ValueEnum;
use rand::Rng as _;
use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use serde::Serialize;

/// A pattern of accesses.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// The device reads each page once, in order
    Stream,
    /// The device reads and writes words anywhere
    Random,
    /// The device computes each row of one grid from three rows of another, and back again
    Stencil,
    /// The device follows pointers through all pages
    Chase,
    /// The device reads all, and writes some pages by turns with a CPU
    PingPong,
    /// The device reads all pages in order, again and again
    Sweep,
}

impl Pattern {
    /// Returns the name, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Random => "random",
            Self::Stencil => "stencil",
            Self::Chase => "chase",
            Self::PingPong => "ping-pong",
            Self::Sweep => "sweep",
        }
    }
}

/// The source of accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// An engine of the device.
    Engine,
    /// A CPU.
    Cpu,
}

/// The relation between the accesses of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Whole pages that follow one another.
    Pages,
    /// Words whose places are known in advance.
    Words,
    /// Words that each contain the place of the next one.
    Chain,
}

/// An access to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The number of the page.
    pub page: u32,
    /// Set if it is a write.
    pub is_write: bool,
}

/// Consecutive accesses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The source of the accesses.
    pub by: By,
    /// The relation between the accesses.
    pub shape: Shape,
    /// The accesses.
    pub accesses: Vec<Access>,
}

/// Number of times that a sweep accesses all pages.
pub const SWEEPS: usize = 8;

/// Number of times that a stencil computes each of its grids.
const ITERATIONS: usize = 4;

/// Number of pages in a row of a stencil.
const ROW: usize = 16;

/// Number of accesses to random words, for each page.
const DRAWS: usize = 4;

/// Number of times that a chase goes through all pages.
const LAPS: usize = 2;

/// In a ping-pong, the device reads a block; then it and a CPU write this number of its pages …
const SHARED: usize = 8;

/// … this number of times, by turns.
const TURNS: usize = 64;

/// Returns the accesses of a pattern to the pages below `npages`, always the same for a seed.
pub fn trace(pattern: Pattern, npages: usize, seed: u64) -> Vec<Packet> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    match pattern {
        Pattern::Stream => vec![pages(0..npages, false)],
        Pattern::Sweep => vec![pages(0..npages, false); SWEEPS],
        Pattern::Random => {
            let draw = |_| Access {
                page: rng.random_range(0..npages as u32),
                is_write: rng.random_bool(0.5),
            };
            vec![Packet {
                by: By::Engine,
                shape: Shape::Words,
                accesses: (0..DRAWS * npages).map(draw).collect(),
            }]
        }
        Pattern::Chase => {
            // All pages in random order, repeatedly.
            let mut order: Vec<u32> = (0..npages as u32).collect();
            order.shuffle(&mut rng);
            let steps = order.iter().cycle().take(LAPS * npages);
            let read = |page: &u32| Access {
                page: *page,
                is_write: false,
            };
            vec![Packet {
                by: By::Engine,
                shape: Shape::Chain,
                accesses: steps.map(read).collect(),
            }]
        }
        Pattern::Stencil => stencil(npages),
        Pattern::PingPong => (0..npages)
            .step_by(BLOCK_PAGES)
            .flat_map(|start| ping_pong(start..npages.min(start + BLOCK_PAGES)))
            .collect(),
    }
}

/// Returns a packet by which an engine accesses whole pages in order.
fn pages(range: Range<usize>, is_write: bool) -> Packet {
    Packet {
        by: By::Engine,
        shape: Shape::Pages,
        accesses: accesses(range, is_write),
    }
}

fn accesses(range: Range<usize>, is_write: bool) -> Vec<Access> {
    let access = |page| Access {
        page: page as u32,
        is_write,
    };
    range.map(access).collect()
}

/// Returns the accesses of a stencil: two grids with equally many rows, one behind the other.
fn stencil(npages: usize) -> Vec<Packet> {
    let rows = npages / ROW / 2;
    let mut packets = Vec::new();
    for iteration in 0..2 * ITERATIONS {
        let (from, to) = match iteration % 2 {
            0 => (0, rows),
            _ => (rows, 0),
        };
        for row in 0..rows {
            let around = row.saturating_sub(1)..(row + 2).min(rows);
            packets.push(pages(
                (from + around.start) * ROW..(from + around.end) * ROW,
                false,
            ));
            packets.push(pages((to + row) * ROW..(to + row + 1) * ROW, true));
        }
    }
    packets
}

/// Returns the accesses to a block: the device reads it, and shares the first pages with a CPU.
fn ping_pong(block: Range<usize>) -> Vec<Packet> {
    let shared = block.start..block.end.min(block.start + SHARED);
    let write = |by| Packet {
        by,
        shape: Shape::Words,
        accesses: accesses(shared.clone(), true),
    };
    let turns = (0..TURNS).flat_map(|_| [write(By::Engine), write(By::Cpu)]);
    [pages(block, false)].into_iter().chain(turns).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NPAGES: usize = 1280;

    /// Returns the number of accesses to each page, by an engine and by a CPU.
    fn uses(pattern: Pattern) -> Vec<[usize; 2]> {
        let mut uses = vec![[0; 2]; NPAGES];
        for packet in trace(pattern, NPAGES, 1) {
            for access in packet.accesses {
                uses[access.page as usize][packet.by as usize] += 1;
            }
        }
        uses
    }

    #[test]
    fn a_seed_makes_the_same_and_another_one_something_else() {
        for pattern in Pattern::value_variants() {
            let make = |seed| trace(*pattern, NPAGES, seed);
            assert_eq!(make(1), make(1), "{pattern:?}");
            let is_drawn = matches!(pattern, Pattern::Random | Pattern::Chase);
            assert_eq!(make(1) != make(2), is_drawn, "{pattern:?}");
        }
    }

    #[test]
    fn names_are_those_of_the_command_line() {
        for pattern in Pattern::value_variants() {
            let value = pattern
                .to_possible_value()
                .map(|it| it.get_name().to_owned());
            assert_eq!(value.as_deref(), Some(pattern.name()));
        }
    }

    #[test]
    fn passes_access_each_page_as_often() {
        for (pattern, times) in [
            (Pattern::Stream, 1),
            (Pattern::Sweep, SWEEPS),
            (Pattern::Chase, LAPS),
        ] {
            assert_eq!(uses(pattern), vec![[times, 0]; NPAGES], "{pattern:?}");
        }
    }

    #[test]
    fn a_chase_jumps() {
        let packets = trace(Pattern::Chase, NPAGES, 1);
        let [packet] = &packets[..] else {
            panic!("{} packets", packets.len());
        };
        let near = |pair: &&[Access]| pair[0].page.abs_diff(pair[1].page) < 16;
        assert!(packet.accesses.windows(2).filter(near).count() < NPAGES / 10);
    }

    #[test]
    fn random_words_are_everywhere_and_half_of_them_written() {
        let packets = trace(Pattern::Random, NPAGES, 1);
        let all = || packets.iter().flat_map(|packet| &packet.accesses);
        let count = all().count();
        assert_eq!(count, DRAWS * NPAGES);
        let writes = all().filter(|access| access.is_write).count();
        assert!((count * 2 / 5..count * 3 / 5).contains(&writes), "{writes}");
        for part in 0..10 {
            let part = part * NPAGES / 10..(part + 1) * NPAGES / 10;
            let there = all().filter(|access| part.contains(&(access.page as usize)));
            let there = there.count();
            assert!(
                (count / 20..count / 5).contains(&there),
                "{part:?}: {there}"
            );
        }
    }

    #[test]
    fn a_stencil_writes_each_grid_from_the_other_one() {
        let rows = NPAGES / ROW / 2;
        let half = |packet: &Packet| packet.accesses[0].page as usize / (rows * ROW);
        for pair in trace(Pattern::Stencil, NPAGES, 1).chunks(2) {
            let [from, to] = pair else {
                panic!("one of two");
            };
            assert!(from.accesses.iter().all(|access| !access.is_write));
            assert!(to.accesses.iter().all(|access| access.is_write));
            assert_eq!(half(from) + half(to), 1);
        }
        let uses = uses(Pattern::Stencil);
        // In each iteration: three reads, or two at the ends of a grid, and one write.
        assert_eq!(uses[0], [3 * ITERATIONS, 0]);
        assert_eq!(uses[ROW], [4 * ITERATIONS, 0]);
        assert_eq!(uses[NPAGES - 1], [3 * ITERATIONS, 0]);
    }

    #[test]
    fn both_sides_write_what_they_share_by_turns() {
        let uses = uses(Pattern::PingPong);
        for (page, uses) in uses.into_iter().enumerate() {
            let is_shared = page % BLOCK_PAGES < SHARED;
            let turns = if is_shared { TURNS } else { 0 };
            assert_eq!(uses, [1 + turns, turns], "page {page}");
        }
    }
}
