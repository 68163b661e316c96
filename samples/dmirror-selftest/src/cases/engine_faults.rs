// SPDX-License-Identifier: GPL-2.0

//! Packets that fail, and packets that nearly fail. The interpreter gives the place of the failure,
//! and the work done before it.

use dmirror_client::interpreter::Image;
use dmirror_client::program::{malformed, well_formed};
use dmirror_client::queue::{Access, Outcome};

use crate::prelude::*;
use crate::worker::{Kind, same};

cases! { "engine":
    nothing_to_do = "Packets of length 0 need no memory.",
    last_word = "CHASE that gets to the last word of all fails there, from whichever side.",
    malformed_packets = "A malformed packet fails, and does nothing.",
    faults = "A packet that meets a hole, or memory that it must not use, does what lies before that."
        => |context: &Context| meet_borders(context, false),
    faults_on_the_device = "The same with what may be used on the device."
        => |context: &Context| meet_borders(context, true),
}

fn nothing_to_do(worker: Worker) -> Result<()> {
    let data = Region::anonymous(1)?;
    let nowhere = 1 << 62;
    worker.does(&[
        Packet::fill(nowhere, 0, 1),
        Packet::fill(u64::MAX, 0, 1),
        Packet::copy(nowhere, nowhere, 0),
        Packet::sum(data.addr(), nowhere, 0),
        Packet::chase(data.addr() + 8, nowhere, 0, 0),
        Packet::chase(data.addr() + 24, 0, 0, 7),
        Packet::random(data.addr() + 40, nowhere, 8, 0, 1),
        Packet::prefetch(1 << 46, page_bytes()),
        Packet::spin(0),
    ])?;
    let seen: Vec<u64> = (0..6).map(|index| data.load(index)).collect();
    equal("results", seen, vec![0, nowhere, 0, 0, 0, 0])
}

fn last_word(worker: Worker) -> Result<()> {
    let data = Region::anonymous(1)?;
    let last = u64::MAX - 7;
    let starts = [(last, 0), (8, last.wrapping_sub(8)), (data.addr(), 0)];
    for_all(starts, |(first, offset)| {
        data.store(0, last);
        let packet = Packet::chase(data.addr() + 8, first, offset, 2);
        let expected = Outcome::failed(0, Errno::EFAULT, Access::Read, last);
        equal("outcome", worker.run(&[packet])?, expected)
    })
}

fn malformed_packets(context: &Context, worker: Worker) -> Result<()> {
    let (memory, mut image) = Kind::Small.make(context, &worker.device)?;
    let data = memory.region.addr();
    let start = image.clone();
    for packet in malformed(data) {
        worker.compare(&format!("{packet:x?}"), &mut image, &[], &[packet])?;
    }
    same("after all of them", &start, &[&memory.region])?;
    for_all(well_formed(data), |packet| worker.does(&[packet]))
}

/// Memory with borders: each part has two pages and its own protection.
struct Borders {
    image: Image,
    data: u64,
    /// The parts that a CPU can read, for the comparison.
    kept: Vec<Region>,
    /// The parts that a CPU cannot read.
    _hidden: Vec<Region>,
}

impl Borders {
    /// The parts: free, read-only, free, hidden, free, a hole, free.
    const PARTS: [Option<Protection>; 7] = {
        use Protection::{None as Hidden, Read, ReadWrite};
        let free = Some(ReadWrite);
        [free, Some(Read), free, Some(Hidden), free, None, free]
    };

    fn new(device: &Device, resident: bool) -> Result<Self> {
        let memory = Memory::new(2 * Self::PARTS.len())?;
        let mut image = Image::default();
        image.map_region(&memory.region, memory.all(), Protection::ReadWrite);
        if resident {
            memory.move_out(device, memory.all())?;
        }
        let data = memory.region.addr();
        let (mut rest, mut kept, mut hidden) = (Some(memory.region), Vec::new(), Vec::new());
        for part in Self::PARTS {
            let Some(mut region) = rest.take() else { break };
            if region.pages() > 2 {
                rest = Some(region.split_off(2));
            }
            let (addr, len) = (region.addr(), region.len() as u64);
            let Some(protection) = part else {
                image.unmap(addr, len);
                continue;
            };
            region.protect(0..2, protection)?;
            image.protect(addr, len, protection);
            match protection {
                Protection::None => hidden.push(region),
                _ => kept.push(region),
            }
        }
        Ok(Self {
            image,
            data,
            kept,
            _hidden: hidden,
        })
    }
}

/// Returns packets that meet each border, from both sides, at the border and from before it.
fn over_borders(data: u64) -> Vec<Packet> {
    let mut packets = vec![];
    let free = data; // two pages that all may use
    for border in (1..7).map(|part| data + part * 2 * page_bytes()) {
        for before in [0, 8, 100, page_bytes(), page_bytes() + 100] {
            let at = border - before;
            packets.extend([
                Packet::fill(at, page_bytes(), 3),
                Packet::sum(free, at, page_bytes() + 9),
                Packet::random(free, at & !7, 2 * page_bytes(), 20, before),
                Packet::random_write(free, at & !7, 2 * page_bytes(), 20, before),
                Packet::chase(at & !7, 0, 0, 0),
                Packet::chase(free, at & !7, 0, 1),
                Packet::chase(free, at | 1, 0, 1),
                Packet::add(Width::Four, at & !3, 1, 2, free),
                Packet::compare_and_swap(Width::Eight, at & !7, 0, 1, free),
                Packet::add(Width::Eight, free, 1, 1, at & !7),
                Packet::fence(at & !7, 4),
            ]);
            if border > data + 2 * page_bytes() {
                packets.push(Packet::copy(at, free + 10, page_bytes()));
                packets.push(Packet::copy(free + 10, at, page_bytes()));
            }
        }
        packets.push(Packet::jump(border));
        packets.push(Packet::prefetch(
            border - 2 * page_bytes(),
            4 * page_bytes(),
        ));
    }
    packets
}

fn meet_borders(context: &Context, resident: bool) -> Result<()> {
    let worker = Worker::new(context)?;
    let mut memory = Borders::new(&worker.device, resident)?;
    let kept: Vec<&Region> = memory.kept.iter().collect();
    let mut failed = 0;
    for packet in over_borders(memory.data) {
        let packets = [packet, Packet::spin(0)]; // for JUMP to be followed
        let what = format!("{packet:x?}, data at {:#x}", memory.data);
        let outcome = worker.compare(&what, &mut memory.image, &[], &packets)?;
        failed += u32::from(outcome.error.is_some());
        same(&what, &memory.image, &kept)?;
        if resident && packet.opcode == 1 {
            // Move out again the pages that the comparison brought back.
            for region in kept.iter().step_by(2) {
                let mut view = vec![0; region.len()];
                let _ = worker.device.migrate_to_device(region.range(), &mut view);
            }
        }
    }
    ensure!(failed > 100, "only {failed} packets failed");
    Ok(())
}
