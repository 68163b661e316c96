// SPDX-License-Identifier: GPL-2.0

//! Cases as tables of steps. Each step names an actor and its operation on some memory.
//!
//! # Examples
//!
//! ```text
//! other_reads_resident = "One open file reads the pages that another one moved to the device."
//!     => steps(small, [
//!         (A, Out(ALL)), (B, Reads(ALL)), (A, Reads(ALL)), (Cpu, Finds(ALL, Where::Device)),
//!         (Cpu, Reads(ALL)),
//!     ]),
//! ```

use std::ops::{Range, RangeInclusive};

use dmirror_client::Command;

use crate::exclusive::{free, held, take};
use crate::prelude::*;
use Verb::*;
use Who::*;

/// The number of pages of [`small`].
pub const PAGES: usize = 40;

/// The range of fault counts for no fault.
pub const NONE: RangeInclusive<u64> = 0..=0;

/// All pages of some memory.
pub const ALL: Range<usize> = 0..usize::MAX;

/// Half of the pages of [`small`].
pub const HALF: Range<usize> = 0..PAGES / 2;

/// Creates [`PAGES`] small pages, and fills them.
pub fn small() -> Result<Memory> {
    Memory::new(PAGES)
}

/// The actor of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The CPU, or the program.
    Cpu,
    /// The device under test, through an open file.
    A,
    /// The device under test, through another open file.
    B,
    /// The second device.
    Second,
    /// A device with coherent memory, through an open file.
    C,
    /// The same device with coherent memory, through another open file.
    D,
    /// Another device with coherent memory.
    E,
}

/// The operation of a step on pages of the memory, with the expected result.
#[derive(Clone, Debug)]
pub enum Verb {
    /// Reads the data of the last write, and no other data.
    Reads(Range<usize>),
    /// Reads the data of the last write, with the given number of faults.
    ReadsIn(RangeInclusive<u64>, Range<usize>),
    /// Reads zeros.
    ReadsZeros(Range<usize>),
    /// Writes other data to all pages.
    Writes,
    /// Writes other data to all pages, with the given number of faults.
    WritesIn(RangeInclusive<u64>),
    /// Writes pages, with the data of the last write.
    Fills(Range<usize>),
    /// Moves pages to itself.
    Out(Range<usize>),
    /// Moves pages back, and expects that the given number of them moves.
    Back(Range<usize>, usize),
    /// Makes pages exclusive.
    Takes(Range<usize>),
    /// Has exclusive access to each of these pages.
    Holds(Range<usize>),
    /// Has exclusive access to at least one of these pages.
    HoldsSome(Range<usize>),
    /// Has exclusive access to none of these pages.
    HoldsNone(Range<usize>),
    /// Shows each of these pages as the given byte in a snapshot.
    Shows(Range<usize>, u8),
    /// Fails with the given errno to apply the command to any page.
    Fails(Command, Errno),
    /// Has at least as much room as at the start.
    HasRoom,
    /// Finds pages at a place.
    Finds(Range<usize>, Where),
    /// Finds all pages in huge pages.
    FindsHuge,
    /// Changes the protection of pages.
    Protects(Range<usize>, Protection),
    /// Gives the kernel advice about pages.
    Advises(Range<usize>, Advice),
    /// Runs a function.
    Does(fn(&Device, &Memory) -> Result<()>),
    /// Closes the file. It is opened again for the next step.
    Closes,
    /// Runs these steps the given number of times.
    Times(usize, Vec<(Who, Verb)>),
}

/// Returns a case that consists of steps with some memory.
pub fn steps<const N: usize>(
    memory: fn() -> Result<Memory>,
    steps: [(Who, Verb); N],
) -> impl Fn(&Context) -> Result<()> {
    steps_with(move |_| memory(), steps)
}

/// Like [`steps`], with memory that depends on the open file [`A`].
pub fn steps_with<const N: usize>(
    memory: impl Fn(&Device) -> Result<Memory>,
    steps: [(Who, Verb); N],
) -> impl Fn(&Context) -> Result<()> {
    move |context| {
        let mut play = Play {
            context,
            devices: Vec::new(),
            round: 1,
        };
        play.open(&steps)?;
        let a = play.devices.iter().find(|(who, ..)| *who == A);
        let (_, device, _) = a.or(play.devices.first()).context("a device")?;
        let memory = memory(device)?;
        play.go(&memory, &steps)
    }
}

