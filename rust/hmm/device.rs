// SPDX-License-Identifier: GPL-2.0

//! A page on the device, as a migration sees it.

use core::ptr::NonNull;

use kernel::page::PAGE_SIZE;
use kernel::prelude::*;

use crate::ops::DevPagemapOps;
use crate::pagemap::DevPagemap;

/// A page of device memory whose content is stable: its folio is locked, and no page table maps
/// it.
///
/// # Invariants
///
/// Page `index` of `pagemap` belongs to a folio that is in use, locked and unmapped for as long as
/// this lives, and no [`LockedFolio`](crate::LockedFolio) covers it.
pub struct DevicePage<'m, T: DevPagemapOps> {
    pagemap: &'m DevPagemap<T>,
    index: usize,
}

impl<'m, T: DevPagemapOps> DevicePage<'m, T> {
    /// # Safety
    ///
    /// The caller must uphold the type invariant.
    pub(crate) unsafe fn new(pagemap: &'m DevPagemap<T>, index: usize) -> Self {
        // INVARIANT: By the safety requirement.
        Self { pagemap, index }
    }

    /// The page, counted from the start of the region.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Copies the page to `out`.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when `out` is not `PAGE_SIZE` bytes long.
    pub fn read(&self, out: &mut [u8]) -> Result {
        read_frame(self.frame()?, out)
    }

    pub(crate) fn frame(&self) -> Result<NonNull<u8>> {
        self.pagemap.region().vram().frame(self.index).ok_or(EIO)
    }
}

/// Copies a page of device memory to `out`.
pub(crate) fn read_frame(frame: NonNull<u8>, out: &mut [u8]) -> Result {
    if out.len() != PAGE_SIZE {
        return Err(EINVAL);
    }
    // SAFETY: The frame has PAGE_SIZE bytes, so has `out`; nobody writes to the frame, because the
    // callers hold the page, by the invariant of `Vram`.
    unsafe {
        frame
            .as_ptr()
            .copy_to_nonoverlapping(out.as_mut_ptr(), PAGE_SIZE)
    };
    Ok(())
}
