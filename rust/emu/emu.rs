// SPDX-License-Identifier: GPL-2.0

//! RAM that emulates a device with memory of its own, for drivers on [`hmm`] without hardware.
//!
//! | module | contents |
//! | --- | --- |
//! | [`memory`], [`iomem`] | the memory of the device: taken from the system, or a reserved range |
//! | [`device`] | the device: its memory and its pages, and a copy engine that is a CPU |
//! | [`view`], [`fault`], [`pending`] | the device page table, and its use by the device |
//! | [`trace`] | events for perf, trace-cmd and bpftrace |
//! | [`stats`] | counters of the device's actions |
//! | [`device_file`], [`debugfs`], [`eventfd`], [`kthread`] | features the kernel crate lacks |
//! | [`memcg`], [`sched`], [`uaccess`] | more features the kernel crate lacks |
//!
//! # Locks
//!
//! The `mmap_lock` is taken first, then folio locks, then the update lock of a
//! [`View`](view::View). [`hmm`] describes the restrictions under each.

mod bindings;
#[path = "../compat/emu.rs"]
mod compat;
pub mod debugfs;
pub mod device;
pub mod device_file;
pub mod eventfd;
pub mod fault;
pub mod iomem;
pub mod kthread;
pub mod memcg;
pub mod memory;
mod node;
pub mod observer;
mod pages;
pub mod pending;
mod record;
pub mod sched;
pub mod stats;
mod table;
#[cfg(CONFIG_KUNIT = "y")]
mod tests;
pub mod trace;
pub mod uaccess;
pub mod view;
mod word;
