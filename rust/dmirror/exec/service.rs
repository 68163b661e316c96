// SPDX-License-Identifier: GPL-2.0

//! Handling of the pages that an engine misses, according to the policy of its device; and the
//! packets that move pages.
//!
//! Nothing here faults a page in: missing pages are left to the access itself. So this takes no
//! longer than moving pages.

use core::ops::Range;

use emu::{
    device::DeviceOps,
    kthread::clear_interrupt,
    memcg::charge_to,
    sched::fatal_signal_pending,
    trace::{
        engine::{Decision, FaultService},
        Cause,
    },
    view::{Access, ViewGuard},
};
use hmm::{memremap::HPAGE_PMD_NR, vma::task_size};
use kernel::{
    mm::MmWithUser,
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
    time::{delay::fsleep, Delta},
};

use super::{
    memory::put,
    neighbours::{movable_bounds, with_dense_rest},
    Execution, Stop,
};
use crate::{
    attributes::{Atomics, Attributes, Location, Reach},
    call::{window_at, Buffers, Call, Counts},
    client::Client,
    device::DeviceMemory,
    faults::{FaultLimits, Group, Miss, Reason, LANES},
    migrate,
    packet::{Side, WORD},
    pages::BLOCK_PAGES,
    policy::{self, Setting, MAX_NAP_US, MAX_PIN_MS, MAX_TIMESLICE_US},
    queue::AccessKind,
    request::UserRange,
    thrash::{Limits, Verdict},
};

impl From<AccessKind> for Reason {
    fn from(kind: AccessKind) -> Self {
        match kind {
            AccessKind::None | AccessKind::Fetch | AccessKind::Read => Self::Read,
            AccessKind::Write => Self::Write,
            AccessKind::Atomic => Self::Atomic,
        }
    }
}

/// The pages that an engine misses.
struct Misses {
    misses: [Miss; LANES],
    count: usize,
}

impl Misses {
    fn new(client: &Client, reason: Reason) -> Self {
        let none = Miss {
            client: client.traced(),
            page: 0,
            reason,
        };
        Self {
            misses: [none; LANES],
            count: 0,
        }
    }

    fn is_full(&self) -> bool {
        self.count == LANES
    }

    fn as_slice(&self) -> &[Miss] {
        self.misses.get(..self.count).unwrap_or(&[])
    }

    /// Adds the page at an address, if the device cannot access it yet and it has not been added
    /// before.
    fn add(&mut self, guard: &ViewGuard<'_, DeviceMemory>, address: u64, is_write: bool) {
        let Ok(address) = usize::try_from(address) else {
            return;
        };
        let can = |access| !is_write || access != Access::Read;
        let page = address >> PAGE_SHIFT;
        let is_known = self.as_slice().iter().any(|miss| miss.page == page);
        let is_mapped = guard.page(address).is_some_and(|page| can(page.access()));
        if is_known || is_mapped {
            return;
        }
        self.push(page);
    }

    /// Adds a page number, if there is room.
    fn push(&mut self, page: usize) {
        if let Some(miss) = self.misses.get_mut(self.count) {
            miss.page = page;
            self.count += 1;
        }
    }
}

