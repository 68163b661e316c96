// SPDX-License-Identifier: GPL-2.0

//! The common imports of the case files, for a glob import.

pub use std::fs::File;
pub use std::os::unix::fs::FileExt;
pub use std::time::{Duration, Instant};
pub use std::{fs, thread};

pub use anyhow::{Context as _, Result, bail, ensure};
pub use dmirror_client::packet::Width;
pub use dmirror_client::region::{Advice, Protection};
pub use dmirror_client::{
    Device, Errno, Exit, Packet, PageRange, Region, Signal, Survey, hpage_pmd_nr, hpage_pmd_size,
    page_size,
};

pub use crate::cases::WithEngines;
pub(crate) use crate::cases::cases;
pub use crate::check::*;
pub use crate::context::*;
pub use crate::inject::Delay;
pub use crate::memory::*;
pub use crate::settings::Policy;
pub use crate::worker::{PATIENCE, Worker};
