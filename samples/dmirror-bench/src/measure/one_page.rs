// SPDX-License-Identifier: GPL-2.0

//! Each operation on one page, and opening and closing the device.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use dmirror_client::Device;
use dmirror_client::page_size;

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
    "READ warm",
    "WRITE warm",
    "SNAPSHOT",
];

/// Number of samples per requested sample: one page is quick, and its times vary more.
const SAMPLES: usize = 20;

/// Measures the group.
pub fn measure(session: &mut Session<'_>) -> Result<()> {
    let path = &session.settings.device;
    let rounds = session.settings.rounds;
    let place = Place {
        group: Group::OnePage,
        memory: Memory::Small,
        at: page_size() as u64,
    };
    session.measure(place, OPERATIONS, |samples| {
        let device = Arc::new(Device::open(path)?);
        let mut bench = Bench::new(device, Memory::Small, page_size() as u64)?;
        (0..rounds * SAMPLES).try_for_each(|_| round(&mut bench, samples))
    });
    session.measure(place, ["open and close"], |[samples]| {
        for _ in 0..rounds {
            let start = Instant::now();
            drop(Device::open(path)?);
            samples.add(1, ns(start.elapsed()));
        }
        Ok(())
    });
    Ok(())
}

/// Takes one sample of each operation.
fn round(bench: &mut Bench, samples: &mut [Samples; 6]) -> Result<()> {
    let [to_device, to_system, fault, read, write, snapshot] = samples;
    to_device.add(1, ns(bench.move_out()?));
    to_system.add(1, ns(bench.move_back()?));
    bench.move_out()?;
    fault.add(1, ns(bench.touch()));

    bench.write()?;
    let (counts, time) = bench.read()?;
    if counts.faults == 0 {
        read.add(1, ns(time));
    }
    let (counts, time) = bench.write()?;
    if counts.faults == 0 {
        write.add(1, ns(time));
    }
    snapshot.add(1, ns(bench.snapshot()?));
    Ok(())
}
