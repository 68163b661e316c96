// SPDX-License-Identifier: GPL-2.0

//! `/dev/hmm_ivshmem`, and its driver in sysfs.

use std::fs;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::Result;
use dmirror_client::Errno;
use dmirror_client::Region;
use nix::libc;
use nix::request_code_readwrite;

use crate::abi;
use crate::abi::Request;

const PATH: &str = "/dev/hmm_ivshmem";
const DRIVER: &str = "/sys/bus/pci/drivers/ivshmem";

/// The result of a command, and the number of pages that it had moved by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) result: Result<(), Errno>,
    pub(crate) moved: u64,
}

/// An open device file.
pub(crate) struct Device(File);

impl Device {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self(File::options().read(true).write(true).open(PATH)?))
    }

    pub(crate) fn to_device(&self, region: &Region) -> Outcome {
        self.command(abi::TO_DEVICE, region.addr(), region.pages() as u64)
    }

    pub(crate) fn to_system(&self, region: &Region) -> Outcome {
        self.command(abi::TO_SYSTEM, region.addr(), region.pages() as u64)
    }

    #[expect(unsafe_code, reason = "the one place that asks the driver")]
    pub(crate) fn command(&self, number: u8, address: u64, npages: u64) -> Outcome {
        let mut request = Request {
            address,
            npages,
            moved: u64::MAX,
        };
        let code = request_code_readwrite!(abi::IOC_TYPE, number, size_of::<Request>());
        // SAFETY: The command reads and writes a `Request`, which this is. What it does to the
        // pages of this process does not change their content.
        let answer = unsafe { libc::ioctl(self.0.as_raw_fd(), code, &raw mut request) };
        Outcome {
            result: Errno::result(answer).map(drop),
            moved: request.moved,
        }
    }

    /// Returns the number of pages on the device that are accounted to this file.
    pub(crate) fn pages(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.0.as_raw_fd()))?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("hmm-pages:"));
        Ok(line.context("fdinfo has no hmm-pages")?.trim().parse()?)
    }
}

/// Returns whether the device file exists.
pub(crate) fn file_is_there() -> bool {
    Path::new(PATH).exists()
}

/// Returns the folders in sysfs of the PCI devices that are bound to the driver.
pub(crate) fn bound() -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(DRIVER)?;
    let entries = entries.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(entries
        .filter(|path| path.join("vendor").exists())
        .collect())
}

/// Returns the folders in sysfs of the PCI devices of the kind, bound or not.
pub(crate) fn present() -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir("/sys/bus/pci/devices")?;
    let entries = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_one = |path: &PathBuf| {
        fs::read_to_string(path.join("modalias"))
            .is_ok_and(|alias| alias.starts_with("pci:v00001AF4d00001110"))
    };
    Ok(entries.filter(is_one).collect())
}

/// Tells the driver to `bind` or `unbind` the device in a folder of sysfs.
pub(crate) fn tell_driver(what: &str, device: &Path) -> Result<()> {
    let name = device.file_name().context("a PCI device has a name")?;
    fs::write(Path::new(DRIVER).join(what), name.as_encoded_bytes())
        .with_context(|| format!("{what} {}", device.display()))
}
