// SPDX-License-Identifier: GPL-2.0

//! Advice for ranges: what is set is what is got, for this open file alone; and engines access
//! nothing that they must not.

use std::os::fd::AsFd;

use dmirror_client::advice::{
    Access, AdviceError, Advised, Atomics, Change, Location, MOST, Target,
};
use dmirror_client::queue;
use dmirror_client::queue::Outcome;

use crate::prelude::*;
use crate::worker::open;

cases! { "advise":
    set_and_got = "Each attribute is set by itself, got back, and taken back.",
    split_and_merged = "A range is split where another attribute is set, and is one again where it is the same.",
    most = "An open file has advice for 1024 ranges; then ADVISE_SET is ENOSPC, and nothing changes.",
    peer = "Another device is named by a descriptor, which may be closed; one of this device means this device.",
    own = "Another open file of the device, and one of a child, have advice of their own.",
    opener_gone = "When the opener has ended both commands are EFAULT.",
    as_32_bit_program = "A 32-bit program sets and gets as others do.",
    denied = "A job fails with EACCES at the first address that engines must not access, whatever it does.",
    denied_at_once = "When ADVISE_SET has returned no engine accesses what it must not, also if it did before.",
    denied_to_engines_only = "READ, WRITE, EXCLUSIVE and migration go on where engines are denied access.",
    prefetched = "PREFETCH passes over what engines must not access.",
}

/// Checks that a command about advice failed with `errno`.
pub fn refused<T>(what: &str, answer: Result<T, AdviceError>, errno: Errno) -> Result<()> {
    match answer {
        Ok(_) => bail!("{what}: expected {errno:?}, seen success"),
        Err(error) => equal(what, error.errno, errno),
    }
}

/// The access that is advised in a region: for each run of pages its end, counted in pages.
pub fn access_in(device: &Device, region: &Region) -> Result<Vec<(usize, Access)>> {
    let (start, end) = (region.addr(), region.range().end());
    let mut runs = Vec::new();
    let mut at = start;
    while at < end {
        let advised = device.advice_at(at, end)?;
        ensure!(
            advised.end > at && advised.end <= end,
            "{advised:?} at {at:#x}"
        );
        at = advised.end;
        runs.push(((at - start) as usize / page_size(), advised.access));
    }
    Ok(runs)
}

/// Denies engines access.
pub fn deny() -> Change<'static> {
    Change::new().access(Access::None)
}

fn set_and_got(context: &Context) -> Result<()> {
    let device = open(context)?;
    let region = Region::anonymous(4)?;
    let (range, end) = (region.range(), region.range().end());
    let seen = || device.advice_at(region.addr(), end);
    equal("at first", seen()?, Advised::nothing(end))?;
    let mut expected = Advised::nothing(end);
    device.advise(range, Change::new().location(Target::System))?;
    expected.location = Location::System;
    equal("location", seen()?, expected)?;
    for access in [Access::Migrate, Access::InPlace, Access::None] {
        device.advise(range, Change::new().access(access))?;
        expected.access = access;
        equal("access", seen()?, expected)?;
    }
    for atomics in [Atomics::Device, Atomics::System, Atomics::None] {
        device.advise(range, Change::new().atomics(atomics))?;
        expected.atomics = atomics;
        equal("atomics", seen()?, expected)?;
    }
    device.advise(range, Change::new().granule(2 << 20))?;
    expected.granule = 2 << 20;
    equal("granule", seen()?, expected)?;
    let change = Change::new().location(Target::Default).granule(0);
    device.advise(range, change)?;
    (expected.location, expected.granule) = (Location::Default, 0);
    equal("two less", seen()?, expected)?;
    device.advise(range, Change::back())?;
    equal("at last", seen()?, Advised::nothing(end))
}

