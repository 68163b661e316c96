// SPDX-License-Identifier: GPL-2.0

//! The effects of packets on memory at any place. The interpreter of `dmirror-client` gives the
//! expected value of each byte, the outcome of the job, and its progress before an error.

use dmirror_client::interpreter::Image;
use dmirror_client::program::{Dice, Ground};
use dmirror_client::queue::{Options, Outcome};
use dmirror_client::{Queue, packet};

use crate::prelude::*;
use crate::worker::{Kind, open, over_each_kind, soon};

cases! { "engine":
    fill = "FILL writes what it says, over memory of each kind." => over_kinds(fill),
    copy = "COPY copies, however both sides lie in their pages." => over_kinds(copy),
    sum = "SUM adds up words from any address on." => over_kinds(sum),
    chase = "CHASE follows pointers over pages." => over_kinds(chase),
    random = "RANDOM reads and writes what its numbers say." => over_kinds(random),
    atomic = "ATOMIC adds, and compares and swaps, words of 4 and of 8 bytes."
        => over_kinds(atomic),
    prefetch = "PREFETCH moves pages to the device and back, and changes none.",
    fence_and_jump = "FENCE writes its value; JUMP goes on elsewhere, and loops end with the job.",
    stays = "An engine accesses device pages on the device, and leaves other memory where it is.",
    packets_on_the_device = "An engine fetches packets that are on the device, and leaves them there.",
    packet_writes_packet = "A packet that was written by the one before it is executed as it is then.",
    packet_after_a_cpu_wrote_it = "A CPU's write to packets that were on the device counts.",
    several_regions = "Packets work from memory of each kind to memory of each other.",
    random_programs = "Random packets over memory of all kinds do what the interpreter says.",
    coherent_device = "The engines of a device with coherent memory do the same.",
}

impl Worker {
    /// Checks that an engine is free: its next job must end soon.
    pub fn serves(context: &Context, engine: u32) -> Result<()> {
        soon("the next job of the engine", || {
            Self::on(context, engine)?.does(&[Packet::spin(0)])
        })
    }

    /// Destroys the queue, and checks that this is quick.
    pub fn ends(self) -> Result<()> {
        soon("QUEUE_DESTROY", || Ok(self.queue.destroy()?))
    }

    /// Closes the file, which ends the queue, and checks that this is quick. Returns the memory of
    /// the packets.
    pub fn closes(self) -> Result<Region> {
        self.queue.abandon();
        let device = self.device;
        soon("close", || {
            drop(device);
            Ok(())
        })?;
        Ok(self.code)
    }
}

/// Executes packets that are already stored at an address, and checks that all succeed.
pub fn done_at(queue: &Queue, at: u64, packets: usize) -> Result<()> {
    let job = queue.submit(at, packets as u32)?;
    let outcome = queue.wait(job, Some(PATIENCE))?;
    equal("outcome", outcome, Outcome::done(packets as u64))
}

/// Checks that the words of a region with the given indices have a value.
pub fn words_are(
    what: &str,
    region: &Region,
    words: impl IntoIterator<Item = usize>,
    value: u64,
) -> Result<()> {
    let mut words = words.into_iter().map(|index| region.load(index));
    words.try_for_each(|word| equal(what, word, value))
}

/// Returns a case that compares packets over memory of each kind with the interpreter.
fn over_kinds(packets: impl Fn(u64) -> Vec<Packet>) -> impl Fn(&Context) -> Result<()> {
    move |context| over_each_kind(context, &packets)
}

fn fill(data: u64) -> Vec<Packet> {
    vec![
        Packet::fill(data + 3, 2 * page_bytes() + 77, 0x0807_0605_0403_0201),
        Packet::fill(data + 5 * page_bytes(), 4 * page_bytes(), u64::MAX),
        Packet::fill(data + 10 * page_bytes() - 1, 1, 9),
        Packet::fill(data + 12 * page_bytes(), 8, 10),
    ]
}

fn copy(data: u64) -> Vec<Packet> {
    vec![
        Packet::copy(data, data + 8 * page_bytes(), 2 * page_bytes()),
        Packet::copy(
            data + 3 * page_bytes() + 1,
            data + 10 * page_bytes() + 1,
            page_bytes(),
        ),
        Packet::copy(
            data + 5 * page_bytes() + 4095,
            data + 12 * page_bytes() + 2,
            page_bytes() + 17,
        ),
        Packet::copy(data + 15 * page_bytes(), data + 15 * page_bytes() + 8, 8),
        Packet::copy(
            data + 14 * page_bytes() + 100,
            data + 14 * page_bytes(),
            100,
        ),
    ]
}

