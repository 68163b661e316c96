// SPDX-License-Identifier: GPL-2.0

//! Devices with coherent memory, which CPUs reach like any other: pages stay
//! there until a command, an eviction or a pin brings them back.

use dmirror_client::Ring;
use dmirror_client::device::prot;
use dmirror_client::place::Place;

use super::huge;
use crate::prelude::*;
use crate::reload::{Unloaded, with_parameters};

cases! { "coherent":
    cpu_access_stays = "CPUs read and write pages on the device, and the pages stay there.",
    device_access = "The device reads and writes its pages, and CPUs see it.",
    other_opens = "Open files of one device see each other's work on its pages, and the CPU's.",
    snapshot = "SNAPSHOT tells the device's own pages from another's.",
    back = "MIGRATE_TO_SYS brings pages back with the data that CPUs wrote there.",
    huge_pages = "Huge pages go to the device, in small pages, and come back.",
    holes = "Holes become zeroed device pages that CPUs write to in place.",
    protected = "Pages whose protection changes on the device stay there.",
    forked = "After fork both sides write to what was on the device, each its own.",
    forked_device_writes = "After fork the device writes for one side only.",
    dropped = "Pages that are dropped or unmapped on the device are free again.",
    addresses = "Each coherent device has its memory at the address that was given for it, and not for the other.",
    eviction = "A full device evicts, and a program with four times its memory finds all its data right.",
    released = "RELEASE brings all pages back.",
    pinned = "A long-term pin brings pages back to system memory.",
    other_device = "A page on one device is not taken by another: ENOENT, and it stays.",
    unloaded = "Unloading brings pages back while their program goes on.",
}

const PAGES: usize = 40;

fn open(context: &Context) -> Result<Device> {
    context.open_coherent(0)
}

/// Memory that is on the device.
fn there(device: &Device) -> Result<Memory> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(device, memory.all())?;
    Ok(memory)
}

fn cpu_access_stays(context: &Context) -> Result<()> {
    let device = open(context)?;
    let memory = there(&device)?;
    // Frames that the CPU has mapped.
    let survey = Survey::of(memory.region.range())?;
    let mapped = survey.count(|place| matches!(place, Place::Device { entry: None, .. }));
    equal("pages mapped where they are", mapped, PAGES)?;
    for round in 2..5 {
        memory.verify(memory.all())?;
        memory.refill(round);
        memory.verify(memory.all())?;
        memory.device_reads(&device, memory.all())?;
    }
    memory.expect("after all this", memory.all(), Where::Device)?;
    equal(
        "places",
        Survey::of(memory.region.range())?.places(),
        survey.places(),
    )
}

fn device_access(context: &Context) -> Result<()> {
    let device = open(context)?;
    let memory = there(&device)?;
    for round in 2..5 {
        memory.device_refills(&device, 2 * round)?;
        memory.verify(memory.all())?;
        memory.refill(2 * round + 1);
        memory.device_reads(&device, memory.all())?;
    }
    memory.expect("after all this", memory.all(), Where::Device)
}

fn other_opens(context: &Context) -> Result<()> {
    let (device, other) = (open(context)?, open(context)?);
    let memory = there(&device)?;
    for round in 2..5 {
        memory.device_refills(&other, 10 * round)?;
        memory.device_reads(&device, memory.all())?;
        memory.refill(10 * round + 1);
        memory.device_reads(&other, memory.all())?;
        memory.move_back(&other, 0..PAGES / 2, PAGES / 2)?;
        memory.refill(10 * round + 2);
        memory.device_reads(&device, memory.all())?;
        memory.move_out(&device, memory.all())?;
    }
    memory.device_reads(&other, memory.all())?;
    memory.verify(memory.all())
}

fn snapshot(context: &Context) -> Result<()> {
    let (device, other) = (open(context)?, context.open_coherent(1)?);
    let memory = there(&device)?;
    let range = memory.region.range();
    let local = prot::WRITE | prot::COHERENT_LOCAL;
    let remote = prot::WRITE | prot::COHERENT_REMOTE;
    snapshot_is("by its device", &device, range, local)?;
    snapshot_is("by the other one", &other, range, remote)?;
    snapshot_is("by a private device", &context.open()?, range, remote)?;
    memory.region.protect(memory.all(), Protection::Read)?;
    let local = prot::READ | prot::COHERENT_LOCAL;
    snapshot_is("read-only", &device, range, local)?;
    memory.region.protect(memory.all(), Protection::ReadWrite)?;
    memory.move_back(&device, memory.all(), PAGES)?;
    snapshot_is("back", &device, range, prot::WRITE)
}

fn back(context: &Context) -> Result<()> {
    let device = open(context)?;
    let before = Before::of(&device)?;
    let memory = there(&device)?;
    for round in 2..5 {
        memory.refill(round);
        memory.move_back(&device, memory.all(), PAGES)?;
        memory.verify(memory.all())?;
        memory.device_reads(&device, memory.all())?;
        memory.move_out(&device, memory.all())?;
    }
    memory.verify(memory.all())?;
    drop(memory);
    before.nothing_is_left(&device)
}

