// SPDX-License-Identifier: GPL-2.0

//! Validation and decoding of packets.

use core::mem::offset_of;

use kernel::prelude::*;

use crate::{
    packet::{AtomicOp, Malformed, Packet, Side, MAX_SPIN_NS, OPCODES, PACKET_BYTES},
    uapi::{self, dmirror_packet},
};

const PAGE: u64 = 4096;

/// The members of a packet, in the order of the struct, without the reserved ones.
type Members = (u32, u32, u64, u64, u64, u64, u64);

fn decode(members: Members) -> core::result::Result<Packet, Malformed> {
    decode_with(members, [0; 2])
}

fn decode_with(
    (opcode, flags, dst, src, len, value, value2): Members,
    reserved: [u64; 2],
) -> core::result::Result<Packet, Malformed> {
    let raw = dmirror_packet {
        opcode,
        flags,
        dst,
        src,
        len,
        value,
        value2,
        reserved,
    };
    Packet::decode(&raw, PAGE)
}

const FILL: u32 = uapi::DMIRROR_OP_FILL;
const COPY: u32 = uapi::DMIRROR_OP_COPY;
const SUM: u32 = uapi::DMIRROR_OP_SUM;
const CHASE: u32 = uapi::DMIRROR_OP_CHASE;
const RANDOM: u32 = uapi::DMIRROR_OP_RANDOM;
const ATOMIC: u32 = uapi::DMIRROR_OP_ATOMIC;
const PREFETCH: u32 = uapi::DMIRROR_OP_PREFETCH;
const SPIN: u32 = uapi::DMIRROR_OP_SPIN;
const FENCE: u32 = uapi::DMIRROR_OP_FENCE;
const JUMP: u32 = uapi::DMIRROR_OP_JUMP;

const WRITE: u32 = uapi::DMIRROR_RANDOM_WRITE;
const IS_64: u32 = uapi::DMIRROR_ATOMIC_64;
const CAS: u32 = uapi::DMIRROR_ATOMIC_CAS;
const SYSTEM: u32 = uapi::DMIRROR_PREFETCH_SYSTEM;

/// The last address, and the last one of an aligned word.
const LAST: u64 = u64::MAX;
const LAST_WORD: u64 = u64::MAX - 7;

/// Well-formed packets, one of each kind, with as many members 0 as possible.
const GOOD: [Members; 13] = [
    (FILL, 0, 3, 0, 5, 7, 0),
    (COPY, 0, 1, 100, 99, 0, 0),
    (SUM, 0, 8, 3, 5, 0, 0),
    (CHASE, 0, 16, 3, 5, 7, 0),
    (RANDOM, 0, 8, 16, 5, 7, 24),
    (RANDOM, WRITE, 8, 16, 5, 7, 24),
    (ATOMIC, 0, 8, 4, 5, 7, 9),
    (ATOMIC, IS_64 | CAS, 8, 16, 5, 7, 9),
    (PREFETCH, 0, 0, PAGE, 2 * PAGE, 0, 0),
    (PREFETCH, SYSTEM, 0, PAGE, 2 * PAGE, 0, 0),
    (SPIN, 0, 0, 0, 5, 0, 0),
    (FENCE, 0, 8, 0, 0, 7, 0),
    (JUMP, 0, 0, 64, 0, 0, 0),
];

#[kunit_tests(dmirror_packet)]
mod cases {
    use super::*;

