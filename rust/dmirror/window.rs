// SPDX-License-Identifier: GPL-2.0

//! How many pages a CPU's fault brings back. Pure logic, no kernel calls.
//!
//! A program that reads on touches page after page; each of them by a fault of its own costs as
//! much again as bringing it back. One that jumps needs the touched page and no other. So a fault
//! brings back an aligned window around the touched page, of one page at first, and of twice as
//! many each time that a fault is near the window before it, up to a limit: as read-ahead does for
//! files.
//!
//! What is brought back in vain is bounded: by the size of one window for each run of faults, which
//! is no more than the pages that the run has touched, but for those that were skipped in it.

use core::ops::Range;

/// How many runs of faults are told apart: threads and arrays that a device's users read at a time.
const STREAMS: usize = 16;

/// The last window of a run of faults. One of no pages is near nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    /// Which address space.
    space: usize,
    /// The numbers of the pages.
    start: usize,
    end: usize,
}

impl Stream {
    fn pages(&self) -> Range<usize> {
        self.start..self.end
    }

    /// Whether a page is in the window, or no further from it than the window is long, in whichever
    /// direction a program reads.
    fn is_near(&self, space: usize, page: usize) -> bool {
        let npages = self.end - self.start;
        let near = self.start.saturating_sub(npages)..self.end.saturating_add(npages);
        self.space == space && near.contains(&page)
    }
}

/// The runs of faults that a device sees.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    streams: [Stream; STREAMS],
    /// The stream that the next run takes the place of.
    next: usize,
    /// The order of the largest window that there may be.
    most: u32,
}

impl Windows {
    /// Returns the order of the window, `1 << order` pages, for a fault on page number `page` of an
    /// address space: at most `most`, which is below `usize::BITS`. With another limit than before,
    /// all runs begin anew.
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
                // A page that is touched once more was left behind, or went away again.
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
