// SPDX-License-Identifier: GPL-2.0

//! Rates per second: the difference between two samples.

use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use dmirror_client::Stats;

use crate::state::BACK;
use crate::state::DeviceState;
use crate::state::FileState;
use crate::state::OUT;
use crate::state::State;

/// The state at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The state.
    pub state: State,
    /// The time.
    pub at: Instant,
}

impl Sample {
    /// Takes a sample of the current state.
    pub fn take() -> Result<Self> {
        let mut state = State::look()?;
        for device in &mut state.devices {
            let name = device.node.rsplit('/').next().unwrap_or_default();
            let blocks = Stats::blocks_of(name).context("the map of blocks")?;
            device.blocks = blocks.unwrap_or_default();
        }
        Ok(Self {
            state,
            at: Instant::now(),
        })
    }

    /// Returns the number of seconds since another sample, at least 0.001.
    pub fn since(&self, before: &Self) -> f64 {
        self.at.duration_since(before.at).as_secs_f64().max(1e-3)
    }

    /// Returns the device with a number.
    pub fn device(&self, number: u32) -> Option<&DeviceState> {
        let mut devices = self.state.devices.iter();
        devices.find(|device| device.number == number)
    }

    /// Returns the same open file in this sample.
    pub fn file(&self, like: &FileState) -> Option<&FileState> {
        let mut files = self.state.files.iter();
        files.find(|file| (file.pid, file.fd, file.client) == (like.pid, like.fd, like.client))
    }
}

/// The activity of a device, per second.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeviceRates {
    /// Pages to the device, by cause.
    pub out: Vec<(&'static str, f64)>,
    /// Pages back, by cause.
    pub back: Vec<(&'static str, f64)>,
    /// Other events, each with its name.
    pub faults: Vec<(&'static str, f64)>,
}

type Number = (&'static str, fn(&Stats) -> u64);

/// The statistics that are shown besides pages that move.
const FAULTS: [Number; 8] = [
    ("cpu faults", |stats| stats.cpu_faults),
    ("device faults", |stats| stats.device_faults),
    ("engine misses", |stats| stats.fault_posted),
    ("evicted blocks", |stats| stats.evictions),
    ("invalidations", |stats| stats.invalidations),
    ("freed pages", |stats| stats.freed),
    ("naps", |stats| stats.naps),
    ("pins", |stats| stats.pins),
];

impl DeviceRates {
    /// Returns the rates of a device between two samples; none if its statistics are not shown.
    pub fn between(before: &Sample, now: &Sample, number: u32) -> Self {
        let stats = |sample: &Sample| sample.device(number)?.stats;
        let (Some(old), Some(new)) = (stats(before), stats(now)) else {
            return Self::default();
        };
        let seconds = now.since(before);
        let rates = |numbers: &[Number]| {
            let rate = |(name, of): &Number| {
                // The counts of a reloaded module start at 0 again.
                let more = of(&new).saturating_sub(of(&old));
                (*name, more as f64 / seconds)
            };
            numbers.iter().map(rate).collect()
        };
        Self {
            out: rates(&OUT),
            back: rates(&BACK),
            faults: rates(&FAULTS),
        }
    }

    /// Returns the number of pages per second that move to the device.
    pub fn out(&self) -> f64 {
        total(&self.out)
    }

    /// Returns the number of pages per second that move back.
    pub fn back(&self) -> f64 {
        total(&self.back)
    }
}

/// Returns a sum that is not -0 if there are no rates.
fn total(rates: &[(&str, f64)]) -> f64 {
    rates.iter().fold(0.0, |sum, (_, rate)| sum + rate)
}

/// The activity for an open file.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FileRates {
    /// Pages that its commands move to the device, per second.
    pub out: f64,
    /// Pages that they bring back, per second.
    pub back: f64,
    /// The part of the time that engines work for it: 1 is one engine all the time.
    pub busy: f64,
}

impl FileRates {
    /// Returns the rates of an open file between two samples; 0 for a new file.
    pub fn between(before: &Sample, now: &Sample, file: &FileState) -> Self {
        let Some(old) = before.file(file) else {
            return Self::default();
        };
        let seconds = now.since(before);
        let rate = |old: Option<u64>, new: Option<u64>| {
            let more = new.unwrap_or(0).saturating_sub(old.unwrap_or(0));
            more as f64 / seconds
        };
        let ns = |file: &FileState| file.engine_ns.iter().sum::<u64>();
        Self {
            out: rate(old.out_pages, file.out_pages),
            back: rate(old.back_pages, file.back_pages),
            busy: rate(Some(ns(old)), Some(ns(file))) / 1e9,
        }
    }
}

#[cfg(test)]
pub mod tests {
    use std::time::Duration;

    use super::*;
    use crate::state::ModuleState;

    /// Returns two samples, two seconds apart, of a device with some activity.
    pub fn samples() -> (Sample, Sample) {
        let at = Instant::now();
        let state = |round: u64| State {
            module: ModuleState {
                name: "dmirror".into(),
                ..ModuleState::default()
            },
            devices: vec![DeviceState {
                node: "/dev/hmm_dmirror0".into(),
                memory: "private",
                pages: Some(1024),
                resident_pages: Some(256 * round),
                reserved_pages: Some(0),
                free_pages: Some(1024 - 256 * round),
                free_blocks: Some(1),
                blocks: vec![512, 0],
                engines: Some(2),
                policy: Some("xe".into()),
                stats: Some(Stats {
                    out_request: 512 * round,
                    back_cpu_fault: 100 * round,
                    cpu_faults: 10 * round,
                    pages: 1024,
                    resident: 256 * round,
                    ..Stats::default()
                }),
                ..DeviceState::default()
            }],
            files: vec![
                FileState {
                    pid: 7,
                    opener: 7,
                    program: "idle".into(),
                    fd: 3,
                    client: Some(1),
                    device_kib: Some(8),
                    ..FileState::default()
                },
                FileState {
                    pid: 99,
                    opener: 99,
                    program: "busy".into(),
                    fd: 3,
                    client: Some(2),
                    device_kib: Some(4),
                    out_pages: Some(512 * round),
                    engine_ns: vec![1_000_000_000 * round, 0],
                    ..FileState::default()
                },
            ],
            hidden: Vec::new(),
        };
        let before = Sample {
            state: state(1),
            at,
        };
        let now = Sample {
            state: state(2),
            at: at + Duration::from_secs(2),
        };
        (before, now)
    }

    #[test]
    fn rates_are_per_second() {
        let (before, now) = samples();
        let rates = DeviceRates::between(&before, &now, 0);
        assert_eq!((rates.out(), rates.back()), (256.0, 50.0));
        assert_eq!(rates.faults[0], ("cpu faults", 5.0));
        let busy = FileRates::between(&before, &now, &now.state.files[1]);
        assert_eq!((busy.out, busy.busy), (256.0, 0.5));
    }

    #[test]
    fn what_is_new_has_no_rate() {
        let (mut before, now) = samples();
        before.state.files.clear();
        before.state.devices.clear();
        let file = FileRates::between(&before, &now, &now.state.files[1]);
        assert_eq!(file, FileRates::default());
        assert_eq!(
            DeviceRates::between(&before, &now, 0),
            DeviceRates::default()
        );
    }

    #[test]
    fn a_module_that_was_loaded_again_has_no_negative_rates() {
        let (before, now) = samples();
        let rates = DeviceRates::between(&now, &before, 0);
        assert_eq!(rates.out(), 0.0);
    }
}
