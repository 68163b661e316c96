// SPDX-License-Identifier: GPL-2.0

//! Devices with coherent memory, which CPUs reach like any other: pages stay
//! there until a command, an eviction or a pin brings them back.

use dmirror_client::device::prot::{
    COHERENT_LOCAL as LOCAL, COHERENT_REMOTE as REMOTE, READ, WRITE,
};
use dmirror_client::place::Place;
use dmirror_client::{Command, Ring};

use super::huge;
use crate::prelude::*;
use crate::reload::{Unloaded, with_parameters};
use crate::steps::{ALL, HALF, PAGES, Verb::*, Who::*, small, steps};

cases! { "coherent":
    cpu_access_stays = "CPUs read and write pages on the device, and the pages stay there."
        => on_device(cpu_access_stays),
    device_access = "The device reads and writes its pages, and CPUs see it." => steps(small, [
            (C, Out(ALL)),
            (Cpu, Times(3, vec![(C, Writes), (Cpu, Reads(ALL)), (Cpu, Writes), (C, Reads(ALL))])),
            (Cpu, Finds(ALL, Where::Device)),
        ]),
    other_opens = "Open files of one device see each other's work on its pages, and the CPU's."
        => steps(small, [
            (C, Out(ALL)),
            (Cpu, Times(3, vec![
                (D, Writes), (C, Reads(ALL)), (Cpu, Writes), (D, Reads(ALL)),
                (D, Back(HALF, PAGES / 2)), (Cpu, Writes), (C, Reads(ALL)), (C, Out(ALL)),
            ])),
            (D, Reads(ALL)), (Cpu, Reads(ALL)),
        ]),
    snapshot = "SNAPSHOT tells the device's own pages from another's." => steps(small, [
            (C, Out(ALL)), (C, Shows(ALL, WRITE | LOCAL)), (E, Shows(ALL, WRITE | REMOTE)),
            (A, Shows(ALL, WRITE | REMOTE)), // a private device
            (Cpu, Protects(ALL, Protection::Read)), (C, Shows(ALL, READ | LOCAL)),
            (Cpu, Protects(ALL, Protection::ReadWrite)), (C, Back(ALL, PAGES)),
            (C, Shows(ALL, WRITE)),
        ]),
    back = "MIGRATE_TO_SYS brings pages back with the data that CPUs wrote there."
        => |context: &Context| leaves_room(context, &steps(small, [
            (C, Out(ALL)),
            (Cpu, Times(3, vec![
                (Cpu, Writes), (C, Back(ALL, PAGES)), (Cpu, Reads(ALL)), (C, Reads(ALL)),
                (C, Out(ALL)),
            ])),
            (Cpu, Reads(ALL)),
        ])),
    huge_pages = "Huge pages go to the device, in small pages, and come back."
        => steps(|| huge::huge(2), [
            (C, Out(100..300)), (C, Out(ALL)), (Cpu, Reads(ALL)), (Cpu, Writes), (C, Reads(ALL)),
            (Cpu, Finds(ALL, Where::Device)), (C, Back(100..600, 500)),
            (C, Back(ALL, 2 * hpage_pmd_nr() - 500)), (Cpu, Reads(ALL)), (C, HasRoom),
        ]),
    holes = "Holes become zeroed device pages that CPUs write to in place.",
    protected = "Pages whose protection changes on the device stay there." => steps(small, [
            (C, Out(ALL)), (C, Reads(ALL)), (Cpu, Protects(ALL, Protection::Read)),
            (C, Does(cannot_write)), (C, Reads(ALL)), (Cpu, Reads(ALL)),
            (Cpu, Protects(ALL, Protection::ReadWrite)), (C, Writes), (Cpu, Reads(ALL)),
            (Cpu, Writes), (C, Reads(ALL)),
        ]),
    forked = "After fork both sides write to what was on the device, each its own."
        => |context: &Context| leaves_room(context, &on_device(forked)),
    forked_device_writes = "After fork the device writes for one side only.",
    dropped = "Pages that are dropped or unmapped on the device are free again."
        => |context: &Context| leaves_room(context, &steps(small, [
            (C, Out(ALL)), (Cpu, Advises(0..10, Advice::DontNeed)), (Cpu, ReadsZeros(0..10)),
            (C, ReadsZeros(0..10)), (Cpu, Reads(10..PAGES)),
        ])),
    addresses = "Each coherent device has its memory at the address that was given for it, and not for the other.",
    eviction = "A full device evicts, and a program with four times its memory finds all its data right.",
    released = "RELEASE brings all pages back." => steps(small, [
            (C, Out(ALL)), (Cpu, Writes),
            (C, Does(|device, _| equal("pages released", device.release()?.pages, PAGES as u64))),
            (Cpu, Finds(ALL, Where::System)), (Cpu, Reads(ALL)), (C, Reads(ALL)), (C, HasRoom),
        ]),
    pinned = "A long-term pin brings pages back to system memory." => on_device(pinned),
    other_device = "A page on one device is not taken by another: ENOENT, and it stays.",
    unloaded = "Unloading brings pages back while their program goes on.",
}

