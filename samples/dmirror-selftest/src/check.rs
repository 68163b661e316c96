// SPDX-License-Identifier: GPL-2.0

//! The checks of the cases. Each failure names the expected and the actual value.

use std::fmt::Debug;
use std::time::{Duration, Instant};
use std::{env, io, thread};

use anyhow::{Result, bail, ensure};
use dmirror_client::{CallError, Counts, Device, Errno, Module, PageRange, Place, Room, Survey};
use thiserror::Error;

/// The error of a case that cannot run here, with the reason.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct Skip(pub String);

/// The error of a case that would show, or has shown, a known defect of the kernel.
#[derive(Debug, Error)]
#[error("the kernel's own defect: {0}")]
pub struct Known(pub &'static str);

/// Ends the case as one that shows a known defect; see Documentation/known-mm-issues.md.
pub fn known<T>(defect: &'static str) -> Result<T> {
    Err(Known(defect).into())
}

/// Ends the case as one that cannot run here.
pub fn skip<T>(reason: impl Into<String>) -> Result<T> {
    Err(Skip(reason.into()).into())
}

/// Skips the case for `reason` if a system call failed with `errno`; returns any other answer.
pub fn skip_on<T>(errno: Errno, reason: &str, answer: io::Result<T>) -> Result<T> {
    match answer {
        Err(error) if error.raw_os_error() == Some(errno as i32) => skip(reason),
        answer => Ok(answer?),
    }
}

/// Skips the case if the loaded module is another one with the same ABI: the kernel's test_hmm may
/// lack `what`.
pub fn needs_ours(what: &str) -> Result<()> {
    match Module::loaded() {
        Some(module) if !module.is_ours() => skip(format!("{what}: {} has none", module.name())),
        _ => Ok(()),
    }
}

/// Returns whether cases look for known kernel defects that end the run or spoil it.
pub fn looks_for_known() -> bool {
    env::var_os("DMIRROR_KNOWN").is_some_and(|value| value == "1")
}

/// Counts rounds for 5 s, or for `DMIRROR_SECONDS` seconds if that is set, but at least `least`.
pub fn rounds(least: usize) -> impl Iterator<Item = usize> {
    let seconds = env::var("DMIRROR_SECONDS").ok();
    let seconds = seconds.and_then(|seconds| seconds.parse().ok());
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(5));
    (0..).take_while(move |&round| round < least || Instant::now() < end)
}

/// Counts rounds for a case that leaves the loop after a rare event: at least `least` rounds, and
/// more only within the first minute.
pub fn tries(least: usize) -> impl Iterator<Item = usize> {
    let end = Instant::now() + Duration::from_secs(60);
    (0..).take_while(move |&round| round < least || Instant::now() < end)
}

/// Runs `body` with each of some values, until one fails.
pub fn for_all<T>(
    values: impl IntoIterator<Item = T>,
    body: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    values.into_iter().try_for_each(body)
}

/// Checks that two things are equal.
pub fn equal<T: PartialEq + Debug>(what: &str, seen: T, expected: T) -> Result<()> {
    if seen != expected {
        bail!("{what}: expected {expected:?}, seen {seen:?}");
    }
    Ok(())
}

/// Checks that something takes less than `bound`.
pub fn in_time<T>(what: &str, bound: Duration, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let result = body()?;
    let took = start.elapsed();
    ensure!(took < bound, "{what} took {took:?}");
    Ok(result)
}

/// Checks that bytes are zeros.
pub fn zeros(what: &str, bytes: &[u8]) -> Result<()> {
    match bytes.iter().position(|byte| *byte != 0) {
        None => Ok(()),
        Some(at) => bail!("{what}: expected zeros, byte {at:#x} is {:#04x}", bytes[at]),
    }
}

/// Checks that a command failed with `errno`, and that the kernel handed back
/// counts; returns them.
pub fn fails_counted(
    what: &str,
    answer: Result<Counts, CallError>,
    errno: Errno,
) -> Result<Counts> {
    match answer {
        Ok(counts) => bail!("{what}: expected {errno:?}, seen success with {counts:?}"),
        Err(error) if error.errno != errno => {
            bail!("{what}: expected {errno:?}, seen {:?}", error.errno)
        }
        Err(error) => match error.counts {
            Some(counts) => Ok(counts),
            None => {
                needs_ours("counts of a command that failed")?;
                bail!(
                    "{what}: failed with {errno:?} as expected, but the kernel handed back no counts"
                )
            }
        },
    }
}

