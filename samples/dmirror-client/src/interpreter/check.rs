// SPDX-License-Identifier: GPL-2.0

//! The check for well-formed packets, according to the table in Documentation/device.md.

use crate::packet::Opcode;
use crate::packet::Packet;
use crate::packet::flag;
use crate::range::page_size;

/// Returns whether an engine accepts a packet. It fails any other packet before it does anything.
pub fn is_well_formed(packet: &Packet) -> bool {
    Opcode::of_number(packet.opcode).is_some_and(|opcode| {
        has_nothing_else(packet, opcode) && values_fit(packet, opcode) && fits(packet, opcode)
    })
}

/// Returns whether all flags and members that the opcode does not use are 0.
fn has_nothing_else(packet: &Packet, opcode: Opcode) -> bool {
    let flags = match opcode {
        Opcode::Random => flag::RANDOM_WRITE,
        Opcode::Atomic => flag::ATOMIC_64 | flag::ATOMIC_CAS,
        Opcode::Prefetch => flag::PREFETCH_SYSTEM,
        _ => 0,
    };
    // dst, src, len, value, value2
    let named = match opcode {
        Opcode::Fill => [true, false, true, true, false],
        Opcode::Copy | Opcode::Sum => [true, true, true, false, false],
        Opcode::Chase => [true, true, true, true, false],
        Opcode::Random | Opcode::Atomic => [true; 5],
        Opcode::Prefetch => [false, true, true, false, false],
        Opcode::Spin => [false, false, true, false, false],
        Opcode::Fence => [true, false, false, true, false],
        Opcode::Jump => [false, true, false, false, false],
    };
    let Packet {
        dst,
        src,
        len,
        value,
        value2,
        ..
    } = *packet;
    let members = [dst, src, len, value, value2];
    packet.flags & !flags == 0
        && packet.reserved == [0, 0]
        && named
            .into_iter()
            .zip(members)
            .all(|(named, member)| named || member == 0)
}

/// Returns whether the members are aligned, and the numbers are allowed.
fn values_fit(packet: &Packet, opcode: Opcode) -> bool {
    let page = page_size() as u64;
    match opcode {
        Opcode::Fill => true,
        Opcode::Copy => {
            let between = packet.dst.abs_diff(packet.src);
            packet.len == 0 || between >= packet.len
        }
        Opcode::Sum | Opcode::Chase | Opcode::Fence => packet.dst % 8 == 0,
        Opcode::Random => {
            packet.value2 != 0
                && [packet.dst, packet.src, packet.value2]
                    .iter()
                    .all(|n| n % 8 == 0)
        }
        Opcode::Atomic => {
            packet.src % atomic_size(packet) == 0 && packet.dst % 8 == 0 && packet.len != 0
        }
        Opcode::Prefetch => packet.len != 0 && packet.src % page == 0 && packet.len % page == 0,
        Opcode::Spin => packet.len <= Packet::LONGEST_SPIN,
        Opcode::Jump => packet.src % Packet::SIZE as u64 == 0,
    }
}

/// Returns whether no range wraps around.
fn fits(packet: &Packet, opcode: Opcode) -> bool {
    let Packet {
        dst,
        src,
        len,
        value2,
        ..
    } = *packet;
    let nothing = (0, 0);
    let ranges = match opcode {
        Opcode::Fill => [(dst, len), nothing],
        Opcode::Copy => [(dst, len), (src, len)],
        Opcode::Sum => [(dst, 8), (src, len)],
        Opcode::Chase => [(dst, 16), nothing],
        Opcode::Random => [(dst, 8), (src, value2)],
        Opcode::Atomic => [(dst, 8), (src, atomic_size(packet))],
        Opcode::Prefetch => [(src, len), nothing],
        Opcode::Fence => [(dst, 8), nothing],
        Opcode::Spin | Opcode::Jump => [nothing; 2],
    };
    ranges
        .into_iter()
        .all(|(addr, len)| addr.checked_add(len).is_some())
}

/// Returns the size of the word of an ATOMIC packet.
fn atomic_size(packet: &Packet) -> u64 {
    match packet.flags & flag::ATOMIC_64 {
        0 => 4,
        _ => 8,
    }
}
