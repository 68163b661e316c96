// SPDX-License-Identifier: GPL-2.0

//! The response of a device to pages that its engines miss: presets, granules, the pages that move
//! with them, access counters.

use super::engine::done_at;
use crate::prelude::*;
use crate::settings::PRESETS;
use crate::worker::over_each_kind;

cases! { "policy":
    presets = "The file with the policy shows which preset the settings have, and gives them those of another.",
    nonsense = "It refuses what is no preset with EINVAL, and changes nothing.",
    interpreter = "Packets do what the interpreter says under each policy, over memory of each kind."
        => for_each(&PRESETS, |context, _, _| over_each_kind(context, packets)),
    explicit = "With test_hmm, an engine leaves pages where they are.",
    whole_granule = "With xe and kfd, 2 MiB move for one page."
        => for_each(&["xe", "kfd"], whole_granule),
    fits_the_mapping = "If a mapping is smaller than the granule, the largest part that fits moves.",
    dense_rest = "With uvm, single pages move, and the rest of a part of which more than half is there.",
    granule = "A granule of a page to a huge page moves, aligned to its size.",
    all_that_is_used = "An engine that goes through memory moves all of it, whatever the granule.",
    behind_its_data = "Packets move as data does.",
    files = "Memory of files is used where it is." => for_each(&PRESETS, files),
    read_only = "Pages that may only be read move, and stay readable.",
    access_counter = "A block moves after so many accesses to it, and not before.",
    commands_are_not_governed = "Commands move what they say, whatever the policy."
        => for_each(&PRESETS, commands_are_not_governed),
}

