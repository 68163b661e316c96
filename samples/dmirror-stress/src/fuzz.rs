// SPDX-License-Identifier: GPL-2.0

//! Random requests: commands, addresses, sizes, flags and pointers that are invalid
//! or nearly so. They come from threads, from a child that inherits descriptors of
//! its parent, and from a child whose parent has ended.
//!
//! A playground has four parts: free memory, canaries that may be read, canaries
//! that nobody may read, and memory whose protection changes all the time. No
//! request may change a canary, or return one that nobody may read.

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::parent_id;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;
use dmirror_client::Device;
use dmirror_client::Errno;
use dmirror_client::Playground;
use dmirror_client::fork_child;
use dmirror_client::page_size;
use dmirror_client::process::Exit;
use dmirror_client::region::Protection;

use crate::fuzz_engines::Jobs;
use crate::fuzz_engines::Own;
use crate::generate::Dice;
use crate::leavers::leavers;
use crate::op::NODES;
use crate::real::open;

/// The number of pages of each part of the playground.
pub const FREE: usize = 1024;
const READABLE: usize = 16;
const HIDDEN: usize = 16;
const CHANGING: usize = 64;
pub const PAGES: usize = FREE + READABLE + HIDDEN + CHANGING;

/// The value of each word of a canary.
const CANARY: u64 = 0x6361_6e61_7279_2121;

/// The time limit for a request of a thread, and for the end of a process that leaves work.
pub const LIMIT: Duration = Duration::from_secs(240);

/// The time for which a process goes on after its opener has ended.
const ORPHAN_TIME: Duration = Duration::from_secs(3);

/// The first request number of the ABI: direction read and write, size 40 bytes, type 'H'.
const FIRST: u64 = 0xc028_4800;
const READ: u64 = FIRST;
const READ_UNLOCKED: u64 = FIRST + 9;
const COMMANDS: usize = 10;

pub type Counts = BTreeMap<String, u64>;

/// The memory, the open files and the jobs that random requests use.
pub struct Scene {
    pub ground: Playground,
    pub devices: Vec<Device>,
    pub jobs: Jobs,
    others: Vec<OwnedFd>,
    /// Set if the devices belong to another process: mappings of this process do not count.
    foreign: bool,
}

impl Scene {
    /// Opens the devices, and maps a playground.
    pub fn new() -> Result<Self> {
        let ground = Playground::new(PAGES * page_size())?;
        let words = page_size() / 8;
        for word in FREE * words..(FREE + READABLE + HIDDEN) * words {
            ground.store(word, CANARY);
        }
        ground.protect(FREE, READABLE, Protection::Read)?;
        ground.protect(FREE + READABLE, HIDDEN, Protection::None)?;
        let devices = (0..2 * NODES).map(|nth| open(nth % NODES));
        let devices = devices.collect::<std::io::Result<_>>();
        let (socket, _) = UnixStream::pair()?;
        let others = vec![
            File::open("/dev/null")?.into(),
            File::open("/dev/zero")?.into(),
            File::open("/proc/self/maps")?.into(),
            File::open("/")?.into(),
            socket.into(),
        ];
        Ok(Self {
            ground,
            devices: devices.context("cannot open a device: is the module loaded?")?,
            others,
            jobs: Jobs::default(),
            foreign: false,
        })
    }

    /// Returns a random address, in `part` percent of the calls one in the playground.
    pub fn address(&self, dice: &mut Dice, part: usize) -> u64 {
        let inside = self.ground.addr() + dice.below(PAGES * page_size()) as u64;
        if dice.chance(part) {
            return match dice.below(12) {
                0 => inside,
                1 => inside & !7,
                _ => inside & !(page_size() as u64 - 1),
            };
        }
        let shift = dice.below(64);
        let near = dice.below(3) as u64 * page_size() as u64;
        match dice.below(6) {
            0 => 0,
            1 => (1 << 47) - near,
            2 => u64::MAX - near,
            3 => (dice.any() >> shift) & !0xfff,
            4 => 0xffff_8880_0000_0000 | (dice.any() & 0xff_ffff_f000),
            _ => dice.any(),
        }
    }

    fn pages(dice: &mut Dice) -> u64 {
        match dice.below(12) {
            0 => 0,
            1 => u64::MAX >> dice.below(64),
            2 => 1 << dice.below(64),
            3 => (1 << 52) + dice.below(3) as u64,
            4 => 512,
            5 => 1 + dice.below(2 * PAGES) as u64,
            _ => 1 + dice.below(20) as u64,
        }
    }

