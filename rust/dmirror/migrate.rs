// SPDX-License-Identifier: GPL-2.0

//! Migration of a range to the device and back.
//!
//! A range is processed in steps of at most a window, which one page table entry could map. A step
//! to the device reserves device pages before it takes any lock, and evicts others if necessary; so
//! eviction never runs while source folios are locked.
//!
//! Locks, in one step: the `mmap_lock` for reading, folio locks, then the update lock of the view.

use core::ops::Range;

use emu::{
    device::{DeviceOps, Emulated, Pagemap},
    fault::FaultBuffer,
    trace,
    view::View,
};
use hmm::{
    compat::EOPNOTSUPP,
    lru::drain_lru_batches,
    memremap::{Kind, HPAGE_PMD_ORDER},
    migrate::{Entry, LargeFolios, ToDevice},
    range::{PageView, Timeout},
    vma::LockedVma,
};
use kernel::{
    mm::{virt::flags, MmWithUser, MmapReadGuard},
    page::PAGE_SIZE,
    prelude::*,
    time::{delay::fsleep, Delta, Instant, Monotonic},
    uaccess::UserPtr,
};

use crate::{
    access,
    call::{resched_or_eintr, window_at, Call},
    config::{MIGRATE_PAUSE_US, RESERVE_PAUSE_US, RESERVE_TIMEOUT_MS, RESERVE_TRIES, WINDOW_PAGES},
    device::DeviceMemory,
    inject::Site,
    pageset::PageSet,
    plan::{Next, Outcome, Plan, ReserveRequest, WhenFull},
    reserve::Reservation,
};

mod to_system;

pub(crate) use to_system::{prefetch_back, to_system};

/// Moves the range to the device, and copies the result, as the device sees it, to `out`.
///
/// May sleep.
///
/// # Errors
///
/// As `rust/uapi/dmirror.h` lists them for `MIGRATE_TO_DEV`.
pub(crate) fn to_device(call: &mut Call<'_>, out: UserPtr) -> Result {
    let range = call.range();
    let mut all_there = true;
    let mut at = range.start;
    while at < range.end {
        let mut step = step_to_device(call, window_at(at, range.end));
        let to = out.wrapping_byte_add(at - range.start);
        hand_out(call, &mut step, to)?;
        if let Some(error) = step.error {
            return Err(error);
        }
        all_there &= step.there.len() == step.range.len() / PAGE_SIZE;
        at = step.range.end;
        resched_or_eintr()?;
    }
    if all_there {
        Ok(())
    } else {
        Err(ENOENT)
    }
}

/// Copies those pages of a step that are on the device to user space, as the device sees them.
/// Pages that leave the device meanwhile are skipped.
fn hand_out(call: &mut Call<'_>, step: &mut Step, out: UserPtr) -> Result {
    let start = step.range.start;
    let mut from = 0;
    while let Some(run) = step.there.run(from, step.range.len() / PAGE_SIZE) {
        let part = start + run.start * PAGE_SIZE..start + run.end * PAGE_SIZE;
        let to = out.wrapping_byte_add(part.start - start);
        let before = call.counts.cpages;
        let read = access::read_part(call, part, to, Timeout::Bounded);
        from = run.start + (call.counts.cpages - before) as usize;
        if read == Err(EFAULT) {
            step.there = on_device(
                call.view,
                call.mm,
                step.range.clone(),
                &mut call.buffers.fault,
            )?;
            if run.clone().all(|nth| step.there.contains(nth)) {
                // The pages are still on the device, so the caller's buffer is not present.
                return read;
            }
            resched_or_eintr()?;
        } else {
            read?;
        }
    }
    Ok(())
}

/// Returns the first address of a window that is in a VMA that the device may read, and that may
/// migrate.
fn first_readable(call: &Call<'_>, window: Range<usize>) -> Option<usize> {
    let mmap = call.mm.mmap_read_lock();
    window
        .step_by(PAGE_SIZE)
        .find(|&at| readable_vma(&mmap, at).is_ok_and(|vma| !vma.never_migrates()))
}

/// Moves those pages of the range that can move to the device.
///
/// May sleep.
pub(crate) fn prefetch(call: &mut Call<'_>) {
    let range = call.range();
    let mut at = range.start;
    while at < range.end {
        // Checked before anything is reserved for the window.
        let Some(readable) = first_readable(call, window_at(at, range.end)) else {
            at = window_at(at, range.end).end;
            if resched_or_eintr().is_err() {
                return;
            }
            continue;
        };
        let mut step = step_to_device(call, window_at(readable, range.end));
        // If the device may read nothing at the first page, it may be able to read the pages behind
        // that.
        at = match step.error.take() {
            Some(EINVAL) => readable + PAGE_SIZE,
            _ => step.range.end,
        };
        if resched_or_eintr().is_err() {
            return;
        }
    }
}

/// The state and the result of a step to the device.
struct Step {
    /// The range of the step; shorter than requested if the VMA ends early.
    range: Range<usize>,
    /// The pages of the range that are on the device.
    there: PageSet,
    /// The error that has stopped the step early.
    error: Option<Error>,
}

