// SPDX-License-Identifier: GPL-2.0

//! Client library of dmirror, an emulated device with private memory.
//!
//! It implements the ABI of `rust/uapi/dmirror.h`, from which its numbers and layouts are
//! generated, with typed calls and typed errors. It provides memory to use them on. For the places
//! of pages, it asks the kernel, not the module.
//!
//! | module | for |
//! | --- | --- |
//! | [`device`] | an open `/dev/hmm_dmirror*` and its commands |
//! | [`attach`] | devices for the memory of another program |
//! | [`advice`] | the preferred location of memory, and its access by engines |
//! | [`queue`] | queues of jobs, which the engines of a device execute |
//! | [`policy`] | the handling of pages that the engines of a device miss |
//! | [`packet`] | the operations of the engines |
//! | [`program`] | packets for tests: random ones, malformed ones |
//! | [`interpreter`] | the effect of packets on memory: the oracle of tests |
//! | [`range`] | page-aligned ranges of an address space |
//! | [`region`] | anonymous and file mappings owned by a value |
//! | [`pattern`] | data that shows which page and which round it belongs to |
//! | [`map`] | the places of the memory of any process, mapping by mapping |
//! | [`place`] | the places of pages, from `/proc/PID/pagemap`, `/proc/iomem`, `smaps` |
//! | [`module`] | the kernel module's state, unloading and loading it |
//! | [`node`] | the existing devices, and the processes that have them open |
//! | [`process`] | child processes |
//! | [`trace`] | the module's trace events, in a trace buffer of its own |
//! | [`swap`] | swap areas on block devices |
//! | [`uffd`] | faults handled by the program itself |
//!
//! All unsafe code is in one private module, `sys`.
//!
//! # Examples
//!
//! ```no_run
//! use dmirror_client::{Device, Pattern, Region, Survey};
//!
//! let device = Device::open("/dev/hmm_dmirror0")?;
//! let region = Region::anonymous(16)?;
//! let data = Pattern::new(&region, 1);
//! data.fill(&region, 0..16);
//!
//! let mut view = vec![0; region.len()];
//! let moved = device.migrate_to_device(region.range(), &mut view)?;
//! assert_eq!(moved.pages, 16);
//! assert_eq!(Survey::of(region.range())?.on_device(), 16);
//! data.check_bytes(&view, 0)?;
//!
//! data.check(&region, 0..16)?; // the CPU reads: the pages come back
//! assert_eq!(Survey::of(region.range())?.on_device(), 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod abi;
pub mod advice;
pub mod attach;
#[cfg(target_arch = "x86_64")]
mod compat;
pub mod device;
pub mod interpreter;
pub mod map;
mod mman;
pub mod module;
pub mod node;
mod outcome;
pub mod packet;
pub mod pattern;
pub mod place;
pub mod policy;
pub mod process;
pub mod program;
pub mod queue;
pub mod range;
pub mod region;
pub mod stats;
pub mod swap;
#[expect(unsafe_code, reason = "the one module where it is allowed")]
mod sys;
pub mod trace;
pub mod uffd;

pub use device::CallError;
pub use device::Command;
pub use device::Counts;
pub use device::Device;
pub use device::Room;
pub use module::Module;
pub use nix::errno::Errno;
pub use nix::sys::eventfd::EventFd;
pub use nix::sys::signal::Signal;
pub use packet::Packet;
pub use pattern::Pattern;
pub use place::Place;
pub use place::Survey;
pub use policy::Policy;
pub use process::Child;
pub use process::Exit;
pub use process::fork_child;
pub use queue::Queue;
pub use queue::QueueError;
pub use range::PageRange;
pub use range::{hpage_pmd_nr, hpage_pmd_size, page_size};
pub use region::Region;
pub use stats::FileStats;
pub use stats::Stats;
pub use swap::SwapArea;
pub use sys::memory::nodes_of;
pub use sys::playground::Playground;
pub use sys::query::Scan;
pub use sys::query::Scanned;
pub use sys::query::mincore;
pub use sys::query::pagemap_scan;
pub use sys::query::pagemap_scan_of;
pub use sys::ring::Ring;
pub use sys::ring::Transfer;
pub use sys::secret_file;
pub use sys::signal::Restart;
pub use sys::signal::count_signals;
pub use sys::signal::count_signals_as;
pub use sys::signal::default_signal;
pub use sys::signal::signals_counted;
pub use sys::signal::use_signal_stack;
pub use uffd::Uffd;
