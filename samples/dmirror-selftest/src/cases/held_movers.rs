// SPDX-License-Identifier: GPL-2.0

//! The operations that the cases of `held.` hold: commands, a CPU that touches pages, and engines.

use crate::prelude::*;
use crate::worker::Work;

/// The operation that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mover {
    /// MIGRATE_TO_DEV.
    Out,
    /// MIGRATE_TO_SYS.
    Back,
    /// A CPU that reads some pages, all over the memory, as a debugger does it.
    Fault,
    /// RELEASE.
    Release,
    /// READ.
    Read,
    /// EXCLUSIVE.
    Exclusive,
    /// An engine, which adds up the memory.
    Sum,
    /// An engine, which adds 0 to a word of each page.
    Add,
    /// An engine, by PREFETCH.
    Fetch,
    /// An engine, by PREFETCH to the system.
    SendBack,
}

impl Mover {
    /// Returns whether the pages are on the device before the operation.
    pub(super) fn begins_there(self) -> bool {
        use Mover::*;
        matches!(self, Back | Fault | Release | SendBack)
    }

    /// Returns whether the device has mapped the pages before, in which case it misses none.
    pub(super) fn finds_it_mapped(self) -> bool {
        !matches!(self, Self::Read | Self::Sum | Self::Add)
    }

    /// Returns the packets for an engine, or `None` if no engine does the operation.
    pub(super) fn work(self, context: &Context, memory: &Memory) -> Result<Option<Work>> {
        let (start, len) = (memory.region.addr(), memory.region.len() as u64);
        if !matches!(self, Self::Sum | Self::Add | Self::Fetch | Self::SendBack) {
            return Ok(None);
        }
        let worker = Worker::new(context)?;
        let packets = match self {
            Self::Fetch => vec![Packet::prefetch(start, len)],
            Self::SendBack => vec![Packet::prefetch_to_system(start, len)],
            Self::Add => {
                let words = (start..start + len).step_by(page_size());
                let add = |word| Packet::add(Width::Eight, word, 0, 1, 0);
                words.map(add).collect()
            }
            _ => vec![Packet::sum(worker.result(), start, len)],
        };
        Ok(Some(worker.prepare(&packets)))
    }

    /// Performs the operation on the memory of the process `opener`; an engine executes the packets
    /// of `work`.
    pub(super) fn act(
        self,
        device: &Device,
        memory: &Memory,
        opener: u32,
        work: Option<&Work>,
    ) -> Result<()> {
        if let Some(work) = work {
            // The job may fail: parts of the memory may be gone, or read-only.
            return work.run().map(drop);
        }
        let range = memory.region.range();
        let mut view = vec![0xa5; memory.region.len()];
        let answer = match self {
            Self::Out => device.migrate_to_device(range, &mut view),
            Self::Back => device.migrate_to_system(range),
            Self::Release => device.release(),
            Self::Read => device.read(range, &mut view),
            Self::Exclusive => device.exclusive(range, &mut view),
            Self::Fault => {
                // Each touch may be held. Parts of the memory may be gone.
                const TOUCHES: usize = 4;
                let file = File::open(format!("/proc/{opener}/mem"))?;
                let step = memory.region.pages().div_ceil(TOUCHES);
                for page in memory.all().step_by(step) {
                    let at = memory.region.addr() + (page * page_size()) as u64;
                    let _ = file.read_exact_at(&mut view[..page_size()], at);
                }
                return Ok(());
            }
            Self::Sum | Self::Add | Self::Fetch | Self::SendBack => return Ok(()),
        };
        // The pages may be held by others, gone, or read-only by now.
        let may_be = [Errno::ENOENT, Errno::EBUSY, Errno::EINVAL, Errno::EFAULT];
        unless(answer, &may_be)
    }
}