fn open(context: &Context) -> Result<Device> {
    context.open_coherent(0)
}

/// Returns a case with memory that is on the device.
fn on_device(body: fn(&Device, &Memory) -> Result<()>) -> impl Fn(&Context) -> Result<()> {
    move |context| {
        let device = open(context)?;
        body(&device, &Memory::resident(&device, PAGES)?)
    }
}

/// Runs a case, and checks that it leaves nothing on the device.
fn leaves_room(context: &Context, case: &dyn Fn(&Context) -> Result<()>) -> Result<()> {
    let device = open(context)?;
    let before = Before::of(&device)?;
    case(context)?;
    before.nothing_is_left(&device)
}

fn cpu_access_stays(device: &Device, memory: &Memory) -> Result<()> {
    // Frames that the CPU has mapped.
    let survey = Survey::of(memory.region.range())?;
    let mapped = survey.count(|place| matches!(place, Place::Device { entry: None, .. }));
    equal("pages mapped where they are", mapped, PAGES)?;
    for round in 2..5 {
        memory.intact()?;
        memory.rewrite(round)?;
        memory.reads(device)?;
    }
    memory.expect("after all this", memory.all(), Where::Device)?;
    let after = Survey::of(memory.region.range())?;
    equal("places", after.places(), survey.places())
}

fn holes(context: &Context) -> Result<()> {
    let device = open(context)?;
    for options in [Region::options(PAGES).huge(false), huge::options(1)?] {
        let memory = Memory::of(options.map()?);
        zeros("the view", &memory.view(&device, memory.all())?)?;
        memory.is_zero(memory.all())?;
        memory.refill(2);
        memory.expect("after writes", memory.all(), Where::Device)?;
        memory.reads(&device)?;
    }
    Ok(())
}

fn cannot_write(device: &Device, memory: &Memory) -> Result<()> {
    fails("WRITE", memory.send(device, Command::Write), Errno::EPERM)
}

fn forked(device: &Device, memory: &Memory) -> Result<()> {
    let (written, wrote) = (Gate::new()?, Gate::new()?);
    let child = helper(|| {
        written.wait()?;
        memory.intact()?;
        memory.refill(3);
        wrote.open()?;
        memory.intact()
    })?;
    memory.refill(2);
    written.open()?;
    wrote.wait()?;
    memory.intact()?;
    memory.reads(device)?;
    child.join()?;
    memory.out_and_read(device)
}

fn forked_device_writes(context: &Context) -> Result<()> {
    let device = open(context)?;
    let memory = Memory::resident(&device, PAGES)?;
    let (written, wrote) = (Gate::new()?, Gate::new()?);
    let child = helper(|| {
        let own = open(context)?;
        written.wait()?;
        memory.intact()?;
        memory.reads(&own)?;
        memory.device_refills(&own, 3)?;
        wrote.open()?;
        memory.intact()
    })?;
    memory.device_refills(&device, 2)?;
    written.open()?;
    wrote.wait()?;
    memory.both_read(&device)?;
    child.join()
}

