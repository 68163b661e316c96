// SPDX-License-Identifier: GPL-2.0

//! What packets do to memory, wherever that is: the interpreter of `dmirror-client` says what
//! each byte must be, what becomes of the job, and how far it comes where something is wrong.

use dmirror_client::interpreter::Image;
use dmirror_client::packet;
use dmirror_client::program::{Dice, Ground};
use dmirror_client::queue::{Options, Outcome};

use crate::prelude::*;
use crate::worker::{Kind, open, over_each_kind};

cases! { "engine":
    fill = "FILL writes what it says, over memory of each kind.",
    copy = "COPY copies, however both sides lie in their pages.",
    sum = "SUM adds up words from any address on.",
    chase = "CHASE follows pointers over pages.",
    random = "RANDOM reads and writes what its numbers say.",
    atomic = "ATOMIC adds, and compares and swaps, words of 4 and of 8 bytes.",
    prefetch = "PREFETCH moves pages to the device and back, and changes none.",
    fence_and_jump = "FENCE writes its value; JUMP goes on elsewhere, and loops end with the job.",
    stays = "What is on the device an engine reads and writes there; other memory it leaves where it is.",
    packets_on_the_device = "An engine fetches packets that are on the device, and leaves them there.",
    packet_writes_packet = "A packet that was written by the one before it is executed as it is then.",
    packet_after_a_cpu_wrote_it = "A CPU's write to packets that were on the device counts.",
    several_regions = "Packets work from memory of each kind to memory of each other.",
    random_programs = "Random packets over memory of all kinds do what the interpreter says.",
    coherent_device = "The engines of a device with coherent memory do the same.",
}

const PAGE: u64 = 4096;

fn fill(context: &Context) -> Result<()> {
    over_each_kind(context, |data| {
        vec![
            Packet::fill(data + 3, 2 * PAGE + 77, 0x0807_0605_0403_0201),
            Packet::fill(data + 5 * PAGE, 4 * PAGE, u64::MAX),
            Packet::fill(data + 10 * PAGE - 1, 1, 9),
            Packet::fill(data + 12 * PAGE, 8, 10),
        ]
    })
}

fn copy(context: &Context) -> Result<()> {
    over_each_kind(context, |data| {
        vec![
            Packet::copy(data, data + 8 * PAGE, 2 * PAGE),
            Packet::copy(data + 3 * PAGE + 1, data + 10 * PAGE + 1, PAGE),
            Packet::copy(data + 5 * PAGE + 4095, data + 12 * PAGE + 2, PAGE + 17),
            Packet::copy(data + 15 * PAGE, data + 15 * PAGE + 8, 8),
            Packet::copy(data + 14 * PAGE + 100, data + 14 * PAGE, 100),
        ]
    })
}

fn sum(context: &Context) -> Result<()> {
    over_each_kind(context, |data| {
        let sums = [
            (0, 16 * PAGE),
            (PAGE - 3, 6),
            (5, 3 * PAGE),
            (7 * PAGE + 1, 4099),
            (8, 0),
        ];
        let sum =
            |(nth, (from, len)): (u64, (u64, u64))| Packet::sum(data + 8 * nth, data + from, len);
        (0..).zip(sums).map(sum).collect()
    })
}

fn chase(context: &Context) -> Result<()> {
    over_each_kind(context, |data| {
        // A chain through all pages, forwards and backwards, which ends in the last but one.
        let link = |nth: u64| data + (nth * 7 % 16) * PAGE + 64 * nth;
        let mut packets: Vec<Packet> = (0..15)
            .map(|nth| Packet::fence(link(nth) + 16, if nth == 14 { 0 } else { link(nth + 1) }))
            .collect();
        for (nth, times) in (0..).zip([0, 1, 14, 15, u64::MAX]) {
            packets.push(Packet::chase(data + 2048 + 16 * nth, link(0), 16, times));
        }
        // The results lie on a border of pages.
        packets.push(Packet::chase(data + 2 * PAGE - 8, link(3), 16, 2));
        packets
    })
}

fn random(context: &Context) -> Result<()> {
    over_each_kind(context, |data| {
        vec![
            Packet::random(data + PAGE, data, 16 * PAGE, 300, 1),
            Packet::random_write(data, data + 8, 16 * PAGE - 8, 500, 2),
            Packet::random_write(data + 8, data + 8, 8, 5, 3),
        ]
    })
}

fn atomic(context: &Context) -> Result<()> {
    over_each_kind(context, |data| {
        let mut packets = Vec::new();
        for (nth, width) in (0..).zip(Width::ALL) {
            let word = data + nth * PAGE + 4088;
            let old = data + 8 * PAGE + 64 * nth;
            packets.extend([
                Packet::add(width, word, u64::MAX, 1, old),
                Packet::add(width, word, 3, 100, old + 8),
                Packet::fence(word, 77),
                Packet::compare_and_swap(width, word, 77, 78, old + 16),
                Packet::compare_and_swap(width, word, 77, 79, old + 24),
                Packet::add(width, word, 1, 1, 0),
            ]);
        }
        let upper = data + 3 * PAGE + 4;
        packets.push(Packet::add(Width::Four, upper, 1 << 31, 3, 0));
        packets
    })
}

