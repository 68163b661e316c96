// SPDX-License-Identifier: GPL-2.0

//! Further operations on mappings: advice, mremap, mlock, NUMA policy.

use std::io;
use std::ptr;

use nix::errno::Errno;
use nix::libc;
use nix::libc::c_int;
use nix::sys::mman::MRemapFlags;
use nix::sys::mman::mlock;
use nix::sys::mman::mremap;
use nix::sys::mman::munlock;

use super::Mapping;
use crate::mman::Advice;
use crate::range::PageRange;
use crate::range::page_size;

/// libc does not define it for every target.
const MADV_COLLAPSE: c_int = 25;

/// Returns the number of an advice for madvise(2).
pub(super) fn number_of(advice: Advice) -> c_int {
    match advice {
        Advice::Huge => libc::MADV_HUGEPAGE,
        Advice::NoHuge => libc::MADV_NOHUGEPAGE,
        Advice::DontNeed => libc::MADV_DONTNEED,
        Advice::Free => libc::MADV_FREE,
        Advice::WillNeed => libc::MADV_WILLNEED,
        Advice::Cold => libc::MADV_COLD,
        Advice::PageOut => libc::MADV_PAGEOUT,
        Advice::DontFork => libc::MADV_DONTFORK,
        Advice::DoFork => libc::MADV_DOFORK,
        Advice::WipeOnFork => libc::MADV_WIPEONFORK,
        Advice::Mergeable => libc::MADV_MERGEABLE,
        Advice::Unmergeable => libc::MADV_UNMERGEABLE,
        Advice::Collapse => MADV_COLLAPSE,
        Advice::PopulateRead => libc::MADV_POPULATE_READ,
        Advice::PopulateWrite => libc::MADV_POPULATE_WRITE,
    }
}

impl Mapping {
    /// Moves the pages of the usable part to a new mapping, and leaves this one empty.
    pub(crate) fn take_pages(&self) -> io::Result<Self> {
        let target = Self::reserve(self.len, page_size())?;
        let flags =
            MRemapFlags::MREMAP_MAYMOVE | MRemapFlags::MREMAP_FIXED | MRemapFlags::MREMAP_DONTUNMAP;
        let to = Some(target.at(0, target.len));
        // SAFETY: Both ranges are owned here; the old one stays mapped, and any content is valid
        // for words that are accessed atomically.
        unsafe { mremap(self.at(0, self.len), self.len, self.len, flags, to) }?;
        Ok(target)
    }

    /// Locks pages in memory, or unlocks them.
    pub(crate) fn lock(&self, offset: usize, len: usize, lock: bool) -> io::Result<()> {
        let at = self.at(offset, len);
        if lock {
            // SAFETY: The pages belong to this value, and their content stays.
            unsafe { mlock(at, len) }?;
        } else {
            // SAFETY: The pages belong to this value, and their content stays.
            unsafe { munlock(at, len) }?;
        }
        Ok(())
    }

    /// Binds pages to a NUMA node, and moves them there.
    pub(crate) fn bind(&self, offset: usize, len: usize, node: u32) -> io::Result<()> {
        const MPOL_MF_STRICT: u32 = 1;
        const MPOL_MF_MOVE: u32 = 2;
        let nodes: u64 = 1_u64.checked_shl(node).ok_or(Errno::EINVAL)?;
        let at = self.at(offset, len).as_ptr();
        // SAFETY: The pages belong to this value, and their content stays; the kernel reads 64 bits
        // of `nodes`, since it subtracts one from the number that it is given.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                at,
                len,
                libc::MPOL_BIND,
                ptr::from_ref(&nodes),
                u64::from(u64::BITS),
                MPOL_MF_STRICT | MPOL_MF_MOVE,
            )
        };
        Errno::result(answer)?;
        Ok(())
    }
}

/// Returns the NUMA node of each page of `range`. If `to` is given, first moves the pages to that
/// node (move_pages). The result for a page is its node, or a negative errno.
///
/// # Errors
///
/// The error of move_pages.
pub fn nodes_of(range: PageRange, to: Option<i32>) -> io::Result<Vec<i32>> {
    const MPOL_MF_MOVE: c_int = 2;
    let pages: Vec<usize> = range
        .page_numbers()
        .map(|number| number as usize * page_size())
        .collect();
    let nodes = to.map(|node| vec![node; pages.len()]);
    let mut status = vec![i32::MIN; pages.len()];
    let wanted = nodes.as_ref().map_or(ptr::null(), |nodes| nodes.as_ptr());
    // SAFETY: The three arrays have as many entries as the kernel is told; it writes only to the
    // last one. Moving pages between nodes does not affect Rust code.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            pages.len(),
            pages.as_ptr(),
            wanted,
            status.as_mut_ptr(),
            MPOL_MF_MOVE,
        )
    };
    Errno::result(answer)?;
    Ok(status)
}