/// Returns a case that is the same under some presets.
pub fn for_each(
    presets: &[&'static str],
    body: impl Fn(&Context, &Policy, &'static str) -> Result<()>,
) -> impl Fn(&Context) -> Result<()> {
    move |context| {
        presets.iter().try_for_each(|preset| {
            body(context, &Policy::of(preset)?, preset).with_context(|| *preset)
        })
    }
}

/// A queue, and memory for its engine.
struct Setup {
    worker: Worker,
    memory: Memory,
}

impl Setup {
    fn new(context: &Context, pages: usize) -> Result<Self> {
        let (worker, memory) = (Worker::new(context)?, Memory::new(pages)?);
        Ok(Self { worker, memory })
    }

    /// Makes the engine read a page, by a packet that writes nowhere near.
    fn read(&self, page: usize) -> Result<()> {
        self.worker.does(&[read(&self.worker, &self.memory, page)])
    }

    /// Makes the engine read a page, and checks the number of pages on the device afterwards.
    fn read_brings(&self, what: &str, page: usize, pages: usize) -> Result<()> {
        self.read(page)?;
        equal(what, self.memory.on_device()?, pages)
    }

    /// Reads pages one after the other, and checks the number of pages on the device after each.
    fn steps(&self, steps: &[(usize, usize)]) -> Result<()> {
        (steps.iter()).try_for_each(|&(page, pages)| {
            self.read_brings(&format!("with page {page}"), page, pages)
        })
    }
}

/// Returns a packet that writes the current value of a page's first word to it.
fn rewrite(memory: &Memory, page: usize) -> Packet {
    let at = memory.region.addr() + page as u64 * page_bytes();
    Packet::fence(at, memory.region.load(page * page_size() / 8))
}

/// Returns a packet that adds 0 to a word of a page, by number.
fn touch(memory: &Memory, page: usize) -> Packet {
    let at = memory.region.addr() + page as u64 * page_bytes();
    Packet::add(Width::Eight, at + 8, 0, 1, 0)
}

/// Returns a packet that reads a page, by number.
fn read(worker: &Worker, memory: &Memory, page: usize) -> Packet {
    let at = memory.region.addr() + page as u64 * page_bytes();
    Packet::sum(worker.result(), at, page_bytes())
}

fn presets(context: &Context) -> Result<()> {
    Worker::new(context)?; // or skips
    let policy = Policy::of("test_hmm")?;
    let is = |what: &str, current: &str| {
        let all = [&PRESETS[..], &["custom"]].concat().join(" ");
        let line = all.replace(current, &format!("[{current}]"));
        equal(what, policy.show("policy")?, line)
    };
    // The numbers are some of those in Documentation/device.md for each preset.
    let [page, huge] = [page_size(), hpage_pmd_size()].map(|bytes| bytes as u32);
    let numbers = [
        ("test_hmm", [huge, 0, huge, 0, 0, 0, 0, 64]),
        ("xe", [huge, 1, huge, 0, 0, 5000, 0, 32]),
        ("kfd", [huge, 1, huge, 0, 0, 0, 0, 16]),
        ("uvm", [page, 1, page, 51, 256, 0, 3, 256]),
    ];
    let files =
        "window migrate granule prefetch access_counter timeslice_us thrash_events fault_batch";
    for (preset, values) in numbers {
        policy.store("policy", &format!("{preset}\n"))?;
        is("policy", preset)?;
        for (file, value) in files.split(' ').zip(values) {
            equal(file, policy.get(file)?, value)?;
            // A value that is one more makes another policy; the old value restores the preset.
            policy.set(file, value + 1)?;
            is("changed", "custom")?;
            policy.set(file, value)?;
            is("as it was", preset)?;
        }
    }
    policy.store("policy", "test_hmm")?;
    is("policy", "test_hmm")
}

fn nonsense(context: &Context) -> Result<()> {
    Worker::new(context)?; // or skips
    let policy = Policy::with("uvm", &[("granule", 65536)])?;
    let long = "xe".repeat(3000);
    let texts = ["custom", "[xe]", "xe kfd", "XE", "x", "0", "uvm,", "\0"];
    for_all(texts.into_iter().chain([&*long]), |text| {
        policy.refuses("policy", text)
    })?;
    equal("granule", policy.get("granule")?, 65536)?;
    for text in ["-1", "many"] {
        let written = policy.store("granule", text);
        ensure!(written.is_err(), "granule accepted {text:?}");
    }
    equal("granule", policy.get("granule")?, 65536)
}

fn packets(data: u64) -> Vec<Packet> {
    vec![
        Packet::sum(data, data + 3, 9 * page_bytes()),
        Packet::fill(data + 5, 3 * page_bytes(), 0x0102_0304_0506_0708),
        Packet::copy(
            data + 4 * page_bytes() + 1,
            data + 9 * page_bytes() + 2,
            3 * page_bytes(),
        ),
        Packet::random_write(data + 8, data, 16 * page_bytes(), 200, 1),
        Packet::chase(data + 16, data + 32, 0, 1),
        Packet::add(Width::Four, data + 12 * page_bytes(), 3, 200, data + 40),
        Packet::compare_and_swap(Width::Eight, data + 13 * page_bytes(), 0, 1, data + 48),
        Packet::prefetch(data + 2 * page_bytes(), page_bytes()),
        Packet::prefetch_to_system(data, 4 * page_bytes()),
        Packet::fence(data + 15 * page_bytes(), 9),
    ]
}

fn explicit(context: &Context) -> Result<()> {
    let policy = Policy::of("test_hmm")?;
    let Setup { worker, memory } = Setup::new(context, 64)?;
    let added = policy.added(|| {
        for page in [0, 1, 17, 63] {
            worker.does(&[read(&worker, &memory, page), rewrite(&memory, page)])?;
        }
        memory.expect("what was used", memory.all(), Where::System)
    })?;
    equal("pages out", added.out(), 0)?;
    equal("granules", [added.granules, added.prefetched], [0; 2])?;
    memory.intact()
}

fn whole_granule(context: &Context, policy: &Policy, _: &str) -> Result<()> {
    let setup = Setup::new(context, 2 * hpage_pmd_nr())?;
    let memory = &setup.memory;
    let added = policy.added(|| {
        setup.read(77)?;
        memory.only(0..hpage_pmd_nr(), Where::Device, Where::System)
    })?;
    ensure!(added.out_device_fault >= hpage_pmd_nr() as u64, "{added:?}");
    equal("by request", added.out_request, 0)?;
    memory.intact()?;
    memory.expect("what a CPU has read", memory.all(), Where::System)
}

fn fits_the_mapping(context: &Context) -> Result<()> {
    let _policy = Policy::of("kfd")?;
    let setup = Setup::new(context, 300)?;
    // Each step is a page, and the number of pages that are there after its read.
    setup.steps(&[(299, 4), (295, 12), (256, 44), (255, 300)])?;
    setup.memory.intact()
}

fn dense_rest(context: &Context) -> Result<()> {
    let policy = Policy::of("uvm")?;
    let setup = Setup::new(context, hpage_pmd_nr())?;
    let added = policy.added(|| {
        setup.steps(&[(300, 1), (302, 2)])?;
        // Now three pages of four are there.
        setup.steps(&[(301, 4), (297, 8)])?;
        // Read in another part, of which no page is there.
        setup.steps(&[
            (0, 9),
            (2, 10),
            (1, 12),
            (4, 16),
            (8, 24),
            (16, 40),
            (32, 72),
        ])?;
        // 65 of 128 are not more than 51 percent, 66 are.
        setup.steps(&[(64, 73), (65, 136), (128, 137), (129, 138), (130, 264)])?;
        setup.steps(&[(400, 512)])
    })?;
    ensure!(added.prefetched >= 490, "{added:?}");
    setup.memory.intact()
}

fn granule(context: &Context) -> Result<()> {
    let policy = Policy::of("kfd")?;
    for order in 0..=hpage_pmd_nr().ilog2() {
        policy.set("granule", (page_size() as u32) << order)?;
        let setup = Setup::new(context, 2 * hpage_pmd_nr())?;
        let (page, pages) = (hpage_pmd_nr() + 77, 1 << order);
        let start = page / pages * pages;
        setup.read_brings(&format!("order {order}"), page, pages)?;
        setup
            .memory
            .expect("the granule", start..start + pages, Where::Device)?;
        setup.memory.intact()?;
    }
    // A value out of range counts as the nearest valid one, and one that is no power of two as the
    // next lower one.
    let others = [
        (0, 1),
        (1, 1),
        (3 * page_size() as u32, 2),
        (u32::MAX, hpage_pmd_nr()),
    ];
    for_all(others, |(bytes, pages)| {
        policy.set("granule", bytes)?;
        Setup::new(context, hpage_pmd_nr())?.read_brings(&format!("{bytes} bytes"), 100, pages)
    })
}

fn all_that_is_used(context: &Context) -> Result<()> {
    let policy = Policy::of("kfd")?;
    let worker = Worker::new(context)?;
    for_all([1, 4, 64, hpage_pmd_nr()], |pages| {
        policy.set("granule", (pages * page_size()) as u32)?;
        let memory = Memory::new(300)?;
        let part = memory.region.part(10..210);
        worker.does(&[Packet::fill(part.addr(), part.bytes(), 0x55)])?;
        memory.expect("what was written", 10..210, Where::Device)?;
        memory.fill(10..210);
        memory.intact()
    })
}

fn behind_its_data(context: &Context) -> Result<()> {
    let _policy = Policy::of("uvm")?;
    let Setup { worker, memory } = Setup::new(context, 1)?;
    let at = worker.store(&[touch(&memory, 0)]);
    let page = (at - worker.code.addr()) as usize / page_size();
    done_at(&worker.queue, at, 1)?;
    let code = Survey::of(worker.code.part(page..page + 1))?;
    equal("packets on the device", code.on_device(), 1)?;
    memory.intact()
}

fn files(context: &Context, policy: &Policy, _: &str) -> Result<()> {
    let worker = Worker::new(context)?;
    let options = Region::options(hpage_pmd_nr())
        .align(hpage_pmd_size())
        .shared();
    let memory = Memory::filled(options.map()?);
    let packets = [0, 1, 100, hpage_pmd_nr() - 1]
        .map(|page| [read(&worker, &memory, page), touch(&memory, page)]);
    policy.added(|| worker.does(packets.as_flattened()))?;
    equal("pages there", memory.on_device()?, 0)?;
    memory.intact()
}

fn read_only(context: &Context) -> Result<()> {
    let _policy = Policy::of("kfd")?;
    let setup = Setup::new(context, 64)?;
    let memory = &setup.memory;
    memory.region.protect(0..64, Protection::Read)?;
    setup.read(5)?;
    memory.expect("what was read", memory.all(), Where::Device)?;
    let outcome = setup.worker.run(&[touch(memory, 6)])?;
    ensure!(outcome.error.is_some(), "an engine wrote to it");
    memory.intact()
}

fn access_counter(context: &Context) -> Result<()> {
    for_all([1, 2, 50], |limit| {
        let policy = Policy::with("test_hmm", &[("access_counter", limit)])?;
        let Setup { worker, memory } = Setup::new(context, 2 * hpage_pmd_nr())?;
        // Each packet accesses one word of the first block, once.
        let word = 100 * page_size() / 8 + 8;
        let value = memory.region.load(word);
        let access = Packet::fence(memory.region.addr() + 8 * word as u64, value);
        if limit > 1 {
            worker.does(&vec![access; limit as usize - 1])?;
        }
        equal(&format!("before access {limit}"), memory.on_device()?, 0)?;
        let added = policy.added(|| worker.does(&[access]))?;
        ensure!(added.hot_blocks >= 1, "{added:?}");
        let only = memory.only(0..hpage_pmd_nr(), Where::Device, Where::System);
        only.with_context(|| format!("after access {limit}"))?;
        memory.intact()
    })
}

fn commands_are_not_governed(context: &Context, _: &Policy, _: &str) -> Result<()> {
    let (device, memory) = (context.open()?, Memory::new(64)?);
    memory.device_reads(&device, memory.all())?;
    memory.device_refills(&device, 2)?;
    memory.expect("what READ and WRITE used", memory.all(), Where::System)?;
    memory.move_out(&device, 5..9)?;
    equal("pages there", memory.on_device()?, 4)?;
    memory.move_back(&device, 0..64, 4)?;
    memory.intact()
}
