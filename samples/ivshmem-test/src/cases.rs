// SPDX-License-Identifier: GPL-2.0

//! The cases. Each leaves the device bound and empty.

mod gone;
mod pages;

use std::fs;
use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use dmirror_client::Child;
use dmirror_client::Errno;
use dmirror_client::Exit;
use dmirror_client::Region;
use dmirror_client::Survey;
use dmirror_client::fork_child;

use crate::ask;
use crate::device;
use crate::device::Device;
use crate::device::Outcome;
use crate::pattern;

/// The number of pages that a case moves, if the number does not matter.
const PAGES: usize = 64;

/// The time limit for background work of the system, and for a sign of another process.
const PATIENCE: Duration = Duration::from_secs(60);

/// A behaviour, and the function that checks it.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: fn() -> Result<()>,
}

/// Lists functions of the calling file as its `CASES`.
macro_rules! cases {
    ($($name:ident,)*) => {
        pub(super) const CASES: &[super::Case] = &[
            $(super::Case { name: stringify!($name), run: $name },)*
        ];
    };
}
use cases;

/// Returns all cases, in the order in which they run.
pub(crate) fn all() -> impl Iterator<Item = &'static Case> {
    pages::CASES.iter().chain(gone::CASES)
}

fn me() -> u64 {
    process::id().into()
}

fn all_moved(pages: usize) -> Outcome {
    Outcome {
        result: Ok(()),
        moved: pages as u64,
    }
}

fn failed(errno: Errno, moved: usize) -> Outcome {
    Outcome {
        result: Err(errno),
        moved: moved as u64,
    }
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, seen: T, expected: T) -> Result<()> {
    ensure!(seen == expected, "{what}: {seen:?}, not {expected:?}");
    Ok(())
}

/// Maps memory in small pages, and fills it with the pattern of this process.
fn filled(pages: usize) -> Result<Region> {
    let region = Region::options(pages).huge(false).map()?;
    pattern::fill(&region, me());
    Ok(region)
}

/// Does the same, and moves the memory to the device.
fn moved(device: &Device, pages: usize) -> Result<Region> {
    let region = filled(pages)?;
    equal("to the device", device.to_device(&region), all_moved(pages))?;
    on_device(&region, pages)?;
    Ok(region)
}

/// Checks the number of pages of a region that the kernel reports on the device.
fn on_device(region: &Region, pages: usize) -> Result<()> {
    let survey = Survey::of(region.range())?;
    equal("pages on a device", survey.on_device(), pages)?;
    let names: Vec<&str> = survey.devices().map(|device| &*device.name).collect();
    let expected: &[&str] = if pages == 0 { &[] } else { &["hmm_ivshmem"] };
    equal("devices", &names[..], expected)
}

/// Makes the host check that nothing is on the device.
fn empty() -> Result<()> {
    ask::host("used 0").map(drop)
}

/// Waits until `is_true` returns true; fails after `PATIENCE`.
fn wait_for(what: &str, is_true: impl Fn() -> bool) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !is_true() {
        ensure!(Instant::now() < end, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Forks a child that runs `body` with a line to this process.
fn child(body: impl FnOnce(&mut Line) -> Result<()>) -> Result<(Child, Line)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(PATIENCE))?;
    let child = fork_child(|| match body(&mut Line(theirs)) {
        Ok(()) => 0,
        Err(error) => {
            println!("# child {}: {error:#}", me());
            1
        }
    })?;
    Ok((child, Line(ours)))
}

/// A line between parent and child: each says that it is the other's turn.
struct Line(UnixStream);

impl Line {
    fn your_turn(&mut self) -> Result<()> {
        self.0.write_all(&[0]).context("the other process has gone")
    }

    fn my_turn(&mut self) -> Result<()> {
        self.0
            .read_exact(&mut [0])
            .context("the other process says nothing")
    }
}

fn ended_well(child: Child) -> Result<()> {
    equal("the child", child.wait()?, Exit::Status(0))
}

fn the_bound_device() -> Result<PathBuf> {
    let mut bound = device::bound()?;
    equal("bound devices", bound.len(), 1)?;
    fs::canonicalize(bound.remove(0)).context("the bound device")
}