/// Returns the physical address at which the memory of a device begins.
fn start_of(device: &Device) -> Result<u64> {
    let memory = Memory::resident(device, PAGES)?;
    let survey = Survey::of(memory.region.range())?;
    let Some(Place::Device { frame, .. }) = survey.places().first() else {
        return skip("the kernel shows no frames");
    };
    let address = frame * page_size() as u64;
    let iomem = fs::read_to_string("/proc/iomem")?;
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

/// Loads the module with `size` bytes of memory for each device, at `starts`, and runs `body`.
fn with_memory(
    context: &Context,
    size: usize,
    starts: [u64; 2],
    body: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let parameters = [
        format!("spm_size={size}"),
        format!("spm_addr_dev0={:#x}", starts[0]),
        format!("spm_addr_dev1={:#x}", starts[1]),
    ];
    with_parameters(context, &parameters.each_ref().map(String::as_str), body)
}

/// Returns the addresses at which the memories of both devices begin.
fn both_starts(context: &Context) -> Result<[u64; 2]> {
    let start = |nth| start_of(&context.open_coherent(nth)?);
    Ok([start(0)?, start(1)?])
}

fn addresses(context: &Context) -> Result<()> {
    needs_ours("memory of a size to be chosen")?;
    let [first, second] = both_starts(context)?;
    for starts in [[first, second], [second, first]] {
        with_memory(context, hpage_pmd_size(), starts, || {
            equal("spm_addr_dev0 and 1", both_starts(context)?, starts)
        })?;
    }
    Ok(())
}

fn eviction(context: &Context) -> Result<()> {
    const BLOCKS: usize = 2;
    needs_ours("memory of a size to be chosen")?;
    with_memory(
        context,
        BLOCKS * hpage_pmd_size(),
        both_starts(context)?,
        || {
            let room = BLOCKS * hpage_pmd_nr();
            let fill = |context: &Context| -> Result<()> {
                let (device, memory) = (open(context)?, Memory::new(4 * room)?);
                for round in 2..4 {
                    let view = moved_out(&device, memory.region.range())?;
                    memory.data().check_bytes(&view, 0)?;
                    equal("pages on a full device", memory.on_device()?, room)?;
                    memory.intact()?;
                    memory.device_sees(&device, round)?;
                }
                memory.intact()
            };
            leaves_room(context, &fill)
        },
    )
}

fn pinned(device: &Device, memory: &Memory) -> Result<()> {
    let Ok(ring) = Ring::new() else {
        return skip("no io_uring here");
    };
    memory.refill(2);
    ring.register(&memory.region)?;
    memory.expect("pinned", memory.all(), Where::System)?;
    memory.intact()?;
    memory.reads(device)?;
    fails("pinned pages", memory.try_out(device), Errno::ENOENT)?;
    memory.device_sees(device, 3)?;
    ring.unregister()?;
    memory.intact()
}

fn other_device(context: &Context) -> Result<()> {
    let device = open(context)?;
    let memory = Memory::resident(&device, PAGES)?;
    for other in [context.open_coherent(1)?, context.open()?] {
        let answer = memory.try_out(&other);
        fails_at_once("MIGRATE_TO_DEV by another device", answer, Errno::ENOENT)?;
        let answer = other.migrate_to_system(memory.region.range())?;
        equal("pages that another brings back", answer.pages, 0)?;
        memory.expect("afterwards", memory.all(), Where::Device)?;
        // The other device can reach the memory all the same.
        memory.reads(&other)?;
        memory.cpu_sees(&other, 2)?;
    }
    memory.move_back(&device, memory.all(), PAGES)
}

fn unloaded(context: &Context) -> Result<()> {
    let memory = Memory::resident(&open(context)?, PAGES)?;
    let (module, loader) = context.module()?;
    memory.refill(2);
    let (gone, about) = (Gate::new()?, Gate::new()?);
    let child = helper(|| {
        memory.fill(0..20);
        about.open()?;
        gone.wait()?;
        memory.intact()
    })?;
    about.wait()?;
    let unloaded = Unloaded::new(&module, loader)?;
    memory.expect("after unloading", memory.all(), Where::System)?;
    memory.intact()?;
    gone.open()?;
    child.join()?;
    memory.rewrite(3)?;
    unloaded.load_again()?;
    memory.out_and_read(&open(context)?)
}
