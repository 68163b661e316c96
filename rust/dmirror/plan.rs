// SPDX-License-Identifier: GPL-2.0

//! The plan for the passes of a step to the device. Pure logic, no kernel calls.
//!
//! A step handles at most [`BLOCK_PAGES`] pages. It first takes only free pages: a block, if it is
//! for a whole window. It evicts others only for pages that have been found able to move. It gives
//! up on huge pages if mm cannot move them as a whole.

use crate::pages::BLOCK_PAGES;

/// Maximum number of consecutive passes that may move nothing because someone else has locked or
/// referenced the pages.
pub(crate) const IDLE_PASSES: usize = 16;

/// The same for a device fault, after which the device can use the pages where they are.
pub(crate) const FAULT_IDLE_PASSES: usize = 4;

/// Maximum number of passes, in case others take pages away as fast as they move.
pub(crate) const MAX_PASSES: usize = 256;

/// Number of passes after which mm is made again to drop the references that it holds temporarily;
/// the first time, this is done after the first pass.
pub(crate) const DRAIN_EVERY: usize = 8;

/// The action when the device has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// Take only free pages.
    TakeWhatIsFree,
    /// Evict blocks, chosen by the device's policy, regardless of their owners.
    Evict,
}

/// The pages that a pass needs when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReserveRequest {
    /// Set if it needs a block.
    pub(crate) block: bool,
    /// Number of small pages that it needs.
    pub(crate) pages: usize,
    pub(crate) when_full: WhenFull,
}

/// The outcome of a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Number of pages that moved; some may have left again.
    pub(crate) moved: usize,
    /// Set if there was a huge page, and neither a block nor enough small pages for it.
    pub(crate) lacks_block: bool,
    /// Set if there was a huge page that other processes may share.
    pub(crate) is_shared: bool,
    /// Number of pages that could move, but for which there was no room.
    pub(crate) lacking: usize,
    /// Set if a hole of several pages was given a block, but did not move.
    pub(crate) hole_stays: bool,
    /// Set if mm may hold temporary references to pages of the range.
    pub(crate) may_be_in_batches: bool,
}

/// The plan of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The pages that the pass needs when it begins.
    pub(crate) request: ReserveRequest,
    /// Set if huge pages are collected as a whole; otherwise mm splits them.
    pub(crate) keeps_large: bool,
    /// Set if holes of several pages are filled with small pages.
    pub(crate) small_holes: bool,
    /// Set if a block is useful: the step is for a window that may be a single huge page.
    takes_block: bool,
    /// Number of earlier passes.
    passes: usize,
    /// Number of passes since the last one that moved something.
    idle: usize,
    /// Maximum of `idle`, after which the step ends.
    most_idle: usize,
}

/// The action after a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// No further pass: all pages are on the device, or there were enough tries.
    Done,
    /// Another pass, at once.
    Again(Plan),
    /// Another pass, after others have had time to release their locks and references and, if
    /// `drain` is set, after mm was made to drop its temporary references.
    AfterPause { plan: Plan, drain: bool },
}

impl Plan {
    /// Plans the first pass over `npages` pages, for a device that does or does not take huge
    /// pages.
    pub(crate) fn first(npages: usize, takes_large: bool) -> Self {
        let block = takes_large && npages == BLOCK_PAGES;
        Self {
            request: what_is_free(block, npages),
            keeps_large: takes_large,
            small_holes: false,
            takes_block: block,
            passes: 0,
            idle: 0,
            most_idle: IDLE_PASSES,
        }
    }

    /// Returns this plan for pages that are desired, but not explicitly requested: it gives up on
    /// them earlier.
    pub(crate) fn for_fault(self) -> Self {
        Self {
            most_idle: FAULT_IDLE_PASSES,
            ..self
        }
    }

    /// Plans the pass after one with the outcome `outcome`, while `missing` pages are not on the
    /// device.
    pub(crate) fn next(self, outcome: &Outcome, missing: usize) -> Next {
        let passes = self.passes + 1;
        let idle = if outcome.moved > 0 { 0 } else { self.idle + 1 };
        if missing == 0 || idle >= self.most_idle || passes == MAX_PASSES {
            return Next::Done;
        }
        let drain = outcome.may_be_in_batches && self.passes % DRAIN_EVERY == 0;
        let this = Self {
            passes,
            idle,
            ..self
        };
        if outcome.is_shared {
            // mm splits the huge page when it collects it. The pages were able to move, so they are
            // worth evicting others for.
            return Next::Again(Self {
                request: evict_for(false, missing),
                keeps_large: false,
                takes_block: false,
                ..this
            });
        }
        if outcome.lacks_block || outcome.lacking > 0 {
            // Only pages that can move are worth evicting others for.
            return Next::Again(Self {
                request: evict_for(outcome.lacks_block, outcome.lacking),
                ..this
            });
        }
        // A huge page that was locked briefly is still a huge page.
        let block = self.takes_block && missing == BLOCK_PAGES;
        let plan = Self {
            request: what_is_free(block, missing),
            // A limit that keeps a huge page out of a hole, for example that of a memory cgroup,
            // may allow small pages.
            small_holes: self.small_holes || outcome.hole_stays,
            ..this
        };
        Next::AfterPause { plan, drain }
    }
}

fn what_is_free(block: bool, npages: usize) -> ReserveRequest {
    ReserveRequest {
        block,
        pages: if block { 0 } else { npages },
        when_full: WhenFull::TakeWhatIsFree,
    }
}

fn evict_for(block: bool, pages: usize) -> ReserveRequest {
    ReserveRequest {
        block,
        pages,
        when_full: WhenFull::Evict,
    }
}
