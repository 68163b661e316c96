// SPDX-License-Identifier: GPL-2.0

//! What a device does about pages that its engines miss: presets, granules, what moves with them,
//! access counters.

use crate::prelude::*;
use crate::settings::PRESETS;
use crate::worker::over_each_kind;

cases! { "policy":
    presets = "The file with the policy shows which preset the settings have, and gives them those of another.",
    nonsense = "It refuses what is no preset with EINVAL, and changes nothing.",
    interpreter = "Whatever the policy, packets do what the interpreter says, over memory of each kind.",
    explicit = "With test_hmm, an engine leaves pages where they are.",
    whole_granule = "With xe and kfd, 2 MiB move for one page.",
    fits_the_mapping = "Where a mapping is smaller, the largest part moves that fits.",
    dense_rest = "With uvm, single pages move, and the rest of a part of which more than half is there.",
    granule = "A granule of 4 KiB to 2 MiB moves, aligned to its size.",
    all_that_is_used = "An engine that goes through memory moves all of it, whatever the granule.",
    behind_its_data = "Packets move as data does.",
    files = "Memory of files is used where it is.",
    read_only = "Pages that may only be read move, and stay readable.",
    access_counter = "A block moves after so many accesses to it, and not before.",
    commands_are_not_governed = "Commands move what they say, whatever the policy.",
}

const PAGE: u64 = 4096;
const BLOCK: usize = 512;

/// How many pages of some memory are on the device.
fn there(memory: &Memory) -> Result<usize> {
    Ok(Survey::of(memory.region.range())?.on_device())
}

/// Writes a word of a page, by number, as a CPU reads it now.
fn rewrite(memory: &Memory, page: usize) -> Packet {
    let at = memory.region.addr() + page as u64 * PAGE;
    Packet::fence(at, memory.region.load(page * 512))
}

/// Adds 0 to a word of a page, by number.
fn touch(memory: &Memory, page: usize) -> Packet {
    let at = memory.region.addr() + page as u64 * PAGE;
    Packet::add(Width::Eight, at + 8, 0, 1, 0)
}

/// Reads a page by a packet that writes nowhere near.
fn read(memory: &Memory, page: usize, result: &Region) -> Packet {
    Packet::sum(
        result.addr(),
        memory.region.addr() + page as u64 * PAGE,
        PAGE,
    )
}

fn presets(context: &Context) -> Result<()> {
    Worker::new(context)?; // or skips
    let policy = Policy::of("test_hmm")?;
    let line = |current: &str| {
        let all = PRESETS.iter().chain(&["custom"]);
        let names: Vec<String> = all
            .map(|name| match *name == current {
                true => format!("[{name}]"),
                false => (*name).to_owned(),
            })
            .collect();
        names.join(" ")
    };
    // Some of what Documentation/device.md says of each.
    let numbers = [
        ("test_hmm", [2 << 20, 0, 2 << 20, 0, 0, 0, 0, 64]),
        ("xe", [2 << 20, 1, 2 << 20, 0, 0, 5000, 0, 32]),
        ("kfd", [2 << 20, 1, 2 << 20, 0, 0, 0, 0, 16]),
        ("uvm", [4096, 1, 4096, 51, 256, 0, 3, 256]),
    ];
    let files = [
        "window",
        "migrate",
        "granule",
        "prefetch",
        "access_counter",
        "timeslice_us",
        "thrash_events",
        "fault_batch",
    ];
    for (preset, values) in numbers {
        policy.store("policy", &format!("{preset}\n"))?;
        equal("policy", policy.show("policy")?, line(preset))?;
        for (file, value) in files.into_iter().zip(values) {
            equal(file, policy.get(file)?, value)?;
            // One more is another policy; and back.
            policy.set(file, value + 1)?;
            equal("changed", policy.show("policy")?, line("custom"))?;
            policy.set(file, value)?;
            equal("as it was", policy.show("policy")?, line(preset))?;
        }
    }
    policy.store("policy", "test_hmm")?;
    equal("policy", policy.show("policy")?, line("test_hmm"))
}

fn nonsense(context: &Context) -> Result<()> {
    Worker::new(context)?; // or skips
    let policy = Policy::with("uvm", &[("granule", 65536)])?;
    let long = "xe".repeat(3000);
    for text in [
        "custom", "[xe]", "xe kfd", "XE", "x", "0", "uvm,", "\0", &long,
    ] {
        policy.refuses("policy", text)?;
    }
    equal("granule", policy.get("granule")?, 65536)?;
    for text in ["-1", "many"] {
        let written = policy.store("granule", text);
        ensure!(written.is_err(), "granule accepted {text:?}");
    }
    equal("granule", policy.get("granule")?, 65536)
}

