// SPDX-License-Identifier: GPL-2.0

//! Packets: the operations of an engine of the device.
//!
//! The function of an operation creates its [`Packet`], whose members can then be changed, also
//! into a packet that no engine accepts. [`store`] puts packets where the device fetches them.

use crate::abi;
use crate::region::Region;

/// The bits of [`Packet::flags`].
pub mod flag {
    use crate::abi;

    /// RANDOM: write as well.
    pub const RANDOM_WRITE: u32 = abi::DMIRROR_RANDOM_WRITE;
    /// ATOMIC: a word of 8 bytes.
    pub const ATOMIC_64: u32 = abi::DMIRROR_ATOMIC_64;
    /// ATOMIC: compare and swap.
    pub const ATOMIC_CAS: u32 = abi::DMIRROR_ATOMIC_CAS;
    /// PREFETCH: to system memory.
    pub const PREFETCH_SYSTEM: u32 = abi::DMIRROR_PREFETCH_SYSTEM;
}

/// The operation of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Opcode {
    /// Repeats a value.
    Fill = abi::DMIRROR_OP_FILL,
    /// Copies.
    Copy = abi::DMIRROR_OP_COPY,
    /// Adds words.
    Sum = abi::DMIRROR_OP_SUM,
    /// Follows pointers.
    Chase = abi::DMIRROR_OP_CHASE,
    /// Reads, and perhaps writes, random words.
    Random = abi::DMIRROR_OP_RANDOM,
    /// Performs atomic operations on one word.
    Atomic = abi::DMIRROR_OP_ATOMIC,
    /// Moves pages.
    Prefetch = abi::DMIRROR_OP_PREFETCH,
    /// Does nothing for a while.
    Spin = abi::DMIRROR_OP_SPIN,
    /// Writes a word after all earlier writes.
    Fence = abi::DMIRROR_OP_FENCE,
    /// Continues at another packet.
    Jump = abi::DMIRROR_OP_JUMP,
}

impl Opcode {
    /// All opcodes, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::Fill,
        Self::Copy,
        Self::Sum,
        Self::Chase,
        Self::Random,
        Self::Atomic,
        Self::Prefetch,
        Self::Spin,
        Self::Fence,
        Self::Jump,
    ];

    /// Returns the opcode with this number, if there is one.
    pub fn of_number(number: u32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|opcode| *opcode as u32 == number)
    }
}

/// The size of the word of an atomic operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 4 bytes.
    Four,
    /// 8 bytes.
    Eight,
}

impl Width {
    /// Both sizes.
    pub const ALL: [Self; 2] = [Self::Four, Self::Eight];

    /// Returns the number of bytes.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Four => 4,
            Self::Eight => 8,
        }
    }

    /// Returns the mask of the bits that a value of this width has.
    pub fn mask(self) -> u64 {
        match self {
            Self::Four => u32::MAX.into(),
            Self::Eight => u64::MAX,
        }
    }

    fn flag(self) -> u32 {
        match self {
            Self::Four => 0,
            Self::Eight => flag::ATOMIC_64,
        }
    }
}

/// `struct dmirror_packet`; see its description in `rust/uapi/dmirror_queue.h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// The number of an [`Opcode`].
    pub opcode: u32,
    /// Bits from [`flag`].
    pub flags: u32,
    /// The address to write to.
    pub dst: u64,
    /// The address to read from.
    pub src: u64,
    /// A length or number.
    pub len: u64,
    /// A value.
    pub value: u64,
    /// Another value.
    pub value2: u64,
    /// Zeros.
    pub reserved: [u64; 2],
}

impl Packet {
    /// The size in bytes, which is also the alignment.
    pub const SIZE: usize = size_of::<abi::dmirror_packet>();
    /// The size in words of 8 bytes.
    pub const WORDS: usize = Self::SIZE / size_of::<u64>();
    /// Maximum time of SPIN, in nanoseconds.
    pub const LONGEST_SPIN: u64 = 10_000_000_000;

    fn of(opcode: Opcode) -> Self {
        Self {
            opcode: opcode as u32,
            ..Self::default()
        }
    }

