// SPDX-License-Identifier: GPL-2.0

//! What the kernel says of pages in answer to system calls.

use std::fs::File;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;

use crate::range::PageRange;
use crate::range::page_size;

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

/// On which memory node each page of `range` is, by move_pages(2) in its form
/// that only asks: a node, or why there is none.
///
/// # Errors
///
/// What the system call fails with: `ENOSYS` on a kernel without nodes.
pub fn nodes(range: PageRange) -> Result<Vec<Result<u32, Errno>>, Errno> {
    let size = page_size() as u64;
    let pages: Vec<u64> = range.page_numbers().map(|page| page * size).collect();
    let mut answer: Vec<i32> = vec![0; pages.len()];
    let no_nodes = std::ptr::null::<i32>();
    // SAFETY: the kernel reads as many addresses and writes as many numbers as
    // there are. Without nodes to move to it does not touch the pages.
    let done = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            pages.len(),
            pages.as_ptr(),
            no_nodes,
            answer.as_mut_ptr(),
            0,
        )
    };
    Errno::result(done)?;
    let node = |number: i32| u32::try_from(number).map_err(|_| Errno::from_raw(-number));
    Ok(answer.into_iter().map(node).collect())
}

/// What [`pagemap_scan`] looks for: all of these bits, out of `PAGE_IS_*` of
/// linux/fs.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan(u64);

impl Scan {
    /// Pages of files.
    pub const FILE: Self = Self(1 << 2);
    /// Pages that the CPU can reach.
    pub const PRESENT: Self = Self(1 << 3);
    /// Pages that it cannot, since they are in swap space or elsewhere.
    pub const SWAPPED: Self = Self(1 << 4);
    /// Pages written since the bits were cleared.
    pub const SOFT_DIRTY: Self = Self(1 << 7);
}

/// Pages next to each other, which [`pagemap_scan`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Scanned {
    /// The first address.
    pub start: u64,
    /// The first address behind them.
    pub end: u64,
    categories: u64,
}

/// `struct pm_scan_arg` of linux/fs.h.
#[derive(Default)]
#[repr(C)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
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
    let mut found = vec![Scanned::default(); range.pages() as usize];
    let mut argument = ScanArgument {
        size: size_of::<ScanArgument>() as u64,
        start: range.addr(),
        end: range.end(),
        vec: found.as_mut_ptr() as u64,
        vec_len: found.len() as u64,
        category_mask: scan.0,
        return_mask: scan.0,
        ..ScanArgument::default()
    };
    let request = nix::request_code_readwrite!(b'f', 16, size_of::<ScanArgument>());
    // SAFETY: the request names a struct of this size and layout. The kernel
    // writes to it, and to `found`, as many entries as it is told there are.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), request, &mut argument) };
    let count = Errno::result(answer)?;
    found.truncate(count as usize);
    Ok(found)
}
