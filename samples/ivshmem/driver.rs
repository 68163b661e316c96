// SPDX-License-Identifier: GPL-2.0

//! A driver for a PCI device whose BAR is memory, QEMU's `ivshmem-plain`: that memory becomes the
//! private memory of a device, to which processes move their pages.
//!
//! `/dev/hmm_ivshmem` has two commands, which move pages there and back ([`abi`]). When a CPU
//! touches a page on the device, the page moves back. The device can be unbound and unplugged while
//! pages are on it: they move back first. The directory at the start of its memory shows to
//! observers of the device which process each page belongs to.
//!
//! | file | contents |
//! | --- | --- |
//! | `driver.rs` | the PCI driver: bind, unbind |
//! | `device.rs` | the pages of the device, and their migration |
//! | `bar.rs` | the memory: its mapping, the directory, the copy engine |
//! | `file.rs` | the device file |
//! | `abi.rs` | the interfaces to programs and to observers |
//!
//! Documentation/porting.md leads a driver author from an empty module to this driver.
//!
//! dmirror has more: huge pages, eviction when the device is full, and a device page table. If the
//! device is removed without notice (neither by unbind, nor by an eject to which the system
//! agrees), its data is lost: a task that touches that data gets `SIGBUS`, and unbinding waits
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
    /// The bound device, which every task that opens the file gets.
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
                // Registered last: a task that opens the file finds a complete device.
                _file <- MiscDeviceRegistration::register(MiscDeviceOptions { name }),
                _claim: claim,
            }))
        })
    }
}

/// The state of a bound device. The driver core drops it when it unbinds the device, while the
/// driver still owns the BAR.
///
/// Fields are dropped in this order: first, the file can no longer be opened, then the pages move
/// back.
#[pin_data]
struct Bound {
    #[pin]
    _file: MiscDeviceRegistration<OpenFile>,
    _claim: Claim,
}

/// Registers a device as the bound one, until drop, which stops it.
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
        // Cleared last, so that a device that is probed meanwhile finds this one, and is refused.
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
        // SAFETY: This is called once, before the driver and its file are registered, and so before
        // anyone else can use the lock.
        unsafe { BOUND.init() };
        try_pin_init!(Self {
            _driver <- Registration::new(<Self as ModuleMetadata>::NAME, module),
        })
    }
}
