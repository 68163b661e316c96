// SPDX-License-Identifier: GPL-2.0

//! The fault buffer of a device.
//!
//! ```text
//!  engine                 buffer                       handler
//!    post() ---------------> entries -----------------> takes a batch, sorts it, and merges what
//!    wait()  stalls                                     is in one granule to a group
//!    <---------------------- group, for one of its engines
//!    does what policy says, done() ---> the other engines of the group go on as well
//! ```
//!
//! The handler decides, and never waits for memory. The work for a group is done by an engine that
//! is stalled for it, which can be interrupted. So a fault that nobody handles stops no other
//! engine, except one that needs the same granule of the same process, and only for as long as
//! moving the granule takes. Pages that only user space can provide are faulted in by each engine
//! itself, after it continues.
//!
//! Locks: that of the buffer, for bookkeeping only.

use core::ops::Range;

pub(crate) use emu::trace::engine::Reason;
use emu::{
    kthread::{clear_interrupt, Kthread, KthreadBody},
    trace::engine::{Client, FaultBatch, FaultPost},
};
use hmm::counter::Counter;
use kernel::{
    fmt, new_condvar, new_mutex,
    prelude::*,
    str::CString,
    sync::{Arc, CondVar, Mutex},
};

use crate::{params::MAX_ENGINES, policy::MAX_FAULTS};

/// Maximum number of faults that one engine posts at once: the number of its accesses in flight.
pub(crate) const LANES: usize = 16;

/// A page that an engine misses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Miss {
    /// The client whose address space contains the page.
    pub(crate) client: Client,
    /// The page number.
    pub(crate) page: usize,
    pub(crate) reason: Reason,
}

/// The reasons for which the engines of a group have posted its pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reasons(u8);

impl Reasons {
    fn add(&mut self, reason: Reason) {
        self.0 |= 1 << reason as u8;
    }

    /// Returns whether `is_it` is true for any of the reasons.
    pub(crate) fn any(self, is_it: impl Fn(Reason) -> bool) -> bool {
        [Reason::Read, Reason::Write, Reason::Atomic, Reason::Hot]
            .into_iter()
            .any(|reason| self.0 & (1 << reason as u8) != 0 && is_it(reason))
    }
}

#[derive(Clone, Copy)]
struct Entry {
    miss: Miss,
    engine: usize,
}

/// Faults in one granule, for one engine to handle.
#[derive(Clone)]
pub(crate) struct Group {
    /// The pages from the first missed one to the last one, within one granule.
    pub(crate) pages: Range<usize>,
    pub(crate) reasons: Reasons,
    client: u64,
    /// The engines that wait for the group, one bit for each.
    engines: u32,
}

/// The entries and groups that an engine is waiting for.
#[derive(Default)]
struct Stalled {
    /// Number of its entries that the handler has not processed yet.
    posted: usize,
    /// Number of its groups that are not done yet.
    groups: usize,
    /// The groups that it has to handle itself; there is room for one per lane.
    to_do: KVec<Group>,
}

struct Buffer {
    entries: KVec<Entry>,
    stalled: KVec<Stalled>,
    /// The limits given with the last entry.
    limits: FaultLimits,
    is_stopped: bool,
}

/// Limits of the handler, from the settings.
#[derive(Clone, Copy)]
pub(crate) struct FaultLimits {
    /// Number of pages of a granule, a power of two.
    pub(crate) granule: usize,
    /// Maximum number of entries per batch, at least 1.
    pub(crate) batch: usize,
    /// Maximum number of waiting entries, at least 1.
    pub(crate) room: usize,
}

/// Statistics of a fault buffer.
#[derive(Default)]
pub(crate) struct FaultStats {
    /// Number of entries.
    pub(crate) posted: Counter,
    /// Number of posts, of up to [`LANES`] entries each, for which there was not room at once.
    pub(crate) overflows: Counter,
    /// Number of batches.
    pub(crate) batches: Counter,
    /// Number of entries that were merged with another one.
    pub(crate) merged: Counter,
    /// Number of entries that were withdrawn because their job was cancelled.
    pub(crate) cancelled: Counter,
}

/// The fault buffer of a device.
#[pin_data]
pub(crate) struct FaultBuffer {
    /// The number of the device.
    device: u32,
    #[pin]
    buffer: Mutex<Buffer>,
    /// Signalled when something was posted, decided or done, or when there is room.
    #[pin]
    changed: CondVar,
    /// Started with the first queue of the device.
    #[pin]
    handler: Mutex<Option<Kthread<Handler>>>,
    stats: FaultStats,
}

