// SPDX-License-Identifier: GPL-2.0

//! Copies of pages: an engine of the driver makes them, in batches.
//!
//! C header: [`include/drm/drm_pagemap.h`](srctree/include/drm/drm_pagemap.h) has the model,
//! `copy_to_devmem` and `copy_to_ram` of `struct drm_pagemap_devmem_ops`.

use core::ptr::NonNull;

use kernel::prelude::*;

use super::buffer::PfnArrays;
use crate::{
    folio::SystemPages,
    memremap::{unlock_and_put, DevPagemapOps, DevicePages, Frame, Mpfn, PfnRange},
};

/// Copies pages between system memory and the memory of a device: a DMA engine, or a CPU.
///
/// # Safety
///
/// Each [`Place::Device`] is a page of a pagemap whose [`DevPagemapOps`] is `T`; the engine reads
/// and writes only the memory of the pagemap whose [`engine`](DevPagemapOps::engine) it is.
///
/// When [`copy`](Self::copy) and then [`Pending::wait`] have both returned `Ok`, each destination
/// of the batch that was not rejected has been written in full. When either has failed, nothing
/// writes to a destination of the batch any more; once a destination is rejected, nothing writes to
/// it any more.
///
/// # Examples
///
/// An engine that is a CPU with access to the device's memory:
///
/// ```
/// # use core::ptr::NonNull;
/// # use hmm::memremap::DevPagemapOps;
/// # use hmm::migrate::{CopyBatch, CopyEngine, Place};
/// # use kernel::{page::PAGE_SIZE, prelude::*};
/// # struct Cpu;
/// # impl Cpu { fn address(&self, _page: usize) -> Result<NonNull<u8>> { Err(EIO) } }
/// // SAFETY: Each operation is done, in full, before `copy` returns, or is rejected; the device has
/// // made it for its own memory.
/// unsafe impl<T: DevPagemapOps> CopyEngine<T> for Cpu {
///     type Pending = ();
///
///     fn copy(&self, batch: &mut CopyBatch<'_>) -> Result {
///         batch.for_each(|op| match (&op.src, &op.dst) {
///             (Place::System(from), Place::Device(to)) => {
///                 for n in 0..from.npages() {
///                     let to = self.address(to.first() + n)?;
///                     from.with_page(n, |from| {
///                         // SAFETY: Both have a page of bytes, and are ours until this returns.
///                         unsafe { to.copy_from_nonoverlapping(from, PAGE_SIZE) }
///                     });
///                 }
///                 Ok(())
///             }
///             _ => Err(EIO),
///         });
///         Ok(())
///     }
/// }
/// ```
pub unsafe trait CopyEngine<T: DevPagemapOps>: Send + Sync {
    /// The copies in progress, to wait for.
    type Pending: Pending;

    /// Performs, or begins, the copies of the batch.
    ///
    /// May sleep, for a bounded time: folios are locked, and the `mmap_lock` is held.
    ///
    /// # Errors
    ///
    /// Any error of the driver. No page of the batch moves then.
    fn copy(&self, batch: &mut CopyBatch<'_>) -> Result<Self::Pending>;
}

/// Copies that an engine has begun.
pub trait Pending {
    /// Waits until the copies are complete. Called once.
    ///
    /// May sleep, for a bounded time.
    ///
    /// # Errors
    ///
    /// Any error of the driver. No page of the batch moves then.
    fn wait(&mut self) -> Result;
}

/// There is nothing to wait for: the engine has already copied.
impl Pending for () {
    fn wait(&mut self) -> Result {
        Ok(())
    }
}

/// The source or the destination of an operation.
pub enum Place<'a> {
    /// Pages of system memory.
    System(SystemPages<'a>),
    /// Pages of the device whose [`engine`](crate::memremap::DevPagemapOps::engine) this is.
    Device(DevicePages),
    /// Zeros, to be written to the destination.
    Zero,
}

/// One operation: it copies all pages of a folio.
pub struct CopyOp<'a> {
    /// The position of the folio in the range of the migration, in pages, counted from 0.
    pub index: usize,
    /// The source.
    pub src: Place<'a>,
    /// The destination; never [`Place::Zero`].
    pub dst: Place<'a>,
    /// The order of the folio: `1 << order` pages on both sides.
    pub order: u32,
}

/// All copies of a migration.
///
/// # Invariants
///
/// The arrays belong to a migration that keeps its pages collected for `'b`. Each destination is a
/// folio that the migration has locked and references. Each source folio or hole has one
/// destination of its own order, or one for each page.
pub struct CopyBatch<'b> {
    arrays: PfnArrays<'b>,
    pfns: &'b PfnRange,
    error: Option<Error>,
}

