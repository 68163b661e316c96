// SPDX-License-Identifier: GPL-2.0

//! Migration of memory of different sizes, up to a gigabyte.

use std::sync::Arc;

use anyhow::Result;
use dmirror_client::Device;
use dmirror_client::page_size;

use super::Place;
use super::Session;
use super::bench::BLOCK;
use super::bench::Bench;
use super::bench::ns;
use crate::report::Group;
use crate::report::Memory;

/// From this size on, one sample is enough: it is an average over many pages. Smaller sizes have as
/// many samples as requested.
const LARGE: u64 = 128 << 20;

const SMALLEST_HUGE: u64 = BLOCK;
const LARGEST: u64 = 1 << 30;

/// Measures the group.
pub fn measure(session: &mut Session<'_>) -> Result<()> {
    let device = Arc::new(Device::open(&session.settings.device)?);
    for (memory, smallest) in [
        (Memory::Small, page_size() as u64),
        (Memory::Huge, SMALLEST_HUGE),
    ] {
        for size in sizes(smallest) {
            measure_size(session, &device, memory, size);
        }
    }
    Ok(())
}

/// Returns the sizes from `smallest` on, each four times the previous one, and [`LARGEST`].
fn sizes(smallest: u64) -> Vec<u64> {
    let mut sizes: Vec<u64> = (0..)
        .map_while(|power| smallest.checked_shl(2 * power))
        .take_while(|size| *size < LARGEST)
        .collect();
    sizes.push(LARGEST);
    sizes
}

fn measure_size(session: &mut Session<'_>, device: &Arc<Device>, memory: Memory, size: u64) {
    let place = Place {
        group: Group::Sizes,
        memory,
        at: size,
    };
    let rounds = if size < LARGE {
        session.settings.rounds
    } else {
        1
    };
    let operations = ["MIGRATE_TO_DEV", "MIGRATE_TO_SYS", "CPU fault"];
    session.measure(place, operations, |[to_device, to_system, fault]| {
        let mut bench = Bench::new(Arc::clone(device), memory, size)?;
        let pages = bench.pages();
        for _ in 0..rounds {
            // The first move is not measured: the module may allocate memory for it.
            bench.move_out()?;
            fault.add(pages, ns(bench.touch()));
            to_device.add(pages, ns(bench.move_out()?));
            to_system.add(pages, ns(bench.move_back()?));
        }
        Ok(())
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_go_from_the_smallest_to_the_largest() {
        let small = sizes(4096);
        assert_eq!(small.first(), Some(&4096));
        assert_eq!(small.last(), Some(&LARGEST));
        assert_eq!(small.len(), 10);
        assert_eq!(sizes(BLOCK).len(), 6);
        assert!(small.is_sorted_by(|a, b| a < b));
    }
}
