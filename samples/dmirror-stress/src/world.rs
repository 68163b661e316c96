// SPDX-License-Identifier: GPL-2.0

//! What a program runs on: real memory and devices, or a fake for tests of the
//! stress test itself.

use std::ops::Range;

use dmirror_client::Errno;
use dmirror_client::queue;

use crate::content::Seen;
use crate::content::Stamp;
use crate::model::Model;
use crate::op::Command;
use crate::op::Kind;
use crate::op::Memory;
use crate::op::Op;
use crate::op::Whole;

/// What a step has come to, as it is counted.
pub type Outcome = String;

/// Something that must not be, in words.
pub type Failure = String;

/// Where a page was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// Nowhere, or in system memory.
    System,
    /// On a device; `None` if it is not known on which.
    Device(Option<usize>),
    /// In swap space.
    Swapped,
    /// Behind an entry that says it moves, or is exclusive.
    Held,
}

/// Additions to a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Add {
    /// What is added.
    pub value: u64,
    /// How often.
    pub times: u64,
}

/// What a device answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Why it failed, if it did.
    pub error: Option<Errno>,
    /// The count of pages; `None` if none came back.
    pub pages: Option<u64>,
    /// What it handed out, a page each.
    pub view: Vec<Seen>,
    /// What it said of each page.
    pub bytes: Vec<u8>,
}

/// A process with memory and devices. Slots and pages are there when they are named.
pub trait World {
    /// A child process.
    type Child: Child;

    /// Maps memory, readable and writable.
    fn map(&mut self, slot: usize, kind: Kind, pages: usize) -> Result<(), Errno>;
    /// Unmaps a slot from a page on; all of it from page 0 on.
    fn unmap(&mut self, slot: usize, at: usize);
    /// Makes the part from page `at` on, which is above 0, the slot `into`.
    fn split(&mut self, slot: usize, at: usize, into: usize);
    /// Moves a slot to where it has `pages` pages. On failure it is unmapped.
    fn relocate(&mut self, slot: usize, pages: usize) -> Result<(), Errno>;
    /// Moves the pages of a slot to the slot `into`.
    fn take(&mut self, slot: usize, into: usize) -> Result<(), Errno>;
    /// A processor reads a page.
    fn load(&mut self, slot: usize, page: usize) -> Seen;
    /// A processor writes a page.
    fn store(&mut self, slot: usize, page: usize, stamp: Stamp);
    /// Anything but reading and writing.
    fn manage(&mut self, what: Memory, slot: usize, range: &Range<usize>) -> Result<(), Errno>;
    /// A command for a range; `stamps` is what WRITE writes.
    fn device(
        &mut self,
        what: Command,
        handle: usize,
        place: (usize, &Range<usize>),
        stamps: &[Stamp],
    ) -> Answer;
    /// What concerns a whole device.
    fn whole(&mut self, what: Whole, handle: usize) -> Answer;
    /// Has the kernel reclaim memory.
    fn reclaim(&mut self, mib: usize) -> Result<(), Errno>;
    /// Where pages are, without touching them.
    fn places(&mut self, slot: usize, range: &Range<usize>) -> Result<Vec<Where>, Failure>;
    /// How many pages of a device are not free, and how many it has.
    fn used(&mut self, handle: usize) -> Option<(u64, u64)>;
    /// Which sums of a device's statistics do not agree, if it has any.
    fn disagreements(&mut self, handle: usize) -> Vec<String>;
    /// The address of a slot.
    fn addr(&self, slot: usize) -> u64;
    /// A processor writes a page that is no pattern.
    fn fill(&mut self, slot: usize, page: usize, bytes: &[u8]);
    /// Has an engine execute packets; the number of the job. Makes the queue if there is none.
    fn submit(&mut self, queue: usize, packets: u64, npackets: u32) -> Result<u64, Errno>;
    /// Waits for a job.
    fn wait(&mut self, queue: usize, job: u64) -> Result<queue::Outcome, Errno>;
    /// Ends a queue, if there is one.
    fn destroy(&mut self, queue: usize) -> Result<(), Errno>;
    /// Resets the engines of the device that a handle is open on.
    fn reset(&mut self, handle: usize) -> Result<(), Errno>;
    /// Has an engine add to a counter; the number of the job.
    fn count(&mut self, queue: usize, counter: usize, add: &Add) -> Result<u64, Errno>;
    /// A processor adds to a counter.
    fn add(&mut self, counter: usize, add: &Add);
    /// What a counter holds.
    fn counter(&mut self, counter: usize) -> u64;
    /// Starts a child, whose model is given.
    fn fork(&mut self, model: Model) -> Result<Self::Child, Errno>;
}

/// A child process that does what it is told.
pub trait Child {
    /// Has it do a step.
    fn step(&mut self, op: &Op) -> Result<Outcome, Failure>;
    /// Has it check everything and end.
    fn end(self) -> Result<(), Failure>;
}
