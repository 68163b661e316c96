// SPDX-License-Identifier: GPL-2.0

//! The oracle: the content, the access rights and the possible places of each page.
//!
//! The model states only what is *not* possible: a page that cannot be on a device
//! must not be seen there. It never assumes that a page stays on a device, because a
//! device may have to evict it at any time.

use std::ops::Range;

use crate::content::Content;
use crate::content::Library;
use crate::content::Seen;
use crate::content::Stamp;
use crate::op::COUNTERS;
use crate::op::Kind;
use crate::op::NODES;
use crate::op::SLOTS;

/// The access to a page that a program has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    None,
    Read,
    Write,
}

/// A page of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// The content; `None` for zeroes.
    pub content: Option<Content>,
    /// Set if it may hold zeroes instead.
    pub maybe_zero: bool,
    /// The access that the program has.
    pub access: Access,
    /// The devices on which it can be, a bit each.
    pub devices: u8,
    /// Set if another process may have it too, and can move it.
    pub shared: bool,
    /// Set if it can be in swap space, or have a place there.
    pub swapped: bool,
    /// The handles that can have exclusive access, a bit each.
    pub exclusive: u8,
    /// Set if its entry can be an exclusive one, of any owner.
    pub held: bool,
    /// Set if the kernel may merge it.
    pub mergeable: bool,
    /// Set if a child does not get it.
    pub not_forked: bool,
    /// Set if a child finds zeroes.
    pub wiped: bool,
    /// The queues with jobs that use it, a bit each: nobody else writes it.
    pub busy: u8,
    /// The queues with jobs that write it, a bit each: their progress is unknown.
    pub changing: u8,
}

impl Page {
    /// A page that was never touched.
    pub const FRESH: Self = Self {
        content: None,
        maybe_zero: false,
        access: Access::Write,
        devices: 0,
        shared: false,
        swapped: false,
        exclusive: 0,
        held: false,
        mergeable: false,
        not_forked: false,
        wiped: false,
        busy: 0,
        changing: 0,
    };

    /// Records the content that was read; fails if that content is not possible.
    ///
    /// # Errors
    ///
    /// A description of the content that was read, and of the expected content.
    pub fn observe(&mut self, seen: Seen) -> Result<(), String> {
        let right = match seen {
            Seen::Untouched => false,
            _ if self.changing != 0 => return Ok(()),
            Seen::Zero => self.content.is_none() || self.maybe_zero,
            Seen::Data(stamp) => self.content == Some(Content::Pattern(stamp)),
            Seen::Torn(.., digest) => self.content == Some(Content::Other(digest)),
        };
        if !right {
            let expected = match self.content {
                None => "zeroes".into(),
                Some(content) if self.maybe_zero => format!("{content} or zeroes"),
                Some(content) => content.to_string(),
            };
            return Err(format!("{seen} where there should be {expected}"));
        }
        if seen == Seen::Zero {
            self.content = None;
        }
        Ok(())
    }

    /// Records that the whole page was written.
    pub fn written(&mut self, stamp: Stamp) {
        self.holds(Some(Content::Pattern(stamp)));
    }

    /// Records that the whole page was written, and has this content now.
    pub fn holds(&mut self, content: Option<Content>) {
        self.content = content;
        self.maybe_zero = false;
        self.shared = false;
    }

    /// Records an access by the CPU.
    pub fn touched(&mut self) {
        self.devices = 0;
        self.exclusive = 0;
        self.held = false;
    }

    /// Records that the content is gone, while the mapping stays.
    pub fn emptied(&mut self) {
        self.content = None;
        self.maybe_zero = false;
        self.shared = false;
        self.swapped = false;
        self.touched();
    }
}

/// A mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    pub kind: Kind,
    pub pages: Vec<Page>,
    /// Set if it was moved to another address, by any process. Linux 7.3 with CONFIG_DEBUG_VM warns
    /// in `vma_add_pgoff()` when a child cuts such a mapping that is to be wiped in children: the
    /// child's mapping has no anon_vma, but the offset of one that has.
    pub moved: bool,
}