fn interpreter(context: &Context) -> Result<()> {
    for preset in PRESETS {
        let _policy = Policy::of(preset)?;
        over_each_kind(context, |data| {
            vec![
                Packet::sum(data, data + 3, 9 * PAGE),
                Packet::fill(data + 5, 3 * PAGE, 0x0102_0304_0506_0708),
                Packet::copy(data + 4 * PAGE + 1, data + 9 * PAGE + 2, 3 * PAGE),
                Packet::random_write(data + 8, data, 16 * PAGE, 200, 1),
                Packet::chase(data + 16, data + 32, 0, 1),
                Packet::add(Width::Four, data + 12 * PAGE, 3, 200, data + 40),
                Packet::compare_and_swap(Width::Eight, data + 13 * PAGE, 0, 1, data + 48),
                Packet::prefetch(data + 2 * PAGE, PAGE),
                Packet::prefetch_to_system(data, 4 * PAGE),
                Packet::fence(data + 15 * PAGE, 9),
            ]
        })?;
    }
    Ok(())
}

fn explicit(context: &Context) -> Result<()> {
    let policy = Policy::of("test_hmm")?;
    let worker = Worker::new(context)?;
    let (memory, result) = (Memory::new(64)?, Region::anonymous(1)?);
    let added = policy.added(|| {
        for page in [0, 1, 17, 63] {
            worker.does(&[read(&memory, page, &result), rewrite(&memory, page)])?;
        }
        memory.expect("what was used", memory.all(), Where::System)
    })?;
    equal("pages out", added.out(), 0)?;
    equal("granules", [added.granules, added.prefetched], [0; 2])?;
    memory.verify(memory.all())
}

fn whole_granule(context: &Context) -> Result<()> {
    for preset in ["xe", "kfd"] {
        let policy = Policy::of(preset)?;
        let worker = Worker::new(context)?;
        let (memory, result) = (Memory::new(2 * BLOCK)?, Region::anonymous(1)?);
        let added = policy.added(|| {
            worker.does(&[read(&memory, 77, &result)])?;
            memory.expect("the block", 0..BLOCK, Where::Device)?;
            memory.expect("the next", BLOCK..2 * BLOCK, Where::System)
        })?;
        ensure!(added.out_device_fault >= BLOCK as u64, "{added:?}");
        equal("by request", added.out_request, 0)?;
        memory.verify(memory.all())?;
        memory.expect("what a CPU has read", memory.all(), Where::System)?;
    }
    Ok(())
}

fn fits_the_mapping(context: &Context) -> Result<()> {
    let _policy = Policy::of("kfd")?;
    let worker = Worker::new(context)?;
    let (memory, result) = (Memory::new(300)?, Region::anonymous(1)?);
    // One after the other: the page, and how many pages are there then.
    for (page, expected) in [(299, 4), (295, 12), (256, 44), (255, 300)] {
        worker.does(&[read(&memory, page, &result)])?;
        equal(&format!("with page {page}"), there(&memory)?, expected)?;
    }
    memory.verify(memory.all())
}

fn dense_rest(context: &Context) -> Result<()> {
    let policy = Policy::of("uvm")?;
    let worker = Worker::new(context)?;
    let (memory, result) = (Memory::new(BLOCK)?, Region::anonymous(1)?);
    let added = policy.added(|| {
        for (page, expected) in [
            (300, 1),
            (302, 2),
            // Three of four.
            (301, 4),
            (297, 8),
            // In another part, of which there is nothing.
            (0, 9),
            (2, 10),
            (1, 12),
            (4, 16),
            (8, 24),
            (16, 40),
            (32, 72),
            // 65 of 128 are not more than 51 percent, 66 are.
            (64, 73),
            (65, 136),
            (128, 137),
            (129, 138),
            (130, 264),
            (400, 512),
        ] {
            worker.does(&[read(&memory, page, &result)])?;
            equal(&format!("with page {page}"), there(&memory)?, expected)?;
        }
        Ok(())
    })?;
    ensure!(added.prefetched >= 490, "{added:?}");
    memory.verify(memory.all())
}

fn granule(context: &Context) -> Result<()> {
    let policy = Policy::of("kfd")?;
    let worker = Worker::new(context)?;
    let result = Region::anonymous(1)?;
    for order in 0..=9 {
        policy.set("granule", 4096 << order)?;
        let memory = Memory::new(2 * BLOCK)?;
        let (page, pages) = (BLOCK + 77, 1 << order);
        let start = page / pages * pages;
        worker.does(&[read(&memory, page, &result)])?;
        equal(&format!("order {order}"), there(&memory)?, pages)?;
        memory.expect("the granule", start..start + pages, Where::Device)?;
        memory.verify(memory.all())?;
    }
    // What is out of range counts as what is not, and no power of two as the one below.
    for (bytes, pages) in [(0, 1), (1, 1), (12288, 2), (u32::MAX, BLOCK)] {
        policy.set("granule", bytes)?;
        let memory = Memory::new(BLOCK)?;
        worker.does(&[read(&memory, 100, &result)])?;
        equal(&format!("{bytes} bytes"), there(&memory)?, pages)?;
    }
    Ok(())
}

