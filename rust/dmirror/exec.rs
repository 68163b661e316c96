// SPDX-License-Identifier: GPL-2.0

//! An engine executes packets, through the page table of its device.
//!
//! Memory is accessed under the update lock, up to [`BOUNCE_PAGES`] pages at a time; what is not
//! mapped is faulted in without it. Nothing is locked between two accesses, so that pages may go
//! wherever they like meanwhile, and whoever cancels the job is heard.

use core::ops::Range;

use emu::{
    kthread::clear_interrupt,
    sched::cond_resched,
    view::{Access, ViewGuard, ViewPages, Word},
};
use hmm::{memremap::Kind, range::Timeout, vma::task_size};
use kernel::{
    mm::MmWithUser,
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
    sync::aref::ARef,
    time::{delay::fsleep, Delta, Instant, Monotonic},
};

use crate::{
    alloc::BLOCK_PAGES,
    call::{window_at, Buffers, Call, Counts},
    client::Client,
    config::BOUNCE_PAGES,
    device::DeviceMemory,
    migrate,
    packet::{self, AtomicOp, Draws, Packet, Side, PACKET_BYTES, WORD},
    queue::{AccessKind, Failure, Job, Outcome, Queue},
    request::UserRange,
};

/// How long an engine that does nothing sleeps at most before it looks whether it is to go on.
const SPIN_STEP_NS: u64 = 1_000_000;

/// Pages that a device has mapped.
type Pages<'g> = ViewPages<'g, DeviceMemory>;

/// Executes a job.
///
/// May sleep, for as long as user space wants where a fault is answered there, or until the thread
/// is interrupted.
pub(crate) fn run(queue: &Queue, job: &Job, buffers: &mut Buffers) -> Outcome {
    let client = queue.client();
    let mut execution = Execution {
        queue,
        job,
        client,
        buffers,
    };
    let mut at = job.packets;
    let mut executed = 0;
    while executed < job.npackets {
        match execution.packet(at) {
            Ok(next) => at = next,
            Err(stop) => {
                return Outcome {
                    executed,
                    failure: Some(stop.failure(at)),
                }
            }
        }
        executed += 1;
        cond_resched();
    }
    Outcome {
        executed,
        failure: None,
    }
}

/// Why a packet is not executed any further.
enum Stop {
    /// Not because of memory.
    Packet(Error),
    /// An address cannot be accessed.
    Access {
        error: Error,
        access: AccessKind,
        address: u64,
    },
}

impl Stop {
    /// Returns what the job ends with; `packet` is the address of the packet.
    fn failure(self, packet: u64) -> Failure {
        match self {
            Self::Packet(error) => Failure {
                error,
                access: AccessKind::None,
                address: packet,
            },
            Self::Access {
                error,
                access,
                address,
            } => Failure {
                error,
                access,
                address,
            },
        }
    }
}

/// A part of a page that is accessed.
#[derive(Clone, Copy)]
struct Part {
    /// Where it begins in the page, in bytes.
    offset: usize,
    /// How many bytes of the whole access lie before it.
    before: u64,
    /// Bytes.
    len: usize,
}

struct Execution<'e> {
    queue: &'e Queue,
    job: &'e Job,
    client: &'e Client,
    buffers: &'e mut Buffers,
}

