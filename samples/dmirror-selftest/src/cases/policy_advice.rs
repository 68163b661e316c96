// SPDX-License-Identifier: GPL-2.0

//! Advice of a program takes precedence over the policy of the device.

use std::os::fd::AsFd;

use dmirror_client::advice::{Access, Atomics, Change, Target};
use dmirror_client::queue;
use dmirror_client::queue::Outcome;

use crate::prelude::*;

cases! { "policy":
    advised_place = "Pages that engines miss move or stay as advice on access and location says, whatever `migrate` is.",
    advised_granule = "The granule that was advised moves, whatever `granule` is, and none beyond what has the same advice.",
    advised_atomics = "ATOMIC moves its page, makes it exclusive or fails as was advised, whatever `atomics_migrate` is.",
}

/// The preset that moves one page at a time, and with [`single`] nothing with it.
const SINGLE: &str = "uvm";

fn single(settings: &[(&str, u32)]) -> Result<Policy> {
    let quiet = [("prefetch", 0), ("access_counter", 0), ("thrash_events", 0)];
    Policy::with(SINGLE, &[&quiet, settings].concat())
}

fn advised_place(context: &Context) -> Result<()> {
    let peer = context.open_second()?;
    let change = Change::new;
    let elsewhere = change().location(Target::Peer(peer.as_fd()));
    // The last column: true if pages move, without and with `migrate`.
    let rows = [
        ("nothing", Change::back(), [false, true]),
        ("MIGRATE", change().access(Access::Migrate), [true; 2]),
        ("IN_PLACE", change().access(Access::InPlace), [false; 2]),
        ("DEVICE", change().location(Target::Device), [true; 2]),
        ("SYSTEM", change().location(Target::System), [false; 2]),
        ("PEER", elsewhere, [false; 2]),
        (
            "DEVICE, IN_PLACE",
            change().location(Target::Device).access(Access::InPlace),
            [false; 2],
        ),
        (
            "SYSTEM, MIGRATE",
            change().location(Target::System).access(Access::Migrate),
            [false; 2],
        ),
        (
            "PEER, MIGRATE",
            elsewhere.access(Access::Migrate),
            [false; 2],
        ),
    ];
    for migrate in [0, 1] {
        let _policy = single(&[("migrate", migrate)])?;
        let worker = Worker::new(context)?;
        for (what, change, expected) in rows {
            // The pages: one to be read, one to be written, and one without advice.
            let memory = Memory::new(3)?;
            let region = &memory.region;
            worker.device.advise(region.part(0..2), change)?;
            let [read, written, other] = [0, 1, 2].map(|page| region.part(page..page + 1).addr());
            worker.does(&[
                Packet::sum(worker.result(), read, 8),
                Packet::fence(written, region.load(page_size() / 8)),
                Packet::sum(worker.result(), other, 8),
            ])?;
            let places = [(0..2, expected[migrate as usize]), (2..3, migrate == 1)];
            for (pages, moves) in places {
                let place = if moves { Where::Device } else { Where::System };
                let as_expected = memory.expect(what, pages, place);
                as_expected.with_context(|| format!("migrate {migrate}"))?;
            }
            memory.intact()?;
        }
    }
    Ok(())
}

fn advised_granule(context: &Context) -> Result<()> {
    let most = hpage_pmd_nr();
    for (setting, advised, pages) in [(1, 16, 16), (most, 1, 1), (most, 4, 4), (1, most, 64)] {
        let bytes = |pages: usize| (pages * page_size()) as u32;
        let _policy = single(&[("migrate", 1), ("granule", bytes(setting))])?;
        let (worker, memory) = (Worker::new(context)?, Memory::new(2 * most)?);
        // The advice ends in the middle of the larger granules.
        let advice = Change::new().granule(bytes(advised));
        worker.device.advise(memory.region.part(0..64), advice)?;
        let page = memory.region.part(37..38).addr();
        worker.does(&[Packet::sum(worker.result(), page, 8)])?;
        let start = 37 / pages * pages;
        memory.only(start..start + pages, Where::Device, Where::System)?;
        memory.intact()?;
    }
    Ok(())
}

fn advised_atomics(context: &Context) -> Result<()> {
    for setting in [0, 1] {
        let _policy = single(&[("migrate", 1), ("atomics_migrate", setting)])?;
        let worker = Worker::new(context)?;
        for (atomics, expected) in [
            (Atomics::Default, Some(setting == 1)),
            (Atomics::Device, Some(true)),
            (Atomics::System, Some(false)),
            (Atomics::None, None),
        ] {
            let memory = Memory::new(1)?;
            let (range, word) = (memory.region.range(), memory.region.load(0));
            let what = format!("{atomics:?}, atomics_migrate {setting}");
            worker
                .device
                .advise(range, Change::new().atomics(atomics))?;
            let add = Packet::add(Width::Eight, range.addr(), 1, 10, 0);
            let outcome = worker.run(&[add])?;
            let Some(moves) = expected else {
                let denied = Outcome::failed(0, Errno::EACCES, queue::Access::Atomic, range.addr());
                equal(&what, outcome, denied)?;
                memory.intact()?;
                continue;
            };
            equal(&what, (outcome.error, outcome.executed), (None, 1))?;
            // Check this first, since it does not touch the page.
            let is_exclusive = worker.device.is_exclusive(range)?;
            let moved = Survey::of(range)?.on_device() == 1 && !is_exclusive;
            equal(&what, (moved, is_exclusive), (moves, !moves))?;
            equal(&what, memory.region.load(0), word.wrapping_add(10))?;
        }
    }
    Ok(())
}
