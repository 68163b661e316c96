// SPDX-License-Identifier: GPL-2.0

//! What an open file and the queues made with it share: an address space, as a device sees it.

use emu::view::View;
use hmm::counter::Counter;
use kernel::{
    mm::{Mm, MmWithUser},
    new_spinlock,
    prelude::*,
    sync::{aref::ARef, Arc, SpinLock},
};

use crate::{
    device::{Device, DeviceMemory},
    hits::Hits,
    params::MAX_ENGINES,
    slice::Slices,
    stats::{new_client, FileStats},
    thrash::Thrashing,
};

/// An address space, as a device sees it. It lives as long as its open file, and as long as an engine
/// works for it.
#[pin_data]
pub(crate) struct Client {
    device: Arc<Device>,
    /// The address space of the opener, which this keeps from being freed, but not alive.
    mm: ARef<Mm>,
    #[pin]
    view: View<DeviceMemory>,
    /// A number that no other open file has.
    number: u64,
    /// What has moved for it.
    pub(crate) stats: FileStats,
    /// How often engines use what they have mapped where it is.
    pub(crate) hits: Hits,
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
    /// Makes the view that a device has of an address space.
    ///
    /// May sleep. Takes the `mmap_lock` for writing.
    pub(crate) fn new<'a>(
        device: &Arc<Device>,
        opener: &'a MmWithUser,
    ) -> impl PinInit<Self, Error> + 'a {
        let device = device.clone();
        try_pin_init!(Self {
            mm: ARef::<Mm>::from(&**opener),
            view <- View::new(opener, device.pagemap().clone()),
            device,
            number: new_client(),
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

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Returns the address space, if it has users still. They must not be let go of while the
    /// update lock or a folio lock is held.
    pub(crate) fn users(&self) -> Option<ARef<MmWithUser>> {
        self.mm.mmget_not_zero()
    }
}
