// SPDX-License-Identifier: GPL-2.0

//! Migration of a range to the device and back.
//!
//! A range is worked through in steps of at most a window. Before a step to the device takes any
//! lock it reserves device pages, evicting others if it must; so eviction never runs while source
//! folios are locked.
//!
//! Locks, for one step: `mmap_lock` for reading, then folio locks.

use hmm::DevPagemap;
use hmm::LockedVma;
use hmm::Migration;
use hmm::Select;
use hmm::Source;
use hmm::Window;
use kernel::mm::virt::flags::READ as VM_READ;
use kernel::mm::MmWithUser;
use kernel::page::PAGE_SHIFT;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::time::delay::fsleep;
use kernel::time::Delta;
use kernel::uaccess::UserPtr;
use kernel::uaccess::UserSlice;

use crate::config::MIGRATE_PAUSE_US;
use crate::config::MIGRATE_TRIES;
use crate::config::WINDOW_PAGES;
use crate::device::DeviceMemory;
use crate::file::Buffers;
use crate::file::Counts;
use crate::pool::Reservation;
use crate::pool::WhenFull;
use crate::request::UserRange;

/// The pages of a step, one bit each.
type PageSet = u64;

const _: () = assert!(WINDOW_PAGES <= PageSet::BITS as usize);

/// Moves a range to the device, and copies what the device then sees of it to `out`.
///
/// May sleep.
///
/// # Errors
///
/// As `rust/uapi/dmirror.h` lists them for `MIGRATE_TO_DEV`.
pub(crate) fn to_device(
    pagemap: &DevPagemap<DeviceMemory>,
    mm: &MmWithUser,
    range: UserRange,
    out: UserPtr,
    buffers: &mut Buffers,
    counts: &mut Counts,
) -> Result {
    let mut all_seen = true;
    let mut done = 0;
    while done < range.npages() {
        let start = range.start() + done * PAGE_SIZE;
        let wanted = (range.npages() - done).min(WINDOW_PAGES);
        let step = step_to_device(pagemap, mm, start, wanted, buffers);
        for nth in (0..step.npages).filter(|nth| step.seen >> nth & 1 != 0) {
            let page = &buffers.bounce[nth * PAGE_SIZE..(nth + 1) * PAGE_SIZE];
            let to = out.wrapping_byte_add((done + nth) * PAGE_SIZE);
            UserSlice::new(to, PAGE_SIZE).writer().write_slice(page)?;
            counts.cpages += 1;
        }
        if let Some(error) = step.error {
            return Err(error);
        }
        all_seen &= step.seen.count_ones() as usize == step.npages;
        done += step.npages;
        pause_for_others()?;
    }
    if all_seen {
        Ok(())
    } else {
        Err(ENOENT)
    }
}

/// What a step to the device has come to.
struct Step {
    /// Its length; less than was asked for when the VMA ends.
    npages: usize,
    /// The pages that the device sees; their content is in the bounce buffer.
    seen: PageSet,
    /// Why it did not go on.
    error: Option<Error>,
}

/// Moves up to `npages` pages from address `start` on, with bounded retries for pages that are
/// locked or referenced by somebody else.
fn step_to_device(
    pagemap: &DevPagemap<DeviceMemory>,
    mm: &MmWithUser,
    start: usize,
    npages: usize,
    buffers: &mut Buffers,
) -> Step {
    let mut step = Step {
        npages,
        seen: 0,
        error: None,
    };
    let mut lacking = npages;
    let mut when_full = WhenFull::TakeWhatIsFree;
    for attempt in 0..MIGRATE_TRIES {
        let mut reservation = match Reservation::new(pagemap, lacking, when_full) {
            Ok(reservation) => reservation,
            Err(error) => {
                step.error = Some(error);
                break;
            }
        };
        let pass = match pass_to_device(pagemap, mm, start, npages, &mut reservation, buffers) {
            Ok(pass) => pass,
            Err(error) => {
                step.error = Some(error);
                break;
            }
        };
        step.npages = pass.npages;
        step.seen = pass.seen;
        if pass.seen.count_ones() as usize == pass.npages {
            break;
        }
        // Only pages that can move are worth evicting others for.
        if pass.lacking > 0 {
            when_full = WhenFull::Evict;
            lacking = pass.lacking;
        } else if attempt + 1 < MIGRATE_TRIES {
            when_full = WhenFull::TakeWhatIsFree;
            lacking = npages;
            let_others_finish(pagemap);
        }
        if let Err(error) = pause_for_others() {
            step.error = Some(error);
            break;
        }
    }
    step
}

/// What one pass over the pages of a step has come to.
struct Pass {
    npages: usize,
    seen: PageSet,
    /// Pages that could move, had there been room for them.
    lacking: usize,
}

