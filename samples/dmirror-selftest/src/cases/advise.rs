// SPDX-License-Identifier: GPL-2.0

//! Advice for ranges: ADVISE_GET returns what ADVISE_SET has set, for this open file alone, and
//! engines do not access memory that they must not access.

use std::os::fd::AsFd;

use dmirror_client::advice::{
    Access, AdviceError, Advised, Atomics, Change, Location, MOST, Target,
};
use dmirror_client::queue;
use dmirror_client::queue::Outcome;

use super::engine::words_are;
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

/// Returns the advice at the start of a region, and the end of its range within the region.
pub fn advised(device: &Device, region: &Region) -> Result<Advised, AdviceError> {
    device.advice_at(region.addr(), region.range().end())
}

/// Advises an access to a range.
pub fn allow(device: &Device, range: PageRange, access: Access) -> Result<(), AdviceError> {
    device.advise(range, Change::new().access(access))
}

/// Checks the access that is advised in a region. A run of pages is its end, in pages, and its
/// access.
pub fn runs_are(device: &Device, region: &Region, expected: &[(usize, Access)]) -> Result<()> {
    let seen = access_in(device, region)?;
    equal("access, by pages", &seen[..], expected)
}

/// Checks that a packet fails with EACCES at the address `at`.
pub fn is_denied(
    worker: &Worker,
    what: &str,
    packet: Packet,
    access: queue::Access,
    at: u64,
) -> Result<()> {
    // The packet comes after one that succeeds.
    let outcome = worker.run(&[Packet::spin(0), packet])?;
    equal(what, outcome, Outcome::failed(1, Errno::EACCES, access, at))
}

/// Returns the access that is advised in a region: for each run of pages its end, counted in pages.
pub fn access_in(device: &Device, region: &Region) -> Result<Vec<(usize, Access)>> {
    let (start, end) = (region.addr(), region.range().end());
    let mut runs = Vec::new();
    let mut at = start;
    while at < end {
        let advised = device.advice_at(at, end)?;
        let is_ahead = advised.end > at && advised.end <= end;
        ensure!(is_ahead, "{advised:?} at {at:#x}");
        at = advised.end;
        runs.push(((at - start) as usize / page_size(), advised.access));
    }
    Ok(runs)
}

/// Returns a change that denies access to engines.
pub fn deny() -> Change<'static> {
    Change::new().access(Access::None)
}

fn set_and_got(WithEngines(device): WithEngines) -> Result<()> {
    let region = Region::anonymous(4)?;
    let end = region.range().end();
    let mut expected = Advised::nothing(end);
    let step = |what, change, expected| {
        device.advise(region.range(), change)?;
        equal(what, advised(&device, &region)?, expected)
    };
    equal("at first", advised(&device, &region)?, expected)?;
    expected.location = Location::System;
    step("location", Change::new().location(Target::System), expected)?;
    for access in [Access::Migrate, Access::InPlace, Access::None] {
        expected.access = access;
        step("access", Change::new().access(access), expected)?;
    }
    for atomics in [Atomics::Device, Atomics::System, Atomics::None] {
        expected.atomics = atomics;
        step("atomics", Change::new().atomics(atomics), expected)?;
    }
    expected.granule = hpage_pmd_size() as u32;
    step(
        "granule",
        Change::new().granule(hpage_pmd_size() as u32),
        expected,
    )?;
    (expected.location, expected.granule) = (Location::Default, 0);
    let change = Change::new().location(Target::Default).granule(0);
    step("two less", change, expected)?;
    step("at last", Change::back(), Advised::nothing(end))
}

fn split_and_merged(WithEngines(device): WithEngines) -> Result<()> {
    let region = Region::anonymous(16)?;
    let set = |pages, access| allow(&device, region.part(pages), access);
    let are = |runs: &[(usize, Access)]| runs_are(&device, &region, runs);
    let (a, b, none) = (Access::Migrate, Access::InPlace, Access::Default);
    set(0..16, a)?;
    are(&[(16, a)])?;
    set(4..8, b)?;
    are(&[(4, a), (8, b), (16, a)])?;
    set(6..12, none)?;
    are(&[(4, a), (6, b), (12, none), (16, a)])?;
    set(4..12, a)?;
    are(&[(16, a)])?; // which are one again
    set(0..1, none)?;
    set(15..16, none)?;
    are(&[(1, none), (15, a), (16, none)])?;
    // The limit cuts the range that ADVISE_GET returns.
    let limit = region.part(0..3).end();
    let seen = device.advice_at(region.part(2..3).addr(), limit)?;
    equal("the end", seen.end, limit)
}