fn prefetch(context: &Context) -> Result<()> {
    over_each_kind(context, |data| {
        vec![
            Packet::prefetch(data, 4 * PAGE),
            Packet::fill(data + PAGE, PAGE, 5),
            Packet::prefetch_to_system(data + PAGE, 8 * PAGE),
            Packet::prefetch(data + 15 * PAGE, 2 * PAGE), // as far as there is something
            Packet::sum(data, data, 16 * PAGE),
        ]
    })?;
    let worker = Worker::new(context)?;
    let memory = Memory::new(16)?;
    let range = memory.region.part(2..10);
    worker.does(&[Packet::prefetch(range.addr(), range.bytes())])?;
    memory.expect("what was fetched", 2..10, Where::Device)?;
    memory.expect("what was not", 10..16, Where::System)?;
    let half = memory.region.part(2..6);
    worker.does(&[Packet::prefetch_to_system(half.addr(), half.bytes())])?;
    memory.expect("what went back", 2..6, Where::System)?;
    memory.expect("what did not", 6..10, Where::Device)?;
    memory.verify(memory.all())
}

fn fence_and_jump(context: &Context) -> Result<()> {
    over_each_kind(context, |data| {
        let fence = |nth| Packet::fence(data + nth * (PAGE - 8), nth);
        (0..16).map(fence).chain([Packet::spin(1000)]).collect()
    })?;
    let worker = Worker::new(context)?;
    let data = Region::anonymous(1)?;
    let most = worker.device.query()?.max_packets;
    // Forwards over a packet that no engine accepts, and back.
    let at = worker.store(&[Packet::default(); 4]);
    let add = Packet::add(Width::Eight, data.addr(), 1, 1, 0);
    for (nth, packet) in [
        Packet::jump(at + 128),
        Packet::default(),
        add,
        Packet::jump(at),
    ]
    .into_iter()
    .enumerate()
    {
        packet::store(
            &worker.code,
            (at - worker.code.addr()) as usize + 64 * nth,
            &[packet],
        );
    }
    let (mut rounds, mut sum) = (vec![1, 2, 3, 4, 5, 100], 0);
    rounds.push(most.min(10_000));
    for npackets in rounds {
        let outcome = worker.outcome(worker.queue.submit(at, npackets)?)?;
        equal("outcome", outcome, Outcome::done(npackets.into()))?;
        sum += u64::from(npackets + 1) / 3;
        equal("times that the loop ran", data.load(0), sum)?;
    }
    Ok(())
}

fn stays(context: &Context) -> Result<()> {
    let worker = Worker::new(context)?;
    for (resident, place) in [(true, Where::Device), (false, Where::System)] {
        let memory = Memory::new(8)?;
        if resident {
            memory.move_out(&worker.device, memory.all())?;
        }
        let data = memory.region.addr();
        worker.does(&[
            Packet::sum(data, data + PAGE, PAGE),
            Packet::fill(data + 2 * PAGE, 2 * PAGE, 1),
            Packet::copy(data + 4 * PAGE, data + 5 * PAGE, PAGE),
            Packet::fence(data + 6 * PAGE, 1),
        ])?;
        memory.expect("after packets worked on them", 0..7, place)?;
    }
    Ok(())
}

/// Packets that lie in a page of their own, and a page that they write to.
fn program_on_a_page(worker: &Worker) -> Result<(Region, Region, Vec<Packet>)> {
    let (code, data) = (Region::anonymous(1)?, Region::anonymous(1)?);
    let packets: Vec<Packet> = (0..32)
        .map(|nth| Packet::fence(data.addr() + 8 * nth, nth + 1))
        .collect();
    packet::store(&code, 0, &packets);
    worker
        .device
        .migrate_to_device(code.range(), &mut vec![0; code.len()])?;
    Ok((code, data, packets))
}

fn words_are(data: &Region, expected: impl Iterator<Item = u64>) -> Result<()> {
    let seen: Vec<u64> = (0..32).map(|index| data.load(index)).collect();
    equal("words", seen, expected.collect())
}

fn packets_on_the_device(context: &Context) -> Result<()> {
    let worker = Worker::new(context)?;
    let (code, data, packets) = program_on_a_page(&worker)?;
    for _ in 0..2 {
        let job = worker.queue.submit(code.addr(), packets.len() as u32)?;
        equal(
            "outcome",
            worker.outcome(job)?,
            Outcome::done(packets.len() as u64),
        )?;
        words_are(&data, 1..=32)?;
        crate::check::all_at("the packets", code.range(), Where::Device)?;
    }
    Ok(())
}

