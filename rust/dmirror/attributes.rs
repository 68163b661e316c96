// SPDX-License-Identifier: GPL-2.0

//! The advice that a program has given for ranges of its addresses. Pure logic, no kernel calls.
//!
//! The ranges are in a sorted array of fixed size, so that removing a part of one allocates
//! nothing. Removing the middle of a range makes two ranges of it, and so on, so no number of slots
//! is always enough. Therefore removing never fails, but keeping the rest may: if no slot is left,
//! the shorter of the two remaining parts is removed as well. Setting leaves half of the slots
//! free.

use core::{
    cmp::{max, min},
    ops::{DerefMut, Range},
};

/// The preferred location of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Location {
    /// No advice.
    #[default]
    Any,
    /// In system memory.
    System,
    /// On the device that the advice was given to.
    Device,
    /// On the device with this number.
    Peer(u32),
}

/// The way in which the device accesses memory that it does not map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Reach {
    /// No advice.
    #[default]
    Any,
    /// It moves the memory to its preferred location.
    Migrate,
    /// It maps the memory where it is.
    InPlace,
    /// Engines must not access it.
    Denied,
}

/// The way in which the device performs atomic operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Atomics {
    /// No advice.
    #[default]
    Any,
    /// In its own memory.
    Device,
    /// In system memory, with exclusive access.
    System,
    /// Not at all.
    Denied,
}

/// The advice for an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) location: Location,
    pub(crate) reach: Reach,
    pub(crate) atomics: Atomics,
    /// Number of bytes that move at once, a power of two; 0 without advice.
    pub(crate) granule: u32,
}

/// A change to attributes. `None` leaves an attribute as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) location: Option<Location>,
    pub(crate) reach: Option<Reach>,
    pub(crate) atomics: Option<Atomics>,
    pub(crate) granule: Option<u32>,
}

impl Change {
    fn of(&self, old: Attributes) -> Attributes {
        Attributes {
            location: self.location.unwrap_or(old.location),
            reach: self.reach.unwrap_or(old.reach),
            atomics: self.atomics.unwrap_or(old.atomics),
            granule: self.granule.unwrap_or(old.granule),
        }
    }
}

/// A range of addresses, in bytes, with the same advice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slot {
    start: usize,
    /// The end address, exclusive.
    end: usize,
    attributes: Attributes,
}

/// Error: there would be too many ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// A map from address ranges to attributes.
///
/// The used slots come first. Their ranges are not empty, in ascending order, and do not overlap.
/// Each range has advice, and adjacent ranges have different advice.
pub(crate) struct AttributeMap<S> {
    slots: S,
    /// Number of used slots.
    len: usize,
    /// As many slots, for building the next state.
    scratch: S,
}

impl<S: DerefMut<Target = [Slot]>> AttributeMap<S> {
    /// Creates a map with the given slots, and as many scratch slots. Half as many ranges can be
    /// set.
    pub(crate) fn new(slots: S, scratch: S) -> Self {
        Self {
            slots,
            len: 0,
            scratch,
        }
    }

    fn used(&self) -> &[Slot] {
        &self.slots[..self.len]
    }

    /// Returns the number of ranges.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there is a range that engines must not access.
    pub(crate) fn denies(&self) -> bool {
        let is_denied = |slot: &Slot| slot.attributes.reach == Reach::Denied;
        self.used().iter().any(is_denied)
    }

    /// Returns the advice for an address, and the whole range around it that has the same advice.
    pub(crate) fn at(&self, address: usize) -> (Attributes, Range<usize>) {
        let used = self.used();
        let next = used.partition_point(|slot| slot.end <= address);
        let (before, behind) = used.split_at(next);
        match behind.first() {
            Some(slot) if slot.start <= address => (slot.attributes, slot.start..slot.end),
            behind => {
                let start = before.last().map_or(0, |slot| slot.end);
                let end = behind.map_or(usize::MAX, |slot| slot.start);
                (Attributes::default(), start..end)
            }
        }
    }

    /// Changes the advice for a range. Changes nothing if there would be too many ranges.
    pub(crate) fn set(&mut self, range: Range<usize>, change: &Change) -> Result<(), Full> {
        if range.is_empty() {
            return Ok(());
        }
        let most = max(self.slots.len() / 2, self.len);
        let mut next = Builder {
            slots: &mut self.scratch,
            len: 0,
            most,
        };
        // The first address of the range that does not have its new attributes yet.
        let mut at = range.start;
        for slot in &self.slots[..self.len] {
            let cut = |start, end| max(slot.start, start)..min(slot.end, end);
            next.push(cut(0, range.start), slot.attributes)?;
            let inside = cut(range.start, range.end);
            if !inside.is_empty() {
                next.push(at..inside.start, change.of(Attributes::default()))?;
                at = inside.end;
                next.push(inside, change.of(slot.attributes))?;
            }
            let behind = cut(range.end, usize::MAX);
            if !behind.is_empty() {
                next.push(at..range.end, change.of(Attributes::default()))?;
                at = range.end;
                next.push(behind, slot.attributes)?;
            }
        }
        next.push(at..range.end, change.of(Attributes::default()))?;
        self.len = next.len;
        core::mem::swap(&mut self.slots, &mut self.scratch);
        Ok(())
    }

    /// Removes the advice for a range. Returns the number of bytes outside the range whose advice
    /// was removed as well, because no slot was left.
    pub(crate) fn forget(&mut self, range: Range<usize>) -> usize {
        let used = &mut self.slots[..self.len];
        let mut first = used.partition_point(|slot| slot.end <= range.start);
        let mut end = used.partition_point(|slot| slot.start < range.end);
        if range.is_empty() || first >= end {
            return 0;
        }
        let (left, right) = (used[first], used[end - 1]);
        let has_left = left.start < range.start;
        let has_right = right.end > range.end;
        if end - first == 1 && has_left && has_right {
            return self.split(first, range);
        }
        if has_left {
            used[first].end = range.start;
            first += 1;
        }
        if has_right {
            used[end - 1].start = range.end;
            end -= 1;
        }
        used.copy_within(end.., first);
        self.len -= end - first;
        0
    }

    /// Removes a part in the middle of a range.
    fn split(&mut self, place: usize, range: Range<usize>) -> usize {
        let whole = self.slots[place];
        let before = Slot {
            end: range.start,
            ..whole
        };
        let behind = Slot {
            start: range.end,
            ..whole
        };
        let bytes = |slot: &Slot| slot.end - slot.start;
        if self.len == self.slots.len() {
            let (kept, lost) = match bytes(&before) < bytes(&behind) {
                true => (behind, before),
                false => (before, behind),
            };
            self.slots[place] = kept;
            return bytes(&lost);
        }
        self.slots[place] = before;
        self.slots.copy_within(place + 1..self.len, place + 2);
        self.slots[place + 1] = behind;
        self.len += 1;
        0
    }
}

/// Builds a list of ranges in ascending order.
struct Builder<'b> {
    slots: &'b mut [Slot],
    len: usize,
    /// Maximum number of ranges.
    most: usize,
}

impl Builder<'_> {
    fn push(&mut self, range: Range<usize>, attributes: Attributes) -> Result<(), Full> {
        if range.is_empty() || attributes == Attributes::default() {
            return Ok(());
        }
        if let Some(last) = self.slots[..self.len].last_mut() {
            if last.end == range.start && last.attributes == attributes {
                last.end = range.end;
                return Ok(());
            }
        }
        if self.len >= self.most {
            return Err(Full);
        }
        self.slots[self.len] = Slot {
            start: range.start,
            end: range.end,
            attributes,
        };
        self.len += 1;
        Ok(())
    }
}
