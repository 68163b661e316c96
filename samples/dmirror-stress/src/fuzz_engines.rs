// SPDX-License-Identifier: GPL-2.0

//! Random queues, jobs and packets, both valid and invalid.
//!
//! The first pages of the playground hold packets, which change while engines execute them.
//! Packets work on all of the playground: an engine must not write memory that the program may not
//! write. The header must allow the outcome of a job, which must be the same for all who ask.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;
use dmirror_client::Errno;
use dmirror_client::Packet;
use dmirror_client::Queue;
use dmirror_client::packet::Opcode;
use dmirror_client::packet::Width;
use dmirror_client::page_size;
use dmirror_client::program::malformed;
use dmirror_client::queue;
use dmirror_client::queue::Access;
use dmirror_client::queue::Outcome;
use dmirror_client::queue::QueueError;
use dmirror_client::queue::Request;

use crate::fuzz::Counts;
use crate::fuzz::FREE;
use crate::fuzz::PAGES;
use crate::fuzz::Scene;
use crate::generate::Dice;
use crate::op::NODES;
use crate::real::open;

/// The number of pages for packets.
pub const CODE: usize = 16;

/// The most packets of a job.
pub const MAX_PACKETS: u64 = 65536;

/// The most queues that a thread keeps.
const KEPT: usize = 12;

/// The number of jobs, and of outcomes, that are remembered.
const REMEMBERED: usize = 4096;

/// The name of a job: the index of its device, its queue, and its number.
type Name = (usize, u32, u64);

/// The jobs and the outcomes that all threads know.
#[derive(Debug, Default)]
pub struct Jobs {
    /// The jobs that were submitted last, with the number of their packets.
    recent: Mutex<Vec<(Name, u64)>>,
    outcomes: Mutex<BTreeMap<Name, Outcome>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Jobs {
    fn submitted(&self, name: Name, npackets: u64) {
        let mut recent = locked(&self.recent);
        if recent.len() >= REMEMBERED {
            recent.drain(..REMEMBERED / 2);
        }
        recent.push((name, npackets));
    }

    /// Returns a job that was submitted recently, with the number of its packets.
    fn pick(&self, dice: &mut Dice) -> Option<(Name, u64)> {
        let recent = locked(&self.recent);
        let back = 1 + dice.below(12);
        recent.len().checked_sub(back).map(|nth| recent[nth])
    }

    /// Records the outcome of a job; fails if an earlier wait returned another outcome.
    fn ended(&self, name: Name, outcome: Outcome) -> Result<()> {
        let mut outcomes = locked(&self.outcomes);
        if outcomes.len() >= REMEMBERED {
            outcomes.clear();
        }
        let first = *outcomes.entry(name).or_insert(outcome);
        ensure!(
            first == outcome,
            "job {name:x?} ended with {first:x?}, and later with {outcome:x?}"
        );
        Ok(())
    }
}

/// Returns whether the header allows an outcome of a job of `npackets` packets.
fn is_possible(outcome: &Outcome, npackets: u64) -> bool {
    let Outcome {
        error,
        executed,
        fault_addr,
        access,
    } = *outcome;
    let of_packet = access == Access::None && fault_addr % Packet::SIZE as u64 == 0;
    let of_memory = !matches!(access, Access::None | Access::Unknown(_));
    match error {
        None => *outcome == Outcome::done(npackets),
        Some(_) if executed >= npackets => false,
        Some(Errno::EINVAL) => of_packet,
        Some(Errno::EIO) => of_packet || of_memory,
        Some(Errno::EPERM) => matches!(access, Access::Write | Access::Atomic),
        Some(Errno::EFAULT | Errno::EBUSY | Errno::ENOMEM) => of_memory,
        Some(_) => false,
    }
}

/// Returns whether the header allows a command to fail with `errno`.
fn is_allowed(request: Request, errno: Errno) -> bool {
    match errno {
        Errno::EINVAL | Errno::E2BIG | Errno::EFAULT | Errno::ENOENT | Errno::ENOMEM => true,
        Errno::EBADF | Errno::EMFILE => request == Request::QueueCreate,
        Errno::EAGAIN => request == Request::Submit,
        Errno::ETIME | Errno::ENODEV => request == Request::Wait,
        _ => false,
    }
}

/// The queues of a thread, each with the index of its device in the scene.
#[derive(Debug, Default)]
pub struct Own(Vec<(usize, Queue)>);

/// Returns the value of a command, or `None` if it failed with one of `expected`.
fn answer<T>(
    answer: Result<T, QueueError>,
    expected: &[Errno],
    counts: &mut Counts,
) -> Result<Option<T>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            ensure!(expected.contains(&error.errno), "unexpected: {error}");
            let name = format!("{} {:?}", error.request, error.errno);
            *counts.entry(name).or_default() += 1;
            Ok(None)
        }
    }
}

