// SPDX-License-Identifier: GPL-2.0

//! Packets: decoding and validation of the work of an engine. Pure logic, no kernel calls.
//! `rust/uapi/dmirror.h` describes each packet.

use core::ops::Range;

use crate::uapi::{self, dmirror_packet};

/// Number of bytes of a packet; its address is a multiple of that.
pub(crate) const PACKET_BYTES: usize = size_of::<dmirror_packet>();

/// Number of bytes of a word.
pub(crate) const WORD: u64 = size_of::<u64>() as u64;

/// Maximum number of nanoseconds that a packet spins.
pub(crate) const MAX_SPIN_NS: u64 = 10_000_000_000;

/// The defined opcodes: bit n stands for opcode n.
pub(crate) const OPCODES: u32 = (1 << (uapi::DMIRROR_OP_JUMP + 1)) - (1 << uapi::DMIRROR_OP_FILL);

/// A decoded packet. No range wraps around.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    /// Writes the bytes of a value repeatedly.
    Fill { dst: Range<u64>, value: u64 },
    /// Copies `len` bytes; the two ranges do not overlap.
    Copy { dst: u64, src: u64, len: u64 },
    /// Adds up words.
    Sum { src: Range<u64>, dst: u64 },
    /// Follows a chain of pointers, each of which is `offset` bytes after the address that the
    /// previous one holds.
    Chase {
        first: u64,
        offset: u64,
        times: u64,
        dst: u64,
    },
    /// Reads or writes randomly chosen words.
    Random {
        src: u64,
        nwords: u64,
        times: u64,
        seed: u64,
        writes: bool,
        dst: u64,
    },
    /// Performs atomic operations on a word.
    Atomic {
        at: u64,
        op: AtomicOp,
        times: u64,
        dst: Option<u64>,
    },
    /// Moves pages.
    Prefetch { range: Range<u64>, to: Side },
    /// Does nothing for a while.
    Spin { ns: u64 },
    /// Writes a word after all earlier writes.
    Fence { dst: u64, value: u64 },
    /// Continues at another packet.
    Jump { to: u64 },
}

/// An atomic operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AtomicOp {
    /// Set if the word has 8 bytes rather than 4.
    pub(crate) is_64: bool,
    /// For a compare-and-swap, the expected word, which `value` replaces; otherwise `value` is
    /// added.
    pub(crate) expected: Option<u64>,
    pub(crate) value: u64,
}

impl AtomicOp {
    /// Returns the new value of a word, or `None` if it does not change.
    pub(crate) fn apply(&self, word: u64) -> Option<u64> {
        let mask = if self.is_64 {
            u64::MAX
        } else {
            u32::MAX.into()
        };
        match self.expected {
            Some(expected) => (word == expected & mask).then_some(self.value & mask),
            None => Some(word.wrapping_add(self.value) & mask),
        }
    }
}

/// The destination of pages that move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Device,
    System,
}

