// SPDX-License-Identifier: GPL-2.0

//! Pages of a VMA that come back to system memory, when nobody has touched them.

use core::ops::Range;

use kernel::page::PAGE_SIZE;
use kernel::prelude::*;

use crate::folio::Effort;
use crate::folio::SystemFolio;
use crate::migrate::Huge;
use crate::migrate::Migration;
use crate::ops::DevPagemapOps;
use crate::pagemap::DevPagemap;
use crate::pages::BLOCK_PAGES;
use crate::pages::PMD_ORDER;
use crate::region::Kind;
use crate::vma::LockedVma;
use crate::window::Window;

/// The bytes of a huge page.
const HUGE: usize = BLOCK_PAGES * PAGE_SIZE;

impl<T: DevPagemapOps> DevPagemap<T> {
    /// Brings those pages of `range` (bytes, page aligned, the end exclusive) of a VMA that are on the
    /// device back to system memory, as far as they are not locked or referenced by others: huge
    /// pages whole, or in small pages where system memory has no huge one. Returns the number of
    /// pages that came back, and the last error that kept others on the device. The window has a place
    /// for each page of the range, or [`BLOCK_PAGES`] of them.
    ///
    /// May sleep, and takes as long as the range is large: whoever wants to be killed meanwhile calls
    /// it for a block at a time. Takes folio locks; must not be called with a folio locked, so neither from
    /// [`DevPagemapOps::migrate_to_ram`] nor while a [`Migration`] is collected.
    ///
    /// # Errors
    ///
    /// As [`Migration::to_system`], but for an empty range, of which nothing comes; and as
    /// [`Slot::fill_system`](crate::Slot::fill_system). After [`ENOMEM`] no further block is tried.
    ///
    /// C functions: `migrate_vma_setup()` and those after it.
    pub fn bring_back(
        &self,
        vma: LockedVma<'_>,
        range: Range<usize>,
        window: &mut Window,
    ) -> (usize, Result) {
        let mut moved = 0;
        let mut result = Ok(());
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min((at | (HUGE - 1)).saturating_add(1));
            let (count, part) = self.bring_block_back(vma, at..end, window);
            moved += count;
            result = part.and(result);
            if part == Err(ENOMEM) {
                break;
            }
            at = end;
        }
        (moved, result)
    }

    /// The same for a range of which no more than one huge page can be a part.
    fn bring_block_back(
        &self,
        vma: LockedVma<'_>,
        range: Range<usize>,
        window: &mut Window,
    ) -> (usize, Result) {
        // Before it is collected: a huge page that is shared can be split by mm then, but not later;
        // and if it has to stay, mm warns (see Documentation/known-mm-issues.md).
        let may_be_huge = range.len() == HUGE
            && self.region().kind() == Kind::Private
            && self.taken() > self.unused();
        let spare = if may_be_huge {
            self.alloc_huge(vma, range.start, Effort::Little).ok()
        } else {
            None
        };
        let huge = if spare.is_some() {
            Huge::Keep
        } else {
            Huge::Split
        };
        let mut result = Ok(());
        let collected = window
            .slots(range.len() / PAGE_SIZE)
            .and_then(|slots| Migration::from_vma(vma, range, huge, self, slots, None, spare));
        let mut migration = match collected {
            Ok(migration) => migration,
            Err(error) => return (0, Err(error)),
        };
        let first = migration.slots().next().map_or(0, |slot| slot.order());
        if first == 0 {
            migration.drop_spare();
        }
        for slot in migration.slots() {
            if let Err(error) = slot.fill_system() {
                result = Err(error);
            }
        }
        (migration.commit().moved(), result)
    }

    /// Allocates a destination for the huge page at an address (bytes) of a VMA.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when it does not lie in the VMA; [`ENOMEM`]; what
    /// [`DevPagemapOps::before_system_alloc`] returns.
    pub(crate) fn alloc_huge(
        &self,
        vma: LockedVma<'_>,
        address: usize,
        effort: Effort,
    ) -> Result<SystemFolio> {
        let end = address.checked_add(HUGE).ok_or(EINVAL)?;
        if address < vma.start() || end > vma.end() {
            return Err(EINVAL);
        }
        self.ops().before_system_alloc(PMD_ORDER)?;
        // SAFETY: A `LockedVma` is valid and its `mmap_lock` held; the address lies in it, as was just
        // checked.
        unsafe { SystemFolio::for_vma(vma.as_ptr(), address, PMD_ORDER, effort) }
    }
}
