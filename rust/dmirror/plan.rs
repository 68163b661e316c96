// SPDX-License-Identifier: GPL-2.0

//! How a step towards the device goes on after each pass. Pure logic, no kernel calls.
//!
//! A step is for at most [`WINDOW`] pages. It begins with what is free, in a block if it is for a
//! whole window; it evicts others only for pages that have been seen to be able to move; and it
//! gives up on huge pages where mm cannot move them whole.

/// Pages of a window: what one block has room for.
pub(crate) const WINDOW: usize = 512;

/// How many passes in a row may move nothing: pages are locked or referenced by somebody else.
pub(crate) const IDLE_PASSES: usize = 16;

/// The same for a fault of the device, which can use pages where they are.
pub(crate) const FAULT_IDLE_PASSES: usize = 4;

/// How many passes there may be in all, if others take pages away as fast as they come.
pub(crate) const MAX_PASSES: usize = 256;

/// After how many passes mm is made to let go of pages that it keeps for a while; the first time at
/// once.
pub(crate) const DRAIN_EVERY: usize = 8;

/// What to do when the device has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// Be content with what is free.
    TakeWhatIsFree,
    /// Evict blocks, as the policy of the device chooses them, whoever owns them.
    Evict,
}

/// What a pass is to have when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReserveRequest {
    /// Whether it is to have a block.
    pub(crate) block: bool,
    /// The number of small pages.
    pub(crate) pages: usize,
    pub(crate) when_full: WhenFull,
}

/// What one pass has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Pages that moved; some of them may be gone again.
    pub(crate) moved: usize,
    /// There was a huge page, and no block nor enough small pages for it.
    pub(crate) lacks_block: bool,
    /// There was a huge page that other processes may share.
    pub(crate) is_shared: bool,
    /// Pages that could move and found no room.
    pub(crate) lacking: usize,
    /// A hole of several pages got a block, and did not take it.
    pub(crate) hole_stays: bool,
    /// mm may have references to pages of the range.
    pub(crate) may_be_in_batches: bool,
}

/// What a pass is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// What it is to have when it begins.
    pub(crate) request: ReserveRequest,
    /// Whether huge pages are collected whole; otherwise mm splits them.
    pub(crate) keeps_large: bool,
    /// Whether holes of several pages are filled with small pages.
    pub(crate) small_holes: bool,
    /// Whether a block is of use: the step is for a window that may be one huge page.
    takes_block: bool,
    /// The passes before this one.
    passes: usize,
    /// Those of them, since the last one that moved something, that moved nothing.
    idle: usize,
    /// With how many of those it ends.
    most_idle: usize,
}

/// What comes after a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing: all pages are there, or it was tried often enough.
    Done,
    /// Another pass, at once.
    Again(Plan),
    /// Another pass, when others had time to let go of what they have locked, and mm was made to
    /// let go of what it keeps, if `drain` says so.
    AfterPause { plan: Plan, drain: bool },
}

impl Plan {
    /// Plans the first pass over `npages` pages, for a device that takes huge pages or does not.
    pub(crate) fn first(npages: usize, takes_large: bool) -> Self {
        let block = takes_large && npages == WINDOW;
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

    /// As this plan, but for pages that are wanted, not asked for: they are soon given up.
    pub(crate) fn for_fault(self) -> Self {
        Self {
            most_idle: FAULT_IDLE_PASSES,
            ..self
        }
    }

    /// Plans the pass after one that came to `outcome`, with `missing` pages that are not there.
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
            // mm splits it when it collects it. The pages could be collected, so that they are
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
        // A huge page that was locked for a moment is still one.
        let block = self.takes_block && missing == WINDOW;
        let plan = Self {
            request: what_is_free(block, missing),
            // What keeps a huge page out of a hole, as the limit of a memory cgroup, may let small
            // ones in.
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
