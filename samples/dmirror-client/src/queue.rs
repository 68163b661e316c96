// SPDX-License-Identifier: GPL-2.0

//! Queues of jobs, which the engines of a device execute on their own.
//!
//! # Examples
//!
//! ```no_run
//! use dmirror_client::{Device, Packet, Region, packet, queue};
//!
//! let device = Device::open("/dev/hmm_dmirror0")?;
//! let queue = device.queue(queue::Options::new(4))?;
//! let (code, data) = (Region::anonymous(1)?, Region::anonymous(16)?);
//! let program = [
//!     Packet::fill(data.addr(), data.len() as u64, 7),
//!     Packet::fence(code.addr() + 128, 1),
//! ];
//! let job = queue.submit(packet::store(&code, 0, &program), 2)?;
//! assert_eq!(queue.wait(job, None)?, queue::Outcome::done(2));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use thiserror::Error;

use crate::abi;
use crate::abi::Argument;
use crate::device::Device;
use crate::sys;

/// A command for queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Return properties of the device.
    Query,
    /// Create a queue.
    QueueCreate,
    /// End a queue.
    QueueDestroy,
    /// Execute packets.
    Submit,
    /// Wait until a job has ended.
    Wait,
    /// Reset the engines of the device.
    Reset,
}

impl Request {
    /// All commands.
    pub const ALL: [Self; 6] = [
        Self::Query,
        Self::QueueCreate,
        Self::QueueDestroy,
        Self::Submit,
        Self::Wait,
        Self::Reset,
    ];

    /// Returns the number of the command in the header.
    pub fn number(self) -> u32 {
        match self {
            Self::Query => abi::DMIRROR_NR_QUERY,
            Self::QueueCreate => abi::DMIRROR_NR_QUEUE_CREATE,
            Self::QueueDestroy => abi::DMIRROR_NR_QUEUE_DESTROY,
            Self::Submit => abi::DMIRROR_NR_SUBMIT,
            Self::Wait => abi::DMIRROR_NR_WAIT,
            Self::Reset => abi::DMIRROR_NR_RESET,
        }
    }

    /// Returns the size of its struct in bytes.
    pub fn size(self) -> usize {
        match self {
            Self::Query => size_of::<abi::dmirror_query>(),
            Self::QueueCreate => size_of::<abi::dmirror_queue_create>(),
            Self::QueueDestroy => size_of::<abi::dmirror_queue_destroy>(),
            Self::Submit => size_of::<abi::dmirror_submit>(),
            Self::Wait => size_of::<abi::dmirror_wait>(),
            Self::Reset => size_of::<abi::dmirror_reset>(),
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Query => "QUERY",
            Self::QueueCreate => "QUEUE_CREATE",
            Self::QueueDestroy => "QUEUE_DESTROY",
            Self::Submit => "SUBMIT",
            Self::Wait => "WAIT",
            Self::Reset => "RESET",
        })
    }
}

/// The error of a command for queues.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{request}{}: {errno}", .queue.map_or(String::new(), |queue| format!(" of queue {queue}")))]
pub struct QueueError {
    /// The command.
    pub request: Request,
    /// The queue, for a command that refers to one.
    pub queue: Option<u32>,
    /// The error number.
    pub errno: Errno,
}

/// The properties of a device, from QUERY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// Number of engines, which are numbered from 0.
    pub engines: u32,
    /// The largest depth of a queue.
    pub max_depth: u32,
    /// Maximum number of packets per job.
    pub max_packets: u32,
    /// Bit n is set if opcode n is supported.
    pub opcodes: u32,
    /// Memory of the device in bytes.
    pub memory: u64,
    /// Free memory of the device in bytes.
    pub free_memory: u64,
    /// Number of resets of the engines.
    pub generation: u64,
}

/// The access that a failed packet attempted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// The failure is not a memory access.
    #[default]
    None,
    /// A fetch of a packet.
    Fetch,
    /// A read.
    Read,
    /// A write.
    Write,
    /// An atomic operation.
    Atomic,
    /// A number that the header does not define.
    Unknown(u32),
}

impl Access {
    fn of_number(number: u32) -> Self {
        match number {
            abi::DMIRROR_ACCESS_NONE => Self::None,
            abi::DMIRROR_ACCESS_FETCH => Self::Fetch,
            abi::DMIRROR_ACCESS_READ => Self::Read,
            abi::DMIRROR_ACCESS_WRITE => Self::Write,
            abi::DMIRROR_ACCESS_ATOMIC => Self::Atomic,
            number => Self::Unknown(number),
        }
    }
}

