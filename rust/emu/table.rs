// SPDX-License-Identifier: GPL-2.0

//! The page table of a device: pure logic, no kernel calls.
//!
//! A radix tree over page numbers, with [`FANOUT`] entries per node, as in hardware. An entry maps
//! one page, or a run of [`FANOUT`] pages as a whole (a PMD leaf). The caller supplies the nodes:
//! it passes those that a change may need as [`Spares`], so that nothing is allocated under the
//! lock that protects the table. Clearing needs no nodes; it frees the nodes that it empties,
//! except for a few.

use core::ops::{DerefMut, Range};

use crate::pages::BLOCK_ORDER;

/// Number of entries per node, and of pages in a run that one entry can map.
pub(crate) const FANOUT: usize = 1 << BITS;

const BITS: u32 = BLOCK_ORDER;

/// Number of bits of a page number: an address has at most 57 bits, and a page of the kernel is a
/// table of [`FANOUT`] entries of 8 bytes.
const NUMBER_BITS: u32 = 57 - (BITS + 3);

/// Number of node levels; nodes of level 0 contain entries for pages, those of level 1 also entries
/// for runs.
const LEVELS: u32 = NUMBER_BITS.div_ceil(BITS);

/// A node below a place of at most this level is freed as a whole, together with its child nodes.
const PART_LEVEL: u32 = 2;

/// The first page number without a place.
pub(crate) const END: usize = 1 << (BITS * LEVELS);

/// Maximum number of nodes that mapping the pages of one aligned run of [`FANOUT`] can need.
pub(crate) const MAX_SPARES: usize = LEVELS as usize - 1;

/// The access rights of a device to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The device may read it.
    Read,
    /// The device may read and write it.
    Write,
    /// The device may read it, write it and perform atomic operations on it, and no CPU interferes.
    Exclusive,
}

/// A page frame, and the access rights of the device to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The page frame number; for a run, that of its first page.
    pub(crate) pfn: usize,
    /// The access rights of the device to the page.
    pub(crate) access: Access,
}

/// A place (slot) in a node.
pub(crate) enum Place<B> {
    /// Nothing is mapped.
    Empty,
    /// A page or, in a node of level 1, a run of pages.
    Leaf(Entry),
    /// A node of the next lower level.
    Node(B),
}

/// A node of the tree.
pub(crate) struct Node<B> {
    /// Number of places that are not empty.
    pub(crate) used: usize,
    /// The places.
    pub(crate) places: [Place<B>; FANOUT],
}

/// Nodes for a change, allocated before the lock is taken. These nodes are empty.
pub(crate) struct Spares<B>(pub(crate) [Option<B>; MAX_SPARES]);

impl<B> Spares<B> {
    fn take(&mut self) -> Result<B, NoSpare> {
        self.0.iter_mut().find_map(Option::take).ok_or(NoSpare)
    }

    /// Keeps an empty node, if there is room for it.
    fn keep(&mut self, node: B) {
        if let Some(room) = self.0.iter_mut().find(|place| place.is_none()) {
            *room = Some(node);
        }
    }
}

/// A change needs more nodes than it was given, or the page number has no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoSpare;

/// A page table.
pub(crate) struct Table<B> {
    root: B,
    /// Nodes that have become empty. They are used before any nodes that a caller passes, so that
    /// repeatedly mapping and unmapping a page costs neither an allocation nor a scan of all
    /// places.
    emptied: Spares<B>,
}

impl<B: DerefMut<Target = Node<B>>> Table<B> {
    /// Creates a table that maps nothing; `root` is an empty node.
    pub(crate) fn new(root: B) -> Self {
        Self {
            root,
            emptied: Spares([const { None }; MAX_SPARES]),
        }
    }

    /// Returns the number of nodes that are kept for reuse.
    #[cfg(test)]
    pub(crate) fn emptied(&self) -> usize {
        self.emptied.0.iter().flatten().count()
    }

    /// Returns the entry of page number `page`; for a run, the part for this page.
    pub(crate) fn get(&self, page: usize) -> Option<Entry> {
        self.row(page, 1).map(|(entry, _)| entry)
    }

    /// Returns the entry of page number `page`, as [`get`](Self::get) does, and the number of pages
    /// from this one on, at least 1 and at most `most`, that have consecutive page frames and the
    /// same access. The pages do not go beyond the end of the node.
    pub(crate) fn row(&self, page: usize, most: usize) -> Option<(Entry, usize)> {
        self.rows(page, most).next()
    }

