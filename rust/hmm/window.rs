// SPDX-License-Identifier: GPL-2.0

//! The page frame number arrays of a migration.

use kernel::alloc::flags::GFP_KERNEL;
use kernel::alloc::KVVec;
use kernel::prelude::*;

/// Arrays for a migration of up to a number of pages, made once and used again and again.
pub struct Window(Arrays);

enum Arrays {
    /// For one page, so that a fault needs no memory for them.
    One([[usize; 1]; 2]),
    Many {
        src: KVVec<usize>,
        dst: KVVec<usize>,
    },
}

impl Window {
    /// Arrays for up to `npages` pages; 16 bytes a page.
    ///
    /// May sleep; does not for a single page, and then does not fail.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when `npages` is 0; [`ENOMEM`].
    pub fn new(npages: usize) -> Result<Self> {
        Ok(Self(match npages {
            0 => return Err(EINVAL),
            1 => Arrays::One([[0; 1]; 2]),
            _ => Arrays::Many {
                src: KVVec::from_elem(0, npages, GFP_KERNEL)?,
                dst: KVVec::from_elem(0, npages, GFP_KERNEL)?,
            },
        }))
    }

    /// The most pages that a migration with this window can have.
    pub fn npages(&self) -> usize {
        match &self.0 {
            Arrays::One(_) => 1,
            Arrays::Many { src, .. } => src.len(),
        }
    }

    /// The arrays for `npages` pages.
    pub(crate) fn slots(&mut self, npages: usize) -> Result<PfnSlots<'_>> {
        let (src, dst) = match &mut self.0 {
            Arrays::One([src, dst]) => (&mut src[..], &mut dst[..]),
            Arrays::Many { src, dst } => (&mut src[..], &mut dst[..]),
        };
        Ok(PfnSlots {
            src: src.get_mut(..npages).ok_or(EINVAL)?,
            dst: dst.get_mut(..npages).ok_or(EINVAL)?,
        })
    }
}

/// The arrays of one migration, of one length.
pub(crate) struct PfnSlots<'a> {
    pub(crate) src: &'a mut [usize],
    pub(crate) dst: &'a mut [usize],
}