fn huge_pages(context: &Context) -> Result<()> {
    let device = open(context)?;
    let before = Before::of(&device)?;
    let memory = huge::huge(2)?;
    let pages = memory.region.pages();
    memory.move_out(&device, 100..300)?;
    memory.move_out(&device, memory.all())?;
    memory.verify(memory.all())?;
    memory.refill(2);
    memory.device_reads(&device, memory.all())?;
    memory.expect("after writes", memory.all(), Where::Device)?;
    memory.move_back(&device, 100..600, 500)?;
    memory.move_back(&device, memory.all(), pages - 500)?;
    memory.verify(memory.all())?;
    before.nothing_is_left(&device)
}

fn holes(context: &Context) -> Result<()> {
    let device = open(context)?;
    for options in [
        dmirror_client::Region::options(PAGES).huge(false),
        huge::options(1),
    ] {
        let memory = Memory::of(options.map()?);
        let view = memory.view(&device, memory.all())?;
        ensure!(view.iter().all(|byte| *byte == 0), "the view is not zero");
        ensure!(memory.region.is_zero(memory.all()), "a hole is not zero");
        memory.refill(2);
        memory.expect("after writes", memory.all(), Where::Device)?;
        memory.device_reads(&device, memory.all())?;
    }
    Ok(())
}

fn protected(context: &Context) -> Result<()> {
    let device = open(context)?;
    let memory = there(&device)?;
    memory.device_reads(&device, memory.all())?;
    memory.region.protect(memory.all(), Protection::Read)?;
    let bytes = memory.data().round(9).to_bytes(memory.all());
    let answer = device.write(memory.region.range(), &bytes);
    fails("WRITE", answer, Errno::EPERM)?;
    memory.device_reads(&device, memory.all())?;
    memory.verify(memory.all())?;
    memory.region.protect(memory.all(), Protection::ReadWrite)?;
    memory.device_refills(&device, 2)?;
    memory.verify(memory.all())?;
    memory.refill(3);
    memory.device_reads(&device, memory.all()).map(drop)
}

fn forked(context: &Context) -> Result<()> {
    let device = open(context)?;
    let before = Before::of(&device)?;
    let memory = there(&device)?;
    let (written, wrote) = (Gate::new()?, Gate::new()?);
    let child = helper(|| {
        written.wait()?;
        memory.verify(memory.all())?;
        memory.refill(3);
        wrote.open()?;
        memory.verify(memory.all())
    })?;
    memory.refill(2);
    written.open()?;
    wrote.wait()?;
    memory.verify(memory.all())?;
    memory.device_reads(&device, memory.all())?;
    child.join()?;
    memory.move_out(&device, memory.all())?;
    memory.verify(memory.all())?;
    drop(memory);
    before.nothing_is_left(&device)
}

fn forked_device_writes(context: &Context) -> Result<()> {
    let device = open(context)?;
    let memory = there(&device)?;
    let (written, wrote) = (Gate::new()?, Gate::new()?);
    let child = helper(|| {
        let own = context.open_coherent(0)?;
        written.wait()?;
        memory.verify(memory.all())?;
        memory.device_reads(&own, memory.all())?;
        memory.device_refills(&own, 3)?;
        wrote.open()?;
        memory.verify(memory.all())
    })?;
    memory.device_refills(&device, 2)?;
    written.open()?;
    wrote.wait()?;
    memory.device_reads(&device, memory.all())?;
    memory.verify(memory.all())?;
    child.join()
}

fn dropped(context: &Context) -> Result<()> {
    let device = open(context)?;
    let before = Before::of(&device)?;
    let memory = there(&device)?;
    memory.region.advise(0..10, Advice::DontNeed)?;
    ensure!(memory.region.is_zero(0..10), "dropped pages are not zero");
    reads_zero(&device, memory.region.part(0..10))?;
    memory.verify(10..PAGES)?;
    drop(memory);
    before.nothing_is_left(&device)
}

/// The physical address at which the memory of a device begins.
fn start_of(device: &Device) -> Result<u64> {
    let memory = there(device)?;
    let survey = Survey::of(memory.region.range())?;
    let Some(Place::Device { frame, .. }) = survey.places().first() else {
        return skip("the kernel shows no frames");
    };
    let address = frame * dmirror_client::page_size() as u64;
    let iomem = std::fs::read_to_string("/proc/iomem")?;
    for line in iomem.lines() {
        let Some((range, "dmirror")) = line.trim().split_once(" : ") else {
            continue;
        };
        let (start, end) = range.split_once('-').context("a range")?;
        let start = u64::from_str_radix(start, 16)?;
        if (start..=u64::from_str_radix(end, 16)?).contains(&address) {
            return Ok(start);
        }
    }
    bail!("/proc/iomem has no dmirror at {address:#x}")
}