    /// Returns consecutive rows of pages, as [`row`](Self::row) returns them, from page number
    /// `page` on, for at most `most` pages. Stops where nothing is mapped, or at the end of the
    /// node.
    pub(crate) fn rows(&self, page: usize, most: usize) -> Rows<'_, B> {
        let none = Rows {
            run: None,
            places: &[],
        };
        if page >= END || most == 0 {
            return none;
        }
        let mut node: &Node<B> = &self.root;
        for level in (1..LEVELS).rev() {
            match &node.places[index(page, level)] {
                Place::Empty => return none,
                Place::Node(child) => node = child,
                Place::Leaf(entry) => {
                    let offset = page & mask(level);
                    let pfn = entry.pfn + offset;
                    let npages = (mask(level) + 1 - offset).min(most);
                    return Rows {
                        run: Some((Entry { pfn, ..*entry }, npages)),
                        ..none
                    };
                }
            }
        }
        let at = index(page, 0);
        Rows {
            places: &node.places[at..(at + most.min(FANOUT - at))],
            ..none
        }
    }

    /// Maps page number `page`. A run that covers it is dropped as a whole.
    pub(crate) fn set(
        &mut self,
        page: usize,
        entry: Entry,
        spares: &mut Spares<B>,
    ) -> Result<(), NoSpare> {
        self.put(page, 0, entry, spares)
    }

    /// Maps the aligned run of pages that begins with page number `page`.
    pub(crate) fn set_run(
        &mut self,
        page: usize,
        entry: Entry,
        spares: &mut Spares<B>,
    ) -> Result<(), NoSpare> {
        if page % FANOUT != 0 {
            return Err(NoSpare);
        }
        self.put(page, 1, entry, spares)
    }

    /// Unmaps the pages. A run of which only a part is unmapped is dropped as a whole. Returns the
    /// number of pages that were mapped there, including all pages of such runs.
    ///
    /// Calls `between` each time it may have freed up to [`FANOUT`] + 1 nodes; not for a single
    /// page, which frees a few at most.
    pub(crate) fn clear(&mut self, pages: Range<usize>, mut between: impl FnMut()) -> usize {
        let end = pages.end.min(END);
        if pages.start >= end {
            return 0;
        }
        let (level, first) = (LEVELS - 1, pages.start);
        let emptied = &mut self.emptied;
        // Most ranges are the page of a fault.
        if first + 1 == end {
            return clear_page(&mut self.root, level, first, emptied);
        }
        clear_below(&mut self.root, level, first, end - 1, emptied, &mut between)
    }

    /// Returns the first page of the range that is mapped, and its entry.
    pub(crate) fn find(&self, pages: Range<usize>) -> Option<(usize, Entry)> {
        let end = pages.end.min(END);
        if pages.start >= end {
            return None;
        }
        find_below(&self.root, LEVELS - 1, pages.start, end - 1)
    }

    /// Returns the node for the aligned run of [`FANOUT`] pages that contains a page, to map
    /// several pages of the run. If the run is mapped as a whole, it is dropped; so the caller must
    /// map at least one page.
    pub(crate) fn leaf(
        &mut self,
        page: usize,
        spares: &mut Spares<B>,
    ) -> Result<Leaf<'_, B>, NoSpare> {
        self.node(page, 0, spares).map(Leaf)
    }

    fn put(
        &mut self,
        page: usize,
        at: u32,
        entry: Entry,
        spares: &mut Spares<B>,
    ) -> Result<(), NoSpare> {
        self.node(page, at, spares)?.set(index(page, at), entry);
        Ok(())
    }

    /// Returns the node of level `at` that contains the place for a page.
    fn node(
        &mut self,
        page: usize,
        at: u32,
        spares: &mut Spares<B>,
    ) -> Result<&mut Node<B>, NoSpare> {
        if page >= END {
            return Err(NoSpare);
        }
        let mut node: &mut Node<B> = &mut self.root;
        for level in (at + 1..LEVELS).rev() {
            let Node { used, places } = node;
            let place = &mut places[index(page, level)];
            if !matches!(place, Place::Node(_)) {
                let child = self.emptied.take().or_else(|_| spares.take())?;
                if matches!(place, Place::Empty) {
                    *used += 1;
                }
                *place = Place::Node(child);
            }
            let Place::Node(child) = place else {
                return Err(NoSpare);
            };
            node = child;
        }
        Ok(node)
    }
}

/// Rows of pages; see [`Table::rows`].
pub(crate) struct Rows<'t, B> {
    /// The requested part of a run that is mapped as a whole.
    run: Option<(Entry, usize)>,
    /// The places for pages.
    places: &'t [Place<B>],
}

impl<B> Iterator for Rows<'_, B> {
    type Item = (Entry, usize);

    fn next(&mut self) -> Option<(Entry, usize)> {
        if let Some(run) = self.run.take() {
            return Some(run);
        }
        let Some(Place::Leaf(entry)) = self.places.first() else {
            return None;
        };
        let mut npages = 1;
        while let Some(Place::Leaf(next)) = self.places.get(npages) {
            if next.pfn != entry.pfn + npages || next.access != entry.access {
                break;
            }
            npages += 1;
        }
        self.places = &self.places[npages..];
        Some((*entry, npages))
    }
}