fn most(WithEngines(device): WithEngines) -> Result<()> {
    let region = Region::anonymous(2 * MOST + 3)?;
    let set = |page: usize, access| allow(&device, region.part(page..page + 1), access);
    let every_other = || -> Result<()> {
        let runs = access_in(&device, &region)?;
        equal("runs", runs.len(), 2 * MOST)?;
        for (index, run) in runs[..runs.len() - 1].iter().enumerate() {
            let expected = [Access::InPlace, Access::Default][index % 2];
            equal("a run", *run, (index + 1, expected))?;
        }
        Ok(())
    };
    let full = |what, page, access| refused(what, set(page, access), Errno::ENOSPC);
    for index in 0..MOST {
        set(2 * index, Access::InPlace)?;
    }
    every_other()?;
    let last = 2 * MOST + 1;
    full("one more", last, Access::InPlace)?;
    full("another", 1, Access::Migrate)?;
    every_other()?;
    // Two ranges that become one leave a free place.
    set(1, Access::InPlace)?;
    set(last, Access::InPlace)?;
    full("two more", last - 2, Access::Migrate)?;
    set(0, Access::Default)?;
    full("a part", 1, Access::None)?;
    set(last, Access::None)?;
    device.advise(region.range(), Change::back())?;
    runs_are(&device, &region, &[(region.pages(), Access::Default)])
}

fn peer(context: &Context, WithEngines(device): WithEngines) -> Result<()> {
    let region = Region::anonymous(2)?;
    let set = |target: Target<'_>| {
        device.advise(region.range(), Change::new().location(target))?;
        anyhow::Ok(advised(&device, &region)?.location)
    };
    let peer = |other: &Device| set(Target::Peer(other.as_fd()));
    let itself = set(Target::Device)?;
    let Location::Device(number) = itself else {
        bail!("location: {itself:?}");
    };
    equal("this open file", peer(&device)?, itself)?;
    equal("another of this device", peer(&context.open()?)?, itself)?;
    let second = context.open_second()?;
    let there = peer(&second)?;
    let is_other = matches!(there, Location::Peer(other) if other != number);
    ensure!(
        is_other,
        "the second device is {there:?}, this one {number}"
    );
    drop(second);
    let seen = advised(&device, &region)?.location;
    equal("after close", seen, there)?;
    // A peer that this device cannot reach counts as the system.
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
    let nothing = Advised::nothing(region.range().end());
    equal("another file", advised(&other, &region)?, nothing)?;
    allow(&other, region.range(), Access::Migrate)?;
    in_child(|| {
        let own = context.open()?;
        equal("the child's file", advised(&own, &region)?, nothing)?;
        // The file of the parent refers to the memory of the parent.
        let seen = advised(&other, &region)?.access;
        equal("the parent's", seen, Access::Migrate)?;
        Ok(allow(&other, region.range(), Access::InPlace)?)
    })?;
    for_all(
        [(&device, Access::None), (&other, Access::InPlace)],
        |(file, access)| equal("each file's own", advised(file, &region)?.access, access),
    )
}