impl Execution<'_> {
    /// Posts the page that an access misses at `at`, and the next pages of `range`, to the fault
    /// buffer; stalls until the policy has been applied to them.
    pub(super) fn service(
        &mut self,
        range: &Range<u64>,
        at: u64,
        reason: Reason,
    ) -> Result<(), Stop> {
        let mut misses = Misses::new(self.client, reason);
        let is_write = matches!(reason, Reason::Write);
        let guard = self.client.view().lock();
        if let (Reason::Atomic, Ok(at)) = (reason, usize::try_from(at)) {
            // The mapping of the page does not matter here.
            misses.push(at >> PAGE_SHIFT);
        }
        misses.add(&guard, at, is_write);
        if range.end - range.start > WORD {
            let page = PAGE_SIZE as u64;
            let mut next = (at & !(page - 1)).saturating_add(page);
            while next < range.end && !misses.is_full() {
                misses.add(&guard, next, is_write);
                next = next.saturating_add(page);
            }
        } else if let Some(mut next) = self.draws {
            for _ in 0..next.left.min(LANES as u64) {
                let draw = next.draws.next();
                let at = next.src + draw.word(next.nwords) * WORD;
                misses.add(&guard, at, next.writes && draw.is_write());
            }
        }
        drop(guard);
        self.serve(&misses)
    }

    /// Moves a block that the device has accessed in place often enough.
    pub(super) fn notice_hot_block(&mut self) -> Result<(), Stop> {
        let Some(page) = self.client.hits.take_hot() else {
            return Ok(());
        };
        let mut misses = Misses::new(self.client, Reason::Hot);
        misses.push(page);
        self.client
            .device()
            .pagemap()
            .ops()
            .service()
            .hot_blocks
            .add(1);
        self.serve(&misses)
    }

    fn serve(&mut self, misses: &Misses) -> Result<(), Stop> {
        let (queue, job, client) = (self.queue, self.job, self.client);
        let memory = client.device().pagemap().ops();
        let granule = memory.setting(Setting::Granule).min(1 << 30) as usize / PAGE_SIZE;
        let limits = FaultLimits {
            granule: 1 << granule.clamp(1, HPAGE_PMD_NR).ilog2(),
            batch: memory.setting(Setting::FaultBatch).max(1) as usize,
            room: memory.setting(Setting::FaultBuffer).max(1) as usize,
        };
        let buffers = &mut *self.buffers;
        let may_go_on = || queue.check(job).is_ok();
        let engine = queue.engine();
        client.device().faults().serve(
            engine,
            misses.as_slice(),
            limits,
            || queue.check(job).map_err(Stop::Packet),
            |group| see_to(client, engine, buffers, group, may_go_on),
        )?;
        clear_interrupt();
        // Checked after the interrupt was cleared, so that no interrupt is lost.
        self.check()
    }

    pub(super) fn prefetch(&mut self, range: Range<u64>, to: Side) -> Result<(), Stop> {
        // Pages that are not there cannot move; that is no error.
        let Some(users) = self.client.users() else {
            return Ok(());
        };
        let end = range.end.min(task_size(&users) as u64);
        let mut at = range.start;
        let mut result = self.check();
        while at < end && result.is_ok() {
            let (attributes, same) = self.client.attributes_at(at as usize);
            let window = window_at(at as usize, same.end.min(end as usize));
            let next = window.end as u64;
            if attributes.reach == Reach::Denied {
                at = next;
                result = self.check();
                continue;
            }
            move_pages(
                self.client,
                self.buffers,
                &users,
                window,
                to,
                Cause::Request,
            );
            // An interrupted step is repeated, if the check allows it.
            if fatal_signal_pending() {
                clear_interrupt();
            } else {
                at = next;
            }
            result = self.check();
        }
        put(users);
        result
    }
}

/// Moves those pages of a window that can move, and returns the number that moved to the device.
fn move_pages(
    client: &Client,
    buffers: &mut Buffers,
    users: &MmWithUser,
    window: Range<usize>,
    to: Side,
    cause: Cause,
) -> u64 {
    let npages = (window.len() / PAGE_SIZE) as u64;
    let mut counts = Counts::default();
    if let Ok(user_range) = UserRange::new(window.start as u64, npages, PAGE_SHIFT as u32) {
        let mut call = Call {
            view: client.view(),
            mm: users,
            user_range,
            buffers,
            counts: &mut counts,
            cause,
        };
        charge_to(users, || match to {
            Side::Device => migrate::prefetch(&mut call),
            Side::System => migrate::prefetch_back(&mut call),
        });
    }
    client.stats.add(&counts);
    counts.moved_out
}

/// The result of handling a granule.
struct Service {
    /// The page numbers of the granule.
    granule: Range<usize>,
    /// The page numbers of the granule and of the pages that are handled with it.
    pages: Range<usize>,
    decision: Decision,
    /// Number of pages that moved to the device.
    moved: u64,
}

impl Service {
    /// Returns a service in which nothing moved.
    fn nothing(granule: Range<usize>, decision: Decision) -> Self {
        Self {
            pages: granule.clone(),
            granule,
            decision,
            moved: 0,
        }
    }
}

/// Applies the policy to a group of faults, as long as the engine's job may continue.
fn see_to(
    client: &Client,
    engine: usize,
    buffers: &mut Buffers,
    group: &Group,
    may_go_on: impl Fn() -> bool,
) {
    if group.client() != client.number() {
        return;
    }
    let Some(users) = client.users() else {
        return;
    };
    let mut page = group.pages.start;
    while page < group.pages.end && may_go_on() {
        let service = see_to_granule(client, buffers, &users, page, group);
        page = service.granule.end.max(page + 1);
        FaultService::emit(|| FaultService {
            device: client.device().pagemap().ops().number(),
            engine,
            client: client.traced(),
            pages: service.pages,
            granule: service.granule.len(),
            decision: service.decision,
            moved: service.moved as usize,
        });
    }
    put(users);
}