    fn request(dice: &mut Dice) -> u64 {
        let command = FIRST + dice.below(COMMANDS) as u64;
        match dice.below(20) {
            0 => FIRST + dice.below(256) as u64,
            // A command with another size, or with another direction.
            1 => command & !0x3fff_0000 | ((dice.below(1 << 12) as u64) << 16),
            2 => command & 0x3fff_ffff | ((dice.below(4) as u64) << 30),
            _ => command,
        }
    }

    /// Sends a random request; returns an error if READ of a hidden canary succeeds.
    fn send(&self, dice: &mut Dice, counts: &mut Counts) -> Result<()> {
        let mut request = Self::request(dice);
        // This program writes the struct, so its address is in memory that it may write.
        let free = (FREE * page_size() / 8 - 5) as u64;
        let argument = match dice.chance(95) {
            true => self.ground.addr() + (dice.any() % free) * 8,
            false => self.address(dice, 0),
        };
        let addr = self.address(dice, 85);
        let ptr = self.address(dice, 85);
        let npages = Self::pages(dice);
        let device = dice.below(self.devices.len());
        let file = match dice.chance(97) {
            true => self.devices[device].as_fd(),
            // Other files do not know our requests, and must not get requests that they know.
            false => {
                request = FIRST + dice.below(COMMANDS) as u64;
                self.others[dice.below(self.others.len())].as_fd()
            }
        };
        let answer = self
            .ground
            .request(file, request, argument, [addr, ptr, npages, 0, 0]);
        let outcome = match answer {
            Ok(_) => "ok".to_owned(),
            Err(Errno::EADDRNOTAVAIL) => return Ok(()),
            Err(errno) => format!("{errno:?}"),
        };
        *counts.entry(outcome).or_default() += 1;
        if answer.is_ok() && matches!(request, READ | READ_UNLOCKED) {
            let hidden = self.ground.addr() + ((FREE + READABLE) * page_size()) as u64;
            let end = addr.saturating_add(npages.saturating_mul(page_size() as u64));
            let reaches = addr < hidden + (HIDDEN * page_size()) as u64 && end > hidden;
            ensure!(!reaches, "READ of {npages} pages at {addr:#x} was allowed");
        }
        Ok(())
    }

    /// Changes the protection of the last part, and writes to the first.
    fn stir(&self, dice: &mut Dice) -> Result<()> {
        let pages = 1 + dice.below(CHANGING);
        let page = PAGES - CHANGING + dice.below(CHANGING - pages + 1);
        let protection = [Protection::None, Protection::Read, Protection::ReadWrite];
        self.ground.protect(page, pages, dice.pick(&protection))?;
        let words = FREE * page_size() / 8;
        self.ground.store(dice.below(words), dice.any());
        Ok(())
    }

    /// Checks that the canaries are unchanged; makes the hidden ones readable for that.
    fn check(&self) -> Result<()> {
        self.ground
            .protect(FREE + READABLE, HIDDEN, Protection::Read)?;
        let words = page_size() / 8;
        for word in FREE * words..(FREE + READABLE + HIDDEN) * words {
            let found = self.ground.load(word);
            let page = word / words - FREE;
            ensure!(
                found == CANARY,
                "canary {page} holds {found:#x} at word {}",
                word % words
            );
        }
        Ok(())
    }

    /// Sends requests until `end`; returns the counts of their outcomes.
    fn go(&self, seed: u64, end: Instant, beats: &AtomicU64) -> Result<Counts> {
        let (mut dice, mut counts) = (Dice::new(seed), Counts::new());
        let mut own = Own::default();
        while Instant::now() < end {
            match dice.chance(60) {
                true => self.engine(&mut own, &mut dice, &mut counts)?,
                false => self.send(&mut dice, &mut counts)?,
            }
            if dice.chance(5) && !self.foreign {
                self.stir(&mut dice)?;
            }
            // ORDERING: nothing is published through it.
            beats.fetch_add(1, Ordering::Relaxed);
        }
        Ok(counts)
    }
}

/// Runs threads on a scene; ends the process with status 1 if one of them gets stuck.
fn threads(scene: &Scene, seed: u64, end: Instant, count: u32) -> Result<Counts> {
    let mut dice = Dice::new(seed);
    let beats: Vec<AtomicU64> = (0..count).map(|_| AtomicU64::new(0)).collect();
    thread::scope(|scope| {
        let spawn = |beats| {
            let seed = dice.any();
            scope.spawn(move || scene.go(seed, end, beats))
        };
        let running: Vec<_> = beats.iter().map(spawn).collect();
        let mut last = vec![(u64::MAX, Instant::now()); beats.len()];
        while running.iter().any(|thread| !thread.is_finished()) {
            thread::sleep(Duration::from_millis(100));
            for (nth, (beat, last)) in beats.iter().zip(&mut last).enumerate() {
                // ORDERING: nothing is published through it.
                let now = beat.load(Ordering::Relaxed);
                if now != last.0 || running[nth].is_finished() {
                    *last = (now, Instant::now());
                } else if last.1.elapsed() > LIMIT {
                    // The thread cannot be stopped, so end the whole process.
                    println!("thread {nth} is stuck in its request {now}");
                    print_stacks();
                    std::process::exit(1);
                }
            }
        }
        let mut all = Counts::new();
        for thread in running {
            let Ok(counts) = thread.join() else {
                bail!("a thread has panicked");
            };
            for (key, count) in counts? {
                *all.entry(key).or_default() += count;
            }
        }
        Ok(all)
    })
}