fn sum(data: u64) -> Vec<Packet> {
    vec![
        Packet::sum(data, data, 16 * page_bytes()),
        Packet::sum(data + 8, data + page_bytes() - 3, 6),
        Packet::sum(data + 16, data + 5, 3 * page_bytes()),
        Packet::sum(data + 24, data + 7 * page_bytes() + 1, 4099),
        Packet::sum(data + 32, data + 8, 0),
    ]
}

fn chase(data: u64) -> Vec<Packet> {
    // A chain through all pages but one, forwards and backwards.
    let link = |nth: u64| data + (nth * 7 % 16) * page_bytes() + 64 * nth;
    let next = |nth| if nth == 14 { 0 } else { link(nth + 1) };
    let links = (0..15).map(|nth| Packet::fence(link(nth) + 16, next(nth)));
    let chases = (0..).zip([0, 1, 14, 15, u64::MAX]);
    let chases = chases
        .map(|(nth, times)| Packet::chase(data + 2048 + 16 * nth, link(0), 16, times))
        // The result lies on a border of pages.
        .chain([Packet::chase(data + 2 * page_bytes() - 8, link(3), 16, 2)]);
    links.chain(chases).collect()
}

fn random(data: u64) -> Vec<Packet> {
    vec![
        Packet::random(data + page_bytes(), data, 16 * page_bytes(), 300, 1),
        Packet::random_write(data, data + 8, 16 * page_bytes() - 8, 500, 2),
        Packet::random_write(data + 8, data + 8, 8, 5, 3),
    ]
}

fn atomic(data: u64) -> Vec<Packet> {
    let mut packets = Vec::new();
    for (nth, width) in (0..).zip(Width::ALL) {
        let word = data + nth * page_bytes() + 4088;
        let old = data + 8 * page_bytes() + 64 * nth;
        packets.extend([
            Packet::add(width, word, u64::MAX, 1, old),
            Packet::add(width, word, 3, 100, old + 8),
            Packet::fence(word, 77),
            Packet::compare_and_swap(width, word, 77, 78, old + 16),
            Packet::compare_and_swap(width, word, 77, 79, old + 24),
            Packet::add(width, word, 1, 1, 0),
        ]);
    }
    let upper = data + 3 * page_bytes() + 4;
    packets.push(Packet::add(Width::Four, upper, 1 << 31, 3, 0));
    packets
}

fn prefetch(context: &Context) -> Result<()> {
    over_each_kind(context, |data| {
        vec![
            Packet::prefetch(data, 4 * page_bytes()),
            Packet::fill(data + page_bytes(), page_bytes(), 5),
            Packet::prefetch_to_system(data + page_bytes(), 8 * page_bytes()),
            Packet::prefetch(data + 15 * page_bytes(), 2 * page_bytes()), // as far as there is something
            Packet::sum(data, data, 16 * page_bytes()),
        ]
    })?;
    let (worker, memory) = (Worker::new(context)?, Memory::new(16)?);
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
        let fence = |nth| Packet::fence(data + nth * (page_bytes() - 8), nth);
        (0..16).map(fence).chain([Packet::spin(1000)]).collect()
    })?;
    let (worker, data) = (Worker::new(context)?, Region::anonymous(1)?);
    let most = worker.device.query()?.max_packets as usize;
    // Jump forwards over a packet that no engine accepts, and back.
    let at = worker.store(&[Packet::default(); 4]);
    let add = Packet::add(Width::Eight, data.addr(), 1, 1, 0);
    let (over, back) = (Packet::jump(at + 128), Packet::jump(at));
    let offset = (at - worker.code.addr()) as usize;
    packet::store(&worker.code, offset, &[over, Packet::default(), add, back]);
    let mut sum = 0;
    for_all([1, 2, 3, 4, 5, 100, most.min(10_000)], |npackets| {
        done_at(&worker.queue, at, npackets)?;
        sum += (npackets as u64 + 1) / 3;
        equal("times that the loop ran", data.load(0), sum)
    })
}

fn stays(worker: Worker) -> Result<()> {
    let places = [(true, Where::Device), (false, Where::System)];
    for_all(places, |(resident, place)| {
        let memory = Memory::placed(&worker.device, 8, resident)?;
        let data = memory.region.addr();
        worker.does(&[
            Packet::sum(data, data + page_bytes(), page_bytes()),
            Packet::fill(data + 2 * page_bytes(), 2 * page_bytes(), 1),
            Packet::copy(
                data + 4 * page_bytes(),
                data + 5 * page_bytes(),
                page_bytes(),
            ),
            Packet::fence(data + 6 * page_bytes(), 1),
        ])?;
        memory.expect("after packets worked on them", 0..7, place)
    })
}

/// A page of packets, each of which writes to its own word of the other page.
struct OnAPage {
    code: Region,
    data: Region,
    packets: Vec<Packet>,
}