fn pass_to_device<'d>(
    pagemap: &'d DevPagemap<DeviceMemory>,
    mm: &MmWithUser,
    start: usize,
    npages: usize,
    reservation: &mut Reservation<'d>,
    buffers: &mut Buffers,
) -> Result<Pass> {
    let mmap = mm.mmap_read_lock();
    let vma = readable_vma(&mmap, start)?;
    let npages = npages.min((vma.end() - start) >> PAGE_SHIFT);
    let range = start..start + npages * PAGE_SIZE;
    let window = &mut buffers.window;
    let mut migration = Migration::to_device(vma, range, Select::SystemAndDevice, pagemap, window)?;
    let mut resident: PageSet = 0;
    let mut lacking = 0;
    for slot in migration.slots() {
        let nth = slot.nth();
        let page = &mut buffers.bounce[nth * PAGE_SIZE..(nth + 1) * PAGE_SIZE];
        let source = slot.source();
        if let Source::Device(source) = &source {
            source.read(page)?;
            resident |= 1 << nth;
            continue;
        }
        let Some(folio) = reservation.pop() else {
            lacking += 1;
            continue;
        };
        let mut folio = folio.init();
        match &source {
            Source::System(source) => folio.fill_from(source)?,
            _ => folio.fill_zero()?,
        }
        folio.read(0, page)?;
        slot.give(folio)?;
    }
    let migration = migration.commit();
    let moved = (0..npages).filter(|&nth| migration.has_moved(nth));
    Ok(Pass {
        npages,
        seen: moved.fold(resident, |seen, nth| seen | 1 << nth),
        lacking,
    })
}

/// Moves those pages of a range that are on the device to system memory.
///
/// May sleep.
///
/// # Errors
///
/// As `rust/uapi/dmirror.h` lists them for `MIGRATE_TO_SYS`.
pub(crate) fn to_system(
    pagemap: &DevPagemap<DeviceMemory>,
    mm: &MmWithUser,
    range: UserRange,
    window: &mut Window,
    counts: &mut Counts,
) -> Result {
    let mut done = 0;
    while done < range.npages() {
        let start = range.start() + done * PAGE_SIZE;
        let wanted = (range.npages() - done).min(WINDOW_PAGES);
        done += step_to_system(pagemap, mm, start, wanted, window, counts)?;
        pause_for_others()?;
    }
    Ok(())
}

/// Moves those of up to `npages` pages that are on the device; returns the length of the step.
///
/// A pass does not see pages that are locked or referenced by somebody else. So it goes on, within
/// bounds, until all pages have come, or a pass found nothing after a pause.
fn step_to_system(
    pagemap: &DevPagemap<DeviceMemory>,
    mm: &MmWithUser,
    start: usize,
    npages: usize,
    window: &mut Window,
    counts: &mut Counts,
) -> Result<usize> {
    let mut came = 0;
    let mut length = npages;
    for attempt in 0..MIGRATE_TRIES {
        let pass = pass_to_system(pagemap, mm, start, npages, window)?;
        length = pass.npages;
        came += pass.moved;
        counts.cpages += pass.moved as u64;
        if let Some(error) = pass.error {
            return Err(error);
        }
        if came >= length || (attempt > 0 && pass.moved == 0) {
            break;
        }
        let_others_finish(pagemap);
        pause_for_others()?;
    }
    Ok(length)
}

/// What one pass towards system memory has come to.
struct PassBack {
    npages: usize,
    moved: usize,
    error: Option<Error>,
}

fn pass_to_system(
    pagemap: &DevPagemap<DeviceMemory>,
    mm: &MmWithUser,
    start: usize,
    npages: usize,
    window: &mut Window,
) -> Result<PassBack> {
    let mmap = mm.mmap_read_lock();
    let vma = readable_vma(&mmap, start)?;
    let npages = npages.min((vma.end() - start) >> PAGE_SHIFT);
    let range = start..start + npages * PAGE_SIZE;
    let mut migration = Migration::to_system(vma, range, pagemap, window)?;
    let mut error = None;
    for slot in migration.slots() {
        if let Err(failure) = slot.fill_system() {
            error = Some(failure);
        }
    }
    let moved = migration.commit().moved();
    Ok(PassBack {
        npages,
        moved,
        error,
    })
}

/// The VMA at an address that the device may read.
fn readable_vma<'a>(
    mmap: &'a kernel::mm::MmapReadGuard<'_>,
    address: usize,
) -> Result<LockedVma<'a>> {
    LockedVma::lookup(mmap, address)
        .filter(|vma| vma.flags() & VM_READ != 0)
        .ok_or(EINVAL)
}

/// Between passes: lets others finish with pages that they have locked. Who holds them for longest
/// is an eviction, perhaps of the very pages that are wanted.
fn let_others_finish(pagemap: &DevPagemap<DeviceMemory>) {
    pagemap.wait_for_eviction();
    fsleep(Delta::from_micros(MIGRATE_PAUSE_US));
}

/// Between steps: lets others run, and stops when the task was killed.
fn pause_for_others() -> Result {
    hmm::cond_resched();
    if hmm::fatal_signal_pending() {
        return Err(EINTR);
    }
    Ok(())
}
