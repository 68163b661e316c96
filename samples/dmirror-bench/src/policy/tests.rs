// SPDX-License-Identifier: GPL-2.0

//! Properties of every simulation, and results in the literature for some of them.

use std::ops::Range;

use clap::Parser;
use clap::ValueEnum as _;

use super::device::BASE;
use super::trace::By;
use super::trace::Packet;
use super::trace::SWEEPS;
use super::trace::Shape;
use super::*;

/// Blocks of the device.
const BLOCKS: usize = 4;

const CAPACITY: usize = BLOCKS * BLOCK_PAGES;

fn preset(name: &str) -> &'static Preset {
    Preset::find(name.as_bytes()).unwrap()
}

fn migrating() -> impl Iterator<Item = &'static Preset> {
    PRESETS.iter().filter(|it| it.name != "test_hmm")
}

fn npages(percent: usize) -> usize {
    CAPACITY * percent / 100
}

/// Splits a packet, so that a test can check the device in the middle of it.
fn parts(packet: &Packet) -> impl Iterator<Item = Packet> {
    packet.accesses.chunks(128).map(|accesses| Packet {
        accesses: accesses.to_vec(),
        ..*packet
    })
}

/// Returns a device after a pattern.
fn after(preset: &Preset, eviction: Eviction, pattern: Pattern, percent: usize) -> Device {
    let mut device = Device::new(BLOCKS, npages(percent), preset, eviction, 1);
    for packet in trace(pattern, npages(percent), 1) {
        device.replay(&packet);
    }
    device
}

#[test]
fn no_page_is_lost_or_in_two_places_whatever_happens() {
    for pattern in Pattern::value_variants() {
        for preset in &PRESETS {
            for eviction in Eviction::value_variants() {
                let npages = npages(150);
                let mut device = Device::new(BLOCKS, npages, preset, *eviction, 1);
                let numbers = BASE..BASE + npages;
                let mut written: Vec<u32> = numbers.map(|it| it as u32).collect();
                let packets = trace(*pattern, npages, 1);
                for part in packets.iter().flat_map(parts) {
                    device.replay(&part);
                    for access in part.accesses {
                        written[access.page as usize] += u32::from(access.is_write);
                    }
                    device.memory.check();
                    let resident = device.memory.resident();
                    assert!(resident <= CAPACITY);
                    let moved = device.memory.moved;
                    assert_eq!(moved.out - moved.back - moved.evicted, resident as u64);
                }
                let pages = 0..npages;
                let read: Vec<u32> = pages.map(|it| device.memory.read(BASE + it)).collect();
                assert_eq!(read, written, "{pattern:?}, {}", preset.name);
            }
        }
    }
}

#[test]
fn each_access_is_made_once() {
    for pattern in Pattern::value_variants() {
        for preset in &PRESETS {
            let device = after(preset, Eviction::Lru, *pattern, 125);
            let packets = trace(*pattern, npages(125), 1);
            let packets = packets.iter().filter(|packet| packet.by == By::Engine);
            let accesses: usize = packets.map(|packet| packet.accesses.len()).sum();
            let counts = device.counts;
            assert_eq!(counts.local + counts.remote, accesses as u64);
        }
    }
}

#[test]
fn explicit_placement_moves_nothing() {
    for pattern in Pattern::value_variants() {
        let device = after(preset("test_hmm"), Eviction::Lru, *pattern, 200);
        assert_eq!((device.memory.moved.out, device.counts.local), (0, 0));
    }
}

#[test]
fn a_stream_that_fits_moves_each_page_once() {
    for preset in migrating() {
        let device = after(preset, Eviction::Lru, Pattern::Stream, 100);
        let moved = device.memory.moved;
        let expected = (CAPACITY as u64, 0, 0);
        assert_eq!(
            (moved.out, moved.back, moved.evicted),
            expected,
            "{}",
            preset.name
        );
        assert_eq!(device.counts.remote, 0, "{}", preset.name);
    }
}

#[test]
fn a_sweep_that_fits_is_fetched_in_its_first_pass() {
    for preset in migrating() {
        let device = after(preset, Eviction::Lru, Pattern::Sweep, 100);
        assert_eq!(device.memory.moved.out, CAPACITY as u64, "{}", preset.name);
    }
}

#[test]
fn a_sweep_over_too_much_misses_everything_by_age_and_not_by_chance() {
    let all = (SWEEPS * npages(125)) as u64;
    for preset in migrating() {
        for eviction in [Eviction::Lru, Eviction::Fifo] {
            let device = after(preset, eviction, Pattern::Sweep, 125);
            assert_eq!(
                device.memory.moved.out, all,
                "{}, {eviction:?}",
                preset.name
            );
        }
        let device = after(preset, Eviction::Random, Pattern::Sweep, 125);
        let moved = device.memory.moved.out;
        assert!(moved < all * 4 / 5, "{}: {moved} of {all}", preset.name);
    }
}