/// Prints the kernel stacks of the threads of this process and of the engines.
fn print_stacks() {
    let threads = |folder: &str| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let comm = |task: &Path| fs::read_to_string(task.join("comm")).unwrap_or_default();
    let mut tasks = threads("/proc");
    tasks.retain(|task| comm(task).starts_with("dmirror"));
    tasks.extend(threads("/proc/self/task"));
    for task in tasks {
        let stack = fs::read_to_string(task.join("stack")).unwrap_or_default();
        println!("{} {}{stack}", task.display(), comm(&task));
    }
}

/// Runs `body`, prints its result under the name `what`, and returns the exit status.
fn process(what: &str, body: impl FnOnce() -> Result<Counts>) -> i32 {
    match body() {
        Ok(counts) => {
            let counts = counts.iter().map(|(key, count)| format!("{count} {key}"));
            println!("{what}: {}", counts.collect::<Vec<_>>().join(", "));
            0
        }
        Err(error) => {
            println!("{what}: {error:#}");
            1
        }
    }
}

/// Fuzzes for `time`; returns whether all checks passed.
///
/// # Errors
///
/// An error if the devices cannot be used, or if a process cannot be started.
pub fn run(seed: u64, time: Duration, count: u32) -> Result<bool> {
    let mut dice = Dice::new(seed);
    let end = Instant::now() + time;
    let seeds = [dice.any(), dice.any(), dice.any()];
    let leaving = dice.any();
    // The opener and its children hold it: when it is closed, all of them have ended.
    let (mut rest, held) = UnixStream::pair()?;
    // The opener is a child too: one of its own children outlives it.
    let opener = fork_child(move || {
        let _held = held;
        process("the opener", || opener(seeds, end, count))
    })?;
    let leaver = fork_child(|| process("processes that leave work", || leavers(leaving, end)))?;
    let passed = opener.wait()? == Exit::Status(0);
    let passed = leaver.wait()? == Exit::Status(0) && passed;
    let mut failures = Vec::new();
    rest.read_to_end(&mut failures)?;
    let clean = check_devices()?;
    Ok(passed && clean && failures.is_empty())
}

/// Opens the devices, starts two children, and sends requests from `count` threads.
fn opener(seeds: [u64; 3], end: Instant, count: u32) -> Result<Counts> {
    let mut scene = Scene::new()?;
    let opener = std::process::id();
    let heir = fork_child(|| {
        scene.foreign = true;
        process("a child", || threads(&scene, seeds[0], end, 1))
    })?;
    let orphan = fork_child(|| {
        // Wait until the opener has ended, and its address space with it.
        while parent_id() == opener {
            thread::sleep(Duration::from_millis(10));
        }
        scene.foreign = true;
        let end = Instant::now() + ORPHAN_TIME;
        process("an orphan", || threads(&scene, seeds[1], end, 1))
    })?;
    // A drop would kill the process.
    std::mem::forget(orphan);
    let counts = threads(&scene, seeds[2], end, count)?;
    // The heir may read through a file of this process, which sees what the check makes readable.
    ensure!(heir.wait()? == Exit::Status(0), "a child has failed");
    scene.check()?;
    Ok(counts)
}

/// Checks that the devices work; returns whether all their pages are free.
fn check_devices() -> Result<bool> {
    crate::real::frames()?;
    for node in 0..NODES {
        let device = open(node)?;
        let is_used = || {
            let room = device.room()?;
            Ok::<_, anyhow::Error>(room.filter(|room| room.free_pages != room.pages))
        };
        // An engine releases a process only a moment after the process has ended.
        let start = Instant::now();
        while is_used()?.is_some() && start.elapsed() < Duration::from_secs(10) {
            thread::sleep(Duration::from_millis(100));
        }
        if let Some(room) = is_used()? {
            println!("device {node} has pages in use: {room:?}");
            return Ok(false);
        }
    }
    Ok(true)
}
