// SPDX-License-Identifier: GPL-2.0

//! The number of pages that a CPU fault moves back. Pure logic, no kernel calls.
//!
//! A program that reads sequentially touches page after page; a separate fault for each page would
//! cost as much again as moving the page. A program that reads randomly needs only the touched
//! page. So a fault moves back an aligned window around the touched page. The window has one page
//! at first, and twice as many each time a fault is near the previous window, up to a limit, as
//! read-ahead does for files.
//!
//! The number of pages that move back unnecessarily is bounded: by the size of one window for each
//! run of faults. That is at most the number of pages that the run has touched, apart from those
//! that the run has skipped.

use core::ops::Range;

/// Number of tracked runs of faults: users of a device may read with several threads, and several
/// arrays at once.
const STREAMS: usize = 16;

/// The last window of a run of faults. No page is near an empty window.
#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    /// Identifies the address space.
    space: usize,
    /// The page numbers, the end exclusive.
    start: usize,
    end: usize,
}

impl Stream {
    fn pages(&self) -> Range<usize> {
        self.start..self.end
    }

    /// Returns whether a page is in the window, or at most the length of the window away from it,
    /// in either direction.
    fn is_near(&self, space: usize, page: usize) -> bool {
        let npages = self.end - self.start;
        let near = self.start.saturating_sub(npages)..self.end.saturating_add(npages);
        self.space == space && near.contains(&page)
    }
}

/// The runs of faults on a device.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    streams: [Stream; STREAMS],
    /// The index of the stream to be replaced next.
    next: usize,
    /// The order of the largest window allowed.
    most: u32,
}

impl Windows {
    /// Returns the order of the window, of `1 << order` pages, for a fault on page number `page` of
    /// an address space: at most `most`, which is below `usize::BITS`. If the limit has changed,
    /// all runs start again.
    pub(crate) fn order_for(&mut self, space: usize, page: usize, most: u32) -> u32 {
        if self.most != most {
            *self = Self {
                most,
                ..Self::default()
            };
        }
        let found = self
            .streams
            .iter_mut()
            .find(|stream| stream.is_near(space, page));
        let (stream, order) = match found {
            Some(stream) => {
                let order = stream.pages().len().ilog2();
                // A page that is touched again did not move, or has moved away again: the window
                // does not grow.
                let grown = order + u32::from(!stream.pages().contains(&page));
                (stream, grown.min(most))
            }
            None => {
                let stream = &mut self.streams[self.next % STREAMS];
                self.next = (self.next + 1) % STREAMS;
                (stream, 0)
            }
        };
        let start = page & !((1 << order) - 1);
        *stream = Stream {
            space,
            start,
            end: start + (1 << order),
        };
        order
    }
}