/// Checks that a command failed with `errno`, and that it counts no page.
pub fn fails_at_once(what: &str, answer: Result<Counts, CallError>, errno: Errno) -> Result<()> {
    let counts = fails_counted(what, answer, errno)?;
    equal("pages counted", counts.pages, 0)
}

/// Checks that a command failed with `errno`.
pub fn fails(what: &str, answer: Result<Counts, CallError>, errno: Errno) -> Result<()> {
    match answer {
        Ok(counts) => bail!("{what}: expected {errno:?}, seen success with {counts:?}"),
        Err(error) => equal(what, error.errno, errno),
    }
}

/// Accepts that a command failed with one of `errnos`; returns other errors.
pub fn unless(answer: Result<Counts, CallError>, errnos: &[Errno]) -> Result<()> {
    match answer {
        Err(error) if errnos.contains(&error.errno) => Ok(()),
        answer => Ok(answer.map(drop)?),
    }
}

/// Accepts the errors that the header allows while someone else holds a page.
pub fn unless_held(answer: Result<Counts, CallError>) -> Result<()> {
    unless(answer, &[Errno::ENOENT, Errno::EBUSY])
}

/// The free memory of a device before a case, for a comparison afterwards.
#[derive(Debug)]
pub struct Before(Option<Room>);

impl Before {
    /// Reads the free memory of a device.
    pub fn of(device: &Device) -> Result<Self> {
        Ok(Self(device.room()?))
    }

    /// Checks that no page stayed on the device. A process that ends frees its pages a moment
    /// later, when the last user of its memory is gone. So there may also be more room than before.
    pub fn nothing_is_left(&self, device: &Device) -> Result<()> {
        let has_room = |now: Option<Room>| match (now, self.0) {
            (Some(now), Some(before)) => {
                now.free_pages >= before.free_pages && now.free_blocks >= before.free_blocks
            }
            (now, before) => now == before,
        };
        for _ in 0..900 {
            if has_room(device.room()?) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        equal("room on the device afterwards", device.room()?, self.0)
    }
}

/// The expected place of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// In a device's memory.
    Device,
    /// In system memory.
    System,
    /// Not populated.
    Nowhere,
    /// In swap space.
    Swap,
}

impl Where {
    fn holds(self, place: Place) -> bool {
        match self {
            Self::Device => matches!(place, Place::Device { .. } | Place::Hidden),
            Self::System => matches!(place, Place::System { .. }),
            Self::Nowhere => place == Place::Absent,
            Self::Swap => place == Place::Swapped,
        }
    }
}

/// Checks that the kernel reports all pages of `range` at `place`.
pub fn all_at(what: &str, range: PageRange, place: Where) -> Result<()> {
    at(what, &Survey::of(range)?, place)
}

/// Like [`all_at`], for pages that have been looked up.
pub fn at(what: &str, survey: &Survey, place: Where) -> Result<()> {
    let places = survey.places();
    let wrong: Vec<usize> = (0..places.len())
        .filter(|&page| !place.holds(places[page]))
        .collect();
    match wrong.first() {
        None => Ok(()),
        Some(&first) => bail!(
            "{what}: expected all {} pages at {place:?}, seen {} elsewhere; page {first} is {:x?}",
            places.len(),
            wrong.len(),
            places[first],
        ),
    }
}

/// Checks that SNAPSHOT returns `expected` for all pages of `range`.
pub fn snapshot_is(what: &str, device: &Device, range: PageRange, expected: u8) -> Result<()> {
    let bytes = device.snapshot(range)?;
    match bytes.iter().position(|byte| *byte != expected) {
        None => Ok(()),
        Some(page) => bail!(
            "{what}: expected {expected:#04x} for all {} pages, seen {:#04x} for page {page}",
            bytes.len(),
            bytes[page],
        ),
    }
}

/// Checks that the device reads zeros from all pages of `range`.
pub fn reads_zero(device: &Device, range: PageRange) -> Result<()> {
    let mut view = vec![0xa5; range.bytes() as usize];
    let counts = device.read(range, &mut view)?;
    equal("pages read", counts.pages, range.pages())?;
    ensure!(
        view.iter().all(|byte| *byte == 0),
        "the device read something else than zeros"
    );
    Ok(())
}