    /// FILL: writes the bytes of `value` repeatedly to `len` bytes from `dst` on.
    pub fn fill(dst: u64, len: u64, value: u64) -> Self {
        Self {
            dst,
            len,
            value,
            ..Self::of(Opcode::Fill)
        }
    }

    /// COPY: copies `len` bytes from `src` to `dst`.
    pub fn copy(dst: u64, src: u64, len: u64) -> Self {
        Self {
            dst,
            src,
            len,
            ..Self::of(Opcode::Copy)
        }
    }

    /// SUM: adds the words in `len` bytes from `src` on, and writes the sum to `dst`.
    pub fn sum(dst: u64, src: u64, len: u64) -> Self {
        Self {
            dst,
            src,
            len,
            ..Self::of(Opcode::Sum)
        }
    }

    /// CHASE: follows at most `times` pointers from `src` on, each `offset` bytes after the address
    /// in the previous one; writes the last pointer and the number of steps to `dst`.
    pub fn chase(dst: u64, src: u64, offset: u64, times: u64) -> Self {
        Self {
            dst,
            src,
            len: times,
            value: offset,
            ..Self::of(Opcode::Chase)
        }
    }

    /// RANDOM: reads random words in `bytes` bytes from `src` on, `times` times; writes a checksum
    /// to `dst`.
    pub fn random(dst: u64, src: u64, bytes: u64, times: u64, seed: u64) -> Self {
        Self {
            dst,
            src,
            len: times,
            value: seed,
            value2: bytes,
            ..Self::of(Opcode::Random)
        }
    }

    /// RANDOM: like [`random`](Self::random), but about every second access changes the word.
    pub fn random_write(dst: u64, src: u64, bytes: u64, times: u64, seed: u64) -> Self {
        Self {
            flags: flag::RANDOM_WRITE,
            ..Self::random(dst, src, bytes, times, seed)
        }
    }

    /// ATOMIC: adds `value` to the word at `word`, `times` times; writes the value before the last
    /// addition to `old`, unless `old` is 0.
    pub fn add(width: Width, word: u64, value: u64, times: u64, old: u64) -> Self {
        Self {
            flags: width.flag(),
            dst: old,
            src: word,
            len: times,
            value,
            ..Self::of(Opcode::Atomic)
        }
    }

    /// ATOMIC: writes `new` to the word at `word` if that equals `expected`; writes the word's
    /// previous value to `old`, unless `old` is 0.
    pub fn compare_and_swap(width: Width, word: u64, expected: u64, new: u64, old: u64) -> Self {
        Self {
            flags: width.flag() | flag::ATOMIC_CAS,
            dst: old,
            src: word,
            len: 1,
            value: new,
            value2: expected,
            ..Self::of(Opcode::Atomic)
        }
    }

    /// PREFETCH: moves the pages of `len` bytes from `src` on to the device.
    pub fn prefetch(src: u64, len: u64) -> Self {
        Self {
            src,
            len,
            ..Self::of(Opcode::Prefetch)
        }
    }

    /// PREFETCH: moves the pages of `len` bytes from `src` on to system memory.
    pub fn prefetch_to_system(src: u64, len: u64) -> Self {
        Self {
            flags: flag::PREFETCH_SYSTEM,
            ..Self::prefetch(src, len)
        }
    }

    /// SPIN: does nothing for `nanoseconds` nanoseconds.
    pub fn spin(nanoseconds: u64) -> Self {
        Self {
            len: nanoseconds,
            ..Self::of(Opcode::Spin)
        }
    }

    /// FENCE: writes `value` to the word at `dst`, after all writes of earlier packets.
    pub fn fence(dst: u64, value: u64) -> Self {
        Self {
            dst,
            value,
            ..Self::of(Opcode::Fence)
        }
    }

    /// JUMP: the next packet is the one at `target`.
    pub fn jump(target: u64) -> Self {
        Self {
            src: target,
            ..Self::of(Opcode::Jump)
        }
    }

