// SPDX-License-Identifier: GPL-2.0

//! Module parameters: their meaning and validation. Pure logic, no kernel calls.

/// Memory of a private device in bytes, if the module parameter `capacity` is not given.
pub(crate) const DEFAULT_CAPACITY: u64 = 512 << 20;

/// Memory of a coherent device in bytes, if the module parameter `spm_size` is not given: the same
/// as in test_hmm.
pub(crate) const DEFAULT_SPM_SIZE: u64 = 256 << 20;

/// Maximum memory of a device, in bytes; the kernel's own limits are not much higher.
pub(crate) const MAX_CAPACITY: u64 = 1 << 40;

/// Number of engines of a device, if the module parameter `engines` is not given.
pub(crate) const DEFAULT_ENGINES: u64 = 2;

/// Maximum number of engines of a device.
pub(crate) const MAX_ENGINES: usize = 16;

/// The parameters as given, in bytes except for `engines`; 0 for those that were not given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Params {
    pub(crate) capacity: u64,
    pub(crate) vram_base: u64,
    pub(crate) vram_size: u64,
    pub(crate) spm_addr_dev0: u64,
    pub(crate) spm_addr_dev1: u64,
    pub(crate) spm_size: u64,
    pub(crate) engines: u64,
}

/// The source of the memory of the private devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Private {
    /// From the system, up to `bytes` for each device.
    Lazy { bytes: u64 },
    /// From the range at `vram_base`, of which each device gets `share` bytes.
    Range { share: u64 },
}

/// The devices to create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DevicePlan {
    pub(crate) private: Private,
    /// The number of bytes of each coherent device, if there are any.
    pub(crate) coherent: Option<u64>,
    /// Number of engines of each device.
    pub(crate) engines: usize,
}

/// Error: the parameters are invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadParams {
    /// Only one of `vram_base` and `vram_size` is given.
    HalfOfVram,
    /// `capacity` is not a multiple of a block, or too large.
    Capacity,
    /// `capacity` and `vram_size` are both given.
    CapacityAndVram,
    /// `vram_size` is too large, or the range exceeds the address space.
    VramSize,
    /// `vram_base` or `vram_size` is not aligned.
    VramAlignment,
    /// `spm_size` is given without addresses.
    SpmSizeAlone,
    /// Only one of the two addresses of coherent memory is given.
    HalfOfSpm,
    /// An address or the size of coherent memory is not aligned, or too large.
    Spm,
    /// There are too many engines.
    Engines,
}

impl Params {
    /// Returns the devices to create, for blocks of `block` bytes and `devices` private devices.
    pub(crate) fn validate(&self, block: u64, devices: u64) -> Result<DevicePlan, BadParams> {
        let private = self.private(block, devices)?;
        let coherent = self.coherent(block)?;
        let engines = or_default(self.engines, DEFAULT_ENGINES);
        if engines > MAX_ENGINES as u64 {
            return Err(BadParams::Engines);
        }
        Ok(DevicePlan {
            private,
            coherent,
            // CAST: At most MAX_ENGINES.
            engines: engines as usize,
        })
    }

    fn private(&self, block: u64, devices: u64) -> Result<Private, BadParams> {
        if (self.vram_base == 0) != (self.vram_size == 0) {
            return Err(BadParams::HalfOfVram);
        }
        if self.vram_size == 0 {
            let bytes = or_default(self.capacity, DEFAULT_CAPACITY);
            if bytes % block != 0 || bytes > MAX_CAPACITY {
                return Err(BadParams::Capacity);
            }
            return Ok(Private::Lazy { bytes });
        }
        if self.capacity != 0 {
            return Err(BadParams::CapacityAndVram);
        }
        if self.vram_size > MAX_CAPACITY || self.vram_base.checked_add(self.vram_size).is_none() {
            return Err(BadParams::VramSize);
        }
        if self.vram_base % block != 0 || self.vram_size % (devices * block) != 0 {
            return Err(BadParams::VramAlignment);
        }
        Ok(Private::Range {
            share: self.vram_size / devices,
        })
    }

    fn coherent(&self, block: u64) -> Result<Option<u64>, BadParams> {
        let starts = [self.spm_addr_dev0, self.spm_addr_dev1];
        if starts == [0; 2] {
            return match self.spm_size {
                0 => Ok(None),
                _ => Err(BadParams::SpmSizeAlone),
            };
        }
        if starts.contains(&0) {
            return Err(BadParams::HalfOfSpm);
        }
        let size = or_default(self.spm_size, DEFAULT_SPM_SIZE);
        let is_aligned = starts.iter().all(|start| start % block == 0) && size % block == 0;
        if !is_aligned || size > MAX_CAPACITY {
            return Err(BadParams::Spm);
        }
        Ok(Some(size))
    }
}

fn or_default(value: u64, default: u64) -> u64 {
    if value == 0 {
        default
    } else {
        value
    }
}