/// The outcome of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The error number; `None` for success.
    pub error: Option<Errno>,
    /// Number of packets that were executed completely.
    pub executed: u64,
    /// The address that the failed packet could not access, or its own; 0 for success.
    pub fault_addr: u64,
    /// The access that the failed packet attempted.
    pub access: Access,
}

impl Outcome {
    /// Returns the outcome of a job that executed all its packets.
    pub fn done(executed: u64) -> Self {
        Self {
            error: None,
            executed,
            fault_addr: 0,
            access: Access::None,
        }
    }

    /// Returns the outcome of a job that failed after `executed` packets.
    pub fn failed(executed: u64, error: Errno, access: Access, fault_addr: u64) -> Self {
        Self {
            error: Some(error),
            executed,
            fault_addr,
            access,
        }
    }
}

/// The kernel entry through which a command is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Entry {
    /// The entry for native programs.
    #[default]
    Native,
    /// The entry for 32-bit programs. A kernel without it ends the process with SIGSEGV.
    #[cfg(target_arch = "x86_64")]
    Bits32,
}

impl Entry {
    fn send<T: Argument>(
        self,
        file: BorrowedFd<'_>,
        request: Request,
        argument: &mut T,
    ) -> Result<(), Errno> {
        match self {
            Self::Native => sys::ioctl(file, request.number(), argument),
            #[cfg(target_arch = "x86_64")]
            Self::Bits32 => sys::compat::ioctl(file, request.number(), argument),
        }
    }
}

/// The parameters of a new [`Queue`].
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Options<'a> {
    engine: u32,
    depth: u32,
    eventfd: Option<BorrowedFd<'a>>,
    entry: Entry,
}

impl<'a> Options<'a> {
    /// Describes a queue for `depth` jobs, on the engine with the fewest queues.
    pub fn new(depth: u32) -> Self {
        Self {
            engine: abi::DMIRROR_ENGINE_ANY,
            depth,
            eventfd: None,
            entry: Entry::Native,
        }
    }

    /// Selects engine number `engine`.
    pub fn engine(mut self, engine: u32) -> Self {
        self.engine = engine;
        self
    }

    /// Makes each job that ends add 1 to this eventfd.
    pub fn eventfd(mut self, eventfd: BorrowedFd<'a>) -> Self {
        self.eventfd = Some(eventfd);
        self
    }

    /// Creates and uses the queue as a 32-bit program does. A kernel without support for them ends
    /// the process with SIGSEGV.
    #[cfg(target_arch = "x86_64")]
    pub fn as_32_bit(mut self) -> Self {
        self.entry = Entry::Bits32;
        self
    }
}

impl Device {
    /// Returns the properties of the device.
    ///
    /// # Errors
    ///
    /// [`QueueError`] with `EINVAL` or `ENOTTY` on a module that has no engines.
    pub fn query(&self) -> Result<Query, QueueError> {
        self.query_by(Entry::Native)
    }

    /// Does the same as [`query`](Self::query), as a 32-bit program. A kernel without support for
    /// them ends the process with SIGSEGV.
    ///
    /// # Errors
    ///
    /// As for [`query`](Self::query).
    #[cfg(target_arch = "x86_64")]
    pub fn query_as_32_bit(&self) -> Result<Query, QueueError> {
        self.query_by(Entry::Bits32)
    }

    fn query_by(&self, entry: Entry) -> Result<Query, QueueError> {
        let mut argument = abi::dmirror_query {
            size: size_of::<abi::dmirror_query>() as u32,
            ..Default::default()
        };
        let request = Request::Query;
        entry
            .send(self.as_fd(), request, &mut argument)
            .map_err(|errno| QueueError {
                request,
                queue: None,
                errno,
            })?;
        Ok(Query {
            engines: argument.engines,
            max_depth: argument.max_depth,
            max_packets: argument.max_packets,
            opcodes: argument.opcodes,
            memory: argument.memory,
            free_memory: argument.free_memory,
            generation: argument.generation,
        })
    }

    /// Creates a queue.
    ///
    /// # Errors
    ///
    /// [`QueueError`] with `EINVAL` (no such engine or depth, or not an eventfd), `EMFILE` (the
    /// open file has 64 queues), `ENOMEM`.
    pub fn queue(&self, options: Options<'_>) -> Result<Queue, QueueError> {
        let mut argument = abi::dmirror_queue_create {
            size: size_of::<abi::dmirror_queue_create>() as u32,
            engine: options.engine,
            depth: options.depth,
            eventfd: options.eventfd.map_or(-1, |fd| fd.as_raw_fd()),
            ..Default::default()
        };
        let request = Request::QueueCreate;
        options
            .entry
            .send(self.as_fd(), request, &mut argument)
            .map_err(|errno| QueueError {
                request,
                queue: None,
                errno,
            })?;
        Ok(Queue {
            file: Arc::clone(&self.file),
            number: argument.queue,
            entry: options.entry,
            ours: true,
        })
    }

