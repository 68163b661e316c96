// SPDX-License-Identifier: GPL-2.0

//! The trace events of engines, threads of a device that work by themselves: the faults that they
//! post, what is done about them, and their jobs. The driver fires them.
//!
//! C header: `rust/helpers/dmirror_engine_events.h`.

use core::ops::Range;

use kernel::{jump_label::static_branch_unlikely, macros::paste, page::PAGE_SIZE, prelude::*};

use super::errno;
use crate::bindings;

/// For whom an engine works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The number of the open file, as its fdinfo has it.
    pub number: u64,
    /// The process that opened it, whose addresses the engine uses.
    pub pid: i32,
}

/// Why an engine posts a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Reason {
    /// It cannot read it, or fetch a packet from it.
    Read = bindings::DMIRROR_REASON_READ,
    /// It cannot write to it.
    Write = bindings::DMIRROR_REASON_WRITE,
    /// It cannot make atomic operations on it.
    Atomic = bindings::DMIRROR_REASON_ATOMIC,
    /// It has used the block that the page is in often enough where that is.
    Hot = bindings::DMIRROR_REASON_HOT,
}

/// What is done about pages that an engine has posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Decision {
    /// They are used where they are.
    Map = bindings::DMIRROR_DECISION_MAP,
    /// They are moved to the device.
    Move = bindings::DMIRROR_DECISION_MOVE,
    /// They are moved after a nap, because CPUs want them as well.
    Nap = bindings::DMIRROR_DECISION_NAP,
    /// They are used where they are for a while, because naps did not help.
    Pin = bindings::DMIRROR_DECISION_PIN,
    /// Nothing: they have come to the device with others.
    Present = bindings::DMIRROR_DECISION_PRESENT,
}

/// An engine has posted a page to the fault buffer.
#[derive(Clone, Debug)]
pub struct FaultPost {
    /// The number of the device.
    pub device: u32,
    /// The number of the engine.
    pub engine: usize,
    /// For whom it works.
    pub client: Client,
    /// The number of the page.
    pub page: usize,
    /// Why it is posted.
    pub reason: Reason,
    /// Whether the engine has waited for room for it, and for those that come after it.
    pub overflow: bool,
}

event!(
    FaultPost,
    fault_post,
    |this| this.device,
    this.client.pid,
    // CAST: An engine is one of a few.
    this.engine as u32,
    this.client.number,
    this.page * PAGE_SIZE,
    this.reason as u32,
    this.overflow,
);

/// The handler has taken a batch out of the fault buffer.
#[derive(Clone, Debug)]
pub struct FaultBatch {
    /// The number of the device.
    pub device: u32,
    /// Entries of it.
    pub entries: usize,
    /// Those of them that went to the group of another one.
    pub merged: usize,
}

event!(
    FaultBatch,
    fault_batch,
    |this| this.device,
    this.entries,
    this.entries.saturating_sub(this.merged),
    this.merged,
);

/// An engine has seen to a granule in which pages were posted.
#[derive(Clone, Debug)]
pub struct FaultService {
    /// The number of the device.
    pub device: u32,
    /// The number of the engine.
    pub engine: usize,
    /// For whom it works.
    pub client: Client,
    /// The pages, by number, that the decision is about: the granule, and what goes with it.
    pub pages: Range<usize>,
    /// Pages of the granule.
    pub granule: usize,
    /// What was decided.
    pub decision: Decision,
    /// Pages that moved to the device.
    pub moved: usize,
}

event!(
    FaultService,
    fault_service,
    |this| this.device,
    this.client.pid,
    // CAST: An engine is one of a few.
    this.engine as u32,
    this.client.number,
    this.pages.start * PAGE_SIZE,
    this.pages.len(),
    this.granule,
    this.decision as u32,
    this.moved,
);

/// A job of a queue.
#[derive(Clone, Debug)]
pub struct Job {
    /// The number of the device.
    pub device: u32,
    /// The number of the engine.
    pub engine: usize,
    /// For whom it works.
    pub client: Client,
    /// The number of the queue in the open file.
    pub queue: u32,
    /// The number of the job in the queue.
    pub seqno: u64,
}

/// An engine begins with a job.
#[derive(Clone, Debug)]
pub struct JobBegin {
    /// Which one.
    pub job: Job,
    /// The address of its first packet, in bytes.
    pub address: u64,
    /// How many it executes.
    pub packets: u64,
}

event!(
    JobBegin,
    job_begin,
    |this| this.job.device,
    this.job.client.pid,
    // CAST: An engine is one of a few.
    this.job.engine as u32,
    this.job.client.number,
    this.job.queue,
    this.job.seqno,
    this.address,
    this.packets,
);

/// An engine is through with a job.
#[derive(Clone, Debug)]
pub struct JobEnd {
    /// Which one.
    pub job: Job,
    /// Packets that were executed whole.
    pub executed: u64,
    /// Why not all.
    pub error: Option<Error>,
    /// The address that an error is about, in bytes; else 0.
    pub address: u64,
}

event!(
    JobEnd,
    job_end,
    |this| this.job.device,
    this.job.client.pid,
    // CAST: An engine is one of a few.
    this.job.engine as u32,
    this.job.client.number,
    this.job.queue,
    this.job.seqno,
    this.executed,
    errno(this.error),
    this.address,
);
