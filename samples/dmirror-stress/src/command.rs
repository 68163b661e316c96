// SPDX-License-Identifier: GPL-2.0

//! Commands for a range: the answers that a device may give, and their effects on the model.

use std::ops::Range;

use dmirror_client::Errno;
use dmirror_client::device::prot;

use crate::content::Seen;
use crate::model::Access;
use crate::model::Page;
use crate::op::Command;
use crate::op::HANDLES;
use crate::op::Kind;
use crate::op::NODES;
use crate::op::QUEUES;
use crate::op::handle_of;
use crate::op::node_of;
use crate::runner::Runner;
use crate::world::Answer;
use crate::world::Failure;
use crate::world::Outcome;
use crate::world::Where;
use crate::world::World;

/// A command that moves at most this many pages evicts none of them itself, if the device
/// has at least four times as many pages.
const CERTAIN_PAGES: u64 = 1024;

/// The expected result of an access by a device: it ends at the first page that refuses it.
struct Expected {
    error: Option<Errno>,
    pages: usize,
}

/// Returns the expected result of an access; `refuse` returns the error of a page, if any.
fn expect(pages: &[Page], refuse: impl Fn(&Page) -> Option<Errno>) -> Expected {
    let first = pages.iter().position(|page| refuse(page).is_some());
    Expected {
        error: first.and_then(|nth| refuse(&pages[nth])),
        pages: first.unwrap_or(pages.len()),
    }
}

fn refuse_read(page: &Page) -> Option<Errno> {
    (page.access < Access::Read).then_some(Errno::EFAULT)
}

fn refuse_write(page: &Page) -> Option<Errno> {
    match page.access {
        Access::None => Some(Errno::EFAULT),
        Access::Read => Some(Errno::EPERM),
        Access::Write => None,
    }
}

/// Returns whether other users of the same devices or memory may cause an error.
fn is_of_others(errno: Errno) -> bool {
    matches!(errno, Errno::EBUSY | Errno::ENOMEM)
}

impl<W: World> Runner<W> {
    /// Sends a command for pages of a slot, and compares the answer with the model.
    ///
    /// # Errors
    ///
    /// A description of the first violation.
    pub(crate) fn device(
        &mut self,
        what: Command,
        handle: usize,
        slot: usize,
        range: &Range<usize>,
    ) -> Result<Outcome, Failure> {
        if what == Command::Write {
            self.settle(slot, range, u8::MAX)?;
        }
        let stamps = match what {
            Command::Write => self.model.new_stamps(slot, range),
            _ => Vec::new(),
        };
        let answer = self.world.device(what, handle, (slot, range), &stamps);
        let Some(mapped) = &self.model.slots[slot] else {
            return Ok("skipped".into());
        };
        let (kind, mut pages) = (mapped.kind, mapped.part(range).to_vec());
        let judged = match what {
            Command::Read | Command::ReadUnlocked => {
                self.judge_read(&mut pages, node_of(handle), &answer)
            }
            Command::Write => self.judge_write(&pages, &answer).map(|done| {
                for (page, stamp) in pages.iter_mut().zip(&stamps).take(done) {
                    page.written(*stamp);
                    page.devices &= 1 << node_of(handle);
                }
            }),
            Command::ToDevice => self.judge_to_device(kind, &mut pages, node_of(handle), &answer),
            Command::ToSystem => self.judge_to_system(&mut pages, node_of(handle), &answer),
            Command::Snapshot => self.judge_snapshot(&pages, handle, &answer),
            Command::Exclusive => self.judge_exclusive(kind, &mut pages, handle, &answer),
            Command::CheckExclusive => judge_check(&mut pages, handle, &answer),
        };
        let about = || {
            let errno = answer.error.map_or("ok".into(), |errno| errno.to_string());
            let count = answer.pages.map_or(-1, |pages| pages as i64);
            let word = what.word();
            format!("{word} by {handle} of slot {slot} {range:?} ({errno}, {count} pages)")
        };
        judged.map_err(|failure| format!("{}: {failure}", about()))?;
        if let Some(mapped) = &mut self.model.slots[slot] {
            mapped.part_mut(range).copy_from_slice(&pages);
        }
        if self.model.is_quiet() && answer.error.is_none() {
            self.check_effect(what, handle, slot, range)
                .map_err(|failure| format!("{}: {failure}", about()))?;
        }
        Ok(answer
            .error
            .map_or_else(|| "ok".into(), |errno| format!("{errno:?}")))
    }

