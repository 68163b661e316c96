// SPDX-License-Identifier: GPL-2.0

//! Swap areas on block devices.

use std::fs::File;
use std::io;
use std::io::Seek;
use std::io::SeekFrom;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use nix::libc;

use crate::range::page_size;
use crate::sys::swap;

/// The label of the area in its header, by which a later run recognises it.
const LABEL: &[u8; 16] = b"dmirror-client\0\0";

/// Offsets into the header page (union swap_header of the kernel).
const VERSION_AT: usize = 1024;
const LAST_PAGE_AT: usize = 1028;
const LABEL_AT: usize = 1052;
const MAGIC: &[u8; 10] = b"SWAPSPACE2";

/// A block device that the kernel swaps to, until this is dropped.
#[derive(Debug)]
pub struct SwapArea {
    path: PathBuf,
    pages: u64,
    on: bool,
}

impl SwapArea {
    /// Creates a swap area on the block device at `path`, and switches it on.
    ///
    /// # Errors
    ///
    /// `ResourceBusy` if something uses the device; `AlreadyExists` if its first page is not empty,
    /// since it may contain data; the error of opening the device or of swapon.
    pub fn on_blank(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let mut device = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_EXCL)
            .open(path)?;
        let mut header = vec![0; page_size()];
        device.read_exact_at(&mut header, 0)?;
        let ours = header[LABEL_AT..][..LABEL.len()] == *LABEL;
        if !ours && header.iter().any(|byte| *byte != 0) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let pages = device.seek(SeekFrom::End(0))? / page_size() as u64;
        let last = u32::try_from(pages.saturating_sub(1)).map_err(io::Error::other)?;

        header.fill(0);
        header[VERSION_AT..][..4].copy_from_slice(&1_u32.to_ne_bytes());
        header[LAST_PAGE_AT..][..4].copy_from_slice(&last.to_ne_bytes());
        header[LABEL_AT..][..LABEL.len()].copy_from_slice(LABEL);
        let magic_at = page_size() - MAGIC.len();
        header[magic_at..].copy_from_slice(MAGIC);
        device.write_all_at(&header, 0)?;
        device.sync_all()?;
        drop(device);
        swap::on(path)?;
        Ok(Self {
            path: path.to_owned(),
            // The first page is the header.
            pages: pages - 1,
            on: true,
        })
    }

    /// Returns the number of pages of the area.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Moves swapped pages back to memory, and switches the area off.
    ///
    /// # Errors
    ///
    /// The error of swapoff.
    pub fn off(mut self) -> io::Result<()> {
        self.on = false;
        swap::off(&self.path)?;
        self.wipe()
    }

    fn wipe(&self) -> io::Result<()> {
        let device = File::options().write(true).open(&self.path)?;
        device.write_all_at(&vec![0; page_size()], 0)
    }
}

impl Drop for SwapArea {
    fn drop(&mut self) {
        if self.on && swap::off(&self.path).is_ok() {
            let _ = self.wipe();
        }
    }
}