    /// Returns the packet that is stored in memory as these words of 8 bytes; it may be invalid.
    pub fn from_words(words: [u64; Self::WORDS]) -> Self {
        let [head, dst, src, len, value, value2, r0, r1] = words;
        Self {
            opcode: head as u32,
            flags: (head >> 32) as u32,
            dst,
            src,
            len,
            value,
            value2,
            reserved: [r0, r1],
        }
    }

    /// Returns the words from which [`from_words`](Self::from_words) creates this packet.
    pub fn to_words(self) -> [u64; Self::WORDS] {
        let [r0, r1] = self.reserved;
        [
            u64::from(self.opcode) | (u64::from(self.flags) << 32),
            self.dst,
            self.src,
            self.len,
            self.value,
            self.value2,
            r0,
            r1,
        ]
    }

    /// Returns the packet that is stored as these bytes.
    pub fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let mut words = [0; Self::WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        }
        Self::from_words(words)
    }

    /// Returns the bytes of the packet in memory.
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        for (bytes, word) in bytes.chunks_exact_mut(8).zip(self.to_words()) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// Returns the bytes of packets, for any memory.
pub fn bytes(packets: &[Packet]) -> Vec<u8> {
    packets
        .iter()
        .flat_map(|packet| packet.to_bytes())
        .collect()
}

/// Stores packets in `region`, from byte `offset` on, and returns the address of the first.
///
/// # Panics
///
/// If `offset` is not a multiple of [`Packet::SIZE`], or not all packets fit.
pub fn store(region: &Region, offset: usize, packets: &[Packet]) -> u64 {
    assert_eq!(offset % Packet::SIZE, 0, "packets at {offset:#x}");
    let words = packets.iter().flat_map(|packet| packet.to_words());
    for (nth, word) in words.enumerate() {
        region.store(offset / size_of::<u64>() + nth, word.to_le());
    }
    region.addr() + offset as u64
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;
    use crate::abi::dmirror_packet;

    /// Each member has a distinct value.
    const ALL: Packet = Packet {
        opcode: 1,
        flags: 2,
        dst: 3,
        src: 4,
        len: 5,
        value: 6,
        value2: 7,
        reserved: [8, 9],
    };

    #[test]
    fn members_lie_where_the_header_has_them() {
        let bytes = ALL.to_bytes();
        for (at, value) in [
            (offset_of!(dmirror_packet, opcode), 1),
            (offset_of!(dmirror_packet, flags), 2),
            (offset_of!(dmirror_packet, dst), 3),
            (offset_of!(dmirror_packet, src), 4),
            (offset_of!(dmirror_packet, len), 5),
            (offset_of!(dmirror_packet, value), 6),
            (offset_of!(dmirror_packet, value2), 7),
            (offset_of!(dmirror_packet, reserved), 8),
            (offset_of!(dmirror_packet, reserved) + 8, 9),
        ] {
            assert_eq!(bytes[at], value, "byte {at}");
        }
        assert_eq!(bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>(), 45);
    }

    #[test]
    fn bytes_and_words_give_the_packet_back() {
        assert_eq!(Packet::from_bytes(&ALL.to_bytes()), ALL);
        assert_eq!(Packet::from_words(ALL.to_words()), ALL);
    }

    #[test]
    fn every_opcode_of_the_header_is_known() {
        let numbers = Opcode::ALL.map(|opcode| opcode as u32);
        assert_eq!(numbers, std::array::from_fn(|nth| nth as u32 + 1));
        assert_eq!(Opcode::of_number(0), None);
        assert_eq!(Opcode::of_number(11), None);
    }

    #[test]
    fn packets_are_stored_one_behind_the_other() {
        let region = Region::anonymous(1).unwrap();
        let packets = [Packet::fence(8, 9), Packet::jump(64)];
        let at = store(&region, 128, &packets);
        assert_eq!(at, region.addr() + 128);
        assert_eq!(region.to_bytes(0..1)[128..256], bytes(&packets));
    }

    #[test]
    #[should_panic(expected = "packets at 0x8")]
    fn packets_are_aligned() {
        store(&Region::anonymous(1).unwrap(), 8, &[]);
    }
}
