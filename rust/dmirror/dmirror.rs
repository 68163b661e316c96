// SPDX-License-Identifier: GPL-2.0

//! dmirror: an emulated device with memory of its own, private or coherent.
//!
//! ```text
//! ioctl -> file -> access, migrate -> call -> device -> pool
//!                  commands -> queue <- engine -> exec -> access, migrate
//!                  commands -> advise -> client -> advice -> attributes
//! CPU fault, last put, split: C -> hmm -> emu -> device
//! ```
//!
//! An arrow points from the caller to the module that it calls. All `unsafe` is in `hmm` and `emu`.
//! `rust/uapi/dmirror.h` describes the interface to user space.

#![deny(unsafe_code)]

use emu::{
    debugfs::{DebugfsDir, DebugfsText},
    device_file::DeviceFiles,
    iomem::PhysicalStart,
    memory::Memory,
};
use hmm::compat::parameter;
use kernel::alloc::flags::GFP_KERNEL;
use kernel::page::PAGE_SHIFT;
use kernel::prelude::*;
use kernel::sync::Arc;

mod access;
mod advice;
mod advise;
mod alloc;
mod attributes;
mod blocks_file;
mod call;
mod client;
mod commands;
mod config;
mod device;
mod engine;
mod exec;
mod faults;
mod file;
mod hit_counter;
mod hits;
mod hooks;
mod inject;
mod migrate;
mod packet;
mod pages;
mod pageset;
mod params;
mod plan;
mod policy;
mod policy_file;
mod pool;
mod queue;
mod request;
mod reserve;
mod slice;
mod snapshot;
mod stats;
#[cfg(CONFIG_KUNIT = "y")]
mod tests;
mod thrash;
mod uapi;
mod window;

use blocks_file::BlocksFile;
use config::{COHERENT_NODES, PRIVATE_DEVICES, PRIVATE_NODES, REGION_NAME};
use device::{Device, RunningDevice};
use file::DmirrorFile;
use inject::Injection;
use pages::{BLOCK_PAGES, PAGE_SIZE};
use params::{BadParams, Params, Private, MAX_CAPACITY, MAX_ENGINES};
use policy_file::PolicyFile;

module! {
    type: DmirrorModule,
    name: "dmirror",
    authors: ["The dmirror authors"],
    description: "Emulated devices with memory of their own",
    license: "GPL",
    // Loading test_hmm by name loads this module if the kernel does not have that one.
    alias: ["test_hmm"],
    params: {
        capacity: u64 {
            default: 0,
            description: "Memory of each private device in bytes, a multiple of a huge page (default 512 MiB)",
        },
        vram_base: u64 {
            default: 0,
            description: "First physical address of reserved memory for the private devices",
        },
        vram_size: u64 {
            default: 0,
            description: "Size of that memory in bytes; each private device has an equal share",
        },
        spm_addr_dev0: u64 {
            default: 0,
            description: "Physical address of reserved memory for hmm_dmirror2",
        },
        spm_addr_dev1: u64 {
            default: 0,
            description: "Physical address of reserved memory for hmm_dmirror3",
        },
        spm_size: u64 {
            default: 0,
            description: "Size of each coherent memory in bytes, a multiple of a huge page (default 256 MiB)",
        },
        engines: u64 {
            default: 0,
            description: "Engines of each device, 1 to 16 (default 2)",
        },
    },
}

const BLOCK_BYTES: u64 = (BLOCK_PAGES * PAGE_SIZE) as u64;

/// The devices, from load to unload.
///
/// Dropping it removes the files, stops the engines, and drops the devices, which then move their
/// pages back.
struct DmirrorModule {
    // Dropped before the engines stop, so that nobody can create queues any more.
    _files: DeviceFiles<DmirrorFile>,
    _stats: KVec<DebugfsText<Device>>,
    _blocks: KVec<DebugfsText<BlocksFile>>,
    _policies: KVec<DebugfsText<PolicyFile>>,
    // Dropped last, since this drops the devices.
    _running: KVec<RunningDevice>,
}