    /// Resets the engines of the device: all jobs that were submitted before, by anyone, fail with
    /// `EIO` wherever they are.
    ///
    /// # Errors
    ///
    /// [`QueueError`] with `EINVAL` or `ENOTTY` on a module that has no engines.
    pub fn reset(&self) -> Result<(), QueueError> {
        let mut argument = abi::dmirror_reset {
            size: size_of::<abi::dmirror_reset>() as u32,
            ..Default::default()
        };
        let request = Request::Reset;
        let sent = Entry::Native.send(self.as_fd(), request, &mut argument);
        sent.map_err(|errno| QueueError {
            request,
            queue: None,
            errno,
        })
    }

    /// Returns the queue with a number that is known from elsewhere, for example from a process
    /// with the same open file. Dropping the returned value does not end the queue.
    pub fn queue_of_number(&self, number: u32) -> Queue {
        Queue {
            file: Arc::clone(&self.file),
            number,
            entry: Entry::Native,
            ours: false,
        }
    }
}

/// A queue of jobs. Dropping it ends the queue, and cancels its jobs.
///
/// It keeps the device file open.
#[derive(Debug)]
pub struct Queue {
    file: Arc<File>,
    number: u32,
    entry: Entry,
    /// Set if dropping this value ends the queue.
    ours: bool,
}

impl Queue {
    /// Returns its number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Submits a job that executes `npackets` packets, beginning with the one at `packets`; returns
    /// the sequence number of the job.
    ///
    /// # Errors
    ///
    /// [`QueueError`] with `EINVAL` (an invalid number of packets, or an address that is not a
    /// multiple of 64), `EAGAIN` (the queue is full), `ENOENT` (there is no such queue), `ENOMEM`.
    pub fn submit(&self, packets: u64, npackets: u32) -> Result<u64, QueueError> {
        let mut argument = abi::dmirror_submit {
            size: size_of::<abi::dmirror_submit>() as u32,
            queue: self.number,
            npackets,
            packets,
            ..Default::default()
        };
        self.send(Request::Submit, &mut argument)?;
        Ok(argument.seqno)
    }

    /// Waits until job `seqno` has ended, at most for `limit`, or without a limit if that is
    /// `None`.
    ///
    /// # Errors
    ///
    /// [`QueueError`] with `ETIME` (the job has not ended by then), `EINVAL` (there was no such
    /// job), `ENOENT` (its outcome is no longer stored, or there is no such queue), `ENODEV` (the
    /// queue was destroyed), `EINTR`.
    pub fn wait(&self, seqno: u64, limit: Option<Duration>) -> Result<Outcome, QueueError> {
        let timeout_ns = match limit {
            None => -1,
            Some(limit) => i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX),
        };
        let mut argument = abi::dmirror_wait {
            size: size_of::<abi::dmirror_wait>() as u32,
            queue: self.number,
            seqno,
            timeout_ns,
            ..Default::default()
        };
        self.send(Request::Wait, &mut argument)?;
        Ok(Outcome {
            error: (argument.error != 0).then(|| Errno::from_raw(argument.error as i32)),
            executed: argument.executed,
            fault_addr: argument.fault_addr,
            access: Access::of_number(argument.access),
        })
    }

    /// Ends the queue, and returns whether that succeeded.
    ///
    /// # Errors
    ///
    /// [`QueueError`] with `ENOENT` (there is no such queue), `EINTR` (a fatal signal).
    pub fn destroy(mut self) -> Result<(), QueueError> {
        self.ours = false;
        self.end()
    }

    /// Drops this value and its reference to the open file, without ending the queue.
    pub fn abandon(mut self) {
        self.ours = false;
    }

    fn end(&self) -> Result<(), QueueError> {
        let mut argument = abi::dmirror_queue_destroy {
            size: size_of::<abi::dmirror_queue_destroy>() as u32,
            queue: self.number,
            ..Default::default()
        };
        self.send(Request::QueueDestroy, &mut argument)
    }

    fn send<T: Argument>(&self, request: Request, argument: &mut T) -> Result<(), QueueError> {
        self.entry
            .send(self.file.as_fd(), request, argument)
            .map_err(|errno| QueueError {
                request,
                queue: Some(self.number),
                errno,
            })
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if self.ours {
            // A caller that needs the result calls `destroy`.
            let _ = self.end();
        }
    }
}

#[cfg(test)]
mod tests;