impl Slot {
    /// Creates a slot that was just mapped.
    pub fn new(kind: Kind, pages: usize) -> Self {
        let pages = vec![Page::FRESH; pages];
        Self {
            kind,
            pages,
            moved: false,
        }
    }

    /// Returns the pages `range`.
    pub fn part(&self, range: &Range<usize>) -> &[Page] {
        &self.pages[range.clone()]
    }

    /// Returns the pages `range`, for changes.
    pub fn part_mut(&mut self, range: &Range<usize>) -> &mut [Page] {
        &mut self.pages[range.clone()]
    }
}

/// The model of a process: its mappings, its jobs and its counters.
#[derive(Clone, Debug)]
pub struct Model {
    pub slots: [Option<Slot>; SLOTS],
    /// Set if nobody else uses the devices or moves pages of this process.
    pub alone: bool,
    /// Set if the kernel has swap space.
    pub swap: bool,
    /// The queues with jobs that nobody has waited for, a bit each.
    pub flying: u8,
    /// Set if the program has jobs beside its steps.
    pub asynchronous: bool,
    /// Set if this is the model of a child, which has no jobs beside its steps.
    pub is_child: bool,
    /// The pages that hold no pattern.
    pub library: Library,
    /// The values of the counters once all jobs have ended; `None` if unknown.
    pub counters: [Option<u64>; COUNTERS],
    version: u32,
}

impl Model {
    /// Creates the model of a process with nothing mapped.
    pub fn new(alone: bool, swap: bool) -> Self {
        Self {
            slots: [const { None }; SLOTS],
            alone,
            swap,
            flying: 0,
            asynchronous: false,
            is_child: false,
            library: Library::default(),
            counters: [Some(0); COUNTERS],
            version: 0,
        }
    }

    /// Returns whether only the steps of the program move pages.
    pub fn is_quiet(&self) -> bool {
        self.alone && self.flying == 0
    }

    /// Returns a pattern for each page of a range of a slot; none was used before.
    pub fn new_stamps(&mut self, slot: usize, range: &Range<usize>) -> Vec<Stamp> {
        let stamp = |page| {
            self.version += 1;
            Stamp {
                page: ((slot << 12) | page) as u32,
                version: self.version,
            }
        };
        range.clone().map(stamp).collect()
    }

    /// Returns whether a page can be on a device.
    pub fn may_be_on(&self, page: &Page, node: usize) -> bool {
        !self.is_quiet() || page.shared || page.devices & (1 << node) != 0
    }

    /// Returns whether a page can be in swap space, or have a place there.
    pub fn may_be_swapped(&self, page: &Page) -> bool {
        self.swap && (page.swapped || page.shared || !self.is_quiet())
    }

    /// Returns whether there can be a reason for a page not to move to a device.
    pub fn may_stay(&self, kind: Kind, page: &Page, node: usize) -> bool {
        matches!(kind, Kind::Shared | Kind::File)
            || !self.is_quiet()
            || page.mergeable
            || page.held
            || self.may_be_swapped(page)
            || (0..NODES).any(|other| other != node && self.may_be_on(page, other))
    }

    /// Returns whether a part of a slot is to be wiped in children.
    pub fn is_wiped(&self, slot: u8) -> bool {
        let slot = self.slots[usize::from(slot)].as_ref();
        slot.is_some_and(|slot| slot.pages.iter().any(|page| page.wiped))
    }

    /// Returns a page of a slot; a fresh one if the slot is empty.
    pub fn page(&self, (slot, page): (usize, usize)) -> Page {
        let slot = self.slots[slot].as_ref();
        slot.map_or(Page::FRESH, |slot| slot.pages[page])
    }

    /// Returns pages of a slot, for changes; none if the slot is empty.
    pub fn part_mut(&mut self, slot: usize, range: &Range<usize>) -> &mut [Page] {
        let slot = self.slots[slot].as_mut();
        slot.map_or(&mut [], |slot| slot.part_mut(range))
    }

