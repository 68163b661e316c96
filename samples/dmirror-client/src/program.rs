// SPDX-License-Identifier: GPL-2.0

//! Packets for tests: random ones, which depend only on a seed, and ones that no engine accepts.
//!
//! Random packets write only to the memory that they are given, so a device can execute them in a
//! process that continues. Some of them fail: they are malformed, or exceed that memory by less
//! than a page.

mod malformed;

use std::ops::Range;

use crate::packet::Opcode;
use crate::packet::Packet;
use crate::packet::Width;
use crate::range::PageRange;
use crate::range::page_size;

pub use malformed::malformed;
pub use malformed::well_formed;

/// Random numbers, generated with SplitMix64.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Creates the sequence for a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `end`.
    ///
    /// # Panics
    ///
    /// If `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.any() % end
    }

    /// Returns true in one of `n` cases.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Returns one of some things.
    ///
    /// # Panics
    ///
    /// If `things` is empty.
    pub fn pick<'a, T>(&mut self, things: &'a [T]) -> &'a T {
        &things[self.below(things.len() as u64) as usize]
    }
}

/// The memory for random packets.
#[derive(Clone, Debug)]
pub struct Ground {
    /// Memory that the packets read and write. In the page behind each range, nothing is
    /// accessible.
    pub data: Vec<PageRange>,
    /// The memory of the packets: nothing writes there, and JUMP stays inside.
    pub code: Range<u64>,
}

impl Ground {
    /// Returns as many packets as there is room for.
    pub fn program(&self, dice: &mut Dice) -> Vec<Packet> {
        let room = (self.code.end - self.code.start) / Packet::SIZE as u64;
        (0..room).map(|_| self.packet(dice)).collect()
    }

    /// Returns a packet. About one in 40 is malformed, and as many exceed the data.
    pub fn packet(&self, dice: &mut Dice) -> Packet {
        let packet = self.good(dice);
        if dice.one_in(40) {
            return self.spoilt(packet, dice);
        }
        packet
    }

    fn good(&self, dice: &mut Dice) -> Packet {
        let word = self.word(dice);
        match dice.pick(&Opcode::ALL) {
            Opcode::Fill => {
                let (at, len) = self.bytes(dice);
                Packet::fill(at, len, dice.any())
            }
            Opcode::Copy => {
                let (from, len) = self.bytes(dice);
                let (to, room) = self.bytes(dice);
                Packet::copy(to, from, len.min(room))
            }
            Opcode::Sum => {
                let (at, len) = self.bytes(dice);
                Packet::sum(word, at, len)
            }
            Opcode::Chase => Packet::chase(word, self.word(dice), dice.below(9) * 8, dice.below(9)),
            Opcode::Random => {
                let (at, len) = self.bytes(dice);
                let (at, len) = (at & !7, (len & !7).max(8));
                let times = dice.below(200);
                match dice.one_in(2) {
                    true => Packet::random(word, at, len, times, dice.any()),
                    false => Packet::random_write(word, at, len, times, dice.any()),
                }
            }
            Opcode::Atomic => self.atomic(dice),
            Opcode::Prefetch => {
                let page = page_size() as u64;
                let (at, len) = self.bytes(dice);
                let (at, len) = (at / page * page, len.max(1).next_multiple_of(page));
                match dice.one_in(2) {
                    true => Packet::prefetch(at, len),
                    false => Packet::prefetch_to_system(at, len),
                }
            }
            Opcode::Spin => Packet::spin(dice.below(20_000)),
            // Words that CHASE can follow, and some that it cannot follow.
            Opcode::Fence => match dice.below(4) {
                0 => Packet::fence(word, dice.below(100)),
                _ => Packet::fence(word, self.word(dice).wrapping_sub(dice.below(3) * 8)),
            },
            Opcode::Jump => {
                let room = (self.code.end - self.code.start) / Packet::SIZE as u64;
                Packet::jump(self.code.start + dice.below(room) * Packet::SIZE as u64)
            }
        }
    }

    fn atomic(&self, dice: &mut Dice) -> Packet {
        let width = *dice.pick(&Width::ALL);
        let word = self.word(dice)
            + if width == Width::Four {
                dice.below(2) * 4
            } else {
                0
            };
        let old = if dice.one_in(3) { 0 } else { self.word(dice) };
        match dice.one_in(2) {
            true => Packet::add(width, word, dice.any(), 1 + dice.below(20), old),
            false => Packet::compare_and_swap(width, word, dice.below(2), dice.any(), old),
        }
    }

    /// Changes a packet into one that no engine accepts, or one that exceeds its memory.
    fn spoilt(&self, good: Packet, dice: &mut Dice) -> Packet {
        let end = dice.pick(&self.data).end();
        match dice.below(6) {
            0 => Packet {
                opcode: 11 + dice.below(1 << 20) as u32,
                ..good
            },
            1 => Packet {
                flags: 4 << dice.below(30),
                ..good
            },
            2 => Packet {
                reserved: [dice.below(2), 1],
                ..good
            },
            3 => Packet::fill(end, u64::MAX - end, 1),
            4 => Packet::fill(end - 40, 50, dice.any()),
            _ => Packet::sum(self.word(dice), end - 100, 200),
        }
    }

    /// Returns the address of an aligned word.
    fn word(&self, dice: &mut Dice) -> u64 {
        let data = dice.pick(&self.data);
        // Often near the start, so that packets access the same words.
        let end = match dice.one_in(2) {
            true => data.bytes(),
            false => 256,
        };
        data.addr() + dice.below(end / 8) * 8
    }

    /// Returns an address inside, and a number of bytes, perhaps 0.
    fn bytes(&self, dice: &mut Dice) -> (u64, u64) {
        let data = dice.pick(&self.data);
        let start = data.addr() + dice.below(data.bytes());
        let start = if dice.one_in(2) { start & !7 } else { start };
        let most = (data.end() - start).min(3 * page_size() as u64);
        (start, dice.below(most + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interpreter::Image;
    use crate::interpreter::run;
    use crate::region::Protection;

    #[test]
    fn a_seed_gives_the_same_numbers_everywhere() {
        let mut dice = Dice::new(0);
        assert_eq!(dice.any(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(dice.any(), 0x6e78_9e6a_a1b9_65f4);
    }

    /// Jobs execute many packets, and do not only fail.
    #[test]
    fn programs_come_far() {
        let page = page_size() as u64;
        let ground = Ground {
            data: [(16, 4), (32, 2)]
                .map(|(first, pages)| PageRange::new(first * page, pages).unwrap())
                .into(),
            code: 48 * page..49 * page,
        };
        let (mut executed, mut failed) = (0, 0);
        for seed in 0..100 {
            let program = ground.program(&mut Dice::new(seed));
            assert_eq!(program.len() as u64, page / 64);
            let mut image = Image::default();
            for data in &ground.data {
                let zeroes = vec![0; data.bytes() as usize];
                image.map(data.addr(), &zeroes, Protection::ReadWrite);
            }
            let code = crate::packet::bytes(&program);
            image.map(ground.code.start, &code, Protection::Read);
            let outcome = run(&mut image, ground.code.start, 100);
            executed += outcome.executed;
            failed += u32::from(outcome.error.is_some());
        }
        assert!(executed > 1000 && failed > 20, "{executed} {failed}");
    }
}