fn split_and_merged(context: &Context) -> Result<()> {
    let device = open(context)?;
    let region = Region::anonymous(16)?;
    let set = |pages, access| device.advise(region.part(pages), Change::new().access(access));
    let (a, b, none) = (Access::Migrate, Access::InPlace, Access::Default);
    set(0..16, a)?;
    equal("one", access_in(&device, &region)?, vec![(16, a)])?;
    set(4..8, b)?;
    let runs = vec![(4, a), (8, b), (16, a)];
    equal("three", access_in(&device, &region)?, runs)?;
    set(6..12, none)?;
    let runs = vec![(4, a), (6, b), (12, none), (16, a)];
    equal("four", access_in(&device, &region)?, runs)?;
    set(4..12, a)?;
    equal("one again", access_in(&device, &region)?, vec![(16, a)])?;
    set(0..1, none)?;
    set(15..16, none)?;
    let runs = vec![(1, none), (15, a), (16, none)];
    equal("trimmed", access_in(&device, &region)?, runs)?;
    // A limit cuts what is got.
    let limit = region.part(0..3).end();
    let seen = device.advice_at(region.part(2..3).addr(), limit)?;
    equal("the end", seen.end, limit)
}

fn most(context: &Context) -> Result<()> {
    let device = open(context)?;
    let region = Region::anonymous(2 * MOST + 3)?;
    let set = |page: usize, access| {
        let page = region.part(page..page + 1);
        device.advise(page, Change::new().access(access))
    };
    let every_other = |device: &Device| -> Result<()> {
        let runs = access_in(device, &region)?;
        equal("runs", runs.len(), 2 * MOST)?;
        for (index, (end, access)) in runs[..runs.len() - 1].iter().enumerate() {
            let expected = [Access::InPlace, Access::Default][index % 2];
            equal("a run", (*end, *access), (index + 1, expected))?;
        }
        Ok(())
    };
    for index in 0..MOST {
        set(2 * index, Access::InPlace)?;
    }
    every_other(&device)?;
    let last = 2 * MOST + 1;
    refused("one more", set(last, Access::InPlace), Errno::ENOSPC)?;
    refused("another", set(1, Access::Migrate), Errno::ENOSPC)?;
    every_other(&device)?;
    // Two that become one leave a place.
    set(1, Access::InPlace)?;
    set(last, Access::InPlace)?;
    refused("two more", set(last - 2, Access::Migrate), Errno::ENOSPC)?;
    set(0, Access::Default)?;
    refused("a part", set(1, Access::None), Errno::ENOSPC)?;
    set(last, Access::None)?;
    device.advise(region.range(), Change::back())?;
    let runs = vec![(region.pages(), Access::Default)];
    equal("nothing", access_in(&device, &region)?, runs)
}

fn peer(context: &Context) -> Result<()> {
    let device = open(context)?;
    let region = Region::anonymous(2)?;
    let set = |other: &Device| {
        let change = Change::new().location(Target::Peer(other.as_fd()));
        device.advise(region.range(), change)?;
        let seen = device.advice_at(region.addr(), region.range().end())?;
        anyhow::Ok(seen.location)
    };
    device.advise(region.range(), Change::new().location(Target::Device))?;
    let own = device.advice_at(region.addr(), region.range().end())?;
    let Location::Device(number) = own.location else {
        bail!("location: {:?}", own.location);
    };
    let itself = Location::Device(number);
    equal("this open file", set(&device)?, itself)?;
    equal("another of this device", set(&context.open()?)?, itself)?;
    let second = context.open_second()?;
    let Location::Peer(other) = set(&second)? else {
        bail!("the second device is {:?}", set(&second)?);
    };
    ensure!(other != number, "two devices have number {other}");
    drop(second);
    let seen = device.advice_at(region.addr(), region.range().end())?;
    equal("after close", seen.location, Location::Peer(other))?;
    // Advice for nobody's device works as the system does.
    let worker = Worker::new(context)?;
    let second = context.open_second()?;
    let change = Change::new().location(Target::Peer(second.as_fd()));
    worker.device.advise(region.range(), change)?;
    worker.does(&[Packet::fill(region.addr(), region.len() as u64, 5)])?;
    equal("word", region.load(0), 5)
}

