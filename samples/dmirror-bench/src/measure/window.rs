// SPDX-License-Identifier: GPL-2.0

//! CPU faults that bring back more than the page that was touched.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use dmirror_client::Device;

use super::Place;
use super::Session;
use super::bench::Bench;
use super::bench::ns;
use crate::report::Group;
use crate::report::Memory;

const WINDOWS: [u64; 6] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 2 << 20];

/// Size of the memory that the CPU touches, a page at a time, in bytes.
const SIZE: u64 = 16 << 20;

/// Measures the group.
pub fn measure(session: &mut Session<'_>) -> Result<()> {
    let device = Arc::new(Device::open(&session.settings.device)?);
    let rounds = session.settings.rounds;
    let setting = setting(&session.settings.device);
    let before = fs::read_to_string(&setting).ok();
    for window in WINDOWS {
        let place = Place {
            group: Group::Window,
            memory: Memory::Small,
            at: window,
        };
        session.measure(place, ["CPU fault"], |[samples]| {
            ensure!(
                set_window(&setting, &window.to_string())?,
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
        set_window(&setting, before.trim())?;
    }
    Ok(())
}

/// Returns the file of a device for the maximum number of bytes that a CPU fault brings back.
fn setting(device: &Path) -> PathBuf {
    let name = device.file_name().unwrap_or_default();
    Path::new("/sys/kernel/debug").join(name).join("window")
}

/// Writes the setting; returns false if the module does not have it.
fn set_window(setting: &Path, bytes: &str) -> Result<bool> {
    // Do not create a missing file.
    match File::options().write(true).open(setting) {
        Ok(mut file) => file.write_all(bytes.as_bytes()).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
    .with_context(|| setting.display().to_string())
}