    #[test]
    fn the_layout_is_that_of_the_manual() {
        assert_eq!(PACKET_BYTES, 64);
        let offsets = [
            offset_of!(dmirror_packet, opcode),
            offset_of!(dmirror_packet, flags),
            offset_of!(dmirror_packet, dst),
            offset_of!(dmirror_packet, src),
            offset_of!(dmirror_packet, len),
            offset_of!(dmirror_packet, value),
            offset_of!(dmirror_packet, value2),
            offset_of!(dmirror_packet, reserved),
        ];
        assert_eq!(offsets, [0, 4, 8, 16, 24, 32, 40, 48]);
        let opcodes = [
            FILL, COPY, SUM, CHASE, RANDOM, ATOMIC, PREFETCH, SPIN, FENCE, JUMP,
        ];
        assert_eq!(opcodes, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(OPCODES, 0x7fe);
    }

    #[test]
    fn each_opcode_says_what_it_is_to_do() {
        let op = |is_64, expected, value| AtomicOp {
            is_64,
            expected,
            value,
        };
        let expected = [
            Packet::Fill {
                dst: 3..8,
                value: 7,
            },
            Packet::Copy {
                dst: 1,
                src: 100,
                len: 99,
            },
            Packet::Sum { src: 3..8, dst: 8 },
            Packet::Chase {
                first: 3,
                offset: 7,
                times: 5,
                dst: 16,
            },
            random(false),
            random(true),
            Packet::Atomic {
                at: 4,
                op: op(false, None, 7),
                times: 5,
                dst: Some(8),
            },
            Packet::Atomic {
                at: 16,
                op: op(true, Some(9), 7),
                times: 5,
                dst: Some(8),
            },
            prefetch(Side::Device),
            prefetch(Side::System),
            Packet::Spin { ns: 5 },
            Packet::Fence { dst: 8, value: 7 },
            Packet::Jump { to: 64 },
        ];
        for (members, packet) in GOOD.into_iter().zip(expected) {
            assert_eq!(decode(members), Ok(packet));
        }
        let no_result = decode((ATOMIC, 0, 0, 4, 1, 7, 9));
        let is_none = matches!(no_result, Ok(Packet::Atomic { dst: None, .. }));
        assert!(is_none);
    }

    fn random(writes: bool) -> Packet {
        Packet::Random {
            src: 16,
            nwords: 3,
            times: 5,
            seed: 7,
            writes,
            dst: 8,
        }
    }

    fn prefetch(to: Side) -> Packet {
        Packet::Prefetch {
            range: PAGE..3 * PAGE,
            to,
        }
    }

    #[test]
    fn members_and_flags_that_mean_nothing_are_0() {
        for members in GOOD {
            let (opcode, flags, dst, src, len, value, value2) = members;
            assert!(decode(members).is_ok());
            for reserved in [[1, 0], [0, 1], [0, 1 << 63]] {
                assert_eq!(decode_with(members, reserved), Err(Malformed));
            }
            for bit in 0..32 {
                let known = match opcode {
                    RANDOM | PREFETCH => 1,
                    ATOMIC => 2,
                    _ => 0,
                };
                // A known flag makes a different packet.
                if bit >= known {
                    let other = (opcode, flags | 1 << bit, dst, src, len, value, value2);
                    assert_eq!(decode(other), Err(Malformed));
                }
            }
            // A member that the opcode does not use; 64 would satisfy every alignment except that
            // of PREFETCH.
            for (is_named, other) in [
                (dst, (opcode, flags, 64, src, len, value, value2)),
                (src, (opcode, flags, dst, 64, len, value, value2)),
                (len, (opcode, flags, dst, src, 64, value, value2)),
                (value, (opcode, flags, dst, src, len, 64, value2)),
                (value2, (opcode, flags, dst, src, len, value, 64)),
            ] {
                if is_named == 0 {
                    assert_eq!(decode(other), Err(Malformed));
                }
            }
        }
    }

    #[test]
    fn opcodes_that_there_are_not_are_malformed() {
        for opcode in [0, 11, 12, 1 << 8, 1 << 16, 0x0100_0001, u32::MAX] {
            assert_eq!(decode((opcode, 0, 0, 0, 0, 0, 0)), Err(Malformed));
        }
    }

    /// Checks the last good value and the first bad one.
    #[test]
    fn bounds_are_those_of_the_manual() {
        let table: &[(bool, Members)] = &[
            // Ranges end below 2^64; empty ranges may begin anywhere.
            (true, (FILL, 0, LAST, 0, 0, 0, 0)),
            (true, (FILL, 0, LAST - 1, 0, 1, 0, 0)),
            (false, (FILL, 0, LAST, 0, 1, 0, 0)),
            (false, (FILL, 0, 1, 0, LAST, 0, 0)),
            (true, (FILL, 0, 0, 0, LAST, 0, 0)),
            (false, (COPY, 0, LAST, 0, 1, 0, 0)),
            (false, (COPY, 0, 0, LAST, 1, 0, 0)),
            (true, (COPY, 0, LAST, LAST, 0, 0, 0)),
            (false, (SUM, 0, 8, LAST, 1, 0, 0)),
            (false, (RANDOM, 0, 0, LAST_WORD, 1, 0, 8)),
            (true, (RANDOM, 0, 0, LAST_WORD - 8, 1, 0, 8)),
            (false, (RANDOM, 0, 0, LAST_WORD - 8, 1, 0, 16)),
            (false, (RANDOM, 0, 0, 8, 1, 0, LAST_WORD)),
            (false, (ATOMIC, IS_64, 0, LAST_WORD, 1, 0, 0)),
            (true, (ATOMIC, IS_64, 0, LAST_WORD - 8, 1, 0, 0)),
            (false, (ATOMIC, 0, 0, LAST - 3, 1, 0, 0)),
            (true, (ATOMIC, 0, 0, LAST - 7, 1, 0, 0)),
            (false, (PREFETCH, 0, 0, !(PAGE - 1), PAGE, 0, 0)),
            (true, (PREFETCH, 0, 0, !(PAGE - 1) - PAGE, PAGE, 0, 0)),
            // So do the ranges of results.
            (false, (SUM, 0, LAST_WORD, 0, 0, 0, 0)),
            (true, (SUM, 0, LAST_WORD - 8, 0, 0, 0, 0)),
            (false, (CHASE, 0, LAST_WORD - 8, 0, 0, 0, 0)),
            (true, (CHASE, 0, LAST_WORD - 16, 0, 0, 0, 0)),
            (false, (RANDOM, 0, LAST_WORD, 0, 1, 0, 8)),
            (false, (ATOMIC, 0, LAST_WORD, 0, 1, 0, 0)),
            (false, (FENCE, 0, LAST_WORD, 0, 0, 0, 0)),
            // The ranges of COPY must not overlap, but may touch.
            (true, (COPY, 0, 100, 90, 10, 0, 0)),
            (false, (COPY, 0, 100, 91, 10, 0, 0)),
            (false, (COPY, 0, 100, 100, 1, 0, 0)),
            (true, (COPY, 0, 100, 100, 0, 0, 0)),
            (false, (COPY, 0, 100, 109, 10, 0, 0)),
            (true, (COPY, 0, 100, 110, 10, 0, 0)),
            // Alignment.
            (true, (SUM, 0, 8, 1, 1, 0, 0)),
            (false, (SUM, 0, 4, 0, 0, 0, 0)),
            (false, (CHASE, 0, 12, 0, 0, 0, 0)),
            (true, (CHASE, 0, 8, 1, 0, 1, 0)),
            (false, (RANDOM, 0, 4, 0, 0, 0, 8)),
            (false, (RANDOM, 0, 0, 4, 0, 0, 8)),
            (false, (RANDOM, 0, 0, 0, 0, 0, 12)),
            (false, (ATOMIC, 0, 4, 0, 1, 0, 0)),
            (false, (ATOMIC, 0, 0, 2, 1, 0, 0)),
            (true, (ATOMIC, 0, 0, 12, 1, 0, 0)),
            (false, (ATOMIC, IS_64, 0, 12, 1, 0, 0)),
            (false, (PREFETCH, 0, 0, PAGE / 2, PAGE, 0, 0)),
            (false, (PREFETCH, 0, 0, PAGE, PAGE / 2, 0, 0)),
            (false, (PREFETCH, 0, 0, PAGE, PAGE + 8, 0, 0)),
            (false, (FENCE, 0, 7, 0, 0, 0, 0)),
            (false, (JUMP, 0, 0, 32, 0, 0, 0)),
            (true, (JUMP, 0, 0, LAST - 63, 0, 0, 0)),
            // Lengths.
            (true, (RANDOM, 0, 0, 0, 0, 0, 8)),
            (false, (RANDOM, 0, 0, 0, 1, 0, 0)),
            (false, (ATOMIC, 0, 0, 0, 0, 0, 0)),
            (false, (PREFETCH, 0, 0, PAGE, 0, 0, 0)),
            (true, (SPIN, 0, 0, 0, MAX_SPIN_NS, 0, 0)),
            (false, (SPIN, 0, 0, 0, MAX_SPIN_NS + 1, 0, 0)),
        ];
        for (nth, &(is_good, members)) in table.iter().enumerate() {
            if decode(members).is_ok() != is_good {
                pr_err!("line {nth} of the table: {members:x?}\n");
            }
            assert_eq!(decode(members).is_ok(), is_good);
        }
    }

    #[test]
    fn atomic_operations_keep_to_the_width_of_their_word() {
        let add = |is_64, value| AtomicOp {
            is_64,
            expected: None,
            value,
        };
        assert_eq!(add(false, 1).apply(0xffff_ffff), Some(0));
        assert_eq!(add(true, 1).apply(0xffff_ffff), Some(1 << 32));
        assert_eq!(add(true, 2).apply(u64::MAX), Some(1));
        assert_eq!(add(false, 5 << 32 | 1).apply(6), Some(7));
        let swap = |is_64, expected, value| AtomicOp {
            is_64,
            expected: Some(expected),
            value,
        };
        assert_eq!(swap(true, 3, 4).apply(3), Some(4));
        assert_eq!(swap(true, 3, 4).apply(4), None);
        assert_eq!(swap(false, 1 << 32 | 3, 1 << 32 | 4).apply(3), Some(4));
        assert_eq!(swap(true, 1 << 32 | 3, 4).apply(3), None);
    }
}