impl OnAPage {
    fn new(worker: &Worker) -> Result<Self> {
        let (code, data) = (Region::anonymous(1)?, Region::anonymous(1)?);
        let packet = |nth: u64| Packet::fence(data.addr() + 8 * nth, nth + 1);
        let packets = (0..32).map(packet).collect();
        let program = Self {
            code,
            data,
            packets,
        };
        packet::store(&program.code, 0, &program.packets);
        moved_out(&worker.device, program.code.range())?;
        Ok(program)
    }

    /// Executes the packets, and checks the words.
    fn runs(&self, worker: &Worker) -> Result<()> {
        done_at(&worker.queue, self.code.addr(), self.packets.len())?;
        let words: Vec<u64> = (0..32).map(|index| self.data.load(index)).collect();
        let expected = self.packets.iter().map(|packet| packet.value).collect();
        equal("words", words, expected)
    }
}

fn packets_on_the_device(worker: Worker) -> Result<()> {
    let program = OnAPage::new(&worker)?;
    for_all(0..2, |_| {
        program.runs(&worker)?;
        all_at("the packets", program.code.range(), Where::Device)
    })
}

fn packet_writes_packet(worker: Worker) -> Result<()> {
    let data = Region::anonymous(1)?;
    let other = worker.store(&[Packet::fence(data.addr(), 5)]);
    let at = worker.store(&[Packet::default(); 2]);
    let offset = (at - worker.code.addr()) as usize;
    packet::store(&worker.code, offset, &[Packet::copy(at + 64, other, 64)]);
    for_all([false, true], |resident| {
        packet::store(&worker.code, offset + 64, &[Packet::default()]);
        data.store(0, 0);
        if resident {
            let page = offset / page_size();
            moved_out(&worker.device, worker.code.part(page..page + 1))?;
        }
        done_at(&worker.queue, at, 2)?;
        equal("word", data.load(0), 5)
    })
}

fn packet_after_a_cpu_wrote_it(worker: Worker) -> Result<()> {
    let mut program = OnAPage::new(&worker)?;
    for_all(1..5, |round| {
        for packet in &mut program.packets {
            packet.value += 100 * round;
        }
        packet::store(&program.code, 0, &program.packets); // which brings the page back
        program.runs(&worker)?;
        moved_out(&worker.device, program.code.range()).map(drop)
    })
}

fn several_regions(context: &Context, worker: Worker) -> Result<()> {
    for (nth, from) in Kind::ALL.into_iter().enumerate() {
        let next = Kind::ALL[(nth + 1) % Kind::ALL.len()];
        for to in [next, Kind::Small, Kind::Resident] {
            let (source, mut image) = from.make(context, &worker.device)?;
            let (target, more) = to.make(context, &worker.device)?;
            image.join(more);
            let (src, dst) = (source.region.addr(), target.region.addr());
            let packets = [
                Packet::copy(dst + 100, src, 2 * page_bytes()),
                Packet::copy(dst + 4 * page_bytes(), src + 4 * page_bytes(), page_bytes()),
                Packet::sum(dst, src + 1, 3 * page_bytes()),
                Packet::random_write(dst + 8, src, 8 * page_bytes(), 20, 1),
                Packet::add(Width::Eight, src + 64, 1, 3, dst + 16),
            ];
            let regions = [&source.region, &target.region];
            let what = format!("{from:?} to {to:?}");
            worker.compare(&what, &mut image, &regions, &packets)?;
        }
    }
    Ok(())
}

/// Executes the random programs of a seed over memory of some kinds, and compares the results.
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
    // Use the last 16 pages, which have a guard behind them. Packets would rarely meet in a whole
    // huge page.
    let last = |region: &&Region| region.part(region.pages() - 16..region.pages());
    let ground = Ground {
        data: regions.iter().map(last).collect(),
        code: code.addr()..code.addr() + page_bytes(),
    };
    for nth in 0..4 {
        let program = ground.program(&mut dice);
        packet::store(&code, 0, &program);
        let what = format!("seed {seed}, job {nth}");
        worker.compare_at(&what, &mut image, &regions, (code.addr(), &program))?;
    }
    Ok(())
}

fn random_programs(context: &Context) -> Result<()> {
    for_all(rounds(10), |seed| {
        let nth = seed % (Kind::ALL.len() - 1);
        let kinds = [Kind::ALL[nth], Kind::ALL[nth + 1], Kind::Resident];
        random_program(context, open(context)?, &kinds, seed as u64)
    })
}

fn coherent_device(context: &Context) -> Result<()> {
    open(context)?; // or skips
    use Kind::{HalfResident, Resident, Small, Untouched};
    let kinds = [Small, Resident, HalfResident, Untouched];
    for_all(rounds(10), |seed| {
        let device = context.open_coherent(seed % 2)?;
        random_program(context, device, &kinds, seed as u64)
    })
}
