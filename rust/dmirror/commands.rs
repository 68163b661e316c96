// SPDX-License-Identifier: GPL-2.0

//! The commands with structs of their own, for queues and advice: copying to and from user space,
//! and dispatch.
//!
//! Locks: that of the table of queues. It is held for bookkeeping, and while a queue is created,
//! which may start the thread of an engine.

use core::mem::size_of;

use emu::{device::DeviceOps, eventfd::Eventfd};
use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    page::PAGE_SIZE,
    prelude::*,
    sync::{Arc, Mutex},
    uaccess::{UserPtr, UserSlice},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    advise::{self, DeviceOf},
    client::Client,
    config::{MAX_DEPTH, MAX_PACKETS, MAX_QUEUES},
    packet::{self, PACKET_BYTES},
    queue::{AccessKind, Queue},
    uapi::{
        self, dmirror_advise_get, dmirror_advise_set, dmirror_query, dmirror_queue_create,
        dmirror_queue_destroy, dmirror_reset, dmirror_submit, dmirror_wait,
    },
};

/// A command for queues, or for advice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueCommand {
    Query,
    Create,
    Destroy,
    Submit,
    Wait,
    Reset,
    AdviseSet,
    AdviseGet,
}

impl QueueCommand {
    /// Each command, and its number in the ABI.
    const NUMBERS: [(Self, u32); 8] = [
        (Self::Query, uapi::DMIRROR_NR_QUERY),
        (Self::Create, uapi::DMIRROR_NR_QUEUE_CREATE),
        (Self::Destroy, uapi::DMIRROR_NR_QUEUE_DESTROY),
        (Self::Submit, uapi::DMIRROR_NR_SUBMIT),
        (Self::Wait, uapi::DMIRROR_NR_WAIT),
        (Self::Reset, uapi::DMIRROR_NR_RESET),
        (Self::AdviseSet, uapi::DMIRROR_NR_ADVISE_SET),
        (Self::AdviseGet, uapi::DMIRROR_NR_ADVISE_GET),
    ];

    /// The first of the numbers: those of test_hmm's commands are below it.
    const FIRST: u32 = {
        let mut first = u32::MAX;
        let mut at = 0;
        while at < Self::NUMBERS.len() {
            if Self::NUMBERS[at].1 < first {
                first = Self::NUMBERS[at].1;
            }
            at += 1;
        }
        first
    };

    /// Returns the command for a number that `ioctl(2)` received. The size in the number is that of
    /// the struct as the program knows it, and the struct itself contains it as well.
    pub(crate) fn from_number(cmd: u32) -> Option<Self> {
        const SIZE: u32 = kernel::uapi::_IOC_SIZEMASK << kernel::uapi::_IOC_SIZESHIFT;
        // Keep the commands of test_hmm fast.
        if cmd & kernel::uapi::_IOC_NRMASK < Self::FIRST {
            return None;
        }
        let is_it = |&&(_, nr): &&(Self, u32)| crate::file::number(nr) & !SIZE == cmd & !SIZE;
        Self::NUMBERS
            .iter()
            .find(is_it)
            .map(|&(command, _)| command)
    }
}

/// The struct of a command.
trait Argument: FromBytes + IntoBytes + Immutable + Copy {
    /// The size of the struct's first version.
    const FIRST: usize;

    fn flags(&self) -> u32;
}

macro_rules! arguments {
    ($($name:ident: $first:expr,)*) => {
        $(impl Argument for $name {
            const FIRST: usize = $first;

            fn flags(&self) -> u32 {
                self.flags
            }
        })*
    };
}

arguments! {
    dmirror_query: 48,
    dmirror_queue_create: 24,
    dmirror_queue_destroy: 16,
    dmirror_submit: 32,
    dmirror_wait: 56,
    dmirror_reset: 16,
    dmirror_advise_set: 48,
    dmirror_advise_get: 56,
}

/// The largest struct of a program that is newer than the module, in bytes.
const MAX_SIZE: usize = 4096;

