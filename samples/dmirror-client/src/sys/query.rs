// SPDX-License-Identifier: GPL-2.0

//! What the kernel says of pages in answer to system calls.

use std::fs::File;
use std::os::fd::AsRawFd;

use linux_raw_sys::general::PAGE_IS_FILE;
use linux_raw_sys::general::PAGE_IS_PRESENT;
use linux_raw_sys::general::PAGE_IS_SOFT_DIRTY;
use linux_raw_sys::general::PAGE_IS_SWAPPED;
use linux_raw_sys::general::page_region;
use linux_raw_sys::general::pm_scan_arg;
use nix::errno::Errno;
use nix::libc;

use crate::range::PageRange;

/// Whether each page of `range` is in memory, by mincore(2).
///
/// # Errors
///
/// What the system call fails with: `ENOMEM` if a part is not mapped.
pub fn mincore(range: PageRange) -> Result<Vec<bool>, Errno> {
    let mut answer = vec![0; range.pages() as usize];
    let (at, len) = (range.addr() as *mut libc::c_void, range.bytes() as usize);
    // SAFETY: the kernel writes a byte a page to `answer`, which has as many. It
    // does not access the pages.
    Errno::result(unsafe { libc::mincore(at, len, answer.as_mut_ptr()) })?;
    Ok(answer.into_iter().map(|byte| byte & 1 != 0).collect())
}

/// What [`pagemap_scan`] looks for: bits out of `PAGE_IS_*` of linux/fs.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan(u32);

impl Scan {
    /// Pages of files.
    pub const FILE: Self = Self(PAGE_IS_FILE);
    /// Pages that the CPU can reach.
    pub const PRESENT: Self = Self(PAGE_IS_PRESENT);
    /// Pages that it cannot, since they are in swap space or elsewhere.
    pub const SWAPPED: Self = Self(PAGE_IS_SWAPPED);
    /// Pages written since the bits were cleared.
    pub const SOFT_DIRTY: Self = Self(PAGE_IS_SOFT_DIRTY);
}

/// Pages next to each other, which [`pagemap_scan`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// The first address.
    pub start: u64,
    /// The first address behind them.
    pub end: u64,
}

/// Finds the pages of `range` that are what `scan` says, by the ioctl
/// PAGEMAP_SCAN of `/proc/self/pagemap`.
///
/// # Errors
///
/// What opening the file and the ioctl fail with: `ENOTTY` on a kernel that has
/// none.
pub fn pagemap_scan(range: PageRange, scan: Scan) -> std::io::Result<Vec<Scanned>> {
    let file = File::open("/proc/self/pagemap")?;
    let nothing = page_region {
        start: 0,
        end: 0,
        categories: 0,
    };
    let mut found = vec![nothing; range.pages() as usize];
    let mut argument = pm_scan_arg {
        size: size_of::<pm_scan_arg>() as u64,
        flags: 0,
        start: range.addr(),
        end: range.end(),
        vec: found.as_mut_ptr() as u64,
        vec_len: found.len() as u64,
        walk_end: 0,
        max_pages: 0,
        category_inverted: 0,
        category_mask: scan.0.into(),
        category_anyof_mask: 0,
        return_mask: scan.0.into(),
    };
    let request = nix::request_code_readwrite!(b'f', 16, size_of::<pm_scan_arg>());
    // SAFETY: the request names a struct of this size and layout. The kernel
    // writes to it, and to `found`, as many entries as it is told there are.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), request, &mut argument) };
    let count = Errno::result(answer)?;
    let found = found.iter().take(count as usize);
    Ok(found
        .map(|region| Scanned {
            start: region.start,
            end: region.end,
        })
        .collect())
}
