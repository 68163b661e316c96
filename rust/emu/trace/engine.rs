// SPDX-License-Identifier: GPL-2.0

//! The trace events of engines, which are threads of a device that work on their own: the faults
//! that they post, how these are handled, and the engines' jobs. The driver emits these events.
//!
//! C header: `rust/helpers/dmirror_engine_events.h`.

use core::ops::Range;

use kernel::{jump_label::static_branch_unlikely, macros::paste, page::PAGE_SIZE, prelude::*};

use super::errno;
use crate::bindings;

/// The client that an engine works for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The number of the open file, as in its fdinfo.
    pub number: u64,
    /// The process that opened it, whose addresses the engine uses.
    pub pid: i32,
}

/// The reason why an engine posts a page to the fault buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Reason {
    /// It cannot read the page, or fetch a packet from it.
    Read = bindings::DMIRROR_REASON_READ,
    /// It cannot write to the page.
    Write = bindings::DMIRROR_REASON_WRITE,
    /// It cannot perform atomic operations on the page.
    Atomic = bindings::DMIRROR_REASON_ATOMIC,
    /// It has accessed the block of the page often at its current place.
    Hot = bindings::DMIRROR_REASON_HOT,
}

/// The handling of the pages that an engine has posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Decision {
    /// They are used where they are.
    Map = bindings::DMIRROR_DECISION_MAP,
    /// They are moved to the device.
    Move = bindings::DMIRROR_DECISION_MOVE,
    /// They are moved after a pause, because CPUs use them as well.
    Nap = bindings::DMIRROR_DECISION_NAP,
    /// They are used where they are for a while, because pauses did not help.
    Pin = bindings::DMIRROR_DECISION_PIN,
    /// Nothing is done: they have moved to the device together with other pages.
    Present = bindings::DMIRROR_DECISION_PRESENT,
}

/// An engine has posted a page to the fault buffer.
#[derive(Clone, Debug)]
pub struct FaultPost {
    /// The number of the device.
    pub device: u32,
    /// The number of the engine.
    pub engine: usize,
    /// The client that the engine works for.
    pub client: Client,
    /// The page number.
    pub page: usize,
    /// The reason why the page is posted.
    pub reason: Reason,
    /// True if the engine had to wait for room for this page and the following ones.
    pub overflow: bool,
}

event!(
    FaultPost,
    fault_post,
    |this| this.device,
    this.client.pid,
    // CAST: There are only a few engines.
    this.engine as u32,
    this.client.number,
    this.page * PAGE_SIZE,
    this.reason as u32,
    this.overflow,
);

/// The fault handler has taken a batch out of the fault buffer.
#[derive(Clone, Debug)]
pub struct FaultBatch {
    /// The number of the device.
    pub device: u32,
    /// Number of entries in the batch.
    pub entries: usize,
    /// Number of entries that were merged into the group of another entry.
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

/// An engine has handled a granule in which pages were posted.
#[derive(Clone, Debug)]
pub struct FaultService {
    /// The number of the device.
    pub device: u32,
    /// The number of the engine.
    pub engine: usize,
    /// The client that the engine works for.
    pub client: Client,
    /// The page numbers that the decision covers: the granule, and the pages that are handled with
    /// it.
    pub pages: Range<usize>,
    /// Number of pages of the granule.
    pub granule: usize,
    /// The decision.
    pub decision: Decision,
    /// Number of pages that moved to the device.
    pub moved: usize,
}

event!(
    FaultService,
    fault_service,
    |this| this.device,
    this.client.pid,
    // CAST: There are only a few engines.
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
    /// The client that the engine works for.
    pub client: Client,
    /// The number of the queue in its open file.
    pub queue: u32,
    /// The number of the job in its queue.
    pub seqno: u64,
}

/// An engine begins a job.
#[derive(Clone, Debug)]
pub struct JobBegin {
    /// The job.
    pub job: Job,
    /// The address of its first packet, in bytes.
    pub address: u64,
    /// Number of packets in the job.
    pub packets: u64,
}

event!(
    JobBegin,
    job_begin,
    |this| this.job.device,
    this.job.client.pid,
    // CAST: There are only a few engines.
    this.job.engine as u32,
    this.job.client.number,
    this.job.queue,
    this.job.seqno,
    this.address,
    this.packets,
);

/// An engine has finished a job.
#[derive(Clone, Debug)]
pub struct JobEnd {
    /// The job.
    pub job: Job,
    /// Number of packets that were executed completely.
    pub executed: u64,
    /// The reason why not all packets were executed.
    pub error: Option<Error>,
    /// The address to which the error belongs, in bytes; 0 without an error.
    pub address: u64,
}

event!(
    JobEnd,
    job_end,
    |this| this.job.device,
    this.job.client.pid,
    // CAST: There are only a few engines.
    this.job.engine as u32,
    this.job.client.number,
    this.job.queue,
    this.job.seqno,
    this.executed,
    errno(this.error),
    this.address,
);
