// SPDX-License-Identifier: GPL-2.0

//! dmirror: an emulated device with memory of its own, private or coherent.
//!
//! ```text
//! ioctl -> file -> request (checked words) -> access, migrate -> hmm -> C
//! CPU fault, last put, split: C -> hmm::DevPagemapOps -> device
//! ```
//!
//! No room calls back up, and all `unsafe` is in `hmm`. What user space sees is described in
//! `rust/uapi/dmirror.h`.

#![deny(unsafe_code)]

use emu::{device_file::DeviceFiles, iomem::PhysicalStart, memory::Memory};
use hmm::memremap::HPAGE_PMD_NR as BLOCK_PAGES;
use kernel::alloc::flags::GFP_KERNEL;
use kernel::page::PAGE_SHIFT;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::Arc;

mod access;
mod alloc;
mod config;
mod device;
mod file;
mod inject;
mod migrate;
mod pageset;
mod pool;
mod request;
#[cfg(CONFIG_KUNIT = "y")]
mod tests;
mod uapi;

use config::COHERENT_NODES;
use config::DEFAULT_CAPACITY;
use config::DEFAULT_SPM_SIZE;
use config::MAX_CAPACITY;
use config::PRIVATE_DEVICES;
use config::PRIVATE_NODES;
use config::REGION_NAME;
use device::Device;
use file::DmirrorFile;
use inject::Injection;

module! {
    type: DmirrorModule,
    name: "dmirror",
    authors: ["The dmirror authors"],
    description: "Emulated devices with memory of their own",
    license: "GPL",
    params: {
        capacity: u64 {
            default: 0,
            description: "Memory of each private device in bytes, a multiple of 2 MiB (default 512 MiB)",
        },
        vram_base: u64 {
            default: 0,
            description: "First physical address of memory kept for the private devices with memmap=",
        },
        vram_size: u64 {
            default: 0,
            description: "Size of that memory in bytes; each private device has an equal share",
        },
        spm_addr_dev0: u64 {
            default: 0,
            description: "Physical address of coherent memory for hmm_dmirror2, kept with memmap=",
        },
        spm_addr_dev1: u64 {
            default: 0,
            description: "Physical address of coherent memory for hmm_dmirror3, kept with memmap=",
        },
        spm_size: u64 {
            default: 0,
            description: "Size of each coherent memory in bytes, a multiple of 2 MiB (default 256 MiB)",
        },
    },
}

const BLOCK_BYTES: u64 = (BLOCK_PAGES * PAGE_SIZE) as u64;

/// The devices, from load to unload.
///
/// Dropping it removes the files; the last of them lets go of the device, which then brings its
/// pages back.
struct DmirrorModule {
    _files: DeviceFiles<DmirrorFile>,
}

impl kernel::Module for DmirrorModule {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let plan = MemoryPlan::from_params()?;
        let injection = Arc::pin_init(Injection::new(), GFP_KERNEL)?;
        let coherent = coherent_memory()?;
        let mut devices = KVec::new();
        let mut add = |memory, name| -> Result {
            let device = Device::new(memory, injection.clone())?;
            devices.push((name, Arc::new(device, GFP_KERNEL)?), GFP_KERNEL)?;
            Ok(())
        };
        for (nth, name) in PRIVATE_NODES.into_iter().enumerate() {
            add(plan.memory(nth)?, name)?;
        }
        for (memory, name) in coherent.into_iter().zip(COHERENT_NODES) {
            add(memory, name)?;
        }
        // Files last: they can be opened at once.
        Ok(Self {
            _files: DeviceFiles::new(devices)?,
        })
    }
}

