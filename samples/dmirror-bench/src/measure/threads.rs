// SPDX-License-Identifier: GPL-2.0

//! Several threads or processes at the same time, each with memory of its own.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use dmirror_client::Device;
use dmirror_client::Exit;
use dmirror_client::fork_child;

use super::Place;
use super::Samples;
use super::Session;
use super::bench::Bench;
use super::meeting::Meeting;
use crate::report::Group;
use crate::report::Memory;

const WORKERS: [u64; 3] = [1, 2, 4];

/// Size of the memory of a worker, in bytes.
const SIZE: u64 = 8 << 20;

/// Number of times that a worker moves its memory out and back, or reads it, in a sample: often
/// enough that the common start does not affect the result.
const TIMES: u64 = 4;

/// The work of a worker.
#[derive(Clone, Copy, Debug)]
enum Job {
    OutAndBack,
    Read,
}

impl Job {
    /// Returns the number of pages that a worker with `pages` pages handles in a sample.
    fn pages(self, pages: u64) -> u64 {
        match self {
            Self::OutAndBack => 2 * TIMES * pages,
            Self::Read => TIMES * pages,
        }
    }

    fn work(self, bench: &mut Bench) -> Result<()> {
        for _ in 0..TIMES {
            match self {
                Self::OutAndBack => {
                    bench.move_out()?;
                    bench.move_back()?;
                }
                Self::Read => {
                    bench.read()?;
                }
            }
        }
        Ok(())
    }
}

/// The kind of the workers.
#[derive(Clone, Copy, Debug)]
enum Kind {
    OneFile,
    OwnFiles,
    Processes,
}

const OPERATIONS: [(&str, Job, Kind); 6] = [
    (
        "out and back, threads, one file",
        Job::OutAndBack,
        Kind::OneFile,
    ),
    (
        "out and back, threads, own files",
        Job::OutAndBack,
        Kind::OwnFiles,
    ),
    ("out and back, processes", Job::OutAndBack, Kind::Processes),
    ("READ, threads, one file", Job::Read, Kind::OneFile),
    ("READ, threads, own files", Job::Read, Kind::OwnFiles),
    ("READ, processes", Job::Read, Kind::Processes),
];

/// Measures the group.
pub fn measure(session: &mut Session<'_>) -> Result<()> {
    let path = &session.settings.device;
    let rounds = session.settings.rounds;
    for memory in [Memory::Small, Memory::Huge] {
        for workers in WORKERS {
            let place = Place {
                group: Group::Threads,
                memory,
                at: workers,
            };
            for (operation, job, kind) in OPERATIONS {
                session.measure(place, [operation], |[samples]| {
                    let team = Team {
                        path,
                        memory,
                        workers: workers as usize,
                        rounds,
                        job,
                    };
                    let times = match kind {
                        Kind::OneFile => team.on_one_file(),
                        Kind::OwnFiles => team.on_own_files(),
                        Kind::Processes => team.as_processes(),
                    };
                    team.fill(samples, times?);
                    Ok(())
                });
            }
        }
    }
    Ok(())
}

/// Workers that do the same at the same time.
#[derive(Clone, Copy, Debug)]
struct Team<'a> {
    path: &'a Path,
    memory: Memory,
    workers: usize,
    rounds: usize,
    job: Job,
}

impl Team<'_> {
    fn fill(&self, samples: &mut Samples, times: Vec<u64>) {
        let pages = SIZE / dmirror_client::page_size() as u64;
        for time in times {
            samples.add(self.workers as u64 * self.job.pages(pages), time);
        }
    }

    fn on_one_file(&self) -> Result<Vec<u64>> {
        let device = Arc::new(Device::open(self.path)?);
        self.as_threads(&vec![device; self.workers])
    }

    fn on_own_files(&self) -> Result<Vec<u64>> {
        let devices: Result<Vec<_>, _> = (0..self.workers)
            .map(|_| Device::open(self.path).map(Arc::new))
            .collect();
        self.as_threads(&devices?)
    }

    /// Runs a thread for each of the devices. The files stay open until all threads have ended.
    fn as_threads(&self, devices: &[Arc<Device>]) -> Result<Vec<u64>> {
        let meeting = Meeting::new(self.workers, self.rounds)?;
        let benches: Result<Vec<_>> = devices
            .iter()
            .map(|device| self.prepare(Arc::clone(device)))
            .collect();
        let mut benches = benches?;
        thread::scope(|scope| {
            let threads: Vec<_> = benches
                .iter_mut()
                .enumerate()
                .map(|(worker, bench)| {
                    let meeting = &meeting;
                    scope.spawn(move || meeting.attend(worker, || self.job.work(bench)))
                })
                .collect();
            threads.into_iter().try_for_each(|thread| {
                let answer = thread.join();
                answer.unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked")))
            })
        })?;
        meeting.elapsed()
    }

    fn as_processes(&self) -> Result<Vec<u64>> {
        let meeting = Meeting::new(self.workers, self.rounds)?;
        let mut children = Vec::new();
        for worker in 0..self.workers {
            let body = || {
                let attend = || {
                    let bench = self.prepare(Arc::new(Device::open(self.path)?));
                    let mut bench = bench.inspect_err(|_| meeting.leave(worker))?;
                    meeting.attend(worker, || self.job.work(&mut bench))
                };
                match attend() {
                    Ok(()) => 0,
                    Err(error) => {
                        eprintln!("process {worker}: {error:#}");
                        1
                    }
                }
            };
            children.push(fork_child(body).context("fork")?);
        }
        for child in children {
            let exit = child.wait()?;
            ensure!(exit == Exit::Status(0), "a process ended with {exit:?}");
        }
        meeting.elapsed()
    }

    /// Returns memory for a worker, on which the device has worked once.
    fn prepare(&self, device: Arc<Device>) -> Result<Bench> {
        let mut bench = Bench::new(device, self.memory, SIZE)?;
        self.job.work(&mut bench)?;
        Ok(bench)
    }
}