fn all_that_is_used(context: &Context) -> Result<()> {
    let policy = Policy::of("kfd")?;
    let worker = Worker::new(context)?;
    for granule in [4096, 16384, 262_144, 2 << 20] {
        policy.set("granule", granule)?;
        let memory = Memory::new(300)?;
        let data = memory.region.addr();
        let bytes = 200 * PAGE;
        worker.does(&[Packet::fill(data + 10 * PAGE, bytes, 0x55)])?;
        memory.expect("what was written", 10..210, Where::Device)?;
        memory.fill(10..210);
        memory.verify(memory.all())?;
    }
    Ok(())
}

fn behind_its_data(context: &Context) -> Result<()> {
    let _policy = Policy::of("uvm")?;
    let worker = Worker::new(context)?;
    let memory = Memory::new(1)?;
    let at = worker.store(&[touch(&memory, 0)]);
    let page = (at - worker.code.addr()) as usize / page_size();
    let job = worker.queue.submit(at, 1)?;
    equal("failure", worker.outcome(job)?.error, None)?;
    let code = Survey::of(worker.code.part(page..page + 1))?;
    equal("packets on the device", code.on_device(), 1)?;
    memory.verify(memory.all())
}

fn files(context: &Context) -> Result<()> {
    for preset in PRESETS {
        let policy = Policy::of(preset)?;
        let worker = Worker::new(context)?;
        let memory = Memory::of(Region::options(BLOCK).align(HUGE).shared().map()?);
        memory.fill(memory.all());
        let result = Region::anonymous(1)?;
        let packets: Vec<Packet> = [0, 1, 100, 511]
            .iter()
            .flat_map(|&page| [read(&memory, page, &result), touch(&memory, page)])
            .collect();
        policy.added(|| worker.does(&packets))?;
        equal(preset, there(&memory)?, 0)?;
        memory.verify(memory.all())?;
    }
    Ok(())
}

fn read_only(context: &Context) -> Result<()> {
    let _policy = Policy::of("kfd")?;
    let worker = Worker::new(context)?;
    let (memory, result) = (Memory::new(64)?, Region::anonymous(1)?);
    memory.region.protect(0..64, Protection::Read)?;
    worker.does(&[read(&memory, 5, &result)])?;
    memory.expect("what was read", memory.all(), Where::Device)?;
    let outcome = worker.run(&[touch(&memory, 6)])?;
    ensure!(outcome.error.is_some(), "an engine wrote to it");
    memory.verify(memory.all())
}

fn access_counter(context: &Context) -> Result<()> {
    for limit in [1, 2, 50] {
        let policy = Policy::with("test_hmm", &[("access_counter", limit)])?;
        let worker = Worker::new(context)?;
        let memory = Memory::new(2 * BLOCK)?;
        // Each of them accesses one word of the first block, once.
        let at = memory.region.addr() + 100 * PAGE + 64;
        let value = memory.region.load((at - memory.region.addr()) as usize / 8);
        let access = Packet::fence(at, value);
        if limit > 1 {
            worker.does(&vec![access; limit as usize - 1])?;
        }
        equal(&format!("before access {limit}"), there(&memory)?, 0)?;
        let added = policy.added(|| worker.does(&[access]))?;
        ensure!(added.hot_blocks >= 1, "{added:?}");
        let what = format!("the block after access {limit}");
        memory.expect(&what, 0..BLOCK, Where::Device)?;
        memory.expect("the next", BLOCK..2 * BLOCK, Where::System)?;
        memory.verify(memory.all())?;
    }
    Ok(())
}

fn commands_are_not_governed(context: &Context) -> Result<()> {
    for preset in PRESETS {
        let _policy = Policy::of(preset)?;
        let device = context.open()?;
        let memory = Memory::new(64)?;
        memory.device_reads(&device, memory.all())?;
        memory.device_refills(&device, 2)?;
        memory.expect("what READ and WRITE used", memory.all(), Where::System)?;
        memory.move_out(&device, 5..9)?;
        equal("pages there", there(&memory)?, 4)?;
        memory.move_back(&device, 0..64, 4)?;
        memory.verify(memory.all())?;
    }
    Ok(())
}
