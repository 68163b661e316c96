// SPDX-License-Identifier: GPL-2.0

//! The arrays of a migration.
//!
//! C header: [`include/linux/migrate.h`](srctree/include/linux/migrate.h), `migrate_vma.src` and
//! `dst`.

use kernel::{
    alloc::{flags::GFP_KERNEL, KVVec},
    prelude::*,
};

/// Arrays for migrations of up to a fixed number of pages, allocated once and reused.
#[derive(Default)]
pub struct MigrateBuffer {
    src: KVVec<usize>,
    dst: KVVec<usize>,
}

impl MigrateBuffer {
    /// Allocates arrays for up to `npages` pages; 16 bytes per page.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub fn new(npages: usize) -> Result<Self> {
        Ok(Self {
            src: KVVec::from_elem(0, npages, GFP_KERNEL)?,
            dst: KVVec::from_elem(0, npages, GFP_KERNEL)?,
        })
    }

    /// Returns the maximum number of pages of a migration with this buffer.
    pub fn npages(&self) -> usize {
        self.src.len()
    }

    /// Lends the arrays for `npages` pages.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when `npages` is more than the buffer has.
    pub(crate) fn arrays(&mut self, npages: usize) -> Result<PfnArrays<'_>> {
        Ok(PfnArrays {
            src: self.src.get_mut(..npages).ok_or(EINVAL)?,
            dst: self.dst.get_mut(..npages).ok_or(EINVAL)?,
        })
    }
}

/// The arrays of one migration, both of the same length.
pub(crate) struct PfnArrays<'a> {
    pub(crate) src: &'a mut [usize],
    pub(crate) dst: &'a mut [usize],
}