impl Scene {
    /// Does something with queues; returns an error for a violation.
    pub fn engine(&self, own: &mut Own, dice: &mut Dice, counts: &mut Counts) -> Result<()> {
        match dice.below(100) {
            0..10 => self.create(own, dice, counts),
            10..30 => {
                self.write_packets(dice);
                Ok(())
            }
            30..55 => self.submit(own, dice, counts),
            55..75 => self.wait(dice, counts),
            75..80 => self.end(own, dice, counts),
            80 => {
                let device = &self.devices[dice.below(self.devices.len())];
                answer(device.reset(), &[], counts).map(drop)
            }
            81..83 => self.close(dice, counts),
            _ => self.send_struct(dice, counts),
        }
    }

    fn create(&self, own: &mut Own, dice: &mut Dice, counts: &mut Counts) -> Result<()> {
        let device = dice.below(self.devices.len());
        let options = queue::Options::new(1 + dice.below(6) as u32);
        let options = match dice.chance(50) {
            true => options,
            false => options.engine(dice.below(2) as u32),
        };
        let made = self.devices[device].queue(options);
        // The module may have only one engine per device.
        let expected = [Errno::EINVAL, Errno::EMFILE, Errno::ENOMEM];
        if let Some(queue) = answer(made, &expected, counts)? {
            own.0.push((device, queue));
        }
        if own.0.len() > KEPT {
            own.0.swap_remove(dice.below(KEPT));
        }
        Ok(())
    }

    fn submit(&self, own: &Own, dice: &mut Dice, counts: &mut Counts) -> Result<()> {
        if own.0.is_empty() {
            return Ok(());
        }
        let (device, queue) = &own.0[dice.below(own.0.len())];
        let at = match dice.below(30) {
            0 => self.address(dice, 50),
            1 => self.ground.addr() + (dice.below(PAGES * page_size() / 64) * 64) as u64,
            _ => self.code(dice),
        };
        let npackets = match dice.below(40) {
            0 => 0,
            1 => MAX_PACKETS + dice.below(2) as u64,
            2 => 1 + dice.below(4000) as u64,
            _ => 1 + dice.below(40) as u64,
        };
        let submitted = queue.submit(at, npackets as u32);
        let is_wrong = at % 64 != 0 || npackets == 0 || npackets > MAX_PACKETS;
        let expected: &[Errno] = match is_wrong {
            true => &[Errno::EINVAL],
            // Others may have destroyed the queue.
            false => &[Errno::EAGAIN, Errno::ENOENT],
        };
        if let Some(job) = answer(submitted, expected, counts)? {
            ensure!(
                !is_wrong,
                "SUBMIT of {npackets} packets at {at:#x} went well"
            );
            let name = (*device, queue.number(), job);
            self.jobs.submitted(name, npackets);
        }
        Ok(())
    }

    fn wait(&self, dice: &mut Dice, counts: &mut Counts) -> Result<()> {
        let Some((name, npackets)) = self.jobs.pick(dice) else {
            return Ok(());
        };
        let (device, number, job) = name;
        let limit = match dice.below(10) {
            0 => Duration::from_millis(500),
            1..4 => Duration::ZERO,
            _ => Duration::from_micros(dice.below(20_000) as u64),
        };
        let queue = self.devices[device].queue_of_number(number);
        let expected = [Errno::ETIME, Errno::ENOENT, Errno::ENODEV];
        let Some(outcome) = answer(queue.wait(job, Some(limit)), &expected, counts)? else {
            return Ok(());
        };
        ensure!(
            is_possible(&outcome, npackets),
            "job {name:x?} of {npackets} packets ended with {outcome:x?}"
        );
        let key = outcome.error.map_or("job ok".into(), |errno| {
            format!("job {errno:?} {:?}", outcome.access)
        });
        *counts.entry(key).or_default() += 1;
        self.jobs.ended(name, outcome)
    }

    fn end(&self, own: &mut Own, dice: &mut Dice, counts: &mut Counts) -> Result<()> {
        if own.0.is_empty() {
            return Ok(());
        }
        let (_, queue) = own.0.swap_remove(dice.below(own.0.len()));
        answer(queue.destroy(), &[Errno::ENOENT], counts).map(drop)
    }