/// Moves a window, with bounded retries for pages that someone else has locked or referenced.
fn step_to_device(call: &mut Call<'_>, range: Range<usize>) -> Step {
    let mut step = Step {
        range,
        there: PageSet::EMPTY,
        error: None,
    };
    let result = try_step_to_device(call, &mut step);
    if let Err(error) = result {
        call.view.pagemap().ops().attempts().failures.note(error);
    }
    step.error = result.err();
    step
}

fn try_step_to_device(call: &mut Call<'_>, step: &mut Step) -> Result {
    let pagemap = call.view.pagemap();
    // mm does not support huge pages of coherent memory: see Documentation/known-mm-issues.md.
    let takes_large = pagemap.kind() == Kind::Private;
    let cause = call.cause;
    let mut plan = Plan::first(step.range.len() / PAGE_SIZE, takes_large);
    if cause == trace::Cause::DeviceFault {
        plan = plan.for_fault();
    }
    loop {
        let mut reservation = traced_reserve(pagemap, &plan.request)?;
        let order = if plan.keeps_large { HPAGE_PMD_ORDER } else { 0 };
        let range = step.range.clone();
        let outcome = trace::Migrate::trace(
            || traced(pagemap, &range, order, trace::Place::Device, cause),
            || pass_to_device(call, step, &plan, &mut reservation),
            |outcome| outcome.map_or_else(|error| (0, Some(error)), |it| (it.moved, None)),
        )?;
        drop(reservation);
        call.counts.moved_out += outcome.moved as u64;
        pagemap.ops().stats().went_out(cause, outcome.moved);
        let npages = step.range.len() / PAGE_SIZE;
        step.there = if outcome.moved == npages {
            // All pages have moved, so there is no need to walk.
            PageSet::first(npages)
        } else {
            on_device(
                call.view,
                call.mm,
                step.range.clone(),
                &mut call.buffers.fault,
            )?
        };
        let missing = npages - step.there.len();
        let attempts = pagemap.ops().attempts();
        let next = plan.next(&outcome, missing);
        if next != Next::Done {
            attempts.again_after(&outcome);
        }
        plan = match next {
            Next::Done => {
                if missing > 0 {
                    attempts.stayed.add(missing as u64);
                }
                return Ok(());
            }
            Next::Again(plan) => plan,
            Next::AfterPause { plan, drain } => {
                backoff(pagemap);
                if drain {
                    drain_lru_batches();
                }
                plan
            }
        };
        resched_or_eintr()?;
    }
}

/// Returns a pass as trace events describe it.
fn traced(
    pagemap: &Pagemap<DeviceMemory>,
    range: &Range<usize>,
    order: u32,
    to: trace::Place,
    cause: trace::Cause,
) -> trace::Migrate {
    trace::Migrate {
        device: pagemap.ops().number(),
        range: range.clone(),
        order,
        to,
        cause,
    }
}

/// Does the same as [`reserve`], with the trace event.
fn traced_reserve<'d>(
    pagemap: &'d Pagemap<DeviceMemory>,
    request: &ReserveRequest,
) -> Result<Reservation<'d>> {
    // For a few free pages, reading the clock would cost more than the allocation.
    let is_timed = request.when_full == WhenFull::Evict || request.block || request.pages >= 64;
    let start = is_timed.then(Instant::<Monotonic>::now);
    let reservation = reserve(pagemap, request);
    if let Some(start) = start {
        // CAST: Monotonic time does not go backwards, so the elapsed time is not negative.
        let ns = start.elapsed().as_nanos() as u64;
        pagemap.ops().attempts().reserve_ns.add(ns);
    }
    trace::Reserve::emit(|| trace::Reserve {
        device: pagemap.ops().number(),
        block: request.block,
        pages: request.pages,
        evict: request.when_full == WhenFull::Evict,
        got: reservation.as_ref().map_or(0, Reservation::npages),
        error: reservation.as_ref().err().copied(),
    });
    reservation
}

/// Reserves the pages for a pass. If there is no block, takes small pages instead. While others
/// hold reservations, which cannot be evicted, or take the pages that were evicted for this pass,
/// it waits for them without holding a reservation of its own.
fn reserve<'d>(
    pagemap: &'d Pagemap<DeviceMemory>,
    request: &ReserveRequest,
) -> Result<Reservation<'d>> {
    // Set only when there was not enough room, since mostly there is enough.
    let mut start = None;
    let mut tries = 0;
    loop {
        let mut reservation = Reservation::new(pagemap);
        let mut pages = request.pages;
        if request.block && !reservation.add_block(request.when_full)? {
            pages = WINDOW_PAGES;
        }
        match reservation.add_pages(pages, request.when_full) {
            Ok(()) => return Ok(reservation),
            Err(ENOMEM) => {}
            Err(error) => return Err(error),
        }
        let others =
            pagemap.ops().pool().reserved() > reservation.npages() || reservation.lost_a_race();
        // A round takes long if many pages were locked.
        let start = *start.get_or_insert_with(Instant::<Monotonic>::now);
        let over = tries >= RESERVE_TRIES && start.elapsed().as_millis() > RESERVE_TIMEOUT_MS;
        if !others || over {
            return Err(ENOMEM);
        }
        drop(reservation);
        if tries == 0 {
            drain_lru_batches();
        }
        tries += 1;
        pagemap.ops().attempts().reserve.add(1);
        fsleep(Delta::from_micros(RESERVE_PAUSE_US));
        resched_or_eintr()?;
    }
}

