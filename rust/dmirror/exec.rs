// SPDX-License-Identifier: GPL-2.0

//! Execution of packets by an engine, through the page table of its device.
//!
//! Memory is accessed under the update lock, at most [`BOUNCE_PAGES`] pages at a time; unmapped
//! pages are faulted in without the lock. No lock is held between two accesses, so pages can move
//! meanwhile, and a cancelled job ends.
//!
//! [`BOUNCE_PAGES`]: crate::config::BOUNCE_PAGES

use core::ops::Range;

use emu::{sched::cond_resched, view::ViewPages};
use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    time::{delay::fsleep, Delta, Instant, Monotonic},
};

mod atomic;
mod memory;
mod neighbours;
mod service;

use crate::{
    call::Buffers,
    client::Client,
    config::{ENGINE_TIMEOUT_MS, MIGRATE_PAUSE_US},
    device::DeviceMemory,
    packet::{self, Draws, Packet, PACKET_BYTES, WORD},
    queue::{AccessKind, Failure, Job, Outcome, Queue},
};

/// Maximum sleep of a spinning engine before it checks whether its job is to continue.
const SPIN_STEP_NS: u64 = 1_000_000;

/// A limit on how long an engine retries a page that is taken away again and again.
#[derive(Default)]
struct Patience {
    /// The time at which the page was first found to be taken away.
    since: Option<Instant<Monotonic>>,
}

impl Patience {
    /// Restarts the limit after progress.
    fn renew(&mut self) {
        self.since = None;
    }

    /// Returns whether the page was found to be taken away.
    fn is_tried(&self) -> bool {
        self.since.is_some()
    }

    /// Records that the page was taken away, and sleeps briefly.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] when this has lasted too long.
    fn try_again(&mut self) -> Result {
        let since = self.since.get_or_insert_with(Instant::now);
        if since.elapsed().as_millis() > ENGINE_TIMEOUT_MS {
            return Err(EBUSY);
        }
        fsleep(Delta::from_micros(MIGRATE_PAUSE_US));
        Ok(())
    }
}

/// Pages that a device maps.
type Pages<'g> = ViewPages<'g, DeviceMemory>;

/// Executes a job.
///
/// May sleep, without a bound if user space handles a fault (userfaultfd), until the thread is
/// interrupted.
pub(crate) fn run(queue: &Queue, job: &Job, buffers: &mut Buffers) -> Outcome {
    let client = queue.client();
    let mut execution = Execution {
        queue,
        job,
        client,
        buffers,
        draws: None,
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

/// The reason why the execution of a packet has stopped.
enum Stop {
    /// A reason other than a memory access.
    Packet(Error),
    /// An address cannot be accessed.
    Access {
        error: Error,
        access: AccessKind,
        address: u64,
    },
}

impl Stop {
    /// Returns the failure of the job; `packet` is the address of the packet.
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

/// The part of a page that is accessed.
#[derive(Clone, Copy)]
struct Part {
    /// The byte offset in the page.
    offset: usize,
    /// Number of bytes of the whole access before this part.
    before: u64,
    /// Number of bytes.
    len: usize,
}

struct Execution<'e> {
    queue: &'e Queue,
    job: &'e Job,
    client: &'e Client,
    buffers: &'e mut Buffers,
    /// The next accesses of RANDOM, for an engine with several accesses in flight.
    draws: Option<Upcoming>,
}

/// The next accesses of RANDOM.
#[derive(Clone, Copy)]
struct Upcoming {
    draws: Draws,
    src: u64,
    nwords: u64,
    writes: bool,
    /// Number of remaining accesses.
    left: u64,
}

impl Execution<'_> {
    /// Fails if the job must not continue.
    fn check(&self) -> Result<(), Stop> {
        self.queue.check(self.job).map_err(Stop::Packet)
    }

    /// Executes the packet at an address, and returns the address of the next one.
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
                let accesses = Upcoming {
                    draws: Draws::new(seed),
                    src,
                    nwords,
                    writes,
                    left: times,
                };
                self.random(accesses, dst)?;
            }
            Packet::Atomic { at, op, times, dst } => {
                let found = self.atomic(at, op, times)?;
                if let Some(dst) = dst {
                    self.write_word(dst, found)?;
                }
            }
            Packet::Prefetch { range, to } => self.prefetch(range, to)?,
            Packet::Spin { ns } => self.spin(ns)?,
            // Earlier writes are visible first, because the update lock is released and taken in
            // between.
            Packet::Fence { dst, value } => self.write_word(dst, value)?,
            Packet::Jump { to } => return Ok(to),
        }
        Ok(next)
    }

    fn fill(&mut self, dst: Range<u64>, value: u64) -> Result<(), Stop> {
        // The pattern, long enough to copy a page from each of its first bytes on.
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
            // Copy up to the next page boundary on either side.
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
            // The last word of the address space has no end address.
            if address % WORD != 0 || address.checked_add(WORD).is_none() {
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

    fn random(&mut self, mut accesses: Upcoming, dst: u64) -> Result<(), Stop> {
        let mut sum = 0_u64;
        while accesses.left > 0 {
            accesses.left -= 1;
            let draw = accesses.draws.next();
            let at = accesses.src + draw.word(accesses.nwords) * WORD;
            self.draws = Some(accesses);
            if accesses.writes && draw.is_write() {
                self.on_pages(at..at + WORD, AccessKind::Write, |page, part, _| {
                    let word = page.read_word(part.offset)?;
                    page.write_word(part.offset, draw.change(word))
                })?;
            } else {
                sum = sum.rotate_left(1) ^ self.read_word(at)?;
            }
        }
        self.draws = None;
        self.write_word(dst, sum)
    }

    fn spin(&self, ns: u64) -> Result<(), Stop> {
        let start = Instant::<Monotonic>::now();
        loop {
            self.check()?;
            // CAST: Monotonic time does not go backwards, so the elapsed time is not negative.
            let elapsed = start.elapsed().as_nanos() as u64;
            let left = ns.saturating_sub(elapsed);
            if left == 0 {
                return Ok(());
            }
            let step = left.clamp(1000, SPIN_STEP_NS);
            fsleep(Delta::from_nanos(step as i64));
        }
    }
}