#[test]
fn only_uvm_tells_ping_pong_as_thrashing() {
    for preset in migrating() {
        let counts = after(preset, Eviction::Lru, Pattern::PingPong, 100).counts;
        let is_told = (counts.naps > 0, counts.pins > 0);
        let expected = (preset.name == "uvm", preset.name == "uvm");
        assert_eq!(is_told, expected, "{}", preset.name);
    }
}

#[test]
fn what_is_pinned_is_used_over_the_bus() {
    let counts = after(preset("uvm"), Eviction::Lru, Pattern::PingPong, 100).counts;
    assert!(counts.remote > 0, "{counts:?}");
}

#[test]
fn only_xe_has_a_cpu_wait_for_slices() {
    for preset in migrating() {
        let counts = after(preset, Eviction::Lru, Pattern::PingPong, 100).counts;
        assert_eq!(counts.slices > 0, preset.name == "xe", "{}", preset.name);
    }
}

/// Returns the numbers of device faults, and of pages that moved to the device.
fn of_range(preset: &Preset, range: Range<u32>) -> (u64, u64) {
    let mut device = Device::new(BLOCKS, CAPACITY, preset, Eviction::Lru, 1);
    let access = |page| trace::Access {
        page,
        is_write: true,
    };
    device.replay(&Packet {
        by: By::Engine,
        shape: Shape::Pages,
        accesses: range.map(access).collect(),
    });
    (device.counts.device_faults, device.memory.moved.out)
}

#[test]
fn a_fault_moves_what_the_granule_and_the_density_say() {
    assert_eq!(of_range(preset("kfd"), 5..6), (1, 512));
    assert_eq!(of_range(preset("uvm"), 5..6), (1, 1));
    // Three pages of four bring the last one, and six of eight the other two.
    assert_eq!(of_range(preset("uvm"), 0..3), (3, 4));
    assert_eq!(of_range(preset("uvm"), 0..16), (16, 16));
    assert_eq!(of_range(preset("test_hmm"), 0..16), (16, 0));
}

#[test]
fn a_page_that_is_used_where_it_is_moves_when_it_is_hot() {
    let mut device = after(preset("uvm"), Eviction::Lru, Pattern::PingPong, 100);
    // A pin ends after some time, so access page 7 until it is pinned again.
    let write = trace::Access {
        page: 7,
        is_write: true,
    };
    let by = |by| Packet {
        by,
        shape: Shape::Words,
        accesses: vec![write; 1],
    };
    let is_pinned = |device: &Device| device.memory.frame(BASE + 7).is_none();
    for _ in 0..100 {
        device.replay(&by(By::Engine));
        if is_pinned(&device) {
            break;
        }
        device.replay(&by(By::Cpu));
    }
    assert!(is_pinned(&device) && device.counts.pins > 0);
    let before = device.counts;
    for _ in 0..256 {
        device.replay(&by(By::Engine));
    }
    assert_eq!(device.counts.hot_blocks, before.hot_blocks + 1);
    assert!(device.memory.frame(BASE + 7).is_some());
}

#[test]
fn evictions_are_the_values_of_the_setting() {
    for eviction in Eviction::value_variants() {
        let value = logic::alloc::Eviction::from_number(*eviction as u32);
        assert_eq!(format!("{value:?}"), format!("{eviction:?}"));
        assert_eq!(eviction.name(), format!("{value:?}").to_lowercase());
    }
}

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

fn options(arguments: &[&str]) -> Options {
    let program = ["policy"].iter().chain(arguments);
    Arguments::try_parse_from(program).unwrap().options
}

#[test]
fn the_same_seed_has_the_same_results() {
    let run = |seed| {
        let seed = [
            "--quick",
            "--patterns=random",
            "--percents=125",
            "--evictions=random",
            "--seed",
            seed,
        ];
        simulate(&options(&seed)).unwrap()
    };
    assert_eq!(run("3"), run("3"));
    assert_ne!(run("3").rows, run("4").rows);
}

#[test]
fn options_choose_what_is_simulated() {
    let chosen = [
        "--size=8",
        "--patterns=stream,chase",
        "--percents=50,100",
        "--presets=uvm,test_hmm",
        "--evictions=fifo,lru",
    ];
    let simulation = simulate(&options(&chosen)).unwrap();
    assert_eq!(simulation.device_bytes, 8 << 20);
    // Two patterns, two sizes; test_hmm evicts nothing.
    assert_eq!(simulation.rows.len(), 2 * 2 * 3);
    let policies: Vec<String> = simulation.rows[..3].iter().map(Row::policy).collect();
    assert_eq!(policies, ["test_hmm", "uvm, fifo", "uvm, lru"]);
    for row in &simulation.rows {
        assert!(simulation.ratio(row) >= 1.0);
        assert_eq!(row.evicted_bytes, 0);
    }
    let text = table::table(&simulation, true);
    assert_eq!(text.lines().count(), 2 + 12);
    assert!(
        text.contains("| chase   | 50 %   | uvm      | lru      |"),
        "{text}"
    );
}