impl FaultBuffer {
    /// Creates a fault buffer for `engines` engines of the device with number `device`.
    pub(crate) fn new(device: u32, engines: usize) -> Result<Arc<Self>> {
        let mut stalled = KVec::with_capacity(engines, GFP_KERNEL)?;
        for _ in 0..engines.min(MAX_ENGINES) {
            let to_do = KVec::with_capacity(LANES, GFP_KERNEL)?;
            stalled.push(
                Stalled {
                    to_do,
                    ..Stalled::default()
                },
                GFP_KERNEL,
            )?;
        }
        let buffer = Buffer {
            entries: KVec::with_capacity(MAX_FAULTS as usize, GFP_KERNEL)?,
            stalled,
            limits: FaultLimits {
                granule: 1,
                batch: 1,
                room: 1,
            },
            is_stopped: false,
        };
        let this = pin_init!(Self {
            device,
            buffer <- new_mutex!(buffer, "FaultBuffer::buffer"),
            changed <- new_condvar!("FaultBuffer::changed"),
            handler <- new_mutex!(None, "FaultBuffer::handler"),
            stats: FaultStats::default(),
        });
        Arc::pin_init(this, GFP_KERNEL)
    }

    pub(crate) fn stats(&self) -> &FaultStats {
        &self.stats
    }

    /// Starts the handler, with the thread name `name`, if it does not run yet.
    ///
    /// May sleep.
    pub(crate) fn start(self: &Arc<Self>, name: fmt::Arguments<'_>) -> Result {
        let mut handler = self.handler.lock();
        // `stop` sets the flag before it takes the thread.
        if handler.is_none() && !self.buffer.lock().is_stopped {
            let body = Handler {
                faults: self.clone(),
                batch: KVec::with_capacity(MAX_FAULTS as usize, GFP_KERNEL)?,
            };
            *handler = Some(Kthread::new(&CString::try_from_fmt(name)?, body)?);
        }
        Ok(())
    }

    /// Stops the handler. No engine may be running any more.
    pub(crate) fn stop(&self) {
        self.buffer.lock().is_stopped = true;
        self.changed.notify_all();
        let handler = self.handler.lock().take();
        if let Some(handler) = &handler {
            handler.interrupt();
        }
        drop(handler);
    }

    /// Posts the pages that an engine misses, at most [`LANES`]. Waits for room, and until the
    /// handler has processed all of them. Calls `see_to` for each group that this engine has to
    /// handle, and waits for the other groups.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// The error of `check`, which is called when the thread is interrupted; then the posted
    /// entries are withdrawn.
    pub(crate) fn serve<E>(
        &self,
        engine: usize,
        misses: &[Miss],
        limits: FaultLimits,
        mut check: impl FnMut() -> Result<(), E>,
        mut see_to: impl FnMut(&Group),
    ) -> Result<(), E> {
        let mut result = self.post(engine, misses, limits, &mut check);
        loop {
            let mut buffer = self.buffer.lock();
            let Some(stalled) = buffer.stalled.get_mut(engine) else {
                return result;
            };
            if let Some(group) = stalled.to_do.pop() {
                drop(buffer);
                if result.is_ok() {
                    see_to(&group);
                }
                self.done(&group);
                continue;
            }
            if result.is_err() && stalled.posted > 0 {
                self.stats.cancelled.add(stalled.posted as u64);
                stalled.posted = 0;
                buffer.entries.retain(|entry| entry.engine != engine);
                drop(buffer);
                // There is room now, and the handler may have nothing left to report.
                self.changed.notify_all();
                continue;
            }
            if stalled.posted == 0 && stalled.groups == 0 {
                return result;
            }
            if result.is_err() {
                // Another engine handles the group, which takes no longer than moving pages.
                self.changed.wait(&mut buffer);
            } else if self.changed.wait_interruptible(&mut buffer) {
                drop(buffer);
                clear_interrupt();
                result = check();
            }
        }
    }

