// SPDX-License-Identifier: GPL-2.0

//! What an open file and the queues made with it share: an address space, as a device sees it.

use core::ops::Range;

use emu::{observer::UnmapObserver, trace, view::View};
use hmm::counter::Counter;
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
    /// The address space of the opener, which this keeps from being freed, but not alive.
    mm: ARef<Mm>,
    #[pin]
    view: View<DeviceMemory>,
    /// What the view tells of unmapped ranges.
    advice: Arc<Advice>,
    /// A number that no other open file has.
    number: u64,
    /// The process of the opener.
    pid: i32,
    /// What has moved for it.
    pub(crate) stats: FileStats,
    /// How often engines use what they have mapped where it is.
    pub(crate) hits: Hits<HitCounter>,
    /// What engines and CPUs take from each other.
    #[pin]
    pub(crate) thrashing: SpinLock<Thrashing>,
    /// How long what engines have fetched stays.
    #[pin]
    pub(crate) slices: SpinLock<Slices>,
    /// Nanoseconds that each engine has worked for it.
    pub(crate) busy_ns: [Counter; MAX_ENGINES],
}

impl Client {
    /// Makes the view that a device has of an address space, that of the process which runs.
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
            pid: current!().tgid(),
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

    /// Changes what is advised for a range (bytes, page aligned, the end exclusive). The device
    /// forgets what it has mapped there. When this returns no engine accesses what it must not.
    ///
    /// May sleep. Takes the `mmap_lock` for reading.
    ///
    /// # Errors
    ///
    /// As for [`Advice::set`]; [`EFAULT`] when the address space is gone.
    pub(crate) fn advise(&self, range: Range<usize>, change: &Change) -> Result {
        let users = self.users().ok_or(EFAULT)?;
        self.advice.set(&users, range.clone(), change)?;
        self.view.clear(range);
        Ok(())
    }

    /// Returns what was advised for an address (bytes), and the whole range around it for which
    /// that is so.
    ///
    /// Does not sleep. It may change at any time, but not to that of another mapping of the address
    /// while the update lock is held.
    pub(crate) fn attributes_at(&self, address: usize) -> (Attributes, Range<usize>) {
        self.advice.at(address)
    }

    /// Returns up to where an engine may access a range (bytes, the end exclusive) at once. The
    /// update lock is held.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EACCES`] when it must not access the first byte.
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

    /// Returns how trace events call it.
    pub(crate) fn traced(&self) -> trace::engine::Client {
        trace::engine::Client {
            number: self.number,
            pid: self.pid,
        }
    }

    /// Returns the address space, if it has users still. They must not be let go of while the
    /// update lock or a folio lock is held.
    pub(crate) fn users(&self) -> Option<ARef<MmWithUser>> {
        self.mm.mmget_not_zero()
    }
}
