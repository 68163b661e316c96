// SPDX-License-Identifier: GPL-2.0

//! Module parameters: what they mean, and whether they make sense. Pure logic, no kernel calls.

/// Memory of a private device in bytes, where the module parameter `capacity` gives no other.
pub(crate) const DEFAULT_CAPACITY: u64 = 512 << 20;

/// Memory of a coherent device in bytes, where the module parameter `spm_size` gives no other:
/// what test_hmm takes.
pub(crate) const DEFAULT_SPM_SIZE: u64 = 256 << 20;

/// The most memory that a device can be given, in bytes; the kernel's own bounds lie not far above.
pub(crate) const MAX_CAPACITY: u64 = 1 << 40;

/// Engines of a device, where the module parameter `engines` gives no other number.
pub(crate) const DEFAULT_ENGINES: u64 = 2;

/// The most engines of a device.
pub(crate) const MAX_ENGINES: usize = 16;

/// The parameters as they were given, in bytes but for `engines`; 0 where one was not.
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

/// Where the memory of the private devices comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Private {
    /// From the system, up to so many bytes for each device.
    Lazy { bytes: u64 },
    /// The range at `vram_base`, of which each device has a share of so many bytes.
    Range { share: u64 },
}

/// The devices to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DevicePlan {
    pub(crate) private: Private,
    /// The bytes of each coherent device, if there are any.
    pub(crate) coherent: Option<u64>,
    /// Engines of each device.
    pub(crate) engines: usize,
}

/// What is wrong with the parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadParams {
    /// One of `vram_base` and `vram_size` alone.
    HalfOfVram,
    /// `capacity` is no multiple of a block, or too large.
    Capacity,
    /// `capacity` and `vram_size` together.
    CapacityAndVram,
    /// `vram_size` is too large, or leaves the address space.
    VramSize,
    /// `vram_base` or `vram_size` is not aligned.
    VramAlignment,
    /// `spm_size` without addresses.
    SpmSizeAlone,
    /// One of the two addresses of coherent memory alone.
    HalfOfSpm,
    /// An address or the size of coherent memory is not aligned, or too large.
    Spm,
    /// Too many engines.
    Engines,
}

impl Params {
    /// Returns the devices to make, for blocks of `block` bytes and so many private devices.
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
