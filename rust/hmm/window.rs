// SPDX-License-Identifier: GPL-2.0

//! The page frame number arrays of a migration.

use kernel::alloc::flags::GFP_KERNEL;
use kernel::alloc::KVVec;
use kernel::prelude::*;

/// Arrays for a migration of up to a number of pages, made once and used again and again.
pub struct Window {
    src: KVVec<usize>,
    dst: KVVec<usize>,
}

impl Window {
    /// Arrays for up to `npages` pages; 16 bytes a page.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when `npages` is 0; [`ENOMEM`].
    pub fn new(npages: usize) -> Result<Self> {
        if npages == 0 {
            return Err(EINVAL);
        }
        Ok(Self {
            src: KVVec::from_elem(0, npages, GFP_KERNEL)?,
            dst: KVVec::from_elem(0, npages, GFP_KERNEL)?,
        })
    }

    /// The most pages that a migration with this window can have.
    pub fn npages(&self) -> usize {
        self.src.len()
    }

    /// The arrays for `npages` pages.
    pub(crate) fn slots(&mut self, npages: usize) -> Result<PfnSlots<'_>> {
        Ok(PfnSlots {
            src: self.src.get_mut(..npages).ok_or(EINVAL)?,
            dst: self.dst.get_mut(..npages).ok_or(EINVAL)?,
        })
    }
}

/// The arrays of one migration, of one length.
pub(crate) struct PfnSlots<'a> {
    pub(crate) src: &'a mut [usize],
    pub(crate) dst: &'a mut [usize],
}
