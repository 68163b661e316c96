// SPDX-License-Identifier: GPL-2.0

//! Packets that no engine accepts.

use crate::packet::Opcode;
use crate::packet::Packet;
use crate::packet::Width;
use crate::range::page_size;

/// Members of a packet, by their word index.
const DST: usize = 1;
const SRC: usize = 2;
const LEN: usize = 3;
const VALUE: usize = 4;
const VALUE2: usize = 5;

/// Returns the packet with another value in one member.
fn with(packet: Packet, member: usize, value: u64) -> Packet {
    let mut words = packet.to_words();
    words[member] = value;
    Packet::from_words(words)
}

/// Returns a well-formed packet of each opcode, in their order. They access a page of memory at
/// `data`.
pub fn well_formed(data: u64) -> [Packet; 10] {
    [
        Packet::fill(data, 8, 1),
        Packet::copy(data, data + 64, 8),
        Packet::sum(data, data + 64, 8),
        Packet::chase(data, 0, 8, 1),
        Packet::random(data, data + 64, 64, 3, 1),
        Packet::add(Width::Eight, data, 1, 1, data + 8),
        Packet::prefetch(data, page_size() as u64),
        Packet::spin(1),
        Packet::fence(data, 1),
        Packet::jump(data),
    ]
}

/// Returns packets with one error each, which would otherwise work on a page of memory at `data`.
pub fn malformed(data: u64) -> Vec<Packet> {
    let mut packets = unknown_numbers(data);
    packets.extend(members_that_are_not_named(data));
    packets.extend(ranges_that_wrap_around(data));
    packets.extend(numbers_that_are_not_allowed(data));
    packets
}

/// Returns packets with undefined opcodes and flags.
fn unknown_numbers(data: u64) -> Vec<Packet> {
    let mut packets: Vec<Packet> = [0, 11, 0x101, u32::MAX]
        .map(|opcode| Packet {
            opcode,
            ..Packet::default()
        })
        .into();
    for packet in well_formed(data) {
        let known = match Opcode::of_number(packet.opcode) {
            Some(Opcode::Random | Opcode::Prefetch) => 0b01,
            Some(Opcode::Atomic) => 0b11,
            _ => 0,
        };
        let bits = (0..32).map(|bit| 1 << bit).filter(|bit| bit & known == 0);
        packets.extend(bits.map(|flags| Packet { flags, ..packet }));
    }
    packets
}

/// Returns packets in which one member that the opcode does not use is not 0.
fn members_that_are_not_named(data: u64) -> Vec<Packet> {
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
    let mut packets = Vec::new();
    for (packet, unnamed) in well_formed(data).into_iter().zip(unnamed) {
        packets.extend([6, 7].map(|reserved| with(packet, reserved, 1)));
        // Aligned as any address must be.
        let value = page_size() as u64;
        packets.extend(unnamed.iter().map(|member| with(packet, *member, value)));
    }
    packets
}

fn ranges_that_wrap_around(data: u64) -> Vec<Packet> {
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
    ] = well_formed(data);
    let last = u64::MAX - 7;
    vec![
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
        with(prefetch, SRC, (page_size() as u64).wrapping_neg()),
        with(fence, DST, last),
    ]
}

/// Returns packets with overlapping ranges, misaligned addresses, or lengths too large or 0.
fn numbers_that_are_not_allowed(data: u64) -> Vec<Packet> {
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
    ] = well_formed(data);
    vec![
        Packet::copy(data, data, 1),
        Packet::copy(data, data + 7, 8),
        Packet::copy(data + 7, data, 8),
        with(sum, DST, data + 4),
        with(chase, DST, data + 4),
        with(random, DST, data + 4),
        with(random, SRC, data + 4),
        with(random, VALUE2, 12),
        with(random, VALUE2, 0),
        with(atomic, SRC, data + 4),
        with(atomic, DST, data + 4),
        with(atomic, LEN, 0),
        Packet::add(Width::Four, data + 2, 1, 1, 0),
        with(prefetch, SRC, data + 8),
        with(prefetch, LEN, 8),
        with(prefetch, LEN, 0),
        with(spin, LEN, Packet::LONGEST_SPIN + 1),
        with(fence, DST, data + 4),
        with(jump, SRC, data + 32),
    ]
}