fn opener_gone(context: &Context) -> Result<()> {
    let parent = || {
        let (device, region) = (open(context)?, Region::anonymous(2)?);
        device.advise(region.range(), deny())?;
        Ok((device, region))
    };
    outlived(parent, |(device, region)| {
        let set = device.advise(region.range(), deny());
        refused("ADVISE_SET", set, Errno::EFAULT)?;
        refused("ADVISE_GET", advised(device, region), Errno::EFAULT)
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn as_32_bit_program(_: &Context) -> Result<()> {
    skip("no way to be a 32-bit program here")
}

#[cfg(target_arch = "x86_64")]
fn as_32_bit_program(context: &Context) -> Result<()> {
    as_32_bit(|| {
        let (device, region) = (open(context)?, Region::anonymous(2)?);
        let end = region.range().end();
        let change = deny().granule(8192).location(Target::Device);
        device.advise_as_32_bit(region.range(), change)?;
        let seen = device.advice_at_as_32_bit(region.addr(), end)?;
        equal("what is got", seen, advised(&device, &region)?)?;
        let expected = (Access::None, 8192, end);
        equal("advice", (seen.access, seen.granule, seen.end), expected)?;
        let nothing = device.advise_as_32_bit(region.range(), Change::new());
        refused("nothing to change", nothing, Errno::EINVAL)
    })
}

fn denied(worker: Worker) -> Result<()> {
    let result = Region::anonymous(1)?;
    let out = result.addr();
    use queue::Access::{Atomic, Fetch, Read, Write};
    for resident in [false, true] {
        let memory = Memory::placed(&worker.device, 8, resident)?;
        let region = &memory.region;
        let (addr, len) = (region.addr(), region.len() as u64);
        let page = region.part(3..4).addr();
        worker.device.advise(region.part(3..5), deny())?;
        let add = Packet::add(Width::Eight, page + 8, 1, 3, 0);
        let (last, chase) = (page + 4088, Packet::chase(out, page + 16, 0, 1));
        for (what, packet, access, at) in [
            ("SUM", Packet::sum(out, addr, len), Read, page),
            ("CHASE", chase, Read, page + 16),
            ("ATOMIC", add, Atomic, page + 8),
            ("FENCE", Packet::fence(last, 1), Write, last),
            ("COPY from", Packet::copy(out, page - 8, 16), Read, page),
            ("COPY to", Packet::copy(page, out, 8), Write, page),
        ] {
            is_denied(&worker, what, packet, access, at)?;
        }
        memory.intact()?;
        // The part before it is done, and no part behind it.
        let fill = Packet::fill(addr + 8, len - 8, 7);
        is_denied(&worker, "FILL", fill, Write, page)?;
        memory.verify(3..8)?;
        equal(
            "the last word before",
            region.load(3 * page_size() / 8 - 1),
            7,
        )?;
        worker.device.advise(region.range(), Change::back())?;
        worker.does(&[Packet::fill(addr, len, 9), add])?;
        equal(
            "words then",
            (region.load(0), region.load(3 * page_size() / 8 + 1)),
            (9, 12),
        )?;
    }
    // Advice applies to packets, too.
    let code = worker.store(&[Packet::spin(0)]);
    worker.device.advise(worker.code.range(), deny())?;
    let outcome = worker.outcome(worker.queue.submit(code, 1)?)?;
    let expected = Outcome::failed(0, Errno::EACCES, Fetch, code);
    equal("a packet", outcome, expected)?;
    worker.device.advise(worker.code.range(), Change::back())?;
    worker.does(&[Packet::spin(0)])
}

fn denied_at_once(worker: Worker) -> Result<()> {
    let memory = Memory::new(8)?;
    let region = &memory.region;
    let page = region.part(5..6);
    let fill = Packet::fill(region.addr(), region.len() as u64, 0x77);
    for_all(0..20, |round| {
        if round % 2 == 1 {
            memory.view(&worker.device, memory.all())?;
        }
        let outcome = thread::scope(|scope| -> Result<Outcome> {
            let engine = scope.spawn(|| worker.repeat(&[fill], || false));
            thread::sleep(Duration::from_millis(5 + round));
            worker.device.advise(page, deny())?;
            let words = [5, 6].map(|page| page * page_size() / 8).map(|word| word);
            words.iter().for_each(|word| region.store(*word, 1));
            let outcome = joined(engine)?;
            words_are("a word of a CPU", region, words, 1)?;
            Ok(outcome)
        })?;
        let expected = (Some(Errno::EACCES), page.addr(), queue::Access::Write);
        let seen = (outcome.error, outcome.fault_addr, outcome.access);
        equal("how the job ended", seen, expected)?;
        worker.device.advise(region.range(), Change::back())?;
        worker.does(&[fill])
    })
}

fn denied_to_engines_only(WithEngines(device): WithEngines) -> Result<()> {
    let memory = Memory::new(8)?;
    let range = memory.region.range();
    device.advise(range, deny())?;
    memory.device_reads(&device, memory.all())?;
    memory.out(&device)?;
    memory.device_refills(&device, 2)?;
    memory.intact()?;
    memory.out(&device)?;
    memory.move_back(&device, memory.all(), 8)?;
    runs_are(&device, &memory.region, &[(8, Access::None)])?;
    // The device maps exclusive pages, and so forgets them with the rest.
    let mut view = vec![0; memory.region.len()];
    device.exclusive(range, &mut view)?;
    equal("exclusive", device.is_exclusive(range)?, true)?;
    device.advise(range, Change::back())?;
    equal("exclusive then", device.is_exclusive(range)?, false)?;
    memory.device_reads(&device, memory.all())?;
    memory.intact()
}

fn prefetched(worker: Worker) -> Result<()> {
    let memory = Memory::new(16)?;
    let (region, device) = (&memory.region, &worker.device);
    let (addr, len) = (region.addr(), region.len() as u64);
    device.advise(region.part(4..8), deny())?;
    worker.does(&[Packet::prefetch(addr, len)])?;
    memory.only(4..8, Where::System, Where::Device)?;
    device.advise(region.range(), Change::back())?;
    device.advise(region.part(0..2), deny())?;
    worker.does(&[Packet::prefetch_to_system(addr, len)])?;
    memory.only(0..2, Where::Device, Where::System)?;
    memory.intact()
}
