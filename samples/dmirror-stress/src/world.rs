// SPDX-License-Identifier: GPL-2.0

//! The world that a program runs in: real memory and devices, or a fake for tests of
//! the stress test itself.

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

/// The result of a step, as it is counted.
pub type Outcome = String;

/// A description of a violation, or of an error that prevents a check.
pub type Failure = String;

/// The place where a page was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// Nowhere, or in system memory.
    System,
    /// On a device; `None` if it is not known on which.
    Device(Option<usize>),
    /// In swap space.
    Swapped,
    /// In system memory behind an entry for a page that moves, or is exclusive.
    Held,
}

/// Additions to a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Add {
    /// The value that is added.
    pub value: u64,
    /// The number of additions.
    pub times: u64,
}

/// The answer of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The error, if the command failed.
    pub error: Option<Errno>,
    /// The number of pages that were done; `None` if the device returned no counts.
    pub pages: Option<u64>,
    /// The pages that it returned, an element each.
    pub view: Vec<Seen>,
    /// The byte of SNAPSHOT for each page.
    pub bytes: Vec<u8>,
}

/// A process with memory and devices. Callers name only slots and pages that exist.
pub trait World {
    /// A child process.
    type Child: Child;

    /// Maps memory, readable and writable.
    fn map(&mut self, slot: usize, kind: Kind, pages: usize) -> Result<(), Errno>;
    /// Unmaps a slot from page `at` on, which is all of it for page 0.
    fn unmap(&mut self, slot: usize, at: usize);
    /// Splits off the part from page `at` on, which is above 0, as the slot `into`.
    fn split(&mut self, slot: usize, at: usize, into: usize);
    /// Moves a slot to another address, with `pages` pages. On failure the slot is unmapped.
    fn relocate(&mut self, slot: usize, pages: usize) -> Result<(), Errno>;
    /// Moves the pages of a slot to the slot `into`.
    fn take(&mut self, slot: usize, into: usize) -> Result<(), Errno>;
    /// Reads a page with the CPU.
    fn load(&mut self, slot: usize, page: usize) -> Seen;
    /// Writes a page with the CPU.
    fn store(&mut self, slot: usize, page: usize, stamp: Stamp);
    /// Does an operation on memory that is neither a read nor a write.
    fn manage(&mut self, what: Memory, slot: usize, range: &Range<usize>) -> Result<(), Errno>;
    /// Sends a command for a range; WRITE writes the patterns of `stamps`.
    fn device(
        &mut self,
        what: Command,
        handle: usize,
        place: (usize, &Range<usize>),
        stamps: &[Stamp],
    ) -> Answer;
    /// Does an operation on a whole device.
    fn whole(&mut self, what: Whole, handle: usize) -> Answer;
    /// Makes the kernel reclaim `mib` MiB of memory.
    fn reclaim(&mut self, mib: usize) -> Result<(), Errno>;
    /// Returns the places of pages, without touching the pages.
    fn places(&mut self, slot: usize, range: &Range<usize>) -> Result<Vec<Where>, Failure>;
    /// Returns the number of used pages of a device, and of all its pages, if known.
    fn used(&mut self, handle: usize) -> Option<(u64, u64)>;
    /// Returns the sums of a device's statistics that do not agree, if it has statistics.
    fn disagreements(&mut self, handle: usize) -> Vec<String>;
    /// Returns the address of a slot.
    fn addr(&self, slot: usize) -> u64;
    /// Writes a page with the CPU, with bytes that are no pattern.
    fn fill(&mut self, slot: usize, page: usize, bytes: &[u8]);
    /// Submits packets to an engine; returns the job number. Creates the queue if there is none.
    fn submit(&mut self, queue: usize, packets: u64, npackets: u32) -> Result<u64, Errno>;
    /// Waits for a job; returns its outcome.
    fn wait(&mut self, queue: usize, job: u64) -> Result<queue::Outcome, Errno>;
    /// Destroys a queue, if there is one.
    fn destroy(&mut self, queue: usize) -> Result<(), Errno>;
    /// Resets the engines of the device that a handle is open on.
    fn reset(&mut self, handle: usize) -> Result<(), Errno>;
    /// Makes an engine add to a counter; returns the job number.
    fn count(&mut self, queue: usize, counter: usize, add: &Add) -> Result<u64, Errno>;
    /// Adds to a counter with the CPU.
    fn add(&mut self, counter: usize, add: &Add);
    /// Returns the value of a counter.
    fn counter(&mut self, counter: usize) -> u64;
    /// Forks a child with the given model.
    fn fork(&mut self, model: Model) -> Result<Self::Child, Errno>;
}

/// A child process that runs steps on request.
pub trait Child {
    /// Makes the child run a step.
    fn step(&mut self, op: &Op) -> Result<Outcome, Failure>;
    /// Makes the child check everything and exit.
    fn end(self) -> Result<(), Failure>;
}