    /// Closes a file with work in flight.
    fn close(&self, dice: &mut Dice, counts: &mut Counts) -> Result<()> {
        let device = open(dice.below(NODES))?;
        for _ in 0..1 + dice.below(3) {
            let made = device.queue(queue::Options::new(4));
            if let Some(queue) = answer(made, &[Errno::ENOMEM], counts)? {
                for _ in 0..1 + dice.below(4) {
                    let submitted = queue.submit(self.code(dice), 1 + dice.below(4000) as u32);
                    answer(submitted, &[], counts)?;
                }
                queue.abandon();
            }
        }
        Ok(())
    }

    /// Sends a request with a struct of random numbers.
    fn send_struct(&self, dice: &mut Dice, counts: &mut Counts) -> Result<()> {
        let request = dice.pick(&Request::ALL);
        let right = request.size() as u64;
        let size = match dice.below(20) {
            0 => dice.below(64) as u64,
            1 => right + dice.below(64) as u64,
            2 => dice.pick(&[0, 4096, 4097, u64::from(u32::MAX)]),
            _ => right,
        };
        let flags = if dice.chance(5) { dice.any() << 32 } else { 0 };
        let mut words = [0; 16];
        words[0] = size | flags;
        let queue = dice.below(200) as u64;
        let any = dice.any();
        let tail = right as usize / 8;
        match request {
            Request::Query | Request::Reset => {}
            Request::QueueCreate => {
                words[1] = dice.below(3) as u64 | ((dice.below(10) as u64) << 32);
                // No file, or some file.
                words[2] = u64::from(dice.pick(&[u32::MAX, 0, 3, 5, 1000]));
            }
            Request::QueueDestroy => words[1] = queue,
            Request::Submit => {
                words[1] = queue | ((dice.below(40) as u64) << 32);
                words[2] = self.code(dice);
            }
            Request::Wait => {
                words[1] = queue;
                words[2] = dice.below(20) as u64;
                words[3] = dice.below(5_000_000) as u64;
            }
        }
        if dice.chance(10) {
            // Never a random time limit of WAIT.
            let nth = dice.pick(&[1, 2, tail - 1, tail, tail + 1, 15]);
            words[nth] = if nth == 3 { 0 } else { any >> dice.below(64) };
        }
        let free = (FREE * page_size() / 8 - words.len()) as u64;
        let argument = match dice.chance(95) {
            true => self.ground.addr() + (dice.any() % free) * 8,
            false => self.address(dice, 0),
        };
        let device = &self.devices[dice.below(self.devices.len())];
        let number = request.number();
        let sent = self.ground.request_queues(device, number, argument, &words);
        let outcome = match sent {
            Ok(()) => "ok".to_owned(),
            Err(Errno::EADDRNOTAVAIL) => return Ok(()),
            Err(errno) if is_allowed(request, errno) => format!("{errno:?}"),
            Err(errno) => bail!("{request} with {words:x?}: {errno}"),
        };
        *counts.entry(format!("{request} {outcome}")).or_default() += 1;
        Ok(())
    }

    /// Returns the address of a random packet.
    pub fn code(&self, dice: &mut Dice) -> u64 {
        self.ground.addr() + (dice.below(CODE * page_size() / Packet::SIZE) * Packet::SIZE) as u64
    }

    /// Returns an address to work on, in most cases one that packets may access.
    fn place(&self, dice: &mut Dice) -> u64 {
        let (start, end) = (CODE * page_size(), FREE * page_size());
        match dice.below(20) {
            0 => self.address(dice, 0),
            1 => self.address(dice, 100),
            // Right before memory that must not be written.
            2 => self.ground.addr() + (end - dice.below(2 * page_size())) as u64,
            3..6 => self.ground.addr() + (start + dice.below(end - start)) as u64,
            _ => (self.ground.addr() + (start + dice.below(end - start)) as u64) & !7,
        }
    }

    fn len(dice: &mut Dice) -> u64 {
        match dice.below(20) {
            0 => dice.any() >> dice.below(64),
            1 => dice.below(1 << 21) as u64,
            2..6 => dice.below(3 * page_size()) as u64,
            _ => dice.below(100) as u64,
        }
    }

    /// Returns a number of repetitions, seldom one that takes longer than anybody waits.
    fn times(dice: &mut Dice) -> u64 {
        match dice.below(1000) {
            0 => 1 << 40,
            _ => 1 + dice.below(60) as u64,
        }
    }

