// SPDX-License-Identifier: GPL-2.0

//! System calls that ask the kernel about pages.

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

/// Returns whether each page of `range` is in memory, from mincore(2).
///
/// # Errors
///
/// The error of the system call: `ENOMEM` if a part is not mapped.
pub fn mincore(range: PageRange) -> Result<Vec<bool>, Errno> {
    let mut answer = vec![0; range.pages() as usize];
    let (at, len) = (range.addr() as *mut libc::c_void, range.bytes() as usize);
    // SAFETY: The kernel writes one byte per page to `answer`, which has as many bytes. It does not
    // access the pages.
    Errno::result(unsafe { libc::mincore(at, len, answer.as_mut_ptr()) })?;
    Ok(answer.into_iter().map(|byte| byte & 1 != 0).collect())
}

/// The kind of pages that [`pagemap_scan`] looks for: bits from `PAGE_IS_*` of linux/fs.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan(u32);

impl Scan {
    /// Pages of files.
    pub const FILE: Self = Self(PAGE_IS_FILE);
    /// Pages that CPUs can access.
    pub const PRESENT: Self = Self(PAGE_IS_PRESENT);
    /// Pages that CPUs cannot access, since they are in swap space or elsewhere.
    pub const SWAPPED: Self = Self(PAGE_IS_SWAPPED);
    /// Pages written since the bits were cleared.
    pub const SOFT_DIRTY: Self = Self(PAGE_IS_SOFT_DIRTY);
}

/// Consecutive pages that [`pagemap_scan`] has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// The first address.
    pub start: u64,
    /// The end address, exclusive.
    pub end: u64,
}

/// Finds the pages of `range` that match `scan`, with the ioctl PAGEMAP_SCAN of
/// `/proc/self/pagemap`.
///
/// # Errors
///
/// The error of opening the file or of the ioctl: `ENOTTY` on a kernel that does not have it.
pub fn pagemap_scan(range: PageRange, scan: Scan) -> std::io::Result<Vec<Scanned>> {
    let file = File::open("/proc/self/pagemap")?;
    let mut found = vec![NOTHING; range.pages() as usize];
    let mut argument = arguments(range);
    argument.category_mask = scan.0.into();
    argument.return_mask = scan.0.into();
    let count = send(&file, &mut argument, &mut found)?;
    Ok(found.iter().take(count).map(Scanned::of).collect())
}

/// Finds the pages of `range` in process `pid` that are anywhere: in memory, in swap space, or on a
/// device. Consecutive pages of the same kind are one entry.
///
/// # Errors
///
/// As for [`pagemap_scan`], and `EACCES` if the process belongs to another user.
pub fn pagemap_scan_of(pid: i32, range: PageRange) -> std::io::Result<Vec<Scanned>> {
    const ROOM: usize = 256;
    let file = File::open(format!("/proc/{pid}/pagemap"))?;
    let kinds = Scan::PRESENT.0 | Scan::SWAPPED.0;
    let mut all = Vec::new();
    let mut room = [NOTHING; ROOM];
    let mut argument = arguments(range);
    argument.category_anyof_mask = kinds.into();
    argument.return_mask = kinds.into();
    // The kernel stops when there is no room for another entry, and returns the address.
    while argument.start < range.end() {
        let count = send(&file, &mut argument, &mut room)?;
        all.extend(room.iter().take(count).map(Scanned::of));
        if argument.walk_end <= argument.start {
            break;
        }
        argument.start = argument.walk_end;
    }
    Ok(all)
}

const NOTHING: page_region = page_region {
    start: 0,
    end: 0,
    categories: 0,
};

impl Scanned {
    fn of(region: &page_region) -> Self {
        Self {
            start: region.start,
            end: region.end,
        }
    }
}

/// Returns the arguments of PAGEMAP_SCAN for a range, without any kind of page to look for.
fn arguments(range: PageRange) -> pm_scan_arg {
    pm_scan_arg {
        size: size_of::<pm_scan_arg>() as u64,
        flags: 0,
        start: range.addr(),
        end: range.end(),
        vec: 0,
        vec_len: 0,
        walk_end: 0,
        max_pages: 0,
        category_inverted: 0,
        category_mask: 0,
        category_anyof_mask: 0,
        return_mask: 0,
    }
}

/// Sends PAGEMAP_SCAN; returns the number of entries of `found` that the kernel has filled.
fn send(
    file: &File,
    argument: &mut pm_scan_arg,
    found: &mut [page_region],
) -> Result<usize, Errno> {
    argument.vec = found.as_mut_ptr() as u64;
    argument.vec_len = found.len() as u64;
    let request = nix::request_code_readwrite!(b'f', 16, size_of::<pm_scan_arg>());
    // SAFETY: The request number matches a struct of this size and layout. The kernel writes to it
    // and, at most as many entries as it is told, to `found`.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), request, argument) };
    Errno::result(answer).map(|count| count as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Region;
    use crate::page_size;

    /// More ranges than fit into one reply.
    #[test]
    fn finds_each_page_that_is_somewhere() {
        let pages = 1024;
        let region = Region::options(pages).huge(false).map().unwrap();
        for page in (0..pages).step_by(2) {
            region.store(page * Region::words_per_page(), 1);
        }
        let pid = std::process::id() as i32;
        let found = match pagemap_scan_of(pid, region.range()) {
            // A kernel before 6.7.
            Err(error) if error.raw_os_error() == Some(Errno::ENOTTY as i32) => return,
            found => found.unwrap(),
        };
        assert_eq!(found.len(), pages / 2);
        let size = page_size() as u64;
        for (number, part) in (0_u64..).zip(found) {
            assert_eq!(part.start, region.addr() + 2 * number * size);
            assert_eq!(part.end - part.start, size);
        }
    }
}