    /// Checks the effect of a command that has just succeeded, while nobody else moves pages.
    fn check_effect(
        &mut self,
        what: Command,
        handle: usize,
        slot: usize,
        range: &Range<usize>,
    ) -> Result<(), Failure> {
        let certain = self.world.used(handle).is_some_and(|(_, all)| {
            all >= 4 * CERTAIN_PAGES && range.len() as u64 <= CERTAIN_PAGES && !self.model.swap
        });
        match what {
            Command::ToDevice if certain => {
                let there = Where::Device(Some(node_of(handle)));
                let places = self.world.places(slot, range)?;
                let elsewhere = |place: &Where| *place != there && *place != Where::Device(None);
                match places.iter().position(elsewhere) {
                    Some(nth) => Err(format!(
                        "page {} is {:?}, not on the device",
                        range.start + nth,
                        places[nth]
                    )),
                    None => Ok(()),
                }
            }
            Command::Exclusive if certain => {
                let place = (slot, range);
                let check = self
                    .world
                    .device(Command::CheckExclusive, handle, place, &[]);
                match check.error {
                    Some(Errno::EPERM) => Ok(()),
                    other => Err(format!("CHECK_EXCLUSIVE then answers {other:?}")),
                }
            }
            _ => Ok(()),
        }
    }

    /// Compares the answer with the expected result; returns the number of pages that were done.
    fn compare(&self, expected: &Expected, answer: &Answer) -> Result<usize, Failure> {
        let done = answer.pages.ok_or("no counts")? as usize;
        if answer.error == expected.error && done == expected.pages {
            return Ok(done);
        }
        let of_others = !self.model.is_quiet() && answer.error.is_some_and(is_of_others);
        if of_others && done <= expected.pages {
            return Ok(done);
        }
        Err(match expected.error {
            None => format!("expected success and {} pages", expected.pages),
            Some(errno) => format!("expected {errno} after {} pages", expected.pages),
        })
    }

    fn judge_read(&self, pages: &mut [Page], node: usize, answer: &Answer) -> Result<(), Failure> {
        let done = self.compare(&expect(pages, refuse_read), answer)?;
        check_view(pages, answer, done)?;
        for page in &mut pages[..done] {
            // A device reads its own pages where they are.
            page.devices &= 1 << node;
        }
        Ok(())
    }

    fn judge_write(&self, pages: &[Page], answer: &Answer) -> Result<usize, Failure> {
        self.compare(&expect(pages, refuse_write), answer)
    }

    fn judge_to_device(
        &self,
        kind: Kind,
        pages: &mut [Page],
        node: usize,
        answer: &Answer,
    ) -> Result<(), Failure> {
        let unreadable = pages.iter().any(|page| refuse_read(page).is_some());
        let stays = pages
            .iter()
            .any(|page| self.model.may_stay(kind, page, node));
        let done = answer.pages.ok_or("no counts")? as usize;
        let right = match answer.error {
            None => !unreadable && done == pages.len(),
            Some(Errno::EINVAL) => unreadable && done < pages.len(),
            Some(Errno::ENOENT) => !unreadable && stays && done < pages.len(),
            Some(Errno::ENOMEM) => !self.model.is_quiet(),
            Some(_) => false,
        };
        if !right {
            let (may, not) = ("may", "must not");
            let reason = |possible| if possible { may } else { not };
            return Err(format!(
                "success {} be, EINVAL {} be, ENOENT {} be",
                reason(!unreadable),
                reason(unreadable),
                reason(!unreadable && stays)
            ));
        }
        let mut handed_out = 0;
        for (nth, (page, seen)) in pages.iter_mut().zip(&answer.view).enumerate() {
            if *seen != Seen::Untouched {
                handed_out += 1;
                let found = page.observe(*seen);
                found.map_err(|what| format!("page {nth} of the view: {what}"))?;
            }
            page.devices |= 1 << node;
            if answer.error.is_none() {
                page.devices = 1 << node;
                page.swapped = false;
                page.exclusive = 0;
                page.held = false;
            }
        }
        if handed_out != done {
            return Err(format!("{handed_out} pages were handed out"));
        }
        Ok(())
    }

    fn judge_to_system(
        &self,
        pages: &mut [Page],
        node: usize,
        answer: &Answer,
    ) -> Result<(), Failure> {
        let unreadable = pages.iter().any(|page| refuse_read(page).is_some());
        match answer.error {
            None if !unreadable => {
                for page in pages {
                    page.devices &= !(1 << node);
                }
                Ok(())
            }
            Some(Errno::EINVAL) if unreadable => Ok(()),
            Some(errno) if !self.model.is_quiet() && is_of_others(errno) => Ok(()),
            _ if unreadable => Err("expected EINVAL".into()),
            _ => Err("expected success".into()),
        }
    }

