// SPDX-License-Identifier: GPL-2.0

//! An interpreter of packets: their effect on memory, and the outcome of a job, implemented from
//! Documentation/device.md alone.
//!
//! It is the oracle of tests. [`run`] executes a job on any [`Memory`]; [`Image`] is a copy of some
//! memory of a process. Nothing else accesses the memory meanwhile; a device may behave differently
//! if something does.
//!
//! # Examples
//!
//! ```
//! use dmirror_client::interpreter::{Image, run};
//! use dmirror_client::queue::Outcome;
//! use dmirror_client::region::Protection;
//! use dmirror_client::{Packet, packet};
//!
//! let mut image = Image::default();
//! let code = packet::bytes(&[Packet::fence(0x2008, 7)]);
//! image.map(0x1000, &code, Protection::Read);
//! image.map(0x2000, &[0; 16], Protection::ReadWrite);
//! assert_eq!(run(&mut image, 0x1000, 1), Outcome::done(1));
//! assert_eq!(image.word(0x2008), Some(7));
//! ```

mod check;
mod image;
#[cfg(test)]
mod tests;

use nix::errno::Errno;

use crate::packet::Opcode;
use crate::packet::Packet;
use crate::packet::Width;
use crate::packet::flag;
use crate::queue::Access;
use crate::queue::Outcome;
use crate::range::page_size;

pub use check::is_well_formed;
pub use image::Image;

/// The reason why memory cannot be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Nothing is mapped.
    Unmapped,
    /// It must not be accessed at all.
    Unreadable,
    /// It is readable, but not writable.
    ReadOnly,
}

impl Denied {
    /// Returns the error of the job.
    pub fn errno(self) -> Errno {
        match self {
            Self::Unmapped | Self::Unreadable => Errno::EFAULT,
            Self::ReadOnly => Errno::EPERM,
        }
    }
}

/// The memory that packets access.
///
/// All bytes of an access are in one page. Either all of them are accessed, or none.
pub trait Memory {
    /// Copies the bytes from address `addr` on to `bytes`.
    ///
    /// # Errors
    ///
    /// The reason why the bytes cannot be read.
    fn read(&mut self, addr: u64, bytes: &mut [u8]) -> Result<(), Denied>;

    /// Replaces the bytes from address `addr` on.
    ///
    /// # Errors
    ///
    /// The reason why the bytes cannot be written.
    fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<(), Denied>;
}

/// The failure that ended a job before its last packet.
#[derive(Clone, Copy, Debug)]
struct Failure {
    errno: Errno,
    access: Access,
    addr: u64,
}

/// Executes a job of `npackets` packets, the first of which is at `packets`, and returns its
/// outcome.
///
/// The time is not bounded: a packet may repeat very often.
pub fn run<M: Memory>(memory: &mut M, packets: u64, npackets: u64) -> Outcome {
    let mut at = packets;
    for executed in 0..npackets {
        match step(memory, at) {
            Ok(next) => at = next,
            Err(failure) => {
                let Failure {
                    errno,
                    access,
                    addr,
                } = failure;
                return Outcome::failed(executed, errno, access, addr);
            }
        }
    }
    Outcome::done(npackets)
}

/// Executes the packet at `at`, and returns the address of the next one.
fn step<M: Memory>(memory: &mut M, at: u64) -> Result<u64, Failure> {
    let mut bytes = [0; Packet::SIZE];
    Engine(memory).read(at, &mut bytes, Access::Fetch)?;
    let packet = Packet::from_bytes(&bytes);
    let opcode = Opcode::of_number(packet.opcode).filter(|_| is_well_formed(&packet));
    let Some(opcode) = opcode else {
        return Err(Failure {
            errno: Errno::EINVAL,
            access: Access::None,
            addr: at,
        });
    };
    let mut engine = Engine(memory);
    match opcode {
        Opcode::Fill => engine.fill(&packet)?,
        Opcode::Copy => engine.copy(&packet)?,
        Opcode::Sum => engine.sum(&packet)?,
        Opcode::Chase => engine.chase(&packet)?,
        Opcode::Random => engine.random(&packet)?,
        Opcode::Atomic => engine.atomic(&packet)?,
        Opcode::Fence => engine.write_word(packet.dst, packet.value)?,
        Opcode::Prefetch | Opcode::Spin => {}
        Opcode::Jump => return Ok(packet.src),
    }
    Ok(at.wrapping_add(Packet::SIZE as u64))
}

/// Returns the parts of `len` bytes from `addr` on that each lie in one page, in ascending order.
fn parts(addr: u64, len: u64) -> impl Iterator<Item = (u64, usize)> {
    let page = page_size() as u64;
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = addr + done;
        let part = (page - at % page).min(len - done);
        done += part;
        (part > 0).then_some((at, part as usize))
    })
}