fn own(context: &Context) -> Result<()> {
    let (device, other) = (open(context)?, context.open()?);
    let region = Region::anonymous(2)?;
    device.advise(region.range(), deny())?;
    let end = region.range().end();
    let nothing = Advised::nothing(end);
    equal(
        "another file",
        other.advice_at(region.addr(), end)?,
        nothing,
    )?;
    let change = Change::new().access(Access::Migrate);
    other.advise(region.range(), change)?;
    helper(|| {
        let own = context.open()?;
        equal(
            "the child's file",
            own.advice_at(region.addr(), end)?,
            nothing,
        )?;
        // Its parent's file is about its parent's memory.
        let seen = other.advice_at(region.addr(), end)?;
        equal("the parent's", seen.access, Access::Migrate)?;
        Ok(other.advise(region.range(), Change::new().access(Access::InPlace))?)
    })?
    .join()?;
    for (file, access) in [(&device, Access::None), (&other, Access::InPlace)] {
        let seen = file.advice_at(region.addr(), end)?;
        equal("each file's own", seen.access, access)?;
    }
    Ok(())
}

fn opener_gone(context: &Context) -> Result<()> {
    let parent = || {
        let device = open(context)?;
        let region = Region::anonymous(2)?;
        device.advise(region.range(), deny())?;
        Ok((device, region))
    };
    outlived(parent, |(device, region)| {
        let set = device.advise(region.range(), deny());
        refused("ADVISE_SET", set, Errno::EFAULT)?;
        let got = device.advice_at(region.addr(), region.range().end());
        refused("ADVISE_GET", got, Errno::EFAULT)
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn as_32_bit_program(_: &Context) -> Result<()> {
    crate::check::skip("no way to be a 32-bit program here")
}

#[cfg(target_arch = "x86_64")]
fn as_32_bit_program(context: &Context) -> Result<()> {
    use dmirror_client::Exit;
    use dmirror_client::Signal;

    // In a child, which a kernel without such an entry kills.
    let child = helper(|| {
        let device = open(context)?;
        let region = Region::anonymous(2)?;
        let end = region.range().end();
        let change = deny().granule(8192).location(Target::Device);
        device.advise_as_32_bit(region.range(), change)?;
        let seen = device.advice_at_as_32_bit(region.addr(), end)?;
        equal("what is got", seen, device.advice_at(region.addr(), end)?)?;
        let expected = (Access::None, 8192, end);
        equal("advice", (seen.access, seen.granule, seen.end), expected)?;
        let nothing = device.advise_as_32_bit(region.range(), Change::new());
        refused("nothing to change", nothing, Errno::EINVAL)
    })?;
    match child.exit()? {
        Exit::Status(0) => Ok(()),
        Exit::Signal(Signal::SIGSEGV) => crate::check::skip("this kernel runs no 32-bit programs"),
        end => bail!("the child ended with {end:?}"),
    }
}

fn denied(context: &Context) -> Result<()> {
    let worker = Worker::new(context)?;
    let out = Region::anonymous(1)?;
    let (read, write) = (queue::Access::Read, queue::Access::Write);
    for resident in [false, true] {
        let memory = Memory::new(8)?;
        if resident {
            memory.move_out(&worker.device, memory.all())?;
        }
        let region = &memory.region;
        let (addr, len) = (region.addr(), region.len() as u64);
        let page = region.part(3..4).addr();
        worker.device.advise(region.part(3..5), deny())?;
        let add = Packet::add(Width::Eight, page + 8, 1, 3, 0);
        for (what, packet, access, at) in [
            ("SUM", Packet::sum(out.addr(), addr, len), read, page),
            (
                "CHASE",
                Packet::chase(out.addr(), page + 16, 0, 1),
                read,
                page + 16,
            ),
            ("ATOMIC", add, queue::Access::Atomic, page + 8),
            ("FENCE", Packet::fence(page + 4088, 1), write, page + 4088),
            (
                "COPY from",
                Packet::copy(out.addr(), page - 8, 16),
                read,
                page,
            ),
            ("COPY to", Packet::copy(page, out.addr(), 8), write, page),
        ] {
            let expected = Outcome::failed(1, Errno::EACCES, access, at);
            equal(what, worker.run(&[Packet::spin(0), packet])?, expected)?;
        }
        memory.verify(memory.all())?;
        // What lies before is done, and nothing behind.
        let outcome = worker.run(&[Packet::fill(addr + 8, len - 8, 7)])?;
        let expected = Outcome::failed(0, Errno::EACCES, write, page);
        equal("FILL", outcome, expected)?;
        memory.verify(3..8)?;
        equal("the last word before", region.load(3 * 512 - 1), 7)?;
        worker.device.advise(region.range(), Change::back())?;
        worker.does(&[Packet::fill(addr, len, 9), add])?;
        equal("words then", (region.load(0), region.load(1537)), (9, 12))?;
    }
    // Packets, too, are memory.
    let code = worker.store(&[Packet::spin(0)]);
    worker.device.advise(worker.code.range(), deny())?;
    let job = worker.queue.submit(code, 1)?;
    let expected = Outcome::failed(0, Errno::EACCES, queue::Access::Fetch, code);
    equal("a packet", worker.outcome(job)?, expected)?;
    worker.device.advise(worker.code.range(), Change::back())?;
    worker.does(&[Packet::spin(0)])
}

fn denied_at_once(context: &Context) -> Result<()> {
    let worker = Worker::new(context)?;
    let memory = Memory::new(8)?;
    let region = &memory.region;
    let page = region.part(5..6);
    let fill = Packet::fill(region.addr(), region.len() as u64, 0x77);
    for round in 0..20 {
        if round % 2 == 1 {
            memory.view(&worker.device, memory.all())?;
        }
        let outcome = thread::scope(|scope| -> Result<Outcome> {
            let engine = scope.spawn(|| worker.repeat(&[fill], || false));
            thread::sleep(Duration::from_millis(5 + round));
            worker.device.advise(page, deny())?;
            let word = |index: usize| 5 * 512 + index;
            region.store(word(0), 1);
            region.store(word(511), 2);
            let outcome = crate::context::joined(engine)?;
            let seen = (region.load(word(0)), region.load(word(511)));
            equal("words of a CPU", seen, (1, 2))?;
            Ok(outcome)
        })?;
        let expected = (Some(Errno::EACCES), page.addr(), queue::Access::Write);
        let seen = (outcome.error, outcome.fault_addr, outcome.access);
        equal("how the job ended", seen, expected)?;
        worker.device.advise(region.range(), Change::back())?;
        worker.does(&[fill])?;
    }
    Ok(())
}

fn denied_to_engines_only(context: &Context) -> Result<()> {
    let device = open(context)?;
    let memory = Memory::new(8)?;
    device.advise(memory.region.range(), deny())?;
    memory.device_reads(&device, memory.all())?;
    memory.move_out(&device, memory.all())?;
    memory.device_refills(&device, 2)?;
    memory.verify(memory.all())?;
    memory.move_out(&device, memory.all())?;
    memory.move_back(&device, memory.all(), 8)?;
    let runs = vec![(8, Access::None)];
    equal("advice", access_in(&device, &memory.region)?, runs)?;
    // What is exclusive to the device is mapped by it, and so forgotten with the rest.
    let range = memory.region.range();
    let mut view = vec![0; memory.region.len()];
    device.exclusive(range, &mut view)?;
    equal("exclusive", device.is_exclusive(range)?, true)?;
    device.advise(range, Change::back())?;
    equal("exclusive then", device.is_exclusive(range)?, false)?;
    memory.device_reads(&device, memory.all())?;
    memory.verify(memory.all())
}

fn prefetched(context: &Context) -> Result<()> {
    let worker = Worker::new(context)?;
    let memory = Memory::new(16)?;
    let region = &memory.region;
    let on_device =
        |pages| -> Result<u64> { Ok(Survey::of(region.part(pages))?.on_device() as u64) };
    worker.device.advise(region.part(4..8), deny())?;
    worker.does(&[Packet::prefetch(region.addr(), region.len() as u64)])?;
    equal("those before", on_device(0..4)?, 4)?;
    equal("those denied", on_device(4..8)?, 0)?;
    equal("those behind", on_device(8..16)?, 8)?;
    worker.device.advise(region.range(), Change::back())?;
    worker.device.advise(region.part(0..2), deny())?;
    worker.does(&[Packet::prefetch_to_system(
        region.addr(),
        region.len() as u64,
    )])?;
    equal("those denied, back", on_device(0..2)?, 2)?;
    equal("the others, back", on_device(2..16)?, 0)?;
    memory.verify(memory.all())
}
