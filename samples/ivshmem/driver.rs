// SPDX-License-Identifier: GPL-2.0

//! A driver for a PCI device whose BAR is memory, QEMU's `ivshmem-plain`: that memory is the
//! private memory of a device, which processes move their pages to.
//!
//! `/dev/hmm_ivshmem` has two commands, to move pages there and back ([`abi`]). A CPU that touches
//! a page on the device brings it back. The device can be unbound and unplugged while pages are on
//! it: they come back first. At the start of its memory is a directory that says whose each page is,
//! for those who look at the device from outside.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `driver.rs` | the PCI driver: bind, unbind |
//! | `device.rs` | the pages of the device, and how they are moved |
//! | `bar.rs` | the memory: its mapping, the directory, the copy engine |
//! | `file.rs` | the device file |
//! | `abi.rs` | what others need to know |
//!
//! Documentation/porting.md takes a driver author from an empty module to this one.
//!
//! Left out, and to be found in dmirror: huge pages, eviction when the device is full, a page table
//! of the device. A device that goes without a word (not by unbind, and not by an eject that the
//! system agrees to) takes the data with it: who touches that gets `SIGBUS`, and unbinding waits
//! until nobody has such a page any more.

#![deny(unsafe_code)]

mod abi;
#[expect(
    unsafe_code,
    reason = "a part of the BAR, and copies between it and pages"
)]
mod bar;
mod device;
mod file;

use kernel::{
    device::Core,
    driver::Registration,
    miscdevice::{MiscDeviceOptions, MiscDeviceRegistration},
    pci,
    prelude::*,
    sync::Arc,
    InPlaceModule, ModuleMetadata,
};

use crate::{device::Device, file::OpenFile};

module! {
    type: Ivshmem,
    name: "ivshmem",
    authors: ["The dmirror authors"],
    description: "Device memory in the BAR of QEMU's ivshmem-plain",
    license: "GPL",
}

kernel::sync::global_lock! {
    /// The device that is bound, which whoever opens the file gets.
    // SAFETY: `Ivshmem::init` initialises it before anything can use it.
    unsafe(uninit) static BOUND: Mutex<Option<Arc<Device>>> = None;
}

kernel::pci_device_table!(
    PCI_TABLE,
    <Driver as pci::Driver>::IdInfo,
    [(
        pci::DeviceId::from_id(pci::Vendor::REDHAT_QUMRANET, 0x1110),
        ()
    )]
);

/// The PCI driver.
struct Driver;

impl pci::Driver for Driver {
    type IdInfo = ();
    type Data<'bound> = Bound;

    const ID_TABLE: pci::IdTable<Self::IdInfo> = &PCI_TABLE;

    fn probe<'bound>(
        pdev: &'bound pci::Device<Core<'_>>,
        _info: Option<&'bound ()>,
    ) -> impl PinInit<Bound, Error> + 'bound {
        pin_init::pin_init_scope(move || {
            let claim = Claim::new(pdev)?;
            let npages = claim.0.start(pdev)?;
            dev_info!(pdev, "{} pages of device memory\n", npages);
            let name = c"hmm_ivshmem";
            Ok(try_pin_init!(Bound {
                // Last: who opens the file finds a device that is complete.
                _file <- MiscDeviceRegistration::register(MiscDeviceOptions { name }),
                _claim: claim,
            }))
        })
    }
}

/// What is there while a device is bound. The driver core drops it when it unbinds the device,
/// while the BAR is still the driver's.
///
/// Fields are dropped in this order: first nobody can open the file any more, then the pages come
/// back.
#[pin_data]
struct Bound {
    #[pin]
    _file: MiscDeviceRegistration<OpenFile>,
    _claim: Claim,
}

/// Makes a device the one that is bound, until drop, which stops it.
struct Claim(Arc<Device>);

impl Claim {
    fn new(pdev: &pci::Device<Core<'_>>) -> Result<Self> {
        let device = Arc::pin_init(Device::new(), GFP_KERNEL)?;
        let mut bound = BOUND.lock();
        if bound.is_some() {
            dev_err!(
                pdev,
                "another device is bound; this driver takes one at a time\n"
            );
            return Err(EBUSY);
        }
        *bound = Some(device.clone());
        Ok(Self(device))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.stop();
        // Last, so that a device that comes meanwhile finds this one, and is refused.
        BOUND.lock().take();
    }
}

/// The module.
#[pin_data]
struct Ivshmem {
    #[pin]
    _driver: Registration<pci::Adapter<Driver>>,
}

impl InPlaceModule for Ivshmem {
    #[expect(unsafe_code, reason = "a lock that is a static")]
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        // SAFETY: This is called once, before the driver and its file are registered, so before
        // anybody else can use the lock.
        unsafe { BOUND.init() };
        try_pin_init!(Self {
            _driver <- Registration::new(<Self as ModuleMetadata>::NAME, module),
        })
    }
}
