// SPDX-License-Identifier: GPL-2.0

//! Packets that no engine accepts.

use super::*;

/// Members of a packet, as words of it.
const DST: usize = 1;
const SRC: usize = 2;
const LEN: usize = 3;
const VALUE: usize = 4;
const VALUE2: usize = 5;

/// The packet with another value in one member.
fn with(packet: Packet, member: usize, value: u64) -> Packet {
    let mut words = packet.to_words();
    words[member] = value;
    Packet::from_words(words)
}

/// A packet of each opcode that is well formed.
fn good() -> [Packet; 10] {
    [
        Packet::fill(DATA, 8, 1),
        Packet::copy(DATA, DATA + 64, 8),
        Packet::sum(DATA, DATA + 64, 8),
        Packet::chase(DATA, 0, 8, 1),
        Packet::random(DATA, DATA + 64, 64, 3, 1),
        Packet::add(Width::Eight, DATA, 1, 1, DATA + 8),
        Packet::prefetch(DATA, PAGE),
        Packet::spin(1),
        Packet::fence(DATA, 1),
        Packet::jump(CODE),
    ]
}

fn are_refused(packets: impl IntoIterator<Item = Packet>) {
    for packet in packets {
        fails(packet, Errno::EINVAL, Access::None, CODE);
    }
}

#[test]
fn the_good_ones_are_good() {
    for (packet, opcode) in good().into_iter().zip(Opcode::ALL) {
        assert_eq!(packet.opcode, opcode as u32);
        assert!(is_well_formed(&packet), "{packet:?}");
    }
}

#[test]
fn unknown_opcodes_and_flags() {
    let opcode = |opcode| Packet {
        opcode,
        ..Packet::default()
    };
    are_refused([0, 11, 0x101, u32::MAX].map(opcode));
    for packet in good() {
        let known = match Opcode::of_number(packet.opcode) {
            Some(Opcode::Random | Opcode::Prefetch) => 0b01,
            Some(Opcode::Atomic) => 0b11,
            _ => 0,
        };
        let bits = (0..32).map(|bit| 1 << bit).filter(|bit| bit & known == 0);
        are_refused(bits.map(|flags| Packet { flags, ..packet }));
    }
}

#[test]
fn members_that_the_opcode_does_not_name() {
    let unnamed: [&[usize]; 10] = [
        &[SRC, VALUE2],
        &[VALUE, VALUE2],
        &[VALUE, VALUE2],
        &[VALUE2],
        &[],
        &[],
        &[DST, VALUE, VALUE2],
        &[DST, SRC, VALUE, VALUE2],
        &[SRC, LEN, VALUE2],
        &[DST, LEN, VALUE, VALUE2],
    ];
    for (packet, unnamed) in good().into_iter().zip(unnamed) {
        are_refused([6, 7].map(|reserved| with(packet, reserved, 1)));
        are_refused(unnamed.iter().map(|member| with(packet, *member, PAGE)));
    }
}

#[test]
fn ranges_that_wrap_around() {
    let [
        fill,
        copy,
        sum,
        chase,
        random,
        atomic,
        prefetch,
        _,
        fence,
        _,
    ] = good();
    let last = u64::MAX - 7;
    are_refused([
        Packet::fill(u64::MAX, 1, 1),
        with(fill, LEN, u64::MAX),
        with(copy, DST, last),
        with(copy, SRC, last),
        with(sum, SRC, last),
        with(sum, DST, last),
        with(chase, DST, last - 8),
        with(random, DST, last),
        with(random, SRC, last - 56),
        with(atomic, SRC, last),
        with(atomic, DST, last),
        with(prefetch, SRC, PAGE.wrapping_neg()),
        with(fence, DST, last),
    ]);
}

#[test]
fn crooked_addresses_and_numbers_that_are_not_allowed() {
    let [
        _,
        _,
        sum,
        chase,
        random,
        atomic,
        prefetch,
        spin,
        fence,
        jump,
    ] = good();
    are_refused([
        Packet::copy(DATA, DATA, 1),
        Packet::copy(DATA, DATA + 7, 8),
        Packet::copy(DATA + 7, DATA, 8),
        with(sum, DST, DATA + 4),
        with(chase, DST, DATA + 4),
        with(random, DST, DATA + 4),
        with(random, SRC, DATA + 4),
        with(random, VALUE2, 12),
        with(random, VALUE2, 0),
        with(atomic, SRC, DATA + 4),
        with(atomic, DST, DATA + 4),
        with(atomic, LEN, 0),
        Packet::add(Width::Four, DATA + 2, 1, 1, 0),
        with(prefetch, SRC, DATA + 8),
        with(prefetch, LEN, 8),
        with(prefetch, LEN, 0),
        with(spin, LEN, Packet::LONGEST_SPIN + 1),
        with(fence, DST, DATA + 4),
        with(jump, SRC, CODE + 32),
    ]);
}