/// A running case of [`steps`].
struct Play<'a> {
    context: &'a Context,
    devices: Vec<(Who, Device, Before)>,
    round: u16,
}

impl Play<'_> {
    /// Opens the devices of steps that are not open yet.
    fn open(&mut self, steps: &[(Who, Verb)]) -> Result<()> {
        for (who, verb) in steps {
            if let Times(_, steps) = verb {
                self.open(steps)?;
            }
            if self.devices.iter().any(|(other, ..)| other == who) {
                continue;
            }
            let device = match who {
                Cpu => continue,
                A | B => self.context.open()?,
                Second => self.context.open_second()?,
                C | D => self.context.open_coherent(0)?,
                E => self.context.open_coherent(1)?,
            };
            let before = Before::of(&device)?;
            self.devices.push((*who, device, before));
        }
        Ok(())
    }

    fn go(&mut self, memory: &Memory, steps: &[(Who, Verb)]) -> Result<()> {
        for step in steps {
            let (who, verb) = step;
            match verb {
                Times(times, steps) => {
                    (0..*times).try_for_each(|_| self.go(memory, steps))?;
                }
                Closes => self.devices.retain(|(other, ..)| other != who),
                verb => {
                    self.open(std::slice::from_ref(step))?;
                    self.round += u16::from(matches!(verb, Writes | WritesIn(_)));
                    let answer = self.step(memory, *who, verb.clone());
                    answer.with_context(|| format!("{step:?}"))?;
                }
            }
        }
        Ok(())
    }

    fn step(&self, memory: &Memory, who: Who, verb: Verb) -> Result<()> {
        let (region, end) = (&memory.region, memory.region.pages());
        let part = |pages: Range<usize>| pages.start..pages.end.min(end);
        let device = self.devices.iter().find(|(other, ..)| *other == who);
        let Some((_, device, before)) = device else {
            match verb {
                Reads(pages) => memory.verify(part(pages))?,
                ReadsZeros(pages) => memory.is_zero(part(pages))?,
                Writes => memory.refill(self.round),
                Fills(pages) => memory.fill(part(pages)),
                Finds(pages, place) => memory.expect("these pages", part(pages), place)?,
                FindsHuge => memory.is_huge()?,
                Protects(pages, protection) => region.protect(part(pages), protection)?,
                Advises(pages, advice) => region.advise(part(pages), advice)?,
                verb => bail!("no CPU does {verb:?}"),
            }
            return Ok(());
        };
        match verb {
            Reads(pages) => memory.device_reads(device, part(pages)).map(drop),
            ReadsIn(faults, pages) => within(memory.device_reads(device, part(pages))?, &faults),
            ReadsZeros(pages) => reads_zero(device, region.part(part(pages))),
            Writes => memory.device_refills(device, self.round).map(drop),
            WritesIn(faults) => within(memory.device_refills(device, self.round)?, &faults),
            Fills(pages) => memory.device_fills(device, part(pages)).map(drop),
            Out(pages) => memory.move_out(device, part(pages)),
            Back(pages, come) => memory.move_back(device, part(pages), come),
            Takes(pages) => take(device, memory, part(pages)),
            Holds(pages) => held(device, memory, part(pages)),
            HoldsSome(pages) => {
                let some = device.is_exclusive(region.part(part(pages)))?;
                equal("whether some page is exclusive", some, true)
            }
            HoldsNone(pages) => free(device, memory, part(pages)),
            Shows(pages, byte) => snapshot_is("entry", device, region.part(part(pages)), byte),
            Fails(command, errno) => memory.refuses(device, command, errno),
            Does(deed) => deed(device, memory),
            HasRoom => before.nothing_is_left(device),
            verb => bail!("no device does {verb:?}"),
        }
    }
}

fn within(seen: u64, faults: &RangeInclusive<u64>) -> Result<()> {
    ensure!(
        faults.contains(&seen),
        "expected {faults:?} faults, seen {seen}"
    );
    Ok(())
}

/// Returns a case that runs another case several times.
pub fn again(
    times: usize,
    case: impl Fn(&Context) -> Result<()>,
) -> impl Fn(&Context) -> Result<()> {
    move |context| (0..times).try_for_each(|_| case(context))
}
