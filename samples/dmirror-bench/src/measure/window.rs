// SPDX-License-Identifier: GPL-2.0

//! CPU faults that bring back more than the page that was touched.

use std::fs;
use std::io;
use std::sync::Arc;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use dmirror_client::Device;
use dmirror_client::Module;

use super::Place;
use super::Session;
use super::bench::Bench;
use super::bench::ns;
use crate::report::Group;
use crate::report::Memory;

const WINDOWS: [u64; 6] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 2 << 20];

/// Bytes of memory that the CPU touches, a page at a time.
const SIZE: u64 = 16 << 20;

/// The module's parameter, in bytes.
const PARAMETER: &str = "window";

/// Measures the group.
pub fn measure(session: &mut Session<'_>, module: &Module) -> Result<()> {
    let device = Arc::new(Device::open(&session.settings.device)?);
    let rounds = session.settings.rounds;
    let before = module.parameter(PARAMETER);
    for window in WINDOWS {
        let place = Place {
            group: Group::Window,
            memory: Memory::Small,
            at: window,
        };
        session.measure(place, ["CPU fault"], |[samples]| {
            ensure!(
                set_window(module, &window.to_string())?,
                "n/a: this module has no such window"
            );
            let mut bench = Bench::new(Arc::clone(&device), Memory::Small, SIZE)?;
            for _ in 0..rounds {
                bench.move_out()?;
                samples.add(bench.pages(), ns(bench.touch()));
            }
            Ok(())
        });
    }
    if let Some(before) = before {
        set_window(module, &before)?;
    }
    Ok(())
}

/// Sets how many bytes a CPU fault brings back; `false` if the module has no such
/// setting.
fn set_window(module: &Module, bytes: &str) -> Result<bool> {
    let file = module.folder().join("parameters").join(PARAMETER);
    match fs::write(&file, bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        // Nobody creates a file in sysfs.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !file.exists() => {
            Ok(false)
        }
        Err(error) => Err(error).context(file.display().to_string()),
    }
}