    /// Forks: makes this the model of the parent after the fork, and returns that of the child.
    pub fn fork(&mut self) -> Self {
        let mut child = self.clone();
        // The child and the parent must not use the same stamps.
        child.version += 1 << 24;
        // The jobs belong to the parent, and can move shared pages.
        child.alone &= !child.asynchronous;
        (child.flying, child.is_child) = (0, true);
        for slot in &mut child.slots {
            // The child drops mappings that it would have to keep in step with its parent,
            // mappings with holes, and mappings with pages that jobs wrote during the fork.
            let is_lost = |page: &Page| page.not_forked || page.changing != 0;
            *slot = slot
                .take()
                .filter(|slot| slot.kind != Kind::Shared && !slot.pages.iter().any(is_lost));
            for page in slot.iter_mut().flat_map(|slot| &mut slot.pages) {
                (page.exclusive, page.busy) = (0, 0);
                if page.wiped {
                    page.emptied();
                } else {
                    page.shared = true;
                }
            }
        }
        for slot in self.slots.iter_mut().flatten() {
            for page in &mut slot.pages {
                // Also pages that a child does not get: one entry can map many pages.
                page.shared = true;
            }
        }
        child
    }

    /// Returns all pages, for changes.
    pub fn pages_mut(&mut self) -> impl Iterator<Item = &mut Page> {
        self.slots
            .iter_mut()
            .flatten()
            .flat_map(|slot| &mut slot.pages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(version: u32) -> Stamp {
        Stamp { page: 1, version }
    }

    #[test]
    fn only_the_last_content_is_right() {
        let mut page = Page::FRESH;
        assert!(page.observe(Seen::Zero).is_ok());
        page.written(stamp(1));
        page.written(stamp(2));
        assert!(page.observe(Seen::Data(stamp(2))).is_ok());
        assert!(page.observe(Seen::Data(stamp(1))).is_err());
        assert!(page.observe(Seen::Zero).is_err());
    }

    #[test]
    fn what_was_given_up_may_be_zero_and_then_stays_so() {
        let mut page = Page::FRESH;
        page.written(stamp(1));
        page.maybe_zero = true;
        assert!(page.observe(Seen::Data(stamp(1))).is_ok());
        assert!(page.observe(Seen::Zero).is_ok());
        assert!(page.observe(Seen::Data(stamp(1))).is_err());
    }

    #[test]
    fn a_child_has_its_own_content() {
        let mut model = Model::new(true, false);
        model.slots[0] = Some(Slot::new(Kind::Small, 3));
        model.slots[1] = Some(Slot::new(Kind::Shared, 1));
        let stamps = model.new_stamps(0, &(0..3));
        let slot = model.slots[0].as_mut().unwrap();
        for (page, stamp) in slot.pages.iter_mut().zip(&stamps) {
            page.written(*stamp);
        }
        slot.pages[1].wiped = true;
        let mut child = model.fork();
        assert!(child.slots[1].is_none());
        let of_child = child.new_stamps(0, &(0..3));
        assert_ne!(of_child, model.new_stamps(0, &(0..3)));
        let slot = child.slots[0].as_mut().unwrap();
        assert!(slot.pages[0].observe(Seen::Data(stamps[0])).is_ok());
        assert!(slot.pages[1].observe(Seen::Zero).is_ok());
        slot.pages[2].written(of_child[2]);
        let parent = &mut model.slots[0].as_mut().unwrap().pages[2];
        assert!(parent.observe(Seen::Data(stamps[2])).is_ok());
    }

    #[test]
    fn what_keeps_a_page_is_known() {
        let mut model = Model::new(true, true);
        let mut page = Page::FRESH;
        assert!(!model.may_stay(Kind::Huge, &page, 0));
        page.devices = 0b10;
        assert!(model.may_stay(Kind::Huge, &page, 0));
        assert!(!model.may_stay(Kind::Huge, &page, 1));
        page.swapped = true;
        assert!(model.may_stay(Kind::Huge, &page, 1));
        model.swap = false;
        assert!(!model.may_stay(Kind::Huge, &page, 1));
        assert!(model.may_stay(Kind::Shared, &page, 1));
    }
}
