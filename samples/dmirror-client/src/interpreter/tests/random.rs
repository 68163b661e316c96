// SPDX-License-Identifier: GPL-2.0

//! Random programs, for which only general rules are known.

use super::*;
use crate::program::Dice;
use crate::program::Ground;
use crate::range::PageRange;

fn data() -> PageRange {
    PageRange::new(DATA, 4).unwrap()
}

/// The rules for every packet of a random program; and a job executed in two parts has the same
/// outcome.
#[test]
fn random_programs_keep_the_rules() {
    let ground = Ground {
        data: vec![data()],
        code: CODE..CODE + PAGE,
    };
    for seed in 0..300 {
        let mut dice = Dice::new(seed);
        let mut start = image();
        start.protect(READ_ONLY, PAGE, Protection::None); // what is behind the data
        start.map(
            CODE,
            &packet::bytes(&ground.program(&mut dice)),
            Protection::Read,
        );
        let mut whole = start.clone();
        let outcome = run(&mut whole, CODE, 50);
        for (addr, len) in [(READ_ONLY, 0x2000), (BEHIND, 0x1000), (CODE, 0x1000)] {
            assert_eq!(
                whole.bytes(addr, len),
                start.bytes(addr, len),
                "seed {seed}"
            );
        }
        // Packet by packet, with the address at which a longer job would continue.
        let (mut at, mut steps, mut executed) = (CODE, start.clone(), 0);
        while executed < outcome.executed {
            at = step(&mut steps, at).unwrap();
            executed += 1;
        }
        if outcome.error.is_some() {
            assert_eq!(
                run(&mut steps, at, 1),
                Outcome {
                    executed: 0,
                    ..outcome
                }
            );
        }
        assert_eq!(steps, whole, "seed {seed}");
    }
}

/// Packets of almost arbitrary bits, some of which access packets: they must only have an outcome.
#[test]
fn no_bits_are_too_strange() {
    for seed in 0..1000 {
        let mut dice = Dice::new(seed);
        let mut image = image();
        let ground = Ground {
            data: vec![data(), PageRange::new(CODE, 1).unwrap()],
            code: CODE..CODE + PAGE,
        };
        let packets: Vec<Packet> = (0..PAGE / 64)
            .map(|_| {
                let mut words = ground.packet(&mut dice).to_words();
                if dice.one_in(4) {
                    let nth = dice.below(8) as usize;
                    words[nth] ^= 1 << dice.below(64);
                }
                let packet = Packet::from_words(words);
                // Not more repetitions than a test has time for.
                let times = Opcode::of_number(packet.opcode);
                match times {
                    Some(Opcode::Chase | Opcode::Random | Opcode::Atomic) => Packet {
                        len: packet.len % 1000,
                        ..packet
                    },
                    _ => packet,
                }
            })
            .collect();
        image.map(CODE, &packet::bytes(&packets), Protection::Read);
        let outcome = run(&mut image, CODE, 64);
        assert!(outcome.executed <= 64);
        assert_eq!(outcome.error.is_none(), outcome.executed == 64);
        if outcome.error == Some(Errno::EINVAL) {
            assert_eq!((outcome.access, outcome.fault_addr % 64), (Access::None, 0));
        }
    }
}