impl Execution<'_> {
    /// Fails if the job is not to go on.
    fn check(&self) -> Result<(), Stop> {
        self.queue.check(self.job).map_err(Stop::Packet)
    }

    /// Executes the packet at an address, and returns that of the next.
    fn packet(&mut self, at: u64) -> Result<u64, Stop> {
        self.check()?;
        let mut bytes = [0; PACKET_BYTES];
        let next = at.checked_add(PACKET_BYTES as u64).ok_or(Stop::Access {
            error: EFAULT,
            access: AccessKind::Fetch,
            address: at,
        })?;
        self.on_pages(at..next, AccessKind::Fetch, |page, part, _| {
            page.read(part.offset, &mut bytes[..part.len])
        })?;
        let raw = zerocopy::transmute!(bytes);
        let packet = Packet::decode(&raw, PAGE_SIZE as u64).map_err(|_| Stop::Packet(EINVAL))?;
        match packet {
            Packet::Fill { dst, value } => self.fill(dst, value)?,
            Packet::Copy { dst, src, len } => self.copy(dst, src, len)?,
            Packet::Sum { src, dst } => self.sum(src, dst)?,
            Packet::Chase {
                first,
                offset,
                times,
                dst,
            } => self.chase(first, offset, times, dst)?,
            Packet::Random {
                src,
                nwords,
                times,
                seed,
                writes,
                dst,
            } => {
                let mut draws = Draws::new(seed);
                let mut sum = 0_u64;
                for _ in 0..times {
                    let draw = draws.next();
                    let at = src + draw.word(nwords) * WORD;
                    if writes && draw.is_write() {
                        self.on_pages(at..at + WORD, AccessKind::Write, |page, part, _| {
                            let word = page.read_word(part.offset)?;
                            page.write_word(part.offset, draw.change(word))
                        })?;
                    } else {
                        sum = sum.rotate_left(1) ^ self.read_word(at)?;
                    }
                }
                self.write_word(dst, sum)?;
            }
            Packet::Atomic { at, op, times, dst } => {
                let found = self.atomic(at, op, times)?;
                if let Some(dst) = dst {
                    self.write_word(dst, found)?;
                }
            }
            Packet::Prefetch { range, to } => self.prefetch(range, to)?,
            Packet::Spin { ns } => self.spin(ns)?,
            // What was written before is seen before, because the update lock is released and taken
            // in between.
            Packet::Fence { dst, value } => self.write_word(dst, value)?,
            Packet::Jump { to } => return Ok(to),
        }
        Ok(next)
    }

    fn fill(&mut self, dst: Range<u64>, value: u64) -> Result<(), Stop> {
        // From each of its bytes on, as long as a page.
        let pattern = &mut self.buffers.bounce[..PAGE_SIZE + WORD as usize];
        for (byte, value) in pattern.iter_mut().zip(value.to_le_bytes().iter().cycle()) {
            *byte = *value;
        }
        self.on_pages(dst, AccessKind::Write, |page, part, bounce| {
            let phase = (part.before % WORD) as usize;
            page.write(part.offset, &bounce[phase..phase + part.len])
        })
    }

    fn copy(&mut self, dst: u64, src: u64, len: u64) -> Result<(), Stop> {
        let mut done = 0;
        while done < len {
            // Up to the end of a page on either side.
            let rest = |at: u64| PAGE_SIZE as u64 - (at + done) % PAGE_SIZE as u64;
            let step = rest(src).min(rest(dst)).min(len - done);
            let (from, to) = (src + done, dst + done);
            self.on_pages(from..from + step, AccessKind::Read, |page, part, bounce| {
                page.read(part.offset, &mut bounce[..part.len])
            })?;
            self.on_pages(to..to + step, AccessKind::Write, |page, part, bounce| {
                page.write(part.offset, &bounce[..part.len])
            })?;
            done += step;
        }
        Ok(())
    }

    fn sum(&mut self, src: Range<u64>, dst: u64) -> Result<(), Stop> {
        let mut sum = 0_u64;
        self.on_pages(src, AccessKind::Read, |page, part, bounce| {
            let bytes = &mut bounce[..part.len];
            page.read(part.offset, bytes)?;
            sum = sum.wrapping_add(packet::sum_of(bytes, part.before));
            Ok(())
        })?;
        self.write_word(dst, sum)
    }

    fn chase(&mut self, first: u64, offset: u64, times: u64, dst: u64) -> Result<(), Stop> {
        let mut pointer = first;
        let mut followed = 0;
        while followed < times && pointer != 0 {
            let address = pointer.wrapping_add(offset);
            if address % WORD != 0 {
                return Err(Stop::Access {
                    error: EFAULT,
                    access: AccessKind::Read,
                    address,
                });
            }
            pointer = self.read_word(address)?;
            followed += 1;
        }
        self.write_word(dst, pointer)?;
        self.write_word(dst + WORD, followed)
    }

    fn prefetch(&mut self, range: Range<u64>, to: Side) -> Result<(), Stop> {
        // What is not there cannot be moved, and is no error.
        let Some(users) = self.client.users() else {
            return Ok(());
        };
        let moved = self.prefetch_windows(&users, range, to);
        put(users);
        moved
    }

    fn prefetch_windows(
        &mut self,
        users: &MmWithUser,
        range: Range<u64>,
        to: Side,
    ) -> Result<(), Stop> {
        let end = range.end.min(task_size(users) as u64);
        let mut at = range.start;
        while at < end {
            self.check()?;
            let window = window_at(at as usize, end as usize);
            at = window.end as u64;
            self.prefetch_window(users, window, to);
            // Interrupted or not, `check()` knows.
            clear_interrupt();
        }
        Ok(())
    }

    /// Moves the pages of a window that can be moved.
    fn prefetch_window(&mut self, users: &MmWithUser, window: Range<usize>, to: Side) {
        let npages = (window.len() / PAGE_SIZE) as u64;
        let mut counts = Counts::default();
        if let Ok(user_range) = UserRange::new(window.start as u64, npages, PAGE_SHIFT as u32) {
            let mut call = Call {
                view: self.client.view(),
                mm: users,
                user_range,
                buffers: self.buffers,
                counts: &mut counts,
            };
            match to {
                Side::Device => migrate::prefetch(&mut call),
                Side::System => migrate::prefetch_back(&mut call),
            }
        }
        self.client.stats.add(&counts);
    }

    fn spin(&self, ns: u64) -> Result<(), Stop> {
        let start = Instant::<Monotonic>::now();
        loop {
            self.check()?;
            // CAST: No moment that has been lies before the one that was taken first.
            let elapsed = start.elapsed().as_nanos() as u64;
            let left = ns.saturating_sub(elapsed);
            if left == 0 {
                return Ok(());
            }
            let step = left.min(SPIN_STEP_NS).max(1000);
            fsleep(Delta::from_nanos(step as i64));
        }
    }

    fn read_word(&mut self, at: u64) -> Result<u64, Stop> {
        let mut word = 0;
        self.on_pages(at..at + WORD, AccessKind::Read, |page, part, _| {
            word = page.read_word(part.offset)?;
            Ok(())
        })?;
        Ok(word)
    }

    fn write_word(&mut self, at: u64, value: u64) -> Result<(), Stop> {
        self.on_pages(at..at + WORD, AccessKind::Write, |page, part, _| {
            page.write_word(part.offset, value)
        })
    }

    /// Accesses a range through the page table of the device, page after page: `access` gets each
    /// page with the part of it that is meant, and the bounce buffer.
    fn on_pages(
        &mut self,
        range: Range<u64>,
        kind: AccessKind,
        mut access: impl FnMut(&Pages<'_>, Part, &mut [u8]) -> Result,
    ) -> Result<(), Stop> {
        let mut at = range.start;
        while at < range.end {
            self.check()?;
            let done = access_mapped(
                &self.client.view().lock(),
                &range,
                at,
                kind,
                &mut self.buffers.bounce,
                &mut access,
            )?;
            at += done;
            if done == 0 {
                at += self.fault(&range, at, kind, &mut access)?;
            }
            cond_resched();
        }
        Ok(())
    }

    /// Faults in what an access needs, and makes as much of it as is mapped then. Returns how many
    /// bytes; 0 if others were faster, or the thread was interrupted.
    fn fault(
        &mut self,
        range: &Range<u64>,
        at: u64,
        kind: AccessKind,
        access: &mut impl FnMut(&Pages<'_>, Part, &mut [u8]) -> Result,
    ) -> Result<u64, Stop> {
        let stop = |error| Stop::Access {
            error,
            access: kind,
            address: at,
        };
        let users = self.client.users().ok_or(stop(EFAULT))?;
        if at >= task_size(&users) as u64 {
            put(users);
            return Err(stop(EFAULT));
        }
        let end = range.end.min(task_size(&users) as u64);
        let page = at as usize & !(PAGE_SIZE - 1);
        // What it gets to later on; and if something there cannot be had, this page alone.
        let ahead = window_at(page, (end as usize).next_multiple_of(PAGE_SIZE));
        let alone = page..page + PAGE_SIZE;
        let (mut done, mut faulted) = self.fault_window(&users, ahead, range, at, kind, access);
        let is_over = matches!(faulted, Ok(()) | Err(EINTR | EBUSY));
        if !is_over && matches!(done, Ok(0)) {
            (done, faulted) = self.fault_window(&users, alone, range, at, kind, access);
        }
        put(users);
        match (done?, faulted) {
            (0, Err(EINTR)) => {
                clear_interrupt();
                Ok(0)
            }
            (0, Err(error)) => Err(stop(error)),
            (done, _) => Ok(done),
        }
    }

    fn fault_window(
        &mut self,
        users: &MmWithUser,
        window: Range<usize>,
        range: &Range<u64>,
        at: u64,
        kind: AccessKind,
        access: &mut impl FnMut(&Pages<'_>, Part, &mut [u8]) -> Result,
    ) -> (Result<u64, Stop>, Result) {
        let rights = match kind {
            AccessKind::Write | AccessKind::Atomic => Access::Write,
            AccessKind::None | AccessKind::Fetch | AccessKind::Read => Access::Read,
        };
        let Buffers { fault, bounce, .. } = &mut *self.buffers;
        let mut done = Ok(0);
        let view = self.client.view();
        let faulted = view.fault(users, window, rights, Timeout::Bounded, fault, |guard| {
            done = access_mapped(guard, range, at, kind, bounce, access);
        });
        (done, faulted)
    }

    /// Makes atomic operations on a word, and returns what the last of them found.
    fn atomic(&mut self, at: u64, op: AtomicOp, times: u64) -> Result<u64, Stop> {
        let mut found = 0;
        let mut done = 0;
        while done < times {
            self.check()?;
            // So that a CPU that wants the page does not wait for long.
            let batch = (times - done).min(BOUNCE_PAGES as u64);
            let mut operate = |guard: &ViewGuard<'_, DeviceMemory>, atomics| {
                operate(guard, at, op, batch, atomics)
            };
            let view = self.client.view();
            let operated = operate(&view.lock(), Atomics::OnPage);
            let (count, last) = match operated {
                Some(operated) => operated.map_err(|error| atomic_stop(error, at))?,
                None => self.atomic_after_fault(at, &mut operate)?,
            };
            if count > 0 {
                found = last;
                done += count;
            }
            cond_resched();
        }
        Ok(found)
    }

    /// Makes atomic operations on a word that the device cannot do them on yet. None may be made.
    fn atomic_after_fault(
        &mut self,
        at: u64,
        operate: &mut impl FnMut(&ViewGuard<'_, DeviceMemory>, Atomics) -> Option<Result<(u64, u64)>>,
    ) -> Result<(u64, u64), Stop> {
        let users = self.client.users().ok_or(atomic_stop(EFAULT, at))?;
        let result = if at < task_size(&users) as u64 {
            self.make_atomic(&users, at, operate)
        } else {
            Err(EFAULT)
        };
        put(users);
        match result {
            // Others were faster, or this was interrupted, which `check()` knows.
            Err(EINTR | EAGAIN) => {
                clear_interrupt();
                Ok((0, 0))
            }
            result => result.map_err(|error| atomic_stop(error, at)),
        }
    }

    fn make_atomic(
        &mut self,
        users: &MmWithUser,
        at: u64,
        operate: &mut impl FnMut(&ViewGuard<'_, DeviceMemory>, Atomics) -> Option<Result<(u64, u64)>>,
    ) -> Result<(u64, u64)> {
        let page = at as usize & !(PAGE_SIZE - 1);
        let window = page..page + PAGE_SIZE;
        let view = self.client.view();
        // Where it is in the memory of the device, it can stay.
        let mut operated = None;
        let fault = &mut self.buffers.fault;
        view.fault(
            users,
            window.clone(),
            Access::Write,
            Timeout::Bounded,
            fault,
            |guard| {
                operated = operate(guard, Atomics::OnPage);
            },
        )?;
        if let Some(operated) = operated {
            return operated;
        }
        let mut pending = view.pending_map(window)?;
        let mmap = users.mmap_read_lock();
        match pending.make_exclusive(users, &mmap, page, |guard| operate(guard, Atomics::OnPage)) {
            // A page of a file cannot be made exclusive.
            Err(EOPNOTSUPP) => operate(&view.lock(), Atomics::OnBus),
            operated => operated?.flatten(),
        }
        .unwrap_or(Err(EAGAIN))
    }
}

fn atomic_stop(error: Error, address: u64) -> Stop {
    Stop::Access {
        error,
        access: AccessKind::Atomic,
        address,
    }
}

/// Lets go of the users of an address space. If these are the last, it goes away, which takes locks
/// that others wait under: so in another thread.
fn put(users: ARef<MmWithUser>) {
    drop(MmWithUser::into_mmput_async(users));
}

/// Makes an access to what is mapped from `at` on, one page after the other, up to
/// [`BOUNCE_PAGES`]. Returns how many bytes.
fn access_mapped(
    guard: &ViewGuard<'_, DeviceMemory>,
    range: &Range<u64>,
    at: u64,
    kind: AccessKind,
    bounce: &mut [u8],
    access: &mut impl FnMut(&Pages<'_>, Part, &mut [u8]) -> Result,
) -> Result<u64, Stop> {
    let mut done = 0;
    let mut used = None;
    for _ in 0..BOUNCE_PAGES {
        let address = at + done;
        if address >= range.end {
            break;
        }
        let Some(page) = usize::try_from(address).ok().and_then(|at| guard.page(at)) else {
            break;
        };
        let is_allowed = match kind {
            AccessKind::Write => page.access() != Access::Read,
            AccessKind::Atomic => false,
            AccessKind::None | AccessKind::Fetch | AccessKind::Read => true,
        };
        if !is_allowed {
            break;
        }
        // CAST: Below the size of a page.
        let offset = (address % PAGE_SIZE as u64) as usize;
        let len = (range.end - address).min((PAGE_SIZE - offset) as u64);
        let part = Part {
            offset,
            before: address - range.start,
            len: len as usize,
        };
        match access(&page, part, bounce) {
            Ok(()) => done += len,
            // What was accessed counts, and is not accessed again.
            Err(_) if done > 0 => break,
            Err(error) => {
                return Err(Stop::Access {
                    error,
                    access: kind,
                    address,
                })
            }
        }
        note_use(&page, &mut used);
    }
    Ok(done)
}

/// What the device uses is not the first to be evicted.
fn note_use(page: &Pages<'_>, used: &mut Option<usize>) {
    let block = page.device_index().map(|index| index / BLOCK_PAGES);
    if let Some(block) = block.filter(|_| block != *used) {
        page.pagemap().ops().pool().touch(block);
        *used = Some(block);
    }
}

/// How a device makes atomic operations.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Atomics {
    /// On a page that no CPU reaches meanwhile.
    OnPage,
    /// By a bus that CPUs respect.
    OnBus,
}

/// Makes `times` atomic operations on the word at `at`, if no CPU can come in between: the device
/// has exclusive access to the page, or has it in memory of its own that no CPU reaches, or the bus
/// sees to it. Returns how many, and what the last has found.
fn operate(
    guard: &ViewGuard<'_, DeviceMemory>,
    at: u64,
    op: AtomicOp,
    times: u64,
    atomics: Atomics,
) -> Option<Result<(u64, u64)>> {
    let page = guard.page(usize::try_from(at).ok()?)?;
    let is_own = page.device_index().is_some() && page.pagemap().kind() == Kind::Private;
    let is_alone = match page.access() {
        Access::Read => return None,
        Access::Write => is_own,
        Access::Exclusive => true,
    };
    if !is_alone && atomics == Atomics::OnPage {
        return None;
    }
    // CAST: Below the size of a page.
    let offset = (at % PAGE_SIZE as u64) as usize;
    let width = if op.is_64 { Word::Eight } else { Word::Four };
    let mut found = 0;
    for _ in 0..times {
        let operated = if is_alone {
            page.read_modify_write(offset, width, |word| op.apply(word))
        } else {
            page.bus_atomic(offset, width, |word| op.apply(word))
        };
        match operated {
            Ok(word) => found = word,
            Err(error) => return Some(Err(error)),
        }
    }
    note_use(&page, &mut None);
    Some(Ok((times, found)))
}
