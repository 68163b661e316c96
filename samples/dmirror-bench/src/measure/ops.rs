// SPDX-License-Identifier: GPL-2.0

//! Each operation on memory of one size.

use std::sync::Arc;

use anyhow::Result;
use dmirror_client::Device;

use super::Place;
use super::Samples;
use super::Session;
use super::bench::Bench;
use super::bench::ns;
use crate::report::Group;
use crate::report::Memory;

const OPERATIONS: [&str; 6] = [
    "MIGRATE_TO_DEV",
    "MIGRATE_TO_SYS",
    "CPU fault",
    "READ cold",
    "READ warm",
    "WRITE warm",
];

/// Measures the group.
pub fn measure(session: &mut Session<'_>) -> Result<()> {
    let device = Arc::new(Device::open(&session.settings.device)?);
    let (size, rounds) = (session.settings.size, session.settings.rounds);
    for memory in [Memory::Small, Memory::Huge] {
        let place = Place {
            group: Group::Ops,
            memory,
            at: size,
        };
        session.measure(place, OPERATIONS, |samples| {
            let mut bench = Bench::new(Arc::clone(&device), memory, size)?;
            // Move once before the samples: the module allocates some memory once, and keeps it.
            bench.move_out()?;
            (0..rounds).try_for_each(|_| round(&mut bench, samples))
        });
    }
    Ok(())
}

/// Takes one sample of each operation.
fn round(bench: &mut Bench, samples: &mut [Samples; 6]) -> Result<()> {
    let pages = bench.pages();
    let [to_device, to_system, fault, cold, warm_read, warm_write] = samples;
    bench.refresh()?;
    to_device.add(pages, ns(bench.move_out()?));
    to_system.add(pages, ns(bench.move_back()?));

    bench.move_out()?;
    fault.add(pages, ns(bench.touch()));

    // The device lost its mappings of the pages when they came back.
    let (counts, time) = bench.read()?;
    if counts.faults > 0 {
        cold.add(pages, ns(time));
    }
    let (counts, time) = bench.read()?;
    if counts.faults == 0 {
        warm_read.add(pages, ns(time));
    }
    bench.write()?;
    let (counts, time) = bench.write()?;
    if counts.faults == 0 {
        warm_write.add(pages, ns(time));
    }
    Ok(())
}
