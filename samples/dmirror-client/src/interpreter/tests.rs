// SPDX-License-Identifier: GPL-2.0

//! Every operation, every malformed packet, and every way to fail.

mod random;

use super::*;
use crate::packet;
use crate::program::malformed;
use crate::program::well_formed;
use crate::region::Protection;

/// Four writable pages, a read-only one, one without access, a hole, and a page behind it. The
/// packets are elsewhere.
const DATA: u64 = 0x10_000;
const READ_ONLY: u64 = DATA + 0x4000;
const HIDDEN: u64 = DATA + 0x5000;
const HOLE: u64 = DATA + 0x6000;
const BEHIND: u64 = DATA + 0x7000;
const CODE: u64 = 0x80_000;
const PAGE: u64 = 0x1000;

/// Bytes that differ from their neighbours.
fn content(addr: u64, len: usize) -> Vec<u8> {
    let byte = |nth| ((addr + nth) * 7 + (addr + nth) / 251) as u8;
    (0..len as u64).map(byte).collect()
}

fn image() -> Image {
    let mut image = Image::default();
    image.map(DATA, &content(DATA, 0x4000), Protection::ReadWrite);
    image.map(READ_ONLY, &content(READ_ONLY, 0x1000), Protection::Read);
    image.map(HIDDEN, &content(HIDDEN, 0x1000), Protection::None);
    image.map(BEHIND, &content(BEHIND, 0x1000), Protection::ReadWrite);
    image
}

/// Executes packets once, one after the other, and returns the outcome and the memory afterwards.
fn execute(mut image: Image, packets: &[Packet]) -> (Outcome, Image) {
    let mut code = image.clone();
    code.map(CODE, &packet::bytes(packets), Protection::Read);
    let outcome = run(&mut code, CODE, packets.len() as u64);
    code.unmap(CODE, (packets.len() * Packet::SIZE) as u64);
    std::mem::swap(&mut image, &mut code);
    (outcome, image)
}

/// Returns `len` bytes from `addr` on after some packets, which must succeed.
fn after(packets: &[Packet], addr: u64, len: usize) -> Vec<u8> {
    let (outcome, image) = execute(image(), packets);
    assert_eq!(outcome, Outcome::done(packets.len() as u64), "{packets:x?}");
    image.bytes(addr, len).unwrap()
}

fn word_after(packets: &[Packet], addr: u64) -> u64 {
    u64::from_le_bytes(after(packets, addr, 8).try_into().unwrap())
}

/// Checks that a packet fails and changes nothing except `written`, the bytes from an address on.
fn fails_after(packet: Packet, errno: Errno, access: Access, addr: u64, written: (u64, &[u8])) {
    let (outcome, seen) = execute(image(), &[packet]);
    assert_eq!(
        outcome,
        Outcome::failed(0, errno, access, addr),
        "{packet:x?}"
    );
    let mut expected = image();
    expected.map(written.0, written.1, Protection::ReadWrite);
    assert_eq!(seen, expected, "{packet:x?}");
}

fn fails(packet: Packet, errno: Errno, access: Access, addr: u64) {
    fails_after(packet, errno, access, addr, (DATA, &[]));
}