/// Error: the packet is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl Packet {
    /// Decodes a packet; `page` is the size of a page in bytes.
    pub(crate) fn decode(raw: &dmirror_packet, page: u64) -> Result<Self, Malformed> {
        let dmirror_packet {
            opcode,
            flags,
            dst,
            src,
            len,
            value,
            value2,
            reserved,
        } = *raw;
        let unused = |members: &[u64]| check(members.iter().all(|&member| member == 0));
        unused(&reserved)?;
        let flags = |known: u32| check(flags & !known == 0).map(|()| flags);
        match opcode {
            uapi::DMIRROR_OP_FILL => {
                flags(0)?;
                unused(&[src, value2])?;
                let dst = range(dst, len)?;
                Ok(Self::Fill { dst, value })
            }
            uapi::DMIRROR_OP_COPY => {
                flags(0)?;
                unused(&[value, value2])?;
                let (to, from) = (range(dst, len)?, range(src, len)?);
                check(len == 0 || to.end <= from.start || from.end <= to.start)?;
                Ok(Self::Copy { dst, src, len })
            }
            uapi::DMIRROR_OP_SUM => {
                flags(0)?;
                unused(&[value, value2])?;
                words(dst, 1)?;
                let src = range(src, len)?;
                Ok(Self::Sum { src, dst })
            }
            uapi::DMIRROR_OP_CHASE => {
                flags(0)?;
                unused(&[value2])?;
                words(dst, 2)?;
                Ok(Self::Chase {
                    first: src,
                    offset: value,
                    times: len,
                    dst,
                })
            }
            uapi::DMIRROR_OP_RANDOM => {
                let flags = flags(uapi::DMIRROR_RANDOM_WRITE)?;
                words(dst, 1)?;
                check(value2 != 0 && value2 % WORD == 0)?;
                words(src, value2 / WORD)?;
                Ok(Self::Random {
                    src,
                    nwords: value2 / WORD,
                    times: len,
                    seed: value,
                    writes: flags & uapi::DMIRROR_RANDOM_WRITE != 0,
                    dst,
                })
            }
            uapi::DMIRROR_OP_ATOMIC => {
                let flags = flags(uapi::DMIRROR_ATOMIC_64 | uapi::DMIRROR_ATOMIC_CAS)?;
                let is_64 = flags & uapi::DMIRROR_ATOMIC_64 != 0;
                let expected = (flags & uapi::DMIRROR_ATOMIC_CAS != 0).then_some(value2);
                let size = if is_64 { WORD } else { WORD / 2 };
                check(len != 0 && src % size == 0)?;
                range(src, size)?;
                words(dst, 1)?;
                Ok(Self::Atomic {
                    at: src,
                    op: AtomicOp {
                        is_64,
                        expected,
                        value,
                    },
                    times: len,
                    dst: (dst != 0).then_some(dst),
                })
            }
            uapi::DMIRROR_OP_PREFETCH => {
                let flags = flags(uapi::DMIRROR_PREFETCH_SYSTEM)?;
                unused(&[dst, value, value2])?;
                check(len != 0 && src % page == 0 && len % page == 0)?;
                let to = if flags & uapi::DMIRROR_PREFETCH_SYSTEM != 0 {
                    Side::System
                } else {
                    Side::Device
                };
                let range = range(src, len)?;
                Ok(Self::Prefetch { range, to })
            }
            uapi::DMIRROR_OP_SPIN => {
                flags(0)?;
                unused(&[dst, src, value, value2])?;
                check(len <= MAX_SPIN_NS)?;
                Ok(Self::Spin { ns: len })
            }
            uapi::DMIRROR_OP_FENCE => {
                flags(0)?;
                unused(&[src, len, value2])?;
                words(dst, 1)?;
                Ok(Self::Fence { dst, value })
            }
            uapi::DMIRROR_OP_JUMP => {
                flags(0)?;
                unused(&[dst, len, value, value2])?;
                check(src % PACKET_BYTES as u64 == 0)?;
                Ok(Self::Jump { to: src })
            }
            _ => Err(Malformed),
        }
    }
}

fn check(is_good: bool) -> Result<(), Malformed> {
    if is_good {
        Ok(())
    } else {
        Err(Malformed)
    }
}

/// Returns the range of `len` bytes from an address on.
fn range(start: u64, len: u64) -> Result<Range<u64>, Malformed> {
    let end = start.checked_add(len).ok_or(Malformed)?;
    Ok(start..end)
}

/// Checks that `count` aligned words fit at an address.
fn words(start: u64, count: u64) -> Result<(), Malformed> {
    check(start % WORD == 0)?;
    range(start, count * WORD).map(drop)
}

/// The sequence of numbers that RANDOM draws.
#[derive(Clone, Copy)]
pub(crate) struct Draws(u64);

/// A number that RANDOM has drawn.
#[derive(Clone, Copy)]
pub(crate) struct Draw(u64);

impl Draws {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> Draw {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        Draw(self.0)
    }
}

impl Draw {
    /// Returns the index of the chosen word among `nwords` words.
    pub(crate) fn word(self, nwords: u64) -> u64 {
        (self.0 >> 33).checked_rem(nwords).unwrap_or(0)
    }

    /// Returns whether to write to the word, if the packet writes.
    pub(crate) fn is_write(self) -> bool {
        self.0 & (1 << 32) != 0
    }

    /// Returns the value to write in place of a word.
    pub(crate) fn change(self, word: u64) -> u64 {
        word ^ self.0
    }
}

/// Returns the sum of the words in `bytes`, the first of which is at index `at` of the whole range.
pub(crate) fn sum_of(bytes: &[u8], at: u64) -> u64 {
    let mut sum = 0_u64;
    for (byte, number) in bytes.iter().zip(at..) {
        sum = sum.wrapping_add(u64::from(*byte) << (8 * (number % WORD)));
    }
    sum
}