impl kernel::Module for DmirrorModule {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let params = Params {
            capacity: parameter(&module_parameters::capacity),
            vram_base: parameter(&module_parameters::vram_base),
            vram_size: parameter(&module_parameters::vram_size),
            spm_addr_dev0: parameter(&module_parameters::spm_addr_dev0),
            spm_addr_dev1: parameter(&module_parameters::spm_addr_dev1),
            spm_size: parameter(&module_parameters::spm_size),
            engines: parameter(&module_parameters::engines),
        };
        let plan = params
            .validate(BLOCK_BYTES, PRIVATE_DEVICES as u64)
            .map_err(|bad| explain(&params, bad))?;
        let injection = Injection::new(DebugfsDir::new(c"dmirror")?);
        let injection = Arc::pin_init(injection, GFP_KERNEL)?;
        let mut devices = KVec::new();
        let mut stats = KVec::new();
        let mut blocks = KVec::new();
        let mut policies = KVec::new();
        let mut running = KVec::new();
        let mut add = |memory, name| -> Result {
            // The numbers follow the names of the files, which are in the same order.
            let number = devices.len() as u32;
            let device = Device::new(memory, injection.clone(), number, plan.engines)?;
            let device = Arc::new(device, GFP_KERNEL)?;
            running.push(RunningDevice::new(device.clone()), GFP_KERNEL)?;
            let folder = device.pagemap().ops().folder().clone();
            let policy = Arc::new(PolicyFile(device.clone()), GFP_KERNEL)?;
            policies.push(
                DebugfsText::new(folder.clone(), c"policy", policy),
                GFP_KERNEL,
            )?;
            let used = Arc::new(BlocksFile(device.clone()), GFP_KERNEL)?;
            blocks.push(
                DebugfsText::new(folder.clone(), c"blocks", used),
                GFP_KERNEL,
            )?;
            stats.push(
                DebugfsText::new(folder, c"stats", device.clone()),
                GFP_KERNEL,
            )?;
            devices.push((name, device), GFP_KERNEL)?;
            Ok(())
        };
        for (index, name) in PRIVATE_NODES.into_iter().enumerate() {
            add(private_memory(plan.private, index)?, name)?;
        }
        let starts = [
            &module_parameters::spm_addr_dev0,
            &module_parameters::spm_addr_dev1,
        ];
        for (start, name) in starts.into_iter().zip(COHERENT_NODES) {
            let Some(bytes) = plan.coherent else {
                break;
            };
            let start = PhysicalStart::from_parameter(start);
            add(reserved(Memory::coherent, start, bytes)?, name)?;
        }
        // The files come last: they can be opened at once.
        Ok(Self {
            _files: DeviceFiles::new(devices)?,
            _stats: stats,
            _blocks: blocks,
            _policies: policies,
            _running: running,
        })
    }
}

/// Creates the memory of private device `index`, counted from 0.
fn private_memory(plan: Private, index: usize) -> Result<Memory> {
    match plan {
        Private::Lazy { bytes } => Memory::lazy((bytes >> PAGE_SHIFT) as usize),
        Private::Range { share } => {
            let start = PhysicalStart::from_parameter(&module_parameters::vram_base);
            reserved(Memory::fixed, start.offset(index as u64 * share)?, share)
        }
    }
}

/// Creates memory from a range that was reserved.
fn reserved(
    make: fn(PhysicalStart, usize, &CStr) -> Result<Memory>,
    start: PhysicalStart,
    bytes: u64,
) -> Result<Memory> {
    make(start, (bytes >> PAGE_SHIFT) as usize, REGION_NAME).inspect_err(|_| {
        let start = start.address();
        pr_err!("no memory for a device at {start:#x}: was it kept from the system (memmap= or mem=)?\n")
    })
}

/// Logs the error in the parameters, and returns the error code.
fn explain(params: &Params, bad: BadParams) -> Error {
    let Params {
        capacity,
        vram_size,
        spm_size,
        engines,
        ..
    } = params;
    match bad {
        BadParams::HalfOfVram => pr_err!("vram_base and vram_size must be given together\n"),
        BadParams::Capacity => pr_err!(
            "capacity={capacity} is no multiple of {BLOCK_BYTES}, or above {MAX_CAPACITY}\n"
        ),
        BadParams::CapacityAndVram => pr_err!("capacity and vram_size exclude each other\n"),
        BadParams::VramSize => pr_err!(
            "vram_size={vram_size:#x} is above {MAX_CAPACITY:#x}, or leaves the address space\n"
        ),
        BadParams::VramAlignment => pr_err!(
            "vram_base must be a multiple of {BLOCK_BYTES}, vram_size of {PRIVATE_DEVICES} times that\n"
        ),
        BadParams::SpmSizeAlone => {
            pr_err!("spm_size={spm_size:#x} needs spm_addr_dev0 and spm_addr_dev1\n")
        }
        BadParams::HalfOfSpm => {
            pr_err!("spm_addr_dev0 and spm_addr_dev1 must be given together\n")
        }
        BadParams::Engines => pr_err!("engines={engines} is above {MAX_ENGINES}\n"),
        BadParams::Spm => pr_err!(
            "spm_addr_dev0, spm_addr_dev1 and spm_size must be multiples of {BLOCK_BYTES}, and spm_size not above {MAX_CAPACITY}\n"
        ),
    }
    EINVAL
}