    /// Writes some packets.
    pub fn write_packets(&self, dice: &mut Dice) {
        let words = Packet::WORDS;
        let room = CODE * page_size() / Packet::SIZE;
        let first = dice.below(room);
        for nth in first..room.min(first + 1 + dice.below(30)) {
            for (word, value) in self.packet(dice).to_words().into_iter().enumerate() {
                self.ground.store(nth * words + word, value);
            }
        }
    }

    fn packet(&self, dice: &mut Dice) -> Packet {
        if dice.chance(3) {
            let packets = malformed(self.place(dice) & !7);
            return dice.pick(&packets);
        }
        let (to, from) = (self.place(dice), self.place(dice));
        let page = page_size() as u64;
        match dice.pick(&Opcode::ALL) {
            Opcode::Fill => Packet::fill(to, Self::len(dice), dice.any()),
            // Overwrite other packets.
            Opcode::Copy if dice.chance(20) => {
                Packet::copy(self.code(dice), self.code(dice), Packet::SIZE as u64)
            }
            Opcode::Copy => Packet::copy(to, from, Self::len(dice)),
            Opcode::Sum => Packet::sum(to, from, Self::len(dice)),
            Opcode::Chase => Packet::chase(to, from, dice.below(3) as u64 * 8, Self::times(dice)),
            Opcode::Random => {
                let room = (FREE - CODE) * page_size() / 8;
                let bytes = 8 + dice.below(room) as u64 * 8;
                let make = match dice.chance(50) {
                    true => Packet::random,
                    false => Packet::random_write,
                };
                make(to, from & !7, bytes, Self::times(dice), dice.any())
            }
            Opcode::Atomic => {
                let width = dice.pick(&Width::ALL);
                let old = if dice.chance(30) { 0 } else { to & !7 };
                match dice.chance(50) {
                    true => Packet::add(width, from & !3, dice.any(), Self::times(dice), old),
                    false => Packet::compare_and_swap(width, from & !3, 0, dice.any(), old),
                }
            }
            Opcode::Prefetch => {
                let len = Self::len(dice).next_multiple_of(page);
                match dice.chance(70) {
                    true => Packet::prefetch(from & !(page - 1), len),
                    false => Packet::prefetch_to_system(from & !(page - 1), len),
                }
            }
            Opcode::Spin => Packet::spin(match dice.below(1000) {
                0 => 10_000_000_000 + dice.below(2) as u64,
                1..10 => dice.below(20_000_000) as u64,
                _ => dice.below(50_000) as u64,
            }),
            // Change a word of another packet to one that a random packet could have.
            Opcode::Fence if dice.chance(30) => {
                let word = dice.below(6);
                let at = self.code(dice) + word as u64 * 8;
                Packet::fence(at, self.packet(dice).to_words()[word])
            }
            // Write a pointer for CHASE.
            Opcode::Fence => Packet::fence(to & !7, from & !7),
            Opcode::Jump => Packet::jump(self.code(dice)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_that_make_no_sense_are_found() {
        let failed = Outcome::failed;
        for (outcome, possible) in [
            (Outcome::done(3), true),
            (Outcome::done(2), false),
            (failed(2, Errno::EFAULT, Access::Read, 77), true),
            (failed(3, Errno::EFAULT, Access::Read, 77), false),
            (failed(2, Errno::EFAULT, Access::None, 64), false),
            (failed(2, Errno::EINVAL, Access::None, 64), true),
            (failed(2, Errno::EINVAL, Access::None, 65), false),
            (failed(2, Errno::EINVAL, Access::Read, 64), false),
            (failed(0, Errno::EIO, Access::None, 128), true),
            (failed(0, Errno::EPERM, Access::Write, 1), true),
            (failed(0, Errno::EPERM, Access::Read, 1), false),
            (failed(0, Errno::EINTR, Access::Read, 1), false),
            (failed(0, Errno::ECANCELED, Access::None, 0), false),
            (failed(0, Errno::EFAULT, Access::Unknown(5), 0), false),
        ] {
            assert_eq!(is_possible(&outcome, 3), possible, "{outcome:?}");
        }
    }

    #[test]
    fn all_are_told_the_same() {
        let jobs = Jobs::default();
        assert!(jobs.ended((0, 1, 1), Outcome::done(3)).is_ok());
        assert!(jobs.ended((0, 1, 1), Outcome::done(3)).is_ok());
        assert!(jobs.ended((0, 1, 1), Outcome::done(2)).is_err());
    }
}