#[test]
fn fill_repeats_the_value_from_the_first_byte_on() {
    let bytes = after(
        &[Packet::fill(DATA + 3, 11, 0x0807_0605_0403_0201)],
        DATA,
        16,
    );
    let old = content(DATA, 16);
    assert_eq!(bytes[..3], old[..3]);
    assert_eq!(bytes[3..14], [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3]);
    assert_eq!(bytes[14..], old[14..]);
    // The value continues across a page boundary.
    let bytes = after(
        &[Packet::fill(DATA + PAGE - 3, 6, 0x0807_0605_0403_0201)],
        DATA + PAGE - 3,
        6,
    );
    assert_eq!(bytes, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn copy_copies_across_pages_however_they_lie() {
    for (to, from, len) in [
        (DATA, READ_ONLY, 0x1000),
        (DATA + 1, DATA + 0x2003, 0x1ff0),
        (DATA + 0xfff, DATA + 0x2ffe, 0x1001),
        (DATA + 8, DATA, 8),
        (DATA, DATA, 0),
    ] {
        let bytes = after(&[Packet::copy(to, from, len)], to, len as usize);
        assert_eq!(
            bytes,
            content(from, len as usize),
            "{to:x} {from:x} {len:x}"
        );
    }
}

#[test]
fn sum_fills_the_last_word_up() {
    let values = [
        Packet::fill(DATA, 16, u64::MAX),
        Packet::fill(DATA + 16, 3, 5 | (6 << 16)),
    ];
    let sum = |src, len| {
        let packets = [&values[..], &[Packet::sum(DATA + 64, src, len)]].concat();
        word_after(&packets, DATA + 64)
    };
    assert_eq!(sum(DATA, 0), 0);
    assert_eq!(sum(DATA, 16), u64::MAX - 1);
    assert_eq!(sum(DATA, 19), (u64::MAX - 1).wrapping_add(5 | (6 << 16)));
    assert_eq!(sum(DATA + 13, 6), 0x0600_05ff_ffff_u64);
    // The naive sum, across pages and from an odd address.
    let words: Vec<u8> = content(DATA + 0x1001, 0x1ffd);
    let naive = words.chunks(8).fold(0_u64, |sum, word| {
        let mut whole = [0; 8];
        whole[..word.len()].copy_from_slice(word);
        sum.wrapping_add(u64::from_le_bytes(whole))
    });
    let packets = [Packet::sum(DATA, DATA + 0x1001, 0x1ffd)];
    assert_eq!(word_after(&packets, DATA), naive);
}

#[test]
fn chase_ends_at_null_or_after_its_times() {
    let chain = [
        Packet::fence(DATA + 8, DATA + 0x100),
        Packet::fence(DATA + 0x108, DATA + 0x2000),
        Packet::fence(DATA + 0x2008, 0),
    ];
    let chase = |src, offset, times| {
        let packet = Packet::chase(DATA + 0x3000, src, offset, times);
        let bytes = after(&[&chain[..], &[packet]].concat(), DATA + 0x3000, 16);
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        (word(0), word(8))
    };
    assert_eq!(chase(DATA, 8, 0), (DATA, 0));
    assert_eq!(chase(DATA, 8, 1), (DATA + 0x100, 1));
    assert_eq!(chase(DATA, 8, 3), (0, 3));
    assert_eq!(chase(DATA, 8, u64::MAX), (0, 3));
    assert_eq!(chase(0, 8, 5), (0, 0));
    // Only the sum of pointer and offset is aligned, and it may wrap around.
    assert_eq!(chase(DATA + 7, 1, 1), (DATA + 0x100, 1));
    assert_eq!(chase(DATA + 16, 8_u64.wrapping_neg(), 1), (DATA + 0x100, 1));
}

#[test]
fn random_reads_and_writes_what_its_numbers_say() {
    let zero = Packet::fill(DATA, 0x1000, 0);
    // Bit 32 decides; it is clear in the first number of seed 1 and set in the second.
    let numbers = |seed: u64| {
        let next = |s: u64| {
            s.wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407)
        };
        [next(seed), next(next(seed))]
    };
    for seed in 0..40 {
        let [first, second] = numbers(seed);
        let at = |s: u64| DATA + ((s >> 33) % 512) * 8;
        let mut words = std::collections::BTreeMap::new();
        let mut checksum = 0_u64;
        for s in [first, second] {
            let word = words.entry(at(s)).or_insert(0);
            if s & (1 << 32) != 0 {
                *word ^= s;
            } else {
                checksum = checksum.rotate_left(1) ^ *word;
            }
        }
        let packet = Packet::random_write(DATA + 0x1000, DATA, 0x1000, 2, seed);
        let (outcome, image) = execute(image(), &[zero, packet]);
        assert_eq!(outcome, Outcome::done(2));
        for (addr, word) in words {
            assert_eq!(image.word(addr), Some(word), "seed {seed}");
        }
        assert_eq!(image.word(DATA + 0x1000), Some(checksum));
    }
    // Without the flag, nothing changes except dst.
    let packet = Packet::random(DATA, READ_ONLY, 0x1000, 100, 3);
    assert_eq!(
        after(&[packet], DATA + 8, 0x3ff8),
        content(DATA + 8, 0x3ff8)
    );
    assert_eq!(
        word_after(&[Packet::random(DATA, READ_ONLY, 8, 0, 3)], DATA),
        0
    );
}

#[test]
fn atomic_changes_its_word_alone() {
    let word = DATA + 0x10;
    let start = [
        Packet::fence(word, 0x0000_0001_ffff_ffff),
        Packet::fence(DATA, 99),
    ];
    let atomic = |packet| {
        let (outcome, image) = execute(image(), &[&start[..], &[packet]].concat());
        assert_eq!(outcome, Outcome::done(3));
        (image.word(word).unwrap(), image.word(DATA).unwrap())
    };
    let (four, eight) = (Width::Four, Width::Eight);
    let high = u64::MAX << 32;
    assert_eq!(
        atomic(Packet::add(eight, word, 1, 1, DATA)),
        (0x2_0000_0000, 0x1_ffff_ffff)
    );
    assert_eq!(
        atomic(Packet::add(eight, word, 1, 5, DATA)),
        (0x2_0000_0004, 0x2_0000_0003)
    );
    assert_eq!(
        atomic(Packet::add(four, word, 1 | high, 1, DATA)),
        (0x1_0000_0000, 0xffff_ffff)
    );
    assert_eq!(
        atomic(Packet::add(four, word + 4, 3, 2, DATA)),
        (0x7_ffff_ffff, 4)
    );
    assert_eq!(
        atomic(Packet::add(four, word, 1, 1, 0)),
        (0x1_0000_0000, 99)
    );
    let cas =
        |width, expected, new| atomic(Packet::compare_and_swap(width, word, expected, new, DATA));
    assert_eq!(cas(eight, 0x1_ffff_ffff, 7), (7, 0x1_ffff_ffff));
    assert_eq!(cas(eight, 0xffff_ffff, 7), (0x1_ffff_ffff, 0x1_ffff_ffff));
    assert_eq!(cas(four, u64::MAX, 7 | high), (0x1_0000_0007, 0xffff_ffff));
    // value2 counts only with CAS.
    let ignored = Packet {
        value2: 5,
        ..Packet::add(eight, word, 1, 1, DATA)
    };
    assert_eq!(atomic(ignored), (0x2_0000_0000, 0x1_ffff_ffff));
    // More than once: the second operation finds what the first one wrote.
    let twice = Packet {
        len: 2,
        ..Packet::compare_and_swap(eight, word, 0x1_ffff_ffff, 7, DATA)
    };
    assert_eq!(atomic(twice), (7, 7));
}

#[test]
fn prefetch_and_spin_leave_memory_as_it_is() {
    let packets = [
        Packet::prefetch(DATA, 0x4000),
        Packet::prefetch_to_system(HOLE, PAGE),
        Packet::spin(Packet::LONGEST_SPIN),
        Packet::spin(0),
    ];
    let (outcome, seen) = execute(image(), &packets);
    assert_eq!((outcome, seen), (Outcome::done(4), image()));
}

#[test]
fn jump_goes_on_elsewhere() {
    let add = |word| Packet::add(Width::Eight, word, 1, 1, 0);
    let mut image = image();
    // Two packets in an endless loop, and one that is not reached.
    let packets = [add(DATA), Packet::jump(CODE), add(DATA + 8)];
    image.map(CODE, &packet::bytes(&packets), Protection::Read);
    image.map(DATA, &[0; 16], Protection::ReadWrite);
    assert_eq!(run(&mut image, CODE, 1001), Outcome::done(1001));
    assert_eq!(
        (image.word(DATA), image.word(DATA + 8)),
        (Some(501), Some(0))
    );
    // The last packet of a job may jump anywhere.
    image.map(CODE, &Packet::jump(HOLE).to_bytes(), Protection::Read);
    assert_eq!(run(&mut image, CODE, 1), Outcome::done(1));
    let outcome = Outcome::failed(1, Errno::EFAULT, Access::Fetch, HOLE);
    assert_eq!(run(&mut image, CODE, 2), outcome);
}

#[test]
fn a_packet_may_write_the_next() {
    let mut image = image();
    image.map(
        DATA + 0x200,
        &Packet::fence(DATA, 5).to_bytes(),
        Protection::ReadWrite,
    );
    let packets = [
        Packet::copy(CODE + 64, DATA + 0x200, 64),
        Packet::jump(HOLE),
    ];
    image.map(CODE, &packet::bytes(&packets), Protection::ReadWrite);
    assert_eq!(run(&mut image, CODE, 2), Outcome::done(2));
    assert_eq!(image.word(DATA), Some(5));
}

#[test]
fn what_was_done_before_a_fault_stays() {
    let (fault, none) = (Errno::EFAULT, &[][..]);
    // Reads of a hole and of unreadable memory, at the start and later.
    for (src, at) in [
        (HOLE, HOLE),
        (HIDDEN + 5, HIDDEN + 5),
        (HIDDEN - 0x800, HIDDEN),
        (u64::MAX - 0x5000, u64::MAX - 0x5000),
    ] {
        fails(Packet::sum(DATA, src, 0x2000), fault, Access::Read, at);
    }
    // Writes to the same memory, and to read-only memory.
    let filled = vec![1; 0x800];
    let value = 0x0101_0101_0101_0101;
    fails(
        Packet::fill(HOLE + 8, 8, value),
        fault,
        Access::Write,
        HOLE + 8,
    );
    fails(Packet::fill(HIDDEN, 8, value), fault, Access::Write, HIDDEN);
    fails_after(
        Packet::fill(READ_ONLY - 0x800, 0x1000, value),
        Errno::EPERM,
        Access::Write,
        READ_ONLY,
        (READ_ONLY - 0x800, &filled),
    );
    // COPY continues up to the failing page of either side.
    let (from, to) = (HIDDEN - 0x800, DATA + 0x400);
    fails_after(
        Packet::copy(to, from, 0x1000),
        fault,
        Access::Read,
        HIDDEN,
        (to, &content(from, 0x800)),
    );
    let to = READ_ONLY - 0x400;
    fails_after(
        Packet::copy(to, DATA, 0x1000),
        Errno::EPERM,
        Access::Write,
        READ_ONLY,
        (to, &content(DATA, 0x400)),
    );
    // If both sides fail, the read is reported.
    fails(Packet::copy(HOLE, HIDDEN, 8), fault, Access::Read, HIDDEN);
    // A result that cannot be written, as a whole or in its second half.
    fails(
        Packet::sum(READ_ONLY, DATA, 8),
        Errno::EPERM,
        Access::Write,
        READ_ONLY,
    );
    fails(
        Packet::random(HOLE, DATA, 64, 3, 1),
        fault,
        Access::Write,
        HOLE,
    );
    let pointer = 0x1234_u64.to_le_bytes();
    fails_after(
        Packet::chase(READ_ONLY - 8, 0x1234, 0, 0),
        Errno::EPERM,
        Access::Write,
        READ_ONLY,
        (READ_ONLY - 8, &pointer),
    );
    // Pointers to unmapped memory, and misaligned ones.
    fails(
        Packet::chase(DATA, HOLE, 8, 1),
        fault,
        Access::Read,
        HOLE + 8,
    );
    fails(
        Packet::chase(DATA, DATA, 4, 1),
        fault,
        Access::Read,
        DATA + 4,
    );
    // Atomic operations, including some that would change nothing.
    fails(
        Packet::add(Width::Four, HOLE + 4, 1, 1, 0),
        fault,
        Access::Atomic,
        HOLE + 4,
    );
    fails(
        Packet::compare_and_swap(Width::Eight, READ_ONLY, 0, 1, 0),
        Errno::EPERM,
        Access::Atomic,
        READ_ONLY,
    );
    let (word, sum) = (
        DATA + 8,
        u64::from_le_bytes(content(DATA + 8, 8).try_into().unwrap()).wrapping_add(1),
    );
    fails_after(
        Packet::add(Width::Eight, word, 1, 1, HOLE),
        fault,
        Access::Write,
        HOLE,
        (word, &sum.to_le_bytes()),
    );
    fails_after(
        Packet::fence(HOLE, 1),
        fault,
        Access::Write,
        HOLE,
        (DATA, none),
    );
    // RANDOM on a single word, which one of the accesses hits.
    let packet = Packet::random_write(DATA, READ_ONLY, 8, 64, 1);
    fails(packet, Errno::EPERM, Access::Write, READ_ONLY);
    let packet = Packet::random(DATA, HOLE, 8, 1, 1);
    fails(packet, fault, Access::Read, HOLE);
}

#[test]
fn packets_before_a_failing_one_count() {
    let packets = [
        Packet::spin(0),
        Packet::fence(DATA, 1),
        Packet::fence(HOLE, 1),
        Packet::fence(DATA, 2),
    ];
    let (outcome, image) = execute(image(), &packets);
    assert_eq!(
        outcome,
        Outcome::failed(2, Errno::EFAULT, Access::Write, HOLE)
    );
    assert_eq!(image.word(DATA), Some(1));
    let packets = [Packet::spin(0), Packet::default()];
    let expected = Outcome::failed(1, Errno::EINVAL, Access::None, CODE + 64);
    assert_eq!(execute(image, &packets).0, expected);
}

#[test]
fn malformed_packets_fail_before_they_do_anything() {
    for (packet, opcode) in well_formed(DATA).into_iter().zip(Opcode::ALL) {
        assert_eq!(packet.opcode, opcode as u32);
        assert!(is_well_formed(&packet), "{packet:?}");
    }
    for packet in malformed(DATA) {
        fails(packet, Errno::EINVAL, Access::None, CODE);
    }
}