/// Performs one pass to the device.
fn pass_to_device(
    call: &mut Call<'_>,
    step: &mut Step,
    plan: &Plan,
    reservation: &mut Reservation<'_>,
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let pagemap = call.view.pagemap();
    let large = if plan.keeps_large {
        LargeFolios::Keep
    } else {
        LargeFolios::Split
    };
    let pending = call.view.pending_map(step.range.clone())?;
    let mmap = call.mm.mmap_read_lock();
    let vma = readable_vma(&mmap, step.range.start)?;
    step.range.end = step.range.end.min(vma.end());
    outcome.may_be_in_batches = vma.may_have_anonymous_pages();
    let mut migration = match pending.migrate(vma, large, &mut call.buffers.migrate) {
        // The pages of this VMA cannot move.
        Err(EOPNOTSUPP) => {
            outcome.may_be_in_batches = false;
            return Ok(outcome);
        }
        migration => migration?,
    };
    let huge_holes = !plan.small_holes && vma.flags() & flags::NOHUGEPAGE == 0;
    let mut hole_got_room = false;
    for entry in migration.entries() {
        let is_huge_hole = entry.order() > 0 && entry.is_hole();
        let huge = if is_huge_hole {
            // Untouched memory must not become a huge page if the process does not want one.
            huge_holes
        } else {
            true
        };
        if entry.order() > 0 && !entry.can_split() {
            // A huge page that may be shared moves as small pages: `remove_migration_pmd()` takes
            // the soft-dirty bit of its entry for write permission, and warns. See
            // Documentation/known-mm-issues.md.
            outcome.is_shared = true;
            continue;
        }
        let room = reservation.npages();
        set_dst(entry, huge, reservation, pagemap, &mut outcome)?;
        hole_got_room |= is_huge_hole && huge && reservation.npages() < room;
    }
    let copying = migration.copy()?;
    if let Some(error) = copying.error() {
        return Err(error);
    }
    outcome.moved = copying.commit()?.moved();
    outcome.hole_stays = hole_got_room && outcome.moved == 0;
    Ok(outcome)
}

/// Sets the destination of an entry: a block for a huge page, or small pages for each of its pages
/// if no block is available or wanted.
fn set_dst(
    entry: Entry<'_, ToDevice<'_, Emulated<DeviceMemory>>>,
    huge: bool,
    reservation: &mut Reservation<'_>,
    pagemap: &Pagemap<DeviceMemory>,
    outcome: &mut Outcome,
) -> Result {
    if pagemap.ops().injection().fails(Site::Lock) {
        return Ok(());
    }
    let refused = pagemap.hooks().fails_now();
    if entry.order() == 0 {
        if refused {
            // The next pass tries again.
            return Ok(());
        }
        return match reservation.pop_page()? {
            Some(folio) => entry.set_dst(folio),
            None => {
                outcome.lacking += 1;
                Ok(())
            }
        };
    }
    if huge && !refused {
        if let Some(folio) = reservation.pop_block() {
            return entry.set_dst(folio);
        }
    }
    if reservation.npages() < WINDOW_PAGES {
        outcome.lacks_block = true;
        return Ok(());
    }
    let mut small = entry.split()?;
    while let Some(entry) = small.next() {
        let folio = reservation.pop_page()?.ok_or(ENOMEM)?;
        entry.set_dst(folio)?;
    }
    Ok(())
}

/// Returns which pages of a window are on the device now.
pub(crate) fn on_device(
    view: &View<DeviceMemory>,
    mm: &MmWithUser,
    range: Range<usize>,
    buffer: &mut FaultBuffer,
) -> Result<PageSet> {
    let mut there = PageSet::EMPTY;
    let mut nth = 0;
    view.snapshot(mm, range, buffer.pfns(), |view| {
        if is_local(view) {
            there.insert(nth);
        }
        nth += 1;
    })?;
    Ok(there)
}

fn is_local(view: PageView) -> bool {
    matches!(view, PageView::Mapped(page) if page.place.is_local())
}

/// Returns the VMA at an address, if the device may read it.
fn readable_vma<'a>(mmap: &'a MmapReadGuard<'_>, address: usize) -> Result<LockedVma<'a>> {
    LockedVma::lookup(mmap, address)
        .filter(|vma| vma.flags() & flags::READ != 0)
        .ok_or(EINVAL)
}

/// Waits until others have finished with the pages that they have locked. The longest holder of
/// such locks is an eviction, perhaps of the very pages that are wanted.
fn backoff(pagemap: &Pagemap<DeviceMemory>) {
    pagemap.ops().wait_for_eviction();
    fsleep(Delta::from_micros(MIGRATE_PAUSE_US));
}