    fn post<E>(
        &self,
        engine: usize,
        misses: &[Miss],
        limits: FaultLimits,
        check: &mut impl FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        let room = limits.room.clamp(1, MAX_FAULTS as usize);
        let mut misses = misses.iter().take(LANES).peekable();
        let mut is_first = true;
        let mut has_waited = false;
        let mut buffer = self.buffer.lock();
        buffer.limits = limits;
        while misses.peek().is_some() {
            while buffer.entries.len() < room {
                let Some(&miss) = misses.next() else {
                    break;
                };
                if let Some(stalled) = buffer.stalled.get_mut(engine) {
                    stalled.posted += 1;
                    self.stats.posted.add(1);
                    // There is room: the limit does not exceed the capacity.
                    let _ = buffer.entries.push_within_capacity(Entry { miss, engine });
                    FaultPost::emit(|| FaultPost {
                        device: self.device,
                        engine,
                        client: miss.client,
                        page: miss.page,
                        reason: miss.reason,
                        overflow: core::mem::take(&mut has_waited),
                    });
                }
            }
            self.changed.notify_all();
            if misses.peek().is_none() {
                break;
            }
            if core::mem::take(&mut is_first) {
                self.stats.overflows.add(1);
                has_waited = true;
            }
            if self.changed.wait_interruptible(&mut buffer) {
                drop(buffer);
                clear_interrupt();
                check()?;
                buffer = self.buffer.lock();
            }
        }
        Ok(())
    }

    /// Lets the engines of a group continue.
    fn done(&self, group: &Group) {
        let mut buffer = self.buffer.lock();
        for (engine, stalled) in buffer.stalled.iter_mut().enumerate() {
            if group.engines & (1 << engine) != 0 {
                stalled.groups -= 1;
            }
        }
        drop(buffer);
        self.changed.notify_all();
    }
}

impl Buffer {
    /// Removes a batch of entries, in the order of processes and pages.
    fn take_batch(&mut self, most: usize, batch: &mut KVec<Entry>) {
        batch.clear();
        let count = self.entries.len().min(most.max(1));
        for entry in self.entries.iter().take(count) {
            // The capacity suffices for the largest batch.
            let _ = batch.push_within_capacity(*entry);
        }
        let mut at = 0;
        self.entries.retain(|_| {
            at += 1;
            at > count
        });
        sort(batch);
    }

    /// Merges a sorted batch into groups, and gives each group to the engine of its first entry.
    /// Returns the number of entries that were merged with another one.
    fn decide(&mut self, batch: &[Entry], granule: usize) -> usize {
        let mut merged = 0;
        let same = |one: &Entry, other: &Entry| {
            one.miss.client.number == other.miss.client.number
                && one.miss.page / granule == other.miss.page / granule
        };
        for run in batch.chunk_by(same) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else {
                continue;
            };
            merged += run.len() - 1;
            let mut group = Group {
                pages: first.miss.page..last.miss.page + 1,
                reasons: Reasons::default(),
                client: first.miss.client.number,
                engines: 0,
            };
            for entry in run {
                group.reasons.add(entry.miss.reason);
                if let Some(stalled) = self.stalled.get_mut(entry.engine) {
                    stalled.posted = stalled.posted.saturating_sub(1);
                    if group.engines & (1 << entry.engine) == 0 {
                        group.engines |= 1 << entry.engine;
                        stalled.groups += 1;
                    }
                }
            }
            if let Some(leader) = self.stalled.get_mut(first.engine) {
                // There is room: an engine has no more groups than lanes.
                let _ = leader.to_do.push_within_capacity(group);
            }
        }
        merged
    }
}

/// Sorts a batch by process and page. It has few entries, and those of one engine are already in
/// order.
fn sort(batch: &mut [Entry]) {
    let key = |entry: &Entry| (entry.miss.client.number, entry.miss.page);
    for end in 1..batch.len() {
        let mut at = end;
        while at > 0 && key(&batch[at - 1]) > key(&batch[at]) {
            batch.swap(at - 1, at);
            at -= 1;
        }
    }
}

impl Group {
    /// Returns the number of the client whose address space contains the pages.
    pub(crate) fn client(&self) -> u64 {
        self.client
    }
}

/// The handler's thread.
struct Handler {
    faults: Arc<FaultBuffer>,
    /// Room for a batch.
    batch: KVec<Entry>,
}

impl KthreadBody for Handler {
    fn run(mut self) {
        let faults = &self.faults;
        loop {
            let mut buffer = faults.buffer.lock();
            while buffer.entries.is_empty() {
                if buffer.is_stopped {
                    return;
                }
                if faults.changed.wait_interruptible(&mut buffer) {
                    clear_interrupt();
                }
            }
            let limits = buffer.limits;
            buffer.take_batch(limits.batch, &mut self.batch);
            let merged = buffer.decide(&self.batch, limits.granule.max(1));
            // Emit this before an engine handles the batch, so that its waiters find it counted.
            FaultBatch::emit(|| FaultBatch {
                device: faults.device,
                entries: self.batch.len(),
                merged,
            });
            faults.stats.batches.add(1);
            faults.stats.merged.add(merged as u64);
            drop(buffer);
            faults.changed.notify_all();
        }
    }
}
