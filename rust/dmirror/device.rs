// SPDX-License-Identifier: GPL-2.0

//! A device: its pages, and what it does when mm calls.

use hmm::CpuFault;
use hmm::DevPagemap;
use hmm::DevPagemapOps;
use hmm::DevicePages;
use hmm::DeviceRegion;
use hmm::FaultAnswer;
use hmm::Vram;
use kernel::prelude::*;

use crate::config::REGION_NAME;
use crate::pool::Pool;

/// A device with private memory.
#[pin_data]
pub(crate) struct Device {
    #[pin]
    pagemap: DevPagemap<DeviceMemory>,
}

impl Device {
    /// A device whose memory is `vram`.
    pub(crate) fn new(vram: Vram) -> impl PinInit<Self, Error> {
        let npages = vram.npages();
        try_pin_init!(Self {
            pagemap <- DevPagemap::new(
                DeviceRegion::private(vram, REGION_NAME)?,
                DeviceMemory::new(npages),
            ),
        })
    }

    /// The pages of the device.
    pub(crate) fn pagemap(&self) -> &DevPagemap<DeviceMemory> {
        &self.pagemap
    }
}

/// The driver's side of the pages.
///
/// It belongs to the device alone: pages outlive the files and the processes that moved them.
#[pin_data]
pub(crate) struct DeviceMemory {
    #[pin]
    pool: Pool,
}

impl DeviceMemory {
    fn new(npages: usize) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            pool <- Pool::new(npages),
        })
    }

    /// The pages that are free.
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }
}

impl DevPagemapOps for DeviceMemory {
    fn folio_free(&self, pages: DevicePages) {
        self.pool.free(pages);
    }

    fn folio_split(&self, piece: DevicePages) {
        self.pool.split(piece);
    }

    fn migrate_to_ram(&self, fault: CpuFault<'_, Self>) -> FaultAnswer {
        let mut arrays = [[0; 1]; 2];
        let failure = match fault.collect(&mut arrays) {
            Ok(mut migration) => {
                let mut failure = None;
                for slot in migration.slots() {
                    failure = slot.fill_system().err();
                }
                drop(migration.commit());
                failure
            }
            Err(error) => Some(error),
        };
        match failure {
            // Either the page came back, or somebody else has a reference to it and is about to
            // bring it back or to let go of it.
            None => fault.retry(),
            Some(ENOMEM) => fault.out_of_memory(),
            Some(_) => fault.bus_error(),
        }
    }
}