    fn judge_snapshot(
        &self,
        pages: &[Page],
        handle: usize,
        answer: &Answer,
    ) -> Result<(), Failure> {
        let expected = Expected {
            error: None,
            pages: pages.len(),
        };
        let done = self.compare(&expected, answer)?;
        for (nth, (page, byte)) in pages.iter().zip(&answer.bytes).take(done).enumerate() {
            let checked = self.check_byte(page, *byte, handle);
            checked.map_err(|what| format!("page {nth}: {what}"))?;
        }
        Ok(())
    }

    fn judge_exclusive(
        &self,
        kind: Kind,
        pages: &mut [Page],
        handle: usize,
        answer: &Answer,
    ) -> Result<(), Failure> {
        let refused = |page: &Page| (page.access < Access::Write).then_some(Errno::EFAULT);
        let of_file = matches!(kind, Kind::Shared | Kind::File);
        let done = if of_file && answer.error == Some(Errno::EOPNOTSUPP) {
            answer.pages.ok_or("no counts")? as usize
        } else {
            self.compare(&expect(pages, refused), answer)?
        };
        check_view(pages, answer, done)?;
        for (nth, page) in pages.iter_mut().enumerate() {
            // The command may have made later pages exclusive before it failed.
            page.exclusive |= 1 << handle;
            page.held = true;
            if nth < done {
                page.devices = 0;
                page.shared = false;
            }
        }
        Ok(())
    }

    /// Compares a byte of SNAPSHOT with the possible states of a page.
    fn check_byte(&self, page: &Page, byte: u8, handle: usize) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("SNAPSHOT says {byte:#x}, {what}"));
        if page.access == Access::None {
            return match byte {
                prot::ERROR => Ok(()),
                _ => wrong("and nobody may read it"),
            };
        }
        match byte {
            // A huge page on another device: hmm_vma_handle_absent_pmd() of the kernel
            // reports an entry of 2 MiB as an error, where one of 4 KiB counts as absent.
            prot::ERROR
                if (0..NODES)
                    .any(|other| other != node_of(handle) && self.model.may_be_on(page, other)) =>
            {
                return Ok(());
            }
            prot::ERROR => return wrong("and it is there to read"),
            prot::NONE => return Ok(()),
            _ => {}
        }
        if byte & prot::WRITE != 0 && page.access != Access::Write {
            return wrong("and it is not there to be written");
        }
        if byte & (prot::READ | prot::WRITE) == 0 {
            return wrong("neither READ nor WRITE");
        }
        let zero = byte & prot::ZERO != 0 && byte & prot::PRIVATE_LOCAL == 0;
        let may_be = page.maybe_zero || page.changing != 0;
        if zero && page.content.is_some() && !may_be {
            return wrong("and it was written");
        }
        let node = node_of(handle % HANDLES);
        if byte & prot::PRIVATE_LOCAL != 0 && !self.model.may_be_on(page, node) {
            return wrong("and it cannot be there");
        }
        Ok(())
    }
}

/// Returns the queues of a handle, a bit each.
fn queues_of(handle: usize) -> u8 {
    let queues = (0..QUEUES).filter(|queue| handle_of(*queue) == handle);
    queues.fold(0, |all, queue| all | (1 << queue))
}

fn judge_check(pages: &mut [Page], handle: usize, answer: &Answer) -> Result<(), Failure> {
    let bit = 1 << handle;
    match answer.error {
        None => {
            for page in pages {
                page.exclusive &= !bit;
            }
            Ok(())
        }
        Some(Errno::EPERM) if pages.iter().any(|page| page.exclusive & bit != 0) => Ok(()),
        // A job in flight may be atomic: the model records that only when the job has ended.
        Some(Errno::EPERM) if pages.iter().any(|page| page.busy & queues_of(handle) != 0) => Ok(()),
        Some(Errno::EPERM) => Err("the device cannot have exclusive access".into()),
        Some(_) => Err("expected success or EPERM".into()),
    }
}

/// Compares the pages that a device returned with the model: they are the first `done`.
fn check_view(pages: &mut [Page], answer: &Answer, done: usize) -> Result<(), Failure> {
    for (nth, (page, seen)) in pages.iter_mut().zip(&answer.view).enumerate() {
        if nth >= done {
            if *seen != Seen::Untouched {
                return Err(format!("page {nth} of the view holds {seen}"));
            }
            continue;
        }
        let found = page.observe(*seen);
        found.map_err(|what| format!("page {nth} of the view: {what}"))?;
    }
    Ok(())
}