/// The struct of a command in user memory.
struct User {
    at: UserPtr,
    /// The size of the struct as the program knows it.
    size: usize,
}

impl User {
    /// Reads the struct of a command. No flags are defined yet, so any flag is refused.
    fn read<T: Argument>(at: UserPtr) -> Result<(Self, T)> {
        let size: u32 = UserSlice::new(at, size_of::<u32>()).reader().read()?;
        let user = Self {
            at,
            size: size as usize,
        };
        if user.size < T::FIRST {
            return Err(EINVAL);
        }
        if user.size > MAX_SIZE {
            return Err(E2BIG);
        }
        let mut reader = UserSlice::new(at, user.size).reader();
        let mut argument = T::new_zeroed();
        let known = user.size.min(size_of::<T>());
        reader.read_slice(&mut argument.as_mut_bytes()[..known])?;
        while !reader.is_empty() {
            if reader.read::<u8>()? != 0 {
                return Err(E2BIG);
            }
        }
        if argument.flags() != 0 {
            return Err(EINVAL);
        }
        Ok((user, argument))
    }

    /// Writes the struct back.
    fn write<T: Argument>(&self, argument: &T) -> Result {
        let known = self.size.min(size_of::<T>());
        let mut writer = UserSlice::new(self.at, known).writer();
        writer.write_slice(&argument.as_bytes()[..known])
    }
}

/// The queues of an open file. Dropping them ends the queues, without waiting for their jobs.
pub(crate) struct Queues {
    queues: KVec<(u32, Arc<Queue>)>,
    /// The number of the next queue.
    next: u32,
}