fn packet_writes_packet(context: &Context) -> Result<()> {
    let worker = Worker::new(context)?;
    let data = Region::anonymous(1)?;
    let other = worker.store(&[Packet::fence(data.addr(), 5)]);
    let at = worker.store(&[Packet::default(); 2]);
    let offset = (at - worker.code.addr()) as usize;
    packet::store(&worker.code, offset, &[Packet::copy(at + 64, other, 64)]);
    for resident in [false, true] {
        packet::store(&worker.code, offset + 64, &[Packet::default()]);
        data.store(0, 0);
        if resident {
            let page = offset / page_size();
            let range = worker.code.part(page..page + 1);
            worker
                .device
                .migrate_to_device(range, &mut vec![0; page_size()])?;
        }
        let job = worker.queue.submit(at, 2)?;
        equal("outcome", worker.outcome(job)?, Outcome::done(2))?;
        equal("word", data.load(0), 5)?;
    }
    Ok(())
}

fn packet_after_a_cpu_wrote_it(context: &Context) -> Result<()> {
    let worker = Worker::new(context)?;
    let (code, data, mut packets) = program_on_a_page(&worker)?;
    for round in 1..5 {
        for packet in &mut packets {
            packet.value += 100 * round;
        }
        packet::store(&code, 0, &packets); // which brings the page back
        let job = worker.queue.submit(code.addr(), packets.len() as u32)?;
        equal(
            "outcome",
            worker.outcome(job)?,
            Outcome::done(packets.len() as u64),
        )?;
        words_are(&data, packets.iter().map(|packet| packet.value))?;
        worker
            .device
            .migrate_to_device(code.range(), &mut vec![0; code.len()])?;
    }
    Ok(())
}

fn several_regions(context: &Context) -> Result<()> {
    let worker = Worker::new(context)?;
    for (nth, from) in Kind::ALL.into_iter().enumerate() {
        let next = Kind::ALL[(nth + 1) % Kind::ALL.len()];
        for to in [next, Kind::Small, Kind::Resident] {
            let (source, mut image) = from.make(context, &worker.device)?;
            let (target, more) = to.make(context, &worker.device)?;
            image.join(more);
            let (src, dst) = (source.region.addr(), target.region.addr());
            let packets = [
                Packet::copy(dst + 100, src, 2 * PAGE),
                Packet::copy(dst + 4 * PAGE, src + 4 * PAGE, PAGE),
                Packet::sum(dst, src + 1, 3 * PAGE),
                Packet::random_write(dst + 8, src, 8 * PAGE, 20, 1),
                Packet::add(Width::Eight, src + 64, 1, 3, dst + 16),
            ];
            let regions = [&source.region, &target.region];
            worker.compare(
                &format!("{from:?} to {to:?}"),
                &mut image,
                &regions,
                &packets,
            )?;
        }
    }
    Ok(())
}

/// Executes the random programs of a seed over memory of some kinds, and compares.
fn random_program(context: &Context, device: Device, kinds: &[Kind], seed: u64) -> Result<()> {
    let worker = Worker::of(device, Options::new(4))?;
    let mut dice = Dice::new(seed);
    let (mut image, mut memories) = (Image::default(), Vec::new());
    for kind in kinds {
        let (memory, more) = kind.make(context, &worker.device)?;
        image.join(more);
        memories.push(memory);
    }
    let regions: Vec<&Region> = memories.iter().map(|memory| &memory.region).collect();
    let code = Region::anonymous(1)?;
    let ground = Ground {
        // Not all of a huge page, so that packets meet.
        data: regions.iter().map(|region| last_pages(region)).collect(),
        code: code.addr()..code.addr() + PAGE,
    };
    for nth in 0..4 {
        let program = ground.program(&mut dice);
        packet::store(&code, 0, &program);
        let what = format!("seed {seed}, job {nth}");
        worker.compare_at(&what, &mut image, &regions, (code.addr(), &program))?;
    }
    Ok(())
}

/// The last 16 pages, behind which is a guard.
fn last_pages(region: &Region) -> PageRange {
    region.part(region.pages() - 16..region.pages())
}

fn random_programs(context: &Context) -> Result<()> {
    for seed in rounds(10) {
        let nth = seed % (Kind::ALL.len() - 1);
        let kinds = [Kind::ALL[nth], Kind::ALL[nth + 1], Kind::Resident];
        random_program(context, open(context)?, &kinds, seed as u64)?;
    }
    Ok(())
}

fn coherent_device(context: &Context) -> Result<()> {
    open(context)?; // or skips
    let kinds = [
        Kind::Small,
        Kind::Resident,
        Kind::HalfResident,
        Kind::Untouched,
    ];
    for seed in rounds(10) {
        let device = context.open_coherent(seed % 2)?;
        random_program(context, device, &kinds, seed as u64)?;
    }
    Ok(())
}