/// The operations. Each gets a well-formed packet, so no range in it wraps around.
struct Engine<'a, M>(&'a mut M);

impl<M: Memory> Engine<'_, M> {
    fn read(&mut self, addr: u64, bytes: &mut [u8], access: Access) -> Result<(), Failure> {
        self.0.read(addr, bytes).map_err(|denied| Failure {
            errno: denied.errno(),
            access,
            addr,
        })
    }

    fn write(&mut self, addr: u64, bytes: &[u8], access: Access) -> Result<(), Failure> {
        self.0.write(addr, bytes).map_err(|denied| Failure {
            errno: denied.errno(),
            access,
            addr,
        })
    }

    fn read_word(&mut self, addr: u64, access: Access) -> Result<u64, Failure> {
        let mut bytes = [0; 8];
        self.read(addr, &mut bytes, access)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn write_word(&mut self, addr: u64, word: u64) -> Result<(), Failure> {
        self.write(addr, &word.to_le_bytes(), Access::Write)
    }

    fn fill(&mut self, packet: &Packet) -> Result<(), Failure> {
        let value = packet.value.to_le_bytes();
        for (at, len) in parts(packet.dst, packet.len) {
            let first = (at - packet.dst) as usize;
            let bytes: Vec<u8> = (first..first + len).map(|nth| value[nth % 8]).collect();
            self.write(at, &bytes, Access::Write)?;
        }
        Ok(())
    }

    fn copy(&mut self, packet: &Packet) -> Result<(), Failure> {
        for (to, len) in parts(packet.dst, packet.len) {
            let from = packet.src + (to - packet.dst);
            for (from, len) in parts(from, len as u64) {
                let to = packet.dst + (from - packet.src);
                let mut bytes = vec![0; len];
                self.read(from, &mut bytes, Access::Read)?;
                self.write(to, &bytes, Access::Write)?;
            }
        }
        Ok(())
    }

    fn sum(&mut self, packet: &Packet) -> Result<(), Failure> {
        let mut sum = 0_u64;
        for (at, len) in parts(packet.src, packet.len) {
            let mut bytes = vec![0; len];
            self.read(at, &mut bytes, Access::Read)?;
            for (nth, byte) in (at - packet.src..).zip(bytes) {
                // The byte's contribution to its word.
                sum = sum.wrapping_add(u64::from(byte) << (8 * (nth % 8)));
            }
        }
        self.write_word(packet.dst, sum)
    }

    fn chase(&mut self, packet: &Packet) -> Result<(), Failure> {
        let (mut pointer, mut times) = (packet.src, 0);
        while times < packet.len && pointer != 0 {
            let at = pointer.wrapping_add(packet.value);
            if at % 8 != 0 {
                return Err(Failure {
                    errno: Errno::EFAULT,
                    access: Access::Read,
                    addr: at,
                });
            }
            pointer = self.read_word(at, Access::Read)?;
            times += 1;
        }
        self.write_word(packet.dst, pointer)?;
        self.write_word(packet.dst + 8, times)
    }

    fn random(&mut self, packet: &Packet) -> Result<(), Failure> {
        let (mut state, mut checksum) = (packet.value, 0_u64);
        let words = packet.value2 / 8;
        for _ in 0..packet.len {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let at = packet.src + ((state >> 33) % words) * 8;
            if packet.flags & flag::RANDOM_WRITE != 0 && (state >> 32) & 1 != 0 {
                let word = self.read_word(at, Access::Write)?;
                self.write_word(at, word ^ state)?;
            } else {
                checksum = checksum.rotate_left(1) ^ self.read_word(at, Access::Read)?;
            }
        }
        self.write_word(packet.dst, checksum)
    }

    fn atomic(&mut self, packet: &Packet) -> Result<(), Failure> {
        let width = match packet.flags & flag::ATOMIC_64 {
            0 => Width::Four,
            _ => Width::Eight,
        };
        let (size, mask) = (width.bytes() as usize, width.mask());
        let mut found = 0;
        for _ in 0..packet.len {
            let mut bytes = [0; 8];
            self.read(packet.src, &mut bytes[..size], Access::Atomic)?;
            found = u64::from_le_bytes(bytes);
            let new = if packet.flags & flag::ATOMIC_CAS == 0 {
                found.wrapping_add(packet.value)
            } else if found == packet.value2 & mask {
                packet.value
            } else {
                found
            };
            // Written even if unchanged: an atomic operation requires writable memory.
            self.write(packet.src, &new.to_le_bytes()[..size], Access::Atomic)?;
        }
        if packet.dst == 0 {
            return Ok(());
        }
        self.write_word(packet.dst, found)
    }
}
