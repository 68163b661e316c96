// SPDX-License-Identifier: GPL-2.0

//! The oracle: what each page holds, who may access it, and where it can be.
//!
//! What is known for sure is said by what is *not* possible: a page that cannot be
//! on a device must not be seen there. Nothing says that a page is on a device for
//! long, since a device may always have to evict it.

use std::ops::Range;

use crate::content::Content;
use crate::content::Library;
use crate::content::Seen;
use crate::content::Stamp;
use crate::op::COUNTERS;
use crate::op::Kind;
use crate::op::NODES;
use crate::op::SLOTS;

/// What a program may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    None,
    Read,
    Write,
}

/// A page of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// What it holds; zeroes if there is none.
    pub content: Option<Content>,
    /// It may hold zeroes instead.
    pub maybe_zero: bool,
    /// What the program may do with it.
    pub access: Access,
    /// The devices on which it can be, a bit each.
    pub devices: u8,
    /// Another process may have it too, and can move it.
    pub shared: bool,
    /// It can be in swap space, or have a place there.
    pub swapped: bool,
    /// The handles that can have exclusive access, a bit each.
    pub exclusive: u8,
    /// Its entry can be an exclusive one, whoever has it.
    pub held: bool,
    /// The kernel may merge it.
    pub mergeable: bool,
    /// A child does not get it.
    pub not_forked: bool,
    /// A child finds zeroes.
    pub wiped: bool,
    /// The queues with jobs that work with it, a bit each: nobody else writes it.
    pub busy: u8,
    /// The queues with jobs that write it: nobody knows how far they are.
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

    /// Takes notice of what was read from it; fails if that cannot be.
    ///
    /// # Errors
    ///
    /// What should have been there.
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

    /// All of it was written.
    pub fn written(&mut self, stamp: Stamp) {
        self.holds(Some(Content::Pattern(stamp)));
    }

    /// All of it was written, and this came of it.
    pub fn holds(&mut self, content: Option<Content>) {
        self.content = content;
        self.maybe_zero = false;
        self.shared = false;
    }

    /// A processor has accessed it.
    pub fn touched(&mut self) {
        self.devices = 0;
        self.exclusive = 0;
        self.held = false;
    }

    /// Its content is gone, its mapping stays.
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
    /// It is not where it was mapped. Linux 7.3 with CONFIG_DEBUG_VM warns in `vma_add_pgoff()`
    /// when a child cuts such a mapping that is to be wiped in children, whoever has moved it: the
    /// child's has no anon_vma, and the offset of one that has.
    pub moved: bool,
}

impl Slot {
    /// One that was just mapped.
    pub fn new(kind: Kind, pages: usize) -> Self {
        let pages = vec![Page::FRESH; pages];
        Self {
            kind,
            pages,
            moved: false,
        }
    }

    /// The pages `range`.
    pub fn part(&self, range: &Range<usize>) -> &[Page] {
        &self.pages[range.clone()]
    }

    /// The pages `range`, to be changed.
    pub fn part_mut(&mut self, range: &Range<usize>) -> &mut [Page] {
        &mut self.pages[range.clone()]
    }
}

/// What a process has mapped.
#[derive(Clone, Debug)]
pub struct Model {
    pub slots: [Option<Slot>; SLOTS],
    /// Nobody else uses the devices, nor moves pages of this process.
    pub alone: bool,
    /// The kernel has swap space.
    pub swap: bool,
    /// The queues with jobs that nobody has waited for, a bit each.
    pub flying: u8,
    /// The program has jobs beside its steps.
    pub asynchronous: bool,
    /// This is the model of a child, which has no jobs beside its steps.
    pub is_child: bool,
    /// The pages that hold no pattern.
    pub library: Library,
    /// What the counters hold when all jobs have ended; `None` if nobody knows.
    pub counters: [Option<u64>; COUNTERS],
    version: u32,
}

impl Model {
    /// A process with nothing mapped.
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

    /// Nobody but the steps of the program moves pages.
    pub fn is_quiet(&self) -> bool {
        self.alone && self.flying == 0
    }

    /// A pattern for each page of a range of a slot, never used before.
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

    /// Whether a page can be on a device.
    pub fn may_be_on(&self, page: &Page, node: usize) -> bool {
        !self.is_quiet() || page.shared || page.devices & (1 << node) != 0
    }

    /// Whether a page can be in swap space, or have a place there.
    pub fn may_be_swapped(&self, page: &Page) -> bool {
        self.swap && (page.swapped || page.shared || !self.is_quiet())
    }

    /// Whether there can be a reason for which a page does not move to a device.
    pub fn may_stay(&self, kind: Kind, page: &Page, node: usize) -> bool {
        matches!(kind, Kind::Shared | Kind::File)
            || !self.is_quiet()
            || page.mergeable
            || page.held
            || self.may_be_swapped(page)
            || (0..NODES).any(|other| other != node && self.may_be_on(page, other))
    }

    /// Whether a part of a slot is to be wiped in children.
    pub fn is_wiped(&self, slot: u8) -> bool {
        let slot = self.slots[usize::from(slot)].as_ref();
        slot.is_some_and(|slot| slot.pages.iter().any(|page| page.wiped))
    }

    /// A page of a slot.
    pub fn page(&self, (slot, page): (usize, usize)) -> Page {
        let slot = self.slots[slot].as_ref();
        slot.map_or(Page::FRESH, |slot| slot.pages[page])
    }

    /// Pages of a slot, to be changed; none if it is empty.
    pub fn part_mut(&mut self, slot: usize, range: &Range<usize>) -> &mut [Page] {
        let slot = self.slots[slot].as_mut();
        slot.map_or(&mut [], |slot| slot.part_mut(range))
    }

    /// Forks: this is the parent's afterwards, and what it returns the child's.
    pub fn fork(&mut self) -> Self {
        let mut child = self.clone();
        // A stamp of the child's is none of the parent's.
        child.version += 1 << 24;
        // The jobs are those of the parent, and can move what is shared.
        child.alone &= !child.asynchronous;
        (child.flying, child.is_child) = (0, true);
        for slot in &mut child.slots {
            // The child lets go of what it would have to keep in step with its parent,
            // of mappings with holes, and of what was written while it was copied.
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
                // Also what a child does not get: one entry can map many pages.
                page.shared = true;
            }
        }
        child
    }

    /// All pages, to be changed.
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