/// Applies the policy to the granule of a page of a group; `page` is a page number.
fn see_to_granule(
    client: &Client,
    buffers: &mut Buffers,
    users: &MmWithUser,
    page: usize,
    group: &Group,
) -> Service {
    let reasons = group.reasons;
    let memory = client.device().pagemap().ops();
    let (advice, same) = client.attributes_at(page << PAGE_SHIFT);
    if !reasons.any(|reason| moves(memory, &advice, reason)) {
        // The access itself maps the missed page where it is, and the following pages that have the
        // same advice.
        let end = group.pages.end.min(same.end >> PAGE_SHIFT).max(page + 1);
        return Service::nothing(page..end, Decision::Map);
    }
    let Some(bounds) = movable_bounds(users, page, &same) else {
        return Service::nothing(page..page + 1, Decision::Map);
    };
    let is_hot = reasons.any(|reason| reason == Reason::Hot);
    let part = match is_hot {
        true => {
            let block = page & !(HPAGE_PMD_NR - 1);
            block.max(bounds.start)..(block + HPAGE_PMD_NR).min(bounds.end)
        }
        false => {
            let most = match advice.granule {
                0 => memory.setting(Setting::Granule),
                advised => advised,
            };
            let order = policy::granule_order(page, &bounds, most, PAGE_SIZE);
            let start = page & !((1 << order) - 1);
            start..start + (1 << order)
        }
    };
    if !is_hot && is_on_device(client, page..page + 1) {
        // The page has moved together with another one.
        return Service::nothing(page..page + 1, Decision::Present);
    }
    let now = memory.now_ns();
    let limits = thrash_limits(memory);
    // Outside of the match, which would hold the lock until its end.
    let verdict = client.thrashing.lock().missed(part.start, now, &limits);
    let decision = match verdict {
        Verdict::Move => Decision::Move,
        Verdict::Nap => {
            memory.service().naps.add(1);
            let nap = memory.setting(Setting::ThrashNap).min(MAX_NAP_US);
            if !fatal_signal_pending() {
                fsleep(Delta::from_micros(nap.into()));
            }
            Decision::Nap
        }
        Verdict::Pin => {
            memory.service().pins.add(1);
            return Service::nothing(part, Decision::Pin);
        }
    };
    // Only the hot block moves.
    let whole = if is_hot {
        part.clone()
    } else {
        with_dense_rest(client, buffers, users, part.clone(), &bounds)
    };
    memory.service().granules.add(1);
    memory
        .service()
        .prefetched
        .add((whole.len() - part.len()) as u64);
    let bytes = whole.start << PAGE_SHIFT..whole.end << PAGE_SHIFT;
    let moved = move_pages(
        client,
        buffers,
        users,
        bytes.clone(),
        Side::Device,
        Cause::DeviceFault,
    );
    // Moving some pages of a range unmaps the others from the device, wherever they are. Map them
    // again now; pages that are not present now are faulted in when they are accessed.
    let view = client.view();
    let _ = charge_to(users, || view.map_present(users, bytes, &mut buffers.fault));
    grant_timeslice(client, &part);
    Service {
        granule: part,
        pages: whole,
        decision,
        moved,
    }
}

/// Returns whether the device maps all of the pages (page numbers) in its own memory.
fn is_on_device(client: &Client, mut pages: Range<usize>) -> bool {
    let guard = client.view().lock();
    pages.all(|page| {
        let page = guard.page(page << PAGE_SHIFT);
        page.is_some_and(|page| page.device_index().is_some())
    })
}

/// Returns whether pages are to move to the device; their advice takes precedence over the policy.
pub(super) fn moves(memory: &DeviceMemory, advice: &Attributes, reason: Reason) -> bool {
    let is_elsewhere = matches!(advice.location, Location::System | Location::Peer(_));
    match (reason, advice.reach) {
        (_, Reach::Denied) => false,
        (Reason::Atomic, _) => match advice.atomics {
            Atomics::Device => true,
            Atomics::System | Atomics::Denied => false,
            Atomics::Any => memory.setting(Setting::AtomicsMigrate) != 0 && !is_elsewhere,
        },
        (_, Reach::InPlace) => false,
        // The device cannot access other devices, so their memory counts as system memory.
        _ if is_elsewhere => false,
        (_, Reach::Migrate) | (Reason::Hot, Reach::Any) => true,
        (Reason::Read | Reason::Write, Reach::Any) => {
            advice.location == Location::Device || memory.setting(Setting::Migrate) != 0
        }
    }
}

/// Grants a time slice to pages that have moved: CPUs get them only after it.
fn grant_timeslice(client: &Client, part: &Range<usize>) {
    let pagemap = client.device().pagemap();
    let memory = pagemap.ops();
    let slice = memory.setting(Setting::Timeslice).min(MAX_TIMESLICE_US);
    if slice == 0 {
        return;
    }
    let now = memory.now_ns();
    let until = client
        .slices
        .lock()
        .grant(part.start, now, u64::from(slice) * 1000);
    let guard = client.view().lock();
    let mut last = None;
    for page in part.clone() {
        let mapped = guard.page(page << PAGE_SHIFT);
        let block = mapped
            .and_then(|page| page.device_index())
            .map(|index| index / BLOCK_PAGES);
        if let Some(block) = block.filter(|_| block != last) {
            memory.keep_until(block, until);
            last = Some(block);
        }
    }
}

fn thrash_limits(memory: &DeviceMemory) -> Limits {
    Limits {
        events: memory.setting(Setting::ThrashEvents),
        window_ns: u64::from(memory.setting(Setting::ThrashWindow)) * 1000,
        naps: memory.setting(Setting::ThrashNaps),
        pin_ns: u64::from(memory.setting(Setting::ThrashPin).min(MAX_PIN_MS)) * 1_000_000,
    }
}