/// The node for the pages of an aligned run; see [`Table::leaf`].
pub(crate) struct Leaf<'t, B>(&'t mut Node<B>);

impl<B> Leaf<'_, B> {
    /// Maps a page of the run.
    pub(crate) fn set(&mut self, page: usize, entry: Entry) {
        self.0.set(index(page, 0), entry);
    }
}

impl<B> Node<B> {
    fn set(&mut self, at: usize, entry: Entry) {
        let place = &mut self.places[at];
        if matches!(place, Place::Empty) {
            self.used += 1;
        }
        *place = Place::Leaf(entry);
    }
}

/// Returns the index of the place for a page number in a node of a level.
#[inline]
fn index(page: usize, level: u32) -> usize {
    (page >> (BITS * level)) % FANOUT
}

/// Returns the number of pages below one place of a node, minus one.
#[inline]
fn mask(level: u32) -> usize {
    (1 << (BITS * level)) - 1
}

/// Unmaps the pages from `first` to `last`, both inclusive and in the node; returns their number.
fn clear_below<B: DerefMut<Target = Node<B>>>(
    node: &mut Node<B>,
    level: u32,
    first: usize,
    last: usize,
    emptied: &mut Spares<B>,
    between: &mut impl FnMut(),
) -> usize {
    let mut cleared = 0;
    let mut page = first;
    loop {
        // The last page below this place.
        let end = (page | mask(level)).min(last);
        let place = &mut node.places[index(page, level)];
        let empty = match place {
            Place::Empty => false,
            Place::Leaf(_) => {
                cleared += mask(level) + 1;
                true
            }
            Place::Node(child) => {
                let whole = page & mask(level) == 0 && end & mask(level) == mask(level);
                // A node of level PART_LEVEL or higher is cleared piece by piece.
                let at_once = whole && level <= PART_LEVEL;
                cleared += if at_once {
                    count_below(child, level - 1)
                } else {
                    clear_below(child, level - 1, page, end, emptied, between)
                };
                at_once || child.used == 0
            }
        };
        if empty {
            match core::mem::replace(place, Place::Empty) {
                Place::Node(child) if child.used == 0 => emptied.keep(child),
                // This frees a node together with its child nodes.
                Place::Node(_) | Place::Leaf(_) | Place::Empty => {}
            }
            node.used -= 1;
            if level == PART_LEVEL {
                between();
            }
        }
        if end == last {
            return cleared;
        }
        page = end + 1;
    }
}

/// Unmaps a page in the node as [`clear_below`] does, without its loop.
fn clear_page<B: DerefMut<Target = Node<B>>>(
    node: &mut Node<B>,
    level: u32,
    page: usize,
    emptied: &mut Spares<B>,
) -> usize {
    let place = &mut node.places[index(page, level)];
    let cleared = match place {
        Place::Empty => return 0,
        Place::Leaf(_) => mask(level) + 1,
        Place::Node(child) => {
            let cleared = clear_page(child, level - 1, page, emptied);
            if child.used > 0 {
                return cleared;
            }
            cleared
        }
    };
    if let Place::Node(child) = core::mem::replace(place, Place::Empty) {
        emptied.keep(child);
    }
    node.used -= 1;
    cleared
}

/// Returns the number of mapped pages in a node.
fn count_below<B: DerefMut<Target = Node<B>>>(node: &Node<B>, level: u32) -> usize {
    if level == 0 {
        return node.used;
    }
    let pages = |place: &Place<B>| match place {
        Place::Empty => 0,
        Place::Leaf(_) => mask(level) + 1,
        Place::Node(child) => count_below(child, level - 1),
    };
    node.places.iter().map(pages).sum()
}

/// Returns the first mapped page from `first` to `last`, both inclusive and in the node.
fn find_below<B: DerefMut<Target = Node<B>>>(
    node: &Node<B>,
    level: u32,
    first: usize,
    last: usize,
) -> Option<(usize, Entry)> {
    let mut page = first;
    loop {
        let end = (page | mask(level)).min(last);
        match &node.places[index(page, level)] {
            Place::Empty => {}
            Place::Leaf(entry) => {
                let pfn = entry.pfn + (page & mask(level));
                return Some((page, Entry { pfn, ..*entry }));
            }
            Place::Node(child) => {
                let found = find_below(child, level - 1, page, end);
                if found.is_some() {
                    return found;
                }
            }
        }
        if end == last {
            return None;
        }
        page = end + 1;
    }
}