impl<'b> CopyBatch<'b> {
    /// # Safety
    ///
    /// The caller must uphold the type invariant.
    pub(super) unsafe fn new(arrays: PfnArrays<'b>, pfns: &'b PfnRange) -> Self {
        // INVARIANT: By the safety requirement.
        Self {
            arrays,
            pfns,
            error: None,
        }
    }

    /// Returns the operations, in the order of the range.
    pub fn ops(&self) -> CopyOps<'_> {
        CopyOps {
            src: self.arrays.src,
            dst: self.arrays.dst,
            pfns: self.pfns,
            cursor: Cursor::default(),
        }
    }

    /// Calls `copy` for each operation, in the order of the range, and rejects those for which it
    /// fails.
    pub fn for_each(&mut self, mut copy: impl FnMut(&CopyOp<'_>) -> Result) {
        let mut cursor = Cursor::default();
        while let Some(op) = cursor.next(self.arrays.src, self.arrays.dst, self.pfns) {
            let index = op.index;
            if let Err(error) = copy(&op) {
                self.reject(index, error);
            }
        }
    }

    /// Takes back the destination of the operation at `index`: its page stays where it is. If the
    /// page belongs to a folio that is being split, the other pages of that folio stay as well.
    ///
    /// The engine must not write to the destination any more. Does nothing if there is no such
    /// operation.
    pub fn reject(&mut self, index: usize, error: Error) {
        let Some(dst) = self.arrays.dst.get_mut(index) else {
            return;
        };
        if let Some(frame) = Mpfn::new(*dst).frame() {
            *dst = 0;
            self.error.get_or_insert(error);
            // SAFETY: The migration has locked the destination and references it, by the type
            // invariant, and has just forgotten it.
            unsafe { unlock_and_put(frame) };
        }
    }

    /// Returns the first error with which an operation was rejected.
    pub(super) fn error(&self) -> Option<Error> {
        self.error
    }
}

/// The position in the arrays where the search for the next operation continues.
#[derive(Default)]
struct Cursor {
    index: usize,
    /// The folio or hole that is being split: its first index, the end index, and its source entry.
    folio: Option<(usize, usize, Mpfn)>,
}

impl Cursor {
    fn next<'a>(
        &mut self,
        src: &'a [usize],
        dst: &'a [usize],
        pfns: &'a PfnRange,
    ) -> Option<CopyOp<'a>> {
        loop {
            let index = self.index;
            let to = Mpfn::new(*dst.get(index)?);
            let first = Mpfn::new(*src.get(index)?);
            if self.folio.is_none() && !first.is_compound() {
                // The folio has one page, like most.
                self.index += 1;
                let Some(to) = to.frame() else {
                    continue;
                };
                return Some(CopyOp {
                    index,
                    src: first
                        .frame()
                        .map_or(Place::Zero, |from| place(pfns, from, 0)),
                    dst: place(pfns, to, 0),
                    order: 0,
                });
            }
            let from = match self.folio {
                Some((first, end, folio)) if index < end => folio.piece(index - first),
                _ => {
                    let from = first;
                    self.folio = None;
                    // SAFETY: The migration has locked the folio of the entry and has a reference
                    // to it, by the invariant of `CopyBatch`.
                    let order = unsafe { from.order() };
                    if order > 0 && !to.is_compound() {
                        self.folio = Some((index, index + (1 << order), from));
                        from.piece(0)
                    } else {
                        from
                    }
                }
            };
            // SAFETY: As a destination, the folio is locked and referenced by the migration, by the
            // invariant of `CopyBatch`, so its order can be read.
            let order = unsafe { to.order() };
            self.index += 1 << order;
            let Some(to) = to.frame() else {
                continue;
            };
            return Some(CopyOp {
                index,
                src: from
                    .frame()
                    .map_or(Place::Zero, |from| place(pfns, from, order)),
                dst: place(pfns, to, order),
                order,
            });
        }
    }
}

/// The operations of a [`CopyBatch`].
pub struct CopyOps<'a> {
    src: &'a [usize],
    dst: &'a [usize],
    pfns: &'a PfnRange,
    cursor: Cursor,
}

impl<'a> Iterator for CopyOps<'a> {
    type Item = CopyOp<'a>;

    fn next(&mut self) -> Option<CopyOp<'a>> {
        self.cursor.next(self.src, self.dst, self.pfns)
    }
}

/// Returns the place of the `1 << order` pages from `frame` on.
fn place(pfns: &PfnRange, frame: Frame, order: u32) -> Place<'_> {
    match pfns.pages_of(frame, order) {
        Some(pages) => Place::Device(pages),
        None => {
            // SAFETY: The frame belongs to the memory map, whose addresses are not null.
            let page = unsafe { NonNull::new_unchecked(frame.page()) };
            // SAFETY: The pages belong to a folio that a migration has collected or allocated, by
            // the invariant of `CopyBatch`, which the result borrows.
            Place::System(unsafe { SystemPages::new(page, order) })
        }
    }
}
