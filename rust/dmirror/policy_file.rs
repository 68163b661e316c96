// SPDX-License-Identifier: GPL-2.0

//! The file with which root sets the policy of a device.

use emu::debugfs::Text;
use kernel::{prelude::*, seq_file::SeqFile, seq_print, sync::Arc};

use crate::{
    device::Device,
    policy::{Preset, PRESETS},
};

/// The file that shows the presets, with the one in brackets that the settings match, and that sets
/// the settings to another preset.
pub(crate) struct PolicyFile(pub(crate) Arc<Device>);

impl Text for PolicyFile {
    type OwnerModule = crate::LocalModule;

    const IS_WRITABLE: bool = true;

    fn show(&self, m: &SeqFile) {
        let current = self.0.pagemap().ops().preset();
        for preset in &PRESETS {
            if Some(preset.name) == current {
                seq_print!(m, "[{}] ", preset.name);
            } else {
                seq_print!(m, "{} ", preset.name);
            }
        }
        seq_print!(
            m,
            "{}\n",
            if current.is_some() {
                "custom"
            } else {
                "[custom]"
            }
        );
    }

    fn store(&self, text: &[u8]) -> Result {
        let preset = Preset::find(text).ok_or(EINVAL)?;
        self.0.pagemap().ops().apply(preset);
        Ok(())
    }
}