/// The memory of the coherent devices: of none, or of both.
fn coherent_memory() -> Result<KVec<Memory>> {
    let starts = [
        module_parameters::spm_addr_dev0.value(),
        module_parameters::spm_addr_dev1.value(),
    ];
    let wanted = module_parameters::spm_size.value();
    let mut regions = KVec::new();
    if starts == [0; 2] {
        if wanted != 0 {
            pr_err!("spm_size={wanted:#x} needs spm_addr_dev0 and spm_addr_dev1\n");
            return Err(EINVAL);
        }
        return Ok(regions);
    }
    let size = if wanted == 0 {
        DEFAULT_SPM_SIZE
    } else {
        wanted
    };
    if starts.contains(&0) {
        pr_err!("spm_addr_dev0 and spm_addr_dev1 must be given together\n");
        return Err(EINVAL);
    }
    if starts.iter().any(|start| start % BLOCK_BYTES != 0)
        || size % BLOCK_BYTES != 0
        || size > MAX_CAPACITY
    {
        pr_err!("spm_addr_dev0, spm_addr_dev1 and spm_size must be multiples of {BLOCK_BYTES}, and spm_size not above {MAX_CAPACITY}\n");
        return Err(EINVAL);
    }
    for parameter in [
        &module_parameters::spm_addr_dev0,
        &module_parameters::spm_addr_dev1,
    ] {
        let start = PhysicalStart::from_parameter(parameter);
        let npages = (size >> PAGE_SHIFT) as usize;
        let memory = Memory::coherent(start, npages, REGION_NAME).inspect_err(|_| {
            let start = start.address();
            pr_err!("no coherent memory at {start:#x}: is it kept with memmap=?\n")
        })?;
        regions.push(memory, GFP_KERNEL)?;
    }
    Ok(regions)
}

/// Where the memory of the private devices comes from.
enum MemoryPlan {
    /// From the system, up to so many pages for each device.
    Reserve { npages: usize },
    /// A physical range, with so many pages for each device.
    Range { start: PhysicalStart, npages: usize },
}

impl MemoryPlan {
    fn from_params() -> Result<Self> {
        let capacity = module_parameters::capacity.value();
        let base = module_parameters::vram_base.value();
        let size = module_parameters::vram_size.value();
        if (base == 0) != (size == 0) {
            pr_err!("vram_base and vram_size must be given together\n");
            return Err(EINVAL);
        }
        if size == 0 {
            let capacity = if capacity == 0 {
                DEFAULT_CAPACITY
            } else {
                capacity
            };
            if capacity % BLOCK_BYTES != 0 || capacity > MAX_CAPACITY {
                pr_err!(
                    "capacity={capacity} is no multiple of {BLOCK_BYTES}, or above {MAX_CAPACITY}\n"
                );
                return Err(EINVAL);
            }
            return Ok(Self::Reserve {
                npages: (capacity >> PAGE_SHIFT) as usize,
            });
        }
        if capacity != 0 {
            pr_err!("capacity and vram_size exclude each other\n");
            return Err(EINVAL);
        }
        if size > MAX_CAPACITY || base.checked_add(size).is_none() {
            pr_err!(
                "vram_size={size:#x} is above {MAX_CAPACITY:#x}, or leaves the address space\n"
            );
            return Err(EINVAL);
        }
        let share = size / PRIVATE_DEVICES as u64;
        if base % BLOCK_BYTES != 0
            || share == 0
            || size % (PRIVATE_DEVICES as u64 * BLOCK_BYTES) != 0
        {
            pr_err!("vram_base must be a multiple of {BLOCK_BYTES}, vram_size of {PRIVATE_DEVICES} times that\n");
            return Err(EINVAL);
        }
        Ok(Self::Range {
            start: PhysicalStart::from_parameter(&module_parameters::vram_base),
            npages: (share >> PAGE_SHIFT) as usize,
        })
    }

    /// The memory of device `nth`, counted from 0.
    fn memory(&self, nth: usize) -> Result<Memory> {
        match *self {
            Self::Reserve { npages } => Memory::lazy(npages),
            Self::Range { start, npages } => {
                let start = start.offset((nth * npages * PAGE_SIZE) as u64)?;
                Memory::fixed(start, npages, REGION_NAME).inspect_err(|_| {
                    let start = start.address();
                    pr_err!("no memory for a device at {start:#x}: is it kept with memmap=?\n")
                })
            }
        }
    }
}