fn addresses(context: &Context) -> Result<()> {
    needs_ours("memory of a size to be chosen")?;
    let first = start_of(&context.open_coherent(0)?)?;
    let second = start_of(&context.open_coherent(1)?)?;
    for starts in [[first, second], [second, first]] {
        let parameters = [
            format!("spm_size={HUGE}"),
            format!("spm_addr_dev0={:#x}", starts[0]),
            format!("spm_addr_dev1={:#x}", starts[1]),
        ];
        with_parameters(context, &parameters.each_ref().map(String::as_str), || {
            for (nth, start) in starts.into_iter().enumerate() {
                let seen = start_of(&context.open_coherent(nth)?)?;
                equal(&format!("spm_addr_dev{nth}"), seen, start)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn eviction(context: &Context) -> Result<()> {
    const BLOCKS: usize = 2;
    needs_ours("memory of a size to be chosen")?;
    let mut parameters = vec![format!("spm_size={}", BLOCKS * HUGE)];
    for nth in 0..2 {
        let start = start_of(&context.open_coherent(nth)?)?;
        parameters.push(format!("spm_addr_dev{nth}={start:#x}"));
    }
    let parameters: Vec<&str> = parameters.iter().map(String::as_str).collect();
    with_parameters(context, &parameters, || {
        let device = open(context)?;
        let before = Before::of(&device)?;
        let memory = Memory::new(4 * BLOCKS * HUGE / dmirror_client::page_size())?;
        for round in 2..4 {
            let mut view = vec![0xa5; memory.region.len()];
            let counts = device.migrate_to_device(memory.region.range(), &mut view)?;
            equal(
                "pages moved out",
                counts.pages,
                memory.region.pages() as u64,
            )?;
            memory.data().check_bytes(&view, 0)?;
            let there = Survey::of(memory.region.range())?.on_device();
            let room = BLOCKS * HUGE / dmirror_client::page_size();
            equal("pages on a full device", there, room)?;
            memory.verify(memory.all())?;
            memory.refill(round);
            memory.device_reads(&device, memory.all())?;
        }
        memory.verify(memory.all())?;
        drop(memory);
        before.nothing_is_left(&device)
    })
}

fn released(context: &Context) -> Result<()> {
    let device = open(context)?;
    let before = Before::of(&device)?;
    let memory = there(&device)?;
    memory.refill(2);
    equal("pages released", device.release()?.pages, PAGES as u64)?;
    memory.expect("after RELEASE", memory.all(), Where::System)?;
    memory.verify(memory.all())?;
    memory.device_reads(&device, memory.all())?;
    before.nothing_is_left(&device)
}

fn pinned(context: &Context) -> Result<()> {
    let device = open(context)?;
    let Ok(ring) = Ring::new() else {
        return skip("no io_uring here");
    };
    let memory = there(&device)?;
    memory.refill(2);
    ring.register(&memory.region)?;
    memory.expect("pinned", memory.all(), Where::System)?;
    memory.verify(memory.all())?;
    memory.device_reads(&device, memory.all())?;
    let mut view = vec![0; memory.region.len()];
    let answer = device.migrate_to_device(memory.region.range(), &mut view);
    fails("pinned pages", answer, Errno::ENOENT)?;
    memory.refill(3);
    memory.device_reads(&device, memory.all())?;
    ring.unregister()?;
    memory.verify(memory.all())
}

fn other_device(context: &Context) -> Result<()> {
    let device = open(context)?;
    let memory = there(&device)?;
    for other in [context.open_coherent(1)?, context.open()?] {
        let mut view = vec![0; memory.region.len()];
        let answer = other.migrate_to_device(memory.region.range(), &mut view);
        fails_at_once("MIGRATE_TO_DEV by another device", answer, Errno::ENOENT)?;
        let answer = other.migrate_to_system(memory.region.range())?;
        equal("pages that another brings back", answer.pages, 0)?;
        memory.expect("afterwards", memory.all(), Where::Device)?;
        // It is memory that it can reach, all the same.
        memory.device_reads(&other, memory.all())?;
        memory.device_refills(&other, 2)?;
        memory.verify(memory.all())?;
    }
    memory.move_back(&device, memory.all(), PAGES)
}

fn unloaded(context: &Context) -> Result<()> {
    let memory = there(&open(context)?)?;
    let (module, loader) = context.module()?;
    memory.refill(2);
    let (gone, about) = (Gate::new()?, Gate::new()?);
    let child = helper(|| {
        memory.fill(0..20);
        about.open()?;
        gone.wait()?;
        memory.verify(memory.all())
    })?;
    about.wait()?;
    let unloaded = Unloaded::new(&module, loader)?;
    memory.expect("after unloading", memory.all(), Where::System)?;
    memory.verify(memory.all())?;
    gone.open()?;
    child.join()?;
    memory.refill(3);
    memory.verify(memory.all())?;
    unloaded.load_again()?;
    memory.move_out(&open(context)?, memory.all())?;
    memory.verify(memory.all())
}
