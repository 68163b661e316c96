// SPDX-License-Identifier: GPL-2.0

//! The file that shows how full each block of a device's memory is.

use emu::debugfs::Text;
use hmm::memremap::HPAGE_PMD_NR;
use kernel::{seq_file::SeqFile, seq_print, sync::Arc};

use crate::device::Device;

/// Number of blocks per line.
const LINE: usize = 32;

/// The file that lists the number of pages in use of each block, in the order of their frames.
pub(crate) struct BlocksFile(pub(crate) Arc<Device>);

impl Text for BlocksFile {
    type OwnerModule = crate::LocalModule;

    fn show(&self, m: &SeqFile) {
        let pagemap = self.0.pagemap();
        let blocks = pagemap.npages() / HPAGE_PMD_NR;
        for first in (0..blocks).step_by(LINE) {
            // Take the lock once per line, so that allocations do not have to wait for long.
            let used: [usize; LINE] = pagemap.ops().pool().used_from(first);
            for (nth, used) in used.iter().take(blocks - first).enumerate() {
                let between = if nth == 0 { "" } else { " " };
                seq_print!(m, "{between}{used}");
            }
            seq_print!(m, "\n");
        }
    }
}
