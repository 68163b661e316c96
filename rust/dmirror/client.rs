// SPDX-License-Identifier: GPL-2.0

//! A device's use of an address space, which an open file and its queues share.

use core::ops::Range;

use emu::{observer::UnmapObserver, trace, view::View};
use hmm::{compat::tgid, counter::Counter};
use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    mm::{Mm, MmWithUser},
    new_spinlock,
    prelude::*,
    sync::{aref::ARef, Arc, SpinLock},
};

use crate::{
    advice::Advice,
    attributes::{Attributes, Change, Reach},
    device::{Device, DeviceMemory},
    hit_counter::HitCounter,
    hits::Hits,
    params::MAX_ENGINES,
    slice::Slices,
    stats::{new_client, FileStats},
    thrash::Thrashing,
};

/// An address space, as a device sees it. It lives as long as its open file, and as long as an
/// engine works for it.
#[pin_data]
pub(crate) struct Client {
    device: Arc<Device>,
    /// The address space of the opener. This keeps it from being freed, but does not keep its
    /// users.
    mm: ARef<Mm>,
    #[pin]
    view: View<DeviceMemory>,
    /// Receives the unmapped ranges from the view.
    advice: Arc<Advice>,
    /// A number that no other open file has.
    number: u64,
    /// The process ID of the opener.
    pid: i32,
    /// Statistics of the pages that have moved for this client.
    pub(crate) stats: FileStats,
    /// Counts the accesses of engines to memory that is mapped where it is.
    pub(crate) hits: Hits<HitCounter>,
    /// Tracks the granules that engines and CPUs take from each other.
    #[pin]
    pub(crate) thrashing: SpinLock<Thrashing>,
    /// The time slices of the pages that engines have fetched.
    #[pin]
    pub(crate) slices: SpinLock<Slices>,
    /// Nanoseconds that each engine has worked for this client.
    pub(crate) busy_ns: [Counter; MAX_ENGINES],
}

impl Client {
    /// Creates a device's view of the address space of the current process.
    ///
    /// May sleep. Takes the `mmap_lock` for writing.
    pub(crate) fn new<'a>(
        device: &Arc<Device>,
        opener: &'a MmWithUser,
    ) -> impl PinInit<Self, Error> + 'a {
        let device = device.clone();
        try_pin_init!(Self {
            mm: ARef::<Mm>::from(&**opener),
            advice: Arc::pin_init(Advice::new(), GFP_KERNEL_ACCOUNT)?,
            view <- {
                let observer: Arc<dyn UnmapObserver> = advice.clone();
                View::new(opener, device.pagemap().clone(), Some(observer))
            },
            device,
            number: new_client(),
            pid: tgid(current!()),
            stats: FileStats::default(),
            hits: Hits::default(),
            thrashing <- new_spinlock!(Thrashing::default(), "Client::thrashing"),
            slices <- new_spinlock!(Slices::default(), "Client::slices"),
            busy_ns: core::array::from_fn(|_| Counter::default()),
        })
    }

    pub(crate) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    pub(crate) fn view(&self) -> &View<DeviceMemory> {
        &self.view
    }

    pub(crate) fn advice(&self) -> &Advice {
        &self.advice
    }

    /// Changes the advice for a range (bytes, page aligned, the end exclusive), and removes the
    /// device's mappings there. When this returns, no engine accesses memory that it must not
    /// access.
    ///
    /// May sleep. Takes the `mmap_lock` for reading.
    ///
    /// # Errors
    ///
    /// As for [`Advice::set`]; [`EFAULT`] when the address space has no users any more.
    pub(crate) fn advise(&self, range: Range<usize>, change: &Change) -> Result {
        let users = self.users().ok_or(EFAULT)?;
        self.advice.set(&users, range.clone(), change)?;
        self.view.clear(range);
        Ok(())
    }

    /// Returns the advice for an address (bytes), and the whole range around it that has the same
    /// advice.
    ///
    /// Does not sleep. The advice may change at any time; but while the update lock is held, it
    /// cannot become that of another mapping at the address.
    pub(crate) fn attributes_at(&self, address: usize) -> (Attributes, Range<usize>) {
        self.advice.at(address)
    }

    /// Returns the address up to which an engine may access a range (bytes, the end exclusive) in
    /// one piece. The caller must hold the update lock.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EACCES`] when the engine must not access the first byte.
    pub(crate) fn check_access(&self, range: Range<u64>) -> Result<u64> {
        if !self.advice.denies() {
            return Ok(range.end);
        }
        let start = usize::try_from(range.start).map_err(|_| EFAULT)?;
        let (attributes, same) = self.attributes_at(start);
        if attributes.reach == Reach::Denied {
            return Err(EACCES);
        }
        Ok(range.end.min(same.end as u64))
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Returns the client as trace events identify it.
    pub(crate) fn traced(&self) -> trace::engine::Client {
        trace::engine::Client {
            number: self.number,
            pid: self.pid,
        }
    }

    /// Returns the address space, if it still has users. The result must not be dropped while the
    /// update lock or a folio lock is held.
    pub(crate) fn users(&self) -> Option<ARef<MmWithUser>> {
        self.mm.mmget_not_zero()
    }
}
