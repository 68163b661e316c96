// SPDX-License-Identifier: GPL-2.0

//! The two directions of a migration, and in what they differ.

use core::cell::Cell;

use crate::folio::SystemFolio;
use crate::ops::DevPagemapOps;
use crate::ops::Step;
use crate::pagemap::DevPagemap;

/// Direction of a migration: to the device. Destinations are [`LockedFolio`](crate::LockedFolio)s.
pub struct ToDevice<'p, T: DevPagemapOps>(pub(crate) &'p DevPagemap<T>);

/// Direction of a migration: to system memory. Destinations are [`SystemFolio`]s.
pub struct ToSystem<'p, T: DevPagemapOps> {
    pagemap: &'p DevPagemap<T>,
    /// A destination for the first huge page, allocated before that was collected.
    spare: Cell<Option<SystemFolio>>,
    /// Whether it is for a CPU's fault.
    is_fault: bool,
}

impl<'p, T: DevPagemapOps> ToSystem<'p, T> {
    pub(crate) fn new(
        pagemap: &'p DevPagemap<T>,
        spare: Option<SystemFolio>,
        is_fault: bool,
    ) -> Self {
        Self {
            pagemap,
            spare: Cell::new(spare),
            is_fault,
        }
    }

    pub(crate) fn take_spare(&self) -> Option<SystemFolio> {
        self.spare.take()
    }
}

/// What [`ToDevice`] and [`ToSystem`] have in common.
pub trait Direction {
    /// The driver's side of the device.
    type Ops: DevPagemapOps;

    /// Whether pages of system memory are migrated, not those of the device.
    const FROM_SYSTEM: bool;

    /// The steps after which pages are collected, copied and moved.
    const STEPS: [Step; 3];

    /// The pages of the device.
    fn pagemap(&self) -> &DevPagemap<Self::Ops>;

    /// Whether mm itself leaves a folio whole that other processes share. It does so in a CPU's fault,
    /// where the core holds one more reference than `folio_split_unmapped()` expects: that cuts the
    /// entry of the process, and the folio at the next fault, for all of them.
    fn keeps_shared_whole(&self) -> bool {
        false
    }
}

impl<T: DevPagemapOps> Direction for ToDevice<'_, T> {
    type Ops = T;

    const FROM_SYSTEM: bool = true;

    const STEPS: [Step; 3] = [Step::OutCollected, Step::OutCopied, Step::OutMoved];

    fn pagemap(&self) -> &DevPagemap<T> {
        self.0
    }
}

impl<T: DevPagemapOps> Direction for ToSystem<'_, T> {
    type Ops = T;

    const FROM_SYSTEM: bool = false;

    const STEPS: [Step; 3] = [Step::BackCollected, Step::BackCopied, Step::BackMoved];

    fn pagemap(&self) -> &DevPagemap<T> {
        self.pagemap
    }

    fn keeps_shared_whole(&self) -> bool {
        self.is_fault
    }
}