impl Queues {
    pub(crate) fn new() -> Self {
        Self {
            queues: KVec::new(),
            next: 1,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.queues.len()
    }

    fn get(&self, number: u32) -> Result<Arc<Queue>> {
        let found = self.queues.iter().find(|(own, _)| *own == number);
        found.map(|(_, queue)| queue.clone()).ok_or(ENOENT)
    }

    fn take(&mut self, number: u32) -> Result<Arc<Queue>> {
        let found = self.queues.iter().position(|(own, _)| *own == number);
        let (_, queue) = self
            .queues
            .remove(found.ok_or(ENOENT)?)
            .map_err(|_| ENOENT)?;
        Ok(queue)
    }
}

impl Drop for Queues {
    fn drop(&mut self) {
        for (_, queue) in &self.queues {
            end(queue);
        }
    }
}

/// Ends a queue, and its running job.
fn end(queue: &Arc<Queue>) {
    queue.destroy();
    if let Ok(engine) = queue.client().device().engine(queue.engine()) {
        engine.remove(queue);
    }
}

/// Executes a command.
///
/// May sleep; WAIT sleeps for as long as the caller requests.
///
/// # Errors
///
/// As `rust/uapi/dmirror.h` lists them.
pub(crate) fn run(
    command: QueueCommand,
    client: &Arc<Client>,
    queues: &Mutex<Queues>,
    device_of: DeviceOf<'_>,
    at: UserPtr,
) -> Result {
    match command {
        QueueCommand::Query => query(client, at),
        QueueCommand::Create => create(client, queues, at),
        QueueCommand::Destroy => {
            let (_, argument) = User::read::<dmirror_queue_destroy>(at)?;
            check_unused(argument.pad)?;
            let queue = queues.lock().take(argument.queue)?;
            end(&queue);
            client.device().engine(queue.engine())?.wait_for(&queue)
        }
        QueueCommand::Submit => {
            let (user, mut argument) = User::read::<dmirror_submit>(at)?;
            let npackets = argument.npackets;
            if npackets == 0
                || npackets > MAX_PACKETS
                || argument.packets % PACKET_BYTES as u64 != 0
            {
                return Err(EINVAL);
            }
            let queue = queues.lock().get(argument.queue)?;
            argument.seqno = queue.submit(argument.packets, npackets.into())?;
            client.device().engine(queue.engine())?.kick();
            user.write(&argument)
        }
        QueueCommand::Wait => wait(queues, at),
        QueueCommand::Reset => {
            let (_, argument) = User::read::<dmirror_reset>(at)?;
            check_unused(argument.pad)?;
            check_unused(argument.pad2)?;
            client.device().reset();
            Ok(())
        }
        QueueCommand::AdviseSet => {
            let (_, argument) = User::read::<dmirror_advise_set>(at)?;
            advise::set(client, device_of, &argument)
        }
        QueueCommand::AdviseGet => {
            let (user, mut argument) = User::read::<dmirror_advise_get>(at)?;
            advise::get(client, &mut argument)?;
            user.write(&argument)
        }
    }
}

fn check_unused(member: u32) -> Result {
    if member != 0 {
        return Err(EINVAL);
    }
    Ok(())
}

fn query(client: &Client, at: UserPtr) -> Result {
    let (user, argument) = User::read::<dmirror_query>(at)?;
    let device = client.device();
    let pagemap = device.pagemap();
    let bytes = |pages: usize| (pages * PAGE_SIZE) as u64;
    user.write(&dmirror_query {
        size: argument.size,
        flags: 0,
        // CAST: At most MAX_ENGINES.
        engines: device.engines() as u32,
        max_depth: MAX_DEPTH,
        max_packets: MAX_PACKETS,
        opcodes: packet::OPCODES,
        memory: bytes(pagemap.npages()),
        free_memory: bytes(pagemap.ops().pool().room().pages),
        generation: device.generation(),
    })
}

fn create(client: &Arc<Client>, queues: &Mutex<Queues>, at: UserPtr) -> Result {
    let (user, mut argument) = User::read::<dmirror_queue_create>(at)?;
    if argument.queue != 0 || argument.depth == 0 || argument.depth > MAX_DEPTH {
        return Err(EINVAL);
    }
    let device = client.device();
    let place = match argument.engine {
        uapi::DMIRROR_ENGINE_ANY => device.idlest_engine()?,
        place => place as usize,
    };
    let engine = device.engine(place)?;
    let eventfd = match argument.eventfd {
        -1 => None,
        fd => Some(Eventfd::from_fd(fd)?),
    };
    let number = device.pagemap().ops().number();
    device.faults().start(fmt!("dmirror{number}/f"))?;
    let mut table = queues.lock();
    if table.len() >= MAX_QUEUES {
        return Err(EMFILE);
    }
    // Numbers are not reused.
    let own = table.next;
    let next = own.checked_add(1).ok_or(EMFILE)?;
    table.queues.reserve(1, GFP_KERNEL_ACCOUNT)?;
    let queue = Queue::new(client.clone(), own, place, argument.depth as usize, eventfd)?;
    engine.add(queue.clone(), fmt!("dmirror{number}/{place}"))?;
    argument.queue = own;
    table.next = next;
    table
        .queues
        .push((argument.queue, queue), GFP_KERNEL_ACCOUNT)?;
    drop(table);
    let written = user.write(&argument);
    if written.is_err() {
        // User space would not know the number of the queue.
        let queue = queues.lock().take(argument.queue);
        if let Ok(queue) = queue {
            end(&queue);
        }
    }
    written
}

fn wait(queues: &Mutex<Queues>, at: UserPtr) -> Result {
    let (user, mut argument) = User::read::<dmirror_wait>(at)?;
    check_unused(argument.pad)?;
    let queue = queues.lock().get(argument.queue)?;
    let outcome = queue.wait(argument.seqno, argument.timeout_ns)?;
    let failure = outcome.failure;
    argument.executed = outcome.executed;
    argument.error = failure.map_or(0, |failure| failure.error.to_errno().unsigned_abs());
    argument.fault_addr = failure.map_or(0, |failure| failure.address);
    argument.access = failure
        .map_or(AccessKind::None, |failure| failure.access)
        .number();
    user.write(&argument)
}
