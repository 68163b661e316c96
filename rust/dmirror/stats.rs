// SPDX-License-Identifier: GPL-2.0

//! What a device tells about itself: `/sys/kernel/debug/dmirror/NODE/memory`.
//!
//! Each line is a name and a number. The debugfs of a system is root's, and no part of the ABI.

use kernel::alloc::flags::GFP_KERNEL;
use kernel::debugfs::Dir;
use kernel::debugfs::File;
use kernel::prelude::*;
use kernel::sync::Arc;

use crate::alloc::BLOCK_PAGES;
use crate::device::Device;

/// The debugfs file of a device; it goes on drop.
pub(crate) struct Stats {
    _file: Pin<KBox<File<Arc<Device>>>>,
    _dir: Dir,
}

impl Stats {
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn new(parent: &Dir, name: &CStr, device: &Arc<Device>) -> Result<Self> {
        let dir = parent.subdir(name);
        let file = dir.read_callback_file(c"memory", device.clone(), &show_memory);
        Ok(Self {
            _file: KBox::pin_init(file, GFP_KERNEL)?,
            _dir: dir,
        })
    }
}

fn show_memory(device: &Arc<Device>, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
    let npages = device.pagemap().region().npages();
    let room = device.pagemap().ops().pool().room();
    writeln!(f, "pages {npages}")?;
    writeln!(f, "free_pages {}", room.pages)?;
    writeln!(f, "blocks {}", npages / BLOCK_PAGES)?;
    writeln!(f, "free_blocks {}", room.blocks)
}
