// SPDX-License-Identifier: GPL-2.0

//! Random programs. The same seed gives the same program, in every version of the
//! crates: the algorithm is ChaCha8, and numbers are taken from it by remainder.

use dmirror_client::hpage_pmd_nr;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::RngCore as _;
use rand_chacha::rand_core::SeedableRng as _;

use crate::op::COUNTERS;
use crate::op::Command;
use crate::op::HANDLES;
use crate::op::Job;
use crate::op::Kind;
use crate::op::Memory;
use crate::op::Op;
use crate::op::QUEUES;
use crate::op::Queue;
use crate::op::SLOTS;
use crate::op::Side;
use crate::op::Span;
use crate::op::Step;
use crate::op::Whole;

/// Returns the number of pages that one entry for a huge page maps.
fn huge() -> u16 {
    hpage_pmd_nr() as u16
}

/// A generator of random numbers.
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// Creates the generator of a seed.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Returns any number.
    pub fn any(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Returns a number below `limit`, which is above 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.any() % limit as u64) as usize
    }

    /// Returns one element of `from`.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Returns true in `percent` percent of the calls.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn slot(&mut self) -> u8 {
        self.below(SLOTS) as u8
    }

    fn handle(&mut self) -> u8 {
        self.below(HANDLES) as u8
    }

    fn page(&mut self) -> u16 {
        self.below(2 * usize::from(huge())) as u16
    }

    fn span(&mut self) -> Span {
        let (at, len) = match self.below(10) {
            0 => (0, 2 * huge()),
            1 => (huge() * self.below(2) as u16, huge()),
            2 => (0, self.page() + 1),
            3..6 => (self.page(), 1),
            _ => (self.page(), 1 + self.below(40) as u16),
        };
        Span { at, len }
    }

    fn size(&mut self, kind: Kind) -> u16 {
        match kind {
            Kind::Huge => huge() * (1 + self.below(2) as u16),
            _ => 1 + self.below(80) as u16,
        }
    }

    fn map(&mut self, slot: u8) -> Op {
        let kind = match self.below(10) {
            0 => Kind::Shared,
            1 => Kind::File,
            2..6 => Kind::Huge,
            _ => Kind::Small,
        };
        let pages = self.size(kind);
        Op::Map { slot, kind, pages }
    }

    fn op(&mut self, beside: bool) -> Op {
        let slot = self.slot();
        if self.chance(22) {
            return self.engine(slot, beside);
        }
        match self.below(100) {
            0..8 => self.map(slot),
            8..10 => Op::Unmap {
                slot,
                at: if self.chance(50) { 0 } else { self.page() },
            },
            10..12 => Op::Split {
                slot,
                at: self.page(),
                into: self.slot(),
            },
            12..14 => Op::Move {
                slot,
                pages: if self.chance(50) { 2 * huge() } else { huge() },
            },
            14..15 => Op::Take {
                slot,
                into: self.slot(),
            },
            15..24 => self.memory(Memory::Write, slot),
            24..30 => self.memory(Memory::Read, slot),
            30..48 => {
                let what = self.pick(Memory::ALL);
                self.memory(what, slot)
            }
            48..51 => self.memory(Memory::ProtectWrite, slot),
            51..65 => self.command(Command::ToDevice, slot),
            65..90 => {
                let what = self.pick(Command::ALL);
                self.command(what, slot)
            }
            90..93 => Op::Whole {
                what: self.pick(Whole::ALL),
                handle: self.handle(),
            },
            93 => Op::Reclaim {
                mib: 1 + self.below(4) as u8,
            },
            94 => Op::Verify,
            95..98 => Op::Fork,
            _ => Op::Exit,
        }
    }

    /// Returns an operation of engines; only with `beside` can it leave a job in flight.
    fn engine(&mut self, slot: u8, beside: bool) -> Op {
        let queue = self.below(QUEUES) as u8;
        let what = match self.below(20) {
            0 => {
                let what = self.pick(Queue::ALL);
                return Op::Queue { what, queue };
            }
            1..4 if beside => {
                return Op::Count {
                    queue,
                    counter: self.below(COUNTERS) as u8,
                    times: self.below(256) as u8,
                };
            }
            4..12 if beside => Job::Submit,
            _ => Job::Run,
        };
        Op::Job {
            what,
            queue,
            slot,
            span: match self.below(4) {
                0 => self.span(),
                _ => Span {
                    at: self.page(),
                    len: 2 + self.below(64) as u16,
                },
            },
            other: self.slot(),
            seed: self.any() as u32,
        }
    }

    fn memory(&mut self, what: Memory, slot: u8) -> Op {
        let span = self.span();
        Op::Memory { what, slot, span }
    }

    fn command(&mut self, what: Command, slot: u8) -> Op {
        Op::Device {
            what,
            handle: self.handle(),
            slot,
            span: self.span(),
        }
    }
}

/// Returns the program of a seed.
pub fn program(seed: u64, steps: usize) -> Vec<Step> {
    let mut dice = Dice::new(seed);
    let first = (0..3).map(|slot| dice.map(slot)).collect::<Vec<_>>();
    let first = first.into_iter().map(|op| (Side::Parent, op));
    // In a program without jobs beside its steps, the places of pages are checked, too.
    let beside = dice.chance(50);
    let mut program: Vec<Step> = first.map(|(side, op)| Step { side, op }).collect();
    while program.len() < steps {
        let child = dice.chance(35);
        let op = dice.op(beside);
        // A child of a child would need one more model, and find no more bugs.
        let parents = matches!(op, Op::Fork | Op::Exit);
        let side = if child && !parents {
            Side::Child
        } else {
            Side::Parent
        };
        program.push(Step { side, op });
    }
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_the_same_for_ever() {
        let program = program(1, 6);
        let lines: Vec<String> = program.iter().map(ToString::to_string).collect();
        assert_eq!(lines, FIRST);
    }

    const FIRST: [&str; 6] = [
        "parent map 0 file 76",
        "parent map 1 huge 512",
        "parent map 2 huge 512",
        "child MIGRATE_TO_DEV 0 0 0+512",
        "child SNAPSHOT 2 3 0+1024",
        "parent run 4 3 47+17 4 916950954",
    ];

    #[test]
    fn seeds_differ() {
        assert_ne!(program(1, 50), program(2, 50));
        assert_eq!(program(3, 50), program(3, 50));
    }
}
